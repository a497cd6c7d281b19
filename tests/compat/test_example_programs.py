"""The example programs over other packages, in an environment that has them, against the simulated gateway."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import tierwise
from tierwise.evidence.rows import CallRow
from tierwise.surfaces.demo.gateway import Gateway

# Warnings while the packages are imported and used are their own.
pytestmark = [pytest.mark.vendors, pytest.mark.filterwarnings("ignore")]

FOLDER = Path(__file__).parent.parent.parent / "docs" / "examples"
FAST = "gemini-3.5-flash"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the examples' policy, and a gateway that the environment names."""
    (tmp_path / "tierwise.yaml").write_bytes((FOLDER / "tierwise.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    with Gateway(scale=1000.0) as gateway:
        monkeypatch.setenv("OPENAI_BASE_URL", gateway.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield tmp_path


def rows(project: Path) -> list[CallRow]:
    """What is in the project's store."""
    with tierwise.open_store(project / ".tierwise" / "tierwise.db") as store:
        return list(store.calls())


def run(project: Path, name: str) -> str:
    """What a program prints; it must end well."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / name)],
        cwd=project,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_langchain(project: Path) -> None:
    """Two calls of the task, one of them a stream, routed by the policy and judged by the check."""
    printed = run(project, "langchain_app.py")
    assert sum(line.startswith("- ") for line in printed.splitlines()) == 10
    found = rows(project)
    assert [(row.task, row.candidate, row.outcome, row.stream) for row in found] == [
        ("summary", FAST, "success", False),
        ("summary", FAST, "success", True),
    ]
    assert all(row.checks and row.cost_usd for row in found)


def test_pydantic_ai(project: Path) -> None:
    """One call, whose answer is what the agent's type says."""
    assert "affected_users=340" in run(project, "pydantic_ai_app.py")
    (row,) = rows(project)
    assert (row.task, row.candidate, row.outcome, row.json_form) == ("ticket", FAST, "success", "plain")


@pytest.fixture
def app(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The FastAPI program as a module, its client undone afterwards."""
    spec = importlib.util.spec_from_file_location("fastapi_app", FOLDER / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # FastAPI looks the names of annotations up in the module.
    monkeypatch.setitem(sys.modules, "fastapi_app", module)
    spec.loader.exec_module(module)
    try:
        yield module
    finally:
        tierwise.uninstrument(module.client)


async def ask(http: Any) -> AsyncIterator[dict[str, str]]:
    """The events of one answer."""
    async with http.stream("POST", "/chat", json={"text": "Say hello."}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line:
                yield json.loads(line.removeprefix("data: "))


def test_fastapi(project: Path, app: Any) -> None:
    """The answer streams, is recorded as a stream with its cost, and the reader's verdict takes its success away."""
    httpx = importlib.import_module("httpx")

    async def use() -> list[dict[str, str]]:
        transport = httpx.ASGITransport(app=app.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
            events = [event async for event in ask(http)]
            receipt = events[-1]["receipt"]
            given = await http.post("/verdict", json={"receipt": receipt, "good": False})
            assert given.status_code == 204
            refused = await http.post("/verdict", json={"receipt": "tw1.nonsense", "good": True})
            assert refused.status_code == 400
            assert "receipt" in refused.json()["detail"]
            await app.client.close()
            return events

    events = asyncio.run(use())
    assert "".join(event.get("text", "") for event in events).lower().startswith("hello")
    assert tierwise.force_flush()
    (row,) = rows(project)
    assert (row.task, row.candidate, row.outcome, row.stream) == ("chat", FAST, "success", True)
    assert row.cost_usd
    with tierwise.open_store(project / ".tierwise" / "tierwise.db") as store:
        (verdict,) = store.feedback(task="chat")
    assert verdict.accepted is False

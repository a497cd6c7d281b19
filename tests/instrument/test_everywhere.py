"""Clients made later, the module's own client, and programs started by `tierwise run`."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import tierwise
from support.canned import ASK, async_client, chat, sync_client
from support.local_server import local_server
from tierwise.instrument import everywhere

SCRIPT = """
import os, sys
from openai import OpenAI
client = OpenAI(api_key="none", base_url=os.environ["SERVER"])
client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store of its own, and everything undone afterwards."""
    yield tmp_path / "calls.db"
    tierwise.uninstrument()
    tierwise.shutdown()


def _rows(path: Path) -> list[tuple[str, str, str]]:
    tierwise.force_flush()
    with tierwise.open_store(path) as opened:
        return [(row.task, row.candidate, row.outcome) for row in opened.calls()]


def test_clients_made_later_are_observed(store: Path) -> None:
    """After `instrument()` every new client is recorded, sync and async, copies included, until `uninstrument()`."""
    before, _ = sync_client(chat())
    assert tierwise.instrument(task="all", store=store) is None
    client, _ = sync_client(chat())
    asynchronous, _ = async_client(chat())
    before.chat.completions.create(**ASK)
    client.chat.completions.create(**ASK)
    client.with_options(timeout=5).chat.completions.create(**ASK)
    asyncio.run(_ask(asynchronous))
    assert isinstance(client, openai.OpenAI)
    tierwise.uninstrument()
    after, _ = sync_client(chat())
    after.chat.completions.create(**ASK)
    client.chat.completions.create(**ASK)
    assert _rows(store) == [("all", "gpt-5-mini", "success")] * 4


async def _ask(client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(**ASK)


def test_azure_clients_made_later_are_observed(store: Path) -> None:
    """AzureOpenAI goes on setting itself up after its base class; it is observed with its own provider."""
    from support.canned import Canned

    tierwise.instrument(store=store)
    http = openai.DefaultHttpxClient(transport=Canned(chat()).sync_transport())
    client = openai.AzureOpenAI(
        api_key="none", api_version="2024-10-21", azure_endpoint="https://x.openai.azure.com", http_client=http
    )
    client.chat.completions.create(**ASK)
    tierwise.force_flush()
    with tierwise.open_store(store) as opened:
        assert [row.provider for row in opened.calls()] == ["azure.ai.openai"]


def test_a_client_of_both_kinds_is_one_call(store: Path) -> None:
    """Instrumenting a client that observed itself already is still one call, with the later settings."""
    tierwise.instrument(task="all", store=store)
    client, _ = sync_client(chat())
    tierwise.instrument(client, task="own", store=store)
    client.chat.completions.create(**ASK)
    copied = client.with_options(max_retries=0)
    copied.chat.completions.create(**ASK)
    assert _rows(store) == [("own", "gpt-5-mini", "success")] * 2
    assert type(tierwise.uninstrument(client)) is openai.OpenAI


def test_a_broken_observer_leaves_the_client_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault while a new client is being observed is logged; the client comes to be."""

    def broken(client: Any) -> None:
        raise RuntimeError("bug")

    everywhere.observe_new_clients(broken)
    try:
        client, _ = sync_client(chat())
    finally:
        assert everywhere.forget_new_clients()
    assert type(client) is openai.OpenAI
    assert not everywhere.forget_new_clients()


def test_the_modules_own_client(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tierwise.instrument(openai)` observes `openai.chat…`, whose client is made on first use, and is undone."""
    with local_server() as url:
        monkeypatch.setattr(openai, "api_key", "none")
        monkeypatch.setattr(openai, "base_url", url + "/")
        monkeypatch.setattr(openai, "_client", None)
        assert tierwise.instrument(openai, task="module", store=store) is openai
        tierwise.instrument(openai, task="module", store=store)
        openai.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
        made = openai._client  # type: ignore[attr-defined]
        assert _rows(store) == [("module", "gpt-4o-mini", "success")]
        tierwise.uninstrument(openai)
        openai.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
        assert len(_rows(store)) == 1
        assert "__init__" not in type(made).__dict__
        made.close()


def test_other_modules_are_refused() -> None:
    """A module without clients is named in the error."""
    with pytest.raises(tierwise.ConfigError, match="module"):
        tierwise.instrument(os)


def test_a_base_url_set_later_counts(store: Path) -> None:
    """The provider of a call is that of the address in force when it is made."""
    client, _ = sync_client(chat())
    tierwise.instrument(client, store=store)
    client.chat.completions.create(**ASK)
    client.base_url = "https://api.groq.com/openai/v1"
    client.chat.completions.create(**ASK)
    tierwise.force_flush()
    with tierwise.open_store(store) as opened:
        assert sorted(row.provider for row in opened.calls()) == ["groq", "openai"]


def _run(arguments: list[str], folder: Path, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TIERWISE_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{base.get('PATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "tierwise.surfaces.cli.entry", "run", *arguments],
        cwd=folder, env=base | {"SERVER": url, "PATH": path} | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_run_observes_a_program_without_a_change(store: Path) -> None:
    """`tierwise run`: a script, a module and a console command are recorded; exit codes and arguments are their own."""
    folder = store.parent
    (folder / "app.py").write_text(SCRIPT)
    with local_server() as url:
        done = _run(["--task", "whole-app", "--store", str(store), "app.py", "3"], folder, url)
        assert (done.returncode, done.stderr) == (3, "")
        done = _run(["-m", "app"], folder, url, TIERWISE_STORE=str(store))
        assert (done.returncode, done.stderr) == (0, "")
        done = _run(["python", "app.py"], folder, url, TIERWISE_STORE=str(store))
        assert (done.returncode, done.stderr) == (0, "")
    assert _rows(store) == [
        ("whole-app", "gpt-4o-mini", "success"),
        ("unassigned", "gpt-4o-mini", "success"),
        ("unassigned", "gpt-4o-mini", "success"),
    ]


def test_run_goes_on_where_tierwise_is_misconfigured(store: Path) -> None:
    """A broken policy is told on stderr; the program runs."""
    folder = store.parent
    (folder / "app.py").write_text(SCRIPT)
    (folder / "tierwise.yaml").write_text("tasks: 3\n")
    with local_server() as url:
        done = _run(["app.py"], folder, url)
    assert done.returncode == 0
    assert "not instrumented" in done.stderr
    assert "tierwise.yaml:1:" in done.stderr


def test_run_keeps_the_environments_own_sitecustomize(store: Path) -> None:
    """A sitecustomize that was there before still runs, processes started by the program are observed too."""
    folder = store.parent
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import os\nos.environ['SEEN_SITE'] = 'yes'\n")
    (folder / "app.py").write_text(SCRIPT)
    (folder / "outer.py").write_text(
        textwrap.dedent(
            """
            import os, subprocess, sys
            assert os.environ["SEEN_SITE"] == "yes"
            subprocess.run([sys.executable, "app.py"], check=True)
            """
        )
    )
    with local_server() as url:
        done = _run(["outer.py"], folder, url, TIERWISE_STORE=str(store), PYTHONPATH=str(site))
    assert (done.returncode, done.stderr) == (0, "")
    assert _rows(store) == [("unassigned", "gpt-4o-mini", "success")]


def test_run_names_a_command_that_is_not_there(store: Path) -> None:
    """An unknown command is a usage error that says what would be right."""
    done = _run(["no-such-command"], store.parent, "")
    assert done.returncode == 2
    assert "'no-such-command' is not a command" in done.stderr


def test_instrument_before_openai_is_imported(store: Path) -> None:
    """`tierwise.instrument()` imports no client package; openai imported afterwards is observed."""
    code = f"import tierwise, sys; tierwise.instrument(store={str(store)!r}); assert 'openai' not in sys.modules\n"
    with local_server() as url:
        done = subprocess.run(
            [sys.executable, "-c", code + SCRIPT],
            env=os.environ | {"SERVER": url}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert _rows(store) == [("unassigned", "gpt-4o-mini", "success")]


def test_the_entry_point_observes_new_clients(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `opentelemetry-instrument` loads has its interface and observes clients made later."""
    monkeypatch.setenv("TIERWISE_STORE", str(store))
    monkeypatch.setenv("TIERWISE_TASK", "auto")
    (point,) = importlib.metadata.entry_points(group="opentelemetry_instrumentor", name="tierwise")
    instrumentor = point.load()()
    assert instrumentor.instrumentation_dependencies() == ()
    instrumentor.instrument(skip_dep_check=True)
    client, _ = sync_client(chat())
    client.chat.completions.create(**ASK)
    instrumentor.uninstrument()
    assert type(sync_client(chat())[0]) is openai.OpenAI
    assert _rows(store) == [("auto", "gpt-5-mini", "success")]

"""What an installation brings along: few packages, each pinned with the hash of every file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BASE = {
    "genai-prices", "jsonschema-rs", "openai", "opentelemetry-api", "opentelemetry-exporter-otlp", "opentelemetry-sdk",
    "pydantic", "ruamel-yaml", "urllib3", "wrapt",
}  # fmt: skip
EXTRA = {"click", "jinja2", "rich", "starlette", "uvicorn"}


@pytest.fixture(scope="module")
def locked() -> dict[str, dict[str, Any]]:
    """Every package of the lock by its name."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    return {package["name"]: package for package in lock["package"]}


def test_few_packages_are_asked_for() -> None:
    """The base installation asks for these packages and the command line for five more: a further one is a decision."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~ \[;]", one, maxsplit=1)[0].replace(".", "-") for one in requirements}

    assert names(project["dependencies"]) == BASE
    assert {extra: names(found) for extra, found in project["optional-dependencies"].items()} == {"cli": EXTRA}


def test_every_locked_file_has_its_hash(locked: dict[str, dict[str, Any]]) -> None:
    """All packages but our own come from an index, and each of their files has a SHA-256."""
    assert len(locked) > 50
    for name, package in locked.items():
        if name == "tierwise":
            assert package["source"] == {"editable": "."}
            continue
        assert set(package["source"]) == {"registry"}, name
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        assert files, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]) for file in files), name


def test_what_the_base_installation_brings_is_bounded(locked: dict[str, dict[str, Any]]) -> None:
    """With all that these packages need in turn it stays below fifty, on every system and Python together."""
    seen: set[str] = set()
    waiting = sorted(BASE)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [one["name"] for one in locked[name].get("dependencies", ())]
    assert seen >= BASE
    assert len(seen) < 50, sorted(seen)

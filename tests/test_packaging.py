"""What is installed: metadata, types, public names, and how little `import tierwise` loads."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tierwise

ROOT = Path(__file__).parent.parent
PUBLIC = {
    "ConfigError",
    "EvidenceError",
    "ReceiptError",
    "RouteError",
    "StoreError",
    "TierwiseError",
    "check",
    "feedback",
    "force_flush",
    "instrument",
    "open_store",
    "plan",
    "receipt",
    "shutdown",
    "task",
    "uninstrument",
}
HEAVY = {
    "click", "genai_prices", "grpc", "httpx", "httpx2", "jinja2", "jsonschema_rs", "openai", "opentelemetry.exporter",
    "opentelemetry.sdk", "pydantic", "requests", "rich", "ruamel", "sqlite3", "starlette", "uvicorn",
}  # fmt: skip


def _modules_after(code: str) -> set[str]:
    command = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_version_is_the_installed_one() -> None:
    """`tierwise.__version__`, the installed metadata, pyproject.toml and the changelog agree."""
    version = importlib.metadata.version("tierwise")
    assert tierwise.__version__ == version
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_types_are_shipped() -> None:
    """The package carries the marker that makes type checkers read its annotations."""
    assert (Path(tierwise.__file__).parent / "py.typed").is_file()


def test_public_names_are_exactly_these() -> None:
    """A new public name, or a lost one, is a decision: it shows here."""
    assert set(tierwise.__all__) == PUBLIC
    assert list(tierwise.__all__) == sorted(tierwise.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_is_documented(name: str) -> None:
    """Every public name is there and has a docstring."""
    assert inspect.getdoc(getattr(tierwise, name))


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that tierwise does not have is refused as in any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tierwise.no_such_name


def test_import_is_light() -> None:
    """`import tierwise` loads no client, no SDK, no exporter, no parser: an application pays for what it uses."""
    loaded = _modules_after("import tierwise")
    assert "tierwise" in loaded
    assert {name for name in HEAVY if name in loaded} == set()


def test_task_needs_nothing_more() -> None:
    """Naming work with `task` in code whose client is not instrumented loads nothing heavy either."""
    loaded = _modules_after("import tierwise\nwith tierwise.task('summary', risk='high'): pass")
    assert {name for name in HEAVY if name in loaded} == set()


def test_metadata_names_licence_python_and_command() -> None:
    """The metadata an index shows: licence, oldest Python, the `cli` extra, the console command."""
    metadata = importlib.metadata.metadata("tierwise")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "cli" in metadata.get_all("Provides-Extra", [])
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="tierwise")
    assert command.value == "tierwise.surfaces.cli.entry:main"


def test_command_line_packages_are_an_extra() -> None:
    """Who only instruments does not get click, rich, jinja2, starlette and uvicorn."""
    required = [name for name in importlib.metadata.requires("tierwise") or [] if "extra ==" not in name]
    assert not [name for name in required if name.startswith(("click", "rich", "jinja2", "starlette", "uvicorn"))]


def test_data_files_are_inside_the_package() -> None:
    """Suites, policies, templates and styles are read from the package, so a wheel must hold them."""
    package = Path(tierwise.__file__).parent
    for name in ("surfaces/bench/suites/developer.yaml", "surfaces/demo/policy.yaml", "surfaces/report/templates"):
        assert (package / name).exists()


def test_readme_starts_with_both_commands() -> None:
    """README.md has the two commands that do all the set-up, each a line of its own."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("pip install uv")]
    assert commands[:2] == ["pip install uv && uv run tierwise demo", "pip install uv && uv run pytest"]


def test_the_function_keeps_its_name_whatever_is_imported() -> None:
    """`tierwise.instrument` is the function, though a package of that name lies beneath it and is loaded later."""
    code = "import tierwise; tierwise.task; import tierwise.instrument.stainless, tierwise.runtime; "
    done = subprocess.run(
        [sys.executable, "-c", code + "assert type(tierwise.instrument).__name__ == 'function'"], check=False
    )
    assert done.returncode == 0

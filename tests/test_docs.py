"""README and docs: their policies are valid, their code compiles, their commands and links exist."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from tierwise.config import check_policy
from tierwise.surfaces.bench.suite import load_suite
from tierwise.surfaces.cli.group import COMMANDS, cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_yaml_is_valid(page: Path, tmp_path: Path) -> None:
    """Every policy validates without errors, every suite loads."""
    for number, text in enumerate(_blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        if "prompt:" in text:
            assert load_suite(str(path)).tasks
        else:
            assert check_policy(str(path)).errors == ()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_compiles_and_names_exist(page: Path) -> None:
    """Python blocks parse, and every `tierwise.name` in them is there."""
    import tierwise

    for text in _blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tierwise":
                assert hasattr(tierwise, node.attr), node.attr


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_their_options_exist(page: Path) -> None:
    """Every `tierwise …` line of a console block names a command and options that it has."""
    for line in "".join(_blocks(page, "console")).splitlines():
        words = shlex.split(line.partition(" | ")[0], comments=True)
        if words[:1] != ["tierwise"]:
            continue
        assert words[1] in COMMANDS, line
        command = cli.get_command(cli.make_context("tierwise", ["--"], resilient_parsing=True), words[1])
        assert command is not None
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words[2:] if word.startswith("-")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files of the repository exist."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_command_is_documented() -> None:
    """Each command of the command line is named in README or docs."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES) + (ROOT / "CHANGELOG.md").read_text(
        encoding="utf-8"
    )
    assert [name for name in COMMANDS if f"tierwise {name}" not in text and f"`{name}`" not in text] == []

"""README and docs: they render, links and anchors lead somewhere, policies are valid, commands exist, code runs."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt
from markdown_it.token import Token

import tierwise
from tierwise.config import check_policy
from tierwise.instrument.checks import forget_checks
from tierwise.surfaces.bench.suite import load_suite
from tierwise.surfaces.cli.group import COMMANDS, cli
from tierwise.surfaces.demo.gateway import Gateway
from tierwise.surfaces.demo.models import PROFILES

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs" / "examples" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
RUN = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-5-mini")
"""What the pages ask for besides the simulated models; answered as the first of these."""
OPEN_FENCE = re.compile(r"^```", re.M)
FRAMES = ("pandas", "polars")
"""Not installed for the ordinary test run: what needs them runs in an environment that has them."""


@cache
def tokens(page: Path) -> tuple[Token, ...]:
    """A page as GitHub's Markdown: tables, fences, links."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")))


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks in one of these languages, in order."""
    return [token.content for token in tokens(page) if token.type == "fence" and token.info in languages]


def inline(page: Path) -> Iterator[Token]:
    """Every piece of running text, link and code of a page."""
    for token in tokens(page):
        yield from token.children or ()


def script(name: str) -> Any:
    """A program of the docs folder as a module."""
    spec = spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives a page's headings."""
    found: list[str] = []
    for before, token in zip(tokens(page), tokens(page)[1:], strict=False):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or ())
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            earlier = sum(one == name for one in found)
            found.append(f"{name}-{earlier}" if earlier else name)
    return frozenset(found)


def tables(page: Path) -> list[list[str]]:
    """The lines of each table."""
    lines = page.read_text(encoding="utf-8").splitlines()
    spans = [token.map for token in tokens(page) if token.type == "table_open" and token.map]
    return [lines[first:last] for first, last in spans]


def cells(row: str) -> int:
    """Cells of a table's row; an escaped bar divides nothing."""
    return row.replace("\\|", "").count("|") - 1


@pytest.mark.parametrize("doc", PAGES, ids=IDS)
def test_it_renders_whole(doc: Path) -> None:
    """One title first, every fence closed and with a known language, every row of a table as wide as its head."""
    found = tokens(doc)
    assert [token.tag for token in found if token.type == "heading_open"].count("h1") == 1
    assert found[0].tag == "h1"
    assert len(OPEN_FENCE.findall(doc.read_text(encoding="utf-8"))) % 2 == 0
    languages = {token.info for token in found if token.type == "fence"}
    assert languages <= {"", "bash", "console", "json", "python", "sh", "sql", "text", "yaml"}
    text = "".join(token.content for token in inline(doc) if token.type == "text")
    assert "](" not in text, "a link that did not become one"
    for head, *rows in tables(doc):
        assert {cells(row) for row in rows} <= {cells(head)}, head


@pytest.mark.parametrize("doc", PAGES, ids=IDS)
def test_links_and_anchors_lead_somewhere(doc: Path) -> None:
    """Links to files and headings of the repository exist; others are https."""
    for token in inline(doc):
        target = str(token.attrs.get("href") or token.attrs.get("src") or "")
        if not target or target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        assert "://" not in path, target
        linked = (doc.parent / path).resolve() if path else doc
        assert linked.exists(), target
        if token.type == "image":
            assert token.content, f"{target} has no words for those who cannot see it"
            assert linked.stat().st_size < 200_000
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("doc", PAGES, ids=IDS)
def test_yaml_is_valid(doc: Path, tmp_path: Path) -> None:
    """Every policy validates without errors, every suite loads."""
    for number, text in enumerate(blocks(doc, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        if "prompt:" in text:
            assert load_suite(str(path)).tasks
        else:
            assert check_policy(str(path)).errors == ()


@pytest.mark.parametrize("doc", RUN, ids=[str(page.relative_to(ROOT)) for page in RUN])
def test_python_runs(doc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of a page, one block after another, against the simulated gateway with the page's own policy."""
    monkeypatch.chdir(tmp_path)
    policies = [text for text in blocks(doc, "yaml") if "prompt:" not in text]
    first = next((text for text in policies if "candidates" in text), "tasks: {'*': {candidates: [gpt-4o-mini]}}")
    (tmp_path / "tierwise.yaml").write_text(first, encoding="utf-8")
    # Groq's client has the shape of openai's and is not installed here.
    monkeypatch.setitem(sys.modules, "groq", types.SimpleNamespace(Groq=openai.OpenAI))  # type: ignore[arg-type]
    for name in ("GROQ_API_KEY", "OPENAI_API_KEY", "MODELS_KEY"):
        monkeypatch.setenv(name, "none")
    names = {*MODELS, *(profile.name for profile in PROFILES), "claude-opus-4-5", "llama-3.3-70b-versatile"}
    profiles = [replace(PROFILES[0], name=name) for name in sorted(names)]
    made: list[Any] = []

    def instrument(client: Any = None, **arguments: Any) -> Any:
        made.append(client)
        return real(client, **arguments)

    real = tierwise.instrument
    monkeypatch.setattr(tierwise, "instrument", instrument)
    try:
        with Gateway(scale=1000.0, profiles=profiles) as gateway:
            monkeypatch.setenv("OPENAI_BASE_URL", gateway.base_url)
            space: dict[str, Any] = {}
            for text in blocks(doc, "python"):
                if any(f".to_{name}()" in text and find_spec(name) is None for name in FRAMES):
                    continue
                exec(compile(text, str(doc), "exec"), space)  # noqa: S102 - our own pages
            assert gateway.requests or "create(" not in "".join(blocks(doc, "python"))
    finally:
        for client in made:
            tierwise.uninstrument(client)
            if isinstance(client, openai.OpenAI):
                client.close()
        forget_checks()
        tierwise.shutdown()


@pytest.mark.parametrize("doc", PAGES, ids=IDS)
def test_python_names_exist(doc: Path) -> None:
    """Every `tierwise.name` in a Python block is there."""
    for text in blocks(doc, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tierwise":
                assert hasattr(tierwise, node.attr), node.attr


@pytest.mark.parametrize("doc", PAGES, ids=IDS)
def test_commands_and_their_options_exist(doc: Path) -> None:
    """Every `tierwise …` line of a shell block names a command and options that it has."""
    for line in "".join(blocks(doc, "console", "bash", "sh")).splitlines():
        words = shlex.split(line.removeprefix("$ ").partition(" | ")[0], comments=True)
        if words[:1] != ["tierwise"]:
            continue
        context: Any = cli.make_context("tierwise", ["--"], resilient_parsing=True)
        assert words[1] in COMMANDS, line
        command: Any = cli.get_command(context, words[1])
        while len(words) > 2 and hasattr(command, "commands") and words[2] in command.commands:
            command = command.commands[words[2]]
            del words[2]
        if words[1] == "run":  # what follows the program's name is the program's
            words = [*words[:2], *itertools.takewhile(lambda word: word.startswith("-") and word != "-m", words[2:])]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words[2:] if word.startswith("-")} <= known, line


def test_every_command_is_documented() -> None:
    """Each command of the command line is named in README or docs."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES) + (ROOT / "CHANGELOG.md").read_text(
        encoding="utf-8"
    )
    assert [name for name in COMMANDS if f"tierwise {name}" not in text and f"`{name}`" not in text] == []


def test_every_page_is_in_the_index() -> None:
    """Nobody has to guess that a page exists."""
    index = {str(token.attrs.get("href", "")) for token in inline(ROOT / "docs" / "index.md")}
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in {*index, "index.md"}] == []


def test_the_site_has_every_page() -> None:
    """The web site's navigation follows the index, and names files outside `docs` without linking them."""
    hooks = script("site_hooks")
    nav = hooks.on_config({"docs_dir": str(ROOT / "docs")})["nav"]
    listed = [path for entry in nav for path in entry.values()]
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert sorted(listed) == sorted(pages)
    assert hooks.on_page_markdown("see [changes](../CHANGELOG.md), [a](b.md)") == "see changes, [a](b.md)"


def test_the_policy_reference_is_the_schemas() -> None:
    """docs/make_policy_reference.py makes the page that is there."""
    module = script("make_policy_reference")
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run `uv run python docs/make_policy_reference.py`"


def test_the_cli_reference_is_the_commands() -> None:
    """docs/make_cli_reference.py makes the page that is there."""
    module = script("make_cli_reference")
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run `uv run python docs/make_cli_reference.py`"


@pytest.mark.browser
def test_the_picture_can_be_made_anew(tmp_path: Path) -> None:
    """docs/make_picture.py finds what it photographs in a report of today."""
    report, picture = tmp_path / "report.html", tmp_path / "report.png"
    arguments = ["demo", "--rounds", "3", "--store", str(tmp_path / "demo.db"), "--report", str(report)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    script("make_picture").make(report, picture)
    assert 20_000 < picture.stat().st_size < 200_000

"""Bounded, safe YAML with positions: a file becomes plain values and the line and column of every key and item."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from tierwise.core.errors import ConfigError
from tierwise.core.records import dataclass

Loc = tuple[str | int, ...]

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 50
MAX_NODES: Final = 50_000
"""Values in a file after aliases are followed, so that a few nested aliases cannot grow into billions."""

_TAG: Final = "tag:yaml.org,2002:"
_KINDS: Final = {
    "MappingNode": ("map",),
    "SequenceNode": ("seq",),
    "ScalarNode": ("str", "int", "float", "bool", "null", "timestamp", "merge", "value"),
}
_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels; a policy needs about six"
_INT: Final = re.compile(r"[-+]?[0-9][0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where a value stands and where its key stands (the same place for items of a list); both count from 1."""

    line: int
    column: int
    key_line: int
    key_column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong (`error`) or doubtful (`warning`), with its place; lines and columns count from 1."""

    path: str
    line: int
    column: int
    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A parsed file: plain values, the place of each by its path, and what was wrong on the way."""

    value: object
    marks: Mapping[Loc, Mark]
    findings: tuple[Finding, ...] = ()

    def mark(self, loc: Loc) -> Mark:
        """The place of the value at `loc`, else of its nearest parent that has one."""
        for end in range(len(loc), -1, -1):
            if (mark := self.marks.get(loc[:end])) is not None:
                return mark
        return Mark(line=1, column=1, key_line=1, key_column=1)


def read_text(path: Path) -> str:
    """The file's text, bounded by `MAX_BYTES`.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check the path and its rights") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB; a policy is a few kilobytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{path}:{line}:{column}: not UTF-8; save the file as UTF-8") from None


def parse(text: str, *, name: str) -> Tree:
    """Parse YAML 1.2 into plain values (text, numbers, booleans, null, lists, mappings) with positions.

    Never builds objects from tags. Wrong syntax, too much depth, duplicates and tags are findings, not exceptions.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    reader = YAML(typ="safe", pure=True)
    reader.Scanner = _bounded_scanner()
    try:
        if (bound := _over_bounds(reader.parse(text), name)) is not None:
            return Tree(value=None, marks={}, findings=(bound,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor may be given a second time: YAML 1.2 allows it
            node = YAML(typ="safe", pure=True).compose(text)
    except _TooDeep as error:
        return _broken(name, error.line, error.column, _TOO_DEEP)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        return _broken(name, line, column, _syntax_message(text, line, column, str(error.problem or error.context)))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        return _broken(name, line, column, f"character {error.character!r} is not allowed in YAML; remove it")
    except (YAMLError, RecursionError, ValueError) as error:
        return _broken(name, 1, 1, f"not readable as YAML: {error}")
    builder = _Builder(name=name)
    value = builder.build(node, (), 0) if node is not None else None
    return Tree(value=value, marks=builder.marks, findings=tuple(builder.findings))


def _broken(name: str, line: int, column: int, message: str) -> Tree:
    finding = Finding(path=name, line=line, column=column, severity="error", message=message)
    return Tree(value=None, marks={}, findings=(finding,))


def _syntax_message(text: str, line: int, column: int, problem: str) -> str:
    lines = text.split("\n")
    source = lines[line - 1] if line <= len(lines) else ""
    if source.lstrip().startswith("*") or "alias" in problem:
        return f'{problem}; the policy for tasks nobody named is written with quotes: "*"'
    if "\t" in source[: column + 1]:
        return f"{problem}; indent with spaces, not tabs"
    if "another document" in problem:
        return "a second document starts here; a policy is one document, remove the ---"
    if "mapping values are not allowed" in problem:
        return f"{problem}; put the text in quotes, or the mapping on lines of its own"
    return f"{problem}; check quotes, brackets and indentation here"


class _TooDeep(Exception):  # noqa: N818 - caught where it is raised
    """Brackets within brackets beyond the bound; line and column count from 1."""

    def __init__(self, line: int, column: int) -> None:
        self.line, self.column = line, column


@cache
def _bounded_scanner() -> Any:
    """A scanner that stops at too many open brackets: it looks ahead for a key at each, which takes time by their square."""
    from ruamel.yaml.scanner import Scanner

    class Bounded(Scanner):
        def fetch_flow_collection_start(self, TokenClass: Any, to_push: Any) -> None:  # noqa: N803 - its name there
            if self.flow_level >= MAX_DEPTH - 3:
                raise _TooDeep(self.reader.line + 1, self.reader.column + 1)
            super().fetch_flow_collection_start(TokenClass, to_push)

    return Bounded


def _over_bounds(events: Iterator[Any], name: str) -> Finding | None:
    """Walk the event stream, which needs no recursion, before anything recursive sees the file."""
    depth = 0
    for number, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > MAX_DEPTH:
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            return Finding(path=name, line=line, column=column, severity="error", message=_TOO_DEEP)
        if number > 2 * MAX_NODES:
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            message = f"more than {MAX_NODES:,} values; a policy has some hundred"
            return Finding(path=name, line=line, column=column, severity="error", message=message)
    return None


@dataclass(slots=True, kw_only=True)
class _Builder:
    """Turns YAML nodes into plain values and remembers where each stood."""

    name: str
    marks: dict[Loc, Mark] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    nodes: int = 0
    stopped: bool = False

    def build(self, node: Any, loc: Loc, depth: int, key: Any = None) -> object:
        """The plain value of a node; `key` is the node of its key where it has one."""
        place, named = node.start_mark, (key or node).start_mark
        self.marks[loc] = Mark(
            line=place.line + 1, column=place.column + 1, key_line=named.line + 1, key_column=named.column + 1
        )
        self.nodes += 1
        if self.stopped or self.nodes > MAX_NODES or depth > MAX_DEPTH:
            if not self.stopped:
                self.stopped = True
                self._error(node, f"aliases grow beyond {MAX_NODES:,} values or {MAX_DEPTH} levels; write it out")
            return None
        tag = str(node.tag)
        kind = type(node).__name__
        if tag.removeprefix(_TAG) not in _KINDS[kind]:
            self._error(node, f"tag {tag.replace(_TAG, '!!')} is not supported; remove it")
            return None
        if kind == "MappingNode":
            return self._mapping(node, loc, depth)
        if kind == "SequenceNode":
            return [self.build(item, (*loc, i), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, tag.removeprefix(_TAG))

    def _mapping(self, node: Any, loc: Loc, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        own: dict[str, int] = {}
        merges = [pair for pair in node.value if str(pair[0].tag) == _TAG + "merge"]
        for _, value in merges:
            for source in value.value if type(value).__name__ == "SequenceNode" else [value]:
                if type(source).__name__ != "MappingNode":
                    self._error(source, "<<: needs a mapping, or a list of mappings")
                    continue
                inherited = self.build(source, (*loc, "<<"), depth + 1)
                if isinstance(inherited, dict):
                    self._adopt(result, inherited, loc)
        for key, value in node.value:
            if str(key.tag) == _TAG + "merge":
                continue
            if type(key).__name__ != "ScalarNode":
                self._error(key, "a key must be plain text")
                continue
            name = str(key.value)
            if name in own:
                self._error(key, f"key {name!r} is given twice (first in line {own[name]}); keep one")
                continue
            own[name] = key.start_mark.line + 1
            result[name] = self.build(value, (*loc, name), depth + 1, key)
        return result

    def _adopt(self, result: dict[str, object], inherited: dict[str, object], loc: Loc) -> None:
        """Take merged keys; their places are where they were written."""
        merged = (*loc, "<<")
        fresh = [name for name in inherited if name not in result]
        for name in fresh:
            result[name] = inherited[name]
        for place in [place for place in self.marks if place[: len(merged)] == merged]:
            mark = self.marks.pop(place)
            if len(place) > len(merged) and place[len(merged)] in fresh:
                self.marks[(*loc, *place[len(merged) :])] = mark

    def _scalar(self, node: Any, kind: str) -> object:
        text = str(node.value)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return self._integer(node, text)
        if kind == "float":
            lowered = text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan")
            try:
                return float(lowered)
            except ValueError:
                return text
        return text

    def _integer(self, node: Any, text: str) -> object:
        if len(text) > 40:
            self._error(node, "a whole number of more than 40 digits; nothing here is that large")
            return None
        try:
            return int(text.replace("_", "")) if _INT.fullmatch(text) else int(text.replace("_", ""), 0)
        except ValueError:
            return text

    def _error(self, node: Any, message: str) -> None:
        mark = node.start_mark
        finding = Finding(path=self.name, line=mark.line + 1, column=mark.column + 1, severity="error", message=message)
        self.findings.append(finding)

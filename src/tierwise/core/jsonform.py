"""The form of a JSON answer: plain, fenced, embedded, mismatch or invalid; bounded time for any text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, Literal

from tierwise.core.records import dataclass, maker, quick

if TYPE_CHECKING:
    from tierwise.core.ports import ParseJson, SchemaCheck

JsonForm = Literal["plain", "fenced", "embedded", "mismatch", "invalid"]

MAX_JSON_CHARS: Final = 2_000_000
"""Longer texts are `invalid` without being parsed; about four times what any model can write today."""

_WINDOW_CHARS: Final = 262_144
"""JSON inside prose is looked for in this much text from the start."""
_ATTEMPTS: Final = 24
"""How many places inside prose are tried, so that text made of brackets costs no more than other text."""

# What can follow an opening bracket in JSON; no nested repetition, so the search is linear.
_START: Final = re.compile(r'\{[ \t\r\n]{0,64}["}]|\[[ \t\r\n]{0,64}(?:["{\[\]0-9-]|true|false|null)')


_FENCE_LINE: Final = re.compile(r"^[ \t]{0,12}(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_FENCE_LINES: Final = 1_000
_LANGUAGE: Final = re.compile(r"[A-Za-z0-9_+.-]{1,32}(?=[ \t{\[])")


class _Absent:
    """The type of `ABSENT`: no JSON value, as `None` is one (null)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""Stands for a JSON value that is not there; `None` is JSON's null."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class JsonReading:
    """A text's JSON form and the value found, `ABSENT` where none parses strictly (alone or in one fence)."""

    form: JsonForm
    value: object = ABSENT


_make_reading: Final = maker(JsonReading)
_INVALID: Final = JsonReading(form="invalid")
_EMBEDDED: Final = JsonReading(form="embedded")


def read_json(text: str, *, schema: SchemaCheck | None, parse_json: ParseJson) -> JsonReading:
    """Classify an answer of which JSON was expected; never raises, whatever the text holds.

    `plain`: the whole text is strict JSON and holds the schema. `fenced`: the body of its one Markdown code fence does.
    `mismatch`: one of both parses and breaks the schema. `embedded`: an object or array stands inside other text.
    `invalid`: anything else, texts over `MAX_JSON_CHARS` included.
    """
    if len(text) > MAX_JSON_CHARS:
        return _INVALID
    value = parse_or_absent(text, parse_json)
    if value is not ABSENT:
        form: JsonForm = "plain" if schema is None or schema(value) else "mismatch"
        return _make_reading(form=form, value=value)
    body = fence_body(text)
    if body is not None:
        value = parse_or_absent(body, parse_json)
        if value is not ABSENT:
            form = "fenced" if schema is None or schema(value) else "mismatch"
            return JsonReading(form=form, value=value)
    return _EMBEDDED if _holds_json(text, parse_json) else _INVALID


def parse_or_absent(text: str, parse_json: ParseJson) -> object:
    """The value of a text that is strict JSON and no longer than `MAX_JSON_CHARS`, else `ABSENT`."""
    if len(text) > MAX_JSON_CHARS:
        return ABSENT
    try:
        return parse_json(text)
    except (ValueError, RecursionError, MemoryError):
        return ABSENT


def fence_body(text: str) -> str | None:
    """The body of the text's one Markdown code fence, or `None` when there is none or more than one.

    Fences are ``` or ~~~, any length from three, with or without a language; one that is never closed runs to the end,
    as in CommonMark, and models' habits of closing on the last line of the body or writing all on one line are accepted.
    Text around the fence is ignored. One pass over the text.
    """
    if "```" not in text and "~~~" not in text:
        return None
    marker = ""
    body_start = 0
    found: str | None = None
    for number, match in enumerate(_FENCE_LINE.finditer(text)):
        if number == _FENCE_LINES:
            return None
        run, rest = match.group(1), match.group(2).strip()
        if marker:
            if not rest and run.startswith(marker):
                found, marker = text[body_start : match.start()], ""
            continue
        inner = rest.removesuffix(run) if rest.endswith(run) else None
        if inner is None and run[0] == "`" and "`" in rest:
            continue  # inline code at the start of a line of prose
        if found is not None:
            return None
        if inner is None:
            marker, body_start = run, match.end() + 1
        else:
            word = _LANGUAGE.match(inner)
            found = inner[word.end() :] if word else inner
    if marker:
        found = text[body_start:].rstrip().removesuffix(marker)
    return found


def _no_constant(name: str) -> object:
    raise ValueError(name)


# Only the end of a value is wanted here: numbers stay text, which keeps huge integers linear.
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)


def _holds_json(text: str, parse_json: ParseJson) -> bool:
    """Whether an object or array that parses strictly starts somewhere in the text (bounded number of places)."""
    window = text[:_WINDOW_CHARS]
    at = 0
    for _ in range(_ATTEMPTS):
        start = _START.search(window, at)
        if start is None:
            return False
        at = start.start()
        try:
            _, end = _DECODER.raw_decode(window, at)
        except (ValueError, RecursionError, MemoryError):
            at += 1
            continue
        if parse_or_absent(window[at:end], parse_json) is not ABSENT:
            return True
        at = end
    return False

"""JSON forms: plain, fenced, embedded, mismatch, invalid; strictness and hostile text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core import jsonform
from tierwise.core.jsonform import MAX_JSON_CHARS, fence_body, read_json
from tierwise.instrument.parsing import parse_json

JSON_VALUE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)
CONTAINER = st.one_of(st.lists(JSON_VALUE, max_size=4), st.dictionaries(st.text(), JSON_VALUE, max_size=4))
INDENT = st.sampled_from([None, 0, 2, "\t"])
PROSE = st.text(alphabet="abc XYZ.,!?:;\n'äß", min_size=1).filter(str.strip)


def form(text: str) -> str:
    return read_json(text, schema=None, parse_json=parse_json).form


@given(JSON_VALUE, INDENT, st.booleans(), st.sampled_from(["", " ", "\n", "\r\n\t"]))
def test_a_plain_dump_is_plain(value: object, indent: int | str | None, ascii_only: bool, space: str) -> None:
    """Whatever json.dumps writes of valid text is plain, with white space around it or not, and reads back equal."""
    reading = read_json(
        space + json.dumps(value, indent=indent, ensure_ascii=ascii_only) + space, schema=None, parse_json=parse_json
    )
    assert (reading.form, reading.value) == ("plain", value)


@given(
    JSON_VALUE,
    INDENT,
    st.sampled_from(["```", "~~~", "````"]),
    st.sampled_from(["", "json", "JSON", " json", "json5", "jsonc title=x"]),
    st.sampled_from(["\n", "\r\n", " \n"]),
    st.sampled_from(["", "\n", "  \n\n"]),
)
def test_a_fenced_dump_is_fenced(
    value: object, indent: int | str | None, fence: str, language: str, newline: str, tail: str
) -> None:
    """One fence of any kind around a dump is `fenced`, and its value is handed on."""
    dump = json.dumps(value, indent=indent).replace("\n", newline)
    text = f"{fence}{language}{newline}{dump}{newline}{fence}{tail}"
    reading = read_json(text, schema=None, parse_json=parse_json)
    assert (reading.form, reading.value) == ("fenced", value)


@given(PROSE, CONTAINER, INDENT, st.text(alphabet="abc XYZ.!?", max_size=20))
def test_json_inside_prose_is_embedded(before: str, value: object, indent: int | str | None, after: str) -> None:
    """An object or array between words is `embedded`."""
    assert form(f"{before} {json.dumps(value, indent=indent)} {after}") == "embedded"


@given(PROSE, CONTAINER)
def test_prose_around_one_fence_is_still_fenced(prose: str, value: object) -> None:
    """Words around the only fence do not matter: stripping the fence gives the JSON."""
    assert form(f"{prose}\n```json\n{json.dumps(value)}\n```\n{prose}") == "fenced"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('```json\n{"a": 1}', "fenced"),
        ('```json\n{"a": 1}```', "fenced"),
        ('```json {"a": 1}```', "fenced"),
        ('```{"a": 1}```', "fenced"),
        ('  ```json\n  {"a": 1}\n  ```', "fenced"),
        ('````\n{"a": "```"}\n````', "fenced"),
        ('```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```', "embedded"),
        ('```json\n{"a": 1,}\n```', "invalid"),
        ("```python\nprint(1)\n```", "invalid"),
        ('`{"a": 1}`', "embedded"),
        ('```x``` is code, {"a": 1} is JSON', "embedded"),
        ('{"a": 1} and more', "embedded"),
        ('{"a": 1}{"a": 2}', "embedded"),
        ('\ufeff{"a": 1}', "embedded"),
        ("{not json} but [links](url)", "invalid"),
        ("{'a': 1}", "invalid"),
        ("NaN", "invalid"),
        ("[1, Infinity]", "invalid"),
        ('{"a": -Infinity}', "invalid"),
        ('{"a": 01}', "invalid"),
        ('{"a": 1} // note', "embedded"),
        ('{"a": 1, "a": 2}', "plain"),
        ('["' + "\t" + '"]', "invalid"),
        ("[" + "9" * 400 + "]", "plain"),
        ("[" + "9" * 4_301 + "]", "invalid"),
        ("\u00a0[1]", "embedded"),
        ("42 apples", "invalid"),
        ("42", "plain"),
        ('"text"', "plain"),
        ('"\\u0000"', "plain"),
        ('"\x00"', "invalid"),
        ('{"a": "\ud800"}', "invalid"),
        ("[" * 200 + "]" * 200, "plain"),
        ("[" * 201 + "]" * 201, "invalid"),
        ('{"a":' * 200 + "1" + "}" * 200, "plain"),
        ('{"a":' * 201 + "1" + "}" * 201, "invalid"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    """Strict RFC 8259 at most 200 levels deep, one fence, JSON in prose: each has its form."""
    assert form(text) == expected


HOSTILE = [
    "[" * 5_000_000,
    '{"a":' * 380_000,
    "[1," * 600_000,
    '"' * 1_900_000,
    '[1,2,"' * 300_000,
    "{" * 1_900_000,
    "{ " * 900_000,
    "[ \t" * 600_000,
    "`" * 1_900_000,
    "~" * 1_900_000,
    "```\n" * 470_000,
    "````\n" + "```\n" * 400_000,
    "\n" * 1_900_000 + "```",
    "[" + "9" * 1_900_000 + "]",
    ("[" + "1," * 100_000) * 9,
    "[[1]," * 300_000,
    "x" * 10_000_000,
    "\ud800" * 1_000_000,
    "\x00" * 1_000_000,
    '{"a":"' + "\\" * 1_900_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:8]) + str(len(text)))
def test_hostile_text_is_bounded(text: str) -> None:
    """Megabytes of brackets, quotes or fences get a form without an exception, after a bounded number of parses."""
    parsed = 0

    def counting(part: str) -> object:
        nonlocal parsed
        parsed += len(part)
        return parse_json(part)

    assert read_json(text, schema=None, parse_json=counting).form in ("invalid", "embedded")
    assert parsed <= 3 * MAX_JSON_CHARS


@pytest.mark.parametrize("text", [*HOSTILE, '{"a": nope} ' * 100_000, "[1, " * 400_000, '["x' * 400_000])
def test_few_places_in_prose_are_tried(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many brackets a text has, JSON is looked for behind a fixed number of them, in the text's first part."""
    attempts: list[int] = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[object, int]:
            attempts.append(len(s))
            return super().raw_decode(s, idx)

    monkeypatch.setattr(jsonform, "_DECODER", Counting(parse_int=str, parse_float=str))
    form(text)
    assert len(attempts) <= 24
    assert max(attempts, default=0) <= 262_144


def test_size_is_bounded() -> None:
    """Valid JSON beyond the size limit is invalid without being parsed."""
    inside = '"' + "x" * (MAX_JSON_CHARS - 2) + '"'
    assert form(inside) == "plain"
    assert form(inside[:-1] + 'x"') == "invalid"


@given(st.text(alphabet="`~ab\n\r {}", max_size=60))
def test_fence_body_is_part_of_the_text(text: str) -> None:
    """Whatever is taken for a fence's body stands in the text as it is."""
    body = fence_body(text)
    assert body is None or body in text

"""The adapters behind the ports: strict JSON and JSON Schema."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections import OrderedDict
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.instrument.parsing import MAX_DEPTH, compile_schema, is_json, parse_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_what_json_writes_is_read_back(value: object) -> None:
    """Any JSON value survives."""
    assert parse_json(json.dumps(value)) == value


@given(st.text(st.characters(codec=None)) | st.text(alphabet='{}[]",:\\ 019.eE-+truefalsn\ud800\x00', max_size=80))
def test_only_value_errors_come_out(text: str) -> None:
    """Any other text raises ValueError and nothing else, and what is accepted json accepts too."""
    try:
        value = parse_json(text)
    except ValueError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1 2",
        "{} x",
        "01",
        "1.",
        "[1,]",
        "'a'",
        "-",
        "+1",
        ".5",
        "1.5e",
        "True",
        "nul",
        '{"a"}',
        "{a: 1}",
        "[1 2]",
        "/* x */ 1",
        '"\t"',
        '"\\x"',
        "\ufeff{}",
        "\u00a0{}",
        "\x0c{}",
        '"\ud800"',
        '"\\ud800"',
        "1" * 5000,
    ],
)
def test_what_is_not_strict_json_is_refused(text: str) -> None:
    """NaN, trailing text, lone surrogates and integers beyond Python's own limit are refused."""
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_limited(opening: str, closing: str) -> None:
    """200 levels are read, 201 are refused."""
    inner = "1" if closing == "}" else ""
    assert parse_json(opening * MAX_DEPTH + inner + closing * MAX_DEPTH) is not None
    with pytest.raises(ValueError, match=r"200 levels|recursion limit"):
        parse_json(opening * (MAX_DEPTH + 1) + inner + closing * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (' \t\r\n{"a" : [1 , 2]}\r\n', {"a": [1, 2]}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ("-0", 0),
        ("1E+2", 100.0),
        ("9" * 400, int("9" * 400)),
        ("-" + "9" * 4_300, -int("9" * 4_300)),
        ('"\\uD83D\\uDE00\\u0000\\/"', "\U0001f600\x00/"),
        ('"\x7f\u2028\ufeff"', "\x7f\u2028\ufeff"),
        ("null", None),
    ],
)
def test_what_the_standard_allows_is_read(text: str, value: object) -> None:
    """White space, exponents, large integers, surrogate pairs; of two equal names the last one counts."""
    assert parse_json(text) == value


def test_many_brackets_are_not_depth() -> None:
    """Wide values, and brackets inside strings, are no deeper than they are."""
    wide = json.dumps([[] for _ in range(500)])
    assert parse_json(wide) == json.loads(wide)
    assert parse_json(json.dumps("[" * 500)) == "[" * 500


def test_schemas_are_checked() -> None:
    """A compiled schema tells values that hold it from values that do not."""
    holds = compile_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    values: list[object] = [{"a": 1}, {"a": "1"}, {}, [], None]
    assert [holds(value) for value in values] == [True, False, False, False, False]


def test_a_schema_is_compiled_once() -> None:
    """The same schema, in any kind of mapping and order of keys, is compiled once."""
    one = compile_schema({"type": "object", "required": ["a"]})
    assert compile_schema(OrderedDict([("required", ["a"]), ("type", "object")])) is one
    assert compile_schema(MappingProxyType({"type": "object", "required": ("a",)})) is one


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objec"}, "not valid at /type"),
        ({"properties": {"a": {"pattern": "("}}}, "not valid at /properties/a/pattern"),
        ({"$ref": "#/nowhere"}, "not valid"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "not valid"),
        ({"$ref": "file:///etc/hostname"}, "not valid"),
        ({"enum": [object()]}, "not plain JSON"),
        ({"enum": [{1, 2}]}, "not plain JSON"),
    ],
)
def test_wrong_schemas_are_refused(schema: dict[str, object], message: str) -> None:
    """A wrong schema raises ValueError that says where; nothing outside of it is fetched or read."""
    with pytest.raises(ValueError, match=message):
        compile_schema(schema)


@pytest.mark.parametrize("key", ["$ref", "$dynamicRef", "$schema"])
def test_nothing_is_fetched(key: str) -> None:
    """A reference to a server that is there makes the schema wrong, and the server is not asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        with pytest.raises(ValueError, match="not valid"):
            compile_schema({key: f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"})
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"not": {"$ref": "#"}},
        {"$dynamicRef": "#"},
        {"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, "type": "array", "minItems": 1},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"pattern": "^(a+)+$"},
        {"pattern": r"^(?=(a+)+$)(a|aa)+\1$"},
    ],
)
def test_schemas_without_an_end_have_one(schema: dict[str, object]) -> None:
    """Schemas that refer to themselves, and patterns that backtrack, give an answer for flat and deep values."""
    holds = compile_schema(schema)
    values: list[object] = [{}, [1], "a" * 60 + "b", parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)]
    assert {holds(value) for value in values} <= {True, False}


def test_a_deep_schema_is_refused_or_compiled() -> None:
    """A schema nested far deeper than any real one costs a message, not the process."""
    deep: dict[str, object] = {"type": "object"}
    for _ in range(100_000):
        deep = {"not": deep}
    with pytest.raises(ValueError, match="JSON Schema is not"):
        compile_schema(deep)


def test_a_compiled_schema_never_raises() -> None:
    """Values that no JSON parser makes, and patterns made for backtracking, give an answer."""
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    holds = compile_schema({"type": "object"})
    values: list[object] = [math.inf, math.nan, 10**5000, deep, {1: 2}, object(), b"x", {"a": "\ud800"}]
    for value in values:
        assert holds(value) in (True, False)
    assert compile_schema({"pattern": "^(a+)+$"})("a" * 40 + "b") is False


def test_nothing_heavy_is_loaded_before_use() -> None:
    """Importing the adapters loads neither parser."""
    code = "import sys, tierwise.instrument.parsing; print({'jiter', 'jsonschema_rs'} & set(sys.modules))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "set()"


@given(
    st.one_of(
        st.text(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=10,
        ).map(json.dumps),
        st.sampled_from(['{"a":1}', ' {"a":[NaN]} ', '{"a":"\\ud800"}', '{"a":1}x', '{"a":' * 199 + "1" + "}" * 199]),
        st.integers(190, 210).map(lambda depth: '{"a":' * depth + "1" + "}" * depth),
        st.integers(4200, 4400).map(lambda digits: '{"a":' + "1" * digits + "}"),
    ),
    st.integers(0, 60),
    st.sampled_from(["", "x", ",", '"', "}", "\x01", "\ud800", "-", "e"]),
)
def test_a_text_called_json_is_parsed(text: str, at: int, put: str) -> None:
    """Whatever the cheap look calls JSON the parser parses; plain objects are recognised."""
    for candidate in (text, text[:at] + put + text[at:]):
        try:
            found = is_json(candidate)
        except UnicodeEncodeError:
            pytest.fail("must not raise")
        if found:
            assert isinstance(parse_json(candidate), dict)
    assert is_json('{"a": [1, {"b": null}]}')
    assert not is_json("[1]")

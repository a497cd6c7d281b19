"""The checks a suite may name, and how each is made from what the suite says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from tierwise.core import checks
from tierwise.instrument.parsing import compile_schema
from tierwise.surfaces.bench.code import python_tests

RUNS_CODE: Final = "python_tests"
"""The check that runs the answer's code: only with the user's consent."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Advice for an unknown name: the most similar known one, else all of them."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "use one of " + ", ".join(known)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"needs a whole number of at least 1, not {value!r}"
        raise ValueError(msg)
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"needs a number, not {value!r}"
        raise ValueError(msg)  # noqa: TRY004 - shown as wrong content of a file
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        msg = f"needs true or false, not {value!r}"
        raise ValueError(msg)  # noqa: TRY004 - shown as wrong content of a file
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        msg = f"needs text, not {value!r}; put it in quotes"
        raise ValueError(msg)
    return value


def _options(given: object, readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """The keys of a check's mapping, each through its own reader."""
    if not isinstance(given, Mapping):
        msg = "needs a mapping with " + ", ".join(readers)
        raise ValueError(msg)  # noqa: TRY004 - shown as wrong content of a file
    for key in given:
        if key not in readers:
            msg = f"unknown key {key!r}; {nearest(str(key), tuple(readers))}"
            raise ValueError(msg)
    return {key: readers[key](item) for key, item in given.items()}


def _contains(value: object) -> checks.CheckFunction:
    if isinstance(value, Mapping):
        options = _options(value, {"text": _texts, "ignore_case": _flag})
        if "text" not in options:
            msg = "needs text: what the answer must hold"
            raise ValueError(msg)
        return checks.contains(options["text"], ignore_case=options.get("ignore_case", False))
    return checks.contains(_texts(value))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in value) if isinstance(value, list) else (_text(value),)


def _equals_number(value: object) -> checks.CheckFunction:
    if not isinstance(value, Mapping):
        return checks.equals_number(_number(value))
    options = _options(value, {"value": _number, "tolerance": _number})
    if "value" not in options:
        msg = "needs value: the number the answer must end with"
        raise ValueError(msg)
    return checks.equals_number(options["value"], tolerance=options.get("tolerance", 1e-9))


def _columns(value: object) -> int | tuple[str, ...]:
    return tuple(_text(item) for item in value) if isinstance(value, list) else _whole(value)


def _markdown_table(value: object) -> checks.CheckFunction:
    if not isinstance(value, Mapping):
        return checks.markdown_table(columns=_columns(value))
    options = _options(value, {"columns": _columns, "min_rows": _whole})
    return checks.markdown_table(columns=options.get("columns"), min_rows=options.get("min_rows", 1))


def _json_schema(value: object) -> checks.CheckFunction:
    if not isinstance(value, Mapping):
        msg = "needs a JSON Schema"
        raise ValueError(msg)  # noqa: TRY004 - shown as wrong content of a file
    return checks.json_schema(value, compile_schema=compile_schema)


def _min_confidence(value: object) -> checks.CheckFunction:
    return checks.min_confidence(**_options(value, {"field": _text}))


CHECKS: Final[Mapping[str, Callable[[Any], checks.CheckFunction]]] = {
    "bullets": lambda value: checks.bullets(_whole(value)),
    "contains": _contains,
    "equals_number": _equals_number,
    "json_schema": _json_schema,
    "markdown_table": _markdown_table,
    "max_chars": lambda value: checks.max_chars(_whole(value)),
    "min_confidence": _min_confidence,
    RUNS_CODE: lambda value: python_tests(_text(value)),
    "regex": lambda value: checks.regex(_text(value)),
}
"""Checks by the name a suite uses, and how each is made from what the suite says."""

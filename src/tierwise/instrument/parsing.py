"""The parsers behind the core's ports: strict JSON by jiter, JSON Schema by jsonschema-rs, both loaded on first use."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tierwise.core.ports import SchemaCheck

MAX_DEPTH: Final = 200
MAX_DIGITS: Final = 4300


def parse_json(text: str) -> object:
    """Parse RFC 8259 JSON: no NaN, no trailing text, no lone surrogates, at most 200 levels.

    Raises:
        ValueError: the text is anything else, or holds an integer of more than 4,300 digits.
    """
    value = _from_json()(text.encode(), allow_inf_nan=False, cache_mode="keys")
    # jiter's own limit lies one level above ours.
    if len(text) > 2 * MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        msg = f"more than {MAX_DEPTH} levels deep"
        raise ValueError(msg)
    return value


def is_json(text: str) -> bool:
    """Whether a text is surely a JSON object that `parse_json` parses; false may mean either.

    The same parser, without a Python object for each value: half the work where only validity is asked for.
    """
    # What it takes and `parse_json` does not: constants that are no JSON, integers of more than 4,300 digits.
    if len(text) > MAX_DIGITS or "NaN" in text or "Infinity" in text:
        return False
    try:
        _object_validator()(text)
    except ValueError:
        return False
    return True


@functools.cache
def _object_validator() -> Callable[[str], object]:
    from pydantic_core import SchemaValidator, core_schema

    return SchemaValidator(core_schema.typed_dict_schema({}, extra_behavior="ignore")).validate_json


@functools.cache
def _from_json() -> Callable[..., object]:
    from jiter import from_json

    return from_json


def _deeper(value: object, limit: int) -> bool:
    """Whether a JSON value is nested more than `limit` levels deep."""
    layer = [value]
    for _ in range(limit + 1):
        below: list[object] = []
        containers = False
        for item in layer:
            if isinstance(item, dict):
                containers = True
                below.extend(item.values())
            elif isinstance(item, list):
                containers = True
                below.extend(item)
        if not containers:
            return False
        layer = below
    return True


def compile_schema(schema: Mapping[str, object]) -> SchemaCheck:
    """Compile a JSON Schema into a check that never raises; the 256 schemas used last are kept compiled.

    References are resolved inside the schema only: nothing is fetched and no file is read.

    Raises:
        ValueError: the schema is not valid, or refers to something outside of it; the message names what and where.
    """
    try:
        text = json.dumps(schema, default=_mapping, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the JSON Schema is not plain JSON: {error}"
        raise ValueError(msg) from None
    return _compiled(text)


def _mapping(value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        return dict(value)
    msg = f"{type(value).__name__} in a schema"
    raise TypeError(msg)


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> SchemaCheck:
    import jsonschema_rs

    try:
        validator: Any = jsonschema_rs.validator_for(text, offline=True)
    except Exception as error:  # noqa: BLE001 - all its errors are the schema's fault
        detail = getattr(error, "message", None) or str(error)
        where = "/".join(str(part) for part in getattr(error, "instance_path", ()) or ())
        msg = f"the JSON Schema is not valid{f' at /{where}' if where else ''}: {detail.splitlines()[0][:300]}"
        raise ValueError(msg) from None
    is_valid: Callable[[object], bool] = validator.is_valid

    def holds(value: object) -> bool:
        try:
            return is_valid(value)
        except Exception:  # noqa: BLE001 - a value the validator cannot read does not hold the schema
            return False

    return holds

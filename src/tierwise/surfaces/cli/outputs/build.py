"""Small pieces of JSON Schema: a value with its meaning, lists, mappings, records that know all their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def text(about: str = "", *, of: Sequence[str] = (), null: bool = False) -> Schema:
    """Text, or one word `of` those named; with `null`, also nothing."""
    if of:
        return _about({"enum": [*of, *([None] if null else [])]}, about)
    return _value("string", about, null)


def flag(about: str = "", *, null: bool = False) -> Schema:
    """True or false."""
    return _value("boolean", about, null)


def whole(about: str = "", *, null: bool = False, least: int | None = 0) -> Schema:
    """A whole number, 0 or more unless `least` says otherwise."""
    return _value("integer", about, null) | ({} if least is None else {"minimum": least})


def number(about: str = "", *, null: bool = False, least: float | None = None, most: float | None = None) -> Schema:
    """Any number within the bounds given."""
    bounds = {"minimum": least, "maximum": most}
    return _value("number", about, null) | {name: value for name, value in bounds.items() if value is not None}


def share(about: str = "", *, null: bool = False) -> Schema:
    """A share or rate in [0, 1]."""
    return number(about, null=null, least=0, most=1)


def several(item: Schema, about: str = "") -> Schema:
    """A list."""
    return _about({"type": "array", "items": item}, about)


def by_name(item: Schema, about: str = "") -> Schema:
    """An object whose keys are names that are data."""
    return _about({"type": "object", "additionalProperties": item}, about)


def record(fields: Mapping[str, Schema], about: str = "", *, optional: Sequence[str] = ()) -> Schema:
    """An object with these fields and no others; all are there but for those that are `optional`."""
    needed = [name for name in fields if name not in optional]
    return _about(
        {"type": "object", "properties": dict(fields), "required": needed, "additionalProperties": False}, about
    )


def part(name: str, about: str = "", *, null: bool = False) -> Schema:
    """A record that several documents share, by its name under `$defs`."""
    reference = {"$ref": f"#/$defs/{name}"}
    return _about({"anyOf": [reference, {"type": "null"}]} if null else reference, about)


def any_of(*forms: Schema, about: str = "") -> Schema:
    """One of several forms."""
    return _about({"anyOf": list(forms)}, about)


def _value(kind: str, about: str, null: bool) -> Schema:
    return _about({"type": [kind, "null"] if null else kind}, about)


def _about(schema: Schema, about: str) -> Schema:
    return schema | {"description": about} if about else schema

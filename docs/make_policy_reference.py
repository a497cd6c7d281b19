"""Writes policy-reference.md from the JSON Schema of tierwise.yaml: uv run python docs/make_policy_reference.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tierwise.config import json_schema

PAGE: Final = Path(__file__).with_name("policy-reference.md")

INTRODUCTION: Final = """# Policy reference

Every key of tierwise.yaml, made from its JSON Schema (`tierwise schema`) by `docs/make_policy_reference.py`.
[The policy](policy.md) explains how the keys work together. A key that is not listed here is an error, and so is a value of
another type: nothing is coerced.
"""

PARTS: Final = (
    ("PolicySpec", "The file"),
    ("Defaults", "defaults"),
    ("TaskSpec", "tasks: one task"),
    ("LadderSpec", "ladder"),
    ("LowConfidenceSpec", "ladder: low_confidence"),
    ("ReviewSpec", "review"),
    ("ConditionSpec", "conditions: one condition"),
    ("WhenSpec", "conditions: when"),
    ("ModelEntry", "models: one model"),
    ("PriceEntry", "prices: one model"),
)
"""The objects of the schema in the order of the page, and their headings."""

_FORMS: Final = {
    "|h|d|w)": "duration: `500ms`, `30m`, `12h`, `7d`, or seconds as a number",
    "|\\.[0-9]+)\\s*%": "share: `5%` or `0.05`",
}
"""What part of a text's pattern tells, in words; the number beside it is the same thing."""


def page() -> str:
    """The whole page as Markdown."""
    schema = json_schema()
    objects = {**schema["$defs"], "PolicySpec": schema}
    missing = set(objects) - {name for name, _ in PARTS}
    if missing:
        raise ValueError(f"PARTS does not name {', '.join(sorted(missing))}: add them, with a heading")
    common = set(objects["Defaults"]["properties"]) & set(objects["TaskSpec"]["properties"])
    sections = [INTRODUCTION]
    for name, title in PARTS:
        sections.append(_section(title, objects[name], leave_out=common if name == "TaskSpec" else set()))
    return "\n".join([*sections, _guardrails(objects["Defaults"]["properties"]["guardrails"])])


def _section(title: str, part: dict[str, Any], *, leave_out: set[str]) -> str:
    rows = [
        f"| `{key}`{' (required)' if key in part.get('required', ()) else ''} | {_kind(value)} | {_cell(value, part)} |"
        for key, value in part["properties"].items()
        if key not in leave_out
    ]
    more = ["Besides everything that `defaults` may set, but for `model`:", ""] if leave_out else []
    return "\n".join(
        [f"## {title}", "", _words(part), "", *more, "| key | value | meaning |", "| --- | --- | --- |", *rows, ""]
    )


def _guardrails(part: dict[str, Any]) -> str:
    (limits,) = (one for one in part["anyOf"] if one.get("type") == "object")
    metrics = ", ".join(f"`{name}`" for name in limits["properties"])
    examples = ", ".join(f"`{text}`" for text in next(iter(limits["properties"].values()))["anyOf"][0]["examples"])
    return f"## guardrails: the metrics\n\nA limit ({examples}) or a list of limits for any of: {metrics}.\n"


def _words(part: dict[str, Any]) -> str:
    text = " ".join(str(part.get("description", "")).split())
    return text if text.endswith(".") else f"{text}."


def _cell(part: dict[str, Any], parent: dict[str, Any]) -> str:
    own = "See its own table." if "$ref" in part else parent["description"]
    text = " ".join(str(part.get("description", own)).split())
    default = part.get("default")
    if default not in (None, []) and "default" not in text and not isinstance(default, dict):
        text = f"{text.rstrip('.')}; default {default}."
    return text.replace("|", "\\|")


def _kind(part: dict[str, Any]) -> str:
    """What a value may be, in words."""
    return " or ".join(dict.fromkeys(_kinds(part)))


def _kinds(part: dict[str, Any]) -> Iterator[str]:
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        title = dict(PARTS)[name]
        yield f"[{title.rpartition(': ')[2]}](#{anchor(title)})"
    elif "anyOf" in part:
        form = next(
            (words for sign, words in _FORMS.items() if any(sign in one.get("pattern", "") for one in part["anyOf"])),
            None,
        )
        for one in part["anyOf"]:
            if form is None or "const" in one:
                yield from _kinds(one)
        if form is not None:
            yield form
    elif "enum" in part:
        yield ", ".join(f"`{name}`" for name in part["enum"])
    elif "const" in part:
        yield f"`{part['const']}`"
    else:
        yield from _simple(part)


def _simple(part: dict[str, Any]) -> Iterator[str]:
    kind = part.get("type")
    if kind == "array":
        yield f"list of {_kind(part['items'])}"
    elif kind == "object":
        yield from _mapping(part)
    elif kind == "boolean":
        yield "`true`, `false`"
    elif kind in ("number", "integer"):
        yield f"{'number' if kind == 'number' else 'whole number'}{_range(part)}"
    elif kind == "string":
        yield f"text such as `{part['examples'][0]}`" if part.get("examples") else "text"
    elif kind is None:
        yield "anything"


def _mapping(part: dict[str, Any]) -> Iterator[str]:
    properties = part.get("properties")
    values = next(iter(part.get("patternProperties", {}).values()), part.get("additionalProperties"))
    if properties and list(properties) == ["loss"]:
        yield "`{loss: {value_of_success: USD}}`"
    elif properties:
        yield "limits by [metric](#guardrails-the-metrics)"
    elif isinstance(values, dict):
        yield f"by name: {_kind(values)}"
    else:
        yield "mapping"


def _range(part: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {part[name]:,}" for name, sign in words.items() if name in part]
    return f" ({', '.join(limits)})" if limits else ""


def anchor(title: str) -> str:
    """GitHub's anchor of a heading."""
    return "".join(sign for sign in title.lower().replace(" ", "-") if sign.isalnum() or sign in "-_")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

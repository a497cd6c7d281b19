"""Review: the request for a draft, and the request that has a stronger model improve it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

INSTRUCTION: Final = (
    "Review your answer above as a careful expert: correct every error, add what is missing, take out what is wrong. "
    "Keep the language and the format that were asked for. Reply with the improved answer alone."
)
_STREAM: Final = ("stream", "stream_options")


def draft_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request as a whole answer."""
    return {name: value for name, value in body.items() if name not in _STREAM}


def improving_body(body: Mapping[str, Any], draft: str) -> dict[str, Any] | None:
    """The request with the draft and the instruction behind it; `None` for one that has no place for them."""
    added = [{"role": "assistant", "content": draft}, {"role": "user", "content": INSTRUCTION}]
    messages = body.get("messages")
    if isinstance(messages, (list, tuple)):
        return {**body, "messages": [*messages, *added]}
    given = body.get("input")
    if isinstance(given, str):
        return {**body, "input": [{"role": "user", "content": given}, *added]}
    if isinstance(given, (list, tuple)):
        return {**body, "input": [*given, *added]}
    return None

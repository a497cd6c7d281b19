"""What conditions look at in a call, and the first one that matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tierwise.core.call import Risk
from tierwise.core.policy import Condition
from tierwise.core.records import dataclass

CHARS_PER_TOKEN: Final = 4
"""A rule of thumb for English text; code and other languages take more tokens."""
PART_TOKENS: Final = 800
"""What a part that is no text (an image, audio, a file) is taken as."""
_MAX_PARTS: Final = 10_000
_MAX_DEPTH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a call before it is sent. `input_tokens` is an estimate, `None` where no condition asks for it."""

    risk: Risk | None = None
    labels: Mapping[str, str]
    tools: bool = False
    input_tokens: int | None = None


def matches(condition: Condition, facts: Facts) -> bool:
    """Whether all that a condition names holds."""
    tokens = facts.input_tokens
    if condition.risk and facts.risk not in condition.risk:
        return False
    if condition.tools is not None and condition.tools != facts.tools:
        return False
    if condition.min_input_tokens is not None and (tokens is None or tokens < condition.min_input_tokens):
        return False
    if condition.max_input_tokens is not None and (tokens is None or tokens > condition.max_input_tokens):
        return False
    return all(facts.labels.get(name) == value for name, value in condition.labels.items())


def first_match(conditions: Sequence[Condition], facts: Facts) -> int | None:
    """The place of the first condition that matches."""
    return next((place for place, condition in enumerate(conditions) if matches(condition, facts)), None)


def asks_for_tokens(conditions: Sequence[Condition]) -> bool:
    """Whether a condition looks at the size of the input."""
    return any(one.min_input_tokens is not None or one.max_input_tokens is not None for one in conditions)


def offers_tools(body: Mapping[str, Any]) -> bool:
    """Whether a request offers tools (or functions, as they were called before)."""
    return bool(_list(body.get("tools")) or _list(body.get("functions")))


def estimated_input_tokens(body: Mapping[str, Any]) -> int:
    """About how many tokens a request sends: four characters each, 800 for a part that is no text.

    Reads messages, input, prompt, instructions and tools; bounded for anything that a body may hold.
    """
    budget = [_MAX_PARTS]
    chars = sum(_chars(body.get(name), budget, 0) for name in ("messages", "input", "prompt", "instructions", "tools"))
    return -(-chars // CHARS_PER_TOKEN)


def _chars(value: Any, budget: list[int], depth: int) -> int:
    if isinstance(value, str):
        return len(value)
    budget[0] -= 1
    if budget[0] < 0 or depth > _MAX_DEPTH:
        return 0
    if isinstance(value, Mapping):
        kind = value.get("type")
        if isinstance(kind, str) and ("image" in kind or "audio" in kind or "file" in kind):
            return PART_TOKENS * CHARS_PER_TOKEN
        return sum(_chars(item, budget, depth + 1) for name, item in value.items() if name not in ("role", "type"))
    if isinstance(value, (list, tuple)):
        return sum(_chars(item, budget, depth + 1) for item in value)
    return 0


def _list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value)

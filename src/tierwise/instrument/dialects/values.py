"""Reading values that somebody else made: models, dicts and sentinels, never trusted, never changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tierwise.core.call import Usage, make_usage
from tierwise.core.cost import provider_cost

MALFORMED: Final = "malformed"
"""Error type of an HTTP 200 whose JSON is not what the API answers with."""
_MAX_TEXT: Final = 256
_EMPTY: Final[dict[str, Any]] = {}
_INPUT_DETAILS: Final = {
    "cached_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_creation_tokens": "cache_write_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
    "audio_tokens": "input_audio_tokens",
}
_OUTPUT_DETAILS: Final = {"reasoning_tokens": "reasoning_tokens", "audio_tokens": "output_audio_tokens"}


def fields(value: Any) -> dict[str, Any]:
    """The fields of a response model or mapping as a dict (the model's own, not a copy); empty for anything else."""
    if type(value) is dict:
        return value
    try:
        found: dict[str, Any] = value.__dict__
    except AttributeError:
        return dict(value) if isinstance(value, Mapping) else _EMPTY
    return found if type(found) is dict else _EMPTY


def extra(value: Any, name: str) -> Any:
    """A field that the client's model does not declare (kept by pydantic as an extra), or `None`."""
    found = getattr(value, "__pydantic_extra__", None)
    return found.get(name) if type(found) is dict else None


def get(value: Any, name: str) -> Any:
    """A declared or undeclared field of a model or mapping, or `None`."""
    found = fields(value).get(name)
    return extra(value, name) if found is None else found


def listed(value: Any) -> list[Any]:
    """A list as it is, one object in place of a list of one as that, anything else as empty."""
    if isinstance(value, list):
        return value
    return [value] if fields(value) else []


def text_of(value: Any) -> str | None:
    """A short identifier: a non-empty string, cut at 256 characters; anything else is `None`."""
    return value[:_MAX_TEXT] if isinstance(value, str) and value else None


def number(value: Any) -> float | None:
    """A number as float; booleans, sentinels, strings and integers too large for a float are `None`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def integer(value: Any) -> int | None:
    """An integer; booleans, sentinels and other types are `None`."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def count(value: Any) -> int | None:
    """A token count: a non-negative integer below 2**53 (floats that are whole included), else `None`."""
    if type(value) is int:
        return value if 0 <= value < 1 << 53 else None
    if isinstance(value, float) and value.is_integer() and 0 <= value < 1 << 53:
        return int(value)
    return None


def strings(value: Any) -> tuple[str, ...] | None:
    """A string or a sequence of strings as a tuple, else `None`."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    return None


def content_text(value: Any) -> str | None:
    """The text of a message: a string, or the text parts of a list (reasoning parts are not the answer)."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        parts = [part if isinstance(part, str) else get(part, "text") for part in value]
        found = [part for part in parts if isinstance(part, str)]
        return "".join(found) if found else None
    return None


def usage_of(usage: Any) -> Usage | None:
    """Token counts under the chat API's names or the responses API's; `None` when there are none.

    Details may be null or missing; what is not reported stays `None`.
    """
    if usage is None:
        return None
    found = fields(usage)
    first, second = found.get("prompt_tokens"), found.get("completion_tokens")
    inputs, outputs = found.get("prompt_tokens_details"), found.get("completion_tokens_details")
    if first is None and second is None:
        first, second = get(usage, "input_tokens"), get(usage, "output_tokens")
        inputs, outputs = get(usage, "input_tokens_details"), get(usage, "output_tokens_details")
    input_tokens, output_tokens = count(first), count(second)
    if input_tokens is None and output_tokens is None:
        return None
    details: dict[str, int] = {}
    if inputs is not None:
        _details(inputs, _INPUT_DETAILS, details)
    if outputs is not None:
        _details(outputs, _OUTPUT_DETAILS, details)
    undeclared = getattr(usage, "__pydantic_extra__", None) or (found if found is usage else None)
    if not details and not undeclared:
        return make_usage(input_tokens, output_tokens)
    stated = None
    if undeclared:
        if "cache_read_tokens" not in details:
            cached = count(undeclared.get("prompt_cache_hit_tokens", undeclared.get("cached_tokens")))
            if cached is not None:
                details["cache_read_tokens"] = cached
        stated = provider_cost(undeclared)
    reasoning = details.get("reasoning_tokens")
    apart = bool(reasoning) and count(found.get("total_tokens")) == sum(
        filter(None, (input_tokens, output_tokens, reasoning))
    )
    return make_usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        provider_cost_usd=stated,
        reasoning_apart=apart,
        **details,
    )


def _details(value: Any, names: dict[str, str], into: dict[str, int]) -> None:
    """The known counts of a details object, declared or not."""
    for found in (fields(value), getattr(value, "__pydantic_extra__", None)):
        if not found:
            continue
        for name, number_of in found.items():
            if number_of is not None:
                known = names.get(name)
                if known is not None and known not in into:
                    tokens = count(number_of)
                    if tokens is not None:
                        into[known] = tokens


def token_logprobs(value: Any) -> list[float]:
    """The finite log probabilities of an answer's tokens, wherever an API puts them.

    A list of entries with `logprob` (responses), an object with such a list as `content` (chat) or with a list of
    numbers as `token_logprobs` (legacy completions, and chat on some servers).
    """
    listed = value if isinstance(value, list) else get(value, "content")
    if isinstance(listed, list):
        found = [number(get(entry, "logprob")) for entry in listed]
    else:
        listed = get(value, "token_logprobs")
        found = [number(entry) for entry in listed] if isinstance(listed, list) else []
    return [one for one in found if one is not None and math.isfinite(one)]


def mean_of(logprobs: Sequence[float]) -> float | None:
    """The mean; `None` for none, or when it has no finite value."""
    mean = sum(logprobs) / len(logprobs) if logprobs else math.nan
    return mean if math.isfinite(mean) else None


def fault_of(value: Any, name: str) -> str | None:
    """Why a body with nothing under `name`, where the answer belongs, is an error; `None` for an answer that is empty.

    An error object inside gives its own name. An empty list is an answer of nothing, and so is null in a body that says
    what it is, as some servers write an empty list so; anything else is `malformed`.
    """
    found = fields(value)
    listed = found.get(name)
    if isinstance(listed, list) and any(map(fields, listed)):
        return None
    error = extra(value, "error") or found.get("error") or (value if found.get("object") == "error" else None)
    if error:
        return error_type_of(error)
    status = get(extra(value, "base_resp"), "status_code")  # MiniMax
    if status:
        return error_type_of({"code": status})
    if listed == []:
        return None
    stated = name in getattr(value, "__pydantic_fields_set__", found)
    if listed is None and stated and (found.get("id") or found.get("model") or found.get("usage")):
        return None
    return MALFORMED


def error_type_of(error: Any) -> str:
    """A low-cardinality name for an error body: its code or type when that is a short word, else `_OTHER`."""
    for name in ("code", "type"):
        found = get(error, name)
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)[:64]
        if (
            isinstance(found, str)
            and 0 < len(found) <= 64
            and found.replace("_", "").replace("-", "").replace(".", "").isalnum()
        ):
            return found
    return "_OTHER"

"""Local clean-up of an answer before it is handed on: one Markdown code fence around JSON is taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from tierwise.core.jsonform import fence_body
from tierwise.instrument.dialects.values import fields

NOT_CLEANED: Final = object()
MARK: Final = "_tierwise_cleaned"
"""A private attribute, true on the response whose text was cleaned; it is in no dump of the response."""


def clean_result(result: Any, parsed: Any, parser: Callable[[Any], Any] | None) -> Any:
    """The response without the fence, the same object or what the client's own parser makes of it; `NOT_CLEANED` where
    nothing could be done.

    Args:
        result: what the request returned; `None` where the client's parser refused it.
        parsed: the response before that parser.
        parser: of the client (`.parse()`), which is run again on the cleaned response.
    """
    raw = result is not None and hasattr(result, "_parsed_by_type")
    before_parser = parsed if parser is not None and parsed is not None else result
    # A raw response keeps what it has parsed: `.parse()` gives the application the same object.
    target = result.parse() if raw else before_parser
    if target is None or not _take_off_fences(target):
        return NOT_CLEANED
    if not raw and parser is not None and parsed is not None:
        result = parser(target)
    mark(target)
    mark(result)
    return result


def mark(response: Any) -> None:
    """Say on a response that its text was cleaned."""
    if not isinstance(response, dict):
        object.__setattr__(response, MARK, True)


def _take_off_fences(response: Any) -> bool:
    found = False
    for holder, name in _texts(response):
        text = holder[name]
        body = fence_body(text)
        if body is not None:
            holder[name] = body.strip()
            found = True
    return found


def _texts(response: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the texts of a chat completion or a response are kept."""
    found = fields(response)
    for choice in found.get("choices") or ():
        said = fields(fields(choice).get("message"))
        if isinstance(said.get("content"), str):
            yield said, "content"
    for item in found.get("output") or ():
        for part in fields(item).get("content") or ():
            held = fields(part)
            if isinstance(held.get("text"), str):
                yield held, "text"

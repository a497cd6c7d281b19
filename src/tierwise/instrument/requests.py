"""The request of one call of a routed run: a copy of the caller's, with a candidate's model and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tierwise.instrument.lanes import Lane, headers_for
from tierwise.instrument.observation import RAW_RESPONSE_HEADER

if TYPE_CHECKING:
    from tierwise.instrument.hook import Hook

_set: Final = object.__setattr__


def with_candidate(body: Mapping[str, Any], lane: Lane) -> dict[str, Any]:
    """A request's body for one candidate, whose parameters win; null takes one away."""
    found = {**body, "model": lane.model}
    for name, value in lane.params.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return found


def with_body(options: Any, body: dict[str, Any], lane: Lane) -> Any:
    """A copy of a request's options with another body; the caller's stay as they are."""
    made = copied(options)
    made.__dict__["json_data"] = body  # past pydantic, which takes a µs for each field
    if made.extra_json is not None:
        made.extra_json = None  # the body holds what was extra
    if not lane.own:
        made.headers = headers_for(lane, made.headers)
    return made


def make_private(options: Any) -> None:
    """Have a request's answer for ourselves: decoded, whole, by no parser of the caller's."""
    headers = options.headers
    if isinstance(headers, Mapping):
        options.headers = {name: value for name, value in headers.items() if name != RAW_RESPONSE_HEADER}
    options.post_parser = _as_it_is


def keep_room(hook: Hook, task: str, body: dict[str, Any], *, raises: bool) -> None:
    """Look at the request's token limit, and raise it where it would cut the answer and the policy allows that."""
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        limit = body.get(name)
        if limit.__class__ is int:
            enough = hook.wiring.limits.enough(task, limit, raises=raises)
            if enough is not None:
                body[name] = enough
            return


def copied(options: Any) -> Any:
    """A copy of a request's options, at a fraction of what pydantic's own takes."""
    kind: Any = type(options)
    try:
        made = kind.__new__(kind)
        _set(made, "__dict__", dict(options.__dict__))
        _set(made, "__pydantic_fields_set__", set(options.__pydantic_fields_set__))
        _set(made, "__pydantic_extra__", options.__pydantic_extra__)
        _set(made, "__pydantic_private__", options.__pydantic_private__)
    except AttributeError:  # not a model of pydantic 2
        return options.copy()
    return made


def _as_it_is(value: Any) -> Any:
    return value

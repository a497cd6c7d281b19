"""The request of one call of a routed run: a copy of the caller's, with a candidate's model and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tierwise.instrument.lanes import Lane, headers_for
from tierwise.instrument.observation import RAW_RESPONSE_HEADER

if TYPE_CHECKING:
    from tierwise.instrument.hook import Hook

_new: Final = object.__new__
_members: Final[dict[type, tuple[Callable[[Any, Any], None], ...]]] = {}
_TOKEN_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")


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
    made = copied(options, body)
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
    for name in _TOKEN_LIMITS:
        if name in body:
            limit = body[name]
            if limit.__class__ is int:
                enough = hook.wiring.limits.enough(task, limit, raises=raises)
                if enough is not None:
                    body[name] = enough
                return


def copied(options: Any, body: dict[str, Any]) -> Any:
    """A copy of a request's options with another body, at a fraction of what pydantic's own takes."""
    kind = type(options)
    known = _members.get(kind)
    if known is None:
        known = _members[kind] = _members_of(kind)
    if not known:
        made = options.copy()
        made.json_data, made.extra_json = body, None
        return made
    made = _new(kind)
    values = options.__dict__.copy()
    values["json_data"] = body
    if values.get("extra_json") is not None:
        values["extra_json"] = None  # the body holds what was extra
    set_values, set_names, set_extra, set_private = known
    set_values(made, values)
    set_names(made, options.__pydantic_fields_set__.copy())
    set_extra(made, options.__pydantic_extra__)
    set_private(made, options.__pydantic_private__)
    return made


def _members_of(kind: type) -> tuple[Callable[[Any, Any], None], ...]:
    """What sets the parts of a model of pydantic 2 without a look-up by name; nothing for any other class."""
    found = []
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
        member = next((base.__dict__[name] for base in kind.__mro__ if name in base.__dict__), None)
        setter = getattr(member, "__set__", None)
        if setter is None:
            return ()
        found.append(setter)
    return tuple(found)


def _as_it_is(value: Any) -> Any:
    return value

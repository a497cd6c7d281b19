"""The call whose request is being sent: current on its thread or task, with its span, between `enter` and `leave`."""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from tierwise.instrument.guard import tell

if TYPE_CHECKING:
    from tierwise.instrument.observation import Observation

current: ContextVar[Observation | None] = ContextVar("tierwise_observation", default=None)
"""The call whose request is being sent on this thread or task; set only while `request` runs."""

Entered = tuple[Token["Observation | None"], object]


def enter(observation: Observation) -> Entered:
    """Make a call and its span current; undone by `leave`. Never raises."""
    span = None
    try:
        span = observation.hook.recorder.activate(observation.span)
    except Exception as fault:  # noqa: BLE001
        tell(observation.hook.recorder, "enter", fault)
    return current.set(observation), span


def leave(observation: Observation, entered: Entered) -> None:
    """Undo `enter`; harmless in another context, which never had it set. Never raises."""
    call, span = entered
    try:
        if span is not None:
            observation.hook.recorder.deactivate(span)
    except Exception as fault:  # noqa: BLE001
        with suppress(ValueError):
            if isinstance(span, Token):  # the application's own spans must not come out as children of this one
                span.var.reset(span)
        tell(observation.hook.recorder, "leave", fault)
    try:
        current.reset(call)
    except ValueError:  # the coroutine was closed from another context
        return

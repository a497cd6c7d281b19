"""The draw of a routed run, and the run that is over with its first success, which nearly every one is."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tierwise.core.call import Call, TaskContext
from tierwise.core.errors import RouteError
from tierwise.core.route import Draw
from tierwise.instrument.context import current_scope, effective_context
from tierwise.instrument.dialects.base import Dialect, Reading
from tierwise.instrument.guard import tell
from tierwise.instrument.ladder import Attempt, RoutedRun
from tierwise.instrument.lanes import Lane
from tierwise.instrument.observation import Observation
from tierwise.instrument.requests import keep_room, with_body

if TYPE_CHECKING:
    from tierwise.instrument.hook import Hook

AUTO: Final = "auto"
"""The model name that asks for routing."""
_ids: Final = random.Random()  # noqa: S311 - not the application's: its sequence stays as it is
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.seed)


class QuickRun:
    """The usual run: one whole answer of the instrumented client itself, and nothing to do after a success.

    It is what its call is routed by (see `Routed`); what is needed to go on is made only when its call was no success.
    """

    __slots__ = (
        "_body",
        "_dialect",
        "_draw",
        "_lane",
        "_options",
        "_raw_mode",
        "_run_id",
        "arm",
        "candidate",
        "context",
        "hook",
        "propensity",
        "rest",
        "version",
    )
    run: None = None

    def __init__(
        self,
        hook: Hook,
        dialect: Dialect,
        options: Any,
        body: Mapping[str, Any],
        raw_mode: str | None,
        context: TaskContext,
        run_id: str | None,
        draw: Draw,
        lane: Lane,
    ) -> None:
        self.hook, self._dialect, self._options, self._body, self._raw_mode = hook, dialect, options, body, raw_mode
        self.context, self._run_id, self._draw, self._lane = context, run_id, draw, lane
        self.candidate, self.arm, self.version, self.propensity = (
            draw.candidate,
            draw.arm,
            draw.version,
            draw.propensity,
        )
        self.rest: RoutedRun | None = None
        """The run from its second call on."""

    def attempt(self) -> tuple[Observation, Any]:
        """The call of the run and the options to send it with."""
        hook, lane = self.hook, self._lane
        body = {**self._body, "model": lane.model}
        keep_room(hook, self.context.name, body, raises=self._draw.raise_max_tokens)
        options = with_body(self._options, body, lane)
        return Observation(hook, self._dialect, body, False, self._raw_mode, None, self), options

    def begun(self, observation: Observation, options: Any) -> Attempt:
        """The call as the rest of the run knows it."""
        return Attempt(self._lane, observation, options, draft=False)

    def ended(self, observation: Observation, call: Call, reading: Reading, error: BaseException | None) -> Call:
        """The call is about to be recorded; gives the call to record."""
        if call.outcome == "success":
            usage = call.usage
            if usage is not None and usage.output_tokens is not None:
                self.hook.wiring.limits.add(self.context.name, usage.output_tokens)
            return call
        rest = RoutedRun(
            self.hook,
            self._dialect,
            self._options,
            self._body,
            self._raw_mode,
            self.context,
            self._run_id or new_run_id(),
            self._draw,
        )
        rest.joined(self._lane, observation.t0)
        call = rest.ended(observation, call, reading, error)
        self.rest = rest
        return call


def new_run_id() -> str:
    """An id for a run that the application gave none."""
    return f"{_ids.getrandbits(64):016x}"


def routed_run(
    hook: Hook, dialect: Dialect, options: Any, body: Mapping[str, Any], stream: bool, raw_mode: str | None
) -> RoutedRun | QuickRun:
    """Draw a run. Raises `RouteError` where nothing is known of its task."""
    scope = current_scope()
    context = effective_context(scope, hook.task)
    their_run = None if scope is None else scope.run
    draw, run_id = _drawn(hook, context, body)
    if not (stream or draw.several or draw.shadow or their_run is not None):
        candidate = draw.candidate
        if candidate not in hook.wiring.models:
            lane = hook.own_lanes.get(candidate) or hook.lanes.lane(hook, None, candidate)
            if lane is not None:
                return QuickRun(hook, dialect, options, body, raw_mode, context, run_id, draw, lane)
    return RoutedRun(
        hook,
        dialect,
        options,
        body,
        raw_mode,
        context,
        run_id or new_run_id(),
        draw,
        stream=stream,
        their_run=their_run,
    )


def _drawn(hook: Hook, context: TaskContext, body: Mapping[str, Any]) -> tuple[Draw, str | None]:
    """What the router says, and the run id where the draw depends on one; where it raises, the default model.

    Raises `RouteError` where nothing is known at all.
    """
    wiring, run_id = hook.wiring, context.run_id
    draw = None
    try:
        if wiring.router is not None:
            draw = wiring.router.settled(context)
            if draw is None:
                run_id = run_id or new_run_id()
                draw = wiring.router.draw(context, body, run_id)
    except Exception as fault:  # noqa: BLE001
        tell(hook.recorder, "router", fault)
        policy = wiring.policy_for(context.name)
        model = wiring.default_model or (policy.candidates[0] if policy and policy.candidates else hook.default_model)
        draw = None if model is None else Draw(task=context.name, candidate=model, arm="pinned")
    if draw is None:
        raise RouteError(
            f"model='auto': nothing is known of task {context.name!r}: no route, no candidates, no default; "
            'name the model, add the task or "*" to tierwise.yaml, or set defaults: {model: ...} there'
        )
    return draw, run_id

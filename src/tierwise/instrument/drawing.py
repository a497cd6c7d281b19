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
from tierwise.instrument.observation import Observation, make_routed
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

    What is needed to go on is made only when its call was none.
    """

    __slots__ = ("_body", "_context", "_dialect", "_draw", "_lane", "_options", "_raw_mode", "_run_id", "hook", "rest")

    def __init__(
        self,
        hook: Hook,
        dialect: Dialect,
        options: Any,
        body: Mapping[str, Any],
        raw_mode: str | None,
        context: TaskContext,
        run_id: str,
        draw: Draw,
        lane: Lane,
    ) -> None:
        self.hook, self._dialect, self._options, self._body, self._raw_mode = hook, dialect, options, body, raw_mode
        self._context, self._run_id, self._draw, self._lane = context, run_id, draw, lane
        self.rest: RoutedRun | None = None
        """The run from its second call on."""

    def attempt(self) -> Attempt:
        """The call of the run, ready to be sent."""
        hook, draw, lane = self.hook, self._draw, self._lane
        body = {**self._body, "model": lane.model}
        keep_room(hook, self._context.name, body, raises=draw.raise_max_tokens)
        options = with_body(self._options, body, lane)
        routed = make_routed(draw.candidate, draw.arm, draw.version, draw.propensity, self._context, None, self._ended)
        observation = Observation(hook, self._dialect, body, False, self._raw_mode, routed=routed)
        return Attempt(lane, observation, options, draft=False)

    def _ended(self, observation: Observation, call: Call, reading: Reading, error: BaseException | None) -> Call:
        if call.outcome == "success":
            self.hook.wiring.limits.saw(call)
            return call
        rest = RoutedRun(
            self.hook, self._dialect, self._options, self._body, self._raw_mode, self._context, self._run_id, self._draw
        )
        rest.joined(self._lane, observation.t0)
        call = rest.ended(observation, call, reading, error)
        self.rest = rest
        return call


def routed_run(
    hook: Hook, dialect: Dialect, options: Any, body: Mapping[str, Any], stream: bool, raw_mode: str | None
) -> RoutedRun | QuickRun:
    """Draw a run. Raises `RouteError` where nothing is known of its task."""
    scope = current_scope()
    context = effective_context(scope, hook.task)
    their_run = scope.run if scope is not None else None
    run_id = context.run_id or f"{_ids.getrandbits(64):016x}"
    draw = _drawn(hook, context, body, run_id)
    if not (stream or draw.several or draw.shadow or their_run is not None):
        lane = hook.lanes.lane(hook, None, draw.candidate) if draw.candidate not in hook.wiring.models else None
        if lane is not None:
            return QuickRun(hook, dialect, options, body, raw_mode, context, run_id, draw, lane)
    return RoutedRun(hook, dialect, options, body, raw_mode, context, run_id, draw, stream=stream, their_run=their_run)


def _drawn(hook: Hook, context: TaskContext, body: Mapping[str, Any], run_id: str) -> Draw:
    """What the router says; where it raises, the default model. Raises `RouteError` where nothing is known at all."""
    wiring = hook.wiring
    draw = None
    try:
        if wiring.router is not None:
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
    return draw

"""A routed run: which candidate is asked, by what request, and whether the run goes on to another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tierwise.core.call import Arm, Call, TaskContext, make_context
from tierwise.core.checks import min_confidence
from tierwise.core.jsonform import ABSENT, parse_or_absent
from tierwise.core.policy import Ladder
from tierwise.core.ports import ParseJson
from tierwise.core.route import Draw
from tierwise.instrument.cleanup import NOT_CLEANED, clean_result
from tierwise.instrument.dialects.base import Dialect, Reading
from tierwise.instrument.guard import quietly
from tierwise.instrument.lanes import Lane
from tierwise.instrument.observation import Observation, make_routed
from tierwise.instrument.requests import keep_room, make_private, with_body, with_candidate
from tierwise.instrument.review import draft_body, improving_body
from tierwise.instrument.runstate import RunState
from tierwise.instrument.shadow import shadow_of

if TYPE_CHECKING:
    from tierwise.instrument.hook import Hook

_OTHER_KEY: Final = frozenset({401, 403})
_NOT_THERE: Final = 404
_UNFIT: Final = ("cancelled", "error", "rejected", "empty", "filtered", "refused")


class Attempt:
    """One call of a run, ready to be sent."""

    __slots__ = ("draft", "lane", "observation", "options", "parser", "stream")

    def __init__(self, lane: Lane, observation: Observation, options: Any, *, draft: bool) -> None:
        self.lane = lane
        self.observation = observation
        self.options = options
        self.draft = draft
        """Its answer is not for the application."""
        self.stream = observation.stream
        parser = getattr(options, "post_parser", None)
        self.parser: Callable[[Any], Any] | None = parser if callable(parser) else None


class RoutedRun:
    """One run of `model="auto"`, from its draw to its last call."""

    __slots__ = (
        "_arm",
        "_body",
        "_candidate",
        "_closed",
        "_context",
        "_dialect",
        "_draft_next",
        "_following",
        "_options",
        "_raw_mode",
        "_review",
        "_run",
        "_run_id",
        "_shadow",
        "_t0",
        "_their_run",
        "_tried",
        "_unpriced",
        "_usd",
        "begun",
        "draw",
        "hook",
        "streams",
    )

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
        *,
        stream: bool = False,
        their_run: RunState | None = None,
    ) -> None:
        self._t0 = time.perf_counter()
        self._their_run, self._run_id = their_run, run_id
        self.hook, self._dialect, self._options, self._body = hook, dialect, options, body
        self.streams, self._raw_mode, self._context, self.draw = stream, raw_mode, context, draw
        self.begun: tuple[Attempt, Any, Exception | None] | None = None
        self._arm: Arm = draw.arm
        self._candidate: str | None = draw.candidate
        self._review = draw.review
        self._draft_next = draw.review is not None
        self._tried: list[Lane] = []
        self._usd, self._unpriced, self._closed = 0.0, False, False
        self._following: tuple[str, Arm] | None = None
        self._shadow: Callable[[Call], object] | None = None
        self._run = self._their_run
        if self._run is None and draw.several:
            self._run = RunState()
            self._context = _with_run_id(context, self._run_id)
            self._run.span = hook.recorder.start_run(self._context, time.time_ns())

    def joined(self, lane: Lane, t0: float) -> None:
        """The first call has been made already; it began at `t0` of `time.perf_counter`."""
        self._tried.append(lane)
        self._t0 = t0

    @property
    def hands_out_drafts(self) -> bool:
        """Whether a draft is an answer that the application could use as it is."""
        return not self.streams and self._raw_mode is None and not callable(getattr(self._options, "post_parser", None))

    @property
    def span(self) -> Any:
        """The span of the run, where its calls are to come out under one."""
        return None if self._run is None or self._their_run is not None else self._run.span

    def attempt(self, client: Any) -> Attempt | None:
        """The next call of the run; `None` when there is nobody left to ask."""
        draft = self._draft_next
        self._draft_next = False
        if draft and self._review is not None:
            self._candidate = self._review.draft
        lane = self._lane(client)
        if lane is None:
            return None
        body = draft_body(self._body) if draft else self._body
        options, body = self._shaped(lane, body, private=draft)
        routed = make_routed(  # by position, in the order of the fields of `Routed`
            self._candidate or lane.model,
            self._arm,
            self.draw.version,
            self.draw.propensity if self._arm != "fallback" else None,
            self._context,
            self._run,
            self.ended,
        )
        observation = Observation(
            lane.hook, self._dialect, body, self.streams and not draft, None if draft else self._raw_mode, routed=routed
        )
        made = Attempt(lane, observation, options, draft=draft)
        if self.draw.shadow > 0 and not self._tried:
            self._set_shadow(client)
        self._tried.append(lane)
        return made

    def ended(self, observation: Observation, call: Call, reading: Reading, error: BaseException | None) -> Call:
        """A call of the run is about to be recorded: the one way to know by then whether it is the only one of its run.

        The first call of a run that nobody named becomes a run of its own, as an unrouted call is, unless it is not to be
        the last.
        """
        if call.cost is not None:
            self._usd += call.cost.amount_usd
        elif call.outcome not in ("error", "rejected", "cancelled"):
            self._unpriced = True
        self.hook.wiring.limits.saw(call)
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            quietly(self.hook.recorder, "shadow", shadow, call)
        self._following = None if self._closed or self._draft_next else self._next(call, reading, error)
        if self._run is None and self._following is not None:
            self._context = _with_run_id(self._context, self._run_id)
            self._run = observation.run = RunState()
            self._run.adopt(self.hook.recorder, observation.started_at_ns, observation.t0)
            call = replace(call, context=self._context)
        return call

    def goes_on(self, attempt: Attempt, error: BaseException | None) -> bool:
        """Whether the run goes on to another call after this one, which has ended unless it streams on."""
        if attempt.draft:
            self._improve(attempt, error)
            return True
        following, self._following = self._following, None
        if following is None or attempt.observation.made is None:
            return False
        self._candidate, self._arm = following
        return True

    def cleaned(self, attempt: Attempt, result: Any) -> Any:
        """The result after local clean-up, or `NOT_CLEANED`; its call stays what it was, its run is a success."""
        call = attempt.observation.made
        if call is None or call.outcome != "json_fenced" or "json_fenced" not in self.draw.ladder.cleanup:
            return NOT_CLEANED
        if attempt.stream or attempt.observation.raw_mode == "stream" or attempt.draft:
            return NOT_CLEANED
        found = clean_result(result, attempt.observation.parsed, attempt.parser)
        if found is not NOT_CLEANED and self._run is not None:
            self._run.cleaned_at = attempt.observation.rung
        return found

    def may_peek(self, attempt: Attempt) -> bool:
        """Whether a stream is read up to its first content, since the run could still go on to another candidate."""
        return attempt.stream and attempt.observation.raw_mode is None and self._room() and bool(self._others())

    def end(self) -> None:
        """No further call: the run ends with its last one."""
        self._closed = True
        if self._run is not None and self._their_run is None:
            self._run.close()

    # -- who is next -----------------------------------------------------------------------------------------------

    def _next(self, call: Call, reading: Reading | None, error: BaseException | None) -> tuple[str, Arm] | None:
        if call.outcome == "cancelled" or not self._room():
            return None
        ladder = self.draw.ladder
        if call.outcome in ("error", "rejected") and call.outcome not in ladder.escalate_on:
            return self._fallback(getattr(error, "status_code", None), call)
        if not escalates(ladder, call, reading, self.hook.wiring.parse_json):
            return None
        names = self.draw.rungs if call.outcome != "error" else (*self.draw.rungs, *self.draw.fallbacks)
        following = next((name for name in names if not self._was_tried(name)), None)
        return None if following is None else (following, self._arm)

    def _fallback(self, status: Any, call: Call) -> tuple[str, Arm] | None:
        """Who takes over after an error: nobody where the request itself is at fault."""
        left = self._others()
        if call.outcome == "rejected":
            if status in _OTHER_KEY:
                tried = {lane.place for lane in self._tried}
                left = [name for name in left if self._upstream(name) not in tried]
            elif status != _NOT_THERE:
                return None
        return (left[0], "fallback") if left else None

    def _others(self) -> list[str]:
        names = dict.fromkeys((*self.draw.fallbacks, *self.draw.rungs))
        return [name for name in names if not self._was_tried(name)]

    def _was_tried(self, name: str) -> bool:
        spec = self.hook.wiring.models.get(name)
        model = name if spec is None else spec.model
        return any(
            lane.model == model and lane.place == self._upstream(name)
            and lane.params == ({} if spec is None else spec.params)
            for lane in self._tried
        )  # fmt: skip

    def _upstream(self, name: str) -> tuple[str | None, str | None]:
        spec = self.hook.wiring.models.get(name)
        return (None, None) if spec is None else (spec.upstream, spec.base_url)

    def _room(self) -> bool:
        """Whether rungs, budget and deadline leave room for another call."""
        ladder = self.draw.ladder
        if len(self._tried) >= ladder.max_rungs + (self.draw.review is not None):
            return False
        if ladder.deadline_s is not None and time.perf_counter() - self._t0 >= ladder.deadline_s:
            return False
        # What a call of unknown cost has cost cannot be kept to a budget.
        return ladder.budget_usd is None or (self._usd < ladder.budget_usd and not self._unpriced)

    def _lane(self, client: Any) -> Lane | None:
        """How the candidate whose turn it is is asked, or the first after it that can be."""
        hook = self.hook
        if self._candidate is not None:
            lane = hook.lanes.lane(hook, client, self._candidate)
            if lane is not None:
                return lane
        for name in self._others():
            lane = hook.lanes.lane(hook, client, name)
            if lane is not None:
                self._candidate, self._arm = name, "fallback"
                return lane
        return None

    # -- the request -----------------------------------------------------------------------------------------------

    def _shaped(self, lane: Lane, body: Mapping[str, Any], *, private: bool) -> tuple[Any, dict[str, Any]]:
        """The request's options and body for one candidate; the caller's are left as they are."""
        found = with_candidate(body, lane)
        keep_room(self.hook, self._context.name, found, raises=self.draw.raise_max_tokens)
        options = with_body(self._options, found, lane)
        if private:
            make_private(options)
        deadline = self.draw.ladder.deadline_s
        if deadline is not None and self._tried:
            options.timeout = max(deadline - (time.perf_counter() - self._t0), 0.001)
            options.max_retries = 0
        return options, found

    # -- review ----------------------------------------------------------------------------------------------------

    def _improve(self, attempt: Attempt, error: BaseException | None) -> None:
        """After the draft: the stronger model is asked to improve it, or to answer by itself where there is none."""
        if self._review is None:
            return
        self._candidate = self._review.model
        call, reading = attempt.observation.made, attempt.observation.reading
        if error is not None or call is None or reading is None or call.outcome in _UNFIT or len(reading.choices) != 1:
            return
        choice = reading.choices[0]
        if choice.text and not choice.tool_calls:
            self._body = improving_body(self._body, choice.text) or self._body

    # -- shadow ----------------------------------------------------------------------------------------------------

    def _set_shadow(self, client: Any) -> None:
        wiring, draw = self.hook.wiring, self.draw
        if self._their_run is not None or self._arm == "fallback" or not wiring.prices.ready:
            return
        name = wiring.router.challenger(draw, self._run_id) if wiring.router is not None else None
        lane = self.hook.lanes.lane(self.hook, client, name) if name is not None else None
        if name is None or lane is None:
            return
        options, body = self._shaped(lane, draft_body(self._body), private=True)
        self._shadow = partial(
            shadow_of,
            candidate=name,
            lane=lane,
            client=client if lane.client is None else lane.client,
            options=options,
            body=body,
            dialect=self._dialect,
            draw=draw,
            context=_with_run_id(self._context, None),
            pool=wiring.shadows,
        )


def escalates(ladder: Ladder, call: Call, reading: Reading | None, parse_json: ParseJson) -> bool:
    """Whether a call's outcome, or the low confidence of a successful one, sends its run on to the next rung."""
    if call.outcome in ladder.escalate_on:
        return True
    if call.outcome != "success":
        return False
    least = ladder.min_check_score
    if least is not None and any(check.score < least for check in call.checks):
        return True
    choices = [] if reading is None else [one for one in reading.choices if one.text and not one.tool_calls]
    if ladder.min_mean_logprob is not None and any(
        one.mean_logprob is not None and one.mean_logprob < ladder.min_mean_logprob for one in choices
    ):
        return True
    if ladder.confidence_field is None or ladder.min_confidence is None:
        return False
    stated = min_confidence(field=ladder.confidence_field)
    values = (parse_or_absent(one.text or "", parse_json) for one in choices)
    return any((0.0 if value is ABSENT else stated(value) or 0.0) < ladder.min_confidence for value in values)


def _with_run_id(context: TaskContext, run_id: str | None) -> TaskContext:
    return make_context(
        name=context.name,
        risk=context.risk,
        expects=context.expects,
        schema=context.schema,
        labels=context.labels,
        prompt_version=context.prompt_version,
        run_id=run_id,
        randomised=context.randomised,
        route=context.route,
        session=context.session,
        round=context.round,
    )

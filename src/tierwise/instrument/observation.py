"""The life of one observed call: begin, tries, answer or error, finished exactly once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tierwise.core.call import Answer, Arm, Call, Request, TaskContext, Try, make_call
from tierwise.core.cost import Cost, Rates, cost_of, provider_cost
from tierwise.core.outcome import Choice, Judgement, outcome_of_error
from tierwise.core.records import dataclass, maker, quick
from tierwise.instrument.background import open_responses
from tierwise.instrument.content import content_of
from tierwise.instrument.context import current_scope, effective_context
from tierwise.instrument.dialects.base import Dialect, Endpoint, Reading, StreamReader
from tierwise.instrument.guard import quietly, tell
from tierwise.instrument.judging import LatePrice, json_expected, judge_reading
from tierwise.instrument.marks import Mark, fill
from tierwise.instrument.runstate import RunState

if TYPE_CHECKING:
    from tierwise.instrument.drawing import QuickRun
    from tierwise.instrument.hook import Hook

RAW_RESPONSE_HEADER: Final = "X-Stainless-Raw-Response"
_COST_HEADER: Final = "x-litellm-response-cost"
_NOTHING: Final = Reading(answer=Answer(), usage=None, choices=())
_UNREAD: Final = Reading(answer=Answer(), usage=None, choices=(Choice(has_other_output=True),))


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """What routing says of one call: who is asked, as which arm, in which run."""

    candidate: str
    arm: Arm
    version: int
    propensity: float | None
    context: TaskContext
    run: RunState | None
    ended: Callable[[Observation, Call, Reading, BaseException | None], Call] | None = None
    """Told of the finished call before it is recorded; gives the call to record."""


make_routed: Final = maker(Routed)


class Observation:
    """One call between its request and its end. All methods may be called from any thread; the first end counts."""

    covers = False
    """Calls of clients inside this one belong to it (litellm's openai client, say)."""

    __slots__ = (
        "_once",
        "_recorded",
        "background",
        "backoff_s",
        "body",
        "chunks",
        "context",
        "cost_header",
        "dialect",
        "expects_json",
        "first_at",
        "hide_usage",
        "hook",
        "http_response",
        "last_at",
        "made",
        "mark",
        "parsed",
        "raw_mode",
        "reading",
        "request",
        "retries",
        "routed",
        "run",
        "rung",
        "span",
        "started_at_ns",
        "stream",
        "stream_attached",
        "t0",
        "tries",
        "try_t0",
    )  # fmt: skip

    def __init__(
        self,
        hook: Hook,
        dialect: Dialect,
        body: Mapping[str, Any],
        stream: bool,
        raw_mode: str | None = None,
        endpoint: Endpoint | None = None,
        routed: Routed | QuickRun | None = None,
    ) -> None:
        self.hook, self.dialect, self.stream, self.body, self.raw_mode = hook, dialect, stream, body, raw_mode
        self.request: Request = dialect.request(body, endpoint or hook.endpoint, stream=stream)
        self.routed = routed
        if routed is None:
            scope = current_scope()
            self.context: TaskContext = effective_context(scope, hook.task)
            self.run: RunState | None = scope.run if scope is not None else None
        else:
            self.context, self.run = routed.context, routed.run
        self.rung = 0
        self.made: Call | None = None
        """The finished call, of a routed one only: whether to go on depends on it."""
        self.mark: Mark | None = None
        """What the response carries; made when the call ends, or when its stream is handed out."""
        self.reading: Reading | None = None
        self._once = [True]
        self._recorded = False
        self.http_response: Any = None
        """Only until `request` returns: a lasting reference would make a cycle with a watched response."""
        self.cost_header: Any = None
        self.parsed: Any = None
        self.expects_json = self.request.expects_json
        self.background = body.get("background") is True
        """The response may go on being made after the request (the responses API)."""
        self.stream_attached = self.hide_usage = False
        self.first_at = self.last_at = 0.0
        self.chunks = self.retries = 0
        self.backoff_s = 0.0
        self.tries: list[Try] = []
        self.started_at_ns = time.time_ns()
        self.t0 = self.try_t0 = time.perf_counter()
        self.span = hook.recorder.start(self.request, self.context, self.started_at_ns)
        if self.run is not None:
            self.rung = self.run.begin(hook.recorder)

    def may_ask_usage(self) -> bool:
        """Whether usage may be asked for: the host takes it, the caller sees no raw bytes and said nothing about it."""
        stated = self.body.get("stream_options")
        return (
            self.hook.usage_wanted
            and self.raw_mode is None
            and self.dialect.asks_usage
            and (stated is None or (isinstance(stated, Mapping) and "include_usage" not in stated))
        )

    def ask_usage(self) -> dict[str, Any]:
        """The stream options that ask for usage; the chunk that it brings is kept back from the caller."""
        self.hide_usage = True
        return {**(self.body.get("stream_options") or {}), "include_usage": True}

    # -- while the request runs ------------------------------------------------------------------------------------

    def responded(self, response: Any) -> None:
        """The last try's HTTP response is there, its body perhaps not yet."""
        self.http_response = response
        if not self.hook.first_party:
            self.cost_header = response.headers.get(_COST_HEADER)

    def try_failed(self, response: Any, ended_t0: float, backoff_s: float, *, again: bool) -> None:
        """A try failed and the client has slept; `again` says that it goes on to the next one."""
        error = sys.exc_info()[1]
        status = getattr(response, "status_code", None)
        name = None if status is not None or error is None else type(error).__name__
        ended_at_ns = self._at_ns(ended_t0)
        self.tries.append(
            Try(number=self.retries, status=status, error_type=name, backoff_s=backoff_s, ended_at_ns=ended_at_ns)
        )
        self.backoff_s += backoff_s
        if again:
            self.retries += 1

    # -- ends: the first of them ends the call -----------------------------------------------------------------------

    def failed(self, error: BaseException) -> None:
        """The request, or what the client does with a response, raised."""
        self._end("failed", self._parsed, error)

    def stream_failed(self, reader: StreamReader, error: BaseException) -> None:
        """A stream broke while it was read; what it had said so far is kept."""
        if self.background and self._stays_open(reader.reading, ended=reader.finished):
            return
        self._end("stream_failed", reader.reading, error, streamed=True)

    def answered(self, value: Any) -> None:
        """The whole response is there: a client model, decoded JSON, or text and bytes that are none."""
        if self.parsed is not None:
            value = self.parsed
        if self.background and self._stays_open(partial(self._read, value), ended=False):
            return
        if not self._claim():
            return
        try:
            self._finish(self._read(value), None)
        except Exception as fault:  # noqa: BLE001
            self._finish_plainly(None)
            tell(self.hook.recorder, "answered", fault)

    def answered_unread(self, fault: Exception) -> None:
        """The whole response went to the application, but tierwise could not look at it."""
        self._end("raw", lambda: _UNREAD)
        tell(self.hook.recorder, "raw", fault)

    def stream_ended(self, reader: StreamReader, *, exhausted: bool) -> None:
        """A stream ended: exhausted, or left early by the application."""

        if self.background and self._stays_open(reader.reading, ended=reader.finished):
            return

        def reading() -> Reading:
            found = reader.reading()
            if reader.finished or not exhausted:
                return found
            return replace(found, cut=found.usage is None)

        self._end("stream_ended", reading, abandoned=lambda: not (exhausted or reader.finished))

    def abandoned(self) -> None:
        """Nobody will collect the response that this call has open."""
        self._end("abandoned", lambda: _NOTHING, abandoned=lambda: True)

    def _stays_open(self, read: Callable[[], Reading], *, ended: bool) -> bool:
        """Keep the call open when its response is still being made: a later request collects it."""
        if ended or self.ended:
            return False
        try:
            reading = read()
            if reading.pending and reading.answer.id is not None:
                open_responses.keep(reading.answer.id, self)
                return True
        except Exception as fault:  # noqa: BLE001
            tell(self.hook.recorder, "background", fault)
        return False

    def _parsed(self) -> Reading:
        return _NOTHING if self.parsed is None else self.dialect.response(self.parsed)

    def _read(self, value: Any) -> Reading:
        reading = self.dialect.response(value)
        return replace(reading, error_type="not_json") if value.__class__ in (str, bytes) else reading

    def _end(
        self,
        where: str,
        read: Callable[[], Reading],
        error: BaseException | None = None,
        *,
        streamed: bool = False,
        abandoned: Callable[[], bool] | None = None,
    ) -> None:
        if not self._claim():
            return
        try:
            left = abandoned is not None and abandoned()
            self._finish(read(), error, streamed=streamed, abandoned=left)
        except Exception as fault:  # noqa: BLE001
            self._finish_plainly(error)
            tell(self.hook.recorder, where, fault)

    def _finish_plainly(self, error: BaseException | None) -> None:
        """After a fault of ours: the call with what is certain, so that it is neither lost nor left open."""
        if self._recorded:
            return
        self._recorded = True
        request, routed = self.request, self.routed
        candidate = request.model if routed is None else routed.candidate
        try:
            epoch = self.hook.epoch(candidate, None, None, self.context.prompt_version)
        except Exception:  # noqa: BLE001 - the fault that brought us here is the one that is told
            epoch = ""
        outcome = (
            "success"
            if error is None
            else outcome_of_error(getattr(error, "status_code", None), not isinstance(error, Exception))
        )
        call = make_call(
            request=request,
            context=self.context,
            answer=Answer(),
            outcome=outcome,
            candidate=candidate,
            epoch=epoch,
            started_at_ns=self.started_at_ns,
            duration_s=time.perf_counter() - self.t0,
            error_type=None if error is None or outcome == "cancelled" else type(error).__name__,
            retries=self.retries,
            arm="pinned" if routed is None else routed.arm,
            rung=self.rung,
            route_version=None if routed is None else routed.version,
            propensity=None if routed is None else routed.propensity,
            expects_json=self.expects_json,
        )
        self.made = call if routed is not None else None
        quietly(self.hook.recorder, "mark", fill, self, call, None)
        try:
            self.hook.recorder.finish(self.span, call)
        finally:
            if self.run is not None:
                self.run.done(call)

    def _claim(self) -> bool:
        try:
            return self._once.pop()  # atomic: the first to end the call ends it
        except IndexError:
            return False

    @property
    def ended(self) -> bool:
        """Whether the call has been finished."""
        return not self._once

    def _finish(
        self, reading: Reading, error: BaseException | None, *, streamed: bool = False, abandoned: bool = False
    ) -> None:
        ended = time.perf_counter()
        self.expects_json = json_expected(self)
        judgement = self._judge(reading, error, streamed=streamed, abandoned=abandoned)
        if isinstance(error, Exception) and self.parsed is None and not reading.choices:
            self._last_try_failed(error)
        answer, hook, request, routed = reading.answer, self.hook, self.request, self.routed
        candidate = request.model if routed is None else routed.candidate
        usage = reading.usage
        if self.cost_header is not None and usage is not None and usage.provider_cost_usd is None:
            usage = replace(usage, provider_cost_usd=self._header_cost())
        rates = self._rates(answer)
        cost: Cost | None = cost_of(usage, rates) if usage is not None else None
        trace_id, span_id = hook.recorder.ids(self.span)
        chunks, first_at = self.chunks, self.first_at
        call = make_call(  # by position, in the order of the fields of `Call`
            request,
            self.context,
            answer,
            judgement.outcome,
            candidate,
            hook.epoch(candidate, answer.model, rates, self.context.prompt_version),
            self.started_at_ns,
            ended - self.t0,
            self._error_type(reading, error, judgement),
            usage,
            cost,
            judgement.json_form,
            self.expects_json,
            judgement.checks,
            judgement.advice,
            self.retries,
            self.backoff_s,
            ended - self.try_t0,
            tuple(self.tries),
            first_at - self.t0 if first_at else None,
            (self.last_at - first_at) / (chunks - 1) if chunks > 1 else None,
            chunks,
            "pinned" if routed is None else routed.arm,
            self.rung,
            None if routed is None else routed.version,
            None if routed is None else routed.propensity,
            trace_id,
            span_id,
        )
        if routed is not None:
            if routed.ended is not None:
                call = routed.ended(self, call, reading, error)
            self.made, self.reading = call, reading
        pending = not hook.wiring.prices.ready and (usage is not None and cost is None)
        content = content_of(self.body, reading.choices) if hook.recorder.captures_content else None
        price_later = LatePrice(self) if pending else None
        fill(self, call, self if pending else None)
        self._recorded = True
        try:
            hook.recorder.finish(self.span, call, price_later=price_later, content=content)
        finally:
            if self.run is not None and price_later is None:
                self.run.done(call)
        for fault in judgement.faults:
            tell(hook.recorder, "check", fault)

    _judge = judge_reading

    def _error_type(self, reading: Reading, error: BaseException | None, judgement: Judgement) -> str | None:
        if error is not None:
            return None if judgement.outcome == "cancelled" else type(error).__name__
        return reading.error_type

    def _last_try_failed(self, error: Exception) -> None:
        status = getattr(error, "status_code", None)
        cause = error.__cause__
        name = None if status is not None else type(cause or error).__name__
        ended_at_ns = self._at_ns(time.perf_counter())
        self.tries.append(Try(number=self.retries, status=status, error_type=name, ended_at_ns=ended_at_ns))

    def _at_ns(self, t: float) -> int:
        """A moment of the monotonic clock as Unix nanoseconds within the call, wherever the wall clock has jumped to."""
        return self.started_at_ns + int((t - self.t0) * 1e9)

    def _header_cost(self) -> float | None:
        return provider_cost(None, {_COST_HEADER: self.cost_header})

    def _rates(self, answer: Answer) -> Rates | None:
        request = self.request
        return self.hook.wiring.prices.rates(
            provider=request.provider,
            model=request.model,
            response_model=answer.model,
            service_tier=answer.service_tier or request.service_tier,
        )

    def priced(self, call: Call) -> Call:
        """Price a call that ended before the catalogue was there; runs on the worker."""
        wiring = self.hook.wiring
        if wiring.wait_for_prices is not None:
            wiring.wait_for_prices()
        rates = self._rates(call.answer)
        epoch = self.hook.epoch(call.candidate, call.answer.model, rates, call.context.prompt_version)
        return replace(call, cost=cost_of(call.usage, rates) if call.usage is not None else None, epoch=epoch)

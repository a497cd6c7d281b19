"""The life of one observed call: begin, tries, answer or error, finished exactly once."""

from __future__ import annotations

import json
import marshal
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from tierwise.core.call import UNASSIGNED, Answer, Call, Request, TaskContext, Try
from tierwise.core.checks import Check
from tierwise.core.cost import Cost, Rates, cost_of, provider_cost
from tierwise.core.epoch import epoch_of
from tierwise.core.outcome import Expectation, Judgement, judge, outcome_of_error
from tierwise.core.policy import TaskPolicy
from tierwise.core.ports import CompileSchema, ParseJson, PriceBook, Recorder, SchemaCheck
from tierwise.instrument.content import content_of
from tierwise.instrument.context import RunState, current_scope, effective_context
from tierwise.instrument.dialects import dialect_for
from tierwise.instrument.dialects.base import Dialect, Endpoint, Reading
from tierwise.instrument.providers import STREAM_USAGE, provider_of

RAW_RESPONSE_HEADER: Final = "X-Stainless-Raw-Response"
_COST_HEADER: Final = "x-litellm-response-cost"
_NOTHING: Final = Reading(answer=Answer(), usage=None, choices=())
_MAX_CACHED: Final = 4096

current: ContextVar[Observation | None] = ContextVar("tierwise_observation", default=None)
"""The call whose request is being sent on this thread or task; set only while `request` runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What the composition root hands to the hook: read once, when a client is instrumented."""

    recorder: Recorder
    prices: PriceBook
    parse_json: ParseJson
    compile_schema: CompileSchema
    policy_for: Callable[[str], TaskPolicy | None]
    checks_for: Callable[[str], tuple[Check, ...]]
    candidate_params: Mapping[str, Mapping[str, object]]
    stream_usage: bool | None = None
    wait_for_prices: Callable[[], object] | None = None


class SchemaCache:
    """Compiled schemas by value; a schema that does not compile is remembered as no check, and reported once."""

    def __init__(self, compile_schema: CompileSchema, report: Callable[[str, BaseException], None]) -> None:
        self._compile, self._report = compile_schema, report
        self._known: dict[bytes, SchemaCheck | None] = {}

    def check(self, schema: Mapping[str, object] | None) -> SchemaCheck | None:
        """The check of a schema, or `None` without a (usable) schema."""
        if schema is None:
            return None
        try:
            key = marshal.dumps(
                cast(Any, schema), 2
            )  # version 2 writes no references, so equal values give equal bytes
        except ValueError:
            key = json.dumps(schema, default=str).encode()
        if key in self._known:
            return self._known[key]
        found: SchemaCheck | None
        try:
            found = self._compile(schema)
        except Exception as error:  # noqa: BLE001 - somebody's schema, not our fault: judged as JSON without one
            self._report("schema", error)
            found = None
        if len(self._known) < _MAX_CACHED:
            self._known[key] = found
        return found


class Hook:
    """What an instrumented client carries: its endpoint, its default task and the wiring."""

    __slots__ = (
        "_epochs",
        "_last_epochs",
        "_limits",
        "endpoint",
        "first_party",
        "original_class",
        "recorder",
        "schemas",
        "task",
        "usage_wanted",
        "wiring",
    )

    def __init__(self, *, wiring: Wiring, base_url: Any, task: str | None, original_class: type) -> None:
        self.wiring = wiring
        self.recorder = wiring.recorder
        self.task = task or UNASSIGNED
        self.original_class = original_class
        self.endpoint = endpoint_of(base_url)
        self.first_party = self.endpoint.provider != self.endpoint.address
        """A known provider's own host: no gateway that would state a cost in a header."""
        self.usage_wanted = (
            wiring.stream_usage if wiring.stream_usage is not None else self.endpoint.provider in STREAM_USAGE
        )
        self.schemas = SchemaCache(wiring.compile_schema, wiring.recorder.internal_error)
        self._epochs: dict[tuple[Any, ...], str] = {}
        self._last_epochs: dict[tuple[str, str | None], str] = {}
        self._limits: dict[int | None, Expectation] = {}

    def for_copy(self, base_url: Any) -> Hook:
        """The hook of a copied client, whose base URL may differ."""
        return Hook(wiring=self.wiring, base_url=base_url, task=self.task, original_class=self.original_class)

    def begin(self, options: Any, stream: bool, stream_cls: Any) -> Observation | None:
        """Start observing a request; `None` for requests that are not inference. Never raises."""
        try:
            dialect = dialect_for(options.method, options.url)
            body = options.json_data if dialect is not None else None
            if dialect is None or not (type(body) is dict or isinstance(body, Mapping)):
                return None
            return Observation(self, dialect, body, options, stream, stream_cls)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not reach the call
            self.recorder.internal_error("begin", error)
            return None

    def limited(self, max_tokens: int | None) -> Expectation:
        """An expectation of nothing but a token limit, cached."""
        found = self._limits.get(max_tokens)
        if found is None:
            found = Expectation(max_tokens=max_tokens)
            if len(self._limits) < _MAX_CACHED:
                self._limits[max_tokens] = found
        return found

    def epoch(self, candidate: str, model: str | None, rates: Rates | None, prompt_version: str | None) -> str:
        """The candidate's epoch, cached by what it is made from.

        A call that failed names no response model: it belongs to the epoch that the candidate was last seen in.
        """
        if model is None:
            last = self._last_epochs.get((candidate, prompt_version))
            if last is not None:
                return last
        key = (candidate, model, None if rates is None else rates.identity, prompt_version)
        found = self._epochs.get(key)
        if found is None:
            found = epoch_of(
                response_model=model,
                rates_identity=key[2],
                params=self.wiring.candidate_params.get(candidate),
                prompt_version=prompt_version,
            )
            if len(self._epochs) < _MAX_CACHED:
                self._epochs[key] = found
        if model is not None and len(self._last_epochs) < _MAX_CACHED:
            self._last_epochs[candidate, prompt_version] = found
        return found


def endpoint_of(base_url: Any) -> Endpoint:
    """Provider, address and port of a client's base URL (an httpx URL or a string)."""
    if isinstance(base_url, str) or not hasattr(base_url, "host"):
        from urllib.parse import urlsplit

        parts = urlsplit(str(base_url))
        host, port, scheme = parts.hostname, parts.port, parts.scheme
    else:
        host, port, scheme = base_url.host, base_url.port, base_url.scheme
    return Endpoint(
        provider=provider_of(host), address=host or None, port=port or {"http": 80, "https": 443}.get(scheme)
    )


class Observation:
    """One call between its request and its end. All methods may be called from any thread; the first end counts."""

    __slots__ = (
        "_once",
        "backoff_s",
        "body",
        "chunks",
        "context",
        "cost_header",
        "dialect",
        "first_at",
        "hide_usage",
        "hook",
        "http_response",
        "last_at",
        "options",
        "parsed",
        "raw_mode",
        "request",
        "retries",
        "run",
        "rung",
        "span",
        "started_at_ns",
        "stream",
        "stream_attached",
        "stream_cls",
        "t0",
        "tries",
        "try_t0",
    )  # fmt: skip

    def __init__(
        self, hook: Hook, dialect: Dialect, body: Mapping[str, Any], options: Any, stream: bool, stream_cls: Any
    ) -> None:
        self.hook, self.dialect, self.stream, self.stream_cls = hook, dialect, bool(stream), stream_cls
        if options.extra_json is not None and isinstance(options.extra_json, Mapping):
            body = {**body, **options.extra_json}
        self.body = body
        headers = options.headers
        self.raw_mode: str | None = headers.get(RAW_RESPONSE_HEADER) if isinstance(headers, dict) else None
        self.request: Request = dialect.request(body, hook.endpoint, stream=self.stream)
        scope = current_scope()
        self.context: TaskContext = effective_context(scope, hook.task)
        self.run: RunState | None = scope.run if scope is not None else None
        self.rung = 0
        self._once = [True]
        self.http_response: Any = None
        """Only until `request` returns: a lasting reference would make a cycle with a watched response."""
        self.cost_header: Any = None
        self.parsed: Any = None
        self.stream_attached = self.hide_usage = False
        self.first_at = self.last_at = 0.0
        self.chunks = self.retries = 0
        self.backoff_s = 0.0
        self.tries: list[Try] = []
        self.options = self._observed_options(options)
        self.started_at_ns = time.time_ns()
        self.t0 = self.try_t0 = time.perf_counter()
        self.span = hook.recorder.start(self.request, self.context, self.started_at_ns)
        if self.run is not None:
            self.rung = self.run.begin(hook.recorder)

    def _observed_options(self, options: Any) -> Any:
        """The options to send: a copy where the post-parser is watched or the stream's usage is asked for."""
        parser = options.post_parser
        watched = callable(parser)
        asks = self.stream and self.hook.usage_wanted and self._may_ask(options.extra_json)
        if not watched and not asks:
            return options
        copied = options.model_copy() if hasattr(options, "model_copy") else options.copy()
        if watched:
            copied.post_parser = self._watch(parser)
        if asks:
            copied.json_data = {
                **options.json_data,
                "stream_options": {**(self.body.get("stream_options") or {}), "include_usage": True},
            }
            self.hide_usage = True
        return copied

    def _may_ask(self, extra_json: Any) -> bool:
        """Whether usage may be asked for: the caller sees no raw bytes and has said nothing about it."""
        stated = self.body.get("stream_options")
        return (
            self.raw_mode is None
            and self.dialect.asks_usage
            and (stated is None or (isinstance(stated, Mapping) and "include_usage" not in stated))
            and not (isinstance(extra_json, Mapping) and "stream_options" in extra_json)
        )

    def _watch(self, parser: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def watched(parsed: Any) -> Any:
            self.parsed = parsed
            return parser(parsed)

        return watched

    # -- while the request runs ------------------------------------------------------------------------------------

    def enter(self) -> tuple[Token[Observation | None], object]:
        """Make this call and its span current; undone by `leave`."""
        return current.set(self), self.hook.recorder.activate(self.span)

    def leave(self, tokens: tuple[Token[Observation | None], object]) -> None:
        """Undo `enter`; harmless in another context."""
        self.hook.recorder.deactivate(tokens[1])
        try:
            current.reset(tokens[0])
        except ValueError:  # the coroutine was closed from another context, which never had it set
            return

    def responded(self, response: Any) -> None:
        """The last try's HTTP response is there, its body perhaps not yet."""
        self.http_response = response
        if not self.hook.first_party:
            try:
                self.cost_header = response.headers.get(_COST_HEADER)
            except Exception as fault:  # noqa: BLE001
                self.hook.recorder.internal_error("responded", fault)

    def try_started(self) -> None:
        """A new HTTP request of this call is being built."""
        self.try_t0 = time.perf_counter()

    def try_failed(self, response: Any, ended_at_ns: int, backoff_s: float) -> None:
        """A try failed and the client has slept before the next one."""
        error = sys.exc_info()[1]
        status = getattr(response, "status_code", None)
        name = None if status is not None or error is None else type(error).__name__
        self.tries.append(
            Try(number=self.retries, status=status, error_type=name, backoff_s=backoff_s, ended_at_ns=ended_at_ns)
        )
        self.retries += 1
        self.backoff_s += backoff_s

    # -- ends ------------------------------------------------------------------------------------------------------

    def failed(self, error: BaseException) -> None:
        """The request, or the reading of its stream, raised. Never raises itself."""
        try:
            if not self._claim():
                return
            reading = _NOTHING
            if self.parsed is not None:
                reading = self.dialect.response(self.parsed)
            self._finish(reading, error)
        except Exception as fault:  # noqa: BLE001
            self.hook.recorder.internal_error("failed", fault)

    def stream_failed(self, reading: Reading, error: BaseException) -> None:
        """A stream broke while it was read; what it had said so far is kept."""
        try:
            if self._claim():
                self._finish(reading, error, streamed=True)
        except Exception as fault:  # noqa: BLE001
            self.hook.recorder.internal_error("stream_failed", fault)

    def answered(self, value: Any) -> None:
        """The whole response is there. Never raises."""
        try:
            if not self._claim():
                return
            value = value if self.parsed is None else self.parsed
            reading = self.dialect.response(value)
            if isinstance(value, (str, bytes)):
                reading = replace(reading, error_type="not_json")
            self._finish(reading, None)
        except Exception as fault:  # noqa: BLE001
            self.hook.recorder.internal_error("answered", fault)

    def stream_ended(self, reading: Reading, *, complete: bool) -> None:
        """A stream ended: exhausted, or left early by the application. Never raises."""
        try:
            if self._claim():
                self._finish(reading, None, abandoned=not complete)
        except Exception as fault:  # noqa: BLE001
            self.hook.recorder.internal_error("stream_ended", fault)

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
        judgement = self._judge(reading, error, streamed=streamed, abandoned=abandoned)
        if isinstance(error, Exception) and not reading.choices:
            self._last_try_failed(error)
        answer, hook, request = reading.answer, self.hook, self.request
        usage = reading.usage
        header_cost = self._header_cost()
        if usage is not None and usage.provider_cost_usd is None and header_cost is not None:
            usage = replace(usage, provider_cost_usd=header_cost)
        rates = self._rates(answer)
        cost: Cost | None = cost_of(usage, rates) if usage is not None else None
        gaps = self.chunks - 1
        trace_id, span_id = hook.recorder.ids(self.span)
        call = Call(
            request=request,
            context=self.context,
            answer=answer,
            outcome=judgement.outcome,
            candidate=request.model,
            epoch=hook.epoch(request.model, answer.model, rates, self.context.prompt_version),
            started_at_ns=self.started_at_ns,
            duration_s=ended - self.t0,
            error_type=self._error_type(reading, error, judgement),
            usage=usage,
            cost=cost,
            json_form=judgement.json_form,
            checks=judgement.checks,
            advice=judgement.advice,
            retries=self.retries,
            backoff_s=self.backoff_s,
            last_try_s=ended - self.try_t0,
            failed_tries=tuple(self.tries),
            time_to_first_chunk_s=self.first_at - self.t0 if self.first_at else None,
            time_per_output_chunk_s=(self.last_at - self.first_at) / gaps if gaps > 0 else None,
            chunks=self.chunks,
            rung=self.rung,
            trace_id=trace_id,
            span_id=span_id,
        )
        for fault in judgement.faults:
            hook.recorder.internal_error("check", fault)
        pending = not hook.wiring.prices.ready and (usage is not None and cost is None)
        content = content_of(self.body, reading.choices) if hook.recorder.captures_content else None
        hook.recorder.finish(self.span, call, price_later=self._price_later if pending else None, content=content)
        if self.run is not None:
            self.run.done(call)

    def _judge(self, reading: Reading, error: BaseException | None, *, streamed: bool, abandoned: bool) -> Judgement:
        if error is not None and (streamed or self.parsed is None):
            outcome = outcome_of_error(getattr(error, "status_code", None), not isinstance(error, Exception))
            return Judgement(outcome=outcome)
        if abandoned:
            return Judgement(outcome="cancelled")
        if reading.error_type is not None:
            return Judgement(outcome="error")
        if not self.dialect.expects_answer:
            return Judgement(outcome="success" if error is None else "error")
        judged = judge(reading.choices, self._expectation(reading), parse_json=self.hook.wiring.parse_json)
        if error is not None and judged.outcome == "success":  # the client's own parser refused what we let pass
            return replace(judged, outcome="json_mismatch" if self.request.expects_json else "error")
        return judged

    def _expectation(self, reading: Reading) -> Expectation:
        context, wiring, request = self.context, self.hook.wiring, self.request
        policy = wiring.policy_for(context.name)
        schema = None
        expects = request.expects_json or context.expects == "json" or context.schema is not None
        if request.expects_json:
            schema = self.dialect.output_schema(self.body)
        if context.schema is not None:
            schema = context.schema
        elif policy is not None and context.expects is None:
            expects = expects or policy.expects == "json" or policy.schema is not None
            schema = schema if schema is not None else policy.schema
        checks = wiring.checks_for(context.name)
        tools: dict[str, SchemaCheck] = {}
        for choice in reading.choices:
            for call in choice.tool_calls:
                check = self.hook.schemas.check(self.dialect.tool_schema(self.body, call.name)) if call.json else None
                if check is not None:
                    tools[call.name] = check
        if not expects and not checks and not tools:
            return self.hook.limited(request.max_tokens)
        return Expectation(
            expects_json=expects,
            schema=self.hook.schemas.check(schema) if expects else None,
            tools=tools,
            checks=checks,
            max_tokens=request.max_tokens,
        )

    def _error_type(self, reading: Reading, error: BaseException | None, judgement: Judgement) -> str | None:
        if error is not None:
            return None if judgement.outcome == "cancelled" else type(error).__name__
        return reading.error_type

    def _last_try_failed(self, error: Exception) -> None:
        status = getattr(error, "status_code", None)
        cause = error.__cause__
        name = None if status is not None else type(cause or error).__name__
        self.tries.append(Try(number=self.retries, status=status, error_type=name, ended_at_ns=time.time_ns()))

    def _header_cost(self) -> float | None:
        return None if self.cost_header is None else provider_cost(None, {_COST_HEADER: self.cost_header})

    def _rates(self, answer: Answer) -> Rates | None:
        request = self.request
        return self.hook.wiring.prices.rates(
            provider=request.provider,
            model=request.model,
            response_model=answer.model,
            service_tier=answer.service_tier or request.service_tier,
        )

    def _price_later(self, call: Call) -> Call:
        """Price a call that ended before the catalogue was there; runs on the worker."""
        wiring = self.hook.wiring
        if wiring.wait_for_prices is not None:
            wiring.wait_for_prices()
        rates = self._rates(call.answer)
        epoch = self.hook.epoch(call.candidate, call.answer.model, rates, call.context.prompt_version)
        return replace(call, cost=cost_of(call.usage, rates) if call.usage is not None else None, epoch=epoch)

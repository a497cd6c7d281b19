"""From a call to its span, its metrics and its rows: `TelemetryRecorder` implements `core.ports.Recorder`."""

from __future__ import annotations

import contextvars
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry._logs import Logger
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    TracerProvider,
)

from tierwise.core.call import Call, Content, Request, Run, TaskContext
from tierwise.core.ports import PriceLater
from tierwise.core.ports import Span as HookSpan
from tierwise.core.route import RouteTable
from tierwise.telemetry import semconv as sc
from tierwise.telemetry.faults import Faults
from tierwise.telemetry.metrics import MetricTable
from tierwise.telemetry.quick import SpanStarter
from tierwise.telemetry.series import FeedbackKey, clean
from tierwise.telemetry.spans import (
    capture_mode,
    content_attributes,
    emit_content,
    emit_evaluation,
    emit_failed_checks,
    end_run_span,
    end_span,
    run_start_attributes,
    start_attributes,
    text,
)
from tierwise.telemetry.worker import FeedbackItem, Settle, Worker

if TYPE_CHECKING:
    from tierwise.core.receipt import Verdict

_CLIENT: Final = SpanKind.CLIENT
_INTERNAL: Final = SpanKind.INTERNAL
_LATE_FLUSH_MS: Final = 10_000


def settle_with(logger: Logger) -> Settle:
    """What the worker does for a call beyond metrics and rows: ends a span that waited for prices, reports checks."""

    def settle(call: Call, span: Span, late: bool) -> None:
        if late:
            end_span(span, call)
        emit_failed_checks(logger, call, span)

    return settle


class LateSpans:
    """A span processor that does one thing: a provider's `force_flush` first ends the spans that waited for prices.

    It is added to the provider only when such a span exists, which is so for the first calls of a cold process.
    """

    _tierwise_blind = True

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do."""

    def on_end(self, span: object) -> None:
        """Nothing to do."""

    def _on_ending(self, span: object) -> None:
        """Nothing to do."""

    def shutdown(self) -> None:
        """Nothing to do."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """End the spans that wait, at most `timeout_millis` milliseconds."""
        return self._worker.flush(min(timeout_millis, _LATE_FLUSH_MS) / 1000)


class TelemetryRecorder:
    """Starts and ends the spans of calls on the caller's thread and hands everything else to the worker.

    `late_provider` says that the tracer came from the API's proxy: spans are then no-ops until the application sets a
    provider, and no attribute is built for them.
    """

    def __init__(
        self,
        tracer: Tracer,
        metrics: MetricTable,
        worker: Worker,
        *,
        faults: Faults,
        logger: Logger,
        late_provider: bool = False,
        provider: TracerProvider | None = None,
    ) -> None:
        self._tracer = tracer
        self._starter = SpanStarter(tracer)
        self._metrics = metrics
        self._worker = worker
        self._faults = faults
        self._logger = logger
        self._waiting_for_provider = late_provider
        self._provider = provider
        self._put = worker.put
        self._content_on_span, self._content_as_event = capture_mode()

    def start(self, request: Request, context: TaskContext, started_at_ns: int) -> Span:
        """Start a CLIENT span named `{operation} {model}` with what a sampler decides by; Unix nanoseconds."""
        name = f"{request.operation} {request.model}"
        if self._waiting_for_provider:
            if isinstance(trace_api.get_tracer_provider(), trace_api.ProxyTracerProvider):
                return self._tracer.start_span(name, kind=_CLIENT)
            self._waiting_for_provider = False
        if not name.isascii():
            name = name.encode("utf-8", "replace").decode("utf-8")
        return self._starter.start(name, partial(start_attributes, request, context), started_at_ns)

    def activate(self, span: HookSpan) -> object:
        """Make the span current on this thread or task; `None` when there is nothing to make current."""
        if span is INVALID_SPAN:
            return None
        return context_api.attach(trace_api.set_span_in_context(cast(Span, span)))

    def deactivate(self, token: object) -> None:
        """Undo `activate`; silent when the token belongs to another context (a stream closed elsewhere)."""
        if token is None:
            return
        try:
            # `context.detach` would log the failure that is expected here.
            if isinstance(token, contextvars.Token):
                token.var.reset(token)
            else:
                context_api.detach(token)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001, S110
            pass

    def ids(self, span: HookSpan) -> tuple[int, int]:
        """(trace id, span id), zeros when the span is not valid."""
        context = cast(Span, span).get_span_context()
        return (context.trace_id, context.span_id) if context.is_valid else (0, 0)

    @property
    def captures_content(self) -> bool:
        """Whether `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` asked for prompts and answers."""
        return self._content_on_span or self._content_as_event

    def finish(
        self,
        span: HookSpan,
        call: Call,
        *,
        price_later: PriceLater | None = None,
        content: Content | None = None,
    ) -> None:
        """Set the remaining attributes, end the span, queue the call; with `price_later` the worker ends the span."""
        own = cast(Span, span)
        try:
            if content is not None and self._content_as_event:
                emit_content(self._logger, call, own, content)
            on_span = content if self._content_on_span else None
            if price_later is None:
                end_span(own, call, on_span)
            else:
                self._flush_late_spans()
                if on_span is not None:
                    own.set_attributes(content_attributes(on_span))
        except Exception as error:  # noqa: BLE001
            self._faults.note_or_raise("span", error)
        finally:
            self._put((call, own, price_later))

    def _flush_late_spans(self) -> None:
        """Once: let the provider's own flush wait for the spans that the worker ends."""
        provider, self._provider = self._provider, None
        if provider is not None:
            if isinstance(provider, trace_api.ProxyTracerProvider):
                provider = trace_api.get_tracer_provider()
            add = getattr(provider, "add_span_processor", None)
            if add is not None:
                add(LateSpans(self._worker))

    def finish_run(self, run: Run) -> None:
        """Queue a finished run of several calls."""
        self._put(run)

    def start_run(self, context: TaskContext, started_at_ns: int) -> Span:
        """Start the INTERNAL span of a run, named `run {task}`; Unix nanoseconds."""
        name = text(f"run {context.name}")
        return self._tracer.start_span(
            name, kind=_INTERNAL, attributes=run_start_attributes(context), start_time=started_at_ns
        )

    def end_run(self, span: HookSpan, run: Run | None) -> None:
        """End a run's span with what became of it."""
        end_run_span(cast(Span, span), run)

    def feedback(self, verdict: Verdict, *, counted: bool = True) -> None:
        """Emit a verdict as an evaluation event in its call's span and hand it to the stores.

        `counted` adds it to `tierwise.feedback`, where it says whether the answer was accepted.
        """
        receipt, accepted = verdict.receipt, verdict.accepted
        span_context = SpanContext(
            receipt.trace_id, receipt.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
        )
        context = trace_api.set_span_in_context(NonRecordingSpan(span_context), Context())
        score, label = verdict.score, None
        if accepted is not None:
            label = sc.SCORE_LABEL_ACCEPTED if accepted else sc.SCORE_LABEL_REJECTED
            score = float(accepted) if score is None else score

        def emit() -> None:
            emit_evaluation(
                self._logger,
                name=sc.EVALUATION_FEEDBACK,
                score=score,
                label=label,
                response_id=receipt.response_id,
                context=context,
                timestamp_ns=verdict.at_ns or None,
                explanation=verdict.comment,
            )

        key: FeedbackKey | None = None
        if counted and accepted is not None:
            key = (
                clean(receipt.task), clean(receipt.provider), clean(receipt.candidate), clean(receipt.epoch), receipt.arm,
                receipt.rung, receipt.grade, accepted,
            )  # fmt: skip
        self._put(FeedbackItem(key=key, emit=emit, verdict=verdict))

    def show_routes(self, routes: RouteTable | None) -> None:
        """Show the routes in force as `tierwise.route.info`."""
        self._metrics.set_routes(routes)

    def internal_error(self, where: str, error: BaseException) -> None:
        """Log once per place and count a fault inside tierwise; re-raises when TIERWISE_RAISE=1."""
        self._faults.note_or_raise(where, error)

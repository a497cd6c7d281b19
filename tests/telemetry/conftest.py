"""A rig with the real SDK: in-memory spans, a cumulative and a delta reader, in-memory logs, a sink that remembers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tierwise.core.call import Answer, Call, Request, Run, TaskContext, Usage
from tierwise.core.cost import Cost
from tierwise.core.errors import StoreError
from tierwise.telemetry import Telemetry, open_telemetry

# Before 1.38 of the SDK the exporter has another name.
IN_MEMORY_LOGS: Any = getattr(logs_export, "InMemoryLogRecordExporter", None) or logs_export.InMemoryLogExporter
DELTA = AggregationTemporality.DELTA


class MemorySink:
    """Keeps what it is given; `refuse` makes it raise that many times, `gate` is called before every write."""

    def __init__(self) -> None:
        self.rows: list[Call | Run] = []
        self.refuse = 0
        self.gate: Callable[[], None] = lambda: None
        self.flushed = self.closed = self.forked = 0

    def write(self, batch: Any) -> None:
        self.gate()
        if self.refuse:
            self.refuse -= 1
            raise StoreError("the database is locked by another process")
        self.rows.extend(batch)

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1

    def after_fork_in_child(self) -> None:
        self.forked += 1
        self.rows.clear()


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Data points of one collection by metric name."""
    data = reader.get_metrics_data()
    found: dict[str, list[Any]] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.setdefault(metric.name, []).extend(metric.data.data_points)
    return found


def total(found: list[Any]) -> float:
    """Sum of values, or of counts for histograms."""
    return sum(point.count if hasattr(point, "count") else point.value for point in found)


REQUEST = Request(operation="chat", provider="openai", model="gpt-5-mini", server_address="api.openai.com")


def make_call(**changes: Any) -> Call:
    """A successful, priced call; `changes` replace fields."""
    call = Call(
        request=REQUEST,
        context=TaskContext(name="summary"),
        answer=Answer(id="chatcmpl-1", model="gpt-5-mini-2026", finish_reasons=("stop",)),
        outcome="success",
        candidate="gpt-5-mini",
        epoch="e1",
        started_at_ns=time.time_ns(),
        duration_s=0.25,
        usage=Usage(input_tokens=10, output_tokens=20),
        cost=Cost(amount_usd=0.001, source="catalogue"),
    )
    return replace(call, **changes)


class Later:
    """Prices a call with a function, as the hook's own object does."""

    def __init__(self, price: Callable[[Call], Call]) -> None:
        self.price = price
        self.skip: Callable[[Call], None] = lambda call: None

    def __call__(self, call: Call) -> Call:
        return self.price(call)


class Rig:
    """Telemetry on in-memory exporters; `open` may be called once, with `open_telemetry`'s options."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.cumulative = InMemoryMetricReader()
        self.delta = InMemoryMetricReader({Histogram: DELTA, Counter: DELTA, ObservableCounter: DELTA})
        self.meter_provider = MeterProvider([self.cumulative, self.delta], shutdown_on_exit=False)
        self.logs = IN_MEMORY_LOGS()
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(logs_export.SimpleLogRecordProcessor(self.logs))
        self.sink = MemorySink()
        self.telemetry: Telemetry | None = None

    def open(self, **options: Any) -> Telemetry:
        self.telemetry = open_telemetry(
            sinks=options.pop("sinks", [self.sink]),
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            logger_provider=self.logger_provider,
            **options,
        )
        return self.telemetry

    def record(self, call: Call | None = None, **options: Any) -> Call:
        """Start and finish one call as the hook does; `price_later` may be a plain function."""
        price = options.get("price_later")
        if price is not None and not hasattr(price, "skip"):
            options["price_later"] = Later(price)
        call = make_call() if call is None else call
        recorder = (self.telemetry or self.open()).recorder
        span = recorder.start(call.request, call.context, call.started_at_ns)
        recorder.finish(span, call, **options)
        return call

    def end_run(self, call: Call) -> None:
        """Finish a run of one call."""
        assert self.telemetry is not None
        self.telemetry.recorder.finish_run(
            Run(
                run_id="r", task=call.task, candidate=call.candidate, epoch=call.epoch, arm=call.arm, grade=call.grade,
                started_at_ns=call.started_at_ns, duration_s=call.duration_s, calls=1, success=True,
                outcome=call.outcome, cost_usd=None, provider=call.request.provider,
            )
        )  # fmt: skip

    def span(self, call: Call, **options: Any) -> Any:
        """Record a call and return its finished span."""
        self.record(call, **options)
        return self.spans.get_finished_spans()[-1]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A rig with TIERWISE_RAISE set, shut down afterwards."""
    monkeypatch.setenv("TIERWISE_RAISE", "1")
    rig = Rig()
    yield rig
    if rig.telemetry is not None:
        rig.telemetry.shutdown()
    rig.tracer_provider.shutdown()
    rig.meter_provider.shutdown()
    rig.logger_provider.shutdown()


@pytest.fixture(name="call")
def _call() -> Callable[..., Call]:
    """Factory of calls."""
    return make_call


@pytest.fixture(name="points")
def _points() -> Callable[[InMemoryMetricReader], dict[str, list[Any]]]:
    """Reads the data points of one collection by metric name."""
    return points


@pytest.fixture(name="total")
def _total() -> Callable[[list[Any]], float]:
    """Adds up data points."""
    return total

"""What tierwise recorded of a program's calls: spans, metrics and stored rows, from real providers and a real store."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

import tierwise
from tierwise.evidence.rows import CallRow


class Watching:
    """SDK providers in memory and a store of its own; `instrument` hands them to tierwise."""

    def __init__(self, folder: Path, sampler: Sampler = ALWAYS_ON) -> None:
        self.path = folder / "calls.db"
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def instrument(self, client: Any = None, **options: Any) -> Any:
        """`tierwise.instrument` with these providers and this store."""
        return tierwise.instrument(
            client, store=self.path, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    def rows(self) -> list[CallRow]:
        """The stored calls."""
        assert tierwise.force_flush()
        with tierwise.open_store(self.path) as store:
            return list(store.calls())

    def spans(self, scope: str | None = "tierwise") -> list[ReadableSpan]:
        """The finished spans of an instrumentation; of all of them without a name."""
        return [
            span
            for span in self.exporter.get_finished_spans()
            if scope is None or (span.instrumentation_scope is not None and span.instrumentation_scope.name == scope)
        ]

    def counts(self, name: str) -> int:
        """How many values a histogram of tierwise's took."""
        return sum(getattr(point, "count", 0) for point in self._points(name, "tierwise"))

    def sums(self, name: str, scope: str = "tierwise") -> dict[Any, float]:
        """A metric of an instrumentation by kind of token (or `None`) where it is not 0; of a histogram the sum."""
        found: defaultdict[Any, float] = defaultdict(float)
        for point in self._points(name, scope):
            attributes = point.attributes or {}
            kind = attributes.get("tierwise.token.kind") or attributes.get("gen_ai.token.type")
            found[kind] += point.value if hasattr(point, "value") else point.sum
        return {kind: value for kind, value in found.items() if value}

    def _points(self, name: str, scope: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for one in resource.scope_metrics
            for metric in one.metrics
            for point in metric.data.data_points
            if metric.name == name and one.scope.name == scope
        ]

    def check(self, calls: int, *, tokens: tuple[int, int] = (12, 5)) -> None:
        """One span and one row a call, all successful, and tokens counted once, in spans, rows and both metrics."""
        rows, spans = self.rows(), self.spans()
        assert [row.outcome for row in rows] == ["success"] * calls
        assert [(row.input_tokens, row.output_tokens) for row in rows] == [tokens] * calls
        usage = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
        assert [tuple((span.attributes or {}).get(name) for name in usage) for span in spans] == [tokens] * calls
        assert len({(row.trace_id, row.span_id) for row in rows}) == calls
        ids = {(f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") for span in spans if span.context}
        assert {(row.trace_id, row.span_id) for row in rows} == ids
        self.check_metrics(calls, tokens=tokens)

    def check_metrics(self, calls: int, *, with_usage: int | None = None, tokens: tuple[int, int] = (12, 5)) -> None:
        """Calls in tierwise's metrics, and the tokens of those whose usage was reported (all, unless told)."""
        number = calls if with_usage is None else with_usage
        expected = {"input": tokens[0] * number, "output": tokens[1] * number}
        assert self.sums("tierwise.calls") == {None: calls}
        assert self.sums("tierwise.call.tokens") == expected
        assert self.sums("gen_ai.client.token.usage") == expected

    def close(self) -> None:
        """End tierwise's work for these providers, and them."""
        tierwise.uninstrument()
        tierwise.shutdown()
        self.meter_provider.shutdown()
        self.tracer_provider.shutdown()

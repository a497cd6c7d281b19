"""The short ways into the SDK export exactly what the public ways do, and give way wherever somebody could tell."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, View
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, set_span_in_context

from tierwise.telemetry import quick
from tierwise.telemetry.quick import SpanStarter, recorder_of, set_clean_attributes

CLEAN: dict[str, Any] = {"a": "x" * 30, "b": 3, "c": 0.5, "d": True, "e": ("p", "q")}
SERIES: list[dict[str, Any]] = [{"model": "m", "port": 443}, {"model": "m"}, {"model": "n", "port": 443}]

DROPPED: list[dict[str, Any]] = [{"views": [View(instrument_name="*", aggregation=DropAggregation())]}]


def _provider(**options: Any) -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


@pytest.mark.parametrize("limits", [None, SpanLimits(max_span_attributes=3), SpanLimits(max_span_attribute_length=4)])
def test_clean_attributes_are_exported_as_any_others(limits: SpanLimits | None) -> None:
    """Attributes set the short way equal those set the public way, counts and lengths limited alike."""
    provider, exporter = _provider(**({"span_limits": limits} if limits else {}))
    for put in (lambda span, given: span.set_attributes(given), set_clean_attributes):
        span = provider.get_tracer("t").start_span("s", attributes={"first": 1})
        put(span, CLEAN)
        span.end()
        set_clean_attributes(span, {"late": 1})
    public, short = exporter.get_finished_spans()
    assert dict(public.attributes or {}) == dict(short.attributes or {})
    assert public.dropped_attributes == short.dropped_attributes


def test_spans_of_another_make_get_their_attributes_in_public() -> None:
    """A span that is not the SDK's own is asked the public way; one that does not record is left alone."""
    seen = []

    class Other(NonRecordingSpan):
        def set_attributes(self, attributes: Any) -> None:
            seen.append(attributes)

    set_clean_attributes(Other(INVALID_SPAN.get_span_context()), CLEAN)
    set_clean_attributes(INVALID_SPAN, CLEAN)
    assert seen == [CLEAN]


class _Looking(SpanProcessor):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.seen.append(dict(span.attributes))


class _ByAttribute(Sampler):
    def should_sample(  # type: ignore[override]
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        *_: Any,
        **__: Any,
    ) -> SamplingResult:
        keep = bool(attributes) and attributes["b"] == 3
        return SamplingResult(Decision.RECORD_AND_SAMPLE if keep else Decision.DROP, attributes)

    def get_description(self) -> str:
        return "by attribute"


def test_a_processor_that_looks_sees_the_first_attributes() -> None:
    """Any other processor, added at any time, sees at its start what the span starts with."""
    provider, exporter = _provider()
    starter = SpanStarter(provider.get_tracer("t"))
    starter.start("s", lambda: CLEAN, 5).end()
    looking = _Looking()
    provider.add_span_processor(looking)
    starter.start("s", lambda: CLEAN, 6).end()
    assert looking.seen == [CLEAN]
    assert [dict(span.attributes or {}) for span in exporter.get_finished_spans()] == [CLEAN, CLEAN]
    assert [span.start_time for span in exporter.get_finished_spans()] == [5, 6]


def test_a_sampler_that_looks_decides_by_the_first_attributes() -> None:
    """A sampler of the application's own gets them, inside a parent-based one too."""
    for sampler in (_ByAttribute(), ParentBased(_ByAttribute())):
        provider, exporter = _provider(sampler=sampler)
        starter = SpanStarter(provider.get_tracer("t"))
        starter.start("s", lambda: CLEAN, 5).end()
        starter.start("s", lambda: {"b": 4}, 5).end()
        assert len(exporter.get_finished_spans()) == 1


def test_nothing_is_built_for_a_span_that_does_not_record() -> None:
    """With sampling off the attributes are not even made."""
    provider, _ = _provider(sampler=ALWAYS_OFF)
    starter = SpanStarter(provider.get_tracer("t"))
    starter.start("s", lambda: pytest.fail("must not be asked"), 5).end()


def _points(reader: InMemoryMetricReader) -> list[Any]:
    data = reader.get_metrics_data()
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return [
        (
            metric.name[1:], sorted(point.attributes.items()), point.count, point.sum, tuple(point.bucket_counts),
            point.min, point.max,
            [(one.value, one.span_id, one.filtered_attributes) for one in point.exemplars],
        )
        for metric in metrics
        for point in metric.data.data_points
    ]  # fmt: skip


@pytest.mark.parametrize("temporality", list(AggregationTemporality)[1:])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"views": [View(instrument_name="*", attribute_keys={"model"})]},
        *DROPPED,
        {"exemplar_filter": AlwaysOnExemplarFilter()},
    ],
)
def test_histograms_recorded_either_way_are_alike(temporality: AggregationTemporality, options: dict[str, Any]) -> None:
    """Counts, sums, buckets, extremes and exemplars are the same, over several collections, readers and views."""
    readers = [InMemoryMetricReader(), InMemoryMetricReader(preferred_temporality={Histogram: temporality})]
    provider = MeterProvider(readers, shutdown_on_exit=False, **options)
    meter = provider.get_meter("t")
    edges = [0.1, 1.0, 10.0]
    public = meter.create_histogram("pduration", explicit_bucket_boundaries_advisory=edges)
    short = meter.create_histogram("sduration", explicit_bucket_boundaries_advisory=edges)
    record = recorder_of(short)
    assert record != short.record
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    sampled = set_span_in_context(tracer.start_span("s"))
    unsampled = set_span_in_context(INVALID_SPAN)
    for _ in range(3):
        for number, amount in enumerate((0, 0.05, 0.1, 0.5, 3, 20, 7.5)):
            context = sampled if number % 2 else unsampled
            public.record(amount, SERIES[number % 3], context)
            record(amount, SERIES[number % 3], context)
        for reader in readers:
            found = _points(reader)
            half = len(found) // 2
            assert found[:half] == found[half:]
            assert bool(found) == (options not in DROPPED)
    provider.shutdown()


def test_cumulative_sums_are_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second value of a series on, cumulative readers are reached without the SDK's look-up."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = provider.get_meter("t").create_histogram("hduration")
    record = recorder_of(histogram)
    context = set_span_in_context(INVALID_SPAN)
    record(1.0, SERIES[0], context)
    consumer = histogram._measurement_consumer  # type: ignore[attr-defined]
    monkeypatch.setattr(type(consumer), "consume_measurement", lambda *_: pytest.fail("must not be asked"))
    record(2.0, SERIES[0], context)
    assert [point[2:4] for point in _points(reader)] == [(2, 3.0)]
    provider.shutdown()


def test_an_sdk_of_another_shape_is_used_in_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the private names everything is recorded the public way."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = provider.get_meter("t").create_histogram("hduration")
    monkeypatch.setattr(quick, "_SDK_HISTOGRAM", "elsewhere")
    assert recorder_of(histogram) == histogram.record
    monkeypatch.undo()
    record = recorder_of(histogram)
    context = set_span_in_context(INVALID_SPAN)
    storage = next(iter(histogram._measurement_consumer._reader_storages.values()))  # type: ignore[attr-defined]
    monkeypatch.delattr(type(storage), "_get_or_init_view_instrument_match")
    with pytest.raises(AttributeError):
        record(1.0, SERIES[0], context)
    monkeypatch.undo()
    monkeypatch.setattr(quick, "_places", lambda *_: ())
    for _ in range(3):
        record(1.0, SERIES[1], context)
    assert [point[2] for point in _points(reader)] == [3]
    provider.shutdown()


def test_the_sdks_own_samplers_do_not_look() -> None:
    """The default provider, and those with ratio and static samplers, take the short way."""
    for sampler in (None, ALWAYS_ON, ParentBased(ALWAYS_ON)):
        provider, _ = _provider(**({"sampler": sampler} if sampler else {}))
        starter = SpanStarter(provider.get_tracer("t"))
        starter.start("s", lambda: CLEAN, 5).end()
        assert starter._unseen

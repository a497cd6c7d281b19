"""Short ways into the OpenTelemetry SDK for attributes that are clean already; elsewhere the public way is taken.

The SDK checks and copies each attribute of each span and measurement, several thousand CPU instructions apiece. What
tierwise hands over is built with the right types and bounds, and the attributes of its measurements are the same
dictionaries for every call of a series. Nothing here changes what is exported: tests compare both ways.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.util.types import AnyValue

Record = Callable[[float, dict[str, Any], Context], None]
"""Records one value, not negative and finite, in a histogram."""

BLIND: Final = "_tierwise_blind"
"""Marks a span processor of ours that does not look at spans."""

_CLIENT: Final = SpanKind.CLIENT
_PARENT_BASED: Final = frozenset(
    {
        "_root",
        "_remote_parent_sampled",
        "_remote_parent_not_sampled",
        "_local_parent_sampled",
        "_local_parent_not_sampled",
    }
)
_SDK_SPANS: Final = ("opentelemetry.sdk.trace",)
_SDK_HISTOGRAM: Final = "opentelemetry.sdk.metrics._internal.instrument"


def set_clean_attributes(span: Span, attributes: Mapping[str, AnyValue]) -> None:
    """Set attributes of a span: strings, numbers, booleans and tuples of strings only, all bounded."""
    if type(span).__module__ in _SDK_SPANS:
        held = getattr(span, "_attributes", None)
        if (
            type(held) is BoundedAttributes
            and held.max_value_len is None
            and (held.maxlen is None or len(held) + len(attributes) <= held.maxlen)
            and getattr(span, "_end_time", 0) is None
        ):
            with held._lock:
                held._dict.update(attributes)
            return
    span.set_attributes(attributes)


class SpanStarter:
    """Starts CLIENT spans of one tracer.

    The attributes that a span starts with are there for samplers and processors to look at. Where both are known not to
    (the SDK's own samplers, its two exporting processors), they are set right after.
    """

    __slots__ = ("_known", "_tracer", "_unseen")

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._known: object = self
        self._unseen = False

    def start(self, name: str, attributes: Callable[[], Mapping[str, AnyValue]], started_at_ns: int) -> Span:
        """A span that started at a Unix time in nanoseconds."""
        tracer = self._tracer
        processors = getattr(getattr(tracer, "span_processor", None), "_span_processors", None)
        if processors is not self._known:
            self._known, self._unseen = processors, _nobody_looks(tracer, processors)
        if not self._unseen:
            return tracer.start_span(name, kind=_CLIENT, attributes=attributes(), start_time=started_at_ns)
        span = tracer.start_span(name, kind=_CLIENT, start_time=started_at_ns)
        if span.is_recording():
            set_clean_attributes(span, attributes())
        return span


def _nobody_looks(tracer: object, processors: object) -> bool:
    """Whether neither the sampler nor a processor of a tracer sees the attributes that a span starts with."""
    if type(tracer).__module__ not in _SDK_SPANS or not isinstance(processors, tuple):
        return False
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    exporting = (BatchSpanProcessor, SimpleSpanProcessor)
    return _is_blind(getattr(tracer, "sampler", None)) and all(
        type(processor) in exporting or hasattr(type(processor), BLIND) for processor in processors
    )


def _is_blind(sampler: Any) -> bool:
    from opentelemetry.sdk.trace.sampling import ParentBased, StaticSampler, TraceIdRatioBased

    if isinstance(sampler, ParentBased):
        inner = [value for name, value in vars(sampler).items() if name in _PARENT_BASED]
        return len(inner) == len(_PARENT_BASED) and all(map(_is_blind, inner))
    return type(sampler) in (StaticSampler, TraceIdRatioBased)


def recorder_of(histogram: Histogram) -> Record:
    """The shortest way to record in a histogram; its attributes must be clean, long-lived and never change."""
    consumer = getattr(histogram, "_measurement_consumer", None)
    if type(histogram).__module__ != _SDK_HISTOGRAM or not hasattr(consumer, "_reader_storages"):
        return histogram.record
    try:
        from opentelemetry.sdk.metrics._internal.measurement import Measurement

        made: object = _make(Measurement, 0.0, 0, histogram, Context(), {})
        if made != Measurement(0.0, 0, cast(Any, histogram), Context(), {}):
            return histogram.record
    except Exception:  # noqa: BLE001 - an SDK of another shape
        return histogram.record
    return _Recorder(histogram, consumer, Measurement).record


class _Recorder:
    """`Histogram.record` without its checks, and where the SDK keeps its sums, without looking them up again.

    The SDK hashes all attributes of each measurement to find the sums of its series. Sums of cumulative readers are never
    discarded, so they are remembered by the attribute dictionary, as long as the readers are the same.
    """

    __slots__ = ("_consumer", "_enabled", "_histogram", "_known", "_measurement", "_storages")

    def __init__(self, histogram: Any, consumer: Any, measurement: type) -> None:
        self._histogram, self._consumer, self._measurement = histogram, consumer, measurement
        self._enabled: Callable[[], bool] | None = getattr(histogram, "_is_enabled", None)
        self._storages: object = None
        self._known: dict[int, tuple[Mapping[str, Any], tuple[Any, ...]]] = {}

    def record(self, amount: float, attributes: dict[str, Any], context: Context) -> None:
        """Record one value, not negative and finite."""
        if self._enabled is not None and not self._enabled():
            return
        consumer = self._consumer
        measurement = _make(self._measurement, amount, time.time_ns(), self._histogram, context, attributes)
        if consumer._reader_storages is not self._storages:
            self._known, self._storages = {}, consumer._reader_storages
        known = self._known.get(id(attributes))
        if known is None or not known[1]:
            consumer.consume_measurement(measurement)
            if known is None:
                self._known[id(attributes)] = (attributes, _places(consumer, self._histogram, attributes))
            return
        sampled = consumer._sdk_config.exemplar_filter.should_sample(
            amount, measurement.time_unix_nano, attributes, context
        )
        for sums in known[1]:
            sums.aggregate(measurement, sampled)


def _places(consumer: Any, histogram: Any, attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where each reader sums up a series that was recorded before; empty where that may change or is not understood."""
    try:
        from opentelemetry.sdk.metrics.export import AggregationTemporality

        found = []
        for storage in consumer._reader_storages.values():
            if storage._instrument_class_temporality[type(histogram)] is not AggregationTemporality.CUMULATIVE:
                return ()
            for match in storage._get_or_init_view_instrument_match(histogram):
                kept = match._view._attribute_keys
                seen = attributes if kept is None else {name: attributes[name] for name in attributes if name in kept}
                own = [each for each in match._attributes_aggregation.values() if dict(each._attributes or {}) == seen]
                if len(own) != 1 or getattr(match, "_reset_on_collect", False):
                    return ()
                found.append(own[0])
        return tuple(found)
    except Exception:  # noqa: BLE001 - an SDK of another shape
        return ()


def _make(
    measurement: type,
    amount: float,
    time_unix_nano: int,
    histogram: object,
    context: Context,
    attributes: dict[str, Any],
) -> Any:
    made: Any = object.__new__(measurement)
    made.__dict__.update(
        value=amount, time_unix_nano=time_unix_nano, instrument=histogram, context=context, attributes=attributes
    )
    return made

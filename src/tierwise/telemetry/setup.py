"""Which OpenTelemetry providers are used: given ones, the application's global ones, or ours by `OTEL_*` variables."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator
from dataclasses import field
from importlib.metadata import entry_points
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import _logs as logs_api
from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api

from tierwise.core.errors import ConfigError
from tierwise.core.records import dataclass
from tierwise.telemetry.patience import Patience
from tierwise.telemetry.series import SERIES_LIMIT
from tierwise.telemetry.setup_process import export_interval_ms, process_resource

_OWN_CARDINALITY_LIMIT: Final = 20_000
_GRPC_PORT: Final = 4317
_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The three providers in use; `own` are those that tierwise made itself and shuts down again."""

    tracer_provider: trace_api.TracerProvider
    meter_provider: metrics_api.MeterProvider
    logger_provider: logs_api.LoggerProvider
    own: tuple[Any, ...] = ()
    series_limit: int = SERIES_LIMIT
    _patience: Patience = field(default_factory=Patience, repr=False, compare=False)

    def force_flush(self, timeout_s: float = 5.0) -> bool:
        """Export what is waiting, in all providers that can; True when everything went out within `timeout_s`.

        Processors of OpenTelemetry wait as long as their exporter does, whatever time they are given: not so here.
        """
        return self._patience.wait_for(lambda: self._flush(timeout_s), timeout_s)

    def _flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        ok = True
        for provider in (self.tracer_provider, self.meter_provider, self.logger_provider):
            flush = getattr(provider, "force_flush", None)
            if flush is None:
                continue
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                ok = flush(left_ms) is not False and ok
            except Exception:  # noqa: BLE001
                # An exporter that is down must not stop the others.
                ok = False
        return ok

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """Shut down the providers that tierwise made; those of the application are left alone.

        False when their exporters took longer than `timeout_s`: what they still held is lost to them.
        """
        return not self.own or self._patience.wait_for(self._shut_down, timeout_s)

    def _shut_down(self) -> bool:
        ok = True
        for provider in self.own:
            try:
                provider.shutdown()
            except Exception:  # noqa: BLE001
                ok = False
        return ok


def providers(
    tracer_provider: trace_api.TracerProvider | None = None,
    meter_provider: metrics_api.MeterProvider | None = None,
    logger_provider: logs_api.LoggerProvider | None = None,
) -> Providers:
    """Choose a provider per signal: the given one, else the global one, else one of our own, else none.

    One of our own is made when `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_<SIGNAL>_ENDPOINT` or
    `OTEL_<SIGNAL>_EXPORTER` asks for export. It stays private: a global provider can be set only once, and that is the
    application's to do. It ends with the worker, not by an exit handler of its own.

    Where nothing is set the API's proxies are used, so a global provider that the application sets later counts from then
    on. `OTEL_SDK_DISABLED=true` makes none.

    Raises `ConfigError` for an exporter or a protocol that does not exist.
    """
    own: list[Any] = []
    series_limit = SERIES_LIMIT
    if tracer_provider is None:
        tracer_provider = trace_api.get_tracer_provider()
        if isinstance(tracer_provider, trace_api.ProxyTracerProvider) and (made := _own_tracer_provider()):
            tracer_provider = made
            own.append(made)
    if meter_provider is None:
        meter_provider = metrics_api.get_meter_provider()
        if is_proxy(meter_provider) and (made_meters := _own_meter_provider()):
            meter_provider = made_meters
            if _limits_cardinality():
                series_limit = _OWN_CARDINALITY_LIMIT * SERIES_LIMIT // 2000
            own.append(made_meters)
    if logger_provider is None:
        logger_provider = logs_api.get_logger_provider()
        if is_proxy(logger_provider) and (made_logs := _own_logger_provider()):
            logger_provider = made_logs
            own.append(made_logs)
    return Providers(
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        logger_provider=logger_provider,
        own=tuple(own),
        series_limit=series_limit,
    )


def is_proxy(provider: object) -> bool:
    """Whether this is the API's stand-in for a global provider that nobody has set (its class is private)."""
    return type(provider).__name__ in ("_ProxyMeterProvider", "ProxyLoggerProvider", "ProxyTracerProvider")


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def exporter_names(signal: str) -> tuple[str, ...]:
    """Entry point names of the exporters that the environment asks for; `signal` is TRACES, METRICS or LOGS."""
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return ()
    endpoint = _variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or _variable("OTEL_EXPORTER_OTLP_ENDPOINT")
    asked = _variable(f"OTEL_{signal}_EXPORTER") or ("otlp" if endpoint else "none")
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if names == ["none"]:
        return ()
    return tuple(_otlp_exporter(signal, endpoint) if name == "otlp" else name for name in names)


def _otlp_exporter(signal: str, endpoint: str) -> str:
    variable = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    protocol = _variable(variable)
    if not protocol:
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
        protocol = _variable(variable)
    if not protocol:
        # The specification's default is HTTP; a receiver on the gRPC port would not understand it.
        protocol = "grpc" if _port(endpoint) == _GRPC_PORT else "http/protobuf"
    if protocol not in _PROTOCOLS:
        raise ConfigError(f"{variable}={protocol!r} is not supported; use one of {', '.join(sorted(_PROTOCOLS))}")
    return _PROTOCOLS[protocol]


def _port(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint).port
    except ValueError:
        return None


def _exporters(signal: str) -> Iterator[Any]:
    group = f"opentelemetry_{signal.lower()}_exporter"
    for name in exporter_names(signal):
        found = list(entry_points(group=group, name=name))
        if not found:
            known = ", ".join(sorted({"none", *(point.name for point in entry_points(group=group))}))
            raise ConfigError(f"OTEL_{signal}_EXPORTER names {name!r}, which is not installed; known: {known}")
        yield found[0].load()()


def _own_tracer_provider() -> Any:
    exporters = list(_exporters("TRACES"))
    if not exporters:
        return None
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=process_resource(), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _own_meter_provider() -> Any:
    exporters = list(_exporters("METRICS"))
    if not exporters:
        return None
    from opentelemetry.sdk.metrics import Histogram, MeterProvider, ObservableCounter
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    settings: Any = {"export_interval_millis": export_interval_ms()}
    if _limits_cardinality():
        settings["cardinality_limits"] = {Histogram: _OWN_CARDINALITY_LIMIT, ObservableCounter: _OWN_CARDINALITY_LIMIT}
    return MeterProvider(
        [
            exporter if isinstance(exporter, MetricReader) else PeriodicExportingMetricReader(exporter, **settings)
            for exporter in exporters
        ],
        process_resource(),
        shutdown_on_exit=False,
    )


def _limits_cardinality() -> bool:
    """Whether this SDK limits the series of an instrument, and lets a reader say how many there may be."""
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return "cardinality_limits" in inspect.signature(PeriodicExportingMetricReader).parameters


def _own_logger_provider() -> Any:
    exporters = list(_exporters("LOGS"))
    if not exporters:
        return None
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource=process_resource(), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    return provider

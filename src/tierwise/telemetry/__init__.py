"""Call → OpenTelemetry: `open_telemetry` puts providers, metrics, worker and recorder together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry import _logs as logs_api
from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api

from tierwise.core.records import dataclass
from tierwise.telemetry import semconv as sc
from tierwise.telemetry.faults import Faults
from tierwise.telemetry.metrics import MetricTable, metric_table
from tierwise.telemetry.recorder import TelemetryRecorder, settle_with
from tierwise.telemetry.setup import Providers, is_proxy, providers
from tierwise.telemetry.worker import CAPACITY, Worker

if TYPE_CHECKING:
    from tierwise.core.ports import Sink

__all__ = ["MetricTable", "Providers", "Telemetry", "TelemetryRecorder", "Worker", "open_telemetry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """One runtime's telemetry: the recorder for the hook, and what must be flushed and shut down with it."""

    recorder: TelemetryRecorder
    worker: Worker
    metrics: MetricTable
    providers: Providers

    def force_flush(self, timeout_s: float = 5.0) -> bool:
        """Record, store and export everything finished so far; True when done within `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        stored = self.worker.flush(timeout_s)
        return self.providers.force_flush(max(0.1, deadline - time.monotonic())) and stored

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """Flush, close the sinks, end the thread, shut down the providers that tierwise made itself."""
        return self.worker.shutdown(timeout_s)


def open_telemetry(
    *,
    sinks: Sequence[Sink] = (),
    tracer_provider: trace_api.TracerProvider | None = None,
    meter_provider: metrics_api.MeterProvider | None = None,
    logger_provider: logs_api.LoggerProvider | None = None,
    version: str = "",
    capacity: int = CAPACITY,
) -> Telemetry:
    """Build the telemetry of one runtime; `capacity` is the number of finished calls that may wait.

    Raises `ConfigError` when the `OTEL_*` variables ask for something that does not exist.
    """
    chosen = providers(tracer_provider, meter_provider, logger_provider)
    metrics = metric_table(chosen.meter_provider, version=version, series_limit=chosen.series_limit)
    faults = Faults(metrics.count_error)
    logger = chosen.logger_provider.get_logger(sc.SCOPE, version or None)
    worker = Worker(
        metrics,
        faults=faults,
        settle=settle_with(logger),
        sinks=sinks,
        flush_exporters=chosen.force_flush,
        close_exporters=chosen.shutdown,
        capacity=capacity,
    )
    recorder = TelemetryRecorder(
        chosen.tracer_provider.get_tracer(sc.SCOPE, version or None),
        metrics,
        worker,
        faults=faults,
        logger=logger,
        late_provider=is_proxy(chosen.tracer_provider),
        provider=chosen.tracer_provider,
    )
    return Telemetry(recorder=recorder, worker=worker, metrics=metrics, providers=chosen)

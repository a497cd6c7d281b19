"""Processes of a fleet with a clock of their own: the real metric table, exported over OTLP at the times a test says."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Callable, Iterable

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from tierwise.core.call import Call, Run
from tierwise.telemetry.metrics import metric_table

PROMETHEUS_PATH = "/api/v1/otlp/v1/metrics"
VICTORIA_PATH = "/opentelemetry/v1/metrics"


class Process:
    """One process that started at `started_s` and exports its cumulative sums whenever it is told to."""

    def __init__(self, started_s: float, *, name: str | None = None, send: Iterable[Callable[[bytes], None]]) -> None:
        self._started_ns = int(started_s * 1e9)
        self._send = tuple(send)
        self._reader = InMemoryMetricReader()
        resource = Resource(
            {
                "service.name": "shop",
                "service.instance.id": name or str(uuid.uuid4()),
                "deployment.environment.name": "test",
            }
        )
        self._provider = MeterProvider([self._reader], resource)
        self._table = metric_table(self._provider)

    def record(self, *items: Call | Run) -> None:
        """Count finished calls and runs."""
        with self._table.lock:
            for item in items:
                if isinstance(item, Call):
                    self._table.record(item, None)
                else:
                    self._table.record_run(item)

    def export(self, at_s: float) -> None:
        """Send all of our own metrics, as of `at_s`."""
        data = self._reader.get_metrics_data()
        if data is None:
            return
        request = encode_metrics(data)
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in [one for one in scope.metrics if not one.name.startswith("tierwise.")]:
                    scope.metrics.remove(metric)
                for metric in scope.metrics:
                    for point in getattr(metric, metric.WhichOneof("data")).data_points:
                        point.start_time_unix_nano = self._started_ns
                        point.time_unix_nano = int(at_s * 1e9)
        body = request.SerializeToString()
        for send in self._send:
            send(body)

    def end(self) -> None:
        """Free what the process held; sends nothing."""
        self._provider.shutdown()


def sender(url: str) -> Callable[[bytes], None]:
    """A function that posts one OTLP request to `url` and insists on success."""

    def send(body: bytes) -> None:
        request = urllib.request.Request(url, body, {"Content-Type": "application/x-protobuf"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            response.read()

    return send

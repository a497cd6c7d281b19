"""Short-lived processes: fifty with one call each count fifty, read as the rules engine and dashboards read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from support import stack
from support.stack_senders import counted, fleet

StartCollector = Callable[[Path, Mapping[str, str]], stack.Running]
PROCESSES = 50


def test_fifty_one_call_processes_count_fifty_in_prometheus(
    prometheus: stack.Running, collector: StartCollector
) -> None:
    """Each is a series of its own that began at zero, so that `increase(… anchored)` and the raw samples say fifty."""
    running = collector(
        stack.COLLECTOR / "config.yaml", {"TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus)}
    )
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": running.url, "TIERWISE_STORE": "off"}
    fleet("alone", PROCESSES, 1, environment=environment)
    total = "sum(last_over_time(tierwise_calls_total[10m]))"
    assert stack.eventually(lambda: stack.number(prometheus, total), PROCESSES) == PROCESSES
    assert stack.number(prometheus, "sum(increase(tierwise_calls_total[10m] anchored))") == PROCESSES
    assert counted(prometheus, "tierwise_calls_total") == PROCESSES
    assert (
        stack.number(prometheus, "count(count by (instance) (last_over_time(tierwise_calls_total[10m])))") == PROCESSES
    )


def test_fifty_one_call_processes_count_fifty_in_victoria_metrics(victoria_metrics: stack.Running) -> None:
    """Sent to the backend itself, without a Collector: plain `increase()` says fifty."""
    environment = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{victoria_metrics.url}/opentelemetry/v1/metrics", "TIERWISE_STORE": "off",
    }  # fmt: skip
    fleet("alone", PROCESSES, 1, environment=environment)
    total = "sum(increase(tierwise_calls_total[10m]))"
    assert stack.eventually(lambda: stack.number(victoria_metrics, total), PROCESSES) == PROCESSES

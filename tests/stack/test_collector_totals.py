"""What tierwise's processes counted arrives exactly: over gRPC and HTTP, from sixteen processes, as their store has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support import stack
from support.stack_senders import fleet, one_span, post

StartCollector = Callable[[Path, Mapping[str, str]], stack.Running]
LABELS = ("tierwise_task", "tierwise_candidate", "tierwise_outcome")


def _in_store(path: Path, what: str) -> dict[tuple[str, ...], float]:
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(f"SELECT task, candidate, outcome, {what} FROM calls GROUP BY 1, 2, 3").fetchall()  # noqa: S608
    return {tuple(row[:3]): row[3] for row in rows if row[3]}


def _in_backend(backend: stack.Running, expression: str) -> dict[tuple[str, ...], float]:
    found = stack.query(backend, f"sum by ({', '.join(LABELS)}) ({expression})")
    return {
        tuple(row["metric"][label] for label in LABELS): float(row["value"][1])
        for row in found
        if float(row["value"][1])
    }


def _compare(backend: stack.Running, store: Path, calls: int) -> None:
    counted = "last_over_time(tierwise_calls_total[1h])"
    assert stack.eventually(lambda: stack.number(backend, f"sum({counted})"), calls) == calls
    assert _in_backend(backend, counted) == _in_store(store, "count(*)")
    for kind in ("input", "output"):
        tokens = f'last_over_time(tierwise_call_tokens_total{{tierwise_token_kind="{kind}"}}[1h])'
        assert _in_backend(backend, tokens) == _in_store(store, f"sum({kind}_tokens)")
    cost = _in_store(store, "sum(cost_usd)")
    assert cost
    assert _in_backend(backend, "last_over_time(tierwise_call_cost_total[1h])") == pytest.approx(cost, rel=1e-9)
    timed = _in_store(store, "count(*)")
    if backend.name == "prometheus":
        assert _in_backend(backend, "histogram_count(last_over_time(tierwise_call_duration_seconds[1h]))") == timed
    else:
        assert _in_backend(backend, "last_over_time(tierwise_call_duration_seconds_count[1h])") == timed


def test_ten_thousand_calls_of_sixteen_forked_processes(
    prometheus: stack.Running, collector: StartCollector, tmp_path: Path
) -> None:
    """Sixteen workers that a prefork server forked after it was instrumented: counts and tokens equal the store's, cost to 1e-9."""
    running = collector(
        stack.COLLECTOR / "config.yaml", {"TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus)}
    )
    store = tmp_path / "calls.db"
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": running.url, "OTEL_SERVICE_NAME": "shop", "TIERWISE_STORE": str(store),
    }  # fmt: skip
    fleet("prefork", 16, 625, environment=environment)
    _compare(prometheus, store, 10_000)
    processes = "count(count by (service_instance_id, instance) (last_over_time(tierwise_calls_total[1h])))"
    assert stack.number(prometheus, processes) == 16


def test_totals_over_grpc_in_both_backends(
    prometheus: stack.Running, victoria_metrics: stack.Running, collector: StartCollector, tmp_path: Path
) -> None:
    """The durable form takes OTLP over gRPC with a bearer token; Prometheus and VictoriaMetrics hold the store's totals."""
    for number, backend in enumerate((prometheus, victoria_metrics)):
        guarded = {
            "TIERWISE_COLLECTOR_AUTH": "true", "TIERWISE_COLLECTOR_TOKEN": "let-me-in",
            "TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(backend),
        }  # fmt: skip
        running = collector(stack.COLLECTOR / "config-durable.yaml", guarded)
        store = tmp_path / f"calls-{number}.db"
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{running.ports['grpc']}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer let-me-in",
            "TIERWISE_STORE": str(store),
        }  # fmt: skip
        fleet("alone", 4, 150, environment=environment)
        _compare(backend, store, 600)


def test_spans_of_tierwise_are_not_counted_again(
    prometheus: stack.Running, collector: StartCollector, tmp_path: Path
) -> None:
    """A process that sends both spans and metrics has each call once, and with the grade that it gave."""
    running = collector(
        stack.COLLECTOR / "config.yaml", {"TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus)}
    )
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": running.url, "OTEL_SERVICE_NAME": "shop", "TIERWISE_STORE": "off",
    }  # fmt: skip
    fleet("alone", 1, 100, environment=environment)
    own = f"http://127.0.0.1:{running.ports['telemetry']}/metrics"
    assert stack.eventually(lambda: _accepted(own), 100) == 100
    assert post(running.url, one_span("someone")) == 200
    total = "sum by (service_name) (last_over_time(tierwise_calls_total[1h]))"
    wanted = {"shop": 100.0, "someone": 1.0}
    assert stack.eventually(lambda: _services(stack.query(prometheus, total)), wanted) == wanted


def _services(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["metric"]["service_name"]: float(row["value"][1]) for row in rows}


def _accepted(url: str) -> float:
    lines = stack.read(url).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("otelcol_receiver_accepted_spans"))

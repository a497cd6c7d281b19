"""Metrics of routes and decisions: who serves what, the last decision, what it would save; bounded; sent or said."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult, PeriodicExportingMetricReader

from support.recommended import NOW, recommend
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.telemetry import semconv
from tierwise.telemetry.routes import RouteMetrics


def collect(reader: InMemoryMetricReader) -> dict[str, dict[tuple[tuple[str, object], ...], object]]:
    """Values by metric and attributes."""
    data = reader.get_metrics_data()
    found: dict[str, dict[tuple[tuple[str, object], ...], object]] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found[metric.name] = {
                    tuple(sorted((point.attributes or {}).items())): point.value  # type: ignore[union-attr]
                    for point in metric.data.data_points
                }
    return found


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Collects what is observed."""
    return InMemoryMetricReader()


@pytest.fixture
def metrics(reader: InMemoryMetricReader) -> RouteMetrics:
    """Route metrics of a provider of their own."""
    return RouteMetrics(MeterProvider([reader]))


ROUTE = Route(
    task="t", primary="old", fallbacks=("third",), canary=Canary(candidate="new", share=0.25),
    propensities={"old": 0.75, "new": 0.25},
)  # fmt: skip


def test_a_look_is_shown_whole(reader: InMemoryMetricReader, metrics: RouteMetrics) -> None:
    """Route, shares, verdict, time and saving of each task, under the names in the table of names."""
    metrics.show([recommend("PROMOTE"), recommend("KEEP", task="u")], RouteTable(version=7, routes={"t": ROUTE}))
    metrics.count_look(ok=True)
    metrics.count_look(ok=False)
    found = collect(reader)
    assert set(found) <= set(semconv.METRICS)
    roles = {dict(key)["tierwise.route.role"]: dict(key)["tierwise.candidate"] for key in found["tierwise.route.info"]}
    assert roles == {"primary": "old", "canary": "new", "fallback": "third"}
    assert {dict(key)["tierwise.route.version"] for key in found["tierwise.route.info"]} == {7}
    shares = {dict(key)["tierwise.candidate"]: value for key, value in found["tierwise.route.share"].items()}
    assert shares == {"old": 0.75, "new": 0.25}
    verdicts = {
        dict(key)["tierwise.task"]: dict(key)["tierwise.decision.verdict"] for key in found["tierwise.decision.info"]
    }
    assert verdicts == {"t": "PROMOTE", "u": "KEEP"}
    by_task = {
        name: {dict(key)["tierwise.task"]: value for key, value in found[name].items()}
        for name in found
        if "saving" in name or "time" in name
    }
    assert by_task["tierwise.decision.time"] == {"t": NOW, "u": NOW}
    assert by_task["tierwise.decision.saving.per_1000_runs"] == {"t": 1.0, "u": 0.0}
    assert by_task["tierwise.decision.saving.per_month"] == {"u": 0.0}
    looks = {dict(key)["tierwise.watch.result"]: value for key, value in found["tierwise.watch.looks"].items()}
    assert looks == {"ok": 1, "failed": 1}


def test_the_next_look_replaces_the_last(reader: InMemoryMetricReader, metrics: RouteMetrics) -> None:
    """A canary that has ended is gone from the gauges."""
    metrics.show([recommend("PROMOTE")], RouteTable(version=1, routes={"t": ROUTE}))
    collect(reader)
    metrics.show([recommend("KEEP")], RouteTable(version=2, routes={"t": Route(task="t", primary="new")}))
    found = collect(reader)
    assert [dict(key)["tierwise.candidate"] for key in found["tierwise.route.info"]] == ["new"]
    assert list(found["tierwise.route.share"].values()) == [1.0]


def test_a_fleet_stays_below_the_limit_of_series(reader: InMemoryMetricReader, metrics: RouteMetrics) -> None:
    """Of thousands of tasks the primaries are shown before any fallback, and nothing overflows."""
    routes = {f"t{i:04}": Route(task=f"t{i:04}", primary="m", fallbacks=("a", "b")) for i in range(1500)}
    metrics.show([recommend("KEEP", task=task) for task in routes], RouteTable(version=1, routes=routes))
    found = collect(reader)
    roles = [dict(key)["tierwise.route.role"] for key in found["tierwise.route.info"]]
    assert (len(roles), roles.count("primary")) == (1900, 1500)
    assert all(len(points) <= 1900 for points in found.values())


def test_a_failed_export_is_noticed() -> None:
    """The SDK's flush succeeds whatever happened; ours does not."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    class Broken(OTLPMetricExporter):
        def export(self, *_: object, **__: object) -> MetricExportResult:
            import logging

            logging.getLogger("opentelemetry.exporter").error("Failed to export metrics batch")
            return MetricExportResult.FAILURE

    provider = MeterProvider([PeriodicExportingMetricReader(Broken(endpoint="http://127.0.0.1:9/v1/metrics"))])
    metrics = RouteMetrics(provider)
    metrics.show([recommend("KEEP")], RouteTable())
    assert not metrics.force_flush()
    provider.shutdown()

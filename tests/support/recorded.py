"""A history of hourly evidence as the recording rules leave it, written straight into a server."""

from __future__ import annotations

import json
import random
import struct
import urllib.request
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from support.engines import Engine, flush
from tierwise.core.evidence import HOUR_S, LATENCY_EDGES_S
from tierwise.evidence.prometheus import SETTLE_S

_LABELS = ("tierwise_task", "tierwise_candidate", "tierwise_epoch", "tierwise_arm", "tierwise_rung", "tierwise_grade")
_PLACE = 0x1122334455667788  # stands for the time in a prepared request
_DAYS_APART = 24
_FULL = 20
"""Calls in an hour of one task and model."""


def rows(
    tasks: int, models: int, seed: int
) -> Iterator[tuple[dict[str, str], list[tuple[str, dict[str, str], float]]]]:
    """One hour: labels of each task and model, and its recorded numbers."""
    rng = random.Random(seed)  # noqa: S311
    for task in range(tasks):
        for model in range(models):
            labels = dict(
                zip(_LABELS, (f"task-{task:03d}", f"model-{model}", "e0", "primary", "0", "randomised"), strict=True)
            )
            failed = rng.randint(1, 4)
            cost = rng.random() * 0.1
            numbers = [
                ("calls", {"tierwise_outcome": "success", "tierwise_json_form": "plain"}, _FULL - failed),
                ("calls", {"tierwise_outcome": "json_invalid", "tierwise_json_form": "invalid"}, failed),
                ("cost", {"tierwise_outcome": "success"}, cost),
                ("cost", {"tierwise_outcome": "json_invalid"}, cost / 7),
                ("cost_squared", {}, cost * cost / 16),
                ("tokens", {"tierwise_token_kind": "input"}, rng.randint(1000, 9000)),
                ("tokens", {"tierwise_token_kind": "output"}, rng.randint(100, 900)),
            ]
            buckets = [0] * (len(LATENCY_EDGES_S) + 1)
            for _ in range(_FULL):
                buckets[rng.randint(8, 14)] += 1
            numbers += [
                ("duration_inside", {"le": f"{edge:g}"}, count)
                for edge, count in zip((*LATENCY_EDGES_S, float("inf")), buckets, strict=True)
                if count
            ]
            yield labels, [*numbers, ("duration_sum", {}, 31.4)]


def fill(engine: Engine, *, end: int, hours: int, tasks: int, models: int) -> int:
    """Write `hours` hours that end at `end`, Unix seconds; returns the number of samples."""
    write = _fill_prometheus if engine.otlp.endswith("/otlp/v1/metrics") else _fill_victoria
    return write(engine, end=end, hours=hours, tasks=tasks, models=models)


def _fill_prometheus(engine: Engine, *, end: int, hours: int, tasks: int, models: int) -> int:
    prepared = [_request(tasks, models, seed) for seed in range(min(hours, _DAYS_APART))]
    total = 0
    for hour in range(hours):
        at = end - (hours - hour - 1) * HOUR_S + SETTLE_S + 60
        samples, body = prepared[hour % len(prepared)]
        timed = body.replace(struct.pack("<Q", _PLACE), struct.pack("<Q", at * 10**9))
        _post(engine.otlp, timed, "application/x-protobuf")
        total += samples
    return total


def _request(tasks: int, models: int, seed: int) -> tuple[int, bytes]:
    """One hour as OTLP, and how many samples it has; the time is to be put in."""
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    metrics: dict[str, Any] = {}

    def points(role: str) -> Any:
        if role not in metrics:
            metrics[role] = scope.metrics.add(name=f"tierwise:{role}:hour").gauge
        return metrics[role].data_points

    points("evidence").add(as_double=0, time_unix_nano=_PLACE)
    count = 1
    for labels, numbers in rows(tasks, models, seed):
        for role, more, value in numbers:
            count += 1
            point = points(role).add(as_double=value, time_unix_nano=_PLACE)
            point.attributes.extend(_attributes({**labels, **more}))
    return count, request.SerializeToString()


def _attributes(labels: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in labels.items()]


def _fill_victoria(engine: Engine, *, end: int, hours: int, tasks: int, models: int) -> int:
    times = [1000 * (end - (hours - hour - 1) * HOUR_S + SETTLE_S + 60) for hour in range(hours)]
    series: dict[tuple[tuple[str, str], ...], list[float]] = {}
    prepared = []
    for seed in range(min(hours, _DAYS_APART)):
        found: dict[tuple[tuple[str, str], ...], float] = {(("__name__", "tierwise:evidence:hour"),): 0}
        for labels, numbers in rows(tasks, models, seed):
            for role, more, value in numbers:
                found[tuple(sorted({"__name__": f"tierwise:{role}:hour", **labels, **more}.items()))] = value
        prepared.append(found)
    for found in prepared:
        for key in found:
            series.setdefault(key, [])
    total, lines = 0, []
    for key in series:
        values = [prepared[hour % len(prepared)].get(key) for hour in range(hours)]
        kept = [(at, value) for at, value in zip(times, values, strict=True) if value is not None]
        total += len(kept)
        lines.append(
            json.dumps({"metric": dict(key), "values": [v for _, v in kept], "timestamps": [t for t, _ in kept]})
        )
        if len(lines) >= 2_000:
            _post(engine.url + "/api/v1/import", "\n".join(lines).encode(), "application/json")
            lines.clear()
    _post(engine.url + "/api/v1/import", "\n".join(lines).encode(), "application/json")
    flush(engine)
    return total


def _post(url: str, body: bytes, kind: str) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": kind})  # noqa: S310
    with urllib.request.urlopen(request, timeout=300) as response:  # noqa: S310
        response.read()

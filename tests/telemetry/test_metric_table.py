"""Metrics of finished calls: names, boundaries, exact sums for every reader, cardinality, the conventions' opt-in."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tierwise.core.call import Answer, CheckResult, Request, Run, TaskContext, Usage
from tierwise.core.cost import Cost
from tierwise.core.evidence import LATENCY_EDGES_S
from tierwise.core.outcome import JSON_FORMS, OUTCOMES
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.telemetry import open_telemetry, semconv
from tierwise.telemetry.metrics import metric_table

RELEASED = {
    "gen_ai.client.operation.duration", "gen_ai.client.token.usage", "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.operation.time_per_output_chunk",
}  # fmt: skip
LATEST = {
    "gen_ai.client.inference.duration", "gen_ai.client.inference.time_to_first_chunk",
    "gen_ai.client.inference.time_per_output_chunk", "gen_ai.client.inference.operation.input_tokens",
    "gen_ai.client.inference.operation.output_tokens", "gen_ai.client.inference.usage.input_tokens",
    "gen_ai.client.inference.usage.output_tokens", "gen_ai.client.inference.usage.cache_read.input_tokens",
}  # fmt: skip


def _stream(call):
    return call(
        time_to_first_chunk_s=0.1, time_per_output_chunk_s=0.01,
        usage=Usage(input_tokens=10, output_tokens=20, cache_read_tokens=4),
    )  # fmt: skip


def test_first_call_is_complete_in_the_first_collection(rig, call, points):
    """The very first call of a process is in the first collection, counters and histograms alike, for both readers."""
    rig.record(_stream(call))
    for reader in (rig.cumulative, rig.delta):
        found = points(reader)
        assert found["tierwise.calls"][0].value == 1
        assert found["tierwise.call.cost"][0].value == 0.001
        assert found["tierwise.call.duration"][0].sum == 0.25
        assert found["gen_ai.client.operation.duration"][0].count == 1
        tokens = {p.attributes["tierwise.token.kind"]: p.value for p in found["tierwise.call.tokens"]}
        assert tokens == {"input": 10, "output": 20, "cache_read": 4}


def test_released_names_units_and_boundaries(rig, call, points):
    """By default exactly the released GenAI metrics are emitted, with the advised units, boundaries and attributes."""
    rig.record(replace(_stream(call), error_type="APIError"))
    found = points(rig.cumulative)
    assert {name for name in found if name.startswith("gen_ai.")} == RELEASED
    (duration,) = found["gen_ai.client.operation.duration"]
    base = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.response.model": "gpt-5-mini-2026", "server.address": "api.openai.com",
    }  # fmt: skip
    assert dict(duration.attributes) == base | {"error.type": "APIError"}
    assert duration.explicit_bounds == pytest.approx([0.01 * 2**n for n in range(14)])
    assert duration.explicit_bounds[-1] == 81.92
    assert found["gen_ai.client.token.usage"][0].explicit_bounds[-1] == 67_108_864
    types = {p.attributes["gen_ai.token.type"]: p.sum for p in found["gen_ai.client.token.usage"]}
    assert types == {"input": 10, "output": 20}
    assert dict(found["gen_ai.client.operation.time_to_first_chunk"][0].attributes) == base
    assert found["tierwise.call.duration"][0].explicit_bounds == LATENCY_EDGES_S
    assert found["tierwise.call.time_to_first_chunk"][0].explicit_bounds == LATENCY_EDGES_S


@pytest.mark.parametrize(
    ("opt_in", "names"),
    [
        ("gen_ai_latest_experimental", LATEST),
        ("http, gen_ai_latest_experimental/dup", LATEST | RELEASED),
        ("http/dup", RELEASED),
    ],
)
def test_opt_in_chooses_the_names(rig, call, points, monkeypatch, opt_in, names):
    """open-telemetry/semantic-conventions-genai#374: the opt-in gives the new names, /dup both, anything else the released ones."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    rig.record(_stream(call))
    found = points(rig.cumulative)
    assert {name for name in found if name.startswith("gen_ai.")} == names
    if "gen_ai.client.inference.usage.output_tokens" in names:
        assert found["gen_ai.client.inference.usage.output_tokens"][0].value == 20
        assert found["gen_ai.client.inference.operation.output_tokens"][0].sum == 20


@pytest.mark.parametrize("opt_in", ["", "gen_ai_latest_experimental", "gen_ai_latest_experimental/dup"])
def test_embeddings_keep_the_old_duration_once(rig, call, points, monkeypatch, opt_in):
    """Embeddings record the old duration once under every opt-in, never output tokens, never the inference metrics."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    request = Request(operation="embeddings", provider="openai", model="e3")
    rig.record(call(request=request, candidate="e3", usage=Usage(input_tokens=5, output_tokens=0)))
    found = points(rig.cumulative)
    assert [p.count for p in found["gen_ai.client.operation.duration"]] == [1]
    assert not [name for name in found if name.startswith("gen_ai.client.inference")]
    types = {p.attributes["gen_ai.token.type"] for p in found.get("gen_ai.client.token.usage", [])}
    assert types == (set() if opt_in == "gen_ai_latest_experimental" else {"input"})
    assert {p.attributes["tierwise.token.kind"] for p in found["tierwise.call.tokens"]} == {"input"}


def test_nothing_is_invented(rig, call, points):
    """Without usage and price there are no token, cost or first-chunk points, not even zeros."""
    rig.record(call(usage=None, cost=None))
    assert set(points(rig.cumulative)) == {
        "gen_ai.client.operation.duration", "tierwise.call.duration", "tierwise.calls", "tierwise.call.priced",
        "tierwise.call.retries", "tierwise.call.retried",
    }  # fmt: skip


def test_counters_carry_the_agreed_attributes(rig, call, points):
    """Counters carry task to JSON form; the histogram what evidence is keyed by, since each attribute costs there."""
    rig.record(call(json_form="fenced", outcome="json_fenced", arm="canary", rung=1))
    found = points(rig.cumulative)
    shared = {
        "tierwise.task": "summary", "tierwise.candidate": "gpt-5-mini", "tierwise.epoch": "e1",
        "tierwise.arm": "canary", "tierwise.rung": 1, "tierwise.grade": "randomised",
        "tierwise.outcome": "json_fenced",
    }  # fmt: skip
    assert dict(found["tierwise.call.duration"][0].attributes) == shared
    assert dict(found["tierwise.calls"][0].attributes) == shared | {
        "gen_ai.provider.name": "openai", "gen_ai.response.model": "gpt-5-mini-2026", "tierwise.json.form": "fenced",
    }  # fmt: skip


def test_checks_and_runs_are_summed(rig, call, points):
    """Check scores are summed by check, runs by success with cost and squared cost."""
    checks = (CheckResult(name="bullets", score=0.5, passed=False),)
    rig.record(call(checks=checks))
    rig.record(call(checks=checks, outcome="check_failed"))
    run = Run(
        run_id="r", task="summary", candidate="m", epoch="e1", arm="primary", grade="randomised", started_at_ns=1,
        duration_s=2.0, calls=3, success=True, outcome="success", cost_usd=0.5, provider="openai", cleaned=True,
    )  # fmt: skip
    rig.telemetry.recorder.finish_run(run)
    rig.telemetry.recorder.finish_run(replace(run, calls=1, cost_usd=None))
    found = points(rig.cumulative)
    (score,) = found["tierwise.check.score"]
    assert (score.value, found["tierwise.check.count"][0].value) == (1.0, 2)
    assert score.attributes["tierwise.check.name"] == "bullets"
    values = {
        name: found[f"tierwise.run.{name}"][0].value for name in ("count", "calls", "escalated", "priced", "cost")
    }
    assert values == {"count": 2, "calls": 4, "escalated": 1, "priced": 1, "cost": 0.5}
    attributes = found["tierwise.run.cost.squared"][0].attributes
    assert (attributes["tierwise.run.success"], attributes["tierwise.run.cleaned"]) == (True, True)


def test_exemplars_only_on_durations(rig, call, points):
    """Durations carry the span as exemplar, tokens do not, and a span current on the collecting thread is not taken."""
    span = rig.span(call())
    with rig.tracer_provider.get_tracer("other").start_as_current_span("collecting"):
        found = points(rig.cumulative)
    for name in ("tierwise.call.duration", "gen_ai.client.operation.duration"):
        assert [e.span_id for e in found[name][0].exemplars] == [span.context.span_id]
    assert not any(p.exemplars for p in found["gen_ai.client.token.usage"])


def test_a_task_flood_ends_in_other(rig, call, points, total):
    """Beyond the series limit further tasks become `other`, counted; no call is lost and the SDK never overflows."""
    rig.open()
    for number in range(2_100):
        rig.record(call(context=TaskContext(name=f"t{number}"), usage=None, cost=None))
    found = points(rig.cumulative)
    calls = found["tierwise.calls"]
    assert total(calls) == 2_100
    assert sum(p.value for p in calls if p.attributes["tierwise.task"] == "other") == 200
    assert not any("otel.metric.overflow" in p.attributes for ps in found.values() for p in ps)
    dropped = {p.attributes["tierwise.where"]: p.value for p in found["tierwise.internal.dropped"]}
    assert dropped == {"cardinality": 200}


def test_a_model_flood_stays_below_the_sdk_limit(call, points, total):
    """When every label varies at once all metrics stay below their limit, and counts are complete."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = open_telemetry(meter_provider=provider)
    table = telemetry.metrics
    table._limit = 60
    table._clear()
    for number in range(400):
        name = f"m{number}"
        request = Request(operation="chat", provider=name, model=name, server_address=name)
        with table.lock:
            table.record(
                call(
                    request=request, candidate=name, epoch=name, context=TaskContext(name=name), error_type=name,
                    answer=Answer(model=name), outcome=OUTCOMES[number % 13], json_form=JSON_FORMS[number % 5],
                    checks=(CheckResult(name=name, score=1.0, passed=True),),
                ),
                None,
            )  # fmt: skip
    found = points(reader)
    assert max(len(found[name]) for name in found) <= 100
    assert total(found["tierwise.calls"]) == total(found["gen_ai.client.operation.duration"]) == 400
    assert total(found["tierwise.call.tokens"]) == 400 * 30
    telemetry.shutdown()
    provider.shutdown()


def test_two_runtimes_share_one_provider(rig, call, points):
    """Two runtimes on one meter provider count into the same sums, and a shut down one's calls stay in them."""
    first = rig.open(sinks=[])
    rig.record(call())
    second = rig.open()
    rig.record(call())
    assert points(rig.cumulative)["tierwise.calls"][0].value == 2
    first.shutdown()
    rig.record(call())
    assert second.metrics is first.metrics
    assert points(rig.cumulative)["tierwise.calls"][0].value == 3
    assert points(rig.delta)["tierwise.calls"][0].value == 3


def test_routes_are_shown(rig, points):
    """The routes in force appear as a gauge of ones by task, role, model and version."""
    rig.open().recorder.show_routes(
        RouteTable(
            version=3,
            routes={"t": Route(task="t", primary="a", fallbacks=("b",), canary=Canary(candidate="c", share=0.25))},
        )
    )
    seen = points(rig.cumulative)["tierwise.route.info"]
    assert {(p.attributes["tierwise.route.role"], p.attributes["tierwise.candidate"], p.value) for p in seen} == {
        ("primary", "a", 1), ("fallback", "b", 1), ("canary", "c", 1),
    }  # fmt: skip
    assert {p.attributes["tierwise.route.version"] for p in seen} == {3}


def test_every_name_is_known_to_semconv(rig, call, points, monkeypatch):
    """Metric and attribute names that come out are exactly names of the semconv module."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental/dup")
    rig.record(replace(_stream(call), checks=(CheckResult(name="c", score=1, passed=False),)))
    found = points(rig.cumulative)
    assert set(found) <= set(semconv.METRICS)
    assert {name for ps in found.values() for p in ps for name in p.attributes} <= semconv.ATTRIBUTES
    assert set(rig.spans.get_finished_spans()[0].attributes) <= semconv.ATTRIBUTES


_COSTS = st.one_of(st.none(), st.floats(0, 5))
_CALLS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]), st.sampled_from(OUTCOMES), _COSTS, st.one_of(st.none(), st.integers(0, 9999))
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(_CALLS, max_size=4))
def test_readers_agree_with_a_plain_sum(call, points, rig, batches):
    """However calls and collections interleave, cumulative sums and summed deltas equal a plain sum of the calls."""
    rig = type(rig)()
    expected: Counter[tuple[str, str]] = Counter()
    deltas: Counter[tuple[str, str]] = Counter()
    cost = 0.0
    tokens = 0
    latest = {}
    for batch in [*batches, []]:
        for task, outcome, usd, output in batch:
            rig.record(
                call(
                    context=TaskContext(name=task),
                    outcome=outcome,
                    usage=Usage(output_tokens=output),
                    cost=None if usd is None else Cost(amount_usd=usd, source="catalogue"),
                )
            )
            expected[task, outcome] += 1
            cost += usd or 0.0
            tokens += output or 0
        latest = points(rig.cumulative)
        for p in points(rig.delta).get("tierwise.calls", []):
            deltas[p.attributes["tierwise.task"], p.attributes["tierwise.outcome"]] += p.value
    counted = {
        (p.attributes["tierwise.task"], p.attributes["tierwise.outcome"]): p.value
        for p in latest.get("tierwise.calls", [])
    }
    assert counted == dict(expected) == {key: value for key, value in deltas.items() if value}
    assert math.isclose(sum(p.value for p in latest.get("tierwise.call.cost", [])), cost, rel_tol=1e-9)
    assert sum(p.value for p in latest.get("tierwise.call.tokens", [])) == tokens
    if rig.telemetry is not None:
        rig.telemetry.shutdown()


def test_collections_and_threads_lose_nothing(rig, call, points, total):
    """Eight threads record while two readers collect all the time: no deadlock, and every call is there once."""
    rig.open()
    stop = threading.Event()
    deltas = []

    def collect():
        while not stop.is_set():
            points(rig.cumulative)
            deltas.append(total(points(rig.delta).get("tierwise.calls", [])))

    def work():
        for _ in range(100):
            rig.record(call())

    collectors = [threading.Thread(target=collect) for _ in range(2)]
    workers = [threading.Thread(target=work) for _ in range(8)]
    for thread in (*collectors, *workers):
        thread.start()
    for thread in workers:
        thread.join(30)
    stop.set()
    for thread in collectors:
        thread.join(30)
    deltas.append(total(points(rig.delta).get("tierwise.calls", [])))
    found = points(rig.cumulative)
    assert total(found["tierwise.calls"]) == total(found["tierwise.call.duration"]) == sum(deltas) == 800
    assert rig.telemetry.worker.flush(10.0)
    assert len(rig.sink.rows) == 800


def test_a_provider_that_cannot_be_hashed_has_its_table():
    """Logfire's meter provider is a dataclass without a hash: it gets one table, as any other, and lets go of it."""

    class Unhashable(MeterProvider):
        __hash__ = None

    provider = Unhashable(shutdown_on_exit=False)
    assert metric_table(provider) is metric_table(provider)
    provider.shutdown()

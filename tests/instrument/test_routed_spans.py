"""A routed run in OpenTelemetry and in the store: its span over its calls' spans, route attributes, evidence and cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import tierwise
from support.canned import Reply, chat, sync_client
from support.routing import AUTO, policy
from tierwise.core.policy import Ladder, Policy
from tierwise.core.route import Route, RouteTable
from tierwise.routing import write_table

PRICES = {"fast": {"input": 1.0, "output": 1.0}, "deep": {"input": 10.0, "output": 10.0}}
CLIMB = Ladder(escalate_on=("empty",), cleanup=("json_fenced",))


class Traced:
    """An instrumented client with a store and spans in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def ask(self, *replies: Reply, given: Policy, **arguments: Any) -> list[Any]:
        """Make one routed call; its spans by the time they ended."""
        client, _ = sync_client(*replies)
        priced = Policy(tasks=given.tasks, models=given.models, prices=PRICES)
        tierwise.instrument(client, config=priced, task="t", store=self.folder / "x.db", tracer_provider=self.provider)
        client.__dict__["_tierwise"].wiring.wait_for_prices()
        client.chat.completions.create(**AUTO, **arguments)
        assert tierwise.force_flush()
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    """A route file in which `deep` is explored by everybody."""
    routes = tmp_path / "routes.json"
    monkeypatch.setenv("TIERWISE_ROUTES", str(routes))
    route = Route(task="t", primary="fast", propensities={"fast": 0.0, "deep": 1.0}, ladder=("fast", "deep"))
    write_table(routes, RouteTable(routes={"t": route}), expected_version=0)
    made = Traced(tmp_path)
    yield made
    tierwise.shutdown()
    made.provider.shutdown()


def test_a_single_call_carries_its_route(traced: Traced) -> None:
    """Version, arm and propensity, and the route as a feature flag; no run of its own."""
    (span,) = traced.ask(chat(), given=policy("fast", "deep"))
    assert span.name == "chat deep"
    found = {name: value for name, value in span.attributes.items() if name.startswith(("tierwise", "feature"))}
    assert (
        found.items()
        >= {
            "tierwise.arm": "explore",
            "tierwise.route.version": 1,
            "tierwise.propensity": 1.0,
            "feature_flag.key": "t",
            "feature_flag.provider.name": "tierwise-routes",
            "feature_flag.result.variant": "deep",
            "feature_flag.result.reason": "static",
            "feature_flag.version": "1",
        }.items()
    )
    assert "tierwise.run.id" not in found


def test_the_calls_of_a_run_come_out_under_its_span(traced: Traced) -> None:
    """One INTERNAL span with the run's outcome and cost, each call a child; evidence is charged to the first route."""
    given = policy("fast", "deep", ladder=Ladder(escalate_on=("empty",)))
    write_table(traced.folder / "routes.json", RouteTable(routes={}), expected_version=1)
    first, second, run = traced.ask(chat(""), chat("Hi."), given=given)
    assert (run.name, run.kind, run.status.status_code) == ("run t", SpanKind.INTERNAL, StatusCode.UNSET)
    assert {first.parent.span_id, second.parent.span_id} == {run.context.span_id}
    assert (
        first.attributes["tierwise.run.id"] == second.attributes["tierwise.run.id"] == run.attributes["tierwise.run.id"]
    )
    assert (first.attributes["tierwise.rung"], second.attributes["tierwise.rung"]) == (0, 1)
    assert "feature_flag.key" not in second.attributes
    assert (
        dict(run.attributes).items()
        >= {
            "tierwise.task": "t",
            "tierwise.outcome": "success",
            "tierwise.run.success": True,
            "tierwise.run.length": 2,
            "tierwise.candidate": "fast",
            "tierwise.cost.currency": "USD",
        }.items()
    )
    assert run.attributes["tierwise.cost.amount"] == pytest.approx(17e-6 + 170e-6)
    with tierwise.open_store(traced.folder / "x.db") as store:
        (stored,) = store.runs()
        assert (stored.candidate, stored.calls, stored.success) == ("fast", 2, True)
        evidence = {(row.key.candidate, row.key.rung): row.evidence for row in store.evidence()}
    assert evidence["fast", 0].cost_sum == pytest.approx(17e-6 + 170e-6)
    assert (evidence["fast", 0].n, evidence["fast", 0].successes, evidence["fast", 0].escalated) == (1, 1, 1)
    assert (evidence["deep", 1].n, evidence["deep", 1].successes) == (1, 1)


def test_a_cleaned_run_says_so(traced: Traced) -> None:
    """`tierwise.run.cleaned` on the run, the call's own outcome as it was."""
    given = policy("fast", "deep", ladder=CLIMB)
    call, run = traced.ask(chat('```json\n{"a": 1}\n```'), given=given, response_format={"type": "json_object"})
    assert call.attributes["tierwise.outcome"] == "json_fenced"
    assert (run.attributes["tierwise.run.cleaned"], run.attributes["tierwise.run.success"]) == (True, True)
    with tierwise.open_store(traced.folder / "x.db") as store:
        (stored,) = store.runs()
        (row,) = store.evidence()
    assert (stored.cleaned, stored.success) == (True, True)
    assert (row.evidence.n, row.evidence.successes) == (1, 1)


def test_an_error_and_who_took_over_are_one_run(traced: Traced) -> None:
    """Without a ladder the spans stand side by side, with one run id."""
    broken = Reply(status=500, body={"error": {"message": "no"}})
    first, second = traced.ask(broken, chat("Hi."), given=policy("fast", "deep"))
    assert first.parent is second.parent is None
    assert first.attributes["tierwise.run.id"] == second.attributes["tierwise.run.id"]
    assert second.attributes["tierwise.arm"] == "fallback"
    assert "tierwise.propensity" not in second.attributes
    with tierwise.open_store(traced.folder / "x.db") as store:
        (stored,) = store.runs()
    assert (stored.calls, stored.success, stored.candidate) == (2, True, "deep")

"""Recommendations as `decide` would make them, and route files to apply them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tierwise.advisor import Plan, abort, apply, apply_automatically, promote, rollback
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.recommendation import (
    Action,
    CandidateReport,
    GuardrailState,
    Interval,
    Reason,
    Recommendation,
    Verdict,
)
from tierwise.core.route import Route, RouteTable
from tierwise.routing import read_table

NOW = 1_800_000_000


def report(name: str, *, refuted: bool = False, incumbent: bool = False) -> CandidateReport:
    """A candidate's numbers, with one guardrail."""
    guardrail = GuardrailState(
        metric="success_rate", op=">=", limit=0.95, tested_at=None, estimate=0.5 if refuted else 0.99, low=None,
        high=None, state="refuted" if refuted else "holding", runs_to_prove=None,
    )  # fmt: skip
    nothing = Interval()
    return CandidateReport(
        candidate=name, role="incumbent" if incumbent else "challenger", epoch=f"e-{name}", grade="randomised", n=100,
        buckets=10, successes=99, success_rate=0.99, success_rate_interval=nothing, cost_per_success_usd=0.01,
        cost_per_success_interval_usd=nothing, cost_per_call_usd=0.01, latency_p50_s=1.0, latency_p50_interval_s=nothing,
        latency_p95_s=2.0, latency_p95_interval_s=nothing, json_valid_rate=None, objective=0.01, gain=0.1,
        gain_interval=nothing, success_difference=0.0, success_difference_interval=nothing, compared_runs=100,
        guardrails=(guardrail,), runs_needed=0,
    )  # fmt: skip


def recommend(
    verdict: Verdict,
    *,
    task: str = "t",
    current: str | None = "old",
    challenger: str | None = "new",
    refuted: Sequence[str] = (),
    reason: Reason | None = None,
    action: Action = "none",
    after: Route | None = None,
    traffic: Mapping[str, float] | None = None,
    at: int = NOW,
) -> Recommendation:
    """A recommendation as `decide` would make it."""
    primary = challenger if verdict == "PROMOTE" else current
    names = [name for name in (current, challenger, "third") if name is not None]
    return Recommendation(
        task=task, verdict=verdict, current=current, primary=primary, challenger=challenger,
        fallbacks=tuple(name for name in ("third", "old", "new") if name != primary and name not in refuted),
        ladder=(str(primary), "third"), grade="randomised", reasons=(reason or Reason(code="why", text=f"because {verdict}"),),
        candidates=tuple(report(name, refuted=name in refuted, incumbent=name == current) for name in names),
        saving_per_1000_runs_usd=1.0, saving_per_month_usd=None, runs_needed=0, confidence=0.95, at=at, input_hash="h" * 16,
        action=action, after=after, traffic=traffic or {},
    )  # fmt: skip


class Files:
    """A route file and an audit log in one folder."""

    def __init__(self, folder: Path) -> None:
        self.routes, self.audit = folder / "routes.json", folder / "audit.jsonl"

    def apply(self, *items: Recommendation, now: int = NOW, **more: Any) -> RouteTable:
        """Apply to the table as it is."""
        version = read_table(self.routes).version
        return apply(
            items, routes_path=self.routes, audit_path=self.audit, now=now, by="me", expected_version=version, **more
        ).table

    def back(self, task: str = "t", *, now: int = NOW, **more: Any) -> RouteTable:
        """Roll one task back."""
        return rollback(task, routes_path=self.routes, audit_path=self.audit, now=now, by="me", **more).table

    def automatic(self, *items: Recommendation, now: int = NOW, by: str = "watch") -> RouteTable:
        """Apply by itself what the recommendations ask for; every task's policy is `apply: auto`."""
        tasks = {item.task: TaskPolicy(task=item.task, candidates=("old", "new"), apply="auto") for item in items}

        def look() -> tuple[Plan, Policy]:
            version = read_table(self.routes).version
            return Plan(at=now, table_version=version, recommendations=items), Policy(tasks=tasks)

        return apply_automatically(look, routes_path=self.routes, audit_path=self.audit, by=by)[1].table

    def abort(self, task: str = "t", *, now: int = NOW, **more: Any) -> RouteTable:
        """End a canary."""
        return abort(task, routes_path=self.routes, audit_path=self.audit, now=now, by="me", **more).table

    def promote(self, task: str = "t", model: str | None = None, *, now: int = NOW, **more: Any) -> RouteTable:
        """Promote by hand."""
        return promote(task, model, routes_path=self.routes, audit_path=self.audit, now=now, by="me", **more).table

    def table(self) -> RouteTable:
        """The table in the file."""
        return read_table(self.routes)

"""Guardrail metrics: where each is read from, its direction and its states."""

from __future__ import annotations

from typing import Literal

import pytest

from core.synthetic import hours, row, runs
from tierwise.core.columns import TaskEvidence
from tierwise.core.evidence import Evidence, EvidenceRow
from tierwise.core.guardrails import Minimum, judge
from tierwise.core.policy import METRICS, GuardrailMetric
from tierwise.core.pool import Pool
from tierwise.core.recommendation import GuardrailState
from tierwise.core.selection import select

MINIMUM = Minimum(runs=30, buckets=10)


def pool_of(rows: list[EvidenceRow]) -> Pool:
    """The pool of the one candidate."""
    return select(TaskEvidence.of(rows, "summary"), now=10**12).pool("m", None)


def state(metric: str, op: Literal[">=", "<="], limit: float, rows: list[EvidenceRow]) -> GuardrailState:
    """One limit judged at 5 %."""
    return judge(GuardrailMetric(metric=metric, op=op, limit=limit), pool_of(rows), alpha=0.05, minimum=MINIMUM)


RICH = Evidence(
    n=20,
    successes=18,
    priced=20,
    priced_successes=18,
    cost_sum=0.04,
    cost_sq_sum=0.0001,
    cost_success_sum=0.036,
    outcomes={"success": 14, "truncated": 1, "empty": 1, "error": 1, "refused": 1, "json_fenced": 2, "rejected": 5},
    json_forms={"plain": 16, "fenced": 4},
    retries=7,
    retried=5,
    escalated=2,
    tokens={"output": 4000},
    latency=runs(20, 20, latency=2.0).latency,
    ttft=runs(20, 20, latency=0.4).latency,
    check_score_sum=15.0,
    check_count=20,
    accepted=9,
    rejected=1,
)


@pytest.mark.parametrize(
    ("metric", "estimate"),
    [
        ("success_rate", 0.7),
        ("json_valid_rate", 0.8),
        ("json_fenced_rate", 0.2),
        ("format_rate", 0.9),
        ("truncation_rate", 0.05),
        ("empty_rate", 0.05),
        ("error_rate", 0.05),
        ("refusal_rate", 0.05),
        ("retry_rate", 0.25),
        ("escalation_rate", 0.1),
        ("acceptance_rate", 0.9),
        ("check_score", 0.75),
        ("cost_per_call", 0.002),
        ("cost_per_success", 0.04 / 18),
        ("output_tokens", 200.0),
    ],
)
def test_every_metric_is_read_from_the_sums_it_names(metric: str, estimate: float) -> None:
    """First attempts for rates, runs for costs, feedback for acceptance."""
    assert state(metric, "<=", 1.0, hours("m", RICH, 12)).estimate == pytest.approx(estimate)


def test_every_metric_of_the_policy_can_be_judged() -> None:
    """No metric that a policy may name is without a state, and without data all are unknown."""
    for metric in METRICS:
        assert state(metric, "<=", 0.5, hours("m", RICH, 12)).state != "unknown", metric
        assert state(metric, "<=", 0.5, []).state == "unknown", metric


@pytest.mark.parametrize(
    ("successes", "expected"), [(100, "holding"), (97, "holding"), (93, "failing"), (70, "refuted")]
)
def test_rate_states_follow_the_sequence(successes: int, expected: str) -> None:
    """Refuted when the bounds exclude the limit, else by the estimate."""
    found = state("success_rate", ">=", 0.95, [row("m", runs(100, successes))])
    assert found.state == expected
    assert (found.runs_to_prove is not None) == (expected == "holding")


def test_clean_runs_to_prove_a_floor_are_named_exactly() -> None:
    """After 100 clean runs, each in an hour of its own, 58 more prove .95, and then it is proven."""
    assert state("success_rate", ">=", 0.95, hours("m", runs(1, 1), 100)).runs_to_prove == 58
    assert state("success_rate", ">=", 0.95, hours("m", runs(1, 1), 157)).state == "holding"
    proven = state("success_rate", ">=", 0.95, hours("m", runs(1, 1), 158))
    assert (proven.state, proven.runs_to_prove) == ("proven", 0)


def test_one_hour_neither_proves_nor_refutes_however_many_its_runs() -> None:
    """Until ten hours tell how much hours differ, the runs of one count for less."""
    assert state("success_rate", ">=", 0.95, [row("m", runs(300, 300))]).state == "holding"
    assert state("success_rate", ">=", 0.95, [row("m", runs(200, 170))]).state == "failing"
    assert state("success_rate", ">=", 0.95, hours("m", runs(200, 170), 8)).state == "refuted"


def test_upper_limits_point_the_other_way() -> None:
    """A failure rate must stay below its limit."""
    bad = runs(200, 100, failure="truncated")
    assert state("truncation_rate", "<=", 0.01, [row("m", bad)]).state == "refuted"
    assert state("truncation_rate", "<=", 0.9, [row("m", bad)]).state == "proven"


def test_latency_limit_is_tested_at_the_next_lower_edge() -> None:
    """A limit between two edges is judged at the lower one, and the state says so."""
    quick = hours("m", runs(40, 40, latency=10.5), 12)
    between = state("latency_p95", "<=", 11.0, quick)
    assert (between.state, between.tested_at) == ("refuted", 10.0)
    at_edge = state("latency_p95", "<=", 12.0, quick)
    assert (at_edge.state, at_edge.tested_at) == ("proven", 12.0)
    assert state("latency_p95", "<=", 0.01, quick).state == "unknown"
    assert state("ttft_p50", "<=", 1.0, quick).state == "unknown"


def test_correlated_hours_refute_later_than_independent_runs() -> None:
    """One outage of a whole hour is one event: a floor that independent failures would refute still holds open."""
    steady = hours("m", runs(50, 42), 12)
    outage = [*hours("m", runs(50, 49), 11), row("m", runs(50, 1), hour=11)]
    assert state("success_rate", ">=", 0.95, steady).state == "refuted"
    assert state("success_rate", ">=", 0.95, outage).state == "failing"


def test_means_need_the_minimum_before_anything_is_proven() -> None:
    """A cost limit is holding until there are enough runs and buckets."""
    few = [row("m", runs(10, 10, cost=0.001))]
    many = hours("m", runs(10, 10, cost=0.001), 20)
    for metric in ("cost_per_call", "cost_per_success"):
        assert state(metric, "<=", 0.01, few).state == "holding"
        assert state(metric, "<=", 0.01, many).state == "proven"
        assert state(metric, "<=", 0.0005, many).state == "refuted"


def test_cost_per_success_without_success_is_failing_and_has_no_number() -> None:
    """Infinite is not a number to print."""
    found = state("cost_per_success", "<=", 1.0, hours("m", runs(10, 0), 12))
    assert (found.state, found.estimate) == ("failing", None)

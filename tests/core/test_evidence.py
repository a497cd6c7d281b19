"""Evidence as a commutative monoid, and how calls, runs and feedback become evidence."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core.call import Answer, Call, CheckResult, Request, Run, TaskContext, Usage
from tierwise.core.cost import Cost
from tierwise.core.evidence import (
    LATENCY_EDGES_S,
    Evidence,
    EvidenceBuilder,
    bucket_of,
    key_of,
    key_of_run,
    latency_index,
)

COUNT = st.integers(0, 10**6)
MONEY = st.floats(0, 1e6)
NAMED = st.dictionaries(st.sampled_from(["success", "error", "truncated", "cancelled"]), COUNT, max_size=3)
HISTOGRAM = st.one_of(
    st.just(()), st.lists(COUNT, min_size=len(LATENCY_EDGES_S) + 1, max_size=len(LATENCY_EDGES_S) + 1).map(tuple)
)
SUMS = ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
EVIDENCE = st.builds(
    Evidence,
    n=COUNT,
    successes=COUNT,
    priced=COUNT,
    priced_successes=COUNT,
    cost_sum=MONEY,
    cost_sq_sum=MONEY,
    cost_success_sum=MONEY,
    outcomes=NAMED,
    json_forms=NAMED,
    retries=COUNT,
    retried=COUNT,
    escalated=COUNT,
    tokens=NAMED,
    latency=HISTOGRAM,
    latency_sum_s=MONEY,
    ttft=HISTOGRAM,
    check_score_sum=MONEY,
    check_count=COUNT,
    accepted=COUNT,
    rejected=COUNT,
)


def same(a: Evidence, b: Evidence) -> None:
    """Counts exactly, sums within 1e-12 relative."""
    for one in fields(Evidence):
        x, y = getattr(a, one.name), getattr(b, one.name)
        if one.name in SUMS:
            assert math.isclose(x, y, rel_tol=1e-12)
        else:
            assert x == y, one.name


def call(**changes: object) -> Call:
    """A successful, priced call of one task."""
    made = Call(
        request=Request(operation="chat", provider="openai", model="m"),
        context=TaskContext(name="t"),
        answer=Answer(),
        outcome="success",
        candidate="m",
        epoch="e",
        started_at_ns=7_200_000_000_001,
        duration_s=1.5,
        cost=Cost(amount_usd=0.25, source="catalogue"),
        usage=Usage(input_tokens=10, output_tokens=0),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@given(EVIDENCE, EVIDENCE, EVIDENCE)
def test_addition_is_associative_and_commutative(a: Evidence, b: Evidence, c: Evidence) -> None:
    """Merging is independent of order and grouping."""
    same((a + b) + c, a + (b + c))
    same(a + b, b + a)


@given(EVIDENCE)
def test_empty_evidence_is_neutral(a: Evidence) -> None:
    """Adding nothing changes nothing."""
    same(a + Evidence(), a)
    same(Evidence() + a, a)


@given(st.lists(EVIDENCE, max_size=5))
def test_builder_sums_as_addition_does(parts: list[Evidence]) -> None:
    """The mutable sum and `+` agree."""
    builder, total = EvidenceBuilder(), Evidence()
    for part in parts:
        builder.add(part)
        total = total + part
    same(builder.build(), total)


def test_histograms_with_different_edges_do_not_merge() -> None:
    """Counts of other edges are another measurement."""
    with pytest.raises(ValueError, match="different edges"):
        _ = Evidence(latency=(1, 2)) + Evidence(latency=(1, 2, 3))


def test_a_call_without_run_id_is_its_own_run() -> None:
    """One call: one run, one first attempt, its tokens (reported zeros included), cost and latency."""
    found = Evidence.of_call(call(retries=2, checks=(CheckResult(name="c", score=0.5, passed=True),)))
    assert (found.n, found.successes, found.priced, found.priced_successes) == (1, 1, 1, 1)
    assert (found.cost_sum, found.cost_sq_sum, found.cost_success_sum) == (0.25, 0.0625, 0.25)
    assert (found.outcomes, found.attempts) == ({"success": 1}, 1)
    assert found.tokens == {"input": 10, "output": 0}
    assert (found.retries, found.retried) == (2, 1)
    assert (found.check_score_sum, found.check_count) == (0.5, 1)
    assert found.latency[latency_index(1.5)] == sum(found.latency) == 1
    assert found.ttft == ()


def test_first_call_of_a_run_adds_first_attempt_sums_alone() -> None:
    """Its run counts n, success and cost, at rung 0 under the same key."""
    context = TaskContext(name="t", run_id="r")
    first = call(context=context, outcome="json_fenced", json_form="fenced")
    run = Run(
        run_id="r", task="t", candidate="m", epoch="e", arm="pinned", grade="observational",
        started_at_ns=first.started_at_ns, duration_s=3.0, calls=2, success=True, outcome="success", cost_usd=0.75,
    )  # fmt: skip
    total = Evidence.of_call(first) + Evidence.of_run(run)
    assert key_of(first) == key_of_run(run)
    assert (total.n, total.successes, total.cost_sum, total.escalated) == (1, 1, 0.75, 1)
    assert (total.outcomes, total.json_forms) == ({"json_fenced": 1}, {"fenced": 1})


def test_later_call_of_a_run_is_a_unit_of_its_own_rung() -> None:
    """Escalated traffic is counted under its own key."""
    later = call(context=TaskContext(name="t", run_id="r"), rung=1)
    assert key_of(later).rung == 1
    assert (Evidence.of_call(later).n, Evidence.of_call(later).cost_sum) == (1, 0.25)


@pytest.mark.parametrize("outcome", ["cancelled", "rejected"])
def test_cancelled_and_rejected_are_outside_everything_but_the_outcomes(outcome: str) -> None:
    """They say nothing about the model."""
    assert Evidence.of_call(call(outcome=outcome)) == Evidence(outcomes={outcome: 1})
    assert Evidence.of_call(call(outcome=outcome)).attempts == 0


@pytest.mark.parametrize("amount", [None, math.nan, math.inf, -1.0])
def test_a_cost_that_is_no_amount_of_money_is_no_price(amount: float | None) -> None:
    """Unknown, NaN, infinite and negative costs leave the run unpriced."""
    cost = None if amount is None else Cost(amount_usd=amount, source="provider")
    found = Evidence.of_call(call(cost=cost))
    assert (found.n, found.priced, found.cost_sum) == (1, 0, 0.0)


def test_rejecting_feedback_takes_the_success_away_and_accepting_leaves_it() -> None:
    """A rejected success is no success; a rejected failure was none before."""
    one = Evidence.of_call(call())
    rejected = one + Evidence.of_feedback(accepted=False, succeeded=True, cost_usd=0.25)
    assert (rejected.successes, rejected.priced_successes, rejected.cost_success_sum, rejected.n) == (0, 0, 0.0, 1)
    assert rejected.rejected == 1
    assert (one + Evidence.of_feedback(accepted=True, succeeded=True)).successes == 1
    assert Evidence.of_feedback(accepted=False, succeeded=False) == Evidence(rejected=1)


def test_buckets_are_hours_and_bench_rounds_keep_their_name() -> None:
    """The hour of the start; session and round come from the context."""
    assert bucket_of(7_200_000_000_001) == 7200
    assert bucket_of(7_199_999_999_999) == 3600
    key = key_of(call(context=TaskContext(name="t", session="s", round=3, randomised=True)))
    assert (key.bucket, key.session, key.round, key.grade) == (7200, "s", 3, "randomised")
    assert key_of(call(), 42).bucket == 42


@given(st.floats(0, 1000))
def test_latency_index_has_inclusive_upper_edges(seconds: float) -> None:
    """A duration falls into the first bucket whose edge it does not exceed."""
    index = latency_index(seconds)
    assert index == len(LATENCY_EDGES_S) or seconds <= LATENCY_EDGES_S[index]
    assert index == 0 or seconds > LATENCY_EDGES_S[index - 1]

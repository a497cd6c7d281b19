"""Each verdict as a scenario: evidence, policy, route and what the rules make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.synthetic import after, hours, policy, rounds, row, runs
from tierwise.core.decide import decide
from tierwise.core.evidence import Evidence, EvidenceRow
from tierwise.core.policy import GuardrailMetric, Objective, TaskPolicy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Route

ROUTE = Route(task="summary", primary="dear")
NOW = after(1000)


def codes(recommendation: Recommendation) -> set[str]:
    """The reason codes of a recommendation."""
    return {reason.code for reason in recommendation.reasons}


def strict_json(n: int, *, session: str = "s1") -> list[EvidenceRow]:
    """The published strict-JSON task after n rounds: two models fence their JSON, gemini does not."""
    fenced = runs(1, 0, cost=0.006, failure="json_fenced", forms={"fenced": 1}, latency=9.0)
    plain = runs(1, 1, cost=0.001, forms={"plain": 1}, latency=5.5)
    dearer = replace(fenced, cost_sum=0.003, cost_sq_sum=9e-6)
    return (
        rounds("claude-sonnet-4-5", fenced, n, session=session)
        + rounds("gemini-3.5-flash", plain, n, session=session)
        + rounds("claude-haiku-4-5", dearer, n, session=session)
    )


def strict_policy(**settings: object) -> TaskPolicy:
    """The demo's strict-JSON policy."""
    limits = (
        GuardrailMetric(metric="success_rate", op=">=", limit=0.95),
        GuardrailMetric(metric="json_valid_rate", op=">=", limit=0.99),
        GuardrailMetric(metric="latency_p95", op="<=", limit=12.0),
    )
    names = ("gemini-3.5-flash", "claude-haiku-4-5", "claude-sonnet-4-5")
    return policy(*names, guardrails=limits, **settings)


BRAND = Route(task="summary", primary="claude-sonnet-4-5")


def test_two_published_rounds_of_strict_json_are_insufficient_with_runs_needed() -> None:
    """After two rounds the fenced incumbent looks bad but nothing is shown; the runs still needed are named."""
    found = decide(strict_json(2), replace(strict_policy(), guardrails=()), BRAND, NOW)
    assert found.verdict == "INSUFFICIENT"
    assert found.primary == "claude-sonnet-4-5"
    assert found.runs_needed == 4
    assert found.grade == "randomised"


@pytest.mark.parametrize("guarded", [True, False])
def test_strict_json_is_promoted_after_exactly_six_rounds(guarded: bool) -> None:
    """0 of 6 against 6 of 6 passes the exact test at two challengers, 0 of 5 against 5 of 5 does not.

    Two fenced answers already refute a JSON validity of .99: from then on the incumbent is an alarm, not a wait.
    """
    wanted = strict_policy() if guarded else replace(strict_policy(), guardrails=())
    verdicts = [decide(strict_json(n), wanted, BRAND, NOW).verdict for n in range(1, 9)]
    waiting = ["INSUFFICIENT", *["HOLD"] * 4] if guarded else ["INSUFFICIENT"] * 5
    assert verdicts == waiting + ["PROMOTE"] * 3


def test_strict_json_promotion_names_gemini_with_a_fallback_and_its_reasons() -> None:
    """The promotion carries a fallback although both others break a guardrail, and says why."""
    found = decide(strict_json(6), strict_policy(), BRAND, NOW)
    assert (found.current, found.primary) == ("claude-sonnet-4-5", "gemini-3.5-flash")
    assert len(found.fallbacks) == 1
    assert found.ladder[0] == "gemini-3.5-flash"
    assert {"gain_shown", "incumbent_refuted", "fallback_refuted", "no_success"} <= codes(found)
    assert found.saving_per_1000_runs_usd == pytest.approx(4.2 - 0.7)
    assert found.saving_per_month_usd is None
    sonnet = next(c for c in found.candidates if c.candidate == "claude-sonnet-4-5")
    assert sonnet.cost_per_success_usd is None


def test_cheaper_equal_challenger_is_promoted_once_non_inferiority_is_shown() -> None:
    """Three times cheaper with the same success over many runs: PROMOTE, with the saving a month at live volume."""
    rows = hours("dear", runs(10, 10, cost=0.003), 30) + hours("cheap", runs(10, 10, cost=0.001), 30, arm="explore")
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert (found.verdict, found.primary, found.fallbacks) == ("PROMOTE", "cheap", ("dear",))
    assert found.saving_per_1000_runs_usd == pytest.approx(2.0)
    assert found.saving_per_month_usd == pytest.approx(0.002 * 20 * 730)


def test_shown_gain_with_open_non_inferiority_is_a_trial() -> None:
    """40 clean runs an arm show the price but not that success is within the margin: TRIAL, the primary stays."""
    rows = hours("dear", runs(4, 4, cost=0.003), 10) + hours("cheap", runs(4, 4, cost=0.001), 10, arm="explore")
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert (found.verdict, found.primary, found.challenger) == ("TRIAL", "dear", "cheap")
    assert "non_inferiority_open" in codes(found)
    assert next(c for c in found.candidates if c.candidate == "cheap").runs_needed == 90


def test_too_few_runs_are_insufficient() -> None:
    """Below min_runs no asymptotic test decides, however large the gap looks."""
    rows = hours("dear", runs(2, 2, cost=0.03), 10) + hours("cheap", runs(2, 2, cost=0.001), 10)
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert found.verdict == "INSUFFICIENT"
    assert found.runs_needed > 0
    assert "few_runs" in codes(found)


def test_too_few_buckets_are_insufficient() -> None:
    """A thousand runs in three hours are three buckets: the noise between hours is not known."""
    rows = hours("dear", runs(300, 290, cost=0.003), 3) + hours("cheap", runs(300, 290, cost=0.001), 3)
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert found.verdict == "INSUFFICIENT"
    assert found.runs_needed == 3700


def test_dearer_challenger_is_excluded_and_keep_is_proven() -> None:
    """A challenger that costs twice as much cannot gain: KEEP, proven."""
    rows = hours("dear", runs(10, 10, cost=0.001), 30) + hours("other", runs(10, 10, cost=0.002), 30)
    found = decide(rows, policy("dear", "other"), ROUTE, NOW)
    assert found.verdict == "KEEP"
    assert {"keep_proven", "no_worthwhile_gain"} <= codes(found)


def test_undecided_comparison_above_the_minimum_keeps_and_says_it_is_open() -> None:
    """Equal arms at the minimum: KEEP, with the runs that would exclude a gain."""
    rows = hours("dear", runs(4, 4), 12) + hours("other", runs(4, 4), 12)
    found = decide(rows, policy("dear", "other"), ROUTE, NOW)
    assert found.verdict == "KEEP"
    assert {"keep_open", "gain_open"} <= codes(found)
    assert found.runs_needed > 0


def test_cheaper_challenger_that_fails_more_is_excluded() -> None:
    """Cheap failures are no bargain: success below the margin keeps the incumbent."""
    rows = hours("dear", runs(20, 19, cost=0.003), 40) + hours("cheap", runs(20, 15, cost=0.001), 40)
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert found.verdict == "KEEP"
    assert "success_worse" in codes(found)


def test_refuted_guardrail_excludes_a_cheaper_challenger() -> None:
    """A p95 limit that the challenger breaks keeps the incumbent; without the limit the challenger wins."""
    slow = [1.0] * 8 + [30.0] * 2
    rows = hours("dear", runs(10, 10, cost=0.003), 30) + hours("cheap", runs(10, 10, latency=slow), 30)
    limit = GuardrailMetric(metric="latency_p95", op="<=", limit=12.0)
    found = decide(rows, policy("cheap", "dear", guardrails=(limit,)), ROUTE, NOW)
    assert found.verdict == "KEEP"
    assert "guardrail_refuted" in codes(found)
    assert found.fallbacks == ("cheap",)
    assert "fallback_refuted" in codes(found)
    assert decide(rows, policy("cheap", "dear"), ROUTE, NOW).verdict == "PROMOTE"


def test_refuted_incumbent_moves_to_a_sound_candidate_even_without_a_gain() -> None:
    """The incumbent breaks its success floor; a dearer candidate that holds it takes over."""
    rows = hours("dear", runs(10, 7), 12) + hours("sound", runs(10, 10, cost=0.01), 12)
    floor = GuardrailMetric(metric="success_rate", op=">=", limit=0.9)
    found = decide(rows, policy("dear", "sound", guardrails=(floor,)), ROUTE, NOW)
    assert (found.verdict, found.primary) == ("PROMOTE", "sound")
    assert {"incumbent_refuted", "replaces_refuted"} <= codes(found)


def test_refuted_incumbent_without_a_sound_candidate_holds() -> None:
    """Everyone breaks the floor: HOLD and alert, never an empty set."""
    rows = hours("dear", runs(10, 7), 12) + hours("other", runs(10, 7), 12)
    floor = GuardrailMetric(metric="success_rate", op=">=", limit=0.95)
    found = decide(rows, policy("dear", "other", guardrails=(floor,)), ROUTE, NOW)
    assert (found.verdict, found.primary) == ("HOLD", "dear")
    assert found.fallbacks == ("other",)
    assert {"no_replacement", "incumbent_refuted", "fallback_refuted"} <= codes(found)


def test_refuted_incumbent_is_not_replaced_by_an_unknown_candidate() -> None:
    """Nothing known is never best: a candidate without runs does not take over."""
    floor = GuardrailMetric(metric="success_rate", op=">=", limit=0.95)
    found = decide(hours("dear", runs(10, 7), 12), policy("dear", "new", guardrails=(floor,)), ROUTE, NOW)
    assert (found.verdict, found.primary) == ("HOLD", "dear")


def test_cool_down_withholds_a_promotion() -> None:
    """What would be PROMOTE is HOLD until the cool-down ends, and PROMOTE at its end."""
    rows = hours("dear", runs(10, 10, cost=0.003), 30) + hours("cheap", runs(10, 10), 30)
    cooling = replace(ROUTE, cooldown_until=NOW + 1)
    found = decide(rows, policy("cheap", "dear"), cooling, NOW)
    assert (found.verdict, found.primary, found.challenger) == ("HOLD", "dear", "cheap")
    assert "cooldown" in codes(found)
    assert decide(rows, policy("cheap", "dear"), cooling, NOW + 1).verdict == "PROMOTE"


def test_cool_down_does_not_hold_a_refuted_incumbent() -> None:
    """A broken guardrail is not waited for."""
    rows = hours("dear", runs(10, 7), 12) + hours("sound", runs(10, 10, cost=0.01), 12)
    floor = GuardrailMetric(metric="success_rate", op=">=", limit=0.9)
    cooling = replace(ROUTE, cooldown_until=NOW + 1)
    assert decide(rows, policy("dear", "sound", guardrails=(floor,)), cooling, NOW).verdict == "PROMOTE"


def test_backed_off_challenger_is_left_alone() -> None:
    """A challenger that failed a canary is not tried again before its time."""
    rows = hours("dear", runs(10, 10, cost=0.003), 30) + hours("cheap", runs(10, 10), 30)
    found = decide(rows, policy("cheap", "dear"), replace(ROUTE, backoff={"cheap": NOW + 10}), NOW)
    assert found.verdict == "KEEP"
    assert "backoff" in codes(found)


def test_high_risk_demands_proven_guardrails() -> None:
    """A guardrail that only holds blocks a high-risk task and names the runs that would prove it."""
    rows = hours("dear", runs(10, 10, cost=0.003), 30) + hours("cheap", runs(10, 10), 30)
    floor = GuardrailMetric(metric="success_rate", op=">=", limit=0.99)
    found = decide(rows, policy("cheap", "dear", guardrails=(floor,), risk="high"), ROUTE, NOW)
    assert found.verdict == "INSUFFICIENT"
    assert "proof_missing" in codes(found)
    assert found.runs_needed > 500
    assert decide(rows, policy("cheap", "dear", guardrails=(floor,)), ROUTE, NOW).verdict == "PROMOTE"


def test_guardrail_without_data_does_not_pass_silently() -> None:
    """An acceptance limit without any feedback blocks a promotion and says so."""
    rows = hours("dear", runs(10, 10, cost=0.003), 30) + hours("cheap", runs(10, 10), 30)
    limit = GuardrailMetric(metric="acceptance_rate", op=">=", limit=0.8)
    found = decide(rows, policy("cheap", "dear", guardrails=(limit,)), ROUTE, NOW)
    assert found.verdict == "INSUFFICIENT"
    assert "guardrail_unknown" in codes(found)


def test_observational_evidence_may_recommend_but_never_acts() -> None:
    """Pinned models: a graded recommendation that names the confounding; `auto` waits for randomised runs."""
    rows = hours("dear", runs(10, 10, cost=0.003), 30, arm="pinned", grade="observational")
    rows += hours("cheap", runs(10, 10), 30, arm="pinned", grade="observational")
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert (found.verdict, found.grade) == ("PROMOTE", "observational")
    reason = next(r for r in found.reasons if r.code == "observational")
    assert "bench" in reason.text
    acted = decide(rows, policy("cheap", "dear", apply="auto"), ROUTE, NOW)
    assert (acted.verdict, acted.primary) == ("INSUFFICIENT", "dear")


def test_auto_wants_more_than_one_bench_session() -> None:
    """One bench session is a TRIAL for `auto`, two are a PROMOTE."""
    one = rounds("dear", runs(5, 5, cost=0.003), 30) + rounds("cheap", runs(5, 5), 30)
    two = one + rounds("dear", runs(5, 5, cost=0.003), 30, session="s2") + rounds("cheap", runs(5, 5), 30, session="s2")
    wanted = policy("cheap", "dear", apply="auto")
    assert decide(one, wanted, ROUTE, NOW).verdict == "TRIAL"
    assert decide(two, wanted, ROUTE, NOW).verdict == "PROMOTE"
    assert decide(one, replace(wanted, apply="recommend"), ROUTE, NOW).verdict == "PROMOTE"


def test_escalated_traffic_is_never_compared_with_first_attempts() -> None:
    """Rung 1 sees the hard part of the traffic: it changes nothing."""
    rows = hours("dear", runs(10, 10), 30)
    hard = hours("strong", runs(10, 4, cost=0.0001), 30, rung=1)
    first = decide(rows, policy("dear", "strong"), ROUTE, NOW)
    both = decide(rows + hard, policy("dear", "strong"), ROUTE, NOW)
    assert first.candidates == both.candidates
    assert first.verdict == both.verdict == "INSUFFICIENT"


def test_randomised_arms_are_compared_in_shared_buckets_only() -> None:
    """Hours in which only the incumbent ran, with harder traffic, do not count against it."""
    rows = hours("dear", runs(10, 9, cost=0.001), 9) + hours("dear", runs(10, 10, cost=0.001), 30, first=100)
    rows += hours("other", runs(10, 10, cost=0.001), 30, first=100)
    found = decide(rows, policy("dear", "other"), ROUTE, NOW)
    challenger = next(c for c in found.candidates if c.candidate == "other")
    assert challenger.compared_runs == 300
    assert challenger.success_difference == 0
    assert found.verdict == "KEEP"


def test_open_hours_are_left_out() -> None:
    """An hour counts when it has ended."""
    rows = hours("dear", runs(10, 10), 3)
    found = decide(rows, policy("dear"), ROUTE, after(3) - 1)
    assert found.candidates[0].n == 20
    assert "open_hour" in codes(found)
    assert decide(rows, policy("dear"), ROUTE, after(3)).candidates[0].n == 30


def test_only_the_latest_epoch_counts() -> None:
    """A changed model starts afresh; the runs of before are named, not used."""
    rows = hours("dear", runs(10, 10), 20) + hours("dear", runs(10, 2), 12, first=20, epoch="e2")
    found = decide(rows, policy("dear"), ROUTE, NOW)
    assert (found.candidates[0].epoch, found.candidates[0].n) == ("e2", 120)
    assert "older_epoch" in codes(found)


def test_failures_without_an_answer_belong_to_the_epoch_around_them() -> None:
    """A call that never got an answer names no model: its epoch of its own hides no failures."""
    rows = hours("dear", runs(10, 10), 20) + hours("dear", runs(2, 0, failure="error"), 21, epoch="nothing")
    found = decide(rows, policy("dear"), ROUTE, NOW)
    assert (found.candidates[0].epoch, found.candidates[0].n, found.candidates[0].successes) == ("e1", 242, 200)


@pytest.mark.parametrize("kind", ["latency_p50", "latency_p95"])
def test_latency_objective_promotes_on_disjoint_intervals(kind: str) -> None:
    """Two latencies differ when their intervals do not touch."""
    fast = runs(10, 10, latency=[0.5, 0.6, 0.7, 0.9, 1.1] * 2)
    slow = runs(10, 10, latency=[5.5, 6.5, 7.5, 8.5, 9.5] * 2)
    rows = hours("dear", slow, 30) + hours("quick", fast, 30)
    wanted = policy("dear", "quick", objective=Objective(kind=kind))  # type: ignore[arg-type]
    assert decide(rows, wanted, ROUTE, NOW).verdict == "PROMOTE"
    assert decide(rows, wanted, Route(task="summary", primary="quick"), NOW).verdict == "KEEP"


def test_success_rate_objective_prefers_the_better_model_whatever_it_costs() -> None:
    """The direction is right for the one objective that is maximised."""
    rows = hours("dear", runs(10, 7, cost=0.001), 30) + hours("good", runs(10, 10, cost=0.01), 30)
    wanted = policy("dear", "good", objective=Objective(kind="success_rate"))
    found = decide(rows, wanted, ROUTE, NOW)
    assert (found.verdict, found.primary) == ("PROMOTE", "good")
    assert found.candidates[0].objective == 0.7
    assert decide(rows, wanted, Route(task="summary", primary="good"), NOW).verdict == "KEEP"


def test_loss_objective_weighs_cost_against_the_value_of_success() -> None:
    """A valuable success pays for the dearer model, a worthless one does not."""
    rows = hours("dear", runs(10, 7, cost=0.001), 30) + hours("good", runs(10, 10, cost=0.01), 30)
    valuable = policy("dear", "good", objective=Objective(kind="loss", value_of_success_usd=1.0))
    worthless = policy("dear", "good", objective=Objective(kind="loss", value_of_success_usd=0.001))
    assert decide(rows, valuable, ROUTE, NOW).verdict == "PROMOTE"
    assert decide(rows, worthless, ROUTE, NOW).verdict == "KEEP"


def test_unpriced_challenger_is_never_taken_for_cheap() -> None:
    """No price is not a price of zero."""
    rows = hours("dear", runs(10, 10), 30) + hours("mystery", runs(10, 10, cost=None), 30)
    found = decide(rows, policy("dear", "mystery"), ROUTE, NOW)
    assert (found.verdict, found.primary) == ("KEEP", "dear")
    assert "unpriced" in codes(found)


def test_unpriced_incumbent_holds_and_asks_for_its_price() -> None:
    """Nothing can be compared with an unknown cost."""
    rows = hours("dear", runs(10, 10, cost=None), 30) + hours("cheap", runs(10, 10), 30)
    found = decide(rows, policy("dear", "cheap"), ROUTE, NOW)
    assert found.verdict == "HOLD"
    assert "unpriced" in codes(found)


def test_free_local_model_wins_over_a_priced_one() -> None:
    """A price of zero is a price."""
    rows = hours("dear", runs(10, 10), 30) + hours("local", runs(10, 10, cost=0.0), 30)
    assert decide(rows, policy("dear", "local"), ROUTE, NOW).primary == "local"
    assert decide(rows, policy("dear", "local"), Route(task="summary", primary="local"), NOW).verdict == "KEEP"


def test_incumbent_without_a_route_is_the_model_with_most_runs_else_the_first_candidate() -> None:
    """Usage decides who is the incumbent; without any, the policy's order does."""
    rows = hours("b", runs(10, 10), 3) + hours("a", runs(5, 5), 3)
    assert decide(rows, policy("a", "b"), None, NOW).current == "b"
    assert decide([], policy("a", "b"), None, NOW).current == "a"


def test_single_candidate_is_kept_and_no_candidates_are_insufficient() -> None:
    """Degenerate policies give verdicts with reasons, not errors."""
    assert "only_candidate" in codes(decide([], policy("a"), None, NOW))
    nothing = decide([], policy(), None, NOW)
    assert (nothing.verdict, nothing.primary, nothing.fallbacks) == ("INSUFFICIENT", None, ())
    assert {"no_candidates", "no_evidence"} <= codes(nothing)


@pytest.mark.parametrize(
    "broken",
    [
        Evidence(n=10, successes=10, priced=10, cost_sum=float("nan")),
        Evidence(n=10, successes=10, priced=10, cost_sum=-1.0),
        Evidence(n=10, successes=11),
        Evidence(n=-1),
        Evidence(n=10, successes=10, cost_sq_sum=float("inf")),
        Evidence(n=10, outcomes={"success": -3}),
    ],
)
def test_evidence_that_cannot_be_believed_is_left_out_with_a_reason(broken: Evidence) -> None:
    """NaN, negative and contradictory sums never reach a decision."""
    rows = hours("dear", runs(10, 10), 12)
    found = decide(
        [*rows, row("dear", broken, hour=20), row("cheap", broken, hour=20)], policy("dear", "cheap"), ROUTE, NOW
    )
    assert found.candidates[0].n == 120
    assert "invalid_evidence" in codes(found)
    assert all(c.success_rate in (None, 1.0) for c in found.candidates)

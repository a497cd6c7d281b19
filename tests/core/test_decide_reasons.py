"""What a recommendation says besides its verdict: where the incumbent comes from, what is left out, and sentences."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from core.synthetic import after, hours, policy, rounds, row, runs
from tierwise.core import wording
from tierwise.core.decide import decide
from tierwise.core.evidence import EvidenceRow
from tierwise.core.policy import GuardrailMetric, Objective, TaskPolicy
from tierwise.core.recommendation import GuardrailState, Recommendation
from tierwise.core.route import Route

ROUTE = Route(task="summary", primary="dear")
NOW = after(1000)
FLOOR = GuardrailMetric(metric="success_rate", op=">=", limit=0.95)


def text_of(found: Recommendation, code: str, candidate: str | None = None) -> str:
    """The sentence of the one reason with a code (and candidate)."""
    (text,) = [r.text for r in found.reasons if r.code == code and candidate in (None, r.candidate)]
    return text


def codes(found: Recommendation, candidate: str | None = None) -> set[str]:
    """Reason codes, of one candidate or all."""
    return {r.code for r in found.reasons if candidate in (None, r.candidate)}


# --- a refuted incumbent --------------------------------------------------------------------------------------------


def test_a_refuted_incumbent_with_a_promising_but_young_challenger_holds_and_says_how_far_it_is() -> None:
    """Too few runs to move is no INSUFFICIENT when the incumbent is known to be bad: HOLD, an alert, and runs needed."""
    rows = hours("dear", runs(10, 7), 12) + hours("young", runs(1, 1, cost=0.01), 12)
    found = decide(rows, policy("dear", "young", guardrails=(FLOOR,)), ROUTE, NOW)
    assert (found.verdict, found.primary, found.challenger) == ("HOLD", "dear", None)
    assert found.runs_needed == 30 - 12
    assert {"incumbent_refuted", "no_replacement"} <= codes(found)
    young = next(c for c in found.candidates if c.candidate == "young")
    assert young.runs_needed == found.runs_needed
    assert "about 18 more runs" in text_of(found, "no_replacement")
    assert "about 18 more runs" in text_of(found, "few_runs", "young")
    enough = hours("dear", runs(10, 7), 30) + hours("young", runs(1, 1, cost=0.01), 30)
    assert decide(enough, policy("dear", "young", guardrails=(FLOOR,)), ROUTE, NOW).primary == "young"


@pytest.mark.parametrize("count", range(2, 40, 3))
def test_a_refuted_incumbent_is_never_insufficient(count: int) -> None:
    """Whatever is known of the challenger, an incumbent that breaks its guardrail is replaced, tried or held."""
    rows = hours("dear", runs(10, 7), 40)
    for young in (runs(1, 1, cost=0.01), runs(1, 0), runs(1, 1, cost=None)):
        found = decide([*rows, *hours("young", young, count)], policy("dear", "young", guardrails=(FLOOR,)), ROUTE, NOW)
        assert found.verdict in ("HOLD", "PROMOTE", "TRIAL")


def test_a_cool_down_is_no_reason_when_the_incumbent_is_refuted() -> None:
    """A broken guardrail is not waited for, so nothing says that it is."""
    cooling = replace(ROUTE, cooldown_until=NOW + 1)
    found = decide(hours("dear", runs(10, 7), 12), policy("dear", "new", guardrails=(FLOOR,)), cooling, NOW)
    assert found.verdict == "HOLD"
    assert "cooldown" not in codes(found)


def test_a_successor_is_not_contradicted_by_its_own_reasons() -> None:
    """It takes over without a proof of non-inferiority or gain, so no reason asks for one."""
    rows = hours("dear", runs(4, 2, cost=0.003), 12) + hours("sound", runs(4, 4, cost=0.009), 12)
    found = decide(rows, policy("dear", "sound", guardrails=(replace(FLOOR, limit=0.9),)), ROUTE, NOW)
    assert (found.verdict, found.primary) == ("PROMOTE", "sound")
    assert not codes(found, "sound") & {"gain_open", "few_runs", "non_inferiority_open", "no_worthwhile_gain"}
    assert text_of(found, "replaces_refuted").endswith("it takes over even without a gain.")


def test_a_successor_with_a_gain_takes_over_without_a_trial() -> None:
    """Where the gain is shown the sentence does not say that there is none."""
    rows = hours("dear", runs(4, 2, cost=0.1), 12) + hours("sound", runs(4, 4, cost=0.001), 12)
    slow = GuardrailMetric(metric="cost_per_call", op="<=", limit=0.01)
    found = decide(rows, policy("dear", "sound", guardrails=(slow,), margin=0.0), ROUTE, NOW)
    assert found.primary == "sound"
    assert "even without a gain" not in " ".join(r.text for r in found.reasons)


# --- the only candidate ---------------------------------------------------------------------------------------------


def test_the_only_candidate_is_not_endorsed() -> None:
    """KEEP without success says that nothing else was measured, and HOLD when a guardrail is refuted."""
    rows = hours("dear", runs(10, 0), 12)
    kept = decide(rows, policy("dear"), ROUTE, NOW)
    assert kept.verdict == "KEEP"
    assert "nothing else was measured" in text_of(kept, "only_candidate")
    assert "never succeeded in 120 runs" in text_of(kept, "only_candidate")
    held = decide(rows, policy("dear", guardrails=(FLOOR,)), ROUTE, NOW)
    assert held.verdict == "HOLD"
    assert "someone should look" in text_of(held, "no_replacement")


# --- what is compared and what is left out --------------------------------------------------------------------------


def test_observational_runs_displaced_by_randomised_ones_are_named() -> None:
    """Bench rounds beside live traffic of the same task: the live runs are left out, and it is said."""
    live = hours("dear", runs(10, 9), 30, grade="observational", arm="pinned")
    bench = rounds("dear", runs(1, 1, cost=0.003), 40) + rounds("cheap", runs(1, 1), 40)
    found = decide(live + bench, policy("cheap", "dear"), ROUTE, NOW)
    assert found.grade == "randomised"
    said = text_of(found, "observational_left_out")
    assert said.startswith("300 observational runs are left out of the comparison because randomised ones exist (dear)")
    assert "tierwise bench" in said
    assert "observational_left_out" not in codes(decide(live, policy("cheap", "dear"), ROUTE, NOW))
    mixed = live + hours("dear", runs(3, 3), 30) + hours("cheap", runs(3, 3), 30)
    assert "tierwise bench" not in text_of(decide(mixed, policy("cheap", "dear"), ROUTE, NOW), "observational_left_out")


def test_the_open_hour_is_mentioned_only_if_its_runs_will_count() -> None:
    """Observational runs beside randomised ones never count, nor do those of a model that is no candidate."""
    bench = rounds("dear", runs(1, 1, cost=0.003), 40) + rounds("cheap", runs(1, 1), 40)
    wanted, now = policy("cheap", "dear"), after(50) - 1
    live = row("dear", runs(7, 7), hour=49, grade="observational", arm="pinned")
    assert "open_hour" not in codes(decide([*bench, live], wanted, ROUTE, now))
    assert "open_hour" not in codes(decide([*bench, row("x", runs(7, 7), hour=49)], wanted, ROUTE, now))
    assert text_of(decide([*bench, row("dear", runs(7, 7), hour=49)], wanted, ROUTE, now), "open_hour").startswith(
        "7 runs"
    )
    assert text_of(decide([live], wanted, ROUTE, now), "open_hour").startswith("7 runs")


def test_runs_of_the_open_hour_alone_are_not_called_no_runs() -> None:
    """What is there is counted, and it is said that verdicts count closed hours."""
    rows = [row("dear", runs(7, 7), hour=49), row("cheap", runs(5, 5), hour=49)]
    found = decide(rows, policy("cheap", "dear"), ROUTE, after(50) - 1)
    assert text_of(found, "open_hour").startswith(
        "12 runs of summary in the hour still open: verdicts count closed hours"
    )
    assert "cheap has 5 runs in the hour still open" in text_of(found, "no_runs")
    assert "no_evidence" not in codes(found)
    assert not any("no recorded runs yet" in r.text for r in found.reasons)
    assert "no_evidence" in codes(decide([], policy("cheap", "dear"), ROUTE, NOW))


# --- the incumbent without a route ----------------------------------------------------------------------------------


def test_an_inferred_incumbent_says_where_it_comes_from() -> None:
    """Most runs in the window, the only one, or the policy's first; a route needs no such reason."""
    rows = hours("b", runs(10, 10), 3) + hours("a", runs(5, 5), 3)
    assert "used most in the window (30 of 45 runs)" in text_of(
        decide(rows, policy("a", "b"), None, NOW), "incumbent_inferred"
    )
    assert "the only one" in text_of(decide(rows[:3], policy("a", "b"), None, NOW), "incumbent_inferred")
    assert "first candidate" in text_of(decide([], policy("a", "b"), None, NOW), "incumbent_inferred")
    assert not {"incumbent_inferred", "incumbent_tie"} & codes(decide(rows, policy("dear"), ROUTE, NOW))


def test_a_split_traffic_does_not_change_the_incumbent_hour_by_hour() -> None:
    """Half and half, one a little ahead in turns: the incumbent stays, at every look, closed hours or not, and says why."""
    rows: list[EvidenceRow] = []
    seen = set()
    for hour in range(60):
        rows += [row("a", runs(5 + hour % 3, 5), hour=hour), row("b", runs(5 + (hour + 1) % 3, 5), hour=hour)]
        for now in (after(hour + 1), after(hour + 1) - 1):
            found = decide(rows, policy("b", "a"), None, now)
            seen.add(found.current)
            assert "tie-break" in text_of(found, "incumbent_tie")
    assert seen == {"b"}


def test_the_model_seen_a_day_earlier_wins_a_tie() -> None:
    """As many runs, but one has served since yesterday: that one is current whatever the policy's order."""
    rows = hours("old", runs(2, 2), 30) + hours("new", runs(30, 30), 2, first=28)
    assert decide(rows, policy("new", "old"), None, NOW).current == "old"
    assert decide(rows, policy("old", "new"), None, NOW).current == "old"


# --- savings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours_seen", "runs_each", "known"), [(30, 10, True), (24, 4, True), (20, 10, False), (24, 2, False)]
)
def test_a_month_is_extrapolated_from_a_day_and_a_hundred_runs_only(
    hours_seen: int, runs_each: int, known: bool
) -> None:
    """An hour of traffic says nothing about a month; the saving per 1,000 runs stands anyway."""
    rows = hours("dear", runs(runs_each, 0, cost=0.003), hours_seen) + hours(
        "cheap", runs(runs_each, runs_each), hours_seen
    )
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert (found.verdict, found.primary) == ("PROMOTE", "cheap")
    assert found.saving_per_1000_runs_usd == pytest.approx(2.0)
    assert (found.saving_per_month_usd is not None) == known


# --- costs that are not known ---------------------------------------------------------------------------------------


def test_a_stream_without_usage_is_not_called_unpriced() -> None:
    """No token counts, no price and no answer are three things with three remedies."""
    rows = hours("dear", runs(10, 10), 30)
    silent = replace(runs(10, 10, cost=None), tokens={})
    failed = replace(runs(10, 0, cost=None, failure="error"), tokens={})
    wanted = policy("dear", "other")
    said = {
        code: text_of(decide(rows + hours("other", evidence, 30), wanted, ROUTE, NOW), code)
        for code, evidence in (("no_tokens", silent), ("only_errors", failed), ("unpriced", runs(10, 10, cost=None)))
    }
    assert "stream_usage=True" in said["no_tokens"]
    assert "include_usage" in said["no_tokens"]
    assert "tierwise prices" in said["unpriced"]
    assert "none of its 300 runs" in said["only_errors"]
    assert "price" not in said["only_errors"]
    held = decide(hours("dear", silent, 30) + hours("other", runs(10, 10), 30), wanted, ROUTE, NOW)
    assert held.verdict == "HOLD"
    assert "stream_usage=True" in text_of(held, "no_tokens")


# --- sentences ------------------------------------------------------------------------------------------------------


def test_a_shortage_is_a_sentence_with_the_number_of_the_table() -> None:
    """`needs about N more runs`, and N is what the verdict and the candidate's line say as well."""
    rows = hours("dear", runs(2, 2, cost=0.03), 10) + hours("cheap", runs(2, 2, cost=0.001), 10)
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    number = next(c.runs_needed for c in found.candidates if c.candidate == "cheap")
    assert found.runs_needed == number
    assert text_of(found, "few_runs").startswith(
        f"cheap needs about {number} more runs (the minimum is 30 runs in 10 buckets"
    )
    empty = decide(rows[:10], policy("cheap", "dear"), ROUTE, NOW)
    assert f"each candidate needs about {empty.runs_needed} more runs" in text_of(empty, "no_runs")


def test_a_trial_names_the_runs_that_its_reason_names() -> None:
    """The verdict's runs needed are those of the candidate to try."""
    rows = hours("dear", runs(4, 4, cost=0.003), 10) + hours("cheap", runs(4, 4, cost=0.001), 10, arm="explore")
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    assert (found.verdict, found.runs_needed) == ("TRIAL", 90)
    assert "About 90 more runs would decide" in text_of(found, "non_inferiority_open")


def fallback_sentence(*broken: str) -> str:
    """What is said of the fallback when the named candidates of three break the floor; `good` is the incumbent."""
    rows = [r for name in ("good", "b", "c") for r in hours(name, runs(10, 5 if name in broken else 10), 12)]
    found = decide(rows, policy("good", "b", "c", guardrails=(FLOOR,)), Route(task="summary", primary="good"), NOW)
    return text_of(found, "fallback_refuted")


def test_the_fallback_sentence_says_who_else_breaks_a_guardrail() -> None:
    """Not `like every other candidate` when the primary holds."""
    assert "b breaks a guardrail like all but good, but" in fallback_sentence("b", "c")
    assert "breaks a guardrail like every candidate, but" in fallback_sentence("good", "b", "c")
    two = hours("good", runs(10, 10), 12) + hours("b", runs(10, 5), 12)
    found = decide(two, policy("good", "b", guardrails=(FLOOR,)), Route(task="summary", primary="good"), NOW)
    assert "b breaks a guardrail and there is no other candidate, but" in text_of(found, "fallback_refuted")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.percent(12.34), "1,234 %"),
        (wording.percent(0.9996), "100 %"),
        (wording.percent(0.1234), "12.3 %"),
        (wording.percent(-123.4), "-12,340 %"),
        (wording.percent(0.0), "0 %"),
        (wording.percent(1e-8), "0.000001 %"),
        (wording.usd(0.0000123), "$0.0000123"),
        (wording.usd(1234.5), "$1,234"),
        (wording.usd(-4.0), "-$4"),
        (wording.more_runs(1), "1 more run"),
    ],
)
def test_numbers_are_never_in_scientific_notation(written: str, expected: str) -> None:
    """Three significant digits, all of them above a thousand, with separators."""
    assert written == expected


def test_no_reason_holds_scientific_notation() -> None:
    """A challenger thousands of times dearer is said in plain digits."""
    rows = hours("dear", runs(10, 10, cost=0.00001), 30) + hours("other", runs(10, 10, cost=2.0), 30)
    found = decide(rows, policy("dear", "other"), ROUTE, NOW)
    assert not re.search(r"\d[eE][+-]?\d", " ".join(r.text for r in found.reasons))


def test_gains_in_success_are_points() -> None:
    """`30 points higher`, not a percentage of points."""
    rows = hours("dear", runs(10, 7), 30) + hours("good", runs(10, 10), 30)
    found = decide(rows, policy("dear", "good", objective=Objective(kind="success_rate")), ROUTE, NOW)
    assert "success rate 30 points higher (between +" in text_of(found, "gain_shown")


def test_a_latency_bound_says_above() -> None:
    """The lower bound of a quantile is excluded: a limit of 0.5 s that is broken reads `above 0.5 s`."""
    slow = hours("dear", runs(10, 10, latency=0.6), 30)
    limit = GuardrailMetric(metric="latency_p95", op="<=", limit=0.5)
    found = decide(slow, policy("dear", guardrails=(limit,)), ROUTE, NOW)
    assert "breaks p95 latency ≤ 0.5 s: measured 0.643 s (bounds: above 0.5 s, at most 0.65 s)." in text_of(
        found, "incumbent_refuted"
    )
    unbounded = replace(found.candidates[0].guardrails[0], high=None, tested_at=0.4)
    assert wording.finding(unbounded).endswith(
        "(bounds: above 0.5 s), judged at 0.4 s, the nearest edge of the histogram"
    )


def test_bounds_of_rates_and_unknown_bounds() -> None:
    """Rates have two ends, means may have none."""
    rate = GuardrailState(
        metric="json_valid_rate", op=">=", limit=0.9, tested_at=0.9, estimate=0.0, low=0.0, high=0.2, state="refuted",
        runs_to_prove=None,
    )  # fmt: skip
    assert wording.finding(rate) == "JSON valid rate ≥ 90 %: measured 0 % (bounds: 0 % to 20 %)"
    assert wording.finding(replace(rate, low=None, high=None)) == "JSON valid rate ≥ 90 %: measured 0 %"


def test_default_policies_are_decided_too() -> None:
    """The sentences hold for a policy of defaults over the models seen."""
    found = decide(hours("b", runs(3, 3), 2), TaskPolicy(task="summary", candidates=("a", "b")), None, NOW)
    assert found.current == "b"
    assert all(reason.text.endswith(".") for reason in found.reasons)

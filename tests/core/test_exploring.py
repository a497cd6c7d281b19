"""What exploring would cost and could save: against sampling, and who is told nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.synthetic import after, hours, policy, runs
from tierwise.core.decide import decide
from tierwise.core.route import Route
from tierwise.core.traffic import expected_least, probability_least

ROUTE, NOW = Route(task="summary", primary="dear"), after(1000)
beliefs = st.lists(st.tuples(st.floats(-1, 1), st.floats(1e-3, 1)), min_size=1, max_size=6)


def test_the_expected_least_loss_is_that_of_sampling() -> None:
    """Quadrature against a hundred thousand draws, within four of their standard errors."""
    rng = random.Random(1)  # noqa: S311
    wanted = [(0.3, 0.05), (0.28, 0.1), (0.4, 0.3), (0.35, 1e-6)]
    draws = [min(rng.gauss(mean, deviation) for mean, deviation in wanted) for _ in range(100_000)]
    mean = sum(draws) / len(draws)
    error = (sum((draw - mean) ** 2 for draw in draws)) ** 0.5 / len(draws)
    assert expected_least(wanted) == pytest.approx(mean, abs=4 * error)


@given(beliefs)
@settings(max_examples=60)
def test_the_expected_least_is_below_every_mean_and_falls_with_more_candidates(
    wanted: list[tuple[float, float]],
) -> None:
    """Jensen: never above the least mean; another candidate never makes it larger."""
    found = expected_least(wanted)
    width = max(deviation for _, deviation in wanted)
    assert found <= min(mean for mean, _ in wanted) + 1e-4 * width
    assert expected_least([*wanted, (0.0, 0.5)]) <= found + 1e-4 * max(width, 0.5)
    assert sum(probability_least(wanted)) == pytest.approx(1)


def test_one_belief_is_its_mean_and_what_is_not_finite_is_refused() -> None:
    """Nothing to choose from: the mean. Infinite and empty beliefs raise."""
    assert expected_least([(0.25, 0.1)]) == pytest.approx(0.25, abs=1e-5)
    assert expected_least([(0.25, 0.0), (0.5, 0.0)]) == pytest.approx(0.25, abs=1e-5)
    for wrong in ([], [(float("inf"), 1.0)], [(0.0, float("nan"))]):
        with pytest.raises(ValueError, match="finite"):
            expected_least(wrong)


def test_an_undecided_task_is_told_what_exploring_would_cost_and_save() -> None:
    """A cheaper, hardly measured challenger: a smaller bill while it lasts and something to win."""
    rows = hours("dear", runs(20, 18, cost=0.003), 20) + hours("cheap", runs(1, 1, cost=0.001), 5, arm="explore")
    found = decide(rows, policy("cheap", "dear"), ROUTE, NOW)
    per_call = {one.candidate: one.cost_per_call_usd or 0.0 for one in found.candidates}
    assert found.exploring is not None
    assert found.exploring.share == pytest.approx(0.1)
    assert found.exploring.cost_per_1000_runs_usd == pytest.approx(100 * (per_call["cheap"] - per_call["dear"]))
    assert found.exploring.saving_per_1000_runs_usd > 0
    dearer = decide(
        hours("dear", runs(20, 18, cost=0.003), 20) + hours("cheap", runs(1, 1, cost=0.01), 5, arm="explore"),
        policy("cheap", "dear"),
        ROUTE,
        NOW,
    )
    assert dearer.exploring is not None
    assert dearer.exploring.cost_per_1000_runs_usd > 0


def test_a_model_without_runs_counts_with_the_dearest_cost() -> None:
    """Nothing is known of its price: exploring it is reckoned at the dearest known one."""
    rows = hours("dear", runs(20, 18, cost=0.003), 20) + hours("cheap", runs(20, 18, cost=0.002), 20, arm="explore")
    found = decide(rows, policy("cheap", "dear", "new"), ROUTE, NOW)
    assert found.exploring is not None
    assert found.exploring.cost_per_1000_runs_usd <= 0.0


def test_who_explores_or_may_not_or_has_nothing_to_learn_is_told_nothing() -> None:
    """Exploring tasks, tasks of high risk, a single candidate, and a challenger that is shown to gain nothing."""
    rows = hours("dear", runs(20, 18, cost=0.003), 20) + hours("cheap", runs(1, 1, cost=0.001), 5, arm="explore")
    for wanted in (policy("cheap", "dear", explore=0.1), policy("cheap", "dear", risk="high")):
        assert decide(rows, wanted, ROUTE, NOW).exploring is None
    assert decide(rows[:20], policy("dear"), ROUTE, NOW).exploring is None
    clear = hours("dear", runs(20, 20, cost=0.001), 40) + hours("cheap", runs(20, 20, cost=0.004), 40, arm="explore")
    found = decide(clear, policy("cheap", "dear"), ROUTE, NOW)
    assert found.verdict == "KEEP"
    assert found.exploring is None

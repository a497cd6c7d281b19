"""Ladders foretold: the figures are those of the prompts taken through them, and the intervals hold as often as they say."""

from __future__ import annotations

import random
from itertools import product

import pytest

from tierwise.advisor.ladders import FIGURES, LadderForecast, Signals, _student, forecast
from tierwise.advisor.outcomes import Outcome, TaskOutcomes
from tierwise.core.errors import EvidenceError


def chance(seed: int) -> random.Random:
    """Repeatable draws."""
    return random.Random(seed)  # noqa: S311 - not secret


def outcome(success: bool, cost_usd: float) -> Outcome:
    """What a model made of a prompt."""
    return Outcome(success=success, cost_usd=cost_usd)


def task(**outcomes: list[Outcome]) -> TaskOutcomes:
    """A task whose models are the arguments' names."""
    return TaskOutcomes(
        task="t", models=tuple(outcomes), outcomes={name: tuple(made) for name, made in outcomes.items()}
    )


def drawn(rng: random.Random, prompts: int) -> TaskOutcomes:
    """Prompts that are hard for both models or for none, with costs that grow with their size."""
    cheap, strong = [], []
    for _ in range(prompts):
        hard, size = rng.random(), rng.lognormvariate(0, 0.5)
        cheap.append(outcome(rng.random() < 0.95 - 0.6 * hard, 0.0002 * size))
        strong.append(outcome(rng.random() < 0.99 - 0.3 * hard, 0.003 * size * rng.uniform(0.8, 1.2)))
    return task(cheap=cheap, strong=strong)


def gone(rng: random.Random, outcomes: TaskOutcomes, ladder: tuple[str, ...], signals: Signals) -> dict[str, float]:
    """What runs come to when each prompt is really taken through a ladder."""
    runs = len(outcomes.outcomes["strong"])
    cost, won, climbed = 0.0, 0, 0
    for place in range(runs):
        for rung, model in enumerate(ladder):
            one = outcomes.outcomes[model][place]
            cost += one.cost_usd
            climbed += rung == 1
            share = signals.false_alarms if one.success else signals.detection
            if rung == len(ladder) - 1 or rng.random() >= share:
                won += one.success
                break
    alone = outcomes.cost_usd("strong") / outcomes.success_rate("strong")
    return {
        "success_rate": won / runs,
        "escalated": climbed / runs,
        "cost_usd": cost / runs,
        "cost_per_success_usd": cost / won,
        "saving": 1 - cost / won / alone,
    }


def test_figures_are_those_of_the_prompts_taken_through_the_ladder() -> None:
    """A failed first rung costs both attempts; the caller gets what the second one made of it."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    made = forecast(
        task(
            cheap=[outcome(cheap, 1.0) for cheap, _ in kinds for _ in range(10)],
            strong=[outcome(strong, 10.0) for _, strong in kinds for _ in range(10)],
        ),
        ("cheap", "strong"),
    )
    assert {name: getattr(made, name).point for name in FIGURES} == pytest.approx(
        {"success_rate": 0.75, "escalated": 0.5, "cost_usd": 6.0, "cost_per_success_usd": 8.0, "saving": 1 - 8 / 20}
    )
    assert all(getattr(made, name).low < getattr(made, name).point < getattr(made, name).high for name in FIGURES)
    assert (made.prompts, made.against) == (40, "strong")


def test_imperfect_signals_count_as_often_as_they_err() -> None:
    """Missed failures stay, false alarms pay the next rung: the means over all ways a run can go."""
    signals = Signals(detection=0.7, false_alarms=0.2)
    names = ("low", "middle", "strong")
    rows = list(product([True, False], repeat=3)) * 5
    costs = {"low": 1.0, "middle": 3.0, "strong": 10.0}

    def recorded(times: int) -> TaskOutcomes:
        columns = zip(names, zip(*rows * times, strict=True), strict=True)
        return task(**{name: [outcome(won, costs[name]) for won in column] for name, column in columns})

    made = forecast(recorded(1), names, against="middle", signals=signals)
    seen = gone(chance(5), recorded(500), names, signals)
    for name in ("success_rate", "escalated", "cost_usd", "cost_per_success_usd"):
        assert getattr(made, name).point == pytest.approx(seen[name], rel=0.01)
    alone = costs["middle"] / 0.5
    assert made.saving.point == pytest.approx(1 - seen["cost_per_success_usd"] / alone, abs=0.02)


@pytest.mark.parametrize("signals", [Signals(), Signals(detection=0.7, false_alarms=0.1)])
def test_intervals_hold_about_as_often_as_they_say(signals: Signals) -> None:
    """Other prompts, fewer or more than the recorded ones, come out inside in 95 of 100 histories."""
    rng, histories = chance(11), 150
    inside = dict.fromkeys(FIGURES, 0)
    for history in range(histories):
        runs = (40, 120)[history % 2]
        made = forecast(drawn(rng, 80), ("cheap", "strong"), runs=runs, signals=signals)
        seen = gone(rng, drawn(rng, runs), ("cheap", "strong"), signals)
        for name in FIGURES:
            inside[name] += getattr(made, name).holds(seen[name])
    assert all(0.91 <= count / histories <= 0.985 for count in inside.values()), inside


def test_a_longer_period_is_foretold_more_closely() -> None:
    """The interval shrinks with the runs to come and ends at that of the recorded prompts alone."""
    recorded = drawn(chance(2), 200)

    def width(found: LadderForecast, name: str) -> float:
        made = getattr(found, name)
        return float(made.high - made.low)

    steps = [forecast(recorded, ("cheap", "strong"), runs=runs) for runs in (50, 500, None)]
    for name in FIGURES:
        widths = [width(one, name) for one in steps]
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] > 0
    sure = forecast(recorded, ("cheap", "strong"), confidence=0.5)
    assert width(sure, "saving") < width(steps[-1], "saving")


def test_the_long_run_interval_of_a_rate_is_wilsons() -> None:
    """20 of 40 at 95 %: .352 to .648; none of 40 still leaves some room above."""
    half = task(strong=[outcome(place % 2 == 0, 1.0) for place in range(40)])
    made = forecast(half, ("strong",))
    assert (made.success_rate.low, made.success_rate.high) == pytest.approx((0.352, 0.648), abs=5e-4)
    assert (made.saving.point, made.saving.low, made.saving.high) == (0, 0, 0)
    clean = forecast(task(strong=[outcome(True, 1.0)] * 40), ("strong",)).success_rate
    assert (clean.low, clean.high) == pytest.approx((1 - 0.0876, 1), abs=5e-4)


def test_too_little_gives_no_interval() -> None:
    """Few prompts, or few successes for a cost per success: the point alone, `null` bounds in JSON."""
    few = forecast(task(a=[outcome(True, 1.0)] * 10, b=[outcome(True, 2.0)] * 10), ("a", "b"))
    assert few.to_json()["saving"] == {"point": 0.5, "low": None, "high": None}
    assert (few.success_rate.low, few.success_rate.high) == (0, 1)
    rare = forecast(
        task(a=[outcome(False, 1.0)] * 40, b=[outcome(place < 3, 2.0) for place in range(40)]), ("a", "b"), runs=40
    )
    assert rare.to_json()["cost_per_success_usd"]["low"] is None
    assert rare.to_json()["cost_usd"]["low"] is not None
    assert not rare.saving.holds(None)


def test_a_ladder_that_cannot_be_followed_is_told() -> None:
    """Unknown models, a rung twice, answers to different prompts, and numbers out of range."""
    good = task(a=[outcome(True, 1.0)] * 30, b=[outcome(True, 1.0)] * 30)
    with pytest.raises(EvidenceError, match="c was not recorded; it has a, b"):
        forecast(good, ("a", "c"))
    for ladder in ((), ("a", "a")):
        with pytest.raises(EvidenceError, match="at least one model, and each one once"):
            forecast(good, ladder)
    with pytest.raises(EvidenceError, match="answered different prompts"):
        forecast(task(a=[outcome(True, 1.0)] * 3, b=[outcome(True, 1.0)] * 4), ("a", "b"))
    with pytest.raises(ValueError, match="runs must be at least 1"):
        forecast(good, ("a",), runs=0)
    with pytest.raises(ValueError, match="confidence must lie"):
        forecast(good, ("a",), confidence=95)
    with pytest.raises(ValueError, match="detection must be a share"):
        Signals(detection=80)


@pytest.mark.parametrize(("degrees", "quantile"), [(29, 2.04523), (60, 2.00030), (1000, 1.96234)])
def test_students_quantile_is_close(degrees: int, quantile: float) -> None:
    """The expansion agrees with the tables."""
    assert _student(1.959964, degrees) == pytest.approx(quantile, rel=1e-4)

"""The traffic split: beliefs, the probability of having the least loss against oracles, and every rule of the shares."""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from tierwise.core.traffic import (
    DROPPED,
    DUEL,
    FLOOR,
    ArmSums,
    drop_alpha,
    dropped_now,
    posterior,
    probability_least,
    split,
    within_budget,
)

V = 0.02
NORMAL = NormalDist()


def arm(name: str, n: float, rate: float, cost: float, *, spread: float = 1.0, priced: bool = True) -> ArmSums:
    """A candidate with a success rate and a mean cost whose coefficient of variation is `spread`, independent of success."""
    known = n if priced else 0.0
    return ArmSums(
        candidate=name,
        n=n,
        successes=n * rate,
        priced=known,
        priced_successes=known * rate,
        cost_sum=known * cost,
        cost_sq_sum=known * cost * cost * (1 + spread * spread),
        cost_success_sum=known * cost * rate,
    )


beliefs = st.tuples(st.floats(-1, 1), st.floats(1e-4, 1))
arms = st.builds(
    arm,
    st.sampled_from([f"m{i}" for i in range(8)]),
    st.sampled_from([0.0, 1.0, 5.0, 30.0, 400.0]),
    st.floats(0, 1),
    st.sampled_from([0.0, 1e-4, 0.003, 0.05]),
    priced=st.booleans(),
)


def exactly(posteriors: list[tuple[float, float]]) -> list[float]:
    """The same probabilities by adaptive integration over each belief's own distribution."""

    def one(i: int) -> float:
        mean, deviation = posteriors[i]
        others = [belief for j, belief in enumerate(posteriors) if j != i]

        def density(x: float) -> float:
            return (
                NORMAL.pdf((x - mean) / deviation) / deviation * math.prod(NORMAL.cdf((m - x) / s) for m, s in others)
            )

        steps = sorted(m + k * s for m, s in posteriors for k in (-3, 0, 3))
        low, high = mean - 8 * deviation, mean + 8 * deviation
        inside = [x for x in steps if low < x < high]
        return float(quad(density, low, high, points=inside or None, limit=60, epsabs=1e-6)[0])

    return [one(i) for i in range(len(posteriors))]


def test_the_belief_is_the_stated_formula() -> None:
    """Mean c + V(1 - (s+1)/(n+2)) and .7 of the root of the three variance terms."""
    sums = ArmSums(
        candidate="a", n=50, successes=40, priced=50, priced_successes=40, cost_sum=0.1, cost_sq_sum=0.0004, cost_success_sum=0.085
    )  # fmt: skip
    mean, deviation = posterior(sums, V, 1.0)
    rate, spread, covariance = 41 / 52, 0.0004 / 50 - 0.002**2, 0.085 / 50 - 0.002 * 0.8
    variance = spread / 50 + V * V * rate * (1 - rate) / 53 - 2 * V * covariance / 50
    assert mean == pytest.approx(0.002 + V * (1 - rate))
    assert deviation == pytest.approx(0.7 * math.sqrt(variance))


def test_few_runs_are_not_trusted_about_the_cost_and_none_say_nothing() -> None:
    """Below 8 runs equal costs still count as varying by half; without runs the best known mean stands in."""
    few, more = (posterior(arm("a", n, 1.0, 0.1, spread=0.0), V, 1.0)[1] for n in (7, 8))
    assert few > 0.7 * 0.05 / math.sqrt(7) > 3 * more
    assert posterior(arm("a", 0, 0, 0), V, 0.123) == (0.123, 0.3 * V)
    assert posterior(arm("a", 9, 1, 1, priced=False), V, 0.123) == (0.123, 0.3 * V)


@pytest.mark.parametrize("candidates", [2, 3, 9])
def test_the_probabilities_are_those_of_adaptive_integration(candidates: int) -> None:
    """Within 1e-4 for beliefs that are similar, and for some a hundred times as narrow as others."""
    rng = random.Random(candidates)  # noqa: S311
    for widest in (0.05, 1.0):
        found = [(rng.gauss(1, 0.1), widest * 10 ** rng.uniform(-2, 0)) for _ in range(candidates)]
        assert probability_least(found) == pytest.approx(exactly(found), abs=1e-4)


def test_twenty_probabilities_are_those_of_a_simulation() -> None:
    """K = 20: within the error of 20,000 draws."""
    rng = random.Random(20)  # noqa: S311
    found = [(rng.gauss(1, 0.05), rng.uniform(0.02, 0.1)) for _ in range(20)]
    draws = 20_000
    least = [0] * 20
    for _ in range(draws):
        drawn = [rng.gauss(m, s) for m, s in found]
        least[drawn.index(min(drawn))] += 1
    for chance, count in zip(probability_least(found), least, strict=True):
        assert abs(chance - count / draws) <= 4.5 * math.sqrt(chance * (1 - chance) / draws) + 1e-4


@given(st.lists(beliefs, min_size=1, max_size=20))
@settings(max_examples=60)
def test_probabilities_add_up_and_do_not_depend_on_the_order(found: list[tuple[float, float]]) -> None:
    """They lie in [0, 1], sum to 1, and follow their candidates when these are listed the other way round."""
    chances = probability_least(found)
    assert math.fsum(chances) == pytest.approx(1, abs=1e-12)
    assert min(chances) >= 0
    assert probability_least(found[::-1])[::-1] == pytest.approx(chances, abs=1e-9)


@given(beliefs, beliefs)
@settings(max_examples=60)
def test_two_beliefs_have_the_closed_form(a: tuple[float, float], b: tuple[float, float]) -> None:
    """P(a < b) is the normal distribution of the standardised gap."""
    expected = NORMAL.cdf((b[0] - a[0]) / math.hypot(a[1], b[1]))
    assert probability_least([a, b])[0] == pytest.approx(expected, abs=1e-4)


def test_points_and_numbers_that_are_none_have_their_place() -> None:
    """A deviation of 0 is a point, equal points share, what is not finite is never the least unless nothing else is."""
    assert probability_least([]) == ()
    assert probability_least([(1.0, 0.0)]) == (1.0,)
    assert probability_least([(1.0, 0.0), (1.0, 0.0), (2.0, 0.0)]) == pytest.approx((0.5, 0.5, 0.0))
    assert probability_least([(0.0, 0.0), (0.0, 0.0)]) == pytest.approx((0.5, 0.5))
    assert probability_least([(0.0, 0.0), (0.0, 1.0)]) == pytest.approx((0.5, 0.5), abs=1e-4)
    assert probability_least([(1.0, 0.1), (math.inf, 0.1), (math.nan, 0.1)]) == (1.0, 0.0, 0.0)
    assert probability_least([(math.nan, 0.1), (0.0, math.inf)]) == (0.5, 0.5)


@given(
    st.lists(arms, min_size=1, max_size=8, unique_by=lambda one: one.candidate),
    st.sampled_from(["adaptive", 0.0, 0.001, 0.05, 0.2, 1.0]),
    st.sets(st.sampled_from([f"m{i}" for i in range(8)])),
    st.sets(st.sampled_from([f"m{i}" for i in range(8)])),
    st.none() | st.tuples(st.sampled_from([f"m{i}" for i in range(8)]), st.sampled_from([0.25, 0.5, 1.0])),
)
@settings(max_examples=100)
def test_shares_are_propensities_within_the_rules(
    known: list[ArmSums],
    explore: float | Literal["adaptive"],
    dropped: set[str],
    eligible: set[str],
    canary: tuple[str, float] | None,
) -> None:
    """They sum to 1, nobody who is barred gets any, a canary gets its own, and challengers stay within the cap."""
    primary = known[0].candidate
    shares = split(known, primary=primary, explore=explore, value=V, dropped=dropped, eligible=eligible, canary=canary)
    assert abs(math.fsum(shares.values()) - 1) <= 1e-12
    assert min(shares.values()) >= 0
    trial = canary[0] if canary and canary[0] != primary else None
    assert set(shares) <= eligible | {primary, *([trial] if trial else [])}
    if canary and trial:
        assert shares[trial] == pytest.approx(canary[1])
    explored = math.fsum(share for name, share in shares.items() if name not in (primary, trial))
    if explore != "adaptive":
        assert explored <= explore + 1e-12
    else:
        assert math.fsum(shares[name] for name in dropped & set(shares) - {primary, trial}) <= DROPPED + 1e-12


def test_adaptive_follows_the_probabilities_and_keeps_a_duel() -> None:
    """While another leads the primary keeps 5 %; when it leads, or is no worse than that, nothing is touched."""
    clear = [arm("old", 400, 0.5, 0.002), arm("new", 400, 0.95, 0.002), arm("third", 400, 0.5, 0.002)]
    shares = split(clear, primary="old", explore="adaptive", value=V)
    assert shares["old"] == pytest.approx(DUEL)
    assert shares["new"] == pytest.approx(1 - DUEL, abs=1e-6)
    assert split(clear, primary="old", explore="adaptive", value=V, duel=0.1)["old"] == pytest.approx(0.1)
    assert split(clear, primary="new", explore="adaptive", value=V)["new"] > 0.999
    near = [arm("old", 30, 0.9, 0.002), arm("new", 30, 0.92, 0.002)]
    best = 0.002 + V * (1 - (30 * 0.92 + 1) / 32)
    expected = probability_least([posterior(one, V, best) for one in near])
    assert tuple(split(near, primary="old", explore="adaptive", value=V).values()) == pytest.approx(expected)


def test_a_cap_bounds_the_challengers_and_leaves_them_a_floor() -> None:
    """They share min(c, max(1 %, 1 - P)) in proportion to their chances, also when nobody has any chance."""
    clear = [arm("old", 4000, 0.5, 0.002), arm("new", 4000, 0.95, 0.002), arm("third", 4000, 0.5, 0.002)]
    shares = split(clear, primary="old", explore=0.2, value=V)
    assert shares["old"] == pytest.approx(0.8)
    assert shares["new"] == pytest.approx(0.2)
    settled = split(clear, primary="new", explore=0.2, value=V)
    assert settled["new"] == pytest.approx(1 - FLOOR)
    assert split(clear, primary="new", explore=0.004, value=V)["new"] == pytest.approx(0.996)
    equal = [arm("a", 9, 0.5, 0.002), arm("b", 9, 0.5, 0.002), arm("c", 9, 0.5, 0.002)]
    assert split(equal, primary="a", explore=1.0, value=V) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_dropped_candidates_share_a_trace() -> None:
    """.2 % among all of them, out of the cap where there is one; the primary is never dropped."""
    known = [arm(name, 30, 0.8, 0.002) for name in "abcd"]
    adaptive = split(known, primary="a", explore="adaptive", value=V, dropped={"a", "c", "d"})
    assert adaptive["c"] == adaptive["d"] == pytest.approx(DROPPED / 2)
    assert adaptive["a"] == pytest.approx(0.5 * (1 - DROPPED))
    capped = split(known, primary="a", explore=0.2, value=V, dropped={"c", "d"})
    assert (capped["a"], capped["b"], capped["c"]) == pytest.approx((0.8, 0.198, 0.001))
    alone = split(known, primary="a", explore=0.2, value=V, dropped={"b", "c", "d"})
    assert alone["a"] == pytest.approx(1 - DROPPED)


def test_high_risk_and_no_exploring_leave_all_to_the_primary() -> None:
    """No share for anybody else, and with high risk none for a canary either."""
    known = [arm("a", 30, 0.5, 0.002), arm("b", 30, 1.0, 0.001)]
    assert split(known, primary="a", explore="adaptive", value=V, canary=("b", 0.5), risk="high") == {"a": 1.0}
    assert split(known, primary="a", explore=0, value=V) == {"a": 1.0}
    assert split(known, primary="a", explore=0, value=V, canary=("b", 0.25)) == {"a": 0.75, "b": 0.25}
    assert split([], primary="a", explore="adaptive", value=V) == {"a": 1.0}


def test_without_any_cost_success_decides() -> None:
    """Where no candidate has a price the split goes by success instead of being even."""
    known = [arm("a", 200, 0.5, 0, priced=False), arm("b", 200, 0.9, 0, priced=False)]
    assert split(known, primary="b", explore="adaptive", value=1.0)["b"] > 0.999


def test_dropping_goes_by_the_upper_bounds() -> None:
    """Given up: who cannot gain enough, or is worse than the best; the level is .10 over the challengers."""
    assert drop_alpha(5) == pytest.approx(0.025)
    assert drop_alpha(1) == pytest.approx(0.10)
    assert dropped_now(gain_high=0.04, min_improvement=0.05)
    assert dropped_now(gain_high=0.5, min_improvement=0.05, against_best_high=-0.01)
    assert not dropped_now(gain_high=0.5, min_improvement=0.05, against_best_high=0.01)
    assert not dropped_now(gain_high=math.inf, min_improvement=0.05)


def test_a_budget_scales_what_costs_more_than_the_primary() -> None:
    """1,000 runs a day: the dearer challengers are scaled until their extra spend is the budget, cheaper ones stay."""
    weights = {"old": 0.6, "cheap": 0.1, "dear": 0.2, "new": 0.1}
    costs = {"old": 0.002, "cheap": 0.001, "dear": 0.012, "new": None}
    extra = 1000 * (0.2 * 0.010 + 0.1 * 0.012)
    kept = within_budget(weights, primary="old", cost_per_run=costs, runs_per_day=1000, budget_usd_per_day=extra / 4)
    assert kept == pytest.approx({"old": 0.825, "cheap": 0.1, "dear": 0.05, "new": 0.025})
    same = within_budget(weights, primary="old", cost_per_run=costs, runs_per_day=1000, budget_usd_per_day=extra)
    assert same == weights
    none = within_budget(weights, primary="old", cost_per_run=costs, runs_per_day=1000, budget_usd_per_day=0)
    assert none == pytest.approx({"old": 0.9, "cheap": 0.1, "dear": 0, "new": 0})
    trial = within_budget(
        weights, primary="old", cost_per_run=costs, runs_per_day=1000, budget_usd_per_day=0, canary="dear"
    )
    assert trial["dear"] == 0.2


def test_a_budget_without_any_price_explores_nothing() -> None:
    """What nobody can count in USD is not spent; a canary goes on."""
    weights = {"old": 0.5, "new": 0.25, "next": 0.25}
    kept = within_budget(weights, primary="old", cost_per_run={}, runs_per_day=10, budget_usd_per_day=5, canary="next")
    assert kept == {"old": 0.75, "next": 0.25}

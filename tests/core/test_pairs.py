"""Shadow pairs: sums that merge, variances against brute force, coverage at every look, runs that pairing saves."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, pvariance

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.synthetic import misses
from tierwise.core.confseq import asymptotic_half_width, smoothed_rate_variance, two_arm_variance
from tierwise.core.pairs import (
    PairSums,
    compare_pairs,
    of_pair,
    paired_log_ratio_variance,
    sign_log_e,
    total_of,
)
from tierwise.core.variance import robust_variance

ALPHA = 0.05

costs = st.none() | st.floats(min_value=0, max_value=10, allow_nan=False)
pairs = st.builds(
    of_pair,
    incumbent_success=st.booleans(),
    challenger_success=st.booleans(),
    incumbent_cost_usd=costs,
    challenger_cost_usd=costs,
)


def draw(
    rng: random.Random, p_i: float, p_c: float, *, shared: float = 0.6, costs: tuple[float, float] = (1.0, 1.0)
) -> PairSums:
    """One pair: with probability `shared` the prompt's difficulty decides for both, and its length makes both dear."""
    u = rng.random()
    v = u if rng.random() < shared else rng.random()
    length = rng.gauss(0, 0.8)
    return of_pair(
        incumbent_success=u < p_i,
        challenger_success=v < p_c,
        incumbent_cost_usd=costs[0] * math.exp(length + rng.gauss(0, 0.3)),
        challenger_cost_usd=costs[1] * math.exp(length + rng.gauss(0, 0.3)),
    )


def bucket(counts: tuple[int, int, int, int], *, cost: tuple[float, float] = (0.002, 0.001)) -> PairSums:
    """Pairs by outcome (both, incumbent alone, challenger alone, neither), all at the same costs."""
    kinds = ((True, True), (True, False), (False, True), (False, False))
    return total_of(
        of_pair(incumbent_success=i, challenger_success=c, incumbent_cost_usd=cost[0], challenger_cost_usd=cost[1])
        for (i, c), count in zip(kinds, counts, strict=True)
        for _ in range(count)
    )


@given(st.lists(pairs, max_size=12), st.integers(0, 12))
def test_sums_merge_in_any_grouping(found: list[PairSums], cut: int) -> None:
    """Counts are exact and sums within rounding however pairs are grouped, and no pair is the neutral element."""
    whole, parts = total_of(found), total_of(found[:cut]) + total_of(found[cut:])
    assert (whole.both, whole.only_incumbent, whole.only_challenger, whole.neither, whole.priced) == (
        parts.both, parts.only_incumbent, parts.only_challenger, parts.neither, parts.priced,
    )  # fmt: skip
    assert whole.cost_product == pytest.approx(parts.cost_product, rel=1e-12)
    assert whole.cost_c_success_i == pytest.approx(parts.cost_c_success_i, rel=1e-12)
    assert whole + PairSums() == whole
    assert whole.n == len(found)


@given(pairs)
def test_a_pair_counts_once_and_its_costs_only_when_both_are_known(pair: PairSums) -> None:
    """One of the four counts is 1; a pair with one unknown cost leaves no trace in the priced sums."""
    assert pair.n == 1
    assert pair.success_both <= min(pair.success_i, pair.success_c) <= pair.priced <= 1
    if pair.priced == 0:
        assert pair.cost_i == pair.cost_c == pair.success_i == pair.success_c == 0


def test_the_log_ratio_variance_is_that_of_the_linearised_pairs() -> None:
    """The joint moments give the same variance as the pairs themselves, pseudo-pairs included."""
    rng = random.Random(1)  # noqa: S311
    found = [draw(rng, 0.7, 0.8, costs=(1.0, 0.3)) for _ in range(400)]
    total = total_of(found)
    n, c_i, c_c = len(found), total.cost_i / 400, total.cost_c / 400
    s_i, s_c = (total.success_i + 2) / (n + 4), (total.success_c + 2) / (n + 4)
    rows = [(p.cost_i, p.success_i, p.cost_c, p.success_c) for p in found]
    rows += [(c_i, i, c_c, c) for i in (0, 1) for c in (0, 1)]
    linear = [a / c_i - b / s_i - c / c_c + d / s_c for a, b, c, d in rows]
    assert paired_log_ratio_variance(total) == pytest.approx(pvariance(linear) * (n + 4) / n, rel=1e-9)


def test_the_log_ratio_variance_is_that_of_the_estimate_over_many_samples() -> None:
    """The delta method agrees with the spread of the log ratio over simulated samples of 300 pairs."""
    logs, variances = [], []
    for seed in range(100):
        rng = random.Random(seed)  # noqa: S311
        total = total_of(draw(rng, 0.8, 0.7) for _ in range(300))
        logs.append(math.log(total.cost_i / total.success_i) - math.log(total.cost_c / total.success_c))
        variances.append(paired_log_ratio_variance(total) / 300)
    assert fmean(variances) == pytest.approx(pvariance(logs), rel=0.35)


def test_clean_sheets_keep_some_variance() -> None:
    """Pairs that all succeed at the same costs leave bounds of a width above 0 that shrinks with their number."""
    few, many = (compare_pairs([bucket((n, 0, 0, 0))] * 12, alpha=ALPHA, margin=0.05) for n in (5, 50))
    assert few.gain.point == pytest.approx(0.5)
    assert few.difference.high > many.difference.high > 0
    assert few.gain.low < many.gain.low < 0.5 < many.gain.high < few.gain.high
    assert many.non_inferior
    assert not few.better
    assert not few.worse


def test_few_pairs_give_estimates_without_asymptotic_bounds() -> None:
    """Below the minimum the difference may be anything and the gain has no lower bound, but the estimates are there."""
    found = compare_pairs([bucket((3, 0, 1, 0))] * 5, alpha=ALPHA, margin=0.05)
    assert not found.enough
    assert (found.difference.low, found.difference.high) == (-1, 1)
    assert found.gain.low == -math.inf
    assert found.gain.point == pytest.approx(1 - 0.001 / 20 / (0.002 / 15))
    assert found.difference.point == pytest.approx(0.25)


def test_the_exact_tests_need_no_minimum() -> None:
    """Ten pairs that only the challenger answered show that it is better; 160 without a loss that it is not worse."""
    won = compare_pairs([bucket((0, 0, 10, 0))], alpha=ALPHA, margin=0.05)
    assert won.better
    assert not won.enough
    assert compare_pairs([bucket((0, 10, 0, 0))], alpha=ALPHA, margin=0.05).worse
    assert compare_pairs([bucket((1, 0, 0, 0))] * 160, alpha=ALPHA, margin=0.05).non_inferior
    assert not compare_pairs([bucket((1, 0, 0, 0))] * 60, alpha=ALPHA, margin=0.05).non_inferior


@pytest.mark.parametrize(
    ("counts", "cost", "gain"),
    [
        ((0, 0, 9, 3), (1.0, 1.0), (1.0, -math.inf, 1.0)),
        ((0, 9, 0, 3), (1.0, 1.0), (-math.inf, -math.inf, math.inf)),
        ((0, 0, 0, 9), (1.0, 1.0), (None, -math.inf, math.inf)),
        ((9, 0, 0, 0), (0.0, 0.0), (0.0, 0.0, 0.0)),
        ((9, 0, 0, 0), (1.0, 0.0), (1.0, 1.0, 1.0)),
        ((9, 0, 0, 0), (0.0, 1.0), (-math.inf, -math.inf, -math.inf)),
    ],
)
def test_without_success_or_cost_the_gain_is_what_can_be_said(
    counts: tuple[int, int, int, int], cost: tuple[float, float], gain: tuple[float | None, float, float]
) -> None:
    """A cost per success that is infinite, free or unknown on one side never becomes a number that nobody measured."""
    found = compare_pairs([bucket(counts, cost=cost)] * 12, alpha=ALPHA, margin=0.05).gain
    assert (found.point, found.low, found.high) == gain


def test_no_pairs_at_all_say_nothing() -> None:
    """Empty buckets are no evidence, and buckets without pairs do not count as buckets."""
    nothing = compare_pairs([PairSums()] * 20, alpha=ALPHA, margin=0.05)
    assert (nothing.n, nothing.buckets, nothing.gain.point, nothing.difference.point) == (0, 0, None, None)
    assert not any((nothing.better, nothing.worse, nothing.non_inferior, nothing.inferior))
    some = compare_pairs([PairSums(), bucket((4, 1, 1, 1))] * 12, alpha=ALPHA, margin=0.05)
    assert some.buckets == 12
    assert some == compare_pairs([bucket((4, 1, 1, 1))] * 12, alpha=ALPHA, margin=0.05)


def test_costs_that_are_unknown_leave_the_gain_open_and_the_difference_told() -> None:
    """Success is compared over all pairs, cost over those whose two costs are known."""
    free = of_pair(incumbent_success=True, challenger_success=False, incumbent_cost_usd=None, challenger_cost_usd=1.0)
    unpriced = compare_pairs([total_of([free] * 5)] * 12, alpha=ALPHA, margin=0.05)
    assert unpriced.gain.point is None
    assert unpriced.inferior
    mixed = [bucket((5, 0, 0, 0)), total_of([free] * 5)] * 12
    assert compare_pairs(mixed, alpha=ALPHA, margin=0.05).gain.point == pytest.approx(0.5)


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=14), st.none() | st.floats(0, 1))
@settings(max_examples=60)
def test_exchanging_the_two_mirrors_the_difference(
    counts: list[tuple[int, int, int, int]], value: float | None
) -> None:
    """What is shown for a challenger is shown against it when the roles are exchanged; estimates lie in their bounds."""
    there = compare_pairs([bucket(c) for c in counts], alpha=ALPHA, margin=0.05, value_of_success_usd=value)
    swapped = [bucket((a, c, b, d), cost=(0.001, 0.002)) for a, b, c, d in counts]
    back = compare_pairs(swapped, alpha=ALPHA, margin=0.05, value_of_success_usd=value)
    assert (there.better, there.worse, there.n) == (back.worse, back.better, back.n)
    assert there.difference.low == pytest.approx(-back.difference.high)
    for bounds in (there.difference, there.gain):
        assert bounds.point is None or bounds.point == -math.inf or bounds.low <= bounds.point <= bounds.high


def test_the_loss_counts_what_a_success_is_worth() -> None:
    """The gain in the loss is the saved cost and the won successes over the incumbent's loss."""
    found = compare_pairs([bucket((6, 1, 2, 1))] * 12, alpha=ALPHA, margin=0.05, value_of_success_usd=0.02)
    incumbent, challenger = 0.002 + 0.02 * 0.3, 0.001 + 0.02 * 0.2
    assert found.gain.point == pytest.approx(1 - challenger / incumbent)
    assert found.gain.low < 1 - challenger / incumbent < found.gain.high


def test_correlated_buckets_widen_the_bounds() -> None:
    """Hours in which one candidate alone fails weigh as hours, not as pairs."""
    steady = compare_pairs([bucket((16, 2, 2, 0))] * 20, alpha=ALPHA, margin=0.05)
    bursts = compare_pairs([bucket((16, 4, 0, 0)), bucket((16, 0, 4, 0))] * 10, alpha=ALPHA, margin=0.05)
    assert bursts.difference.high > 1.5 * steady.difference.high


def test_the_sign_test_errs_in_at_most_its_level_at_every_look() -> None:
    """Of discordant pairs that fall either way, at most 5 % of histories are ever rejected over 400 looks."""

    def wrong(seed: int) -> bool:
        rng, wins = random.Random(seed), 0  # noqa: S311
        for n in range(1, 401):
            wins += rng.random() < 0.5
            if sign_log_e(wins, n) >= -math.log(ALPHA):
                return True
        return False

    assert misses(wrong, 150) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 150)


@pytest.mark.parametrize(
    ("p_i", "p_c", "shared", "shock"), [(0.8, 0.8, 0.6, 0.0), (0.97, 0.97, 0.3, 0.0), (0.95, 0.9, 0.9, 0.0), (0.9, 0.9, 0.5, 0.6)]
)  # fmt: skip
def test_the_bounds_hold_at_every_look(p_i: float, p_c: float, shared: float, shock: float) -> None:
    """True difference and gain leave their bounds, and exact tests err, in at most 5 % of histories; bad hours included."""
    gain = 1 - 1.5 / p_c * p_i

    def wrong(seed: int) -> bool:
        rng = random.Random(seed)  # noqa: S311
        found: list[PairSums] = []
        for look in range(1, 61):
            shift = rng.gauss(0, shock) if shock else 0.0
            i, c = (1 / (1 + math.exp(-math.log(p / (1 - p)) - shift)) for p in (p_i, p_c))
            found.append(total_of(draw(rng, i, c, shared=shared, costs=(1.0, 1.5)) for _ in range(10)))
            if look < 10 or look % 4:
                continue
            seen = compare_pairs(found, alpha=ALPHA, margin=0.05)
            if not seen.difference.low <= p_c - p_i <= seen.difference.high or (seen.better and p_c <= p_i):
                return True
            if not shock and not seen.gain.low <= gain <= seen.gain.high:
                return True
            if seen.worse and p_c >= p_i:
                return True
        return False

    assert misses(wrong, 40) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 40)


def robust(successes: Sequence[int], counts: Sequence[int]) -> tuple[float, int]:
    """Variance of one run of an arm of its own, and its runs."""
    n = sum(counts)
    return robust_variance(successes, counts, smoothed_rate_variance(sum(successes), n)), n


def runs_needed(seed: int, *, paired: bool, p_i: float = 0.7, p_c: float = 0.78, per_look: int = 20) -> int:
    """Runs an arm until the challenger is shown to succeed more often, at most 4,000."""
    rng = random.Random(seed)  # noqa: S311
    found: list[PairSums] = []
    a: list[int] = []
    b: list[int] = []
    for look in range(1, 4000 // per_look + 1):
        if paired:
            found.append(total_of(draw(rng, p_i, p_c) for _ in range(per_look)))
            shown = look >= 10 and compare_pairs(found, alpha=ALPHA, margin=0.05).difference.low > 0
        else:
            a.append(sum(rng.random() < p_i for _ in range(per_look)))
            b.append(sum(rng.random() < p_c for _ in range(per_look)))
            counts = [per_look] * look
            width = asymptotic_half_width(*two_arm_variance(*robust(a, counts), *robust(b, counts)), ALPHA)
            shown = look >= 10 and (sum(b) - sum(a)) / sum(counts) > width
        if shown:
            return look * per_look
    return 4000


def test_pairs_need_fewer_runs_than_two_samples_do() -> None:
    """On outcomes that go together, pairs show the same gap with 1.6 to 2.8 times fewer runs an arm at the same level."""
    histories = range(80)
    pairwise = fmean(runs_needed(seed, paired=True) for seed in histories)
    apart = fmean(runs_needed(seed, paired=False) for seed in histories)
    assert 1.6 <= apart / pairwise <= 2.8


def test_a_gain_needs_costs_above_zero() -> None:
    """The variance of a log ratio without costs is refused with the reason."""
    with pytest.raises(ValueError, match="costs above 0"):
        paired_log_ratio_variance(bucket((5, 0, 0, 0), cost=(0.0, 1.0)))

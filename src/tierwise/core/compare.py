"""A challenger against the incumbent: gain in the objective, difference in success, and what is still missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from operator import add, mul, truediv
from typing import Final

from tierwise.core.confseq import (
    runs_until,
)
from tierwise.core.gains import COST_KINDS, Arm, Gain, gain_of, success_width
from tierwise.core.pairs import PairSums, compare_pairs
from tierwise.core.policy import TaskPolicy
from tierwise.core.pool import COST, PRICED, RUNS, SUCCESSES, Pool
from tierwise.core.records import dataclass

CLEARLY: Final = 0.5
"""Point gain that counts as clear where only the success rates have been separated exactly."""

QUARTERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the shared buckets of two arms say. `shown`: the gain is above 0 at the gate's level and large enough."""

    n_incumbent: int
    n_challenger: int
    buckets: int
    enough: bool
    gain: Gain
    shown: bool
    exact: bool
    """The gain was shown by the exact product test of the success rates, which needs no minimum."""
    difference: float | None
    difference_low: float
    difference_high: float
    non_inferior: bool
    inferior: bool
    pairs: int = 0
    """Shadow pairs of the two, which were compared prompt by prompt."""
    paired: bool = False
    """All of this is of the pairs alone: nobody chose which prompts went to whom."""
    runs_more: int | None = None
    """Further runs per arm until the comparison is decided if the estimates stay; `None`: cannot be told."""


def compare(incumbent: Pool, challenger: Pool, policy: TaskPolicy, *, alpha: float, concurrent: bool) -> Comparison:
    """Compare two arms at error probability `alpha` over all looks.

    With `concurrent` (randomised evidence) only buckets in which both arms have runs count, so that hours of another
    kind, or a bench beside live traffic, cannot pass for a difference between the models; and where the split between
    the two has changed over time, both get the same weight in each bucket (`common_weights`).
    """
    if concurrent:
        incumbent, challenger = incumbent.shared_with(challenger)
    buckets = min(incumbent.buckets, challenger.buckets)
    n_i, n_c = incumbent.total(RUNS), challenger.total(RUNS)
    smaller = min(n_i, n_c)
    if policy.objective.kind in COST_KINDS:
        smaller = min(smaller, incumbent.total(PRICED), challenger.total(PRICED))
    enough = smaller >= max(policy.min_runs, 1) and buckets >= policy.min_buckets
    if smaller <= 0:
        return Comparison(
            n_incumbent=int(n_i), n_challenger=int(n_c), buckets=buckets, enough=False, gain=Gain(), shown=False,
            exact=False, difference=None, difference_low=-1.0, difference_high=1.0, non_inferior=False, inferior=False,
        )  # fmt: skip
    if concurrent and _split_changed(incumbent, challenger):
        incumbent, challenger = common_weights(incumbent, challenger)
    a, b = Arm.of(incumbent), Arm.of(challenger)
    difference = b.rate - a.rate
    width = success_width(a, b, alpha) if enough else 2.0
    low, high = max(difference - width, -1.0), min(difference + width, 1.0)
    better = b.exceeds(a, 0.0, alpha)
    gain, width_at = gain_of(incumbent, challenger, a, b, policy, alpha)
    if policy.objective.kind in ("cost_per_success", "loss", "success_rate") and not enough:
        gain = Gain(point=gain.point)
    worthwhile = gain.point is not None and gain.point >= policy.min_improvement
    exact = worthwhile and better and _exact_decides(incumbent, challenger, gain, policy)
    return Comparison(
        n_incumbent=int(n_i),
        n_challenger=int(n_c),
        buckets=buckets,
        enough=enough,
        gain=gain,
        shown=worthwhile and (gain.low > 0 or exact),
        exact=exact and not gain.low > 0,
        difference=difference,
        difference_low=low,
        difference_high=high,
        non_inferior=low > -policy.margin or b.exceeds(a, -policy.margin, alpha),
        inferior=high < -policy.margin or a.exceeds(b, policy.margin, alpha),
        runs_more=_runs_more(a, b, gain, width_at, policy, alpha, buckets),
    )


def common_weights(incumbent: Pool, challenger: Pool) -> tuple[Pool, Pool]:
    """Both arms of the same buckets with weights n1 n2 / (n1 + n2) in each, scaled to their effective numbers of runs.

    While the split moves towards one arm, its totals lean to the later hours: what changed with time would pass for a
    difference between the arms (Simpson). With the weights of Mantel and Haenszel (1959) each bucket compares like with
    like. An arm's effective n is (sum w)^2 / sum(w^2 / n), that of a weighted mean of bucket means.
    """
    n_i, n_c = incumbent.series(RUNS), challenger.series(RUNS)
    weights = list(map(truediv, map(mul, n_i, n_c), map(add, n_i, n_c)))
    whole = sum(weights)
    made = []
    for pool, n in ((incumbent, n_i), (challenger, n_c)):
        factors = list(map(truediv, weights, n))
        scale = whole / sum(map(mul, weights, factors))
        made.append(pool.weighted([factor * scale for factor in factors]))
    return made[0], made[1]


def _split_changed(incumbent: Pool, challenger: Pool) -> bool:
    """Whether the challenger's share of the two was another one in some quarter of the buckets, beyond chance."""
    n_i, n_c = incumbent.series(RUNS), challenger.series(RUNS)
    if len(n_i) != len(n_c) or len(n_i) < QUARTERS:
        return False
    share = sum(n_c) / (sum(n_i) + sum(n_c))
    for quarter in range(QUARTERS):
        part = slice(quarter * len(n_i) // QUARTERS, (quarter + 1) * len(n_i) // QUARTERS)
        mine, both = sum(n_c[part]), sum(n_i[part]) + sum(n_c[part])
        if abs(mine / both - share) > max(0.02, 4 * sqrt(share * (1 - share) / both)):
            return True
    return False


def with_pairs(
    found: Comparison, pairs: Sequence[PairSums], policy: TaskPolicy, *, alpha: float, alone: bool
) -> Comparison:
    """A comparison with that of shadow pairs; `alone`: of these only, since the runs were chosen and pairs are not.

    Else the caller gives each of the two half of the error probability, and the bounds are the tighter ones of both.
    Latencies are not compared in pairs.
    """
    kind = policy.objective.kind
    if kind in ("latency_p50", "latency_p95"):
        return found
    own = compare_pairs(
        pairs,
        alpha=alpha,
        margin=policy.margin,
        min_pairs=policy.min_runs,
        min_buckets=policy.min_buckets,
        value_of_success_usd=policy.objective.value_of_success_usd if kind == "loss" else None,
    )
    if own.n == 0:
        return found
    bounds = own.difference if kind == "success_rate" else own.gain
    shown = bounds.point is not None and bounds.point >= policy.min_improvement and bounds.low > 0
    by_pairs = replace(
        found,
        pairs=own.n,
        paired=True,
        buckets=own.buckets,
        enough=own.enough,
        gain=Gain(point=bounds.point, low=bounds.low, high=bounds.high),
        shown=shown,
        exact=False,
        difference=own.difference.point,
        difference_low=own.difference.low,
        difference_high=own.difference.high,
        non_inferior=own.non_inferior,
        inferior=own.inferior,
        runs_more=max(policy.min_runs - own.n, 0) or None,
    )
    if alone or not (found.enough or found.exact):
        return by_pairs
    return replace(
        found,
        pairs=own.n,
        gain=Gain(point=found.gain.point, low=max(found.gain.low, bounds.low), high=min(found.gain.high, bounds.high)),
        shown=found.shown or shown,
        difference_low=max(found.difference_low, own.difference.low),
        difference_high=min(found.difference_high, own.difference.high),
        non_inferior=found.non_inferior or own.non_inferior,
        inferior=found.inferior or own.inferior,
    )


def _exact_decides(incumbent: Pool, challenger: Pool, gain: Gain, policy: TaskPolicy) -> bool:
    """Whether a success rate that is exactly shown to be better settles the objective.

    Always for `success_rate`; for costs when the incumbent never succeeded, or when the challenger is clearly cheaper
    per success and not dearer per run, so that both factors of the objective point the same way.
    """
    kind = policy.objective.kind
    if kind == "success_rate":
        return True
    if kind not in COST_KINDS or gain.point is None:
        return False
    if kind == "cost_per_success" and incumbent.total(SUCCESSES) <= 0:
        return True
    n_i, n_c = incumbent.total(PRICED), challenger.total(PRICED)
    if n_i <= 0 or n_c <= 0:
        return False
    return gain.point >= CLEARLY and challenger.total(COST) / n_c <= incumbent.total(COST) / n_i


def _runs_more(
    a: Arm,
    b: Arm,
    gain: Gain,
    gain_at: Callable[[float], Gain] | None,
    policy: TaskPolicy,
    alpha: float,
    buckets: int,
) -> int | None:
    """Runs per arm still needed if rates, costs and runs per bucket stay: until shown or until excluded."""
    n = min(a.n, b.n)
    start = max(n, float(policy.min_runs), n / max(buckets, 1) * policy.min_buckets)
    promising = gain.point is not None and gain.point >= policy.min_improvement and b.rate - a.rate >= -policy.margin

    def settled(size: float) -> bool:
        factor = size / n
        x, y = a.times(factor), b.times(factor)
        difference, width = b.rate - a.rate, success_width(x, y, alpha)
        if difference < -policy.margin:
            return difference + width < -policy.margin
        projected = gain_at(factor) if gain_at is not None else gain
        if promising:
            return projected.low > 0 and difference - width > -policy.margin
        return projected.high < policy.min_improvement

    asymptotic = runs_until(settled, start=start) if gain_at is not None else None
    exact = None
    if promising and b.rate > a.rate and (a.successes == 0 or policy.objective.kind == "success_rate"):
        exact = runs_until(lambda size: b.times(size / n).exceeds(a.times(size / n), 0.0, alpha), start=n)
    known = [runs for runs in (asymptotic, exact) if runs is not None]
    if known:
        return max(min(known) - int(n), 0)
    short = int(start - n + 0.999999)
    return short if short > 0 else None

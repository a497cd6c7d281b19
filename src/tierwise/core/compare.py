"""A challenger against the incumbent: gain in the objective, difference in success, and what is still missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, inf, log, sqrt
from operator import add, mul, truediv
from typing import Final

from tierwise.core.confseq import (
    asymptotic_half_width,
    rate_exceeds,
    runs_until,
    smoothed_rate_variance,
    two_arm_variance,
)
from tierwise.core.guardrails import log_cost_variance, quantile_of, success_share
from tierwise.core.pairs import PairSums, compare_pairs
from tierwise.core.policy import TaskPolicy
from tierwise.core.pool import COST, COST_SQ, COST_SUCCESS, PRICED, PRICED_SUCCESSES, RUNS, SUCCESSES, Pool
from tierwise.core.records import dataclass
from tierwise.core.variance import robust_variance

CLEARLY: Final = 0.5
"""Point gain that counts as clear where only the success rates have been separated exactly."""

QUARTERS: Final = 4
COST_KINDS: Final = ("cost_per_success", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Gain in the objective as a share of the incumbent's (for `success_rate` in points); bounds at every look.

    `point` is `None` where neither arm has a value. Bounds are -inf and inf until they are known.
    """

    point: float | None = None
    low: float = -inf
    high: float = inf


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
        shared = incumbent.live_slots & challenger.live_slots
        incumbent, challenger = incumbent.within(shared), challenger.within(shared)
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
    a, b = _Arm.of(incumbent), _Arm.of(challenger)
    difference = b.rate - a.rate
    width = _success_width(a, b, alpha) if enough else 2.0
    low, high = max(difference - width, -1.0), min(difference + width, 1.0)
    better = b.exceeds(a, 0.0, alpha)
    gain, width_at = _gain(incumbent, challenger, a, b, policy, alpha)
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


def gain_and_error(  # noqa: PLR0911 - a return a case
    incumbent: Pool, challenger: Pool, policy: TaskPolicy
) -> tuple[float | None, float]:
    """The gain and its standard error for one look; (`None`, inf) where there is none to tell.

    On the scale on which it is about normal: the logarithm for a cost per success, else the objective's own. A latency
    counts as worse (-3 at an error of 1) when the two intervals at 5 % are disjoint that way.
    """
    kind = policy.objective.kind
    a, b = _Arm.of(incumbent), _Arm.of(challenger)
    if kind == "success_rate":
        return b.rate - a.rate, sqrt(a.variance / a.n + b.variance / b.n)
    if kind in ("latency_p50", "latency_p95"):
        return (-3.0, 1.0) if _latency_gain(kind, incumbent, challenger, 0.05).high < 0 else (0.0, 1.0)
    n_i, n_c = incumbent.total(PRICED), challenger.total(PRICED)
    if n_i <= 0 or n_c <= 0:
        return None, inf
    if kind == "loss":
        value = policy.objective.value_of_success_usd
        if value is None:
            return None, inf
        (mean_i, v_i), (mean_c, v_c) = _loss(incumbent, value), _loss(challenger, value)
        return mean_i - mean_c, sqrt(v_i / n_i + v_c / n_c)
    c_i, c_c = incumbent.total(COST), challenger.total(COST)
    s_i, s_c = incumbent.total(PRICED_SUCCESSES), challenger.total(PRICED_SUCCESSES)
    if s_c <= 0:
        return (None, inf) if s_i > 0 else (0.0, inf)
    if s_i <= 0 or c_c <= 0:
        return inf, 1.0
    if c_i <= 0:
        return None, inf
    error = sqrt(log_cost_variance(incumbent) / n_i + log_cost_variance(challenger) / n_c)
    return log(c_i / s_i) - log(c_c / s_c), error


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


def objective_value(pool: Pool, policy: TaskPolicy) -> float | None:
    """The objective's estimate, smaller is better (`success_rate` negated); `None` without data, inf without success."""
    kind = policy.objective.kind
    n = pool.total(RUNS)
    if kind == "success_rate":
        return -pool.total(SUCCESSES) / n if n > 0 else None
    if kind in ("latency_p50", "latency_p95"):
        return quantile_of(kind, pool, 0.05)[0]
    priced, cost = pool.total(PRICED), pool.total(COST)
    successes = max(pool.total(PRICED_SUCCESSES), 0)
    if priced <= 0:
        return None
    if kind == "cost_per_success":
        return cost / successes if successes > 0 else inf
    value = policy.objective.value_of_success_usd
    return None if value is None else cost / priced + value * (1 - successes / priced)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """Runs, successes and effective share of one arm."""

    n: float
    successes: float
    share: float
    variance: float

    @staticmethod
    def of(pool: Pool) -> _Arm:
        n = pool.total(RUNS)
        successes = min(max(pool.total(SUCCESSES), 0.0), n)
        share = success_share(pool) if n > 0 else 1.0
        return _Arm(n=n, successes=successes, share=share, variance=smoothed_rate_variance(successes, n) / share)

    @property
    def rate(self) -> float:
        return self.successes / self.n

    def times(self, factor: float) -> _Arm:
        """The arm with more runs of the same kind."""
        n, successes = self.n * factor, self.successes * factor
        return _Arm(
            n=n,
            successes=successes,
            share=self.share,
            variance=smoothed_rate_variance(successes, n) / self.share,
        )

    def exceeds(self, other: _Arm, delta: float, alpha: float) -> bool:
        """Whether this arm's rate is higher by more than `delta`, by the exact test on effective samples."""
        mine = self.n * self.share
        theirs = other.n * other.share
        return rate_exceeds(min(self.rate * mine, mine), mine, min(other.rate * theirs, theirs), theirs, delta, alpha)


def _success_width(a: _Arm, b: _Arm, alpha: float) -> float:
    return asymptotic_half_width(*two_arm_variance(a.variance, a.n, b.variance, b.n), alpha)


def _gain(
    incumbent: Pool, challenger: Pool, a: _Arm, b: _Arm, policy: TaskPolicy, alpha: float
) -> tuple[Gain, Callable[[float], Gain] | None]:
    """The gain, and the same gain as it would be with `factor` times the runs."""
    kind = policy.objective.kind
    if kind == "success_rate":

        def by_success(factor: float) -> Gain:
            width = _success_width(a.times(factor), b.times(factor), alpha)
            return Gain(point=b.rate - a.rate, low=b.rate - a.rate - width, high=b.rate - a.rate + width)

        return by_success(1.0), by_success
    if kind in ("latency_p50", "latency_p95"):
        return _latency_gain(kind, incumbent, challenger, alpha), None
    return (
        _cost_gain(incumbent, challenger, alpha)
        if kind == "cost_per_success"
        else _loss_gain(incumbent, challenger, policy.objective.value_of_success_usd, alpha)
    )


def _cost_gain(incumbent: Pool, challenger: Pool, alpha: float) -> tuple[Gain, Callable[[float], Gain] | None]:
    n_i, n_c = incumbent.total(PRICED), challenger.total(PRICED)
    c_i, c_c = incumbent.total(COST), challenger.total(COST)
    s_i, s_c = incumbent.total(PRICED_SUCCESSES), challenger.total(PRICED_SUCCESSES)
    if n_i <= 0 or n_c <= 0 or (s_i <= 0 and s_c <= 0):
        return (Gain(point=1.0) if n_i <= 0 < n_c and s_c > 0 and incumbent.total(SUCCESSES) <= 0 else Gain()), None
    if s_c <= 0:
        return Gain(point=-inf), None
    if s_i <= 0:
        return Gain(point=1.0, high=1.0), None
    if c_c <= 0 or c_i <= 0:
        free = 0.0 if c_c <= 0 and c_i <= 0 else 1.0 if c_c <= 0 else -inf
        return Gain(point=free, low=free, high=free), None
    theta = log(c_i / s_i) - log(c_c / s_c)
    v_i, v_c = log_cost_variance(incumbent), log_cost_variance(challenger)

    def at(factor: float) -> Gain:
        width = asymptotic_half_width(*two_arm_variance(v_i, n_i * factor, v_c, n_c * factor), alpha)
        return Gain(point=1 - exp(-theta), low=1 - exp(min(width - theta, 700.0)), high=1 - exp(-theta - width))

    return at(1.0), at


def _loss_gain(
    incumbent: Pool, challenger: Pool, value: float | None, alpha: float
) -> tuple[Gain, Callable[[float], Gain] | None]:
    n_i, n_c = incumbent.total(PRICED), challenger.total(PRICED)
    if value is None or n_i <= 0 or n_c <= 0:
        return Gain(), None
    mean_i, v_i = _loss(incumbent, value)
    mean_c, v_c = _loss(challenger, value)
    if mean_i <= 0:
        return Gain(), None

    def at(factor: float) -> Gain:
        width = asymptotic_half_width(*two_arm_variance(v_i, n_i * factor, v_c, n_c * factor), alpha)
        point = mean_i - mean_c
        return Gain(point=point / mean_i, low=(point - width) / mean_i, high=(point + width) / mean_i)

    return at(1.0), at


def _loss(pool: Pool, value: float) -> tuple[float, float]:
    """Mean and per-run variance of cost + V (1 - success)."""
    n, cost, successes = pool.total(PRICED), pool.total(COST), pool.total(PRICED_SUCCESSES)
    mean, rate = cost / n, successes / n
    spread = max(pool.total(COST_SQ) / n - mean * mean, 0.0)
    covariance = pool.total(COST_SUCCESS) / n - mean * rate
    iid = max(spread + value * value * smoothed_rate_variance(successes, n) - 2 * value * covariance, 0.0)
    pairs = zip(pool.clusters(COST), pool.clusters(PRICED_SUCCESSES), strict=True)
    variance = robust_variance([c - value * s for c, s in pairs], pool.clusters(PRICED), iid)
    return mean + value * (1 - rate), variance


def _latency_gain(kind: str, incumbent: Pool, challenger: Pool, alpha: float) -> Gain:
    """From two intervals at half the level each: the quantiles differ when they are disjoint."""
    q_i, low_i, high_i, _ = quantile_of(kind, incumbent, alpha / 2)
    q_c, low_c, high_c, _ = quantile_of(kind, challenger, alpha / 2)
    if q_i is None or q_c is None or low_i is None or low_c is None or high_i is None or high_c is None:
        return Gain()
    unbounded = 0.0 if q_c == inf else 1.0
    point = unbounded if q_i == inf else 1 - q_c / q_i
    return Gain(
        point=point,
        low=1 - high_c / low_i if low_i > 0 and high_c < inf else -inf,
        high=1 - low_c / high_i if high_i < inf else 1.0,
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
    a: _Arm,
    b: _Arm,
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
        difference, width = b.rate - a.rate, _success_width(x, y, alpha)
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

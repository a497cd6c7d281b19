"""What a challenger gains over the incumbent in the objective, with bounds for every look and errors for one."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, log, sqrt
from typing import Final

from tierwise.core.confseq import asymptotic_half_width, rate_exceeds, smoothed_rate_variance, two_arm_variance
from tierwise.core.guardrails import log_cost_variance, quantile_of, success_share
from tierwise.core.policy import TaskPolicy
from tierwise.core.pool import COST, COST_SQ, COST_SUCCESS, PRICED, PRICED_SUCCESSES, RUNS, SUCCESSES, Pool
from tierwise.core.records import dataclass
from tierwise.core.variance import robust_variance

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
class Arm:
    """Runs, successes and effective share of one arm."""

    n: float
    successes: float
    share: float
    variance: float

    @staticmethod
    def of(pool: Pool) -> Arm:
        n = pool.total(RUNS)
        successes = min(max(pool.total(SUCCESSES), 0.0), n)
        share = success_share(pool) if n > 0 else 1.0
        return Arm(n=n, successes=successes, share=share, variance=smoothed_rate_variance(successes, n) / share)

    @property
    def rate(self) -> float:
        return self.successes / self.n

    def times(self, factor: float) -> Arm:
        """The arm with more runs of the same kind."""
        n, successes = self.n * factor, self.successes * factor
        return Arm(
            n=n,
            successes=successes,
            share=self.share,
            variance=smoothed_rate_variance(successes, n) / self.share,
        )

    def exceeds(self, other: Arm, delta: float, alpha: float) -> bool:
        """Whether this arm's rate is higher by more than `delta`, by the exact test on effective samples."""
        mine = self.n * self.share
        theirs = other.n * other.share
        return rate_exceeds(min(self.rate * mine, mine), mine, min(other.rate * theirs, theirs), theirs, delta, alpha)


def success_width(a: Arm, b: Arm, alpha: float) -> float:
    return asymptotic_half_width(*two_arm_variance(a.variance, a.n, b.variance, b.n), alpha)


def gain_of(
    incumbent: Pool, challenger: Pool, a: Arm, b: Arm, policy: TaskPolicy, alpha: float
) -> tuple[Gain, Callable[[float], Gain] | None]:
    """The gain, and the same gain as it would be with `factor` times the runs."""
    kind = policy.objective.kind
    if kind == "success_rate":

        def by_success(factor: float) -> Gain:
            width = success_width(a.times(factor), b.times(factor), alpha)
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


def gain_and_error(  # noqa: PLR0911 - a return a case
    incumbent: Pool, challenger: Pool, policy: TaskPolicy
) -> tuple[float | None, float]:
    """The gain and its standard error for one look; (`None`, inf) where there is none to tell.

    On the scale on which it is about normal: the logarithm for a cost per success, else the objective's own. A latency
    counts as worse (-3 at an error of 1) when the two intervals at 5 % are disjoint that way.
    """
    kind = policy.objective.kind
    a, b = Arm.of(incumbent), Arm.of(challenger)
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

"""Confidence sequences and tests that stay valid at every look, one function per theorem; standard library only.

Throughout: `alpha` in (0, 1) is the error probability over the whole, unbounded sequence of looks, so a bound may be
read every hour and acted upon the first time it crosses. Counts may be fractions (an effective sample size).
Sources: [H21] Howard, Ramdas, McAuliffe, Sekhon, Annals of Statistics 49(2), 2021; [HR] Howard, Ramdas,
arXiv 1906.09712; [WS24] Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, Annals of Statistics 52(6), 2024;
[D18] Deng, Knoblich, Lu, KDD 2018.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import exp, inf, isfinite, lgamma, log, log1p, sqrt
from typing import Final

T_OPT: Final = 250.0
"""Sample size at which the asymptotic sequence is tightest."""

_STEPS: Final = 60
_OUTWARDS: Final = 1.0 - 1e-15


def log_beta(a: float, b: float) -> float:
    """ln B(a, b), a and b > 0."""
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def rate_log_e(successes: float, n: float, rate: float, *, a: float = 1.0, b: float = 1.0) -> float:
    """ln E(p) against the statement "the rate is p": beta-binomial mixture with prior Beta(a, b).

    E(p) = B(a+s, b+n-s) / (B(a, b) p^s (1-p)^(n-s)); [H21] section 3. Under the statement E is a non-negative
    martingale that starts at 1, so P(it ever reaches 1/alpha) <= alpha (Ville): exact at every n. Assumes independent
    trials with one rate, or values in [0, 1] with one conditional mean (then a supermartingale).

    Args:
        successes: s, sum of the values, 0 <= s <= n.
        n: number of trials.
        rate: p in [0, 1].

    Raises:
        ValueError: s is outside [0, n], or p outside [0, 1].
    """
    _check_counts(successes, n)
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"a rate lies in [0, 1], got {rate}")
    return _mixture(successes, n, a, b) - _log_likelihood(successes, n - successes, rate)


def rate_interval(successes: float, n: float, alpha: float, *, a: float = 1.0, b: float = 1.0) -> tuple[float, float]:
    """Confidence sequence of a rate: {p : E(p) < 1/alpha}, with E of `rate_log_e`; [H21] section 3.

    Exact, without a minimum n; no trials give (0, 1). Bounds are rounded outwards.

    Raises:
        ValueError: s is outside [0, n], or alpha outside (0, 1).
    """
    _check_counts(successes, n)
    threshold = -log(_checked_alpha(alpha))
    if n == 0:
        return 0.0, 1.0
    failures, centre = n - successes, successes / n
    level = _mixture(successes, n, a, b) - threshold
    if (
        _log_likelihood(successes, failures, centre) <= level
    ):  # a prior far from the data and a large alpha: no p is left
        return centre, centre
    return _lower_edge(successes, failures, level), 1.0 - _lower_edge(failures, successes, level)


def rate_difference_log_e(s1: float, n1: float, s2: float, n2: float, delta: float) -> float:
    """ln inf_p E1(p + delta) E2(p): evidence against "rate 1 minus rate 2 is delta"; at least ln(1/alpha) rejects.

    Exact at every pair of sample sizes: for each p the product of two independent E-values of `rate_log_e` (prior
    Beta(1, 1)) is one, and the infimum is the one at the true p or less. When s1/n1 - s2/n2 > delta it also rejects
    every smaller difference, because both factors only grow away from the estimates.

    Args:
        s1, n1, s2, n2: successes and trials of two independent samples.
        delta: the difference in question, in [-1, 1].

    Raises:
        ValueError: counts out of range, or |delta| > 1.
    """
    _check_counts(s1, n1)
    _check_counts(s2, n2)
    if not -1.0 <= delta <= 1.0:
        raise ValueError(f"a difference of rates lies in [-1, 1], got {delta}")
    f1, f2 = n1 - s1, n2 - s2
    low, high = max(0.0, -delta), min(1.0, 1.0 - delta)

    def slope(p: float) -> float:
        q = p + delta
        return f1 / max(1.0 - q, 1e-300) + f2 / max(1.0 - p, 1e-300) - s1 / max(q, 1e-300) - s2 / max(p, 1e-300)

    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    p = (low + high) / 2
    likelihood = _log_likelihood(s1, f1, min(max(p + delta, 0.0), 1.0)) + _log_likelihood(s2, f2, p)
    return _mixture(s1, n1, 1.0, 1.0) + _mixture(s2, n2, 1.0, 1.0) - likelihood


def rate_exceeds(s1: float, n1: float, s2: float, n2: float, delta: float, alpha: float) -> bool:
    """Whether rate 1 exceeds rate 2 by more than `delta`, by the exact product test (`rate_difference_log_e`).

    Raises:
        ValueError: counts, delta or alpha out of range.
    """
    threshold = -log(_checked_alpha(alpha))
    if n1 == 0 or n2 == 0 or s1 / n1 - s2 / n2 <= delta:
        return False
    _check_counts(s1, n1)
    _check_counts(s2, n2)
    near = min(max((s1 + s2 - n1 * delta) / (n1 + n2), 0.0, -delta), 1.0, 1.0 - delta)
    likelihood = _log_likelihood(s1, n1 - s1, min(max(near + delta, 0.0), 1.0)) + _log_likelihood(s2, n2 - s2, near)
    if _mixture(s1, n1, 1.0, 1.0) + _mixture(s2, n2, 1.0, 1.0) - likelihood < threshold:
        return False  # not even at this rate, and the infimum is no larger
    return rate_difference_log_e(s1, n1, s2, n2, delta) >= threshold


def smoothed_rate_variance(successes: float, n: float) -> float:
    """Variance of one trial, r(1-r) with r = (s+2)/(n+4) so that clean sheets keep some; 0 < r < 1 always."""
    rate = (successes + 2.0) / (n + 4.0)
    return rate * (1.0 - rate)


def asymptotic_half_width(variance: float, n: float, alpha: float, *, t_opt: float = T_OPT) -> float:
    """Half-width of the two-sided asymptotic confidence sequence of a mean; [WS24] theorem 2.2 and equation 9.

    h = sqrt(v * 2(n rho^2 + 1)/(n rho)^2 * ln(sqrt(n rho^2 + 1)/alpha)),
    rho^2 = (-2 ln alpha + ln(1 - 2 ln alpha)) / t_opt. Assumes more than two finite moments and, being asymptotic, a
    minimum n (the caller's `min_runs`). For a difference of two arms pass n = min(n1, n2) and
    v = n (v1/n1 + v2/n2); see `two_arm_variance`.

    Args:
        variance: v, of one unit.
        n: number of units; 0 gives infinity.
        alpha: error probability over all looks.
        t_opt: the n at which the sequence is tightest.

    Raises:
        ValueError: v or n negative or not a number, or alpha outside (0, 1).
    """
    if not variance >= 0 or not n >= 0:
        raise ValueError(f"variance and n must not be negative, got {variance} and {n}")
    _checked_alpha(alpha)
    if n == 0:
        return inf
    rho_squared = (-2.0 * log(alpha) + log1p(-2.0 * log(alpha))) / t_opt
    growth = n * rho_squared + 1.0
    return sqrt(variance * 2.0 * growth / (n * n * rho_squared) * (0.5 * log(growth) - log(alpha)))


def two_arm_variance(v1: float, n1: float, v2: float, n2: float) -> tuple[float, float]:
    """(v, n) that stand for the difference of two independent means in `asymptotic_half_width`."""
    n = min(n1, n2)
    return (n * (v1 / n1 + v2 / n2), n) if n > 0 else (inf, 0.0)


def cost_per_success_variance(
    *, n: float, successes: float, cost_sum: float, cost_sq_sum: float, cost_success_sum: float
) -> float:
    """Per-run variance of ln(sum of costs / sum of successes) by the delta method; [D18] section 3.

    v = Var(C)/mean(C)^2 + (1-s)/s - 2 Cov(C, S)/(mean(C) s), with the success rate s smoothed to (S+2)/(n+4).
    Assumes independent runs with finite variance of the cost. Never below the variance of the smoothed success term
    under perfect correlation, i.e. never negative.

    Raises:
        ValueError: no runs, or a sum of costs that is not above 0.
    """
    if n <= 0 or not cost_sum > 0:
        raise ValueError("a cost per success needs runs with a cost above 0")
    mean = cost_sum / n
    rate = (successes + 2.0) / (n + 4.0)
    spread = max(cost_sq_sum / n - mean * mean, 0.0) / (mean * mean)
    covariance = cost_success_sum / n - mean * successes / n
    return max(spread + (1.0 - rate) / rate - 2.0 * covariance / (mean * rate), 0.0)


def quantile_prior(tau: float) -> tuple[float, float]:
    """Prior Beta(20 tau, 20(1 - tau)) of the rate sequences that judge a quantile; mean tau, worth 20 trials."""
    return 20.0 * tau, 20.0 * (1.0 - tau)


def quantile_interval(
    counts: Sequence[int], edges: Sequence[float], tau: float, alpha: float, *, effective: float = 1.0
) -> tuple[float, float]:
    """Confidence sequence of the tau-quantile from a histogram: (largest edge rejected as too low, smallest as too high].

    Each edge e states F(e) = tau, judged by `rate_log_e` with `quantile_prior`; an edge is rejected as too low when
    fewer than tau lie at or below it. [HR] with the histogram's edges as the only points. At level alpha for both
    sides and all edges together: the counts at the edges around the true quantile enclose the count at the quantile
    itself, so a wrong rejection of either implies one of the true statement F(q) = tau.

    Args:
        counts: len(edges) + 1 counts; the last is above all edges.
        edges: inclusive upper edges, ascending.
        tau: in (0, 1).
        effective: effective share of the sample in (0, 1] where observations are correlated.

    Returns:
        (low, high) in the edges' unit; 0 and infinity where nothing is rejected.

    Raises:
        ValueError: the counts do not fit the edges, or alpha is outside (0, 1).
    """
    threshold = -log(_checked_alpha(alpha))
    if not counts:
        return 0.0, inf
    if len(counts) != len(edges) + 1:
        raise ValueError(f"{len(edges)} edges need {len(edges) + 1} counts, got {len(counts)}")
    cumulative = list(accumulate(counts))
    total = cumulative.pop()
    if total == 0:
        return 0.0, inf
    a, b = quantile_prior(tau)
    n = total * effective

    def rejected(index: int) -> bool:
        at_or_below = cumulative[index] * effective
        return _mixture(at_or_below, n, a, b) - _log_likelihood(at_or_below, n - at_or_below, tau) >= threshold

    first_above = bisect_right(cumulative, tau * total)
    low = next((edges[i] for i in range(first_above - 1, -1, -1) if cumulative[i] < tau * total and rejected(i)), 0.0)
    high = next((edges[i] for i in range(first_above, len(edges)) if rejected(i)), inf)
    return low, high


def quantile_estimate(counts: Sequence[int], edges: Sequence[float], tau: float) -> float | None:
    """The tau-quantile by linear interpolation inside its histogram bucket; `None` without data.

    Infinity when it lies above the last edge. At most an edge e exactly when at least tau of the counts do.
    """
    total = sum(counts)
    if total == 0:
        return None
    below = 0
    lower = 0.0
    for edge, count in zip(edges, counts, strict=False):
        if count and below + count >= tau * total:
            return lower + (edge - lower) * (tau * total - below) / count
        below += count
        lower = edge
    return inf


def runs_until(decided: Callable[[float], bool], *, start: float, limit: float = 1e7) -> int | None:
    """The smallest whole number of units at which a monotone projection is decided, at least `start`.

    `None` when it is not decided at `limit`. A projection assumes that the estimates stay as they are.
    """
    low = max(start, 1.0)
    if decided(low):
        return _ceil(low)
    high = low
    while not decided(high):
        if high >= limit:
            return None
        low, high = high, min(high * 2.0, limit)
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return _ceil(high) if not decided(float(_ceil(high) - 1)) else _ceil(high) - 1


def log_ratio_bounds(theta: float, half_width: float) -> tuple[float, float]:
    """exp(theta -/+ h): bounds of a positive ratio from those of its logarithm; (0, inf) for an infinite width."""
    if not isfinite(half_width):
        return 0.0, inf
    return exp(max(theta - half_width, -700.0)), exp(min(theta + half_width, 700.0))


def _ceil(value: float) -> int:
    return int(value) + (value > int(value))


def _checked_alpha(alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha lies strictly between 0 and 1, got {alpha}")
    return alpha


def _check_counts(successes: float, n: float) -> None:
    if not (0.0 <= successes <= n and isfinite(n)):
        raise ValueError(f"counts must hold 0 <= successes <= n, got {successes} of {n}")


def _mixture(successes: float, n: float, a: float, b: float) -> float:
    return log_beta(a + successes, b + n - successes) - log_beta(a, b)


def _log_likelihood(successes: float, failures: float, p: float) -> float:
    total = 0.0
    if successes > 0:
        total += successes * log(p) if p > 0 else -inf
    if failures > 0:
        total += failures * log1p(-p) if p < 1 else -inf
    return total


def _lower_edge(successes: float, failures: float, level: float) -> float:
    """The p below s/n at which the log-likelihood is `level`; 0 without a success.

    Newton's method in ln p, where the log-likelihood is concave and rises with a slope of at most s: from s ln p = level,
    which lies outside, it goes inwards and never beyond. Rounded outwards.
    """
    if successes <= 0:
        return 0.0
    x = level / successes
    for _ in range(_STEPS):
        p = exp(x)
        if p <= 0.0:
            return 0.0
        short = level - successes * x - (failures * log1p(-p) if failures > 0 else 0.0)
        slope = successes - failures * p / (1.0 - p)
        if slope <= 0.0:
            break
        step = short / slope
        x += step
        if step <= 1e-15 * abs(x):
            break
    return exp(min(x, 0.0)) * _OUTWARDS

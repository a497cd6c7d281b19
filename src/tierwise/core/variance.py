"""Variance of sums over time buckets: what correlated hours (an outage, a bad hour) do to an effective sample size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat
from math import hypot, isqrt
from operator import mul, sub
from typing import Final

MIN_CLUSTERS: Final = 10
MIN_HAC_CLUSTERS: Final = 48
PRIOR_CORRELATION: Final = 0.05


def bucket_variance(totals: Sequence[float], counts: Sequence[float]) -> float | None:
    """Per-unit variance of a mean from bucket totals, robust against correlation inside a bucket.

    v = sum_b (T_b - n_b m)^2 / n * B/(B-1), with m = sum T / sum n. Units of one bucket may be correlated in any way,
    buckets are taken as independent (Liang and Zeger, Biometrika 73, 1986, for a mean). `None` below 10 buckets.

    Args:
        totals: T_b, sum of the values in each bucket.
        counts: n_b, units in each bucket.
    """
    residuals, n = _residuals(totals, counts)
    return None if residuals is None else _cluster(residuals, n)


def hac_variance(totals: Sequence[float], counts: Sequence[float]) -> float | None:
    """The same with shocks that persist over buckets: Bartlett weights over lags up to floor(sqrt(B)).

    v = sum_{|l| <= L} (1 - |l|/(L+1)) sum_b u_b u_{b+l} / n * B/(B-1), u_b = T_b - n_b m (Newey and West,
    Econometrica 55, 1987); computed as the mean square of moving sums, which is the same number. Buckets in order of
    time. `None` below 48 buckets. It lessens false alarms under persistent shocks, it does not remove them.
    """
    residuals, n = _residuals(totals, counts)
    return None if residuals is None else _bartlett(residuals, n)


def robust_variance(totals: Sequence[float], counts: Sequence[float], iid: float) -> float:
    """max(iid, bucket-robust from 10 buckets on, Bartlett from 48 buckets on): never below the independent variance."""
    residuals, n = _residuals(totals, counts)
    if residuals is None:
        return iid
    return max(iid, _cluster(residuals, n), _bartlett(residuals, n) or 0.0)


def effective_share(totals: Sequence[float], counts: Sequence[float], iid: float) -> float:
    """v_iid / v in (0, 1]: the share of the sample that correlated buckets leave; multiply n and successes by it.

    Ten buckets tell how much hours differ; fewer do not, and then a correlation of .05 inside a bucket is assumed (that
    of a rate of .9 whose logit moves by .7 from hour to hour), a design effect of 1 + .05 (m - 1), m = sum n_b^2 / n
    (Kish, Survey Sampling, 1965). What is assumed fades with 10 / B.
    """
    variance = robust_variance(totals, counts, iid)
    n, buckets = sum(counts), len(counts)
    if n > 0:
        size = sum(map(mul, counts, counts)) / n
        variance = max(variance, iid * (1 + PRIOR_CORRELATION * max(size - 1, 0.0) * min(1.0, MIN_CLUSTERS / buckets)))
    return iid / variance if variance > 0 else 1.0


def _residuals(totals: Sequence[float], counts: Sequence[float]) -> tuple[list[float] | None, float]:
    n = sum(counts)
    if len(totals) < MIN_CLUSTERS or n <= 0:
        return None, n
    mean = sum(totals) / n
    return list(map(sub, totals, map(mul, counts, repeat(mean)))), n


def _cluster(residuals: Sequence[float], n: float) -> float:
    buckets = len(residuals)
    return hypot(*residuals) ** 2 / n * buckets / (buckets - 1)


def _bartlett(residuals: list[float], n: float) -> float | None:
    buckets = len(residuals)
    if buckets < MIN_HAC_CLUSTERS:
        return None
    width = isqrt(buckets) + 1
    sums = list(accumulate(residuals, initial=0.0))
    ends = sums[1:] + [sums[-1]] * (width - 1)
    starts = [0.0] * (width - 1) + sums[:-1]
    moving = list(map(sub, ends, starts))
    return hypot(*moving) ** 2 / width / n * buckets / (buckets - 1)

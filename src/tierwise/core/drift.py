"""Drift: a candidate whose last hours differ so clearly from the earlier ones that they are another model's. A heuristic."""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, hypot, log, sqrt
from typing import Final, Literal

from tierwise.core.confseq import smoothed_rate_variance
from tierwise.core.records import dataclass
from tierwise.core.variance import robust_variance

WINDOWS: Final = (2, 3, 6, 12, 24)
EARLIER: Final = 10
RECENT_RUNS: Final = 20
Z: Final = 5.5
REST_Z: Final = 2.5
"""What a window must still show without its worst bucket: one bad hour is no other model."""
CHANGE: Final = 0.05
"""Least change: of a success rate in points, of a cost as a share of what it was."""

Metric = Literal["success_rate", "cost_per_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The last `buckets` buckets differ from all earlier ones in `metric`: its mean a run before and after (cost: USD).

    `z` is the change in standard errors; below 0 the metric fell.
    """

    buckets: int
    metric: Metric
    before: float
    after: float
    z: float


def find_drift(
    n: Sequence[float],
    successes: Sequence[float],
    cost: Sequence[float] = (),
    *,
    cost_sq: Sequence[float] = (),
    priced: Sequence[float] | None = None,
) -> Drift | None:
    """The clearest change of success rate or cost per run between the last 2, 3, 6, 12 or 24 buckets and all before them.

    At least 10 earlier buckets, 20 recent runs, |z| > 5.5 and a change of 5 points (of a cost: of 5 %), and still |z| > 2.5
    the same way without the recent bucket that says it loudest, so that no single hour is taken for another model. A
    heuristic: it promises nothing over all looks, its thresholds keep false alarms rare (the tests measure how rare).

    Success: the signed root of the likelihood ratio of two binomials, which stays honest for rates near 1 and few runs.
    Cost: the change of the mean, upwards of its logarithm, over the larger coefficient of variation of both stretches, so
    that one dear run is no drift. Either is divided by the root of a design effect, `variance.robust_variance` of the
    earlier buckets over the variance of independent runs, which grows with the size of the recent buckets: hours that
    vary together anyway do not alarm.

    Args:
        n: runs in each bucket, in order of time, of one epoch.
        successes: their successes.
        cost: USD, summed over the runs whose cost is known.
        cost_sq: sums of their squares; without these the cost is not judged, since nothing says how much it varies.
        priced: runs whose cost is known; as `n` when left out.
    """
    if len(n) <= EARLIER:
        return None
    found = _clearest("success_rate", n, successes, ())
    if len(cost_sq) == len(n):
        dear = _clearest("cost_per_run", n if priced is None else priced, cost, cost_sq)
        if dear is not None and (found is None or abs(dear.z) > abs(found.z)):
            return dear
    return found


def _clearest(
    metric: Metric, counts: Sequence[float], totals: Sequence[float], squares: Sequence[float]
) -> Drift | None:
    """One metric's. What independent runs would make of a window is cheap and comes first: the rest can only lessen it."""
    judge = _success if metric == "success_rate" else _cost
    n, total, square = sum(counts), sum(totals), sum(squares)
    n_1 = total_1 = square_1 = 0.0
    found: Drift | None = None
    end = len(counts)
    for window in WINDOWS:
        early = len(counts) - window
        if early < EARLIER:
            break
        n_1 += sum(counts[early:end])
        total_1 += sum(totals[early:end])
        if squares:
            square_1 += sum(squares[early:end])
        end = early
        n_0, total_0 = n - n_1, total - total_1
        if n_1 < RECENT_RUNS or n_0 <= 0:
            continue
        z, unit = judge(n_0, total_0, square - square_1, n_1, total_1, square_1)
        beat = Z if found is None else abs(found.z)
        if -beat <= z <= beat:
            continue
        design = sqrt(_design_effect(counts, totals, early, n_0, unit))
        z /= design
        if abs(z) <= beat:
            continue
        worst = _loudest(counts, totals, early, total_0 / n_0, z)
        less = squares[worst] if squares else 0.0
        rest, _ = judge(n_0, total_0, square - square_1, n_1 - counts[worst], total_1 - totals[worst], square_1 - less)
        if copysign(rest, rest * z) > REST_Z * design:
            found = Drift(buckets=window, metric=metric, before=total_0 / n_0, after=total_1 / n_1, z=z)
    return found


def _loudest(counts: Sequence[float], totals: Sequence[float], early: int, mean: float, z: float) -> int:
    """The recent bucket that departs most from the earlier mean in the direction of z."""
    recent = range(early, len(counts))
    return max(recent, key=lambda at: copysign(1.0, z) * (totals[at] - counts[at] * mean))


def _success(
    n_0: float, total_0: float, _square_0: float, n_1: float, total_1: float, _square_1: float
) -> tuple[float, float]:
    """z of the change of a success rate for independent runs, and the variance of one earlier run."""
    if n_1 <= 0:
        return 0.0, 0.0
    change = total_1 / n_1 - total_0 / n_0
    if -CHANGE < change < CHANGE:
        return 0.0, 0.0
    total_0, total_1 = min(max(total_0, 0), n_0), min(max(total_1, 0), n_1)
    apart = _fit(total_0, n_0) + _fit(total_1, n_1) - _fit(total_0 + total_1, n_0 + n_1)
    return copysign(sqrt(max(2 * apart, 0.0)), change), smoothed_rate_variance(total_0, n_0)


def _cost(
    n_0: float, total_0: float, square_0: float, n_1: float, total_1: float, square_1: float
) -> tuple[float, float]:
    """z of the change of a mean cost for independent runs, and the variance of one earlier run."""
    if n_1 <= 0:
        return 0.0, 0.0
    before, after = total_0 / n_0, total_1 / n_1
    if before <= 0 or abs(after - before) < CHANGE * before:
        return 0.0, 0.0
    v_0 = max(square_0 / n_0 / before / before - 1, _LEAST_SPREAD)
    v_1 = square_1 / n_1 / after / after - 1 if after > 0 else 0.0
    change = log(after / before) if after > before else after / before - 1
    return change / sqrt(max(v_0, v_1) * (1 / n_0 + 1 / n_1)), v_0 * before * before


def _design_effect(counts: Sequence[float], totals: Sequence[float], early: int, n_0: float, unit: float) -> float:
    """How much more the mean of the recent buckets varies than that of as many independent runs; at least 1."""
    excess = robust_variance(totals[:early], counts[:early], unit) / unit - 1
    n_1 = sum(counts[early:])
    size_0, size_1 = hypot(*counts[:early]) ** 2 / n_0, hypot(*counts[early:]) ** 2 / n_1
    return 1 + excess * max(size_1 / size_0, 1.0)


def _fit(successes: float, n: float) -> float:
    """Log-likelihood of a binomial at its own rate."""
    failures = n - successes
    return (successes * log(successes / n) if successes > 0 else 0.0) + (
        failures * log(failures / n) if failures > 0 else 0.0
    )


_LEAST_SPREAD: Final = 1e-4
"""Least squared coefficient of variation of a cost: costs that never vary are told apart from 1 % on."""

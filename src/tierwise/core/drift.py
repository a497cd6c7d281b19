"""Drift: a candidate whose last hours differ so clearly from the earlier ones that they are another model's. A heuristic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import sqrt
from typing import Final, Literal

from tierwise.core.records import dataclass

WINDOWS: Final = (1, 3, 6, 12, 24)
EARLIER: Final = 10
RECENT_RUNS: Final = 20
Z: Final = 5.5
CHANGE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The last `buckets` buckets differ from all earlier ones in `metric`: its mean a run before and after."""

    buckets: int
    metric: Literal["success_rate", "cost_per_run"]
    before: float
    after: float
    z: float


def find_drift(n: Sequence[float], successes: Sequence[float], cost: Sequence[float]) -> Drift | None:
    """The clearest change of success rate or cost per run between the last 1, 3, 6, 12 or 24 buckets and all before.

    At least 10 earlier buckets and 20 recent runs; |z| > 5.5 and a change of 5 points (of 5 % for a cost). The standard
    error has the spread between the earlier buckets, so that hours which are correlated anyway do not alarm; for success
    also that of independent runs. A heuristic without a guarantee over all looks: the threshold is what bounds it.

    Args:
        n: runs in each bucket, in order of time.
        successes: their successes.
        cost: their cost, USD.
    """
    buckets = len(n)
    if buckets <= EARLIER:
        return None
    found: Drift | None = None
    runs = list(accumulate(n))
    for metric, totals in (("success_rate", successes), ("cost_per_run", cost)):
        sums = list(accumulate(totals))
        squares: list[float] | None = None
        for window in WINDOWS:
            early = buckets - window
            if early < EARLIER:
                break
            n_0, n_1 = runs[early - 1], runs[-1] - runs[early - 1]
            if n_1 < RECENT_RUNS or n_0 <= 0:
                continue
            before, after = sums[early - 1] / n_0, (sums[-1] - sums[early - 1]) / n_1
            change = abs(after - before)
            if change < CHANGE * (1.0 if metric == "success_rate" else max(before, 1e-300)):
                continue
            if squares is None:
                weighted = [t * t / c if c else 0.0 for t, c in zip(totals, n, strict=True)]
                squares = list(accumulate(weighted))
            between = max(squares[early - 1] - n_0 * before * before, 0.0) / max(early - 1, 1)
            iid = _binary(before, n_0) if metric == "success_rate" else 0.0
            own = _binary(after, n_1) if metric == "success_rate" else between
            v_0, v_1 = max(between, iid), max(between, own) if metric == "cost_per_run" else max(between, iid, own)
            error = sqrt(v_0 / n_0 + v_1 / n_1)
            z = change / error if error > 0 else 0.0
            if z > Z and (found is None or z > found.z):
                found = Drift(buckets=window, metric=metric, before=before, after=after, z=z)  # type: ignore[arg-type]
    return found


def _binary(rate: float, n: float) -> float:
    smooth = (rate * n + 2) / (n + 4)
    return smooth * (1 - smooth)

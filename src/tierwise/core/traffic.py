"""Splitting a task's traffic: how likely each candidate has the least expected loss, and the shares that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from math import erfc, sqrt
from operator import add, mul, sub
from typing import Final, Literal

from tierwise.core.records import dataclass

DUEL: Final = 0.05
"""Least share of the primary while another candidate leads: what lets the two be compared."""
DROPPED: Final = 0.002
"""What all dropped candidates share."""
FLOOR: Final = 0.01
"""Least share of the challengers together under a cap, where the cap allows it."""
SHRINK: Final = 0.7
FEW: Final = 8
FEW_SPREAD: Final = 0.5
UNKNOWN: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSums:
    """A candidate's runs: counts, and sums of cost (USD) over its priced runs."""

    candidate: str
    n: float
    successes: float
    priced: float
    priced_successes: float
    cost_sum: float
    cost_sq_sum: float
    cost_success_sum: float


def posterior(sums: ArmSums, value: float, best_known_mean: float) -> tuple[float, float]:
    """Mean and standard deviation of what is believed of the expected loss L = cost + V (1 - success), USD.

    The mean is c + V (1 - r) with r = (s+1)/(n+2), the deviation .7 sqrt(Var(c)/n + V^2 r(1-r)/(n+3) - 2 V Cov/n). Below
    8 runs the cost's coefficient of variation is taken as at least .5. Without runs: the best known mean, .3 V.
    """
    n = sums.n
    if n <= 0 or sums.priced <= 0:
        return best_known_mean, UNKNOWN * value
    rate = min(max((sums.successes + 1) / (n + 2), 0.0), 1.0)
    cost = sums.cost_sum / sums.priced
    spread = max(sums.cost_sq_sum / sums.priced - cost * cost, 0.0)
    if n < FEW:
        spread = max(spread, (FEW_SPREAD * cost) ** 2)
    covariance = sums.cost_success_sum / sums.priced - cost * sums.priced_successes / sums.priced
    variance = spread / n + value * value * rate * (1 - rate) / (n + 3) - 2 * value * covariance / n
    return cost + value * (1 - rate), SHRINK * sqrt(max(variance, 0.0))


def probability_least(posteriors: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """P(candidate i has the least loss) for independent normal beliefs (mean, deviation), by quadrature.

    P_i is the integral of the others' survival functions over candidate i's distribution; the grid has points at fixed
    quantiles of every belief, so that narrow and wide ones are both resolved. No random numbers: the same beliefs give
    the same shares. Adds up to 1.
    """
    beliefs = [(mean, max(deviation, 1e-12 * (abs(mean) + 1e-300))) for mean, deviation in posteriors]
    least = min((mean + 4 * deviation for mean, deviation in beliefs), default=0.0)
    grid = sorted(
        {mean + deviation * z for mean, deviation in beliefs for z in _QUANTILES if mean + deviation * z <= least}
    )
    below, survive = [], []
    for mean, deviation in beliefs:
        scale = 1 / (deviation * _SQRT2)
        tail = [0.5 * erfc((x - mean) * scale) for x in grid]
        survive.append(tail)
        below.append([0.5 * erfc((mean - x) * scale) for x in grid])
    found = []
    for place, own in enumerate(below):
        others: list[float] = [1.0] * len(grid)
        for at, tail in enumerate(survive):
            if at != place:
                others = list(map(mul, others, tail))
        steps = map(sub, own[1:], own)
        heights = map(add, others[1:], others)
        found.append(own[0] * others[0] + 0.5 * sum(map(mul, steps, heights)))
    whole = sum(found)
    return tuple(one / whole for one in found) if whole > 0 else tuple(1 / len(found) for _ in found)


def split(
    arms: Sequence[ArmSums],
    *,
    primary: str,
    explore: float | Literal["adaptive"],
    value: float,
    dropped: Set[str] = frozenset(),
    eligible: Set[str] | None = None,
    canary: tuple[str, float] | None = None,
) -> dict[str, float]:
    """The share of each eligible candidate; sums to 1.

    `adaptive`: by the probability of having the least loss; while another leads, the primary keeps at least 5 %. A cap c:
    the challengers share min(c, max(1 %, 1 - P(primary best))) by their probabilities. Dropped candidates share .2 % in
    all. A canary gets its own share first, the rest is split.
    """
    able = [arm for arm in arms if eligible is None or arm.candidate in eligible or arm.candidate == primary]
    playing = [arm for arm in able if arm.candidate not in dropped or arm.candidate == primary]
    idle = [arm.candidate for arm in able if arm.candidate in dropped and arm.candidate != primary]
    if canary is not None:
        playing = [arm for arm in playing if arm.candidate != canary[0]]
        idle = [name for name in idle if name != canary[0]]
    shares = _explored(playing, primary, explore, value)
    if idle and explore != 0:
        spare = min(DROPPED, 1.0 if explore == "adaptive" else explore)
        shares = {name: share * (1 - spare) for name, share in shares.items()} | dict.fromkeys(idle, spare / len(idle))
    if canary is not None:
        name, own = canary
        shares = {other: share * (1 - own) for other, share in shares.items()}
        shares[name] = shares.get(name, 0.0) + own
    shares[primary] = shares.get(primary, 0.0) + 1.0 - sum(shares.values())
    return shares


def _explored(
    arms: Sequence[ArmSums], primary: str, explore: float | Literal["adaptive"], value: float
) -> dict[str, float]:
    names = [arm.candidate for arm in arms]
    if explore == 0 or len(names) < 2 or primary not in names:
        return {primary: 1.0}
    known = [
        arm.cost_sum / arm.priced + value * (1 - (arm.successes + 1) / (arm.n + 2))
        for arm in arms
        if arm.n > 0 and arm.priced > 0
    ]
    best = min(known, default=value)
    chances = dict(zip(names, probability_least([posterior(arm, value, best) for arm in arms]), strict=True))
    if explore == "adaptive":
        leads = max(chances, key=lambda name: (chances[name], name == primary)) == primary
        if not leads and chances[primary] < DUEL:
            rest = 1 - chances[primary]
            chances = {name: chance * (1 - DUEL) / rest for name, chance in chances.items()} | {primary: DUEL}
        return chances
    others = {name: chance for name, chance in chances.items() if name != primary}
    wanted = min(explore, max(FLOOR, 1 - chances[primary]))
    whole = sum(others.values())
    shares = {name: wanted * (chance / whole if whole > 0 else 1 / len(others)) for name, chance in others.items()}
    return shares | {primary: 1 - wanted}


def within_budget(
    weights: Mapping[str, float],
    *,
    primary: str,
    cost_per_run: Mapping[str, float | None],
    runs_per_day: float,
    budget_usd_per_day: float,
) -> dict[str, float]:
    """Less exploring where what the challengers cost beyond the primary would exceed a budget in USD a day.

    A challenger without a known cost counts with that of the dearest known candidate, a cheaper one with nothing.
    """
    own = cost_per_run.get(primary) or 0.0
    dearest = max((cost for cost in cost_per_run.values() if cost is not None), default=0.0)
    extra = 0.0
    for name, share in weights.items():
        if name != primary:
            cost = cost_per_run.get(name)
            extra += share * max((dearest if cost is None else cost) - own, 0.0) * runs_per_day
    if extra <= budget_usd_per_day:
        return dict(weights)
    factor = budget_usd_per_day / extra
    shares = {name: share * factor for name, share in weights.items() if name != primary}
    return shares | {primary: 1 - sum(shares.values())}


_SQRT2: Final = sqrt(2.0)
_QUANTILES: Final = tuple(step / 4 for step in range(-18, 19))

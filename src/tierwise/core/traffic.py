"""Splitting a task's traffic: how likely each candidate has the least expected loss, and the shares that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from math import erfc, exp, fsum, isfinite, sqrt
from operator import mul, truediv
from typing import Final, Literal

from tierwise.core.call import Risk
from tierwise.core.records import dataclass

DUEL: Final = 0.05
"""Least share of the primary while another candidate leads: what lets the two be compared."""
DROPPED: Final = 0.002
"""What all dropped candidates share."""
FLOOR: Final = 0.01
"""Least share of the challengers together under a cap, where the cap allows it."""
DROP_ALPHA: Final = 0.10
"""Error probability, shared by all challengers, at which one is given up as worse than the best."""
SHRINK: Final = 0.7
FEW: Final = 8
FEW_SPREAD: Final = 0.5
UNKNOWN: Final = 0.3

Explore = float | Literal["adaptive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSums:
    """A candidate's randomised first attempts: counts, and sums of cost (USD) over those whose cost is known."""

    candidate: str
    n: float
    successes: float
    priced: float
    priced_successes: float
    cost_sum: float
    cost_sq_sum: float
    cost_success_sum: float


def posterior(sums: ArmSums, value: float, best_known_mean: float) -> tuple[float, float]:
    """Mean and standard deviation, USD, of what is believed of a candidate's expected loss L = cost + V (1 - success).

    Mean c + V (1 - r) with r = (s+1)/(n+2); deviation .7 sqrt(Var(c)/n + V^2 r(1-r)/(n+3) - 2 V Cov(c, s)/n). The success
    term is the variance of a Beta(s+1, n-s+1); .7 makes it explore less than Thompson sampling does, which was found on
    recorded outcomes and is no theorem. Below 8 runs the cost's coefficient of variation is taken as at least .5.

    Args:
        sums: of the candidate. Without a run whose cost is known: the best known mean with deviation .3 V.
        value: V, USD a success is worth.
        best_known_mean: the least mean loss of the candidates that have runs, USD.
    """
    n, priced = sums.n, sums.priced
    if n <= 0 or priced <= 0:
        return best_known_mean, UNKNOWN * value
    rate = _rate(sums)
    cost = sums.cost_sum / priced
    spread = max(sums.cost_sq_sum / priced - cost * cost, 0.0)
    if priced < FEW:
        spread = max(spread, (FEW_SPREAD * cost) ** 2)
    covariance = sums.cost_success_sum / priced - cost * sums.priced_successes / priced
    variance = spread / priced + value * value * rate * (1 - rate) / (n + 3) - 2 * value * covariance / n
    return cost + value * (1 - rate), SHRINK * sqrt(max(variance, 0.0))


def believed(arms: Sequence[ArmSums], value: float) -> list[tuple[float, float]]:
    """`posterior` of each candidate. Where the cost of none is known, success alone counts."""
    if not any(arm.priced > 0 for arm in arms):
        arms = [replace(arm, priced=arm.n, priced_successes=arm.successes) for arm in arms]
    known = [arm.cost_sum / arm.priced + value * (1 - _rate(arm)) for arm in arms if arm.n > 0 and arm.priced > 0]
    best = min(known, default=value)
    return [posterior(arm, value, best) for arm in arms]


def expected_least(posteriors: Sequence[tuple[float, float]]) -> float:
    """E[min of the losses] for independent normal beliefs (mean, standard deviation), all finite.

    The integral of the product of the survival functions from where all are 1, by the quadrature of `probability_least`.

    Raises:
        ValueError: no belief, or one that is not finite.
    """
    if not posteriors or not all(isfinite(mean) and isfinite(deviation) for mean, deviation in posteriors):
        raise ValueError("the expected least loss needs finite beliefs")
    beliefs = _with_width(posteriors)
    grid, weights = _nodes(beliefs)
    first = min(mean - _BEGINS * deviation for mean, deviation in beliefs)
    for mean, deviation in beliefs:
        scale = 1 / (deviation * _SQRT2)
        weights = [weight * erfc((x - mean) * scale) / 2 for weight, x in zip(weights, grid, strict=True)]
    return first + fsum(weights)


def probability_least(posteriors: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """P(candidate i has the least loss) for independent normal beliefs (mean, standard deviation); adds up to 1.

    P_i is the integral of i's density times the others' survival functions: Gauss-Legendre quadrature, four nodes a panel,
    panels as narrow as the narrowest belief that lives there asks for. Within 1e-4 of the truth, and no random numbers:
    the same beliefs give the same shares. A deviation of 0 is a point (equal ones share); a mean that is no finite number
    is never the least.
    """
    known = [place for place, (mean, deviation) in enumerate(posteriors) if isfinite(mean) and isfinite(deviation)]
    if len(known) < len(posteriors):
        found = [0.0 if known else 1 / len(posteriors)] * len(posteriors)
        for place, chance in zip(known, probability_least([posteriors[place] for place in known]), strict=True):
            found[place] = chance
        return tuple(found)
    if len(posteriors) < 2:
        return (1.0,) * len(posteriors)
    beliefs = _with_width(posteriors)
    grid, weights = _nodes(beliefs)
    hazards = []
    for mean, deviation in beliefs:
        scale = 1 / (deviation * _SQRT2)
        z = [(x - mean) * scale for x in grid]
        survival = list(map(erfc, z))
        hazards.append((scale, map(truediv, [exp(-v * v) for v in z], survival)))
        weights = list(map(mul, weights, survival))
    masses = [scale * sum(map(mul, weights, hazard)) for scale, hazard in hazards]
    whole = sum(masses)
    return tuple(mass / whole for mass in masses)


def _with_width(posteriors: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The beliefs, points made as narrow as can be told."""
    point = _POINT * max(max(abs(mean), deviation) for mean, deviation in posteriors) or 1.0
    return [(mean, max(deviation, point)) for mean, deviation in posteriors]


def _nodes(beliefs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Where to look, and with what weight: from the first belief's far left to where some belief has surely ended."""
    end = min(mean + _ENDS * deviation for mean, deviation in beliefs)
    begins = [(mean - _BEGINS * deviation, _PANEL * deviation) for mean, deviation in beliefs]
    begins = [(begin, panel) for begin, panel in begins if begin < end]
    x = min(begins)[0]
    grid: list[float] = []
    weights: list[float] = []
    while x < end:
        following = min(*[(begin if begin > x else x) + panel for begin, panel in begins], end)
        width = following - x
        for place, weight in _GAUSS_LEGENDRE:
            grid.append(x + place * width)
            weights.append(weight * width)
        x = following
    return grid, weights


def split(
    arms: Sequence[ArmSums],
    *,
    primary: str,
    explore: Explore,
    value: float,
    dropped: Set[str] = frozenset(),
    eligible: Set[str] | None = None,
    canary: tuple[str, float] | None = None,
    risk: Risk | None = None,
    duel: float = DUEL,
    broken: bool = False,
) -> dict[str, float]:
    """The share of the traffic for each candidate that gets any; adds up to 1 within 1e-12.

    `adaptive`: by the probability of having the least loss; while another leads, the primary keeps at least `duel`. A cap
    c: the challengers share min(c, max(1 %, 1 - P(primary has the least loss))) in proportion to theirs. Dropped candidates
    share .2 %, within the cap. High risk is never explored: all to the primary, and no canary.

    Args:
        arms: what is known of each candidate. Where the cost of none is known, success alone decides.
        primary: keeps what nobody else gets; always eligible.
        explore: share in [0, 1] or `adaptive`.
        value: V, USD a success is worth.
        dropped: candidates that exploring has given up; see `dropped_now`.
        eligible: candidates that may get traffic at all, `None` for all: leave out who breaks a guardrail.
        canary: (candidate, share) that the rollout sets: it comes first and the rest is split among the others.
        risk: of the task.
        duel: least share of the primary under `adaptive`.
        broken: the primary breaks a guardrail: however little it loses it counts for half at most, so that those who could
            replace it are measured.
    """
    if risk == "high":
        return {primary: 1.0}
    trial, own = (None, 0.0) if canary is None or canary[0] == primary else canary
    able = [
        arm for arm in arms
        if arm.candidate == primary or (arm.candidate != trial and (eligible is None or arm.candidate in eligible))
    ]  # fmt: skip
    idle = [arm.candidate for arm in able if arm.candidate in dropped and arm.candidate != primary]
    playing = [arm for arm in able if arm.candidate == primary or arm.candidate not in dropped]
    shares = {primary: 1.0}
    if explore != 0:
        chances = _chances(playing, primary, value)
        if broken and len(chances) > 1:
            chances = _halved(chances, primary)
        shares = _adaptive(chances, primary, duel) if explore == "adaptive" else _capped(chances, primary, explore)
        spare = min(DROPPED, 1.0 if explore == "adaptive" else explore) if idle else 0.0
        if explore == "adaptive" or len(shares) == 1:
            shares = {name: share * (1 - spare) for name, share in shares.items()}
        else:
            explored = 1 - shares[primary]
            shares = {name: share * (1 - spare / explored) for name, share in shares.items() if name != primary}
        shares |= {name: spare / len(idle) for name in idle}
    if trial is not None:
        shares = {name: share * (1 - own) for name, share in shares.items()} | {trial: own}
    return _whole(shares, primary)


def _chances(arms: Sequence[ArmSums], primary: str, value: float) -> dict[str, float]:
    """The probability of each of having the least loss; the primary's is there even when nothing is known of it."""
    found = probability_least(believed(arms, value))
    return {primary: 0.0} | {arm.candidate: chance for arm, chance in zip(arms, found, strict=True)}


def _halved(chances: dict[str, float], primary: str) -> dict[str, float]:
    """At most half for the primary; the others share the rest as before."""
    if chances[primary] <= 0.5:
        return chances
    others, rest = len(chances) - 1, 1 - chances[primary]
    return {
        name: 0.5 if name == primary else 0.5 * (chance / rest if rest > 0 else 1 / others)
        for name, chance in chances.items()
    }


def _adaptive(chances: dict[str, float], primary: str, duel: float) -> dict[str, float]:
    if chances[primary] >= duel or chances[primary] >= max(chances.values()):
        return chances
    rest = (1 - duel) / (1 - chances[primary])
    return {name: chance * rest for name, chance in chances.items()} | {primary: duel}


def _capped(chances: dict[str, float], primary: str, cap: float) -> dict[str, float]:
    others = {name: chance for name, chance in chances.items() if name != primary}
    if not others:
        return {primary: 1.0}
    wanted = min(cap, max(FLOOR, 1 - chances[primary]))
    whole = sum(others.values())
    shares = {name: wanted * (chance / whole if whole > 0 else 1 / len(others)) for name, chance in others.items()}
    return {primary: 1 - wanted} | shares


def drop_alpha(candidates: int) -> float:
    """Error probability at which one challenger is compared with the best of `candidates`: .10 / (K - 1)."""
    return DROP_ALPHA / max(candidates - 1, 1)


def dropped_now(*, gain_high: float, min_improvement: float, against_best_high: float | None = None) -> bool:
    """Whether exploring gives a challenger up: it cannot gain enough, or it is worse than the best.

    Args:
        gain_high: upper bound of its gain over the primary, at the gate's level; infinite while unknown.
        min_improvement: what a change of primary asks for, same unit as the gain.
        against_best_high: upper bound of its gain over the best candidate, by the sequence at `drop_alpha`; `None` when it
            is the best itself, or there is none.
    """
    return gain_high < min_improvement or (against_best_high is not None and against_best_high < 0)


def within_budget(
    weights: Mapping[str, float],
    *,
    primary: str,
    cost_per_run: Mapping[str, float | None],
    runs_per_day: float,
    budget_usd_per_day: float,
    canary: str | None = None,
) -> dict[str, float]:
    """Less exploring where what the challengers are expected to cost beyond the primary exceeds a budget.

    A challenger of unknown cost counts with all that the dearest known candidate would cost, one that is cheaper than the
    primary counts nothing and keeps its share; the others are scaled down together, and the primary gets what they lose.
    With no cost known at all nothing can be kept to, so nothing is explored. Adds up to 1 within 1e-12.

    Args:
        weights: shares of the traffic, as of `split`.
        primary: the candidate to compare with.
        cost_per_run: USD, `None` or absent where it is unknown.
        runs_per_day: of the whole task.
        budget_usd_per_day: for exploring.
        canary: a candidate on trial: its share is not exploring and is left alone.
    """
    known = {name: cost for name in weights if (cost := cost_per_run.get(name)) is not None}
    own, dearest = known.get(primary, 0.0), max(known.values(), default=None)
    free = {primary, canary}
    if dearest is None:
        return _whole({name: share for name, share in weights.items() if name in free}, primary)
    extra = {
        name: share * max(known[name] - own if name in known else dearest, 0.0) * runs_per_day
        for name, share in weights.items()
        if name not in free
    }
    spent, allowed = fsum(extra.values()), max(budget_usd_per_day, 0.0)
    if spent <= allowed:
        return dict(weights)
    factor = allowed / spent
    return _whole({name: s * factor if extra.get(name, 0.0) > 0 else s for name, s in weights.items()}, primary)


def _whole(shares: Mapping[str, float], primary: str) -> dict[str, float]:
    """The primary gets what is missing to 1."""
    others = {name: share for name, share in shares.items() if name != primary}
    return {primary: max(1.0 - fsum(others.values()), 0.0)} | others


def _rate(sums: ArmSums) -> float:
    return min(max((sums.successes + 1) / (sums.n + 2), 0.0), 1.0)


_SQRT2: Final = sqrt(2.0)
_POINT: Final = 1e-9
"""Deviation of a point, as a share of the largest number in sight."""
_BEGINS: Final = 5.0
_ENDS: Final = 4.5
_PANEL: Final = 1.25
_GAUSS_LEGENDRE: Final = (
    (0.0694318442029737, 0.1739274225687269),
    (0.3300094782075719, 0.3260725774312731),
    (0.6699905217924281, 0.3260725774312731),
    (0.9305681557970263, 0.1739274225687269),
)
"""Four nodes and weights on [0, 1]."""

"""Ladders: the order of the rungs after the first, from escalated traffic, and whether a rung is worth its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Final, Literal

from tierwise.core import wording
from tierwise.core.confseq import asymptotic_half_width, rate_interval, runs_until
from tierwise.core.records import dataclass
from tierwise.core.traffic import ArmSums

PRIOR_RUNS: Final = 8.0
"""Escalated attempts that what is assumed of a candidate counts for."""
HARDNESS: Final = 0.5
"""Success on escalated traffic over success on first attempts, while nothing better is known: .447 / .905 is .49 for a
model on the prompts that a weaker one had failed (Berkeley function-calling leaderboard)."""
HARDNESS_RUNS: Final = 8.0
"""Expected first-attempt successes that this assumption counts for."""
MIN_RUNS: Final = 30

Basis = Literal["escalated", "mixed", "assumed", "unknown"]
"""Where a rung's figures come from: escalated attempts; few of them, so that what is assumed still counts for half or more;
first attempts, made harder, alone; nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A candidate as a rung after the first. `rate` and `cost_usd` (per attempt) are estimates for escalated traffic."""

    candidate: str
    basis: Basis
    n: int
    """Escalated attempts that were seen."""
    rate: float | None
    cost_usd: float | None
    reason: str
    """Why it stands where it stands, in numbers."""

    @property
    def successes_per_usd(self) -> float:
        """What the ladder is ordered by, most first; 0 where it is not known, infinite for what is free."""
        if self.rate is None or self.cost_usd is None or self.rate <= 0:
            return 0.0
        return self.rate / self.cost_usd if self.cost_usd > 0 else inf


def order_rungs(
    escalated: Mapping[str, ArmSums], first: Mapping[str, ArmSums], candidates: Sequence[str]
) -> tuple[Rung, ...]:
    """The candidates in the order in which a run should escalate to them: by success per USD on escalated traffic.

    For attempts that succeed independently of each other this order has the least expected cost until the first success;
    where they do not it is a rule of thumb. Each rate is shrunk towards what is assumed, worth 8 attempts: the candidate's
    success on first attempts times a hardness, which is learned from the candidates that have both kinds. First attempts
    are easier traffic: a figure that rests on them says so in `basis` and `reason`. Who is known in neither way comes last,
    in the order given.

    Args:
        escalated: attempts at rung > 0 of each candidate.
        first: attempts at rung 0, randomised.
        candidates: that may be a rung after the first; the order decides between equals.
    """
    hardness, learned_from = _hardness(escalated, first)
    rungs = [_rung(name, escalated.get(name), first.get(name), hardness, learned_from) for name in candidates]
    return tuple(sorted(rungs, key=lambda rung: (rung.basis == "unknown", -rung.successes_per_usd)))


def _hardness(escalated: Mapping[str, ArmSums], first: Mapping[str, ArmSums]) -> tuple[float, float]:
    """How much less often escalated attempts succeed than first ones, in (0, 1], and from how many attempts."""
    got = expected = attempts = 0.0
    for name in sorted(escalated):
        later, earlier = escalated[name], first.get(name)
        if later.n > 0 and earlier is not None and earlier.n > 0:
            got += later.successes
            expected += later.n * _first_rate(earlier)
            attempts += later.n
    return min((got + HARDNESS_RUNS * HARDNESS) / (expected + HARDNESS_RUNS), 1.0), attempts


def _rung(name: str, later: ArmSums | None, earlier: ArmSums | None, hardness: float, learned_from: float) -> Rung:
    seen = later is not None and later.n > 0
    n, successes = (later.n, later.successes) if seen and later is not None else (0.0, 0.0)
    has_first = earlier is not None and earlier.n > 0
    easy = _first_rate(earlier) if has_first and earlier is not None else None
    assumed = None if easy is None else easy * hardness
    # Without first attempts the pseudo-attempts succeed as often as they fail.
    rate = (successes + PRIOR_RUNS * assumed) / (n + PRIOR_RUNS) if assumed is not None else (successes + 1) / (n + 2)
    cost, cost_seen = _cost(later, earlier)
    basis = _basis(n, has_first, cost, cost_seen)
    if basis == "unknown":
        missing = "what it costs" if n > 0 or has_first else "it"
        text = f"nothing is known of {missing} on escalated traffic: it comes last."
        return Rung(candidate=name, basis=basis, n=int(n), rate=rate if n > 0 else None, cost_usd=cost, reason=text)
    parts = []
    if n > 0:
        parts.append(f"{wording.number(successes)} of {wording.runs(int(n))} that escalated to it succeeded")
    if easy is not None and basis != "escalated":
        source = f"measured over {wording.runs(int(learned_from))}" if learned_from else "an assumption as well"
        parts.append(
            f"assumed from first attempts: {wording.percent(easy)} of them succeeded, on escalated traffic "
            f"{wording.number(hardness)} times that ({source})"
        )
    found = Rung(candidate=name, basis=basis, n=int(n), rate=rate, cost_usd=cost, reason="")
    figure = f"{wording.percent(rate)} at {wording.usd(cost or 0.0)}"
    figure += "" if cost_seen else " (the cost of first attempts)"
    parts.append(f"taken as {figure} an attempt, {_per_usd(found)}")
    return Rung(candidate=name, basis=basis, n=int(n), rate=rate, cost_usd=cost, reason="; ".join(parts) + ".")


def _per_usd(rung: Rung) -> str:
    ratio = rung.successes_per_usd
    return "which is free" if ratio == inf else f"{wording.number(ratio)} successes per USD"


def _basis(n: float, has_first: bool, cost: float | None, cost_seen: bool) -> Basis:
    if cost is None or (n <= 0 and not has_first):
        return "unknown"
    if n <= 0:
        return "assumed"
    return "escalated" if n >= PRIOR_RUNS and cost_seen else "mixed"


def _cost(later: ArmSums | None, earlier: ArmSums | None) -> tuple[float | None, bool]:
    """USD an attempt, and whether escalated attempts say so. Few of them are shrunk towards what first attempts cost."""
    easy = earlier.cost_sum / earlier.priced if earlier is not None and earlier.priced > 0 else None
    if later is None or later.priced <= 0:
        return easy, False
    weight = PRIOR_RUNS if easy is not None else 0.0
    return (later.cost_sum + weight * (easy or 0.0)) / (later.priced + weight), True


def _first_rate(sums: ArmSums) -> float:
    return min(max((sums.successes + 1) / (sums.n + 2), 0.0), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """Whether a rung earns more than it costs: V times success minus cost, USD an attempt, with bounds at every look."""

    verdict: Literal["worth", "not_worth", "unknown"]
    n: int
    point: float | None
    low: float
    high: float
    runs_needed: int | None
    """Further attempts until it is decided if the estimates stay; `None`: cannot be told."""
    reason: str


def worth_its_cost(
    escalated: ArmSums, value: float, *, alpha: float = 0.05, min_runs: int = MIN_RUNS, effective: float = 1.0
) -> Worth:
    """Whether a rung earns V times its success probability more than its cost, on escalated attempts only.

    From `min_runs` attempts of known cost: the asymptotic confidence sequence of the mean of V S - C, variance
    V^2 r(1-r) + Var(C) - 2 V Cov(C, S) with r = (s+2)/(n+4). With any number: not worth its cost where the exact upper bound
    of its success rate times V is below half of what it costs on average, worth it where the lower one is above twice that
    (the factor stands for what the mean cost of few attempts may be off by). What a success on a later rung would earn
    instead is not looked at.

    Args:
        escalated: attempts of the candidate at rung > 0.
        value: V, USD a success is worth.
        alpha: error probability over all looks.
        min_runs: attempts below which only the exact rule speaks.
        effective: effective share of the sample in (0, 1] where hours are correlated (`variance.effective_share`).

    Raises:
        ValueError: V is negative or not a number, alpha outside (0, 1).
    """
    if not value >= 0:
        raise ValueError(f"the value of a success must not be negative, got {value}")
    name, n = escalated.candidate, escalated.priced
    if n <= 0:
        text = f"{name} has no escalated attempt of known cost: whether it is worth its cost is not known."
        return Worth(verdict="unknown", n=0, point=None, low=-inf, high=inf, runs_needed=None, reason=text)
    successes = min(max(escalated.priced_successes, 0.0), n)
    rate, cost = successes / n, escalated.cost_sum / n
    point = value * rate - cost
    variance = _variance(escalated, value) / effective

    def width(size: float) -> float:
        return asymptotic_half_width(variance, size, alpha)

    half = width(n) if n >= min_runs else inf
    least, most = rate_interval(successes * effective, n * effective, alpha)
    verdict: Literal["worth", "not_worth", "unknown"] = "unknown"
    if point - half > 0 or value * least > 2 * cost:
        verdict = "worth"
    elif point + half < 0 or value * most < cost / 2:
        verdict = "not_worth"
    needed = None
    if verdict == "unknown" and point != 0:
        total = runs_until(lambda size: abs(point) > width(size), start=max(n, min_runs))
        needed = None if total is None else max(total - int(n), 1)
    return Worth(
        verdict=verdict, n=int(n), point=point, low=point - half, high=point + half, runs_needed=needed,
        reason=_why(name, verdict, n, successes, value, cost, half, needed),
    )  # fmt: skip


def _variance(sums: ArmSums, value: float) -> float:
    n = sums.priced
    cost = sums.cost_sum / n
    rate = (sums.priced_successes + 2) / (n + 4)
    spread = max(sums.cost_sq_sum / n - cost * cost, 0.0)
    covariance = sums.cost_success_sum / n - cost * sums.priced_successes / n
    return max(value * value * rate * (1 - rate) + spread - 2 * value * covariance, 0.0)


def _why(
    name: str, verdict: str, n: float, successes: float, value: float, cost: float, half: float, needed: int | None
) -> str:
    earned = value * successes / n
    text = (
        f"{name} on escalated traffic: {wording.number(successes)} of {wording.runs(int(n))} succeeded, at "
        f"{wording.usd(value)} a success worth {wording.usd(earned)} an attempt that costs {wording.usd(cost)}: "
    )
    net = f"a net {wording.usd(earned - cost)}"
    if half < inf:
        net += f" (bounds: {wording.usd(earned - cost - half)} to {wording.usd(earned - cost + half)})"
    if verdict != "unknown":
        return f"{text}{net}, {'worth' if verdict == 'worth' else 'not worth'} its cost."
    more = "" if needed is None else f"; about {wording.more_runs(needed)} would tell"
    return f"{text}{net}, not decided yet{more}."

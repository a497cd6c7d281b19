"""Synthetic evidence: readable builders and a simulated history of randomised arms."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from tierwise.core.call import Arm, Grade
from tierwise.core.evidence import HOUR_S, LATENCY_EDGES_S, Evidence, EvidenceRow, Key, latency_index
from tierwise.core.policy import TaskPolicy

TASK = "summary"
START = 1_800_000_000 // HOUR_S * HOUR_S
BUCKETS = len(LATENCY_EDGES_S) + 1


def histogram(seconds: Sequence[float]) -> tuple[int, ...]:
    """Latency counts of the given durations."""
    counts = [0] * BUCKETS
    for one in seconds:
        counts[latency_index(one)] += 1
    return tuple(counts)


def runs(
    n: int,
    successes: int,
    *,
    cost: float | None = 0.001,
    spread: float = 0.3,
    latency: float | Sequence[float] = 2.0,
    failure: str = "check_failed",
    forms: Mapping[str, int] | None = None,
) -> Evidence:
    """n single-call runs; costs alternate by +/- `spread`, `failure` is the outcome of those that did not succeed."""
    outcomes = {"success": successes, failure: n - successes}
    seconds = [latency] * n if isinstance(latency, int | float) else list(latency)
    costs = [] if cost is None else [cost * (1 + spread * (1 if i % 2 else -1)) for i in range(n)]
    return Evidence(
        n=n,
        successes=successes,
        priced=len(costs),
        priced_successes=successes if costs else 0,
        cost_sum=sum(costs),
        cost_sq_sum=sum(c * c for c in costs),
        cost_success_sum=sum(costs[:successes]),
        outcomes={name: count for name, count in outcomes.items() if count},
        json_forms=dict(forms or {}),
        tokens={"output": 100 * n},
        latency=histogram(seconds),
        latency_sum_s=sum(seconds),
    )


def row(
    candidate: str,
    evidence: Evidence,
    *,
    hour: int = 0,
    task: str = TASK,
    epoch: str = "e1",
    arm: Arm = "primary",
    rung: int = 0,
    grade: Grade = "randomised",
    session: str = "",
    round_number: int = -1,
) -> EvidenceRow:
    """One row of evidence in hour `hour` after `START`, or in a bench round."""
    key = Key(
        task=task,
        candidate=candidate,
        epoch=epoch,
        arm=arm,
        rung=rung,
        grade=grade,
        bucket=START + hour * HOUR_S,
        session=session,
        round=round_number,
    )
    return EvidenceRow(key=key, evidence=evidence)


def hours(candidate: str, evidence: Evidence, count: int, *, first: int = 0, **place: object) -> list[EvidenceRow]:
    """The same evidence in each of `count` hours."""
    return [row(candidate, evidence, hour=first + i, **place) for i in range(count)]  # type: ignore[arg-type]


def rounds(
    candidate: str, evidence: Evidence, count: int, *, session: str = "s1", task: str = TASK
) -> list[EvidenceRow]:
    """The same evidence in each of `count` bench rounds of one session."""
    return [
        row(candidate, evidence, arm="pinned", session=session, round_number=i, task=task) for i in range(1, count + 1)
    ]


def policy(*candidates: str, **settings: object) -> TaskPolicy:
    """A task policy with defaults."""
    return TaskPolicy(task=TASK, candidates=candidates, **settings)  # type: ignore[arg-type]


def after(hour: int) -> int:
    """A moment at which `hour` hours since `START` have ended."""
    return START + hour * HOUR_S


def history(
    rng: random.Random,
    arms: Mapping[str, tuple[float, float]],
    *,
    looks: int,
    per_look: int,
    cv: float = 0.95,
    shock: float = 0.0,
) -> list[list[EvidenceRow]]:
    """Hourly rows of independent arms (success rate, mean cost): lognormal costs, a logit-normal shock per arm and hour."""
    sigma = math.sqrt(math.log(1 + cv * cv))
    return [
        [row(name, _hour(rng, rate, mean, per_look, sigma, shock), hour=look) for name, (rate, mean) in arms.items()]
        for look in range(looks)
    ]


def _hour(rng: random.Random, rate: float, mean: float, n: int, sigma: float, shock: float) -> Evidence:
    if shock and 0 < rate < 1:
        rate = 1 / (1 + math.exp(-(math.log(rate / (1 - rate)) + rng.gauss(0, shock))))
    costs = [mean * math.exp(rng.gauss(-sigma * sigma / 2, sigma)) for _ in range(n)]
    won = [rng.random() < rate for _ in range(n)]
    successes = sum(won)
    return Evidence(
        n=n,
        successes=successes,
        priced=n,
        priced_successes=successes,
        cost_sum=sum(costs),
        cost_sq_sum=sum(c * c for c in costs),
        cost_success_sum=sum(c for c, ok in zip(costs, won, strict=True) if ok),
        outcomes={name: count for name, count in (("success", successes), ("check_failed", n - successes)) if count},
    )


def misses(simulate: Callable[[int], bool], histories: int) -> float:
    """Share of seeded histories in which something that should hold did not."""
    return sum(simulate(seed) for seed in range(histories)) / histories

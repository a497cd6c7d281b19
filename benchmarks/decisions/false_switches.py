"""How often decisions are wrong when nothing differs: four identical models under `apply: auto`, and guardrails at their limit.

uv run python benchmarks/decisions/false_switches.py [--histories 500] [--looks 200] [--seed 0] [--only WORD] [--persistent]
    [--jobs N] [--json]

*adaptive* and *cap 20 %* route each hour's runs as the decision before says, with `apply: auto`, and count histories in
which the label ever moves; *recommend* measures all arms every hour and counts those that are ever told `PROMOTE`. With
`--persistent` also worlds in which what an hour does to a model lasts (autocorrelation .5, .8, .9 from hour to hour): there a
model *is* worse for hours on end, and rules that see only these hours cannot know that it will pass.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from peeking import interval

from tierwise.core.columns import TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.evidence import HOUR_S, Evidence, Key
from tierwise.core.policy import GuardrailMetric, Objective, TaskPolicy
from tierwise.core.route import Route

Test = Callable[[Any], bool]
ARMS = ("a", "b", "c", "d")
RATE, COST_USD, SPREAD = 0.9, 0.001, 0.8
VALUE = 0.02
WORLDS = {"independent": (20, 0.0, 0.0), "correlated hours": (20, 0.6, 0.0), "3 runs an hour": (3, 0.0, 0.0)}
"""Runs an hour and arm (times the arms, where traffic is split), logit-normal shock of an arm's hour, its autocorrelation."""
PERSISTENT = {f"shocks that last, {last}": (20, 0.6, last) for last in (0.5, 0.8, 0.9)}


def rolled_back(job: tuple[int, float, int, int]) -> bool:
    """Whether a cheaper model exactly as good, at the guardrail's limit like the primary, is ever rolled back or refuted."""
    per_hour, shock, looks, _ = job
    rng = random.Random(f"back{job}")
    limit = GuardrailMetric(metric="success_rate", op=">=", limit=mean_rate(RATE, shock))
    policy = TaskPolicy(
        task="t", candidates=("a", "b"), tiers=("", ""), apply="auto", explore=0.2, confidence=0.95, guardrails=(limit,)
    )
    evidence, route = TaskEvidence("t"), Route(task="t", primary="a", propensities={"a": 1.0})
    for look in range(looks):
        names = list(route.propensities)
        drawn = rng.choices(names, [route.propensities[name] for name in names], k=per_hour)
        for name in sorted(set(drawn)):
            trial = route.canary is not None and route.canary.candidate == name
            arm = "canary" if trial else "primary" if name == route.primary else "explore"
            key = Key(task="t", candidate=name, epoch="e", arm=arm, rung=0, grade="randomised", bucket=look * HOUR_S)  # type: ignore[arg-type]
            evidence.append(
                key, hour(rng, drawn.count(name), rng.gauss(0, shock), COST_USD * (3 if name == "a" else 1))
            )
        found = decide(evidence, policy, route, (look + 1) * HOUR_S)
        if found.action == "rollback" or any(g.state == "refuted" for one in found.candidates for g in one.guardrails):
            return True
        route = found.after or route
    return False


def logit(rate: float) -> float:
    """ln(p / (1 - p))."""
    return math.log(rate / (1 - rate))


def mean_rate(rate: float, shock: float) -> float:
    """Mean success over hours whose logit is normal around that of `rate`."""
    if not shock:
        return rate
    weights = [(z / 200, math.exp(-((z / 200) ** 2) / 2)) for z in range(-1200, 1201)]
    return sum(w / (1 + math.exp(-logit(rate) - shock * z)) for z, w in weights) / sum(w for _, w in weights)


class Weather:
    """What each hour does to each arm: a stationary series of standard deviation `shock` on the logit scale."""

    def __init__(self, rng: random.Random, shock: float, last: float) -> None:
        self.rng, self.shock, self.last = rng, shock, last
        self.states: dict[str, float] = {}

    def next(self, name: str) -> float:
        """The shift of an arm's next hour; call it once an hour and arm, used or not, where shocks last."""
        if not self.shock:
            return 0.0
        fresh = self.rng.gauss(0, self.shock)
        if self.last and name in self.states:
            fresh = self.last * self.states[name] + math.sqrt(1 - self.last**2) * fresh
        self.states[name] = fresh
        return fresh


def hour(rng: random.Random, n: int, shift: float, cost_usd: float = COST_USD) -> Evidence:
    """n runs of one arm in one hour, whose success is moved by `shift` on the logit scale."""
    rate = 1 / (1 + math.exp(-logit(RATE) - shift))
    good = sum(rng.random() < rate for _ in range(n))
    costs = [rng.lognormvariate(math.log(cost_usd), SPREAD) for _ in range(n)]
    return Evidence(
        n=n, successes=good, priced=n, priced_successes=good, cost_sum=sum(costs), cost_sq_sum=sum(c * c for c in costs),
        cost_success_sum=sum(costs[:good]), outcomes={"success": good, "check_failed": n - good},
    )  # fmt: skip


def switched(job: tuple[str, str, float, int, int]) -> bool:
    """Whether one history of identical arms ever moves the primary."""
    world, explore, confidence, looks, _ = job
    per_arm, shock, last = (WORLDS | PERSISTENT)[world]
    rng = random.Random(f"{job}")
    weather = Weather(rng, shock, last)
    policy = TaskPolicy(
        task="t", candidates=ARMS, tiers=("",) * 4, apply="auto", confidence=confidence, margin=1.0,
        objective=Objective(kind="loss", value_of_success_usd=VALUE), explore="adaptive" if explore == "adaptive" else 0.2,
    )  # fmt: skip
    evidence, route = TaskEvidence("t"), Route(task="t", primary="a", propensities={"a": 1.0})
    for look in range(looks):
        names = list(route.propensities)
        drawn = rng.choices(names, [route.propensities[name] for name in names], k=per_arm * len(ARMS))
        shifts = {name: weather.next(name) for name in ARMS} if last else {}
        for name in sorted(set(drawn)):
            arm = "primary" if name == route.primary else "explore"
            key = Key(task="t", candidate=name, epoch="e", arm=arm, rung=0, grade="randomised", bucket=look * HOUR_S)  # type: ignore[arg-type]
            evidence.append(key, hour(rng, drawn.count(name), shifts[name] if last else weather.next(name)))
        found = decide(evidence, policy, route, (look + 1) * HOUR_S)
        if found.action == "promote":
            return True
        route = found.after or route
    return False


def recommended(job: tuple[str, str, float, int, int]) -> bool:
    """Whether one history of identical arms, each measured every hour, is ever told to promote one."""
    world, _, confidence, looks, _ = job
    per_arm, shock, last = (WORLDS | PERSISTENT)[world]
    rng = random.Random(f"{job}")
    weather = Weather(rng, shock, last)
    policy = TaskPolicy(task="t", candidates=ARMS, tiers=("",) * 4, confidence=confidence)
    evidence, route = TaskEvidence("t"), Route(task="t", primary="a")
    for look in range(looks):
        for name in ARMS:
            key = Key(
                task="t", candidate=name, epoch="e", arm="explore", rung=0, grade="randomised", bucket=look * HOUR_S
            )
            evidence.append(key, hour(rng, per_arm, weather.next(name)))
        if decide(evidence, policy, route, (look + 1) * HOUR_S).verdict == "PROMOTE":
            return True
    return False


def refuted(job: tuple[int, float, int, int]) -> bool:
    """Whether a true success rate exactly at its limit is ever called broken."""
    per_hour, shock, looks, _ = job
    rng = random.Random(f"{job}")
    limit = GuardrailMetric(metric="success_rate", op=">=", limit=mean_rate(RATE, shock))
    policy = TaskPolicy(task="t", candidates=("a",), tiers=("",), guardrails=(limit,))
    evidence, route = TaskEvidence("t"), Route(task="t", primary="a")
    for look in range(looks):
        key = Key(task="t", candidate="a", epoch="e", arm="primary", rung=0, grade="randomised", bucket=look * HOUR_S)
        evidence.append(key, hour(rng, per_hour, rng.gauss(0, shock) if shock else 0.0))
        found = decide(evidence, policy, route, (look + 1) * HOUR_S)
        if any(one.state == "refuted" for one in found.candidates[0].guardrails):
            return True
    return False


def cells(worlds: Sequence[str], looks: int, seeds: Sequence[int]) -> Iterator[tuple[str, Test, Sequence[Any]]]:
    """Name of each cell, what is wrong in it, and its histories."""
    ways: tuple[tuple[str, Test], ...] = (("adaptive", switched), ("cap 20 %", switched), ("recommend", recommended))
    for confidence in (0.99, 0.95):
        for world in worlds:
            for explore, test in ways:
                jobs = [(world, explore, confidence, looks, seed) for seed in seeds]
                yield f"{explore}, {confidence}, {world}", test, jobs
    for per_hour in (20, 200):
        limits = [(per_hour, 0.6, looks, seed) for seed in seeds]
        yield f"guardrail at its limit, {per_hour} runs an hour, correlated hours", refuted, limits
        yield f"canary at its limit, {per_hour} runs an hour, correlated hours", rolled_back, limits


def main() -> None:
    """Run every cell and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=500)
    parser.add_argument("--looks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only cells whose name holds this")
    parser.add_argument("--persistent", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.histories)
    worlds = (*WORLDS, *(PERSISTENT if arguments.persistent else ()))
    found = {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for name, test, jobs in cells(worlds, arguments.looks, seeds):
            if arguments.only not in name:
                continue
            hits = sum(pool.map(test, jobs, chunksize=4))
            low, high = interval(hits, len(jobs))
            found[name] = {"wrong": hits, "histories": len(jobs), "share": hits / len(jobs), "low": low, "high": high}
            if not arguments.json:
                print(f"{name:<62} {100 * hits / len(jobs):5.1f} %  ({100 * low:.1f}-{100 * high:.1f})", flush=True)
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

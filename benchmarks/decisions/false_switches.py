"""How often decisions are wrong when nothing differs: four identical models under `apply: auto`, and guardrails at their limit.

uv run python benchmarks/decisions/false_switches.py [--histories 500] [--looks 200] [--jobs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tierwise.core.columns import TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.evidence import HOUR_S, Evidence, Key
from tierwise.core.policy import GuardrailMetric, Objective, TaskPolicy
from tierwise.core.route import Route

ARMS = ("a", "b", "c", "d")
RATE, COST_USD, SPREAD = 0.9, 0.001, 0.8
VALUE = 0.02
WORLDS = {"independent": (20, 0.0), "correlated hours": (20, 0.6), "3 runs an hour": (3, 0.0)}
"""Runs an hour of each arm (as many as all arms get together, when traffic is split), logit-normal shock of an arm's hour."""


def hour(rng: random.Random, n: int, shock: float) -> Evidence:
    """n runs of one arm in one hour."""
    logit = math.log(RATE / (1 - RATE)) + (rng.gauss(0, shock) if shock else 0.0)
    rate = 1 / (1 + math.exp(-logit))
    good = sum(rng.random() < rate for _ in range(n))
    costs = [rng.lognormvariate(math.log(COST_USD), SPREAD) for _ in range(n)]
    return Evidence(
        n=n, successes=good, priced=n, priced_successes=good, cost_sum=sum(costs), cost_sq_sum=sum(c * c for c in costs),
        cost_success_sum=sum(costs[:good]), outcomes={"success": good, "check_failed": n - good},
    )  # fmt: skip


def switched(job: tuple[str, str, float, int, int]) -> bool:
    """Whether one history of identical arms ever moves the primary."""
    world, explore, confidence, looks, _ = job
    per_arm, shock = WORLDS[world]
    rng = random.Random(f"{job}")
    policy = TaskPolicy(
        task="t", candidates=ARMS, tiers=("",) * 4, apply="auto", confidence=confidence, margin=1.0,
        objective=Objective(kind="loss", value_of_success_usd=VALUE), explore="adaptive" if explore == "adaptive" else 0.2,
    )  # fmt: skip
    evidence, route = TaskEvidence("t"), Route(task="t", primary="a", propensities={"a": 1.0})
    for look in range(looks):
        names = list(route.propensities)
        drawn = rng.choices(names, [route.propensities[name] for name in names], k=per_arm * len(ARMS))
        for name in sorted(set(drawn)):
            arm = "primary" if name == route.primary else "explore"
            key = Key(task="t", candidate=name, epoch="e", arm=arm, rung=0, grade="randomised", bucket=look * HOUR_S)  # type: ignore[arg-type]
            evidence.append(key, hour(rng, drawn.count(name), shock))
        found = decide(evidence, policy, route, (look + 1) * HOUR_S)
        if found.action == "promote":
            return True
        route = found.after or route
    return False


def recommended(job: tuple[str, str, float, int, int]) -> bool:
    """Whether one history of identical arms, each measured every hour, is ever told to promote one."""
    world, _, confidence, looks, _ = job
    per_arm, shock = WORLDS[world]
    rng = random.Random(f"{job}")
    policy = TaskPolicy(task="t", candidates=ARMS, tiers=("",) * 4, confidence=confidence)
    evidence, route = TaskEvidence("t"), Route(task="t", primary="a")
    for look in range(looks):
        for name in ARMS:
            key = Key(
                task="t", candidate=name, epoch="e", arm="explore", rung=0, grade="randomised", bucket=look * HOUR_S
            )
            evidence.append(key, hour(rng, per_arm, shock))
        if decide(evidence, policy, route, (look + 1) * HOUR_S).verdict == "PROMOTE":
            return True
    return False


def refuted(job: tuple[int, float, int, int]) -> bool:
    """Whether a true success rate exactly at its limit is ever called broken."""
    per_hour, shock, looks, _ = job
    rng = random.Random(f"{job}")
    limit = GuardrailMetric(metric="success_rate", op=">=", limit=_mean_rate(shock))
    policy = TaskPolicy(task="t", candidates=("a",), tiers=("",), guardrails=(limit,))
    evidence, route = TaskEvidence("t"), Route(task="t", primary="a")
    for look in range(looks):
        key = Key(task="t", candidate="a", epoch="e", arm="primary", rung=0, grade="randomised", bucket=look * HOUR_S)
        evidence.append(key, hour(rng, per_hour, shock))
        found = decide(evidence, policy, route, (look + 1) * HOUR_S)
        if any(one.state == "refuted" for one in found.candidates[0].guardrails):
            return True
    return False


def _mean_rate(shock: float) -> float:
    """Mean success over hours whose logit is normal around that of `RATE`."""
    centre, steps = math.log(RATE / (1 - RATE)), 4001
    grid = [-6 + 12 * i / (steps - 1) for i in range(steps)]
    weights = [math.exp(-z * z / 2) for z in grid]
    return sum(w / (1 + math.exp(-centre - shock * z)) for w, z in zip(weights, grid, strict=True)) / sum(weights)


def interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max((centre - half) / (1 + z * z / n), 0.0), min((centre + half) / (1 + z * z / n), 1.0)


def main() -> None:
    """Run every cell and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=500)
    parser.add_argument("--looks", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cells: list[tuple[str, Callable[[Any], bool], list[Any]]] = []
    seeds = range(arguments.histories)
    for confidence in (0.99, 0.95):
        for world in WORLDS:
            for explore, test in (("adaptive", switched), ("cap 20 %", switched), ("recommend", recommended)):
                jobs = [(world, explore, confidence, arguments.looks, seed) for seed in seeds]
                cells.append((f"{explore}, {confidence}, {world}", test, jobs))
    for per_hour in (20, 200):
        jobs = [(per_hour, 0.6, arguments.looks, seed) for seed in seeds]
        cells.append((f"guardrail at its limit, {per_hour} runs an hour, correlated hours", refuted, jobs))
    found = {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for name, test, jobs in cells:
            hits = sum(pool.map(test, jobs, chunksize=4))
            low, high = interval(hits, len(jobs))
            found[name] = {"wrong": hits, "histories": len(jobs), "share": hits / len(jobs), "low": low, "high": high}
            if not arguments.json:
                print(f"{name:<62} {100 * hits / len(jobs):5.1f} %  ({100 * low:.1f}-{100 * high:.1f})", flush=True)
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

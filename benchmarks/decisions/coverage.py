"""How often each confidence sequence ever leaves the truth out, when somebody looks every hour.

uv run python benchmarks/decisions/coverage.py [--histories 500] [--looks 200] [--runs 20] [--seed 0] [--only WORD] [--json]

The sequences as decisions use them, at 5 %: of a rate and a quantile alone, of the difference between two models (success,
cost per success, loss) from separate runs, and of the same from shadow pairs, whose outcomes and costs go together. With
correlated hours each hour moves each model's success on the logit scale by a normal shock; with heavy tails, costs are
lognormal with a coefficient of variation of 2.9 instead of .95.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

from false_switches import logit, mean_rate
from peeking import binomial, interval

from tierwise.core.columns import TaskEvidence
from tierwise.core.compare import compare
from tierwise.core.confseq import quantile_interval, rate_interval
from tierwise.core.evidence import HOUR_S, LATENCY_EDGES_S, Evidence, Key, latency_index
from tierwise.core.pairs import PairSums, compare_pairs, of_pair, total_of
from tierwise.core.policy import Objective, TaskPolicy
from tierwise.core.selection import select

ALPHA, SHOCK, VALUE = 0.05, 0.6, 0.02
COSTS = (0.003, 0.001)
NORMAL = NormalDist()
POLICY = TaskPolicy(task="t", candidates=("i", "c"), tiers=("", ""))
LOSS = replace(POLICY, objective=Objective(kind="loss", value_of_success_usd=VALUE))


@dataclass(frozen=True)
class World:
    """Two models: success rates, how much hours move them, spread of the costs' logarithm, and what they share."""

    rates: tuple[float, float] = (0.9, 0.9)
    shock: float = 0.0
    sigma: float = 0.8
    together: float = 0.0
    """Correlation of difficulty and of cost between the two answers to one prompt."""

    def truth(self) -> tuple[float, float, float]:
        """Difference of success, gain in cost per success, gain in loss; of the challenger over the incumbent."""
        (s_i, s_c), (c_i, c_c) = (mean_rate(rate, self.shock) for rate in self.rates), COSTS
        loss_i, loss_c = c_i + VALUE * (1 - s_i), c_c + VALUE * (1 - s_c)
        return s_c - s_i, 1 - (c_c / s_c) / (c_i / s_i), 1 - loss_c / loss_i

    def costs(self, rng: random.Random) -> tuple[float, float]:
        """What one prompt costs with either model, USD."""
        shared, own = math.sqrt(self.together), math.sqrt(1 - self.together)
        size = rng.gauss(0, 1)
        return (
            COSTS[0] * math.exp(self.sigma * (shared * size + own * rng.gauss(0, 1)) - self.sigma**2 / 2),
            COSTS[1] * math.exp(self.sigma * (shared * size + own * rng.gauss(0, 1)) - self.sigma**2 / 2),
        )

    def hour_rates(self, rng: random.Random) -> tuple[float, float]:
        """The success rates of one hour."""
        if not self.shock:
            return self.rates
        first, second = (1 / (1 + math.exp(-logit(rate) - rng.gauss(0, self.shock))) for rate in self.rates)
        return first, second


Job = tuple[int, int, str]
"""Looks, runs an hour, and the words that seed one history."""


def rate(p: float, job: Job) -> bool:
    """The exact sequence of a rate."""
    looks, runs, seed = job
    rng, s = random.Random(seed), 0
    for look in range(1, looks + 1):
        s += binomial(rng, runs, p)
        low, high = rate_interval(s, runs * look, ALPHA)
        if not low <= p <= high:
            return True
    return False


def quantile(tau: float, job: Job) -> bool:
    """The edges that enclose a quantile of lognormal latencies (median 2 s)."""
    looks, runs, seed = job
    rng, counts = random.Random(seed), [0] * (len(LATENCY_EDGES_S) + 1)
    true = 2 * math.exp(0.7 * NORMAL.inv_cdf(tau))
    for _ in range(looks):
        for _ in range(runs):
            counts[latency_index(2 * math.exp(rng.gauss(0, 0.7)))] += 1
        low, high = quantile_interval(counts, LATENCY_EDGES_S, tau, ALPHA)
        if not low < true <= high:
            return True
    return False


def separate(world: World, what: str, job: Job) -> bool:
    """The difference of two models over separate runs in the same hours."""
    looks, runs, seed = job
    rng, evidence = random.Random(seed), TaskEvidence("t")
    truth = world.truth()[("success", "cost per success", "loss").index(what)]
    policy = LOSS if what == "loss" else POLICY
    for look in range(looks):
        for side, (name, p) in enumerate(zip("ic", world.hour_rates(rng), strict=True)):
            good = binomial(rng, runs, p)
            costs = [world.costs(rng)[side] for _ in range(runs)]
            key = Key(
                task="t", candidate=name, epoch="", arm="explore", rung=0, grade="randomised", bucket=look * HOUR_S
            )
            evidence.append(key, _evidence(runs, good, costs))
        found = select(evidence, now=(look + 1) * HOUR_S)
        pools = (found.pool("i", "randomised"), found.pool("c", "randomised"))
        said = compare(*pools, policy, alpha=ALPHA, concurrent=True)
        low, high = (
            (said.difference_low, said.difference_high) if what == "success" else (said.gain.low, said.gain.high)
        )
        if not low <= truth <= high:
            return True
    return False


def _evidence(n: int, good: int, costs: list[float]) -> Evidence:
    return Evidence(
        n=n, successes=good, priced=n, priced_successes=good, cost_sum=sum(costs), cost_sq_sum=sum(c * c for c in costs),
        cost_success_sum=sum(costs[:good]), outcomes={"success": good, "check_failed": n - good},
    )  # fmt: skip


def hour_of_pairs(rng: random.Random, world: World, n: int) -> Iterator[PairSums]:
    """n prompts that both models answer in one hour: difficulty and cost go together as the world says."""
    shared, own = math.sqrt(world.together), math.sqrt(1 - world.together)
    limits = [NORMAL.inv_cdf(p) for p in world.hour_rates(rng)]
    for _ in range(n):
        hard = rng.gauss(0, 1)
        won = [shared * hard + own * rng.gauss(0, 1) < limit for limit in limits]
        costs = world.costs(rng)
        yield of_pair(
            incumbent_success=won[0], challenger_success=won[1],
            incumbent_cost_usd=costs[0], challenger_cost_usd=costs[1],
        )  # fmt: skip


def pairs(world: World, what: str, job: Job) -> bool:
    """The difference of two models over the prompts that both answered."""
    looks, runs, seed = job
    rng, buckets = random.Random(seed), []
    truth = world.truth()[("success", "cost per success", "loss").index(what)]
    for _ in range(looks):
        buckets.append(total_of(hour_of_pairs(rng, world, runs)))
        said = compare_pairs(buckets, alpha=ALPHA, margin=0.05, value_of_success_usd=VALUE if what == "loss" else None)
        bounds = said.difference if what == "success" else said.gain
        if not bounds.low <= truth <= bounds.high:
            return True
    return False


def cells() -> dict[str, Callable[[Job], bool]]:
    """Name of each sequence and world, and whether one history of it misses."""
    found: dict[str, Callable[[Job], bool]] = {}
    for p in (0.5, 0.9, 0.97, 0.995):
        found[f"rate {p}"] = partial(rate, p)
    for tau in (0.5, 0.95, 0.99):
        found[f"quantile {tau}"] = partial(quantile, tau)
    worlds = {
        "": World(),
        ", correlated hours": World(shock=SHOCK),
        ", .95 vs .80": World(rates=(0.8, 0.95)),
        ", heavy tails": World(sigma=1.5),
    }
    for words, world in worlds.items():
        for what in ("success", "cost per success", "loss"):
            if what == "success" and "tails" in words:
                continue
            found[f"difference of {what}{words}"] = partial(separate, world, what)
            found[f"pairs, {what}{words}"] = partial(pairs, replace(world, together=0.6), what)
    return found


def main() -> None:
    """Run every cell and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("histories", 500), ("looks", 200), ("runs", 20), ("seed", 0), ("jobs", os.cpu_count() or 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="only cells whose name holds this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    document = {}
    with ProcessPoolExecutor(args.jobs) as pool:
        for name, misses in cells().items():
            if args.only not in name:
                continue
            jobs = [(args.looks, args.runs, f"{args.seed}/{name}/{number}") for number in range(args.histories)]
            hits = sum(pool.map(misses, jobs, chunksize=4))
            low, high = interval(hits, len(jobs))
            document[name] = {
                "missed": hits,
                "histories": len(jobs),
                "share": hits / len(jobs),
                "low": low,
                "high": high,
            }
            if not args.json:
                print(f"{name:<48} {hits / len(jobs):6.1%}  ({low:.1%}-{high:.1%})", flush=True)
    if args.json:
        print(json.dumps({"nominal": ALPHA, "looks": args.looks, "runs": args.runs, "cells": document}, indent=2))


if __name__ == "__main__":
    main()

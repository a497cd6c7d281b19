"""How many runs it takes until a decision shows a known gap between two models, hour by hour, with and without pairs.

uv run python benchmarks/decisions/gaps.py [--histories 200] [--looks 400] [--runs 10] [--seed 0] [--jobs N] [--json]

Success .95 against .80 and .90 (objective success), and models that cost a third, two thirds or five sixths at equal
success .9 (objective cost per success; lognormal costs with a coefficient of variation of .95). Both models get the same
number of runs each hour, from an hour's traffic each its own (*separate*), or the challenger answers the incumbent's
prompts in the background (*pairs*), where difficulty and size of a prompt are shared (correlation .6). Runs are those of one
model until the gain is shown (`TRIAL` or `PROMOTE`), and until `PROMOTE`, which wants success not worse by 5 points besides.
Below 10 hours and 30 runs only exact tests speak, so fewer than 10 hours' runs are rare. *naive z* is a test for one look,
applied at every look: quick, and wrong in 40 % of the histories in which nothing differs (see peeking.py).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import NormalDist, median

from peeking import MIN_RUNS, interval

from tierwise.core.columns import TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.evidence import HOUR_S, Evidence, Key
from tierwise.core.pairs import PairSums, of_pair, total_of
from tierwise.core.policy import Objective, ObjectiveKind, TaskPolicy
from tierwise.core.route import Route

SIGMA, TOGETHER, COST_USD = 0.8, 0.6, 0.003
NORMAL = NormalDist()
GAPS: dict[str, tuple[ObjectiveKind, float, float, float]] = {
    ".95 vs .80": ("success_rate", 0.80, 0.95, 1.0),
    ".95 vs .90": ("success_rate", 0.90, 0.95, 1.0),
    "a third of the cost": ("cost_per_success", 0.9, 0.9, 1 / 3),
    "two thirds of the cost": ("cost_per_success", 0.9, 0.9, 2 / 3),
    "five sixths of the cost": ("cost_per_success", 0.9, 0.9, 5 / 6),
}
"""Objective, success of the incumbent and the challenger, the challenger's cost as a share of the incumbent's."""

Job = tuple[str, bool, int, int, str]
"""Gap, pairs or not, looks, runs an hour, seed."""
Found = tuple[int | None, int | None, int | None]
"""Runs a model until the gain is shown, until the promotion, until a naive z test speaks; None: not within the looks."""


def answer(rng: random.Random, hard: float, size: float, rate: float, cost: float) -> tuple[bool, float]:
    """Success and cost of one model's answer to a prompt of that difficulty and size."""
    shared, own = math.sqrt(TOGETHER), math.sqrt(1 - TOGETHER)
    won = shared * hard + own * rng.gauss(0, 1) < NORMAL.inv_cdf(rate)
    return won, cost * math.exp(SIGMA * (shared * size + own * rng.gauss(0, 1)) - SIGMA**2 / 2)


def hour(rng: random.Random, gap: str, paired: bool, n: int) -> list[tuple[bool, float, bool, float]]:
    """Success and cost of the incumbent and the challenger, n times."""
    _, first, second, ratio = GAPS[gap]
    found = []
    for _ in range(n):
        hard, size = rng.gauss(0, 1), rng.gauss(0, 1)
        one = answer(rng, hard, size, first, COST_USD)
        if not paired:
            hard, size = rng.gauss(0, 1), rng.gauss(0, 1)
        found.append((*one, *answer(rng, hard, size, second, COST_USD * ratio)))
    return found


def sums(runs: list[tuple[bool, float]]) -> Evidence:
    """The evidence of runs."""
    good = sum(won for won, _ in runs)
    return Evidence(
        n=len(runs), successes=good, priced=len(runs), priced_successes=good, cost_sum=sum(cost for _, cost in runs),
        cost_sq_sum=sum(cost * cost for _, cost in runs), cost_success_sum=sum(cost for won, cost in runs if won),
        outcomes={"success": good, "check_failed": len(runs) - good},
    )  # fmt: skip


def paired_values(runs: list[tuple[bool, float, bool, float]]) -> tuple[float, ...]:
    """The sums over pairs, as evidence holds them."""
    total = total_of(
        of_pair(incumbent_success=a, incumbent_cost_usd=b, challenger_success=c, challenger_cost_usd=d)
        for a, b, c, d in runs
    )
    return tuple(getattr(total, name) for name in PairSums.__dataclass_fields__)


def history(job: Job) -> Found:
    """One history, decided every hour as `tierwise plan` does."""
    gap, paired, looks, per_hour, seed = job
    rng, evidence, route = random.Random(seed), TaskEvidence("t"), Route(task="t", primary="i")
    policy = TaskPolicy(task="t", candidates=("i", "c"), tiers=("", ""), objective=Objective(kind=GAPS[gap][0]))
    shown: int | None = None
    naive: int | None = None
    tally = Evidence()
    mine = Evidence()
    for look in range(looks):
        drawn = hour(rng, gap, paired, per_hour)
        first, second = sums([one[:2] for one in drawn]), sums([one[2:] for one in drawn])
        key = Key(task="t", candidate="i", epoch="", arm="primary", rung=0, grade="randomised", bucket=look * HOUR_S)
        evidence.append(replace(key, grade="observational") if paired else key, first)
        if paired:
            other = replace(key, candidate="c", arm="shadow")
            evidence.append(other, replace(second, pairs={"i": paired_values(drawn)}))
        else:
            evidence.append(replace(key, candidate="c", arm="explore"), second)
        tally, mine = tally + first, mine + second
        n = (look + 1) * per_hour
        naive = n if naive is None and n >= MIN_RUNS and naive_z(GAPS[gap][0], tally, mine) else naive
        verdict = decide(evidence, policy, route, (look + 1) * HOUR_S).verdict
        shown = n if shown is None and verdict in ("TRIAL", "PROMOTE") else shown
        if verdict == "PROMOTE":
            return shown, n, naive
    return shown, None, naive


def naive_z(kind: str, first: Evidence, second: Evidence) -> bool:
    """Whether a test for one look would speak: of two rates, or of the logarithms of two mean costs."""
    n = first.n
    if kind == "success_rate":
        pooled = (first.successes + second.successes) / (2 * n)
        error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * 2 / n)
        return (second.successes - first.successes) / n > 1.96 * error
    spread = sum(one.cost_sq_sum * n / one.cost_sum**2 - 1 for one in (first, second))
    return math.log(first.cost_sum / second.cost_sum) > 1.96 * math.sqrt(spread / n)


def row(found: list[int | None], limit: int) -> dict[str, float | int | None]:
    """Median and 90th percentile of the runs, and the share that ever came, with its interval."""
    runs = sorted(math.inf if one is None else one for one in found)
    came = sum(one is not None for one in found)
    low, high = interval(came, len(found))
    middle, late = median(runs), runs[min(math.ceil(0.9 * len(runs)), len(runs)) - 1]
    return {
        "median": None if middle > limit else int(middle), "p90": None if late > limit else int(late),
        "share": came / len(found), "low": low, "high": high,
    }  # fmt: skip


def main() -> None:
    """Run every cell and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("histories", 200), ("looks", 400), ("runs", 10), ("seed", 0), ("jobs", os.cpu_count() or 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    limit = args.looks * args.runs
    document: dict[str, dict[str, dict[str, float | int | None]]] = {}
    if not args.json:
        print(f"{args.histories} histories, {args.runs} runs an hour and model, at most {limit} runs of each")
        print(f"{'':<36}{'gain shown':>16}{'promoted':>16}{'naive z':>16}   promoted in")
    with ProcessPoolExecutor(args.jobs) as pool:
        for gap in GAPS:
            for paired in (False, True):
                name = f"{gap}, {'pairs' if paired else 'separate'}"
                jobs = [(gap, paired, args.looks, args.runs, f"{args.seed}/{name}/{i}") for i in range(args.histories)]
                found = list(pool.map(history, jobs, chunksize=2))
                parts = [row([one[place] for one in found], limit) for place in range(3)]
                document[name] = dict(zip(("shown", "promoted", "naive_z"), parts, strict=True))
                if not args.json:
                    texts = [f"{said(part['median'], limit)} [{said(part['p90'], limit)}]" for part in parts]
                    share = f"{parts[1]['share']:.0%} ({parts[1]['low']:.0%}-{parts[1]['high']:.0%})"
                    print(f"{name:<36}" + "".join(f"{text:>16}" for text in texts) + f"   {share}", flush=True)
    if args.json:
        print(json.dumps({"runs_an_hour": args.runs, "limit": limit, "gaps": document}, indent=2))


def said(runs: float | int | None, limit: int) -> str:
    """A number of runs, or that it was not enough."""
    return f">{limit}" if runs is None else str(runs)


if __name__ == "__main__":
    main()

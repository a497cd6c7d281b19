"""A primary that silently becomes worse (success .9 to .5): hours until the alarm, until the move, and false alarms.

uv run python benchmarks/decisions/detection.py [--histories 200] [--seed 0] [--jobs N] [--json]

Three models under `apply: auto`; the primary is as good as the others and cheapest until it breaks after 100 hours. The alarm
is drift told of the primary, the move is another primary. False alarms: drift told of any model in 300 hours in which
nothing changes. Hours are counted from the breakdown, 60 when nothing came.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

from peeking import interval

from tierwise.core.columns import TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.evidence import HOUR_S, Evidence, Key
from tierwise.core.policy import Objective, TaskPolicy
from tierwise.core.route import Route

COSTS = {"primary": 0.001, "other": 0.002, "third": 0.003}
BEFORE, QUIET, LIMIT = 100, 300, 60


def hour(rng: random.Random, name: str, n: int, rate: float) -> Evidence:
    """n runs of one model in one hour."""
    good = sum(rng.random() < rate for _ in range(n))
    costs = [COSTS[name] * (0.5 + rng.random()) for _ in range(n)]
    return Evidence(
        n=n, successes=good, priced=n, priced_successes=good, cost_sum=sum(costs), cost_sq_sum=sum(c * c for c in costs),
        cost_success_sum=sum(costs[:good]), outcomes={"success": good, "check_failed": n - good},
    )  # fmt: skip


def history(job: tuple[str, int, bool, int]) -> tuple[int | None, int | None, int]:
    """(hours to the alarm, hours to the move, false alarms) of one task; `worse`: the primary breaks after 100 hours."""
    explore, per_hour, worse, _ = job
    rng = random.Random(f"{job}")
    policy = TaskPolicy(
        task="t", candidates=tuple(COSTS), tiers=("",) * 3, apply="auto", confidence=0.99, margin=1.0,
        objective=Objective(kind="loss", value_of_success_usd=0.02), explore="adaptive" if explore == "adaptive" else 0.2,
    )  # fmt: skip
    evidence, route = TaskEvidence("t"), Route(task="t", primary="primary", propensities={"primary": 1.0})
    alarm = move = None
    false = 0
    for look in range(BEFORE + LIMIT if worse else QUIET):
        names = list(route.propensities)
        drawn = rng.choices(names, [route.propensities[name] for name in names], k=per_hour)
        for name in sorted(set(drawn)):
            rate = 0.5 if worse and name == "primary" and look >= BEFORE else 0.9
            arm = "primary" if name == route.primary else "explore"
            key = Key(task="t", candidate=name, epoch="e", arm=arm, rung=0, grade="randomised", bucket=look * HOUR_S)  # type: ignore[arg-type]
            evidence.append(key, hour(rng, name, drawn.count(name), rate))
        found = decide(evidence, policy, route, (look + 1) * HOUR_S)
        route = found.after or route
        drifted = {reason.candidate for reason in found.reasons if reason.code == "drift"}
        if worse and look >= BEFORE:
            alarm = look - BEFORE + 1 if alarm is None and "primary" in drifted else alarm
            if route.primary != "primary":
                move = look - BEFORE + 1
                break
        else:
            false += len(drifted)
    return alarm, move, false


def row(broken: list[tuple[int | None, int | None, int]], quiet: list[int]) -> dict[str, Any]:
    """Hours to the alarm and the move, and the share of quiet tasks that had a false alarm, with its interval."""
    hours = {
        "alarm": sorted(LIMIT if alarm is None else alarm for alarm, _, _ in broken),
        "move": sorted(LIMIT if move is None else move for _, move, _ in broken),
    }
    within = {name: sum(one <= most for one in hours[name]) for name, most in (("alarm", 3), ("move", 4))}
    alarmed = sum(count > 0 for count in quiet)
    return {
        **{f"{name}_median": median(found) for name, found in hours.items()},
        **{f"{name}_p90": found[min(int(0.9 * len(found)), len(found) - 1)] for name, found in hours.items()},
        "alarm_within_3": within["alarm"] / len(broken),
        "alarm_within_3_interval": interval(within["alarm"], len(broken)),
        "move_within_4": within["move"] / len(broken),
        "move_within_4_interval": interval(within["move"], len(broken)),
        "false_alarms_per_task": sum(quiet) / len(quiet),
        "tasks_with_a_false_alarm": alarmed / len(quiet),
        "tasks_with_a_false_alarm_interval": interval(alarmed, len(quiet)),
        "histories": len(broken),
    }


def show(name: str, found: dict[str, Any]) -> None:
    """One line for people."""
    (a, b), (c, d), (e, f) = (
        found[f"{one}_interval"] for one in ("alarm_within_3", "move_within_4", "tasks_with_a_false_alarm")
    )
    print(
        f"{name:<26} alarm {found['alarm_median']:g} [{found['alarm_p90']}], in 3: {found['alarm_within_3']:.0%} ({a:.0%}-{b:.0%})"
        f"; move {found['move_median']:g} [{found['move_p90']}], in 4: {found['move_within_4']:.0%} ({c:.0%}-{d:.0%})"
        f"; false alarms a task {found['false_alarms_per_task']:.3f}, in {found['tasks_with_a_false_alarm']:.1%} of tasks "
        f"({e:.1%}-{f:.1%})",
        flush=True,
    )


def main() -> None:
    """Run every cell and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.histories)
    document = {}
    if not arguments.json:
        print(f"{arguments.histories} histories a cell; median hours [90th percentile]")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for explore in ("adaptive", "cap 20 %"):
            for per_hour in (20, 60):
                broken = list(pool.map(history, [(explore, per_hour, True, seed) for seed in seeds], chunksize=4))
                quiet = list(pool.map(history, [(explore, per_hour, False, seed) for seed in seeds], chunksize=4))
                name = f"{explore}, {per_hour} runs an hour"
                document[name] = row(broken, [false for _, _, false in quiet])
                if not arguments.json:
                    show(name, document[name])
    if arguments.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()

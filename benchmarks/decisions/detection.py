"""A primary that silently becomes worse (success .9 to .5): hours until the alarm, until the move, and false alarms.

uv run python benchmarks/decisions/detection.py [--histories 200] [--jobs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from statistics import median

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
        drifted = any(reason.code == "drift" for reason in found.reasons)
        if worse and look >= BEFORE:
            alarm = look - BEFORE + 1 if alarm is None and drifted else alarm
            if route.primary != "primary":
                move = look - BEFORE + 1
                break
        else:
            false += drifted
    return alarm, move, false


def main() -> None:
    """Run every cell and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    document = {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for explore in ("adaptive", "cap 20 %"):
            for per_hour in (20, 60):
                broken = list(
                    pool.map(
                        history, [(explore, per_hour, True, seed) for seed in range(arguments.histories)], chunksize=4
                    )
                )
                quiet = list(
                    pool.map(
                        history, [(explore, per_hour, False, seed) for seed in range(arguments.histories)], chunksize=4
                    )
                )
                alarms = sorted(LIMIT if alarm is None else alarm for alarm, _, _ in broken)
                moves = sorted(LIMIT if move is None else move for _, move, _ in broken)
                row = {
                    "alarm_median": median(alarms), "alarm_p90": alarms[int(0.9 * len(alarms))],
                    "move_median": median(moves), "move_p90": moves[int(0.9 * len(moves))],
                    "false_alarms_per_task": sum(false for _, _, false in quiet) / len(quiet),
                    "histories": arguments.histories,
                }  # fmt: skip
                document[f"{explore}, {per_hour} runs an hour"] = row
                if not arguments.json:
                    print(f"{explore}, {per_hour} runs an hour: {row}", flush=True)
    if arguments.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()

"""What each way to choose costs on recorded outcomes: regret, changes of the route, and how many of them were wrong.

uv run python benchmarks/decisions/regret.py --outcomes FILE.csv [--seeds 6] [--steps 300] [--calls-per-step 20]
    [--start best] [--value-of-success USD] [--only POLICY ...] [--histories N] [--jobs N] [--json]

All policies meet the same prompts in the same hours: this is `tierwise backtest`, once a policy. Regret is in USD per 1,000
runs against the best fixed model of each task on the full data, by groups of tasks (what stands before the first colon of
their names) and over all. A change is wrong when it goes to a model that is worse on the full data by more than the
improvement threshold; histories with one are given with the 95 % interval of their share. `--histories` takes that many
tasks, spread over the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peeking import interval

from tierwise.advisor.backtest import Figures, Settings, TaskResult, backtest, ready
from tierwise.advisor.outcomes import TaskOutcomes, read_outcomes
from tierwise.core.errors import EvidenceError

POLICIES: dict[str, Settings] = {
    "static": Settings(kind="static"),
    "naive": Settings(kind="naive"),
    "epsilon-greedy": Settings(kind="epsilon-greedy"),
    "thompson": Settings(kind="thompson"),
    "adaptive": Settings(),
    "cap 20 %": Settings(explore=0.2),
    "cap 20 %, a person every 24 hours": Settings(explore=0.2, apply_every=24),
}
ALL = "all tasks"


def groups(tasks: Sequence[TaskOutcomes]) -> list[str]:
    """What stands before the first colon of the tasks' names."""
    return sorted({group(task.task) for task in tasks})


def group(task: str) -> str:
    """The group of a task."""
    return task.split(":", 1)[0]


def figures(results: Sequence[TaskResult]) -> dict[str, Any]:
    """The figures of some histories together."""
    whole = sum((one.figures for one in results), Figures())
    wrong = sum(one.figures.wrong_changes > 0 for one in results)
    low, high = interval(wrong, len(results))
    by_seed = {}
    for seed in sorted({one.seed for one in results}):
        mine = sum((one.figures for one in results if one.seed == seed), Figures())
        by_seed[str(seed)] = mine.to_json()["regret_per_1000_usd"]
    return {
        **whole.to_json(), "histories": len(results), "histories_with_a_wrong_change": wrong, "wrong_low": low,
        "wrong_high": high, "route_changes_per_task": whole.route_changes / len(results), "regret_by_seed": by_seed,
    }  # fmt: skip


def measured(tasks: Sequence[TaskOutcomes], settings: Settings, seeds: Sequence[int], jobs: int) -> dict[str, Any]:
    """One policy: its figures by group and over all, and the seconds it took."""
    begun = time.monotonic()
    results = backtest(tasks, settings, seeds, jobs=jobs)
    found = {name: figures([one for one in results if group(one.task) == name]) for name in groups(tasks)}
    return {**found, ALL: figures(results), "seconds": round(time.monotonic() - begun)}


def compared(document: dict[str, dict[str, Any]]) -> None:
    """Add to each figure its regret as a share of Thompson sampling's and of the static route's, where these were run."""
    for found in document.values():
        for name, part in found.items():
            for other, field in (("thompson", "times_thompson"), ("static", "times_static")):
                base = document.get(other, {}).get(name)
                if isinstance(part, dict) and base is not None and base["regret_per_1000_usd"] > 0:
                    part[field] = part["regret_per_1000_usd"] / base["regret_per_1000_usd"]


def show(document: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    """The table for people: a block a group."""
    for name in (*names, ALL):
        print(f"\n{name}")
        print(
            f"  {'':<36}{'regret':>9}{'x Thompson':>12}{'x static':>10}{'success':>9}{'cost':>9}{'changes':>9}"
            f"   histories with a wrong change"
        )
        for policy, found in document.items():
            part = found[name]
            ratios = [f"{part[field]:.2f}" if field in part else "" for field in ("times_thompson", "times_static")]
            print(
                f"  {policy:<36}{part['regret_per_1000_usd']:>9.4f}{ratios[0]:>12}{ratios[1]:>10}"
                f"{part['success_rate']:>9.3f}{part['cost_per_1000_usd']:>9.3f}{part['route_changes_per_task']:>9.2f}"
                f"   {part['histories_with_a_wrong_change']} of {part['histories']}"
                f" ({part['wrong_low']:.1%}-{part['wrong_high']:.1%})"
            )


def main() -> None:
    """Run every policy and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcomes", type=Path, required=True)
    for name, default in (("seed", 1), ("seeds", 6), ("steps", 300), ("calls-per-step", 20), ("histories", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--start", default="best")
    parser.add_argument("--value-of-success", type=float)
    parser.add_argument("--only", action="append", choices=list(POLICIES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    common = {"steps": args.steps, "calls_per_step": args.calls_per_step, "start": args.start}
    wanted = {name: replace(one, **common, value_of_success=args.value_of_success) for name, one in POLICIES.items()}
    try:
        tasks, remarks = ready(read_outcomes(args.outcomes), Settings(value_of_success=args.value_of_success))
    except EvidenceError as error:
        sys.exit(f"error: {error}")
    for remark in remarks:
        print(remark, file=sys.stderr)
    if args.histories:
        tasks = tasks[:: max(len(tasks) // args.histories, 1)][: args.histories]
    seeds = range(args.seed, args.seed + args.seeds)
    document: dict[str, dict[str, Any]] = {}
    for name, settings in wanted.items():
        if not args.only or name in args.only:
            document[name] = measured(tasks, settings, seeds, args.jobs)
            print(f"{name}: {document[name]['seconds']} s", file=sys.stderr, flush=True)
    compared(document)
    if args.json:
        print(json.dumps({"tasks": len(tasks), "seeds": list(seeds), **common, "policies": document}, indent=2))
    else:
        show(document, groups(tasks))


if __name__ == "__main__":
    main()

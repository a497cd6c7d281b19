"""What tierwise and its peers add to a call, side by side, each in an environment of its own.

    uv run python benchmarks/peers.py [--only a,b] [--quick] [--rounds N] [--json FILE] [--no-instructions]

Needs `uv`, and once the network to install the peers; the environments are kept. README.md in this folder says how it is
measured, and holds the last figures.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _common import build_counter, read_dumps, valgrind_command
from _peer_envs import (
    CANDIDATES,
    YARDSTICKS,
    Candidate,
    Environment,
    Processes,
    RunError,
    default_folder,
    prepare,
    prepare_with_newest,
    scratch,
)
from _peer_report import markdown, summarise

PHASES = ("plain", "stream200", "stream400", "async64")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: units of each phase (a unit of async64 is 64 calls), calls for memory, rounds."""

    rounds: int
    counted: Mapping[str, int]
    timed: Mapping[str, int]
    memory: tuple[int, int]
    warm_up: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"plain": 20, "stream200": 2, "stream400": 1, "async64": 1}
    )


FULL = Plan(
    rounds=5,
    counted={"plain": 60, "stream200": 6, "stream400": 6, "async64": 1},
    timed={"plain": 200, "stream200": 20, "stream400": 12, "async64": 5},
    memory=(2_000, 20_000),
)
QUICK = Plan(
    rounds=1,
    counted={"plain": 20, "stream200": 2, "stream400": 2, "async64": 1},
    timed={"plain": 50, "stream200": 5, "stream400": 5, "async64": 2},
    memory=(500, 2_000),
)
Figures = dict[str, list[dict[str, Any]]]


class Bench:
    """The candidates that work, what was measured of them, and what went wrong, by a candidate's label."""

    def __init__(self, processes: Processes, root: Path, *, refresh: bool) -> None:
        self._processes, self._root, self._refresh = processes, root, refresh
        self.environments: dict[str, Environment] = {}
        self.errors: dict[str, str] = {}
        self.figures: dict[str, Figures] = {}

    def set_up(self, candidates: Sequence[Candidate]) -> None:
        """Install the candidates, then bare client and floor for each version of openai among them."""
        for candidate in candidates:
            say(f"{candidate.name}: installing, checking")
            try:
                found = prepare_with_newest(self._processes, self._root, candidate, refresh=self._refresh)
            except RunError as error:
                self.errors[candidate.name] = str(error)
                say(f"  left out: {error}")
            else:
                self.environments[candidate.name] = found
        yardsticks = {}
        for version in sorted({found.openai for found in self.environments.values()}, reverse=True):
            for yardstick in YARDSTICKS:
                found = prepare(self._processes, self._root, yardstick, f"openai=={version}", refresh=self._refresh)
                yardsticks[f"{yardstick.name} {version}"] = found
        self.environments = yardsticks | self.environments

    def measure(self, label: str, kind: str, how: Callable[[Environment], dict[str, Any]]) -> None:
        """Measure one kind of figure of one candidate; an error is kept and ends nothing else."""
        if label in self.errors:
            return
        try:
            result = how(self.environments[label])
        except RunError as error:
            self.errors.setdefault(label, f"{kind}: {error}")
            say(f"  {label}: {kind}: {error}")
        else:
            self.figures.setdefault(label, {}).setdefault(kind, []).append(result)

    # --- kinds of figures ---

    def count_instructions(self, plan: Plan, library: str) -> None:
        """Instructions of the calling thread, and of all threads, each in a process of its own; two at a time."""

        def count(side: str) -> Callable[[Environment], dict[str, Any]]:
            def run(environment: Environment) -> dict[str, Any]:
                options = {"library": library, "side": side, "counts": plan.counted, "warm_up": plan.warm_up}
                with scratch() as folder:
                    prefix = valgrind_command(folder, separate_threads=side == "caller")
                    environment.run(
                        self._processes, "count", options, timeout_s=3600, folder=folder, prefix=[*prefix, "--quiet"]
                    )
                    return {phase: read_dumps(folder)[phase] for phase in PHASES}

            return run

        with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            jobs = [
                pool.submit(self.measure, label, side, count(side))
                for label in self.environments
                for side in ("caller", "total")
            ]
            for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                job.result()
                say(f"instructions: {done} of {len(jobs)}")

    def clock(self, plan: Plan) -> None:
        """Wall and CPU time, all candidates once a round, one process at a time."""
        options = {"counts": plan.timed, "warm_up": plan.warm_up}
        for turn in range(plan.rounds):
            say(f"time: round {turn + 1} of {plan.rounds}")
            for label in rotated(self.environments, turn):
                self.measure(label, "us", lambda e: e.run(self._processes, "clock", options)["us"])

    def start(self, plan: Plan) -> None:
        """Import time and the time to switch on, all candidates once a round after one that is not counted."""
        for turn in range(plan.rounds + 1):
            say(f"start: round {turn} of {plan.rounds}" if turn else "start: warming up")
            for label in rotated(self.environments, turn):
                self.measure(label, "start" if turn else "cold", self._start_one)

    def _start_one(self, environment: Environment) -> dict[str, Any]:
        found: dict[str, Any] = environment.run(self._processes, "start", {})["ms"]
        if module := environment.candidate.module or ("openai" if environment.candidate.name == "bare" else ""):
            found["import"] = environment.import_ms(self._processes, module)
        return found

    def weigh(self, plan: Plan) -> None:
        """Resident memory, two processes at a time."""
        options = {"early": plan.memory[0], "late": plan.memory[1]}

        def run(environment: Environment) -> dict[str, Any]:
            found: dict[str, Any] = environment.run(self._processes, "memory", options, timeout_s=1800)["bytes"]
            return found

        with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            jobs = [pool.submit(self.measure, label, "bytes", run) for label in self.environments]
            for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                job.result()
                say(f"memory: {done} of {len(jobs)}")


def say(text: str) -> None:
    """A line of progress, to standard error."""
    print(text, file=sys.stderr, flush=True)


def rotated(labels: Iterable[str], turn: int) -> list[str]:
    """The labels, beginning with another one each turn."""
    found = list(labels)
    at = turn % len(found)
    return found[at:] + found[:at]


def chosen(only: str | None) -> list[Candidate]:
    """The candidates named by `--only`; all without it."""
    if only is None:
        return list(CANDIDATES)
    by_name = {candidate.name: candidate for candidate in CANDIDATES}
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in by_name]:
        raise SystemExit(f"--only: unknown {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def describe(bench: Bench, plan: Plan, *, instructions: bool) -> dict[str, Any]:
    """What and where was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores",
        "instructions": instructions,
        "plan": dataclasses.asdict(plan),
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"candidates, with commas between: {', '.join(c.name for c in CANDIDATES)}")
    parser.add_argument("--quick", action="store_true", help="one round and few calls: a look, not a figure to publish")
    parser.add_argument("--rounds", type=int, help="rounds of the timed parts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything that was measured here")
    parser.add_argument("--no-instructions", action="store_true", help="do not count instructions even with valgrind")
    parser.add_argument("--envs", type=Path, default=default_folder(), help="where environments are kept (%(default)s)")
    parser.add_argument("--refresh", action="store_true", help="look for newer versions of what is installed")
    return parser.parse_args()


def main() -> None:
    """Set up, measure, report."""
    given = parse_arguments()
    plan = QUICK if given.quick else FULL
    if given.rounds:
        plan = dataclasses.replace(plan, rounds=given.rounds)
    processes = Processes()

    def stop(number: int, _frame: object) -> None:
        processes.close()
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        with scratch() as folder:
            bench = Bench(processes, given.envs.expanduser().resolve(), refresh=given.refresh)
            bench.set_up(chosen(given.only))
            library = None if given.no_instructions else build_counter(folder)
            if bench.environments:
                bench.start(plan)
                bench.clock(plan)
                bench.weigh(plan)
                if library:
                    bench.count_instructions(plan, library)
            about = describe(bench, plan, instructions=library is not None)
            summary = summarise(bench.environments, bench.figures, bench.errors, about)
    finally:
        processes.close()
    if given.json:
        given.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(markdown(summary))
    if not bench.environments:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

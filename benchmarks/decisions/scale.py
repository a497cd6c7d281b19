"""A month of hourly evidence of many tasks: seconds and memory of `plan` from SQLite, and `decide` alone.

uv run python benchmarks/decisions/scale.py [--tasks 1000] [--candidates 20] [--hours 720] [--processes N]
    [--different 20] [--folder FOLDER] [--keep] [--cli] [--json]

Each task has every candidate in every hour up to now (20 runs an hour, latencies, tokens, two outcomes), both as rows of
`evidence` and packed as the store does by itself once an hour. `--different` tasks are made at random; the others repeat
their numbers under names of their own, copied inside SQLite, rows and packed rows alike. What is timed knows nothing of that.
`plan` runs in a process of its own, from its start to its end; memory is the sum of the resident sets of that process and
those that it starts, sampled 50 times a second (shared pages count once a process, so it is rather too high).
`--cli` times the command `tierwise plan` as well, its table included. The default store takes some 10 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tierwise.core.evidence import HOUR_S, Evidence, Key
from tierwise.evidence.rollup import values_of
from tierwise.evidence.schema import EVIDENCE_COLUMNS
from tierwise.evidence.sqlite import SqliteStore

PLAN = """
import sys, time
from pathlib import Path
from tierwise.advisor.crew import plan_of_store
from tierwise.core.route import RouteTable
from tierwise.evidence.sqlite import SqliteStore

if __name__ == "__main__":
    now, since, processes = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with SqliteStore.open(sys.argv[1], read_only=True) as store:
        made = plan_of_store(store, None, RouteTable(), now, since=since, processes=processes or None)
    print(len(made.recommendations), sum(len(item.candidates) for item in made.recommendations), made.coverage.runs)
"""
DECIDE = """
import sys, time
from tierwise.advisor.plan import policy_for
from tierwise.core.decide import decide
from tierwise.evidence.sqlite import SqliteStore

now, since = int(sys.argv[2]), int(sys.argv[3])
with SqliteStore.open(sys.argv[1], read_only=True) as store:
    some = list(store.evidence_by_task(since, None, store.tasks()[:20]))
for one in some:
    for series in one.series.values():
        for name in series.names:
            series.column(name)
best = []
for again in range(3):
    began = time.process_time()
    for one in some:
        decide(one, policy_for(one.task, None, one), None, now)
    best.append(time.process_time() - began)
print(min(best) / sum(len(one.series) for one in some) * 1e3)
"""


def hours(rng: random.Random, candidates: int, first: int, number: int) -> Iterator[tuple[int, int, Evidence]]:
    """(candidate, hour, evidence) of one task."""
    for candidate in range(candidates):
        rate, cost = rng.uniform(0.85, 0.97), 0.001 * (1 + candidate / 10)
        for hour in range(number):
            n = 20
            good = sum(rng.random() < rate for _ in range(n))
            latency = [0] * 33
            for _ in range(n):
                latency[rng.randrange(8, 18)] += 1
            each = cost * rng.uniform(0.8, 1.2)
            yield candidate, first + hour * HOUR_S, Evidence(
                n=n, successes=good, priced=n, priced_successes=good, cost_sum=n * each, cost_sq_sum=n * each * each * 1.2,
                cost_success_sum=good * each, outcomes={"success": good, "check_failed": n - good}, latency=tuple(latency),
                latency_sum_s=n * rng.uniform(1, 3), tokens={"input": rng.randrange(6000, 10_000), "output": 3000},
            )  # fmt: skip


def make(path: Path, *, tasks: int, candidates: int, number: int, different: int, now: int) -> None:
    """Write the store: some tasks at random, packed by the store; then copies of rows and packed rows."""
    first = now // HOUR_S * HOUR_S - (number - 1) * HOUR_S
    places = ", ".join("?" * len(EVIDENCE_COLUMNS))
    rng = random.Random(0)
    with SqliteStore.open(path) as store, closing(sqlite3.connect(path)) as connection:
        for task in range(min(different, tasks)):
            rows = (
                values_of(
                    Key(
                        task=f"task-{task:04}", candidate=f"model-{candidate:02}", epoch="00ff00ff", arm="explore", rung=0,
                        grade="randomised", bucket=bucket,
                    ),
                    evidence,
                )
                for candidate, bucket, evidence in hours(rng, candidates, first, number)
            )  # fmt: skip
            connection.executemany(f"INSERT INTO evidence ({', '.join(EVIDENCE_COLUMNS)}) VALUES ({places})", rows)
        connection.commit()
        store.pack()
    objects = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' OR name = 'evidence_by_hour'"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -65536")
    kept = connection.execute(objects).fetchall()
    others = ", ".join(EVIDENCE_COLUMNS[1:])
    connection.execute("BEGIN")
    for name, statement in kept:
        connection.execute(f"DROP {statement.split()[1]} {name}")
    for task in range(different, tasks):
        names = (f"task-{task:04}", f"task-{task % different:04}")
        connection.execute(
            f"INSERT INTO evidence (task, {others}) SELECT ?, {others} FROM evidence WHERE task = ?", names
        )
        connection.execute("INSERT INTO packed SELECT ?, since, until, data FROM packed WHERE task = ?", names)
    for _, statement in kept:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def timed(command: list[str]) -> tuple[float, float, float, str]:
    """Seconds, processor seconds and peak megabytes of a command and its processes, and what it printed first."""
    began, peak, before = time.perf_counter(), 0.0, os.times()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output)
        while process.poll() is None:
            peak = max(peak, resident_mb(process.pid))
            time.sleep(0.02)
        took, after = time.perf_counter() - began, os.times()
        output.seek(0)
        if process.returncode:
            raise SystemExit(f"{command[0]} ended with {process.returncode}")
        worked = after.children_user + after.children_system - before.children_user - before.children_system
        return took, worked, peak, output.read(200).decode()


def resident_mb(pid: int) -> float:
    """The resident memory of a process and of those below it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        below = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has just ended
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 + sum(map(resident_mb, below))


def main() -> None:
    """Make the store, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("tasks", 1000), ("candidates", 20), ("hours", 720), ("processes", 0), ("different", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    for name in ("keep", "cli", "json"):
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    now = int(time.time())
    with ExitStack() as stack:
        made = tempfile.mkdtemp(dir=given.folder) if given.keep else None
        folder = made or stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder))
        path = Path(folder) / "scale.db"
        began = time.perf_counter()
        make(
            path, tasks=given.tasks, candidates=given.candidates, number=given.hours, different=given.different, now=now
        )
        made_s = time.perf_counter() - began
        script = Path(folder) / "plan.py"
        script.write_text(PLAN, encoding="utf-8")
        when = [str(path), str(now), str(now // HOUR_S * HOUR_S - 30 * 86_400)]
        seconds, worked, memory, said = timed([sys.executable, str(script), *when, str(given.processes)])
        rows = given.tasks * given.candidates * given.hours
        result: dict[str, Any] = {
            "tasks": given.tasks, "candidates": given.candidates, "rows": rows, "store_gb": path.stat().st_size / 1e9,
            "made_s": made_s, "plan_s": seconds, "plan_cpu_s": worked, "peak_mb": memory, "us_a_row": seconds / rows * 1e6,
            "ms_a_candidate": seconds / given.tasks / given.candidates * 1e3, "printed": said.strip(),
            "decide_ms_a_candidate": float(timed([sys.executable, "-c", DECIDE, *when])[3]),
        }  # fmt: skip
        if given.cli:
            command = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "plan", "--store", str(path)]
            result["cli_s"], result["cli_cpu_s"], result["cli_peak_mb"], _ = timed(command)
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:22} {value:,.3f}" if isinstance(value, float) else f"{name:22} {value}")


if __name__ == "__main__":
    main()

"""A report over a million calls: how long it takes and how large it is.

    uv run python benchmarks/report.py [CALLS] [TASKS]

A store is made for it: 30 days of live traffic of TASKS tasks (40) on three models, CALLS calls (1,000,000) in all, every
one of them written. An application packs hours that are over while it runs; here all are written within a minute, so the report
is measured before and after packing. The goal is below 10 s and below 3 MB. Nothing here is asserted: timings of a machine that
does other work as well are no test.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tierwise.core.call import Answer, Call, Request, TaskContext, Usage
from tierwise.core.cost import Cost
from tierwise.evidence import SqliteStore

MODELS = {
    "claude-sonnet-4-5": (0.012, 0.97, 2.2),
    "claude-haiku-4-5": (0.004, 0.95, 0.9),
    "gemini-3.5-flash": (0.001, 0.96, 0.6),
}
DAYS = 30
BATCH = 5_000


def call(rng: random.Random, task: str, model: str, started_at_ns: int) -> Call:
    cost, rate, latency = MODELS[model]
    good = rng.random() < rate
    return Call(
        request=Request(operation="chat", provider="openai", model=model, expects_json=True),
        context=TaskContext(name=task, randomised=True),
        answer=Answer(model=model, finish_reasons=("stop",), output_chars=rng.randint(50, 900)),
        outcome="success" if good else "json_invalid",
        candidate=model,
        epoch="e1",
        started_at_ns=started_at_ns,
        duration_s=rng.lognormvariate(0, 0.4) * latency,
        usage=Usage(input_tokens=400, output_tokens=120),
        cost=Cost(amount_usd=cost * rng.uniform(0.8, 1.2), source="catalogue"),
        json_form="plain" if good else "invalid",
        expects_json=True,
        arm="explore",
        span_id=rng.getrandbits(63) + 1,
        trace_id=rng.getrandbits(127) + 1,
    )


def fill(path: Path, number: int, tasks: int) -> None:
    rng = random.Random(1)
    start = (int(time.time()) // 3600 - DAYS * 24) * 3600
    names, models = [f"task-{one:03}" for one in range(tasks)], list(MODELS)
    step_ns = DAYS * 24 * 3600 * 10**9 // number
    with SqliteStore.open(path) as store:
        for first in range(0, number, BATCH):
            store.write(
                [
                    call(rng, names[one % tasks], models[one // tasks % 3], start * 10**9 + one * step_ns)
                    for one in range(first, min(number, first + BATCH))
                ]
            )


def measure(store: Path, page: Path, what: str) -> None:
    command = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "report", "--since", "all"]
    for _ in range(3):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*command, "--store", str(store), "-o", str(page)], check=True, cwd=page.parent, capture_output=True
        )
        took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"report, {what}: {took:.1f} s (goal: below 10 s), {processor:.1f} s of processor time, "
            f"{page.stat().st_size / 1e6:.2f} MB (goal: below 3 MB)"
        )


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    tasks = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    with tempfile.TemporaryDirectory() as folder:
        path, page = Path(folder, "t.db"), Path(folder, "report.html")
        started = time.perf_counter()
        fill(path, number, tasks)
        print(f"{number:,} calls of {tasks} tasks written in {time.perf_counter() - started:.1f} s")
        measure(path, page, "no hour packed")
        with SqliteStore.open(path) as store:
            store.pack()
        measure(path, page, "hours packed")


if __name__ == "__main__":
    main()

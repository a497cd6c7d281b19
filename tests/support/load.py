"""Processes under load that are killed: each makes routed calls into one store and changes one route file, and keeps a log.

    python -m support.load FOLDER ROUNDS SEED

forks the processes, kills one of them a round at a random moment, looks at the store and starts another in its place. It
prints what it saw as JSON. Everything heavy is imported before the first fork, so that a round costs little.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import genai_prices.data_snapshot  # noqa: F401 - imported once, before the forks
import opentelemetry.sdk.metrics
import opentelemetry.sdk.trace  # noqa: F401

import tierwise
from support.canned import ASK, httpx, openai
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.route import Route, RouteTable
from tierwise.evidence import SqliteStore
from tierwise.routing import read_table, update_table
from tierwise.testing import chat_body

PROCESSES = 4
THREADS = 2
PAUSE_S = 0.008
GAP_S = 0.25
"""Mean time between two kills, seconds."""
POLICY = Policy(
    prices={"a": {"input": 1.0, "output": 2.0}, "b": {"input": 2.0, "output": 4.0}},
    tasks={"busy": TaskPolicy(task="busy", candidates=("a", "b"))},
    default_model="a",
)


def numbered_client(name: str) -> openai.OpenAI:
    """A client whose answers are numbered: `NAME-0`, `NAME-1` …"""
    numbers = itertools.count()

    def answer(request: Any) -> Any:
        return httpx.Response(200, json=chat_body(id=f"{name}-{next(numbers)}"), request=request)

    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(answer))
    return openai.OpenAI(api_key="sk-none", http_client=http, max_retries=0)


def one_more(table: RouteTable) -> RouteTable:
    """The table with the busy task's counter, its `since`, one higher."""
    route = table.routes.get("busy", Route(task="busy", primary="a"))
    return replace(table, routes={**table.routes, "busy": replace(route, since=route.since + 1)})


def call_for_ever(folder: Path, name: str) -> None:
    """Call and change routes until the process ends; a line in `NAME.log` follows each that has returned."""
    os.environ["TIERWISE_ROUTES"] = str(folder / "routes.json")
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def work(thread: int) -> None:
        client = tierwise.instrument(
            numbered_client(f"{name}-{thread}"), task="busy", config=POLICY, store=folder / "s.db"
        )
        for number in itertools.count():
            done = client.chat.completions.create(**{**ASK, "model": "auto"})
            os.write(log, f"call {time.monotonic_ns()} {done.id}\n".encode())
            if number % 50 == 0:
                update_table(folder / "routes.json", one_more)
                os.write(log, b"route\n")
            time.sleep(PAUSE_S)

    for thread in range(THREADS):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    signal.pause()


def start(work: Callable[[], None]) -> int:
    """A forked process that does this; its id."""
    process = os.fork()
    if process:
        return process
    try:
        work()
    finally:
        os._exit(70)


def stored(path: Path) -> set[str]:
    """The ids of the answers in the store; `AssertionError` when the file is not sound."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        found = [row[0] for row in connection.execute("SELECT response_id FROM calls")]
        assert connection.execute("PRAGMA quick_check").fetchone()[0] == "ok"
    finally:
        connection.close()
    assert len(found) == len(set(found)), "a call is there twice"
    return set(found)


def missing_of(log: Path, there: set[str], killed_at_ns: int) -> tuple[int, int, float, bool]:
    """Of a killed process: calls it finished, how many are missing, seconds before the end of the oldest missing one,
    and whether nothing that finished later in the same thread is there."""
    calls = [line.split() for line in log.read_text().splitlines() if line.startswith("call ")]
    gone = [(int(at), name) for _, at, name in calls if name not in there]
    lost_threads = {name.rsplit("-", 1)[0]: int(name.rsplit("-", 1)[1]) for _, name in reversed(gone)}
    tail = all(
        int(name.rsplit("-", 1)[1]) < lost_threads.get(name.rsplit("-", 1)[0], 1 << 60)
        for _, _, name in calls
        if name in there
    )
    oldest_s = (killed_at_ns - min(at for at, _ in gone)) / 1e9 if gone else 0.0
    return len(calls), len(gone), oldest_s, tail


def run(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Kill `rounds` processes; totals of what was made, lost and found."""
    drawn = random.Random(seed)  # noqa: S311 - no secret
    SqliteStore.open(folder / "s.db").close()
    names = (f"p{number}" for number in itertools.count())
    running: dict[str, int] = {}

    def another() -> None:
        name = next(names)
        running[name] = start(lambda: call_for_ever(folder, name))

    for _ in range(PROCESSES):
        another()
    seen: dict[str, Any] = {
        "kills": 0,
        "calls": 0,
        "missing": 0,
        "oldest_missing_s": 0.0,
        "not_a_tail": 0,
        "lost_committed": 0,
    }
    for _ in range(rounds):
        time.sleep(min(2.0, drawn.expovariate(1 / GAP_S)))
        before = stored(folder / "s.db")
        name = drawn.choice(list(running))
        process, killed_at_ns = running.pop(name), time.monotonic_ns()
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        assert os.WTERMSIG(status) == signal.SIGKILL, f"a process ended by itself: {status}"
        after = stored(folder / "s.db")
        read_table(folder / "routes.json")
        log = folder / f"{name}.log"
        calls, gone, oldest_s, tail = missing_of(log, after, killed_at_ns) if log.exists() else (0, 0, 0.0, True)
        seen["kills"] += 1
        seen["calls"] += calls
        seen["missing"] += gone
        seen["oldest_missing_s"] = max(seen["oldest_missing_s"], oldest_s)
        seen["not_a_tail"] += not tail
        seen["lost_committed"] += len(before - after)
        another()
    for process in running.values():
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    seen["kills"] += len(running)
    seen["route_changes"] = sum(log.read_text().count("route\n") for log in folder.glob("p*.log"))
    return seen


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))

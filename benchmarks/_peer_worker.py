"""Measures one candidate in the environment where it is installed, and writes what it found to `result.json`.

Started by peers.py, never by hand: `_peer_worker.py CANDIDATE MODE FOLDER OPTIONS-AS-JSON`. The environment holds openai,
the OpenTelemetry SDK and the candidate, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import Callgrind, make_clients, request
from _peer_adapters import ADAPTERS, Active, Seen, Setting

CONCURRENT = 64
PHASES = ("plain", "stream200", "stream400", "async64")
CHECK_COUNTS = {"plain": 5, "stream200": 3, "async64": 1}


class Session:
    """A candidate that is switched on, and the calls that are made with it. A batch of `async64` is 64 calls."""

    def __init__(self, candidate: str, folder: Path, *, examine: bool) -> None:
        self.seen = Seen(examine=examine)
        self.made = 0
        sync_client, async_client = make_clients()
        setting = Setting(folder=folder, sync_client=sync_client, async_client=async_client, seen=self.seen)
        self.active: Active = ADAPTERS[candidate](setting)
        self._sync, self._async = self.active.clients or (sync_client, async_client)
        self._loop = asyncio.new_event_loop()
        self._plain, self._text = request("text"), request("text")

    def call(self) -> None:
        """One call with a text reply."""
        with self.active.per_call():
            self._sync.chat.completions.create(**self._plain)

    def stream(self, chunks: int) -> None:
        """One stream, read to its end."""
        with self.active.per_call():
            for _chunk in self._sync.chat.completions.create(**request(f"stream{chunks}")):
                pass

    def batch(self) -> None:
        """64 concurrent calls."""

        async def one() -> None:
            with self.active.per_concurrent_call():
                await asyncio.sleep(0)
                await self._async.chat.completions.create(**self._text)

        async def together() -> None:
            await asyncio.gather(*(one() for _ in range(CONCURRENT)))

        self._loop.run_until_complete(together())

    def runner(self, phase: str) -> tuple[Callable[[], None], int]:
        """What makes one unit of a phase, and how many calls that is."""
        if phase == "plain":
            return self.call, 1
        if phase == "async64":
            return self.batch, CONCURRENT
        return (lambda: self.stream(int(phase.removeprefix("stream")))), 1

    def run(self, phase: str, count: int) -> None:
        """Make this many units of a phase."""
        unit, calls = self.runner(phase)
        for _ in range(count):
            unit()
        self.made += count * calls

    def settle(self) -> None:
        """Wait until what the candidate loads in the background is there."""

        def counted() -> None:
            self.run("plain", 1)

        self.active.settle(counted)
        self.active.flush()


# --- modes -------------------------------------------------------------------------------------------------------


def check(candidate: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """For each phase, how many calls were made, how many of them arrived with their tokens, and how many spans."""
    session = Session(candidate, folder, examine=True)
    session.settle()
    found: dict[str, Any] = {}
    for phase, count in CHECK_COUNTS.items():
        session.active.flush()
        made, spans, usage = session.made, session.seen.spans, session.seen.with_usage
        session.run(phase, count)
        session.active.flush()
        gc.collect()
        session.active.flush()
        found[phase] = {
            "made": session.made - made,
            "spans": session.seen.spans - spans,
            "with_usage": session.seen.with_usage - usage,
        }
    return {"phases": found, "problem": session.active.checks(session.made)}


def count(candidate: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Count the instructions of each phase: of the calling thread (`caller`), or of all until flushed (`total`)."""
    session = Session(candidate, folder, examine=False)
    callgrind, side = Callgrind(options["library"]), options["side"]
    session.settle()
    for phase in PHASES:
        number = options["counts"][phase]
        session.run(phase, options["warm_up"][phase])
        session.active.flush()
        gc.collect()
        gc.freeze()
        callgrind.start()
        session.run(phase, number)
        if side == "caller":
            callgrind.dump(phase)
        session.active.flush()
        if side == "total":
            callgrind.dump(phase)
        callgrind.stop()
    return {"made": session.made, "spans": session.seen.spans}


def clock(candidate: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Wall time a call of each phase (10th percentile, µs), and CPU time of all threads until flushed (mean, µs)."""
    session = Session(candidate, folder, examine=False)
    session.settle()
    figures: dict[str, dict[str, float]] = {}
    for phase in PHASES:
        number = options["counts"][phase]
        unit, calls = session.runner(phase)
        session.run(phase, options["warm_up"][phase])
        session.active.flush()
        gc.collect()
        times = []
        cpu = time.process_time_ns()
        for _ in range(number):
            start = time.perf_counter_ns()
            unit()
            times.append(time.perf_counter_ns() - start)
        session.active.flush()
        cpu = time.process_time_ns() - cpu
        session.made += number * calls
        times.sort()
        figures[phase] = {"wall": times[len(times) // 10] / calls / 1000, "cpu": cpu / number / calls / 1000}
    return {"made": session.made, "spans": session.seen.spans, "us": figures}


def memory(candidate: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Resident memory in bytes: with a client ready, and after so many calls."""

    def resident() -> int:
        session.active.flush()
        gc.collect()
        return resident_bytes()

    session = Session(candidate, folder, examine=False)
    time.sleep(1)
    found = {"ready": resident()}
    session.settle()
    for key in ("early", "late"):
        session.run("plain", options[key] - session.made)
        found[key] = resident()
    return {"made": session.made, "spans": session.seen.spans, "bytes": found}


def resident_bytes() -> int:
    """What this process holds in memory now; where the system does not say, the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def start(candidate: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds to import openai and make clients, to set up OpenTelemetry, and to switch the candidate on."""
    marks = [time.perf_counter()]
    sync_client, async_client = make_clients()
    marks.append(time.perf_counter())
    seen = Seen(examine=False)
    setting = Setting(folder=folder, sync_client=sync_client, async_client=async_client, seen=seen)
    if candidate != "bare":
        setting.tracer_and_meter()
    marks.append(time.perf_counter())
    ADAPTERS[candidate](setting)
    marks.append(time.perf_counter())
    names = ("client", "opentelemetry", "switch_on")
    spent = {name: (marks[n + 1] - marks[n]) * 1000 for n, name in enumerate(names)}
    return {"ms": spent | {"whole": (marks[-1] - marks[0]) * 1000}}


def versions(candidate: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The versions of the packages asked for; those that are not installed are left out."""
    found = {}
    for name in options["packages"]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {"versions": found, "python": ".".join(map(str, sys.version_info[:3]))}


MODES = {"check": check, "count": count, "clock": clock, "memory": memory, "start": start, "versions": versions}


def main() -> None:
    """Run one mode."""
    candidate, mode, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    result = MODES[mode](candidate, folder, json.loads(sys.argv[4]))
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

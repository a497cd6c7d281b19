"""Processes that use one store at the same moment, and do different things to it."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from support.calls import START_NS, make_call
from tierwise.core.call import Answer, Call
from tierwise.core.cost import Cost, Rates, flat_rates
from tierwise.evidence import SqliteStore
from tierwise.evidence.rows import CallRow

HOUR_NS = 3600 * 10**9
RETENTION_S = 10 * 3600
NOW_S = START_NS / 1e9
BATCHES = 60
SIZE = 20


def at_once(works: list[Callable[[], None]]) -> None:
    """Do each in a forked process, all beginning together; `RuntimeError` when one fails."""
    begins = time.monotonic() + 0.2
    children = []
    for work in works:
        child = os.fork()
        if not child:
            try:
                time.sleep(max(0.0, begins - time.monotonic()))
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(70)
            os._exit(0)
        children.append(child)
    failed = [status for child in children if (status := os.waitpid(child, 0)[1])]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(works)} processes failed")


def first_open(path: Path, process: int) -> None:
    """Open a store that may not be there yet, write a batch and close."""
    with SqliteStore.open(path) as store:
        store.write([make_call("shared", answer=Answer(id=f"{process}-{number}")) for number in range(SIZE)])


def opened(path: Path) -> SqliteStore:
    """The store with a short retention and a clock that stands."""
    return SqliteStore.open(path, retention_s=RETENTION_S, clock=lambda: NOW_S)


def write(path: Path, process: int) -> None:
    """Batches of calls, each of another hour: half of the hours are beyond the retention."""
    with opened(path) as store:
        for batch in range(BATCHES):
            at_ns = START_NS - batch % 20 * HOUR_NS - HOUR_NS // 2
            store.write([_call(f"{process}-{batch}-{number}", at_ns + number) for number in range(SIZE)])
            time.sleep(0.005)


def _call(name: str, at_ns: int) -> Call:
    return make_call(
        "shared", answer=Answer(id=name), started_at_ns=at_ns, cost=Cost(amount_usd=0.001, source="override")
    )


def keep(path: Path, end: Path, work: Callable[[SqliteStore], object]) -> None:
    """Do it to the store again and again until the writers have ended."""
    with opened(path) as store:
        while not end.exists():
            work(store)
            time.sleep(0.005)


def rates(_: CallRow) -> Rates:
    """Ten times what the calls cost."""
    return flat_rates(input=50.0, output=100.0)


def main(folder: Path) -> None:
    """Both situations; prints what was written and pruned."""
    for number in range(10):
        path = folder / f"first-{number}" / ".tierwise" / "s.db"
        at_once([lambda path=path, process=process: first_open(path, process) for process in range(8)])
        with SqliteStore.open(path) as store:
            assert store.call_count() == 8 * SIZE
            assert store.health().intact
    path, end, writers = folder / "busy.db", folder / "end", 3

    def write_all() -> None:
        try:
            at_once([lambda process=process: write(path, process) for process in range(writers)])
        finally:
            end.touch()

    at_once(
        [
            write_all,
            lambda: keep(path, end, SqliteStore.prune),
            lambda: keep(path, end, lambda store: store.reprice(rates)),
            lambda: keep(path, end, SqliteStore.pack),
            lambda: keep(path, end, lambda store: [list(store.calls()), list(store.evidence_by_task())]),
        ]
    )
    print(json.dumps({"written": writers * BATCHES * SIZE}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

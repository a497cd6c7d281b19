"""A plan from a store, task by task; a large one by several processes, each of which opens the file itself."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol

from tierwise.advisor.plan import Findings, Found, Plan
from tierwise.core.columns import TaskEvidence
from tierwise.core.policy import Policy
from tierwise.core.route import RouteTable
from tierwise.evidence.sqlite import SqliteStore

PATIENCE_S: Final = 0.5
"""How long one process works alone before it looks how much is left."""
WORTH_S: Final = 1.5
"""With less than this left, starting processes would not pay: each takes a third of a second."""
GARBAGE_OBJECTS: Final = 50_000
MOST_PROCESSES: Final = 4
"""Each has some 60 MB."""
ORDER_TASKS: Final = 4
QUEUED_ORDERS: Final = 2
"""How many orders wait at most for each other process: one that it works on, and the next."""


class Readable(Protocol):
    """Where evidence comes from: the store, or a server."""

    def tasks(self) -> list[str]:
        """The tasks that have evidence, by name."""
        ...

    def evidence_by_task(
        self, since: int | None = None, until: int | None = None, tasks: Sequence[str] | None = None
    ) -> Iterator[TaskEvidence]:
        """The evidence of tasks in [since, until), Unix seconds, one after another."""
        ...


def plan_of_store(
    store: Readable,
    policy: Policy | None,
    table: RouteTable,
    now: int,
    *,
    since: int | None = None,
    tasks: Sequence[str] | None = None,
    processes: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> Plan | None:
    """`plan` over the evidence of a store from `since` on (Unix seconds); `None` when there is nothing at all.

    The token-budget probe of `bench` is nobody's work and left out. `processes` is how many may share a large plan; by
    default one for each processor. The plan is the same with any number. `told` hears how many tasks are done, of how many.

    Raises:
        StoreError: the store cannot be read.
        EvidenceError: a task that was asked for is not known at all.
    """
    return plan_and_more(store, policy, table, now, since=since, tasks=tasks, processes=processes, told=told)[0]


def plan_and_more(
    store: Readable,
    policy: Policy | None,
    table: RouteTable,
    now: int,
    *,
    beside: Callable[[TaskEvidence], Any] | None = None,
    since: int | None = None,
    tasks: Sequence[str] | None = None,
    processes: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> tuple[Plan | None, dict[str, Any]]:
    """`plan_of_store`, and what `beside` makes of the evidence of each task, by name: reading it costs more than all the rest.

    `beside` is a function of a module: it is called in whichever process has read the task.

    Raises:
        StoreError, EvidenceError: as `plan_of_store`.
    """
    recorded = store.tasks()
    names = [task for task in recorded if not tasks or task in tasks]
    findings = Findings(policy=policy, table=table, now=now, tasks=tasks, beside=beside)
    crew = min(MOST_PROCESSES, _processors() if processes is None else processes)
    with _seldom_collected():
        if isinstance(store, SqliteStore) and crew > 1:
            rest = _alone_at_first(findings, store, names, since, told)
            if rest:
                _together(findings, store, rest, since, crew, lambda left: told and told(len(names) - left, len(names)))
        else:
            for done, one in enumerate(own_work(store.evidence_by_task(since, None, names)), start=1):
                findings.add(one)
                if told is not None:
                    told(done, len(names))
    if not findings.found.seen and not (tasks and recorded):
        return None, {}
    return findings.plan(recorded=recorded), findings.found.beside


def own_work(evidence: Iterable[TaskEvidence]) -> Iterator[TaskEvidence]:
    """What is the user's own work: the token-budget probe of `bench` is left out."""
    from tierwise.config import is_probe

    for one in evidence:
        probes = [identity for identity in one.series if is_probe(one.task, identity[-1])]
        if len(probes) < len(one.series) or one.invalid:
            yield one.without(probes) if probes else one


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Look for garbage in cycles less often: a task is many thousand small objects and hardly any cycle."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], GARBAGE_OBJECTS) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _alone_at_first(
    findings: Findings,
    store: SqliteStore,
    names: Sequence[str],
    since: int | None,
    told: Callable[[int, int], None] | None,
) -> Sequence[str]:
    """Do all of it, or so much that it is clear that more processes pay; returns what is left."""
    began = time.perf_counter()
    for done, name in enumerate(names, start=1):
        _decide_one(findings, store, name, since)
        if told is not None:
            told(done, len(names))
        spent = time.perf_counter() - began
        if spent > PATIENCE_S and spent / done * (len(names) - done) > WORTH_S:
            return names[done:]
    return ()


def _together(
    findings: Findings,
    store: SqliteStore,
    names: Sequence[str],
    since: int | None,
    crew: int,
    told: Callable[[int], object],
) -> None:
    """Let other processes do their part of it; should they not start or be killed, do it alone. `told` hears what is left."""
    left = deque(names)
    going: dict[Future[Found], list[str]] = {}
    most = QUEUED_ORDERS * (crew - 1)
    pool = ProcessPoolExecutor(
        crew - 1,
        mp_context=get_context("spawn"),  # never a fork of a process that may have threads
        initializer=_begin,
        initargs=(store.path, findings.policy, findings.table, findings.now, findings.wanted, findings.beside, since),
    )
    try:
        while left or going:
            try:
                while left and len(going) < most:
                    order = list(islice(reversed(left), ORDER_TASKS))
                    going[pool.submit(_follow, order)] = order
                    for _ in order:
                        left.pop()
                if not left:
                    wait(going, return_when=FIRST_COMPLETED)
                for future in [one for one in going if one.done()]:
                    findings.found.merge(future.result())
                    del going[future]
            except (BrokenProcessPool, OSError):
                left.extend(name for order in going.values() for name in order)
                going, most = {}, 0
            if left:
                _decide_one(findings, store, left.popleft(), since)
            told(len(left) + sum(map(len, going.values())))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decide_one(findings: Findings, store: SqliteStore, name: str, since: int | None) -> None:
    for one in own_work(store.evidence_by_task(since, None, [name])):
        findings.add(one)


_work_of: list[Callable[[Sequence[str]], Found]] = []
"""In a process of the crew: what it does with an order."""


def _begin(
    path: Path,
    policy: Policy | None,
    table: RouteTable,
    now: int,
    tasks: Sequence[str] | None,
    beside: Callable[[TaskEvidence], Any] | None,
    since: int | None,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the one that gives the orders, which ends these
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
    store = SqliteStore.open(path, read_only=True)

    def work(names: Sequence[str]) -> Found:
        findings = Findings(policy=policy, table=table, now=now, tasks=tasks, beside=beside)
        for one in own_work(store.evidence_by_task(since, None, names)):
            findings.add(one)
        return findings.found

    _work_of.append(work)


def _follow(names: Sequence[str]) -> Found:
    return _work_of[0](names)

"""Everything that a page is made from, read once: the plan, hourly evidence, the latest calls, the audit log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from tierwise.core.evidence import HOUR_S

if TYPE_CHECKING:
    from tierwise.advisor import AuditEntry
    from tierwise.config import Settings
    from tierwise.core.columns import TaskEvidence
    from tierwise.core.policy import Policy
    from tierwise.core.recommendation import Recommendation
    from tierwise.evidence import CallRow
    from tierwise.surfaces.report.sums import TaskSums

MOST_CALLS: Final = 5_000
"""Rows that are read, the latest: all numbers but the slowest, the fastest and the like come from hourly evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was read. `at` is Unix seconds; `sums` are the tasks of the window without the probes of `bench`."""

    at: int
    recommendations: tuple[Recommendation, ...]
    notes: tuple[str, ...]
    sums: tuple[TaskSums, ...]
    calls: tuple[CallRow, ...]
    history: tuple[AuditEntry, ...]
    problems: tuple[str, ...]
    table_version: int
    policy: Policy | None


def read_all(
    settings: Settings,
    *,
    since: int | None,
    tasks: Sequence[str] = (),
    quiet: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> Found:
    """Read the window of `since` seconds up to now (`None`: everything), of all tasks or of those named.

    `told` hears how many tasks are read, of how many.

    Raises:
        TierwiseError: a file is broken or missing, nothing is recorded, or a task is unknown.
    """
    from tierwise.advisor import read_history
    from tierwise.advisor.crew import plan_and_more
    from tierwise.config import is_probe
    from tierwise.routing import read_table
    from tierwise.surfaces.cli.common import nothing_recorded, open_store, probe_tasks, read_policy

    now = int(time.time())
    first = None if since is None else (now - since) // HOUR_S * HOUR_S
    wanted = set(tasks)
    policy = read_policy(settings, quiet=quiet)
    with open_store(settings) as store:
        table = read_table(settings.routes_path)
        made, sums = plan_and_more(
            store, policy, table, now, beside=_sums_of, since=first, tasks=tasks or None, told=told
        )
        if made is None:
            raise nothing_recorded(settings)
        probes = probe_tasks(store)
        rows = store.calls(
            task=tasks[0] if len(wanted) == 1 else None,
            since_ns=None if first is None else first * 10**9,
            newest_first=True,
        )
        mine = (row for row in rows if not is_probe(row.task, row.session) and (not wanted or row.task in wanted))
        calls = list(islice(mine, MOST_CALLS))
    history = read_history(settings.audit_path, traffic=False)
    return Found(
        at=made.at,
        recommendations=tuple(item for item in made.recommendations if item.task not in probes),
        notes=made.notes,
        sums=tuple(one for _, one in sorted(sums.items()) if one is not None),
        calls=tuple(reversed(calls)),
        history=tuple(entry for entry in history.entries if not wanted or entry.task in wanted),
        problems=history.problems,
        table_version=made.table_version,
        policy=policy,
    )


def _sums_of(one: TaskEvidence) -> TaskSums | None:
    from tierwise.surfaces.report.sums import fold

    return fold(one) if one.series else None

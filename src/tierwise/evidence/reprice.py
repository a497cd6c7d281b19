"""Repricing: costs computed again from the stored tokens, and the evidence of their hours with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from tierwise.core.call import Run
from tierwise.core.cost import Rates, cost_of
from tierwise.core.evidence import Key, key_of, key_of_run
from tierwise.core.records import dataclass
from tierwise.evidence.rollup import rebuild_cost
from tierwise.evidence.rows import RUN_COLUMNS, CallRow, run_row

_SLACK_NS: Final = 50_000_000
_NEVER_BILLED: Final = ("error", "rejected", "cancelled")
"""Outcomes whose calls a run may count without a price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repriced:
    """What `reprice` changed: calls with another cost, hours rebuilt, hours left since some of their rows are pruned."""

    calls: int
    rebuilt: int
    left: int


@dataclass(slots=True, kw_only=True)
class Changes:
    """New costs by call, and the keys and runs that they reach."""

    costs: list[tuple[float, str, int, int]]
    """(USD, source, row id, start in Unix nanoseconds)."""
    keys: set[Key]
    runs: set[tuple[str, str]]
    """(task, run id)."""


def find_changes(rows: Iterable[CallRow], rates: Callable[[CallRow], Rates | None]) -> Changes:
    """The calls whose cost is another one at these rates; costs that providers stated stay."""
    changes = Changes(costs=[], keys=set(), runs=set())
    for row in rows:
        if row.cost_source == "provider":
            continue
        call = row.to_call()
        found = rates(row)
        cost = cost_of(call.usage, found) if found is not None else None
        if cost is None or cost == call.cost:
            continue
        changes.costs.append((cost.amount_usd, cost.source, row.id, row.started_at_ns))
        changes.keys.add(key_of(call))
        if row.run_id is not None:
            changes.runs.add((row.task, row.run_id))
    return changes


def apply_changes(connection: sqlite3.Connection, changes: Changes) -> Repriced:
    """Write new costs into calls, runs and evidence; the caller has begun a transaction."""
    connection.executemany(
        "UPDATE calls SET cost_usd = ?, cost_source = ? WHERE id = ? AND started_at_ns = ?", changes.costs
    )
    keys = set(changes.keys)
    if changes.runs:
        for row in connection.execute(f"SELECT id, {', '.join(RUN_COLUMNS)} FROM runs").fetchall():  # noqa: S608
            run = run_row(row[1:])
            if (run.task, run.run_id) in changes.runs:
                again = _repriced(connection, run)
                connection.execute("UPDATE runs SET cost_usd = ? WHERE id = ?", (again.cost_usd, row[0]))
                keys.add(key_of_run(run))
    rebuilt = sum(rebuild_cost(connection, key) for key in sorted(keys))
    return Repriced(calls=len(changes.costs), rebuilt=rebuilt, left=len(keys) - rebuilt)


def _repriced(connection: sqlite3.Connection, run: Run) -> Run:
    """The run with the cost of its calls as they stand now; unchanged when some of them are pruned."""
    end_ns = run.started_at_ns + int(run.duration_s * 1e9)
    costs = connection.execute(
        "SELECT outcome, cost_usd FROM calls WHERE started_at_ns BETWEEN ? AND ? AND task = ? AND run_id = ? ORDER BY rung",
        (run.started_at_ns - _SLACK_NS, end_ns + _SLACK_NS, run.task, run.run_id),
    ).fetchall()
    if len(costs) != run.calls:
        return run
    unpriced = any(cost is None and outcome not in _NEVER_BILLED for outcome, cost in costs)
    return replace(run, cost_usd=None if unpriced else sum(cost for _, cost in costs if cost is not None))

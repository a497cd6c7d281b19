"""Retention: call rows go after a while, in small slices; the hourly evidence stays."""

from __future__ import annotations

import sqlite3
from typing import Final

from tierwise.core.receipt import LIFETIME_S

PRUNE_EVERY_S: Final = 3_600.0
SLICE_ROWS: Final = 2_000
"""Rows deleted at once: more than four batches bring, so pruning keeps ahead of writing and is never long."""

_WRITER_KEPT_S: Final = 7 * 86_400
_FEEDBACK_KEPT_S: Final = LIFETIME_S + 86_400
"""Verdicts whose receipts are not taken any more; what they added to the evidence stays."""
_PRUNED_AT: Final = "pruned_at"
_ALL_TIMES: Final = 1 << 62


def add_to_counter(connection: sqlite3.Connection, name: str, number: int) -> None:
    """Add to a row of `counters`."""
    connection.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, number),
    )


def due(connection: sqlite3.Connection, now_s: float) -> bool:
    """Whether an hour has passed since any process pruned this store, and take the turn if so.

    A new store is first due an hour after its first batch; a clock that jumped back makes it due at once.
    """
    known = connection.execute("SELECT value FROM counters WHERE name = ?", (_PRUNED_AT,)).fetchone()
    if known is not None and 0 <= now_s - known[0] < PRUNE_EVERY_S:
        return False
    connection.execute("INSERT OR REPLACE INTO counters (name, value) VALUES (?, ?)", (_PRUNED_AT, int(now_s)))
    return known is not None


def prune_slice(connection: sqlite3.Connection, *, now_s: float, retention_s: float, max_bytes: int) -> int:
    """Delete the oldest rows beyond the retention or, while the file is too large, of any age; returns how many."""
    pages, free, page_size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    limit = int((now_s - retention_s) * 1e9) if (pages - free) * page_size <= max_bytes else _ALL_TIMES
    number = 0
    for table in ("calls", "runs"):
        oldest = f"SELECT id FROM {table} WHERE started_at_ns < ? ORDER BY started_at_ns LIMIT {SLICE_ROWS}"  # noqa: S608
        number += connection.execute(f"DELETE FROM {table} WHERE id IN ({oldest})", (limit,)).rowcount  # noqa: S608
    connection.execute("DELETE FROM writers WHERE seen_at < ?", (int(now_s) - _WRITER_KEPT_S,))
    connection.execute("DELETE FROM feedback WHERE started_at_ns < ?", (int((now_s - _FEEDBACK_KEPT_S) * 1e9),))
    if number:
        add_to_counter(connection, "pruned", number)
    return number

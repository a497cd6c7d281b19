"""What a store holds, how big it is, what it has lost, and whether the file is sound."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from tierwise.core.records import dataclass

UNPRICED_MODELS: Final = (
    "SELECT provider, coalesce(response_model, request_model) AS model, count(*) FROM calls WHERE cost_usd IS NULL "
    "AND (input_tokens IS NOT NULL OR output_tokens IS NOT NULL) GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHealth:
    """What `tierwise doctor` shows of a store: sizes in bytes, times in Unix nanoseconds."""

    path: Path
    schema_version: int
    calls: int
    runs: int
    evidence_rows: int
    size_bytes: int
    """The file and its write-ahead log."""
    wal_bytes: int
    oldest_ns: int | None
    newest_ns: int | None
    pruned: int
    dropped: int
    unpriced: int
    intact: bool
    problem: str | None


def measure(connection: sqlite3.Connection, path: Path, *, unpriced: int, dropped: int) -> StoreHealth:
    """Look at a store; `unpriced` and `dropped` are what its owner counted besides. Damage is a value, not an error."""
    try:
        problem = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        problem = str(error)
    one = connection.execute("SELECT count(*), min(started_at_ns), max(started_at_ns) FROM calls").fetchone()
    counters = dict(connection.execute("SELECT name, value FROM counters").fetchall())
    wal = Path(f"{path}-wal")
    wal_bytes = wal.stat().st_size if wal.exists() else 0
    return StoreHealth(
        path=path,
        schema_version=connection.execute("PRAGMA user_version").fetchone()[0],
        calls=one[0],
        runs=connection.execute("SELECT count(*) FROM runs").fetchone()[0],
        evidence_rows=connection.execute("SELECT count(*) FROM evidence").fetchone()[0],
        size_bytes=path.stat().st_size + wal_bytes,
        wal_bytes=wal_bytes,
        oldest_ns=one[1],
        newest_ns=one[2],
        pruned=counters.get("pruned", 0),
        dropped=counters.get("dropped", 0) + dropped,
        unpriced=unpriced,
        intact=problem == "ok",
        problem=None if problem == "ok" else problem,
    )

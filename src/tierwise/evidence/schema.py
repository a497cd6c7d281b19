"""The store's tables, their versions and how one becomes the next. docs/store.md describes them for other readers."""

from __future__ import annotations

import sqlite3
from typing import Final

from tierwise.core.errors import StoreError
from tierwise.evidence.rows import COLUMNS, RUN_COLUMNS

APPLICATION_ID: Final = 0x7469_6572
"""'tier' in ASCII, in the file's header: `file tierwise.db` shows it."""

_INTEGERS: Final = frozenset(
    {
        "started_at_ns", "rung", "server_port", "stream", "expects_json", "max_tokens", "choice_count", "chunks",
        "retries", "output_chars", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
        "reasoning_tokens", "input_audio_tokens", "output_audio_tokens", "route_version", "round", "calls", "success",
        "cleaned",
    }
)  # fmt: skip
_REALS: Final = frozenset(
    {
        "temperature", "duration_s", "time_to_first_chunk_s", "time_per_output_chunk_s", "last_try_s", "backoff_s",
        "cost_usd", "propensity",
    }
)  # fmt: skip

KEY_COLUMNS: Final = ("task", "candidate", "epoch", "arm", "rung", "grade", "bucket", "session", "round")
COUNT_COLUMNS: Final = (
    "n", "successes", "priced", "priced_successes", "retries", "retried", "escalated", "check_count", "accepted",
    "rejected",
)  # fmt: skip
SUM_COLUMNS: Final = ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
JSON_COLUMNS: Final = ("outcomes", "json_forms", "tokens", "latency", "ttft")
EVIDENCE_COLUMNS: Final = (*KEY_COLUMNS, *COUNT_COLUMNS, *SUM_COLUMNS, *JSON_COLUMNS)


def _type(name: str) -> str:
    return "INTEGER" if name in _INTEGERS else "REAL" if name in _REALS else "TEXT"


def _first_version() -> tuple[str, ...]:
    key = {"rung": "INTEGER", "bucket": "INTEGER", "round": "INTEGER"}
    evidence = [
        *(f"{name} {key.get(name, 'TEXT')} NOT NULL" for name in KEY_COLUMNS),
        *(f"{name} INTEGER NOT NULL" for name in COUNT_COLUMNS),
        *(f"{name} REAL NOT NULL" for name in SUM_COLUMNS),
        *(f"{name} TEXT NOT NULL" for name in JSON_COLUMNS),
        f"PRIMARY KEY ({', '.join(KEY_COLUMNS)})",
    ]
    return (
        f"CREATE TABLE calls (id INTEGER PRIMARY KEY, {', '.join(f'{name} {_type(name)}' for name in COLUMNS)})",
        "CREATE INDEX calls_by_time ON calls (started_at_ns)",
        "CREATE INDEX calls_by_session ON calls (session) WHERE session <> ''",
        f"CREATE TABLE runs (id INTEGER PRIMARY KEY, {', '.join(f'{name} {_type(name)}' for name in RUN_COLUMNS)})",
        "CREATE INDEX runs_by_time ON runs (started_at_ns)",
        f"CREATE TABLE evidence ({', '.join(evidence)}) WITHOUT ROWID",
        "CREATE INDEX evidence_by_bucket ON evidence (bucket)",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    )


MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_first_version(),)
"""Statements that lead from version n to n + 1; a released entry is never changed."""

VERSION: Final = len(MIGRATIONS)


def prepare(connection: sqlite3.Connection, path: object) -> None:
    """Create or migrate the schema. Raises `StoreError` for a file of somebody else or of a newer tierwise."""
    check(connection, path)
    if _pragma(connection, "user_version") == VERSION:
        return
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[_pragma(connection, "user_version") :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def check(connection: sqlite3.Connection, path: object) -> None:
    """Refuse a file that is not ours or that a newer tierwise has written."""
    version, owner = _pragma(connection, "user_version"), _pragma(connection, "application_id")
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and owner != APPLICATION_ID:
        raise StoreError(f"{path}: is a database of another program; give tierwise a path of its own (TIERWISE_STORE)")
    if version > VERSION:
        raise StoreError(
            f"{path}: has schema version {version}, this tierwise knows up to {VERSION}; upgrade tierwise or use another path"
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

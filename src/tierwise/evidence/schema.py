"""The store's tables, their versions and how one becomes the next. docs/store.md describes them for other readers."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from tierwise.core.errors import StoreError

APPLICATION_ID: Final = 0x7469_6572
"""'tier' in ASCII, in the file's header: `file tierwise.db` shows it."""

_WAL_WAIT_S: Final = 5.0

KEY_COLUMNS: Final = ("task", "candidate", "epoch", "arm", "rung", "grade", "bucket", "session", "round")
COUNT_COLUMNS: Final = (
    "n", "successes", "priced", "priced_successes", "retries", "retried", "escalated", "check_count", "accepted",
    "rejected",
)  # fmt: skip
SUM_COLUMNS: Final = ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
JSON_COLUMNS: Final = ("outcomes", "json_forms", "tokens", "latency", "ttft", "pairs")
EVIDENCE_COLUMNS: Final = (*KEY_COLUMNS, *COUNT_COLUMNS, *SUM_COLUMNS, *JSON_COLUMNS)


_VERSION_1: Final = (
    """
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY, started_at_ns INTEGER, task TEXT, candidate TEXT, epoch TEXT, arm TEXT, rung
        INTEGER, grade TEXT, outcome TEXT, provider TEXT, operation TEXT, api_type TEXT, server_address
        TEXT, server_port INTEGER, request_model TEXT, response_model TEXT, response_id TEXT, service_tier
        TEXT, system_fingerprint TEXT, stream INTEGER, expects_json INTEGER, temperature REAL, max_tokens
        INTEGER, choice_count INTEGER, duration_s REAL, time_to_first_chunk_s REAL, time_per_output_chunk_s
        REAL, chunks INTEGER, last_try_s REAL, retries INTEGER, backoff_s REAL, error_type TEXT, json_form
        TEXT, advice TEXT, output_chars INTEGER, input_tokens INTEGER, output_tokens INTEGER,
        cache_read_tokens INTEGER, cache_write_tokens INTEGER, reasoning_tokens INTEGER, input_audio_tokens
        INTEGER, output_audio_tokens INTEGER, cost_usd REAL, cost_source TEXT, risk TEXT, prompt_version
        TEXT, run_id TEXT, route_version INTEGER, propensity REAL, session TEXT, round INTEGER, trace_id
        TEXT, span_id TEXT, finish_reasons TEXT, checks TEXT, failed_tries TEXT, labels TEXT
    )
    """,
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY, run_id TEXT, task TEXT, candidate TEXT, epoch TEXT, arm TEXT, grade TEXT,
        started_at_ns INTEGER, duration_s REAL, calls INTEGER, success INTEGER, outcome TEXT, cost_usd REAL,
        provider TEXT, cleaned INTEGER
    )
    """,
    """
    CREATE TABLE evidence (
        task TEXT NOT NULL, candidate TEXT NOT NULL, epoch TEXT NOT NULL, arm TEXT NOT NULL, rung INTEGER
        NOT NULL, grade TEXT NOT NULL, bucket INTEGER NOT NULL, session TEXT NOT NULL, round INTEGER NOT
        NULL, n INTEGER NOT NULL, successes INTEGER NOT NULL, priced INTEGER NOT NULL, priced_successes
        INTEGER NOT NULL, retries INTEGER NOT NULL, retried INTEGER NOT NULL, escalated INTEGER NOT NULL,
        check_count INTEGER NOT NULL, accepted INTEGER NOT NULL, rejected INTEGER NOT NULL, cost_sum REAL
        NOT NULL, cost_sq_sum REAL NOT NULL, cost_success_sum REAL NOT NULL, latency_sum_s REAL NOT NULL,
        check_score_sum REAL NOT NULL, outcomes TEXT NOT NULL, json_forms TEXT NOT NULL, tokens TEXT NOT
        NULL, latency TEXT NOT NULL, ttft TEXT NOT NULL, PRIMARY KEY (task, candidate, epoch, arm, rung,
        grade, bucket, session, round)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX calls_by_time ON calls (started_at_ns)",
    "CREATE INDEX calls_by_session ON calls (session) WHERE session <> ''",
    "CREATE INDEX runs_by_time ON runs (started_at_ns)",
    "CREATE INDEX evidence_by_bucket ON evidence (bucket)",
)
_VERSION_2: Final = (
    "CREATE TABLE writers (id INTEGER PRIMARY KEY, batches INTEGER NOT NULL, seen_at INTEGER NOT NULL)",
    "ALTER TABLE runs ADD COLUMN session TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE runs ADD COLUMN round INTEGER NOT NULL DEFAULT -1",
)

_VERSION_3: Final = ("ALTER TABLE evidence ADD COLUMN pairs TEXT NOT NULL DEFAULT '{}'",)

LONGEST_SPAN_S: Final = 7 * 86_400
"""No row of `packed` is longer: what looks for the one that holds an hour need not look further back."""


def _unpack(row: str) -> str:
    """A statement of a trigger: what is packed of a row's hour holds no longer."""
    return (
        f"DELETE FROM packed WHERE task = {row}.task AND since > {row}.bucket - {LONGEST_SPAN_S} "  # noqa: S608 - OLD, NEW
        f"AND since <= {row}.bucket AND until > {row}.bucket;"
    )


_VERSION_4: Final = (
    "CREATE TABLE packed (task TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE UNIQUE INDEX packed_by_task ON packed (task, since, until)",
    "CREATE INDEX evidence_by_hour ON evidence (task, bucket)",
    "CREATE INDEX evidence_of_rounds ON evidence (task) WHERE round <> -1",
    "DROP INDEX evidence_by_bucket",
    f"CREATE TRIGGER evidence_added AFTER INSERT ON evidence WHEN NEW.round = -1 BEGIN {_unpack('NEW')} END",
    f"CREATE TRIGGER evidence_changed AFTER UPDATE ON evidence BEGIN {_unpack('OLD')} {_unpack('NEW')} END",
    f"CREATE TRIGGER evidence_removed AFTER DELETE ON evidence BEGIN {_unpack('OLD')} END",
)

_VERSION_5: Final = (
    """
    CREATE TABLE feedback (
        unit TEXT PRIMARY KEY, task TEXT NOT NULL, candidate TEXT NOT NULL, epoch TEXT NOT NULL, arm TEXT NOT NULL, rung
        INTEGER NOT NULL, grade TEXT NOT NULL, bucket INTEGER NOT NULL, session TEXT NOT NULL, round INTEGER NOT NULL,
        started_at_ns INTEGER NOT NULL, provider TEXT NOT NULL, run_id TEXT, response_id TEXT, trace_id TEXT NOT NULL,
        span_id TEXT NOT NULL, accepted INTEGER, score REAL, comment TEXT, given_at_ns INTEGER NOT NULL, settled INTEGER
        NOT NULL, succeeded INTEGER NOT NULL, cost_usd REAL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX feedback_by_time ON feedback (started_at_ns)",
    "CREATE INDEX feedback_open ON feedback (settled) WHERE settled = 0",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5)
"""Statements that lead from version n to n + 1; a released entry is never changed."""

VERSION: Final = len(MIGRATIONS)


def prepare(connection: sqlite3.Connection, path: object) -> None:
    """Create or migrate the schema. Raises `StoreError` for a file of somebody else or of a newer tierwise."""
    check(connection, path)
    if _pragma(connection, "user_version") == VERSION:
        return
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[_pragma(connection, "user_version") :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when the disk is full
            connection.execute("ROLLBACK")
        raise


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. Several processes may make the file at once, and here SQLite does not wait itself."""
    deadline = time.monotonic() + _WAL_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


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


def check_current(connection: sqlite3.Connection, path: object) -> None:
    """Like `check`; a reader refuses a store of an older schema as well."""
    check(connection, path)
    if _pragma(connection, "user_version") != VERSION:
        raise StoreError(f"{path}: is not a tierwise store of this version; run the application once to migrate it")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

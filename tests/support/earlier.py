"""Stores of earlier schemas out of `evidence/fixtures`, and a process that dies amid a migration."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path

from tierwise.core.evidence import Evidence, Key
from tierwise.evidence import SqliteStore, schema
from tierwise.evidence.rollup import sum_up

FIXTURES = Path(__file__).parents[1] / "evidence" / "fixtures"
SCHEMAS = (1, 2, 3, 4, 5)
CALLS = 78
"""In each of the stores."""


def make_store(path: Path, version: int) -> Path:
    """A store as that version left it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript((FIXTURES / f"store-schema-{version}.sql").read_text(encoding="utf-8"))
    connection.close()
    return path


def version_of(path: Path) -> int:
    """The schema's version; `AssertionError` when SQLite finds damage."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def sums(store: SqliteStore) -> tuple[dict[Key, Evidence], dict[Key, Evidence]]:
    """The evidence kept, and the evidence of all rows: the same as long as nothing was pruned."""
    kept = {row.key: row.evidence for row in store.evidence()}
    return kept, sum_up((row.to_call() for row in store.calls()), store.runs())


def migrate_until_killed(path: Path, statement: int) -> int:
    """Open the store for writing in a process that kills itself before its n-th statement; the wait status, 0 when it
    came to the end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        left = [statement]

        def trace(_: str) -> None:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        connection.set_trace_callback(trace)
        schema.prepare(connection, path)
    except BaseException:
        os._exit(70)
    os._exit(0)


def main(folder: Path, version: int) -> None:
    """Kill the migration before each of its statements in turn, look, and let it be done; prints the kills."""
    kills = 0
    for statement in range(200):
        path = make_store(folder / f"{version}-{statement}.db", version)
        status = migrate_until_killed(path, statement)
        assert status in (0, signal.SIGKILL), status
        assert version_of(path) == (version if status else schema.VERSION), statement
        with SqliteStore.open(path) as store:
            kept, rolled = sums(store)
            assert store.call_count() == CALLS
            assert kept == rolled
        assert version_of(path) == schema.VERSION
        if not status:
            break
        kills += 1
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""The embedded store: one row a call, hourly evidence kept beside it in the same transaction."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tierwise.core.call import Call, Run
from tierwise.core.cost import Rates, cost_of
from tierwise.core.errors import StoreError
from tierwise.core.evidence import Evidence, EvidenceBuilder, EvidenceRow, Key, key_of, key_of_run
from tierwise.evidence import schema
from tierwise.evidence.rows import (
    COLUMNS,
    RUN_COLUMNS,
    CallRow,
    call_row,
    call_values,
    clean_values,
    run_row,
    run_values,
)
from tierwise.evidence.schema import COUNT_COLUMNS, EVIDENCE_COLUMNS, JSON_COLUMNS, KEY_COLUMNS, SUM_COLUMNS

RETENTION_S: Final = 30 * 86_400
MAX_BYTES: Final = 1 << 30
_BUSY_MS: Final = 5_000
_PRUNE_EVERY_S: Final = 3_600.0
_PRUNE_ROWS: Final = 5_000


def _insert(table: str, columns: Sequence[str], *, replace: bool = False) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT {'OR REPLACE ' if replace else ''}INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of ours


_INSERT_CALL: Final = _insert("calls", COLUMNS)
_INSERT_RUN: Final = _insert("runs", RUN_COLUMNS)
_UPSERT_EVIDENCE: Final = _insert("evidence", EVIDENCE_COLUMNS, replace=True)
_SELECT_EVIDENCE: Final = f"SELECT {', '.join(EVIDENCE_COLUMNS)} FROM evidence"  # noqa: S608
_BY_KEY: Final = _SELECT_EVIDENCE + " WHERE " + " AND ".join(f"{name} = ?" for name in KEY_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHealth:
    """What `tierwise doctor` shows of a store: sizes in bytes, times in Unix nanoseconds."""

    path: Path
    schema_version: int
    calls: int
    runs: int
    evidence_rows: int
    size_bytes: int
    oldest_ns: int | None
    newest_ns: int | None
    pruned: int
    dropped: int
    unpriced: int
    intact: bool
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repriced:
    """What `reprice` changed: calls with another cost, hours rebuilt, hours left since some of their rows are pruned."""

    calls: int
    rebuilt: int
    left: int


class SqliteStore:
    """A store file. Open it with `SqliteStore.open`; use it as a context manager or close it.

    Many processes may write one file. A committed batch survives the death of the process (WAL, synchronous NORMAL);
    after a power cut the last batches may be missing, the file stays consistent.
    """

    def __init__(
        self, path: Path, *, read_only: bool, retention_s: float, max_bytes: int, clock: Callable[[], float]
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._retention_s, self._max_bytes, self._clock = retention_s, max_bytes, clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        self._pruned_at = clock()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        retention_s: float = RETENTION_S,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open a store, creating or migrating it unless `read_only`.

        Call rows older than `retention_s` seconds, or beyond `max_bytes`, are pruned; hourly evidence is kept.
        Raises `StoreError` when the file is missing (read-only), cannot be written, is damaged, is not a store of
        ours, or was written by a newer version.
        """
        store = cls(Path(path), read_only=read_only, retention_s=retention_s, max_bytes=max_bytes, clock=clock)
        with store._used() as connection:
            if read_only:
                schema.check(connection, store.path)
                if connection.execute("PRAGMA user_version").fetchone()[0] != schema.VERSION:
                    raise StoreError(
                        f"{path}: is not a tierwise store of this version; run the application once to migrate it"
                    )
            else:
                schema.prepare(connection, store.path)
        return store

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, batch: Sequence[Call | Run]) -> None:
        """Record a batch and its evidence in one transaction: all of it or, with a `StoreError`, nothing."""
        calls = [item for item in batch if isinstance(item, Call)]
        runs = [item for item in batch if isinstance(item, Run)]
        builders: dict[Key, EvidenceBuilder] = {}
        for call in calls:
            builders.setdefault(key_of(call), EvidenceBuilder()).add_call(call)
        for run in runs:
            builders.setdefault(key_of_run(run), EvidenceBuilder()).add_run(run)
        call_rows, run_rows = [call_values(call) for call in calls], [run_values(run) for run in runs]
        try:
            self._insert(call_rows, run_rows, builders)
        except UnicodeEncodeError:  # a lone surrogate in some name; nothing of the batch is in yet
            self._insert(list(map(clean_values, call_rows)), list(map(clean_values, run_rows)), builders)
        self._prune_sometimes()

    def _insert(
        self, calls: list[tuple[Any, ...]], runs: list[tuple[Any, ...]], builders: dict[Key, EvidenceBuilder]
    ) -> None:
        with self._transaction() as connection:
            connection.executemany(_INSERT_CALL, calls)
            connection.executemany(_INSERT_RUN, runs)
            for key, builder in builders.items():
                values = clean_values(_key_values(key))
                known = connection.execute(_BY_KEY, values).fetchone()
                made = builder.build()
                if known is not None:
                    made = _evidence_row(known).evidence + made
                connection.execute(_UPSERT_EVIDENCE, (*values, *_evidence_values(made)))

    def count(self, name: str, number: int) -> None:
        """Add to a counter that `health` shows, such as `dropped`."""
        with self._transaction() as connection:
            _count(connection, name, number)

    def prune(self) -> int:
        """Delete call rows beyond the retention or the size limit now; returns how many. Evidence is kept."""
        total = 0
        while number := self._prune_once():
            total += number
        self._pruned_at = self._clock()
        return total

    def _prune_sometimes(self) -> None:
        now = self._clock()
        if not 0 <= now - self._pruned_at < _PRUNE_EVERY_S:  # the clock may have jumped back
            self._pruned_at = now
            self._prune_once()

    def _prune_once(self) -> int:
        oldest = int((self._clock() - self._retention_s) * 1e9)
        with self._transaction() as connection:
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            limit = oldest if (pages - free) * size <= self._max_bytes else 1 << 62
            number = 0
            for table in ("calls", "runs"):
                number += connection.execute(
                    f"DELETE FROM {table} WHERE id IN "  # noqa: S608
                    f"(SELECT id FROM {table} WHERE started_at_ns < ? ORDER BY started_at_ns LIMIT {_PRUNE_ROWS})",
                    (limit,),
                ).rowcount
            if number:
                _count(connection, "pruned", number)
        if number:
            with self._used() as connection:
                connection.execute("PRAGMA incremental_vacuum(2000)").fetchall()
        return number

    def reprice(self, rates: Callable[[CallRow], Rates | None]) -> Repriced:
        """Compute costs again from the stored tokens; costs that providers stated stay. Hourly evidence follows.

        Hours of which rows were pruned keep the cost they had, since it cannot be computed again.
        """
        changed: dict[int, Call] = {}
        keys: set[Key] = set()
        for row in self.calls():
            if row.cost_source == "provider":
                continue
            call = row.to_call()
            found, known = rates(row), call.cost
            cost = cost_of(call.usage, found) if found is not None else None
            if cost is not None and cost != known:
                changed[row.id] = call
                keys.add(key_of(call))
        rebuilt = left = 0
        with self._transaction() as connection:
            for row_id, call in changed.items():
                row = call_row(connection.execute(f"{_SELECT_CALLS} WHERE id = ?", (row_id,)).fetchone())
                found = rates(row)
                cost = cost_of(call.usage, found) if found is not None else None
                if cost is not None:
                    connection.execute(
                        "UPDATE calls SET cost_usd = ?, cost_source = ? WHERE id = ?",
                        (cost.amount_usd, cost.source, row_id),
                    )
            for key in keys:
                if self._rebuild(connection, key):
                    rebuilt += 1
                else:
                    left += 1
        return Repriced(calls=len(changed), rebuilt=rebuilt, left=left)

    def _rebuild(self, connection: sqlite3.Connection, key: Key) -> bool:
        """Sum one key's evidence again from its rows, when all of them are still there."""
        values = clean_values(_key_values(key))
        known = _evidence_row(connection.execute(_BY_KEY, values).fetchone()).evidence
        hour = (key.bucket * 10**9, (key.bucket + 3600) * 10**9)
        where = "task = ? AND candidate = ? AND started_at_ns >= ? AND started_at_ns < ?"
        builder = EvidenceBuilder()
        rows = connection.execute(f"{_SELECT_CALLS} WHERE {where}", (values[0], values[1], *hour)).fetchall()
        for call in (call_row(row).to_call() for row in rows):
            if key_of(call) == key:
                builder.add_call(call)
        runs = connection.execute(f"{_SELECT_RUNS} WHERE {where}", (values[0], values[1], *hour)).fetchall()
        for run in map(run_row, runs):
            if key_of_run(run) == key:
                cost = connection.execute(
                    "SELECT sum(cost_usd), count(*) - count(cost_usd) FROM calls WHERE run_id = ? AND started_at_ns >= ?",
                    (run.run_id, run.started_at_ns - 10**9),
                ).fetchone()
                builder.add_run(replace(run, cost_usd=None if cost[1] else cost[0]))
        made = builder.build()
        if made.outcomes != known.outcomes or made.n != known.n:
            return False
        builder.add(Evidence(accepted=known.accepted, rejected=known.rejected))
        connection.execute(_UPSERT_EVIDENCE, (*values, *_evidence_values(builder.build())))
        return True

    # -- reading ---------------------------------------------------------------------------------------------------

    def calls(
        self,
        *,
        task: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        outcome: str | None = None,
        session: str | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[CallRow]:
        """Recorded calls in order of their start; `model` is the candidate, times are Unix nanoseconds [since, until)."""
        wanted: list[tuple[str, Any]] = [
            (f"{name} = ?", value)
            for name, value in (
                ("task", task), ("candidate", model), ("provider", provider), ("outcome", outcome), ("session", session),
            )
            if value is not None
        ]  # fmt: skip
        if since_ns is not None:
            wanted.append(("started_at_ns >= ?", since_ns))
        if until_ns is not None:
            wanted.append(("started_at_ns < ?", until_ns))
        where = f" WHERE {' AND '.join(text for text, _ in wanted)}" if wanted else ""
        order = " ORDER BY started_at_ns DESC, id DESC" if newest_first else " ORDER BY started_at_ns, id"
        values = [value for _, value in wanted]
        if limit is not None:
            order += " LIMIT ?"
            values.append(limit)
        return map(call_row, self._rows(_SELECT_CALLS + where + order, values))

    def runs(self, *, since_ns: int | None = None, task: str | None = None) -> Iterator[Run]:
        """Finished runs of several calls, in order of their start."""
        return map(
            run_row,
            self._rows(
                f"{_SELECT_RUNS} WHERE started_at_ns >= ? AND (? IS NULL OR task = ?) ORDER BY started_at_ns, id",
                (since_ns or 0, task, task),
            ),
        )

    def evidence(
        self, since: int | None = None, until: int | None = None, tasks: Sequence[str] | None = None
    ) -> list[EvidenceRow]:
        """Evidence of the hours (and bench rounds) that start in [since, until), Unix seconds."""
        clauses = ["bucket >= ?", "bucket < ?"]
        values: list[Any] = [since if since is not None else 0, until if until is not None else 1 << 60]
        if tasks is not None:
            clauses.append("task IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(list(tasks)))
        statement = f"{_SELECT_EVIDENCE} WHERE {' AND '.join(clauses)} ORDER BY {', '.join(KEY_COLUMNS)}"
        return [_evidence_row(row) for row in self._rows(statement, values)]

    def call_count(self) -> int:
        """The number of call rows."""
        return int(next(self._rows("SELECT count(*) FROM calls", ()))[0])

    def tasks(self) -> list[str]:
        """The tasks that have evidence, by name."""
        return [row[0] for row in self._rows("SELECT DISTINCT task FROM evidence ORDER BY task", ())]

    def unpriced_models(self) -> list[tuple[str, str, int]]:
        """(provider, model, calls) of calls with tokens and without a cost, most calls first."""
        statement = (
            "SELECT provider, coalesce(response_model, request_model) AS model, count(*) FROM calls WHERE cost_usd IS NULL "
            "AND (input_tokens IS NOT NULL OR output_tokens IS NOT NULL) GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        )
        return [(row[0], row[1], row[2]) for row in self._rows(statement, ())]

    def health(self) -> StoreHealth:
        """Sizes, counters and the integrity of the file."""
        with self._used() as connection:
            one = connection.execute("SELECT count(*), min(started_at_ns), max(started_at_ns) FROM calls").fetchone()
            counters = dict(connection.execute("SELECT name, value FROM counters").fetchall())
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            files = (self.path, Path(f"{self.path}-wal"))
            return StoreHealth(
                path=self.path,
                schema_version=connection.execute("PRAGMA user_version").fetchone()[0],
                calls=one[0],
                runs=connection.execute("SELECT count(*) FROM runs").fetchone()[0],
                evidence_rows=connection.execute("SELECT count(*) FROM evidence").fetchone()[0],
                size_bytes=sum(file.stat().st_size for file in files if file.exists()),
                oldest_ns=one[1],
                newest_ns=one[2],
                pruned=counters.get("pruned", 0),
                dropped=counters.get("dropped", 0),
                unpriced=sum(number for _, _, number in self.unpriced_models()),
                intact=problem == "ok",
                problem=None if problem == "ok" else str(problem),
            )

    def _rows(self, statement: str, values: Iterable[Any]) -> Iterator[Any]:
        with self._used() as connection:
            found = connection.execute(statement, tuple(values)).fetchall()
        return iter(found)

    # -- the connection --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Nothing waits here: a written batch is committed."""

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def after_fork_in_child(self) -> None:
        """Forget the parent's connection: SQLite forbids to use, or even close, an inherited one."""
        self._lock = threading.RLock()
        if self._connection is not None:
            self._inherited.append(self._connection)
            self._connection = None
        self._pid = os.getpid()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._used() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; every fault of SQLite leaves as a `StoreError` that says what to do."""
        if self._pid != os.getpid():
            self.after_fork_in_child()
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise StoreError(_explain(self.path, error)) from error

    def _connect(self) -> sqlite3.Connection:
        if self.read_only:
            if not self.path.is_file():
                raise StoreError(
                    f"{self.path}: no store here yet; run an application with tierwise.instrument(), or name another path"
                )
            source = f"{self.path.absolute().as_uri()}?mode=ro"
        else:
            make_private(self.path)
            source = self.path.absolute().as_uri()
        connection = sqlite3.connect(
            source, uri=True, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


_SELECT_CALLS: Final = f"SELECT id, {', '.join(COLUMNS)} FROM calls"  # noqa: S608
_SELECT_RUNS: Final = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs"  # noqa: S608


def make_private(path: Path) -> None:
    """Create the store's folder and file for their owner alone; a `.tierwise` folder ignores itself in git."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    ignore = path.parent / ".gitignore"
    if path.parent.name == ".tierwise" and not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _explain(path: Path, error: Exception) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return (
            f"{path}: locked by another process for over {_BUSY_MS / 1000:.0f} s; end what holds it (fuser {path.name})"
        )
    if "full" in text:
        return f"{path}: the disk is full; free some space, or move the store with TIERWISE_STORE"
    if "malformed" in text or "not a database" in text:
        return f"{path}: is damaged or no database ({text}); move it away, a new one is made, or restore a copy"
    return f"{path}: cannot be used as a store ({text}); check the path and its permissions, or set TIERWISE_STORE"


def _count(connection: sqlite3.Connection, name: str, number: int) -> None:
    connection.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, number),
    )


def _key_values(key: Key) -> tuple[Any, ...]:
    return tuple(getattr(key, name) for name in KEY_COLUMNS)


def _evidence_values(evidence: Evidence) -> tuple[Any, ...]:
    plain = (getattr(evidence, name) for name in (*COUNT_COLUMNS, *SUM_COLUMNS))
    return (*plain, *(json.dumps(getattr(evidence, name), separators=(",", ":")) for name in JSON_COLUMNS))


def _evidence_row(values: Sequence[Any]) -> EvidenceRow:
    found = dict(zip(EVIDENCE_COLUMNS, values, strict=True))
    key = Key(**{name: found.pop(name) for name in KEY_COLUMNS})
    for name in JSON_COLUMNS:
        found[name] = json.loads(found[name])
    found["latency"], found["ttft"] = tuple(found["latency"]), tuple(found["ttft"])
    return EvidenceRow(key=key, evidence=Evidence(**found))

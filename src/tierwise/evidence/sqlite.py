"""The embedded store: one row a call, hourly evidence kept beside it in the same transaction."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tierwise.core.call import Call, Run
from tierwise.core.cost import Rates
from tierwise.core.errors import StoreError
from tierwise.core.evidence import EvidenceRow
from tierwise.evidence import retention, schema
from tierwise.evidence.feedback import FeedbackRow, feedback_row_of, feedback_rows, settle_runs, take_verdicts
from tierwise.evidence.files import connect, explain, identity, unfit_rows_told
from tierwise.evidence.frames import Rows
from tierwise.evidence.health import UNPRICED_MODELS, StoreHealth, measure
from tierwise.evidence.pages import call_pages
from tierwise.evidence.rollup import SELECT_EVIDENCE, evidence_row, merge, sum_up, task_names
from tierwise.evidence.rows import (
    OUTPUT_TOKENS,
    SELECT_RUNS,
    CallRow,
    call_row,
    call_values,
    clean_call,
    clean_values,
    insert_calls,
    insert_runs,
    output_tokens,
    run_row,
    run_values,
)
from tierwise.evidence.schema import KEY_COLUMNS
from tierwise.evidence.upkeep import Upkeep

if TYPE_CHECKING:
    from tierwise.core.columns import TaskEvidence
    from tierwise.core.receipt import Verdict
    from tierwise.evidence.reprice import Repriced

RETENTION_S: Final = 30 * 86_400
MAX_BYTES: Final = 1 << 30
_BUSY_MS: Final = 5_000

_log = logging.getLogger("tierwise")

_MARK_BATCH: Final = "INSERT OR REPLACE INTO writers (id, batches, seen_at) VALUES (?, ?, ?)"


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
        self._clock = clock
        self._upkeep = Upkeep(
            used=self._used, transaction=self._transaction, clock=clock, retention_s=retention_s, max_bytes=max_bytes
        )
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._pid = os.getpid()
        self._writer = secrets.randbits(62)
        self._batches = 0
        self._doubt: tuple[Call | Run | Verdict, ...] = ()
        self._dropped = 0
        self._dropped_lock = threading.Lock()

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
        with store._used():
            return store

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, batch: Sequence[Call | Run | Verdict]) -> None:
        """Record a batch and its evidence in one transaction: all of it or, with a `StoreError`, nothing.

        After an error the batch may be handed in again, with more behind it. Should the commit have succeeded although
        it reported an error (a full disk at the wrong moment), what is in already is left out the second time.
        `UnfitRowError` says that one of its rows will never be taken (a value that no column holds).
        """
        with self._lock:
            self._follow_the_file()
            if self._doubt:
                batch = self._resolve(batch)
            calls = [item for item in batch if isinstance(item, Call)]
            runs = [item for item in batch if isinstance(item, Run)]
            verdicts = [item for item in batch if not isinstance(item, (Call, Run))]
            with unfit_rows_told():
                try:
                    self._write(batch, calls, runs, verdicts)
                except (UnicodeEncodeError, OverflowError):  # a lone surrogate or a huge number; nothing is in yet
                    self._write(batch, [clean_call(call) for call in calls], runs, verdicts, clean=clean_values)
            # The batch is in: what goes wrong from here on must not have it handed in again. Upkeep has time.
            with suppress(StoreError, MemoryError):
                self._upkeep.sometimes()

    def _write(
        self,
        batch: Sequence[Call | Run | Verdict],
        calls: Sequence[Call],
        runs: Sequence[Run],
        verdicts: Sequence[Verdict],
        *,
        clean: Callable[[Iterable[Any]], tuple[Any, ...]] | None = None,
    ) -> None:
        found = sum_up(calls, runs)
        call_rows, run_rows = [call_values(call) for call in calls], [run_values(run) for run in runs]
        if clean is not None:
            call_rows, run_rows = list(map(clean, call_rows)), list(map(clean, run_rows))
        dropped = self._dropped
        with self._transaction(doubted=batch) as connection:
            insert_calls(connection, call_rows)
            insert_runs(connection, run_rows)
            merge(connection, found)
            settle_runs(connection, runs)
            take_verdicts(connection, verdicts)
            connection.execute(_MARK_BATCH, (self._writer, self._batches + 1, int(self._clock())))
            if dropped:
                retention.add_to_counter(connection, "dropped", dropped)
        self._batches += 1
        if dropped:
            self.add_dropped(-dropped)

    def _resolve(self, batch: Sequence[Call | Run | Verdict]) -> Sequence[Call | Run | Verdict]:
        """What of a batch is not in yet, after a commit of which nobody knows whether it happened."""
        statement = "SELECT batches FROM writers WHERE id = ?"
        row = next(self._rows(statement, (self._writer,)), (0,))
        doubted, self._doubt = self._doubt, ()
        if row[0] == self._batches:
            return batch
        self._batches = row[0]
        known = {id(item) for item in doubted}
        return [item for item in batch if id(item) not in known]

    def add_dropped(self, number: int) -> None:
        """Count rows that were lost before they came here; written down with the next batch. Never touches the file."""
        with self._dropped_lock:
            self._dropped += number

    def count(self, name: str, number: int) -> None:
        """Add to a counter that `health` shows, such as `dropped`, at once."""
        with self._transaction() as connection:
            retention.add_to_counter(connection, name, number)

    def prune(self) -> int:
        """Delete call rows beyond the retention or the size limit now; returns how many. Evidence is kept."""
        total = 0
        while number := self._upkeep.prune_slice():
            total += number
        return total

    def pack(self) -> int:
        """Pack the evidence of every hour that is over, for reading; returns how many stretches of hours were packed.

        Writers do so by themselves once an hour. The rows of `evidence` stay.
        """
        return self._upkeep.pack()

    def vacuum(self) -> tuple[int, int]:
        """Rewrite the file without free space; returns its bytes before and after. Writers wait meanwhile."""
        with self._used() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            before = self.path.stat().st_size
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return before, self.path.stat().st_size

    def reprice(self, rates: Callable[[CallRow], Rates | None]) -> Repriced:
        """Compute costs again from the stored tokens; costs that providers stated stay. Runs and evidence follow.

        Hours of which rows were pruned keep the cost they had, since it cannot be computed again.
        """
        from tierwise.evidence.reprice import apply_changes, find_changes

        changes = find_changes(self.calls(), rates)
        with self._transaction() as connection:
            return apply_changes(connection, changes)

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
    ) -> Rows[CallRow]:
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
        pages = call_pages(self._rows, wanted, newest_first=newest_first, limit=limit)
        return Rows(map(call_row, pages), CallRow)

    def runs(self, *, since_ns: int | None = None, task: str | None = None) -> Rows[Run]:
        """Finished runs of several calls, in order of their start."""
        statement = f"{SELECT_RUNS} WHERE started_at_ns >= ? AND (? IS NULL OR task = ?) ORDER BY started_at_ns, id"
        return Rows(map(run_row, self._rows(statement, (since_ns or 0, task, task))), Run)

    def feedback(self, *, task: str | None = None, since_ns: int | None = None) -> Rows[FeedbackRow]:
        """The verdict in force on each call or run that was judged, in order of their start (Unix nanoseconds)."""
        with self._used() as connection:
            return Rows(feedback_rows(connection, task, since_ns), FeedbackRow)

    def verdict(self, unit: str) -> FeedbackRow | None:
        """The verdict in force on one call or run, by the `unit` of its receipt."""
        with self._used() as connection:
            return feedback_row_of(connection, unit)

    def evidence(
        self, since: int | None = None, until: int | None = None, tasks: Sequence[str] | None = None
    ) -> list[EvidenceRow]:
        """Evidence of the hours (and bench rounds) that start in [since, until), Unix seconds."""
        clauses = ["bucket >= ?", "bucket < ?"]
        values: list[Any] = [since if since is not None else 0, until if until is not None else 1 << 60]
        if tasks is not None:
            clauses.append("task IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(list(tasks)))
        statement = f"{SELECT_EVIDENCE} WHERE {' AND '.join(clauses)} ORDER BY {', '.join(KEY_COLUMNS)}"
        return [evidence_row(row) for row in self._rows(statement, values)]

    def evidence_by_task(
        self, since: int | None = None, until: int | None = None, tasks: Sequence[str] | None = None
    ) -> Iterator[TaskEvidence]:
        """The same as `evidence`, a task at a time by name: a month of a thousand tasks need not fit into memory."""
        from tierwise.evidence import reading

        for task in self.tasks() if tasks is None else sorted(set(tasks)):
            with self._used() as connection:
                found = reading.task_evidence(connection, task, since, until)
            if found.series or found.invalid:
                yield found

    def call_count(self) -> int:
        """The number of call rows."""
        return int(next(self._rows("SELECT count(*) FROM calls", ()))[0])

    def dropped_count(self) -> int:
        """The number of calls that were made and not stored; `health` has it too, and reads all of the file."""
        stored = next(self._rows("SELECT value FROM counters WHERE name = 'dropped'", ()), (0,))
        return self._dropped + int(stored[0])

    def tasks(self) -> list[str]:
        """The tasks that have evidence, by name."""
        with self._used() as connection:
            return task_names(connection)

    def output_tokens(self) -> dict[str, list[int]]:
        """Output tokens of whole answers by task, oldest first: of the application's latest 20,000 calls."""
        return output_tokens(self._rows(OUTPUT_TOKENS, ()))

    def unpriced_models(self) -> list[tuple[str, str, int]]:
        """(provider, model, calls) of calls with tokens and without a cost, most calls first."""
        return [(row[0], row[1], row[2]) for row in self._rows(UNPRICED_MODELS, ())]

    def health(self) -> StoreHealth:
        """Sizes, counters and the integrity of the file; reads all of it."""
        unpriced = sum(number for _, _, number in self.unpriced_models())
        with self._used() as connection:
            return measure(connection, self.path, unpriced=unpriced, dropped=self._dropped)

    def _rows(self, statement: str, values: Iterable[Any]) -> Iterator[Any]:
        with self._used() as connection:
            found = connection.execute(statement, tuple(values)).fetchall()
        return iter(found)

    # -- the connection --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Nothing waits here: a written batch is committed."""

    def close(self) -> None:
        """Write down what was lost, close the file; a later use opens it again."""
        with self._lock:
            if self._dropped and not self.read_only:
                with suppress(StoreError):  # rows were lost since the store refuses: it may refuse this as well
                    self.write(())
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
        inherited, self._connection = self._connection, None
        if inherited is not None:
            import ctypes

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))  # so that nothing ever closes it, not even the exit
        self._lock, self._dropped_lock = threading.RLock(), threading.Lock()
        self._pid, self._writer, self._batches, self._doubt, self._dropped = os.getpid(), secrets.randbits(62), 0, (), 0

    @contextmanager
    def _transaction(self, *, doubted: Sequence[Call | Run | Verdict] = ()) -> Iterator[sqlite3.Connection]:
        """A transaction that excludes other writers; `doubted` is remembered when the commit reports an error."""
        with self._used() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    connection.execute("ROLLBACK")
                raise
            try:
                connection.execute("COMMIT")
            except (sqlite3.Error, MemoryError):
                self._doubt = tuple(doubted)
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _follow_the_file(self) -> None:
        """Begin anew where the file was removed or replaced: what goes into the old one is seen by nobody."""
        if self._connection is None or identity(self.path) == self._file:
            return
        connection, self._connection = self._connection, None
        with suppress(sqlite3.Error):
            connection.close()
        self._writer, self._batches, self._doubt = secrets.randbits(62), 0, ()
        _log.warning("tierwise: %s: was removed or replaced while in use; calls go into the file there now", self.path)

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self.path, read_only=self.read_only, busy_ms=_BUSY_MS)
        try:
            self._file = identity(self.path)
            (schema.check_current if self.read_only else schema.prepare)(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

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
            except (sqlite3.Error, OSError, MemoryError) as error:
                raise StoreError(explain(self.path, error, busy_s=_BUSY_MS / 1000)) from error

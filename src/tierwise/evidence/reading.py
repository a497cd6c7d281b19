"""Evidence of one task out of the store: packed hours where there are any, rows elsewhere."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tierwise.core.columns import TaskEvidence
from tierwise.evidence.packed import Block
from tierwise.evidence.schema import COUNT_COLUMNS, JSON_COLUMNS, LONGEST_SPAN_S, SUM_COLUMNS

_PARTS: Final = " || ',' || ".join(JSON_COLUMNS)
_ROWS: Final = (
    f"SELECT candidate, epoch, arm, rung, grade, session, bucket, round, "  # noqa: S608 - names of ours
    f"{', '.join((*COUNT_COLUMNS, *SUM_COLUMNS))}, '[' || {_PARTS} || ']' "
    "FROM evidence INDEXED BY "
)
_WINDOW: Final = " WHERE task = ? AND bucket >= ? AND bucket < ? AND "
_HOURS: Final = _ROWS + "evidence_by_hour" + _WINDOW + "round = -1 ORDER BY bucket"
_ROUNDS: Final = (
    _ROWS
    + "evidence_of_rounds"
    + _WINDOW
    + "round <> -1 ORDER BY candidate, epoch, arm, rung, grade, session, round, bucket"
)
"""Within one identity in order of time: rounds of a bench session by number."""
_PACKED: Final = (
    "SELECT since, until, data FROM packed WHERE task = ? AND since > ? AND since < ? AND until > ? ORDER BY since"
)
_END_OF_TIME: Final = 1 << 60

Hours = tuple[int, int]
"""[since, until), Unix seconds."""


def task_evidence(
    connection: sqlite3.Connection, task: str, since: int | None, until: int | None, *, rounds: bool = True
) -> TaskEvidence:
    """The evidence of one task in [since, until), Unix seconds; without `rounds`, that of live traffic alone.

    The same, to the digest, whether hours are packed or not.
    """
    made = TaskEvidence(task)
    first, end = 0 if since is None else since, _END_OF_TIME if until is None else until
    with _one_state(connection):
        at = first
        window = (task, first - LONGEST_SPAN_S, end, first)
        for start, stop, data in connection.execute(_PACKED, window).fetchall():
            try:
                block = Block(data)
            except ValueError:  # of another version: its rows are there
                continue
            _add_rows(connection, made, _HOURS, (at, start))
            block.add_to(made, first if start < first else None, end if stop > end else None)
            at = stop
        _add_rows(connection, made, _HOURS, (at, end))
        if rounds:
            _add_rows(connection, made, _ROUNDS, (first, end))
    made.series = dict(sorted(made.series.items()))
    return made


@contextmanager
def _one_state(connection: sqlite3.Connection) -> Iterator[None]:
    """All reading inside sees one state of the file, whatever others write."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _add_rows(connection: sqlite3.Connection, made: TaskEvidence, statement: str, hours: Hours) -> None:
    """Append rows, without an object for each."""
    if hours[0] >= hours[1]:
        return
    decode = json.JSONDecoder().decode
    for row in connection.execute(statement, (made.task, *hours)):
        outcomes, forms, tokens, latency, ttft, pairs = decode(row[-1])  # one text: each would cost as much as all
        if pairs:
            pairs = {name: tuple(sums) for name, sums in pairs.items()}
        parts = (row[8:-1], outcomes, forms, tokens, tuple(latency), tuple(ttft), pairs)
        made.append_parts(row[:6], row[6], row[7], parts)

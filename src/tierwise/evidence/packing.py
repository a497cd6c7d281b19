"""Packing of hours that are over: which stretches of a task become one packed row, and when."""

from __future__ import annotations

import sqlite3
from typing import Final

from tierwise.core.evidence import HOUR_S
from tierwise.evidence.packed import encode
from tierwise.evidence.reading import Hours, task_evidence
from tierwise.evidence.schema import LONGEST_SPAN_S

DAY_S: Final = 86_400
WEEK_S: Final = LONGEST_SPAN_S
LATE_S: Final = 900
"""How long after its end an hour is left alone: calls that began in it still end."""

_SPANS: Final = "SELECT since, until FROM packed WHERE task = ? ORDER BY since"
_EARLIEST: Final = "SELECT min(bucket) FROM evidence WHERE task = ? AND round = -1 AND bucket >= ? AND bucket < ?"
_ACROSS: Final = (
    "SELECT 1 FROM packed WHERE task = ? AND since > ? AND since < ? AND until > ? AND NOT (since >= ? AND until <= ?)"
)


def packable_until(now_s: float) -> int:
    """Where the hours end that may be packed, Unix seconds."""
    return (int(now_s) - LATE_S) // HOUR_S * HOUR_S


def next_stretch(connection: sqlite3.Connection, task: str, last: Hours | None, closed: int) -> Hours | None:
    """What of one task is to be packed after `last`; first the days, then the weeks. `None`: all of it is.

    A day is one stretch (today's grows by the hour); the days of a week that has been over for a day become one.
    """
    if last is None or last[1] - last[0] < WEEK_S:
        missing = _missing(connection, task, 0 if last is None else last[1], closed)
        if missing is not None:
            day = missing // DAY_S * DAY_S
            return day, min(day + DAY_S, closed)
        last = None
    for since, until in connection.execute(_SPANS, (task,)).fetchall():
        week = since // WEEK_S * WEEK_S
        if until - since < WEEK_S and week + WEEK_S + DAY_S <= closed and (last is None or week > last[0]):
            return week, week + WEEK_S
    return None


def _missing(connection: sqlite3.Connection, task: str, at: int, closed: int) -> int | None:
    """The first hour from `at` on that has rows and is not packed."""
    for since, until in (*connection.execute(_SPANS, (task,)).fetchall(), (closed, closed)):
        if at < since:
            found = connection.execute(_EARLIEST, (task, at, min(since, closed))).fetchone()[0]
            if found is not None:
                return int(found)
        at = max(at, until)
    return None


def pack(connection: sqlite3.Connection, task: str, hours: Hours) -> None:
    """Pack a stretch, and drop the smaller ones in it. The caller has begun a transaction that excludes other writers."""
    since, until = hours
    if connection.execute(_ACROSS, (task, since - LONGEST_SPAN_S, until, since, since, until)).fetchone():
        return  # somebody else was faster, with a longer one
    data = encode(task_evidence(connection, task, since, until, rounds=False))
    connection.execute("DELETE FROM packed WHERE task = ? AND since >= ? AND since < ?", (task, since, until))
    connection.execute("INSERT INTO packed (task, since, until, data) VALUES (?, ?, ?, ?)", (task, since, until, data))

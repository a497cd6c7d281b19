"""Upkeep of the store beside writing: old rows go, hours that are over are packed; in slices that are never long."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from tierwise.evidence import retention
from tierwise.evidence.rollup import task_names

if TYPE_CHECKING:
    from tierwise.evidence.reading import Hours

PACKING_S: Final = 0.005
"""How long one slice of packing takes; at least one stretch of hours is packed."""

Open = Callable[[], AbstractContextManager[sqlite3.Connection]]


class Upkeep:
    """One store's pruning and packing: `sometimes` after a batch, or all of it at once."""

    def __init__(
        self, *, used: Open, transaction: Open, clock: Callable[[], float], retention_s: float, max_bytes: int
    ) -> None:
        """`used` lends the connection, `transaction` one that excludes other writers meanwhile."""
        self._used, self._transaction, self._clock = used, transaction, clock
        self._retention_s, self._max_bytes = retention_s, max_bytes
        self._look_at_s = 0.0
        self._behind = False
        self._packing: Iterator[None] | None = None

    def sometimes(self) -> None:
        """Do a slice when it is due: once an hour one of the processes that write the store begins."""
        now = self._clock()
        if self._packing is not None:
            self._pack_slice(self._packing)
        if not self._behind:
            if 0 <= self._look_at_s - now <= retention.PRUNE_EVERY_S:  # else the clock may have jumped back
                return
            self._look_at_s = now + retention.PRUNE_EVERY_S
            with self._transaction() as connection:
                if not retention.due(connection, now):
                    return
            self._packing = self._pack_all(now)
        self._behind = self.prune_slice() >= retention.SLICE_ROWS

    def prune_slice(self) -> int:
        """Delete rows beyond the limits, not many; returns how many."""
        with self._transaction() as connection:
            number = retention.prune_slice(
                connection, now_s=self._clock(), retention_s=self._retention_s, max_bytes=self._max_bytes
            )
        if number:
            with self._used() as connection:
                connection.execute("PRAGMA incremental_vacuum(2000)").fetchall()
        return number

    def pack(self) -> int:
        """Pack every hour that is over; returns how many stretches were packed."""
        return sum(1 for _ in self._pack_all(self._clock()))

    def _pack_slice(self, going: Iterator[None]) -> None:
        self._packing = None  # should it fail, the next hour begins again
        ends = time.perf_counter() + PACKING_S
        for _ in going:
            if time.perf_counter() >= ends:
                self._packing = going
                return

    def _pack_all(self, now_s: float) -> Iterator[None]:
        from tierwise.evidence import packing

        closed = packing.packable_until(now_s)
        with self._used() as connection:
            tasks = task_names(connection)
        for task in tasks:
            hours = self._next(task, None, closed)
            while hours is not None:
                try:
                    with self._transaction() as connection:
                        packing.pack(connection, task, hours)
                except (TypeError, ValueError, LookupError, AttributeError, RecursionError):
                    pass  # another tool wrote a row that cannot be read: it stays a row, and reading names it
                yield
                hours = self._next(task, hours, closed)

    def _next(self, task: str, last: Hours | None, closed: int) -> Hours | None:
        from tierwise.evidence.packing import next_stretch

        with self._used() as connection:
            return next_stretch(connection, task, last, closed)

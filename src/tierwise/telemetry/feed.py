"""Rows on their way to one sink: batches, retries while the store refuses, a bounded memory."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final

from tierwise.core.errors import StoreError, UnfitRowError

if TYPE_CHECKING:
    from tierwise.core.call import Call, Run
    from tierwise.core.ports import Sink
    from tierwise.core.receipt import Verdict
    from tierwise.telemetry.faults import Faults

BATCH: Final = 512
WRITE_S: Final = 0.8
"""How long a row waits for others, seconds. With the worker's interval and the write itself: a second, which is what a
killed process loses at most."""
_BACKOFF_S: Final = (0.1, 5.0)

_log = logging.getLogger("tierwise")


class Feed:
    """Rows on their way to one sink: kept and retried while the store refuses, dropped and counted beyond `capacity`."""

    def __init__(self, sink: Sink, *, capacity: int, faults: Faults, dropped: Callable[[int], None]) -> None:
        self.sink = sink
        self._capacity = capacity
        self._faults = faults
        self._dropped = dropped
        self._rows: deque[Call | Run | Verdict] = deque()
        self._retry_at = self._write_at = 0.0
        self._backoff_s = _BACKOFF_S[0]
        self._most: int | None = None
        """Rows of the next batch, fewer than usual while the one is looked for that the sink cannot hold."""
        self._warned = False

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Call | Run | Verdict) -> None:
        """Queue one row; dropped and counted when there is no room."""
        if len(self._rows) >= self._capacity:
            self._dropped(1)
        else:
            if not self._rows:
                self._write_at = time.monotonic() + WRITE_S
            self._rows.append(row)

    def pump(self, *, now: bool = False, until: float = math.inf) -> bool:
        """Write what waits once it is a batch or a second old; True when nothing waits any more.

        `now` waits for neither, nor for the pause after a failure. A transaction costs as much as some thirty rows, so
        few calls a second are better written together. No batch begins after `until` (monotonic seconds), but the first.
        A row that the sink cannot hold is found by halves, dropped and counted; the others of its batch are written.
        """
        while self._rows:
            if not now and (
                time.monotonic() < self._retry_at or (len(self._rows) < BATCH and time.monotonic() < self._write_at)
            ):
                return False
            batch = list(islice(self._rows, self._most or BATCH))
            try:
                self.sink.write(batch)
            except UnfitRowError as error:
                if len(batch) > 1:
                    self._most = len(batch) // 2
                    continue
                self._faults.note_in_background("sink", error)
                self._dropped(1)
            except StoreError as error:
                self._refused(error)
                return False
            except Exception as error:  # noqa: BLE001
                self._faults.note_in_background("sink", error)
                self._dropped(len(batch))
            else:
                self._backoff_s = _BACKOFF_S[0]
                self._warned = False
            if self._most is not None:
                self._most = None if self._most >= BATCH // 2 else self._most * 2
            for _ in batch:
                self._rows.popleft()
            if time.monotonic() >= until:
                return not self._rows
        return True

    def note_lost(self, number: int) -> None:
        """Tell a sink that keeps count of what it never got (`tierwise doctor` shows it)."""
        note = getattr(self.sink, "add_dropped", None)
        if note is not None:
            note(number)

    def flush(self) -> bool:
        """Have the sink make everything durable; False when it refuses."""
        try:
            self.sink.flush()
        except StoreError as error:
            self._refused(error)
            return False
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("sink", error)
            return False
        return True

    def close(self) -> None:
        """Close the sink; rows it never took are counted as dropped."""
        if self._rows:
            self._dropped(len(self._rows))
            _log.warning("tierwise: %d calls could not be stored before the end and are lost to the store", len(self))
            self._rows.clear()
        try:
            self.sink.close()
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("sink", error)

    def after_fork_in_child(self) -> None:
        """Forget the parent's rows and let the sink open connections of its own."""
        self._rows.clear()
        self._retry_at = 0.0
        forked = getattr(self.sink, "after_fork_in_child", None)
        if forked is not None:
            forked()

    def _refused(self, error: StoreError) -> None:
        self._retry_at = time.monotonic() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_S[1])
        if not self._warned:
            self._warned = True
            _log.warning("tierwise: %s; calls are kept in memory and written as soon as that works again", error)

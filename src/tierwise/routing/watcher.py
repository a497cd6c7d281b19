"""The table in force: a watcher of the route file that never waits and keeps the last good table."""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tierwise.core.errors import RouteError
from tierwise.core.route import RouteTable
from tierwise.routing.routefile import read_opened

_LARGE: Final = 64 << 10
_SLOW_S: Final = 0.1

_log = logging.getLogger("tierwise")


class RouteWatcher:
    """The table in force: reloads when the file's mtime, inode or size changes, keeps the last good one when broken.

    A look costs one `stat` at most every `interval_s` seconds. A missing file after a good one is treated as broken
    (a mount that went away must not change routes). Each broken content is logged once. A file of more than 64 KiB is
    read by a thread of its own, but for the first look: no call waits for it. Nor for a folder that is slow to answer, as
    a network share may be: after a look of more than 0.1 s the next ones are made by a thread as well.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_interval_s",
        "_lock",
        "_looked",
        "_next",
        "_path",
        "_seen",
        "_slow",
        "_table",
        "problem",
    )

    def __init__(self, path: Path, *, interval_s: float = 0.25, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -math.inf
        self._seen: tuple[int, int, int] | None = None
        self._table = RouteTable()
        self._looked = self._slow = False
        self.problem: str | None = None
        """Why the file is not in force at present, else `None`."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forgetting(weakref.WeakMethod(self._after_fork)))

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may hold the old one

    def current(self) -> RouteTable:
        """The last good table; never raises, never waits for another thread."""
        now = self._clock()
        if now >= self._next and self._lock.acquire(blocking=False):
            elsewhere = False
            try:
                self._next = now + self._interval_s
                elsewhere = self._slow and self._elsewhere(self._look)
                if not elsewhere:
                    elsewhere = self._look(small_only=self._looked) and self._elsewhere(self._read)
                self._looked = True
            finally:
                if not elsewhere:
                    self._lock.release()
        return self._table

    def _changed(self) -> int | None:
        """The size of the file when there is other content than what was seen last."""
        try:
            status = os.stat(self._path)
            if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for whoever writes into it
                self._broken(_identity(status), f"{self._path}: is no regular file; the last good routes stay in force")
                return None
            return status.st_size if _identity(status) != self._seen else None
        except FileNotFoundError:
            if self._seen is not None:
                self._broken(None, f"{self._path}: is gone; the last good routes stay in force")
        except OSError as error:
            self._broken(None, f"{self._path}: {error.strerror}; the last good routes stay in force")
        return None

    def _look(self, *, small_only: bool = False) -> bool:
        """Read the file when it has changed; whether a large one was left to read, by `small_only`."""
        began = time.perf_counter()
        size = self._changed()
        left = size is not None and small_only and size > _LARGE
        if size is not None and not left:
            self._read()
        self._slow = time.perf_counter() - began > _SLOW_S
        return left

    def _elsewhere(self, work: Callable[[], object]) -> bool:
        """Have a thread do it and free the lock. False where none can be started: the interpreter is ending."""
        lock = self._lock

        def work_and_free() -> None:
            try:
                work()
            finally:
                lock.release()

        try:
            threading.Thread(target=work_and_free, name="tierwise-routes", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._seen = _identity(os.fstat(file.fileno()))
                self._table = read_opened(file.fileno(), self._path)
            self.problem = None
        except (RouteError, OSError) as error:
            self._broken(self._seen, f"{error}; the last good routes stay in force")

    def _broken(self, seen: tuple[int, int, int] | None, problem: str) -> None:
        self._seen = seen
        if problem != self.problem:
            self.problem = problem
            _log.warning("%s", problem)


def _forgetting(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    def call() -> None:
        alive = method()
        if alive is not None:
            alive()

    return call


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size

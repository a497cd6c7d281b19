"""Faults inside tierwise: counted by place, logged once per place, raised only where tests ask for it."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from typing import Final

RAISE_VARIABLE: Final = "TIERWISE_RAISE"
_PLACES_LIMIT: Final = 200

_log = logging.getLogger("tierwise")


def raising() -> bool:
    """Whether faults inside tierwise are raised instead of swallowed (`TIERWISE_RAISE=1`, meant for tests)."""
    return os.environ.get(RAISE_VARIABLE) == "1"


class Faults:
    """Counts and logs faults; `count` receives the name of the place."""

    __slots__ = ("_count", "_pending", "_seen")

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count
        self._seen: set[str] = set()
        self._pending: BaseException | None = None

    def note(self, where: str, error: BaseException) -> None:
        """Count a fault and log it once per place; its message is left out, since it may hold the user's data."""
        if where not in self._seen and len(self._seen) >= _PLACES_LIMIT:
            where = "other"
        self._count(where)
        if where in self._seen:
            return
        self._seen.add(where)
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        _log.warning(
            "tierwise: %s in %s%s; the application's call is not affected, its telemetry may be incomplete. "
            "Further faults of this kind are only counted (tierwise.internal.errors); set %s=1 to raise them.",
            type(error).__name__, where, place, RAISE_VARIABLE,
        )  # fmt: skip

    def note_or_raise(self, where: str, error: BaseException) -> None:
        """Like `note`, then raise the same error when `TIERWISE_RAISE=1`."""
        self.note(where, error)
        if raising():
            raise error

    def note_in_background(self, where: str, error: BaseException) -> None:
        """Like `note`; with `TIERWISE_RAISE=1` the error is kept for `raise_pending`, the thread goes on."""
        self.note(where, error)
        if raising() and self._pending is None:
            self._pending = error

    def raise_pending(self) -> None:
        """Raise the first fault of a background thread, once, when `TIERWISE_RAISE=1`."""
        error, self._pending = self._pending, None
        if error is not None and raising():
            raise error

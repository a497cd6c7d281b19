"""`tierwise calls --follow`: calls as they are recorded, line by line."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.text import Text

from tierwise.core.errors import StoreError
from tierwise.surfaces.cli.common import clean, is_there, open_store, out, say

if TYPE_CHECKING:
    from pathlib import Path

    from tierwise.config import Settings
    from tierwise.evidence import CallRow

EVERY_S: Final = 0.5
_NEW_TRIES: Final = 10
"""How often a file that has just appeared is tried: whoever makes it may not be ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which calls to show; `None`: any."""

    task: str | None = None
    model: str | None = None
    outcome: str | None = None

    def takes(self, row: CallRow) -> bool:
        """Whether the call is one of them."""
        pairs = ((self.task, row.task), (self.model, row.candidate), (self.outcome, row.outcome))
        return all(wanted is None or wanted == found for wanted, found in pairs)


def wait_for_store(settings: Settings) -> Path:
    """The path of the store in force, as soon as there is one.

    Raises:
        StoreError: the store is off, or what is there is no store.
    """
    path = settings.store_path
    appeared = path is not None and not is_there(path)
    if path is not None and appeared:
        say(f"waiting for the first call: {path} does not exist yet")
        while not is_there(path):
            time.sleep(EVERY_S)
    for left in reversed(range(_NEW_TRIES if appeared else 1)):
        try:
            with open_store(settings) as store:
                return store.path
        except StoreError:
            if not left:
                raise
            time.sleep(EVERY_S)
    raise AssertionError("unreachable")


def last_id(path: Path) -> int:
    """The id of the call that was recorded last; 0 without any."""
    with closing(_reading(path)) as connection:
        return int(connection.execute("SELECT coalesce(max(id), 0) FROM calls").fetchone()[0])


def new_calls(path: Path, wanted: Wanted, *, after: int) -> Iterator[CallRow]:
    """The calls recorded after the one with id `after`, in the order of recording; never ends.

    The file is opened anew each time: it may be moved away and made again, and then begins at 1.
    """
    from tierwise.evidence.rows import call_row

    faults = 0
    while True:
        time.sleep(EVERY_S)
        if not is_there(path):
            continue
        try:
            newest = last_id(path)
            page = _page(path, 0 if newest < after else after)
            faults = 0
        except sqlite3.OperationalError:  # moved away at this moment, or not ready yet
            faults += 1
            if faults > _NEW_TRIES:
                raise
            continue
        after = min(after, newest)
        for row in map(call_row, page):
            after = row.id
            if wanted.takes(row):
                yield row


def _page(path: Path, after: int) -> list[tuple[object, ...]]:
    from tierwise.evidence.rows import SELECT_CALLS

    with closing(_reading(path)) as connection:
        return connection.execute(f"{SELECT_CALLS} WHERE id > ? ORDER BY id", (after,)).fetchall()


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0)


class Lines:
    """A table that grows at its end: columns are as wide as their widest value so far."""

    def __init__(self, columns: Sequence[str], *, right: Sequence[str] = ()) -> None:
        """`right` names the columns that hold numbers."""
        self._columns, self._right = columns, right
        self._widths = [len(name) for name in columns]

    def head(self) -> None:
        """Print the names of the columns."""
        self._print(Text(self._line(self._columns), style="bold"))

    def widen(self, rows: Sequence[Sequence[str]]) -> None:
        """Make room for rows that are about to be printed."""
        for values in rows:
            self._widths = [max(old, len(clean(value))) for old, value in zip(self._widths, values, strict=True)]

    def row(self, values: Sequence[str], *, style: str = "") -> None:
        """Print one line."""
        self.widen([values])
        self._print(Text(self._line(values), style=style))

    def _line(self, values: Sequence[str]) -> str:
        parts = []
        for name, value, width in zip(self._columns, map(clean, values), self._widths, strict=True):
            parts.append(value.rjust(width) if name in self._right else value.ljust(width))
        return "  ".join(parts).rstrip()

    def _print(self, line: Text) -> None:
        out().print(line, soft_wrap=True)

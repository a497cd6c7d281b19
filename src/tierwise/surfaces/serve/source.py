"""What the live pages are made from, read anew when it is older than a few seconds."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tierwise.core.errors import StoreError
from tierwise.surfaces.report.data import build
from tierwise.surfaces.report.reading import Found, read_all
from tierwise.surfaces.report.view import ReportView

if TYPE_CHECKING:
    from tierwise.config import Settings

FRESH_S: Final = 5.0
_SHARE: Final = 10.0
"""Reading may take a tenth of the time: a view that took long to make is kept longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A view and what it was made from; `found` is `None` while nothing is recorded, `problem` says why."""

    view: ReportView
    found: Found | None
    problem: str = ""


class Source:
    """Reads store, policy, route table and audit log for the pages; usable from several threads."""

    def __init__(self, settings: Settings, *, since: int | None, title: str, simulated: bool = False) -> None:
        self.settings = settings
        self.since = since
        self._title, self._simulated = title, simulated
        self._lock = threading.Lock()
        self._kept: dict[str | None, tuple[float, Seen]] = {}
        self._epoch = 0

    def see(self, task: str | None = None) -> Seen:
        """The view of everything, or of one task.

        Raises:
            TierwiseError: a file is broken, or the task is unknown.
        """
        with self._lock:
            kept = self._kept.get(task)
            if kept is not None and kept[0] > time.monotonic():
                return kept[1]
            started = time.monotonic()
            seen = self._read(task)
            now = time.monotonic()
            if len(self._kept) > 50:
                self._kept.clear()
            self._kept[task] = (now + max(FRESH_S, _SHARE * (now - started)), seen)
            return seen

    def forget(self) -> None:
        """Read everything anew at the next look: something was changed."""
        with self._lock:
            self._kept.clear()

    def models(self) -> set[str]:
        """The models of what was seen last; nothing is read for it."""
        kept = list(self._kept.values())  # without the lock: a view in the making would hold up whoever asks
        found = [seen.found for _, seen in kept if seen.found is not None]
        return {name for one in found for sums in one.sums for name in sums.candidates}

    def state(self) -> str:
        """A short text that changes when a call is recorded or the route table changes."""
        from tierwise.surfaces.cli.common import open_store

        parts: list[object] = []
        try:
            with open_store(self.settings) as store:
                parts += [(row.started_at_ns, row.id) for row in store.calls(limit=1, newest_first=True)]
        except StoreError:
            parts.append("none")
        for path in (self.settings.routes_path, self.settings.audit_path):
            try:
                known = path.stat()
                parts.append((known.st_mtime_ns, known.st_size))
            except OSError:
                parts.append(None)
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def _read(self, task: str | None) -> Seen:
        from tierwise.surfaces.cli.common import is_there

        path = self.settings.store_path
        nothing = path is None or not is_there(path)
        found, problem = None, ""
        try:
            found = read_all(self.settings, since=self.since, tasks=() if task is None else (task,), quiet=True)
        except StoreError as error:
            if task is not None and not nothing:
                raise
            problem = str(error)
        view = build(
            calls=found.calls if found is not None else (),
            recommendations=found.recommendations if found is not None else (),
            title=self._title,
            simulated=self._simulated,
            notes=(*found.notes, *found.problems) if found is not None else (problem,),
            generated_at=found.at if found is not None else int(time.time()),
            store=str(path),
            latency_scale=1.0,
            sums=found.sums if found is not None else (),
            history=found.history if found is not None else (),
            table_version=found.table_version if found is not None else None,
        )
        return Seen(view=view, found=found, problem=problem)

"""The audit log: one JSON line a decision or change, appended for good; history and every past table come from it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

from tierwise.core.errors import RouteError
from tierwise.core.route import Route, RouteTable
from tierwise.routing import locked, owner_folder, route_from_json, route_to_json

Action = Literal["promote", "trial", "pin", "rollback", "none"]
ACTIONS: Final[tuple[Action, ...]] = ("promote", "trial", "pin", "rollback", "none")
"""What was done: a new primary, a canary, a first route that keeps the incumbent, back, or nothing."""

MAX_LINE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One decision or change. Times are Unix seconds; `before` and `after` are equal when nothing changed.

    `version` is the table's version after the change; `change` is shared by the entries of one change of the table.
    """

    by: str
    at: int
    action: Action
    task: str
    version: int
    change: str
    automatic: bool = False
    verdict: str = ""
    grade: str = ""
    evidence_hash: str = ""
    reasons: tuple[Mapping[str, str], ...] = ()
    before: Route | None = None
    after: Route | None = None
    note: str = ""

    @property
    def changed(self) -> bool:
        """Whether the route table changed with this entry."""
        return self.action != "none"

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        return {
            "at": self.at,
            "by": self.by,
            "automatic": self.automatic,
            "action": self.action,
            "task": self.task,
            "verdict": self.verdict,
            "grade": self.grade,
            "evidence_hash": self.evidence_hash,
            "reasons": [dict(reason) for reason in self.reasons],
            "version": self.version,
            "change": self.change,
            "before": None if self.before is None else route_to_json(self.before),
            "after": None if self.after is None else route_to_json(self.after),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the log holds, oldest first, and the lines that could not be read (a torn one after a crash, say)."""

    entries: tuple[AuditEntry, ...] = ()
    problems: tuple[str, ...] = field(default=())


def new_change() -> str:
    """A name for one change of the table, unique for all time."""
    return uuid.uuid4().hex


def append(path: Path, entries: Sequence[AuditEntry], *, timeout_s: float = 5.0) -> None:
    """Append entries at once and make them durable, under the log's lock; the file belongs to its owner alone.

    A line that a crash left unfinished is closed first, so it spoils nothing after it.

    Raises:
        RouteError: the log is locked for too long or cannot be written (a full disk): nothing may be changed then.
    """
    if not entries:
        return
    lines = "".join(json.dumps(entry.to_json(), allow_nan=False, separators=(",", ":")) + "\n" for entry in entries)
    with locked(path, timeout_s=timeout_s):
        try:
            owner_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _write_all(descriptor, _closing(descriptor) + lines.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RouteError(
                f"{path}: the audit log cannot be written: {error.strerror}; nothing was changed"
            ) from None


def _closing(descriptor: int) -> bytes:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0:
        return b""
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return b"" if os.read(descriptor, 1) == b"\n" else b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def read_history(path: Path, *, task: str | None = None) -> History:
    """Read the log; a missing file is an empty history, a broken line is a problem that names its number.

    Raises:
        RouteError: the file is there and cannot be opened.
    """
    entries: list[AuditEntry] = []
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                try:
                    entries.append(_entry(line, f"{path}:{number}"))
                except (ValueError, RouteError, RecursionError) as error:
                    torn = not line.endswith(b"\n")
                    what = (
                        "the last line is unfinished (a crash while writing); ignored"
                        if torn
                        else f"unreadable: {error}"
                    )
                    problems.append(f"{path}:{number}: {what}")
    except FileNotFoundError:
        return History()
    except OSError as error:
        raise RouteError(f"{path}: cannot be read: {error.strerror}") from None
    if task is not None:
        entries = [entry for entry in entries if entry.task == task]
    return History(entries=tuple(entries), problems=tuple(problems))


def _entry(line: bytes, where: str) -> AuditEntry:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004
    task, action = _text(value, "task"), _text(value, "action")
    if action not in ACTIONS:
        raise ValueError(f"unknown action {action!r}")
    reasons = value.get("reasons", [])
    if not isinstance(reasons, list) or not all(isinstance(reason, dict) for reason in reasons):
        raise ValueError("reasons must be a list of objects")
    return AuditEntry(
        by=_text(value, "by"),
        at=_whole(value, "at"),
        action=action,
        task=task,
        version=_whole(value, "version"),
        change=_text(value, "change"),
        automatic=value.get("automatic") is True,
        verdict=_text(value, "verdict"),
        grade=_text(value, "grade"),
        evidence_hash=_text(value, "evidence_hash"),
        reasons=tuple({str(key): str(item) for key, item in reason.items()} for reason in reasons),
        before=_route(value.get("before"), task, f"{where}: before"),
        after=_route(value.get("after"), task, f"{where}: after"),
        note=_text(value, "note"),
    )


def _text(value: Mapping[str, Any], key: str) -> str:
    item = value.get(key, "")
    if not isinstance(item, str):
        raise ValueError(f"{key} must be text")  # noqa: TRY004
    return item


def _whole(value: Mapping[str, Any], key: str) -> int:
    item = value.get(key)
    if not isinstance(item, int) or isinstance(item, bool) or item < 0:
        raise ValueError(f"{key} must be a whole number")
    return item


def _route(value: object, task: str, where: str) -> Route | None:
    return None if value is None else route_from_json(value, task=task, where=where)


def real_entries(entries: Iterable[AuditEntry], *, current_version: int | None = None) -> list[AuditEntry]:
    """The entries without those whose table never came to be.

    Entries are written before their table. After a crash between the two, the next change has the same version and
    another `change`; with nothing after it, the table's `current_version` is below the entry's.
    """
    listed = list(entries)
    groups = list({entry.change: entry.version for entry in listed if entry.changed}.items())
    never = {change for (change, version), (_, later) in pairwise(groups) if later == version}
    if groups and current_version is not None and groups[-1][1] == current_version + 1:
        never.add(groups[-1][0])
    return [entry for entry in listed if not entry.changed or entry.change not in never]


def routes_from_audit(entries: Iterable[AuditEntry]) -> dict[int, RouteTable]:
    """Every table that ever was, by version, rebuilt from the log alone (the empty table 0 included).

    A version that goes down says that the route file was removed: the tables start anew and replace older ones.
    """
    tables = {0: RouteTable()}
    routes: dict[str, Route] = {}
    version = 0
    for entry in real_entries(entries):
        if not entry.changed:
            continue
        if entry.version < version:
            routes.clear()
            tables = {number: table for number, table in tables.items() if number < entry.version}
        version = entry.version
        if entry.after is None:
            routes.pop(entry.task, None)
        else:
            routes[entry.task] = entry.after
        tables[version] = RouteTable(version=version, updated_at=entry.at, routes=dict(sorted(routes.items())))
    return tables

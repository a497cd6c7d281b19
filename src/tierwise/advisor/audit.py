"""The audit log: one JSON line a decision or change, appended for good; history and every past table come from it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final, Literal

from tierwise.core.errors import RouteError
from tierwise.core.route import Route, RouteTable
from tierwise.routing import locked, owner_folder, route_from_json, route_to_json

Action = Literal["promote", "trial", "stage", "pin", "rollback", "abort", "traffic", "none"]
ACTIONS: Final[tuple[Action, ...]] = ("promote", "trial", "stage", "pin", "rollback", "abort", "traffic", "none")
"""What was done: a new primary, a canary, its next stage, a first route that keeps the incumbent, back, the end of a
canary by hand, another split of the traffic (nothing that has a name changed), or nothing."""

MAX_LINE: Final = 1 << 20
_LINE_TASKS: Final = 500
"""Tasks in one line of traffic: at most about a third of `MAX_LINE`."""
_TRAFFIC: Final = b'{"action":"traffic",'
"""How a line of compact traffic begins; other lines begin with `at`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSet:
    """What a compact line says about one task: the evidence behind it, and the fields of the route as JSON values."""

    fields: Mapping[str, Any]
    evidence_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One decision or change. Times are Unix seconds; `before` and `after` are equal when nothing changed.

    `version` is the table's version after the change; `change` is shared by the entries of one change of the table.
    With `traffic`, one entry stands for many tasks at once whose route changed in what it remembers alone (the split
    of the traffic, as a rule, every hour): by task, the hash of the evidence and the fields set. `task` is empty then.
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
    traffic: Mapping[str, TrafficSet] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the route table changed with this entry."""
        return self.action != "none"

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        if self.traffic:
            return {
                "action": self.action,
                "at": self.at,
                "by": self.by,
                "automatic": self.automatic,
                "version": self.version,
                "change": self.change,
                "tasks": {
                    task: {"hash": item.evidence_hash, "set": dict(item.fields)} for task, item in self.traffic.items()
                },
            }
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


def compact(entries: Iterable[AuditEntry]) -> list[AuditEntry]:
    """The entries with those of traffic drawn together, many tasks in one line each.

    Traffic stays an entry of its own where it says a verdict, where the task had no route before, and where primary,
    canary or ladder changed: then it is no mere split.
    """
    kept: list[AuditEntry] = []
    drawn: list[tuple[AuditEntry, TrafficSet]] = []
    for entry in entries:
        small = None if entry.verdict or entry.action != "traffic" else _fields_set(entry.before, entry.after)
        if small is None:
            kept.append(entry)
        else:
            drawn.append((entry, TrafficSet(fields=small, evidence_hash=entry.evidence_hash)))
    for start in range(0, len(drawn), _LINE_TASKS):
        part = drawn[start : start + _LINE_TASKS]
        first = part[0][0]
        items = {entry.task: item for entry, item in part}
        kept.append(
            replace(first, task="", evidence_hash="", grade="", before=None, after=None, note="", traffic=items)
        )
    return kept


def _fields_set(before: Route | None, after: Route | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    old, new = route_to_json(before), route_to_json(after)
    changed = {name: value for name, value in new.items() if value != old[name]}
    return None if changed.keys() & {"primary", "canary", "ladder", "fallbacks"} else changed


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


def read_history(path: Path, *, task: str | None = None, traffic: bool = True) -> History:
    """Read the log; a missing file is an empty history, a broken line is a problem that names its number.

    With `task`, the entries of that task, and compact traffic that has it. Without `traffic` the compact lines are there
    with nothing in them: enough to tell which changes came to be, and small where a fleet splits traffic every hour.

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
                    entries.append(_entry(line, f"{path}:{number}", traffic=traffic))
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
        entries = [entry for entry in entries if entry.task == task or task in entry.traffic]
    return History(entries=tuple(entries), problems=tuple(problems))


def last_verdicts(path: Path) -> dict[str, str]:
    """The verdict that the log names last for each task; lines that cannot be read say nothing.

    Raises:
        RouteError: the file is there and cannot be opened.
    """
    found: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                if line.startswith(_TRAFFIC):
                    continue
                try:
                    value = json.loads(line)
                    task, verdict = _text(value, "task"), _text(value, "verdict")
                except (ValueError, AttributeError, RecursionError):
                    continue
                if verdict:
                    found[task] = verdict
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RouteError(f"{path}: cannot be read: {error.strerror}") from None
    return found


def _entry(line: bytes, where: str, *, traffic: bool) -> AuditEntry:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004
    if "tasks" in value:
        return AuditEntry(
            by=_text(value, "by"), at=_whole(value, "at"), action="traffic", task="", version=_whole(value, "version"),
            change=_text(value, "change"), automatic=value.get("automatic") is True,
            traffic=_traffic(value["tasks"]) if traffic else {},
        )  # fmt: skip
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


def _traffic(value: object) -> dict[str, TrafficSet]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ValueError("tasks must be an object of objects")
    sets = {task: (item.get("set", {}), _text(item, "hash")) for task, item in value.items()}
    if not all(isinstance(given, dict) for given, _ in sets.values()):
        raise ValueError("set must be an object")
    return {task: TrafficSet(fields=given, evidence_hash=known) for task, (given, known) in sets.items()}


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

    Raises:
        RouteError: a compact line sets what no route can hold.
    """
    tables = {0: RouteTable()}
    routes: dict[str, Route] = {}
    version = 0
    changed = (entry for entry in real_entries(entries) if entry.changed)
    for _, group in groupby(changed, key=lambda entry: entry.change):
        for entry in group:
            if entry.version < version:
                routes.clear()
                tables = {number: table for number, table in tables.items() if number < entry.version}
            version = entry.version
            _put(routes, entry)
        tables[version] = RouteTable(version=version, updated_at=entry.at, routes=dict(sorted(routes.items())))
    return tables


def _put(routes: dict[str, Route], entry: AuditEntry) -> None:
    for task, item in entry.traffic.items():
        if task in routes:
            value = {**route_to_json(routes[task]), **item.fields}
            routes[task] = route_from_json(value, task=task, where=f"the audit log's version {entry.version}")
    if entry.traffic or not entry.task:
        return
    if entry.after is None:
        routes.pop(entry.task, None)
    else:
        routes[entry.task] = entry.after

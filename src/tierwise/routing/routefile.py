"""The route file: one versioned JSON document, replaced atomically, changed only by compare-and-swap."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from tierwise.core.errors import RouteError
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing.files import locked, replace_file

FORMAT: Final = "tierwise-routes/1"
MAX_BYTES: Final = 8 << 20
MAX_NAME: Final = 200
MAX_ITEMS: Final = 50
MAX_TASKS: Final = 10_000
_MAX_TIME: Final = 1 << 40

T = TypeVar("T")


# --- JSON --------------------------------------------------------------------------------------------------------


def table_to_json(table: RouteTable) -> str:
    """The table as JSON text, tasks in order of their names."""
    document = {
        "format": FORMAT,
        "version": table.version,
        "updated_at": table.updated_at,
        "routes": {task: route_to_json(table.routes[task]) for task in sorted(table.routes)},
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def route_to_json(route: Route) -> dict[str, Any]:
    """One route as plain JSON values, without its task."""
    canary = route.canary
    return {
        "primary": route.primary,
        "fallbacks": list(route.fallbacks),
        "ladder": list(route.ladder),
        "canary": None
        if canary is None
        else {
            "candidate": canary.candidate,
            "share": canary.share,
            "stage": canary.stage,
            "started_at": canary.started_at,
        },
        "since": route.since,
        "cooldown_until": route.cooldown_until,
        "backoff": dict(sorted(route.backoff.items())),
        "propensities": dict(sorted(route.propensities.items())),
        "epochs": dict(sorted(route.epochs.items())),
        "drifted": dict(sorted(route.drifted.items())),
        "primary_drifted_at": route.primary_drifted_at,
        "dropped": dict(sorted(route.dropped.items())),
        "failed": dict(sorted(route.failed.items())),
    }


def table_from_json(text: str, *, where: str) -> RouteTable:
    """Read a route table, strictly: `where` names the source in errors.

    Raises:
        RouteError: not JSON, a wrong type, a value out of bounds or an unknown field; says where.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RouteError(
            f"{where}: not a route table: {error}; correct it, or move it away and `tierwise apply` anew"
        ) from None
    top = _Reader(where=where).mapping(document, "", ("format", "version", "updated_at", "routes"))
    reader = _Reader(where=where)
    if top.get("format") != FORMAT:
        raise reader.wrong("format", f"is {top.get('format')!r}, this tierwise reads {FORMAT!r}; update tierwise")
    routes = reader.mapping(top.get("routes"), "routes", None, limit=MAX_TASKS)
    return RouteTable(
        version=reader.whole(top.get("version"), "version"),
        updated_at=reader.whole(top.get("updated_at", 0), "updated_at"),
        routes={
            reader.name(task, f"routes[{task!r:.80}]"): route_from_json(
                value, task=task, where=where, at=f"routes[{task!r:.80}]"
            )
            for task, value in routes.items()
        },
    )


def route_from_json(value: object, *, task: str, where: str, at: str = "route") -> Route:
    """Read one route, strictly.

    Raises:
        RouteError: as `table_from_json`.
    """
    reader = _Reader(where=where)
    known = tuple(field.name for field in fields(Route) if field.name != "task")
    given = reader.mapping(value, at, known)
    return Route(
        task=task,
        primary=reader.name(given.get("primary"), f"{at}.primary"),
        fallbacks=reader.names(given.get("fallbacks", []), f"{at}.fallbacks"),
        ladder=reader.names(given.get("ladder", []), f"{at}.ladder"),
        canary=reader.canary(given.get("canary"), f"{at}.canary"),
        since=reader.whole(given.get("since", 0), f"{at}.since"),
        cooldown_until=reader.whole(given.get("cooldown_until", 0), f"{at}.cooldown_until"),
        backoff=reader.by_name(given.get("backoff", {}), f"{at}.backoff", reader.whole),
        propensities=reader.by_name(given.get("propensities", {}), f"{at}.propensities", reader.share),
        epochs=reader.by_name(given.get("epochs", {}), f"{at}.epochs", reader.name),
        drifted=reader.by_name(given.get("drifted", {}), f"{at}.drifted", reader.whole),
        primary_drifted_at=reader.whole(given.get("primary_drifted_at", 0), f"{at}.primary_drifted_at"),
        dropped=reader.by_name(given.get("dropped", {}), f"{at}.dropped", reader.epoch),
        failed=reader.by_name(given.get("failed", {}), f"{at}.failed", reader.epoch),
    )


class RouteChangedError(RouteError):
    """The table has another version than the change was made from; read it and decide again."""


class _Reader:
    """Takes values out of hostile JSON; every error says where."""

    __slots__ = ("_where",)

    def __init__(self, *, where: str) -> None:
        self._where = where

    def wrong(self, at: str, what: str) -> RouteError:
        return RouteError(f"{self._where}: {at or 'the document'} {what}")

    def mapping(
        self, value: object, at: str, known: tuple[str, ...] | None, *, limit: int = MAX_ITEMS
    ) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(at, "must be an object")
        if known is not None and (unknown := [key for key in value if key not in known]):
            raise self.wrong(
                f"{at + '.' if at else ''}{unknown[0]:.80}",
                f"is unknown; known are {', '.join(known)}; if a newer tierwise has written it, update tierwise",
            )
        if len(value) > limit:
            raise self.wrong(at, f"has more than {limit:,} entries")
        return value

    def name(self, value: object, at: str) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
            raise self.wrong(at, f"must be text of 1 to {MAX_NAME} characters")
        if any(
            character < " " or "\x7f" <= character <= "\x9f" or "\ud800" <= character <= "\udfff" for character in value
        ):
            raise self.wrong(at, "holds control characters")
        return value

    def names(self, value: object, at: str) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise self.wrong(at, f"must be a list of at most {MAX_ITEMS} names")
        result = tuple(self.name(item, f"{at}[{i}]") for i, item in enumerate(value))
        if len(set(result)) < len(result):
            raise self.wrong(at, "names something twice")
        return result

    def by_name(self, value: object, at: str, read: Callable[[object, str], T]) -> dict[str, T]:
        given = self.mapping(value, at, None)
        return {self.name(key, at): read(item, f"{at}[{key!r:.80}]") for key, item in given.items()}

    def epoch(self, value: object, at: str) -> str:
        """An epoch; empty for a candidate of which none was known."""
        return "" if value == "" else self.name(value, at)

    def whole(self, value: object, at: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MAX_TIME:
            raise self.wrong(at, "must be a whole number of 0 or more")
        return value

    def share(self, value: object, at: str) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise self.wrong(at, "must be a number")
        if not 0 <= value <= 1:
            raise self.wrong(at, "must be between 0 and 1")
        return float(value)

    def canary(self, value: object, at: str) -> Canary | None:
        if value is None:
            return None
        given = self.mapping(value, at, tuple(field.name for field in fields(Canary)))
        return Canary(
            candidate=self.name(given.get("candidate"), f"{at}.candidate"),
            share=self.share(given.get("share"), f"{at}.share"),
            stage=self.whole(given.get("stage", 0), f"{at}.stage"),
            started_at=self.whole(given.get("started_at", 0), f"{at}.started_at"),
        )


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("an object has the same key twice")
    return result


# --- the file ----------------------------------------------------------------------------------------------------


def read_table(path: Path) -> RouteTable:
    """The table in the file; one of version 0 without routes when there is no file.

    Raises:
        RouteError: the file cannot be read or is not a valid table.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for whoever writes into it
            raise RouteError(f"{path}: is no regular file, so not a route table; name another with TIERWISE_ROUTES")
        with path.open("rb") as file:
            return read_opened(file.fileno(), path)
    except FileNotFoundError:
        return RouteTable()
    except OSError as error:
        raise RouteError(f"{path}: cannot be read: {error.strerror}") from None


def write_table(path: Path, table: RouteTable, *, expected_version: int, timeout_s: float = 5.0) -> RouteTable:
    """Write a table over one of `expected_version`; returns it with its new version, `expected_version` + 1.

    Raises:
        RouteChangedError: the file has another version by now.
        RouteError: it is broken, locked for too long or not writable.
    """
    return update_table(path, lambda _: table, expected_version=expected_version, timeout_s=timeout_s)


def update_table(
    path: Path,
    change: Callable[[RouteTable], RouteTable],
    *,
    expected_version: int | None = None,
    before_write: Callable[[RouteTable, RouteTable], None] | None = None,
    timeout_s: float = 5.0,
) -> RouteTable:
    """Change the table under the file's lock; the version grows by one unless `change` returns the same routes.

    `before_write(old, new)` runs under the lock just before the new table replaces the old one, so a change that
    cannot be audited is not made. The caller sets `updated_at`.

    Raises:
        RouteChangedError: its version is not `expected_version`.
        RouteError: the file is broken, locked for too long or not writable.
    """
    with locked(path, timeout_s=timeout_s):
        old = read_table(path)
        if expected_version is not None and old.version != expected_version:
            raise RouteChangedError(
                f"{path}: is at version {old.version}, not {expected_version}: somebody changed it meanwhile; "
                "look at `tierwise history` and plan again"
            )
        changed = change(old)
        if changed.routes == old.routes:
            return old
        new = replace(changed, version=old.version + 1)
        text = table_to_json(new)
        table_from_json(text, where="the new table")
        if before_write is not None:
            before_write(old, new)
        try:
            replace_file(path, text.encode())
        except OSError as error:
            raise RouteError(f"{path}: cannot be written: {error.strerror}") from None
        return new


def read_opened(descriptor: int, path: Path) -> RouteTable:
    """Read through an open descriptor, so that content and `fstat` belong together. Raises as `read_table`."""
    if os.fstat(descriptor).st_size > MAX_BYTES:
        raise RouteError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so not a route table")
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise RouteError(f"{path}: not UTF-8, so not a route table") from None
    return table_from_json(text, where=str(path))

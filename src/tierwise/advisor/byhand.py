"""What people change by hand: promote a candidate, end a canary, go back; each with an audit entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from tierwise.advisor.apply import (
    DEFAULT_COOLDOWN_S,
    Applied,
    Change,
    epochs_of,
    log_changes,
    others,
    refuted,
    with_changes,
)
from tierwise.advisor.audit import AuditEntry, read_history, real_entries
from tierwise.core.errors import RouteError
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Route, RouteTable
from tierwise.routing import read_table, update_table


def rollback(
    task: str,
    *,
    routes_path: Path,
    audit_path: Path,
    now: int,
    by: str,
    cooldown_s: float = DEFAULT_COOLDOWN_S,
    automatic: bool = False,
    note: str = "",
    expected_version: int | None = None,
    dry_run: bool = False,
    timeout_s: float = 5.0,
) -> Applied:
    """Return a task to the route it had before its last change; again, to the one before that.

    A canary is one change from its start to its end, whatever its stages; a new split of the traffic is none. The
    candidate that was left backs off and the task cools down for `cooldown_s`, or the next plan would undo the rollback
    at once. A task that had no route before has none again.

    Raises:
        RouteError: nothing to go back to, or as `apply`.
    """

    def change(table: RouteTable) -> Change:
        return _back(task, table, audit_path, now, cooldown_s, note)

    return _changed(
        change, routes_path, audit_path, now, by, automatic=automatic, expected_version=expected_version,
        dry_run=dry_run, timeout_s=timeout_s,
    )  # fmt: skip


def promote(
    task: str,
    model: str | None = None,
    *,
    routes_path: Path,
    audit_path: Path,
    now: int,
    by: str,
    recommendation: Recommendation | None = None,
    cooldown_s: float = DEFAULT_COOLDOWN_S,
    note: str = "",
    expected_version: int | None = None,
    dry_run: bool = False,
    timeout_s: float = 5.0,
) -> Applied:
    """Make `model` the primary of a task, or the candidate of its canary when none is named.

    The old primary becomes the first fallback, unless `recommendation` (what the evidence says at present) has it
    refuted; the task cools down, and what barred the model is forgotten.

    Raises:
        RouteError: no canary runs and no model is named, it is the primary already, or as `apply`.
    """

    def change(table: RouteTable) -> Change:
        route = table.routes.get(task)
        canary = route.canary if route is not None else None
        name = model or (canary.candidate if canary is not None else None)
        if name is None:
            raise RouteError(f"{task}: no canary runs; name the candidate: `tierwise promote {task} MODEL`")
        if route is not None and route.primary == name and canary is None:
            raise RouteError(f"{task}: {name} is the primary already; nothing to promote")
        after = _moved(task, name, route, recommendation, now, cooldown_s)
        return Change(
            task=task,
            action="promote",
            before=route,
            after=after,
            recommendation=recommendation,
            note=note or "by hand",
        )

    return _changed(
        change, routes_path, audit_path, now, by, automatic=False, expected_version=expected_version,
        dry_run=dry_run, timeout_s=timeout_s,
    )  # fmt: skip


def abort(
    task: str,
    *,
    routes_path: Path,
    audit_path: Path,
    now: int,
    by: str,
    backoff_s: float = DEFAULT_COOLDOWN_S,
    epoch: str | None = None,
    note: str = "",
    expected_version: int | None = None,
    dry_run: bool = False,
    timeout_s: float = 5.0,
) -> Applied:
    """End a task's canary: all its traffic goes back to the primary, and the challenger backs off for `backoff_s` seconds.

    With its `epoch` it is barred as after a failed canary: until its model, price, parameters or prompt version change.

    Raises:
        RouteError: no canary runs, or as `apply`.
    """

    def change(table: RouteTable) -> Change:
        route = table.routes.get(task)
        if route is None or route.canary is None:
            raise RouteError(
                f"{task}: no canary runs, so there is none to abort; `tierwise rollback {task}` undoes a promotion"
            )
        name = route.canary.candidate
        after = replace(
            route,
            canary=None,
            cooldown_until=max(route.cooldown_until, now + int(backoff_s)),
            backoff={**_open(route, now), name: now + int(backoff_s)},
            failed={**route.failed, name: epoch} if epoch else route.failed,
            propensities={route.primary: 1.0},
        )
        return Change(task=task, action="abort", before=route, after=after, note=note)

    return _changed(
        change, routes_path, audit_path, now, by, automatic=False, expected_version=expected_version,
        dry_run=dry_run, timeout_s=timeout_s,
    )  # fmt: skip


def _changed(
    make: Callable[[RouteTable], Change],
    routes_path: Path,
    audit_path: Path,
    now: int,
    by: str,
    *,
    automatic: bool,
    expected_version: int | None,
    dry_run: bool,
    timeout_s: float,
) -> Applied:
    done: list[Change] = []

    def change(table: RouteTable) -> RouteTable:
        done.append(make(table))
        return with_changes(table, done, now)

    def audit(_: RouteTable, new: RouteTable) -> None:
        log_changes(audit_path, done, new.version, now, by, automatic=automatic, timeout_s=timeout_s)

    if dry_run:
        table = read_table(routes_path)
        change(table)
    else:
        table = update_table(
            routes_path, change, expected_version=expected_version, before_write=audit, timeout_s=timeout_s
        )
    return Applied(table=table, changes=tuple(done))


def _moved(
    task: str, primary: str, route: Route | None, item: Recommendation | None, now: int, cooldown_s: float
) -> Route:
    old = route.primary if route is not None else item.current if item is not None else None
    bad = refuted(item) if item is not None else frozenset()
    known = item.fallbacks if item is not None else route.fallbacks if route is not None else ()
    behind = [name for name in (old, *known) if name is not None and name not in bad] or [old or primary]
    blank = route if route is not None else Route(task=task, primary=primary)
    rungs = blank.ladder or (item.ladder if item is not None else ())
    return replace(
        blank,
        primary=primary,
        fallbacks=others(behind, primary),
        ladder=(primary, *others(rungs, primary))[: len(rungs)],
        canary=None,
        since=now,
        cooldown_until=now + int(cooldown_s),
        backoff={name: until for name, until in _open(blank, now).items() if name != primary},
        propensities={primary: 1.0},
        epochs=epochs_of(item) if item is not None else blank.epochs,
        primary_drifted_at=0,
        dropped={},
        failed={name: epoch for name, epoch in blank.failed.items() if name != primary},
    )


def _open(route: Route, now: int) -> dict[str, int]:
    return {name: until for name, until in route.backoff.items() if until > now}


# --- going back --------------------------------------------------------------------------------------------------


def _back(task: str, table: RouteTable, audit_path: Path, now: int, cooldown_s: float, note: str) -> Change:
    route = table.routes.get(task)
    past = _past(task, read_history(audit_path, traffic=False).entries, table.version)
    if not past:
        raise RouteError(f"{task}: nothing to go back to; {audit_path} holds no change of this task that still stands")
    before = past[-1]
    after = None if before is None else _restored(before, route, now, cooldown_s)
    return Change(task=task, action="rollback", before=route, after=after, note=note)


def can_roll_back(task: str, entries: Iterable[AuditEntry], version: int) -> bool:
    """Whether `rollback` has somewhere to go back to; `version` is that of the route table."""
    return bool(_past(task, entries, version))


def _past(task: str, entries: Iterable[AuditEntry], version: int) -> list[Route | None]:
    """The routes that can be gone back to, the last one first to go to."""
    past: list[Route | None] = []
    running, seen = False, 0
    for entry in real_entries(entries, current_version=version):
        if not entry.changed:
            continue
        if entry.version < seen:
            past.clear()
            running = False
        seen = entry.version
        if entry.task != task or entry.action in ("traffic", "stage"):
            continue
        if entry.action in ("rollback", "abort"):
            if past:
                past.pop()
        elif not running:
            past.append(entry.before)
        running = entry.action == "trial"
    return past


def _restored(before: Route, left: Route | None, now: int, cooldown_s: float) -> Route:
    """An old route again, with all that has been learnt since."""
    until = now + int(cooldown_s)
    back = replace(
        before,
        canary=None,
        propensities={before.primary: 1.0},
        since=now,
        cooldown_until=until,
        backoff=_open(before, now),
    )
    if left is None:
        return back
    backoff = {**back.backoff, **_open(left, now)}
    moved = left.primary != before.primary
    gone = left.primary if moved else left.canary.candidate if left.canary else None
    if gone is not None and gone != before.primary:
        backoff[gone] = until
    return replace(
        back,
        backoff=backoff,
        drifted=left.drifted,
        primary_drifted_at=0 if moved else left.primary_drifted_at,
        dropped={} if moved else left.dropped,
        failed=left.failed,
    )

"""Changing routes: apply recommendations, go back, and leave an audit entry for each, never a change without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tierwise.advisor.audit import Action, AuditEntry, append, new_change, read_history, real_entries
from tierwise.core.errors import RouteError
from tierwise.core.policy import Policy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import read_table, route_to_json, update_table

FIRST_SHARE: Final = 0.25
"""Share of the traffic with which a canary starts."""

DEFAULT_COOLDOWN_S: Final = 12 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What applying one recommendation does to its task's route; `none` leaves it and says why in `note`."""

    task: str
    action: Action
    before: Route | None
    after: Route | None
    recommendation: Recommendation | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "task": self.task,
            "action": self.action,
            "verdict": self.recommendation.verdict if self.recommendation is not None else None,
            "before": None if self.before is None else route_to_json(self.before),
            "after": None if self.after is None else route_to_json(self.after),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The outcome of `apply` or `rollback`: the table in force afterwards and each change."""

    table: RouteTable
    changes: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        """Whether the route file changed."""
        return any(change.action != "none" for change in self.changes)


def changes_of(
    recommendations: Sequence[Recommendation],
    table: RouteTable,
    *,
    now: int,
    policy: Policy | None = None,
    trial: bool = False,
    pin: bool = True,
) -> tuple[Change, ...]:
    """What each recommendation would do to the table; pure, so `--dry-run` and `apply` cannot differ.

    PROMOTE moves the primary; the old one becomes the first fallback unless its guardrails refute it. TRIAL starts a
    canary at 25 % when `trial` asks for it. KEEP writes a first route when `pin` is true and there is none. HOLD and
    INSUFFICIENT change nothing.
    """
    return tuple(_change(item, table.routes.get(item.task), now, policy, trial, pin) for item in recommendations)


def apply(
    recommendations: Sequence[Recommendation],
    *,
    routes_path: Path,
    audit_path: Path,
    now: int,
    by: str,
    expected_version: int,
    policy: Policy | None = None,
    trial: bool = False,
    pin: bool = True,
    automatic: bool = False,
    timeout_s: float = 5.0,
) -> Applied:
    """Apply recommendations made from the table of `expected_version`, and append each change to the audit log.

    What changes nothing is logged only where the verdict is not the one that the log last names for its task, so the log
    tells when and why a verdict came and is not filled by those who look every hour.

    Raises:
        RouteError: the table has changed since, the file or the log is broken, locked or not writable; the routes are
            then as they were.
    """
    done: list[Change] = []

    def change(table: RouteTable) -> RouteTable:
        done.extend(changes_of(recommendations, table, now=now, policy=policy, trial=trial, pin=pin))
        return _with(table, done, now)

    def audit(_: RouteTable, new: RouteTable) -> None:
        append(audit_path, _entries(_news(done, audit_path), new.version, now, by, automatic), timeout_s=timeout_s)

    table = update_table(
        routes_path, change, expected_version=expected_version, before_write=audit, timeout_s=timeout_s
    )
    if all(item.action == "none" for item in done):
        audit(table, table)
    return Applied(table=table, changes=tuple(done))


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

    The candidate that was left backs off and the task cools down for `cooldown_s`, or the next plan would undo the
    rollback at once. A task that had no route before has none again.

    Raises:
        RouteError: nothing to go back to, or as `apply`.
    """
    done: list[Change] = []

    def change(table: RouteTable) -> RouteTable:
        done.append(_back(task, table, audit_path, now, cooldown_s, note))
        return _with(table, done, now)

    def audit(_: RouteTable, new: RouteTable) -> None:
        append(audit_path, _entries(done, new.version, now, by, automatic), timeout_s=timeout_s)

    if dry_run:
        table = read_table(routes_path)
        change(table)
    else:
        table = update_table(
            routes_path, change, expected_version=expected_version, before_write=audit, timeout_s=timeout_s
        )
    return Applied(table=table, changes=tuple(done))


# --- one task ----------------------------------------------------------------------------------------------------


def _change(
    item: Recommendation, route: Route | None, now: int, policy: Policy | None, trial: bool, pin: bool
) -> Change:
    after, action, note = _decided(item, route, now, policy, trial, pin)
    return Change(task=item.task, action=action, before=route, after=after, recommendation=item, note=note)


def _decided(
    item: Recommendation, route: Route | None, now: int, policy: Policy | None, trial: bool, pin: bool
) -> tuple[Route | None, Action, str]:
    note = item.reasons[0].text if item.reasons else "nothing to change"
    if item.verdict == "PROMOTE" and item.primary is not None:
        if route is None or route.primary != item.primary:
            return _promoted(item, item.primary, route, now, policy), "promote", ""
        note = f"{item.primary} is the primary already"
    elif item.verdict == "TRIAL" and item.challenger is not None:
        running = route.canary.candidate if route is not None and route.canary is not None else None
        if trial and running != item.challenger:
            return _trial(item, item.challenger, route, now), "trial", ""
        how = "is running already" if trial else "starts only when asked for (--trial)"
        note = f"the trial of {item.challenger} {how}"
    elif item.verdict == "KEEP" and item.primary is not None:
        if route is None and pin:
            return _first(item, item.primary, now), "pin", ""
        note = "the route stays as it is" if route is not None else "no first route is written without being asked"
    return route, "none", note


def _promoted(item: Recommendation, primary: str, route: Route | None, now: int, policy: Policy | None) -> Route:
    old = route.primary if route is not None else item.current
    own = policy.for_task(item.task) if policy is not None else None
    cooldown_s = own.cooldown_s if own is not None else DEFAULT_COOLDOWN_S
    behind = ([old] if old is not None and old not in refuted(item) else []) + list(item.fallbacks)
    return Route(
        task=item.task,
        primary=primary,
        fallbacks=_others(behind, primary),
        ladder=tuple(item.ladder),
        since=now,
        cooldown_until=now + int(cooldown_s),
        backoff={} if route is None else {name: until for name, until in route.backoff.items() if until > now},
        epochs=_epochs(item),
    )


def _trial(item: Recommendation, challenger: str, route: Route | None, now: int) -> Route:
    canary = Canary(candidate=challenger, share=FIRST_SHARE, stage=0, started_at=now)
    current = route if route is not None else _first(item, item.current or challenger, now)
    return replace(current, canary=canary)


def _first(item: Recommendation, primary: str, now: int) -> Route:
    return Route(
        task=item.task,
        primary=primary,
        fallbacks=_others(item.fallbacks, primary),
        ladder=tuple(item.ladder),
        since=now,
        epochs=_epochs(item),
    )


def _others(names: Sequence[str], primary: str) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name != primary)


def refuted(item: Recommendation) -> frozenset[str]:
    """The candidates of a recommendation that a guardrail metric has refuted."""
    return frozenset(
        report.candidate
        for report in item.candidates
        if any(guardrail.state == "refuted" for guardrail in report.guardrails)
    )


def _epochs(item: Recommendation) -> dict[str, str]:
    return {report.candidate: report.epoch for report in item.candidates if report.epoch}


def _back(task: str, table: RouteTable, audit_path: Path, now: int, cooldown_s: float, note: str) -> Change:
    route = table.routes.get(task)
    history = read_history(audit_path, task=task)
    past: list[Route | None] = []
    for entry in real_entries(history.entries, current_version=table.version):
        if entry.action == "rollback":
            if past:
                past.pop()
        elif entry.changed:
            past.append(entry.before)
    if not past:
        raise RouteError(f"{task}: nothing to go back to; {audit_path} holds no change of this task that still stands")
    before = past[-1]
    after = None if before is None else _restored(before, route, now, cooldown_s)
    return Change(task=task, action="rollback", before=route, after=after, note=note)


def _restored(before: Route, left: Route | None, now: int, cooldown_s: float) -> Route:
    until = now + int(cooldown_s)
    backoff = {name: time for name, time in before.backoff.items() if time > now}
    if left is not None:
        gone = left.primary if left.primary != before.primary else left.canary.candidate if left.canary else None
        if gone is not None and gone != before.primary:
            backoff[gone] = until
    return replace(before, since=now, cooldown_until=until, backoff=backoff)


# --- the table and the log ---------------------------------------------------------------------------------------


def _with(table: RouteTable, changes: Sequence[Change], now: int) -> RouteTable:
    routes = dict(table.routes)
    for change in changes:
        if change.action == "none":
            continue
        if change.after is None:
            routes.pop(change.task, None)
        else:
            routes[change.task] = change.after
    return replace(table, routes=routes, updated_at=now)


def _news(changes: Sequence[Change], audit_path: Path) -> list[Change]:
    """The changes, and the verdicts that differ from the last one logged for their task."""
    if all(change.action != "none" for change in changes):
        return list(changes)
    last = {entry.task: entry.verdict for entry in read_history(audit_path).entries if entry.verdict}
    return [
        change
        for change in changes
        if change.action != "none"
        or change.recommendation is None
        or change.recommendation.verdict != last.get(change.task)
    ]


def _entries(changes: Sequence[Change], version: int, now: int, by: str, automatic: bool) -> list[AuditEntry]:
    name = new_change()
    return [_entry(change, version=version, now=now, by=by, automatic=automatic, name=name) for change in changes]


def _entry(change: Change, *, version: int, now: int, by: str, automatic: bool, name: str) -> AuditEntry:
    item = change.recommendation
    return AuditEntry(
        by=by,
        at=now,
        action=change.action,
        task=change.task,
        version=version,
        change=name,
        automatic=automatic,
        verdict=item.verdict if item is not None else "",
        grade=(item.grade or "") if item is not None else "",
        evidence_hash=item.input_hash if item is not None else "",
        reasons=tuple({"code": reason.code, "text": reason.text} for reason in item.reasons)
        if item is not None
        else (),
        before=change.before,
        after=change.after,
        note=change.note,
    )

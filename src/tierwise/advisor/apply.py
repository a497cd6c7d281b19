"""Applying recommendations, by hand or by themselves, with an audit entry for each: never a change without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tierwise.advisor.audit import Action, AuditEntry, append, compact, last_verdicts, new_change
from tierwise.advisor.plan import Plan
from tierwise.core.errors import RouteError
from tierwise.core.policy import Policy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import RouteChangedError, route_from_json, route_to_json, update_table

FIRST_SHARE: Final = 0.25
"""Share of the traffic with which a canary starts."""

DEFAULT_COOLDOWN_S: Final = 12 * 3600.0

ATTEMPTS: Final = 5
"""How often a decision is made again when somebody else changed the table meanwhile."""


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
    INSUFFICIENT leave the primary. With any verdict fallbacks, ladder and traffic shares may follow the evidence (`traffic`).
    """
    return tuple(_change(item, table.routes.get(item.task), now, policy, trial, pin) for item in recommendations)


def automatic_changes(
    recommendations: Sequence[Recommendation], table: RouteTable, policy: Policy | None
) -> tuple[Change, ...]:
    """What tierwise changes by itself: `after` of a recommendation where the task's policy says `apply: auto`, and the split of
    the traffic where it says `explore`; pure."""
    return tuple(_by_itself(item, table.routes.get(item.task), policy) for item in recommendations)


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
        return with_changes(table, done, now)

    def audit(_: RouteTable, new: RouteTable) -> None:
        log_changes(audit_path, done, new.version, now, by, automatic=automatic, timeout_s=timeout_s)

    table = update_table(
        routes_path, change, expected_version=expected_version, before_write=audit, timeout_s=timeout_s
    )
    if all(item.action == "none" for item in done):
        audit(table, table)
    return Applied(table=table, changes=tuple(done))


def apply_automatically(
    look: Callable[[], tuple[Plan, Policy | None]],
    *,
    routes_path: Path,
    audit_path: Path,
    by: str,
    attempts: int = ATTEMPTS,
    timeout_s: float = 5.0,
) -> tuple[Plan, Applied]:
    """Decide with `look` and apply what the policy lets tierwise do by itself (`automatic_changes`), with audit entries.

    `look` reads the table and decides. Has somebody changed the table meanwhile, it is asked again, so no change of
    theirs is overwritten and none of ours is lost. Entries are dated by the plan.

    Raises:
        RouteError: as `apply`, or the table was changed by others at each of `attempts`.
    """
    for _ in range(max(attempts, 1)):
        made, policy = look()
        done: list[Change] = []
        try:
            table = _swap(made, policy, done, routes_path, audit_path, by, timeout_s)
        except RouteChangedError:
            continue
        return made, Applied(table=table, changes=tuple(done))
    raise RouteError(
        f"{routes_path}: was changed by others at each of {attempts} attempts; see who with `tierwise history` and stop "
        "all but one"
    )


def _swap(
    made: Plan,
    policy: Policy | None,
    done: list[Change],
    routes_path: Path,
    audit_path: Path,
    by: str,
    timeout_s: float,
) -> RouteTable:
    """One compare-and-swap of what a plan changes by itself; `done` gets the changes."""

    def change(table: RouteTable) -> RouteTable:
        done[:] = automatic_changes(made.recommendations, table, policy)
        return with_changes(table, done, made.at)

    def audit(_: RouteTable, new: RouteTable) -> None:
        log_changes(audit_path, done, new.version, made.at, by, automatic=True, timeout_s=timeout_s)

    table = update_table(
        routes_path, change, expected_version=made.table_version, before_write=audit, timeout_s=timeout_s
    )
    if all(item.action == "none" for item in done):
        audit(table, table)
    return table


# --- one task ----------------------------------------------------------------------------------------------------


def _change(
    item: Recommendation, route: Route | None, now: int, policy: Policy | None, trial: bool, pin: bool
) -> Change:
    after, action, note = _decided(item, route, now, policy, trial, pin)
    return Change(task=item.task, action=action, before=route, after=after, recommendation=item, note=note)


def _by_itself(item: Recommendation, route: Route | None, policy: Policy | None) -> Change:
    own = policy.for_task(item.task) if policy is not None else None
    note = item.reasons[0].text if item.reasons else "nothing to change"
    action: Action = "none"
    after = item.after
    automatic = own is not None and (own.apply == "auto" or (own.explore != 0 and item.action == "traffic"))
    if automatic and item.action != "none" and after is not None and after != route:
        action, note = item.action, ""
        try:
            route_from_json(route_to_json(after), task=item.task, where="the new route")
        except RouteError as error:
            # One route that the file cannot hold must not keep the others from being written.
            action, note = "none", str(error)
    return Change(
        task=item.task,
        action=action,
        before=route,
        after=after if action != "none" else route,
        recommendation=item,
        note=note,
    )


def _decided(
    item: Recommendation, route: Route | None, now: int, policy: Policy | None, trial: bool, pin: bool
) -> tuple[Route | None, Action, str]:
    note = item.reasons[0].text if item.reasons else "nothing to change"
    running = route.canary.candidate if route is not None and route.canary is not None else None
    if trial and _can_start(item, running):
        # What the recommendation would remember beside it (fallbacks, ladder) is not a reason to leave the trial for later.
        before = item.after if item.action == "traffic" and item.after is not None else route
        return _trial(item, str(item.challenger), before, now), "trial", ""
    if item.verdict == "PROMOTE" and item.primary is not None:
        if route is None or route.primary != item.primary:
            return _promoted(item, item.primary, route, now, policy), "promote", ""
        note = f"{item.primary} is the primary already"
    elif item.action in ("stage", "rollback", "traffic") and item.after is not None and item.after != route:
        return item.after, item.action, ""
    elif item.verdict == "TRIAL" and item.challenger is not None:
        how = "is running already" if trial else "starts only when asked for (--trial)"
        note = f"the trial of {item.challenger} {how}"
    elif item.verdict == "KEEP" and item.primary is not None:
        if route is None and pin:
            return _first(item, item.primary, now), "pin", ""
        note = "the route stays as it is" if route is not None else "no first route is written without being asked"
    return route, "none", note


def _can_start(item: Recommendation, running: str | None) -> bool:
    """Whether a trial that is asked for begins: not beside the next stage, or the end, of a canary that runs."""
    return item.verdict == "TRIAL" and item.challenger not in (None, running) and item.action in ("none", "traffic")


def _promoted(item: Recommendation, primary: str, route: Route | None, now: int, policy: Policy | None) -> Route:
    old = route.primary if route is not None else item.current
    own = policy.for_task(item.task) if policy is not None else None
    cooldown_s = own.cooldown_s if own is not None else DEFAULT_COOLDOWN_S
    behind = ([old] if old is not None and old not in refuted(item) else []) + list(item.fallbacks)
    return Route(
        task=item.task,
        primary=primary,
        fallbacks=others(behind, primary),
        ladder=tuple(item.ladder),
        since=now,
        cooldown_until=now + int(cooldown_s),
        backoff={} if route is None else {name: until for name, until in route.backoff.items() if until > now},
        propensities={primary: 1.0},
        epochs=epochs_of(item),
        drifted={} if route is None else route.drifted,
        failed={} if route is None else {name: epoch for name, epoch in route.failed.items() if name != primary},
    )


def _trial(item: Recommendation, challenger: str, route: Route | None, now: int) -> Route:
    canary = Canary(candidate=challenger, share=FIRST_SHARE, stage=0, started_at=now)
    current = route if route is not None else _first(item, item.current or challenger, now)
    shares = {current.primary: 1 - FIRST_SHARE, challenger: FIRST_SHARE}
    return replace(current, canary=canary, propensities=shares)


def _first(item: Recommendation, primary: str, now: int) -> Route:
    return Route(
        task=item.task,
        primary=primary,
        fallbacks=others(item.fallbacks, primary),
        ladder=tuple(item.ladder),
        since=now,
        propensities=item.traffic or {primary: 1.0},
        epochs=epochs_of(item),
    )


def others(names: Sequence[str], primary: str) -> tuple[str, ...]:
    """The names without the primary, each once."""
    return tuple(name for name in dict.fromkeys(names) if name != primary)


def refuted(item: Recommendation) -> frozenset[str]:
    """The candidates of a recommendation that a guardrail metric has refuted."""
    return frozenset(
        report.candidate
        for report in item.candidates
        if any(guardrail.state == "refuted" for guardrail in report.guardrails)
    )


def epochs_of(item: Recommendation) -> dict[str, str]:
    """The epochs of a recommendation's candidates, where known."""
    return {report.candidate: report.epoch for report in item.candidates if report.epoch}


# --- the table and the log ---------------------------------------------------------------------------------------


def with_changes(table: RouteTable, changes: Sequence[Change], now: int) -> RouteTable:
    """The table with the changes made; equal to the old one where nothing changes."""
    routes = dict(table.routes)
    for change in changes:
        if change.action == "none":
            continue
        if change.after is None:
            routes.pop(change.task, None)
        else:
            routes[change.task] = change.after
    return replace(table, routes=routes, updated_at=now)


def log_changes(
    path: Path, changes: Sequence[Change], version: int, now: int, by: str, *, automatic: bool, timeout_s: float
) -> None:
    """Append the changes, and the verdicts that differ from the last one logged for their task.

    Raises:
        RouteError: the log cannot be read, locked or written: nothing may be changed then.
    """
    quiet = [change for change in changes if change.action in ("none", "traffic")]
    last = last_verdicts(path) if quiet else {}
    news = [change for change in changes if change.action != "none" or _new_verdict(change, last)]
    name = new_change()
    entries = [
        _entry(
            change, version=version, now=now, by=by, automatic=automatic, name=name,
            verdict=change.action != "traffic" or _new_verdict(change, last),
        )
        for change in news
    ]  # fmt: skip
    append(path, compact(entries), timeout_s=timeout_s)


def _new_verdict(change: Change, last: Mapping[str, str]) -> bool:
    return change.recommendation is None or change.recommendation.verdict != last.get(change.task)


def _entry(change: Change, *, version: int, now: int, by: str, automatic: bool, name: str, verdict: bool) -> AuditEntry:
    item = change.recommendation
    return AuditEntry(
        by=by,
        at=now,
        action=change.action,
        task=change.task,
        version=version,
        change=name,
        automatic=automatic,
        verdict=item.verdict if item is not None and verdict else "",
        grade=(item.grade or "") if item is not None else "",
        evidence_hash=item.input_hash if item is not None else "",
        reasons=tuple({"code": reason.code, "text": reason.text} for reason in item.reasons)
        if item is not None
        else (),
        before=change.before,
        after=change.after,
        note=change.note,
    )

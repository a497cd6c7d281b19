"""The audit log as a timeline: who or what changed which route, when and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from tierwise.surfaces.report.charts import Mark
from tierwise.surfaces.report.text import ABSENT, clean, percent, utc

if TYPE_CHECKING:
    from tierwise.advisor import AuditEntry
    from tierwise.core.route import Route

MOST_SHOWN: Final = 200
_ACTION_WORDS: Final = {
    "promote": "Changed",
    "trial": "Trial started",
    "stage": "Trial continued",
    "pin": "First route written",
    "rollback": "Rolled back",
    "abort": "Trial ended",
    "traffic": "Traffic split",
    "none": "Decided",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One entry in words. `kind` is the action; `in_force` is false where a crash kept the change from happening."""

    at: int
    when: str
    task: str
    kind: str
    action: str
    verdict: str
    before: str
    after: str
    by: str
    automatic: bool
    why: str
    version: int
    in_force: bool = True


def decisions(entries: Sequence[AuditEntry], *, current_version: int | None, limit: int = MOST_SHOWN) -> list[Decision]:
    """The newest decisions, newest first; new splits of traffic without a verdict are left out."""
    from tierwise.advisor import real_entries

    real = {id(entry) for entry in real_entries(entries, current_version=current_version)}
    shown = (entry for entry in reversed(entries) if entry.task and (entry.action != "traffic" or entry.verdict))
    return [_decision(entry, in_force=id(entry) in real) for entry in islice(shown, limit)]


def marks(found: Iterable[Decision]) -> Mapping[str, list[Mark]]:
    """The changes of each task's route, for its charts."""
    by_task: dict[str, list[Mark]] = {}
    for one in found:
        if one.kind not in ("none", "pin", "traffic") and one.in_force:
            by_task.setdefault(one.task, []).append(Mark(at=one.at, words=f"{one.action}: {one.after}"))
    return by_task


def _decision(entry: AuditEntry, *, in_force: bool) -> Decision:
    before, after = _short(entry.before), _short(entry.after)
    return Decision(
        at=entry.at,
        when=utc(entry.at),
        task=clean(entry.task),
        kind=entry.action,
        action=_ACTION_WORDS.get(entry.action, entry.action),
        verdict=clean(entry.verdict, longest=20),
        before="" if before == after else before,
        after=after,
        by=clean(entry.by),
        automatic=entry.automatic,
        why=clean(entry.note or _why(entry), longest=1000),
        version=entry.version,
        in_force=in_force,
    )


def _why(entry: AuditEntry) -> str:
    """The first reason about a model that the change is about, where there is one: reasons begin with whom they are about."""
    texts = [reason.get("text", "") for reason in entry.reasons]
    routes = [route for route in (entry.before, entry.after) if route is not None]
    trials = [route.canary.candidate for route in routes if route.canary is not None]
    about = tuple(f"{name} " for name in (*(route.primary for route in routes), *trials))
    return next((text for text in texts if text.startswith(about)), texts[0] if texts else "")


def _short(route: Route | None) -> str:
    if route is None:
        return ABSENT
    canary = route.canary
    return clean(route.primary) + (
        f" + {clean(canary.candidate)} {percent(canary.share)}" if canary is not None else ""
    )

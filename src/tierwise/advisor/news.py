"""What is new since the last look: verdicts, routes, broken guardrails, drift; and the memory of what was said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from tierwise.advisor.apply import Change
from tierwise.core import wording
from tierwise.core.recommendation import CandidateReport, Recommendation
from tierwise.core.route import Route, RouteTable
from tierwise.routing import owner_folder, replace_file

NewsKind = Literal["verdict", "route", "rollback", "guardrail", "drift", "trouble"]

FORMAT: Final = "tierwise-watch/1"
REPEAT_S: Final = 24 * 3600
"""The same news of a task is not told again within this time, unless its route changed."""
MAX_PENDING: Final = 200
MAX_BYTES: Final = 16 << 20
MAX_TEXT: Final = 1000

_SETTLED: Final = "SETTLED"
"""The verdict of a task whose news are those of its route: it was just changed, or its canary is under way."""
_QUIET: Final = ("KEEP", "INSUFFICIENT", _SETTLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One thing to tell. `at` is Unix seconds; `task` is empty for trouble of the watch itself."""

    kind: NewsKind
    at: int
    text: str
    task: str = ""
    verdict: str = ""
    candidate: str = ""
    """The candidate that it is about: the challenger, the new primary, the one that broke a guardrail or drifted."""
    detail: str = ""

    @property
    def key(self) -> str:
        """The same for the same news."""
        parts = (self.kind, self.task, self.verdict, self.candidate, self.detail)
        return "\t".join(part.replace("\t", " ") for part in parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": self.kind,
            "at": self.at,
            "task": self.task,
            "verdict": self.verdict,
            "candidate": self.candidate,
            "detail": self.detail,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """What the last look saw of one task."""

    verdict: str = ""
    challenger: str = ""
    primary: str = ""
    canary: str = ""
    refuted: tuple[str, ...] = ()
    drifting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the watch remembers between looks: what it saw, what it said and when, and what it could not deliver yet."""

    tasks: Mapping[str, TaskState] = field(default_factory=dict)
    said: Mapping[str, int] = field(default_factory=dict)
    pending: tuple[News, ...] = ()
    lost: int = 0
    """News beyond `MAX_PENDING` that were never delivered."""
    trouble: str = ""
    version: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format": FORMAT,
            "version": self.version,
            "trouble": self.trouble,
            "lost": self.lost,
            "tasks": {
                task: [s.verdict, s.challenger, s.primary, s.canary, list(s.refuted), list(s.drifting)]
                for task, s in self.tasks.items()
            },
            "said": dict(self.said),
            "pending": [news.to_json() for news in self.pending],
        }


def find_news(
    memory: Memory,
    recommendations: Iterable[Recommendation],
    table: RouteTable,
    changes: Sequence[Change],
    *,
    at: int,
    by_others: Mapping[str, str],
) -> tuple[list[News], Memory]:
    """What the looks before did not know, and the memory with it.

    `changes` are those just made; `by_others` says, by task, who changed a route since the last look and how. Without
    memory of a task (the first look) only what asks for attention is news.
    """
    made = {change.task: change for change in changes if change.action not in ("none", "traffic")}
    said = {key: when for key, when in memory.said.items() if at - when < REPEAT_S}
    tasks: dict[str, TaskState] = {}
    found: list[News] = []
    for item in recommendations:
        before, state = memory.tasks.get(item.task), _state(item, table.routes.get(item.task))
        if item.task in made:
            state = replace(state, verdict=_SETTLED, challenger="")
        tasks[item.task] = state
        moved = before is not None and (before.primary, before.canary) != (state.primary, state.canary)
        if moved or item.task in made:
            said = {key: when for key, when in said.items() if key.split("\t")[1] != item.task.replace("\t", " ")}
        own = list(_of_task(item, before, state, made.get(item.task), moved, at, by_others.get(item.task, "")))
        for news in own:
            if news.key not in said:
                said[news.key] = at
                found.append(news)
    return found, replace(memory, tasks=tasks, said=said, version=table.version, trouble="")


def _of_task(
    item: Recommendation,
    before: TaskState | None,
    state: TaskState,
    change: Change | None,
    moved: bool,
    at: int,
    others: str,
) -> Iterable[News]:
    if change is not None:
        yield _changed(item, change, at)
    elif moved and before is not None:
        text = f"the route is {_assignment(state)} now, it was {_assignment(before)}{others and f'; {others}'}"
        yield News(kind="route", at=at, task=item.task, text=text, candidate=state.primary, detail=_assignment(state))
        yield from _verdict(item, None, state, at)
    else:
        yield from _verdict(item, before, state, at)
    for name in sorted(set(state.refuted) - set(before.refuted if before is not None else ())):
        yield News(
            kind="guardrail", at=at, task=item.task, text=_refuted_text(item, name), candidate=name.rsplit(" ", 1)[0],
            detail=name.rsplit(" ", 1)[1],
        )  # fmt: skip
    for name in sorted(set(state.drifting) - set(before.drifting if before is not None else ())):
        text = next(reason.text for reason in item.reasons if reason.code == "drift" and reason.candidate == name)
        yield News(kind="drift", at=at, task=item.task, text=text, candidate=name)


def _verdict(item: Recommendation, before: TaskState | None, state: TaskState, at: int) -> Iterable[News]:
    if before is None and state.verdict in _QUIET:
        return
    if before is not None and (before.verdict, before.challenger) == (state.verdict, state.challenger):
        return
    if _SETTLED in (state.verdict, before.verdict if before is not None else "") and state.verdict in _QUIET:
        return
    was = (
        f" (it was {before.verdict})" if before is not None and before.verdict not in (state.verdict, _SETTLED) else ""
    )
    who = ""
    if item.verdict in ("PROMOTE", "TRIAL") and item.challenger is not None:
        who = f" {item.challenger} in place of {item.current}" if item.current != item.challenger else ""
    why = f": {item.reasons[0].text}" if item.reasons else ""
    yield News(
        kind="rollback" if item.verdict == "ROLLBACK" else "verdict", at=at, task=item.task, verdict=item.verdict,
        candidate=item.challenger or "", text=f"{item.verdict}{who}{was}{why}{_saving(item)}",
    )  # fmt: skip


def _saving(item: Recommendation) -> str:
    if item.verdict not in ("PROMOTE", "TRIAL") or item.saving_per_1000_runs_usd is None:
        return ""
    month = item.saving_per_month_usd
    more = "" if month is None else f", {wording.usd(month)} a month"
    return f" It saves {wording.usd(item.saving_per_1000_runs_usd)} per 1,000 runs{more}."


def _changed(item: Recommendation, change: Change, at: int) -> News:
    after = _state(item, change.after)
    why = f": {item.reasons[0].text}" if item.reasons else ""
    old = "no route" if change.before is None else _assignment(_state(item, change.before))
    return News(
        kind="rollback" if change.action in ("rollback", "abort") else "route", at=at, task=item.task,
        verdict=item.verdict, candidate=after.canary.partition(" ")[0] or after.primary,
        text=f"{change.action}, by itself: {old} → {_assignment(after) if change.after else 'no route'}{why}",
        detail=f"{change.action} {_assignment(after)}",
    )  # fmt: skip


def _state(item: Recommendation, route: Route | None) -> TaskState:
    waits = item.verdict == "HOLD" and any(reason.code == "cooldown" for reason in item.reasons)
    canary = route.canary if route is not None else None
    runs = item.verdict == "TRIAL" and canary is not None and canary.candidate == item.challenger
    verdict = _SETTLED if runs else "KEEP" if waits else item.verdict
    watched = {item.current, canary.candidate if canary is not None else None}
    return TaskState(
        verdict=verdict,
        challenger=(item.challenger or "") if verdict not in _QUIET else "",
        primary=route.primary if route is not None else "",
        canary=f"{canary.candidate} {wording.percent(canary.share)}" if canary is not None else "",
        refuted=tuple(
            f"{report.candidate} {guardrail.metric}"
            for report in item.candidates
            if report.candidate in watched
            for guardrail in report.guardrails
            if guardrail.state == "refuted"
        ),
        drifting=tuple(sorted({r.candidate for r in item.reasons if r.code == "drift" and r.candidate is not None})),
    )


def _assignment(state: TaskState) -> str:
    return (state.primary or "none") + (f" with {state.canary} as a canary" if state.canary else "")


def _refuted_text(item: Recommendation, name: str) -> str:
    candidate, metric = name.rsplit(" ", 1)
    report: CandidateReport = next(one for one in item.candidates if one.candidate == candidate)
    state = next(one for one in report.guardrails if one.metric == metric and one.state == "refuted")
    return f"{candidate} breaks {wording.finding(state)}."


# --- the memory's file -------------------------------------------------------------------------------------------


def read_memory(path: Path) -> tuple[Memory, str]:
    """The memory in the file, and what is wrong with it: an unreadable one is forgotten, so news may come twice."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            return Memory(), f"{path}: larger than {MAX_BYTES >> 20} MiB, so not the watch's memory; starting anew"
        return _memory(json.loads(text)), ""
    except FileNotFoundError:
        return Memory(), ""
    except OSError as error:
        return Memory(), f"{path}: cannot be read: {error.strerror}; news may be told twice"
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Memory(), f"{path}: not the memory of a watch; starting anew, news may be told twice"


def write_memory(path: Path, memory: Memory) -> None:
    """Write the memory at once.

    Raises:
        OSError: it cannot be written.
    """
    owner_folder(path.parent)
    replace_file(path, (json.dumps(memory.to_json(), separators=(",", ":"), allow_nan=False) + "\n").encode())


def _memory(value: Any) -> Memory:
    if value["format"] != FORMAT:
        raise ValueError("another format")
    return Memory(
        version=int(value["version"]),
        trouble=str(value["trouble"]),
        lost=int(value["lost"]),
        tasks={
            str(task): TaskState(
                verdict=str(verdict),
                challenger=str(challenger),
                primary=str(primary),
                canary=str(canary),
                refuted=tuple(str(name) for name in refuted if " " in name),
                drifting=tuple(map(str, drifting)),
            )
            for task, (verdict, challenger, primary, canary, refuted, drifting) in value["tasks"].items()
        },
        said={str(key): int(when) for key, when in value["said"].items() if str(key).count("\t") == 4},
        pending=tuple(_news(item) for item in value["pending"][:MAX_PENDING]),
    )


def _news(value: Mapping[str, Any]) -> News:
    kind = value["kind"]
    if kind not in ("verdict", "route", "rollback", "guardrail", "drift", "trouble"):
        raise ValueError("another kind of news")
    return News(
        kind=kind,
        at=int(value["at"]),
        task=str(value["task"]),
        verdict=str(value["verdict"]),
        candidate=str(value["candidate"]),
        detail=str(value["detail"]),
        text=str(value["text"])[:MAX_TEXT],
    )

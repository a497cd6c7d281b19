"""The watch: one look after the other: decide, apply what may be applied, tell what is new, and survive what goes wrong."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from tierwise.advisor.apply import Applied, Change, apply_automatically
from tierwise.advisor.audit import read_history, real_entries
from tierwise.advisor.news import MAX_PENDING, Memory, News, find_news, read_memory, write_memory
from tierwise.advisor.plan import Plan
from tierwise.core.errors import TierwiseError
from tierwise.core.policy import Policy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import RouteTable
from tierwise.routing import read_table

DELAY_S: Final = 20.0
"""After the end of an hour: what finished in it has been written by then."""
_NAP_S: Final = 30.0
"""The longest sleep at a time: the clock may be set, the machine may have been suspended."""

Decide = Callable[[], tuple[Plan, Policy | None]]


class Observer(Protocol):
    """Sees each look, for metrics."""

    def seen(self, look: Look, table: RouteTable | None) -> None:
        """A look has ended; `table` is the route table in force, `None` when it is not known."""

    def flush(self) -> bool:
        """Send what was seen; false when that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look saw and did. Times are Unix seconds, savings USD of the changes that are recommended and not made."""

    at: int
    plan: Plan | None = None
    version: int | None = None
    changes: tuple[Change, ...] = ()
    news: tuple[News, ...] = ()
    errors: tuple[str, ...] = ()
    told: bool = False
    """Whether the webhook took news in this look."""

    @property
    def made(self) -> tuple[Change, ...]:
        """The changes that were made, new splits of the traffic left out."""
        return tuple(change for change in self.changes if change.action not in ("none", "traffic"))

    @property
    def splits(self) -> int:
        """Tasks whose traffic was split anew and nothing else."""
        return sum(change.action == "traffic" for change in self.changes)

    @property
    def open(self) -> tuple[Recommendation, ...]:
        """The recommendations that were not applied in this look."""
        made = {change.task for change in self.made}
        return tuple(item for item in (self.plan.recommendations if self.plan else ()) if item.task not in made)

    @property
    def verdicts(self) -> dict[str, int]:
        """Tasks by verdict."""
        counted = Counter(item.verdict for item in (self.plan.recommendations if self.plan else ()))
        return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))

    def saving_per_month_usd(self) -> float:
        """What the recommended changes that were not made would save in a month, where that is known."""
        wanted = (item for item in self.open if item.verdict in ("PROMOTE", "TRIAL"))
        return sum(item.saving_per_month_usd or 0.0 for item in wanted)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "at": self.at,
            "version": self.version,
            "tasks": len(self.plan.recommendations) if self.plan is not None else None,
            "verdicts": self.verdicts,
            "changes": [change.to_json() for change in self.made],
            "traffic": self.splits,
            "saving_per_month_usd": self.saving_per_month_usd(),
            "news": [news.to_json() for news in self.news],
            "told": self.told,
            "errors": list(self.errors),
        }


@dataclass(slots=True, kw_only=True)
class Watch:
    """Looks at the evidence, again and again. `decide` reads everything and decides; `tell` delivers news or raises."""

    decide: Decide
    routes_path: Path
    audit_path: Path
    memory_path: Path
    by: str
    apply: bool = True
    tell: Callable[[Sequence[News], int, int], None] | None = None
    """Given news, Unix seconds, and how many news were lost before."""
    observer: Observer | None = None
    failures: int = 0
    """Looks with an error so far."""
    _memory: Memory | None = None

    def look(self, now: int) -> Look:
        """One look. What can go wrong in the world (files, store, network) is in `errors`, and the next look goes on."""
        errors: list[str] = []
        memory = self._remembered(errors)
        look, table = Look(at=now), None
        try:
            plan, applied = self._applied()
            look = replace(look, plan=plan, version=applied.table.version, changes=applied.changes)
            table = applied.table
            others = self._others(memory, applied)
            news, memory = find_news(memory, plan.recommendations, table, applied.changes, at=now, by_others=others)
        except (TierwiseError, OSError, sqlite3.Error) as error:
            news, memory = self._trouble(memory, now, _said(error), errors)
        except Exception as error:
            if os.environ.get("TIERWISE_RAISE") == "1":
                raise
            fault = f"a fault inside tierwise ({type(error).__name__}: {error}); please report it"
            news, memory = self._trouble(memory, now, fault, errors)
        told, memory = self._told(memory, news, now, errors)
        self._remember(memory, errors)
        look = replace(look, news=tuple(news), errors=tuple(errors), told=told)
        if self.observer is not None:
            self.observer.seen(look, table)
            if not self.observer.flush():
                look = replace(
                    look, errors=(*look.errors, "metrics could not be sent; see OTEL_EXPORTER_OTLP_ENDPOINT")
                )
        self.failures += bool(look.errors)
        return look

    def _applied(self) -> tuple[Plan, Applied]:
        if self.apply:
            return apply_automatically(
                self.decide, routes_path=self.routes_path, audit_path=self.audit_path, by=self.by
            )
        plan, _ = self.decide()
        return plan, Applied(table=read_table(self.routes_path), changes=())

    def _others(self, memory: Memory, applied: Applied) -> dict[str, str]:
        """Who else changed a route since the last look, and how."""
        if memory.version in (0, applied.table.version):
            return {}
        entries = read_history(self.audit_path, traffic=False).entries
        return {
            entry.task: f"{entry.action} by {entry.by}"
            for entry in real_entries(entries, current_version=applied.table.version)
            if entry.changed and entry.task and entry.version > memory.version
        }

    def _trouble(self, memory: Memory, now: int, text: str, errors: list[str]) -> tuple[list[News], Memory]:
        """The same trouble is told once, until a look succeeds or another trouble comes."""
        errors.append(text)
        if memory.trouble == text:
            return [], memory
        return [News(kind="trouble", at=now, text=f"the look failed: {text}")], replace(memory, trouble=text)

    def _told(self, memory: Memory, news: Sequence[News], now: int, errors: list[str]) -> tuple[bool, Memory]:
        """Deliver what is new and what was not delivered before; what fails waits for the next look."""
        if self.tell is None:
            return False, memory
        waiting = (*memory.pending, *news)
        try:
            if waiting:
                self.tell(waiting, now, memory.lost)
        except (TierwiseError, OSError) as error:
            errors.append(_said(error))
            lost = max(len(waiting) - MAX_PENDING, 0)
            return False, replace(memory, pending=waiting[-MAX_PENDING:], lost=memory.lost + lost)
        return bool(waiting), replace(memory, pending=(), lost=0)

    def _remembered(self, errors: list[str]) -> Memory:
        if self._memory is None:
            self._memory, problem = read_memory(self.memory_path)
            if problem:
                errors.append(problem)
        return self._memory

    def _remember(self, memory: Memory, errors: list[str]) -> None:
        old, self._memory = self._memory, memory
        if memory == old:
            return
        try:
            write_memory(self.memory_path, memory)
        except OSError as error:
            errors.append(
                f"{self.memory_path}: cannot be written: {error.strerror}; news may be told twice after a restart"
            )


def _said(error: Exception) -> str:
    if isinstance(error, sqlite3.Error):
        return f"the store cannot be read: {error}; `tierwise doctor` says more"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def next_look(now: float, *, every_s: float, delay_s: float = DELAY_S) -> float:
    """The next time of a look: a multiple of `every_s` since 1970 (full hours in UTC for one hour) plus the delay."""
    return ((now - delay_s) // every_s + 1) * every_s + delay_s


def run(
    watch: Watch,
    report: Callable[[Look], None],
    *,
    every_s: float,
    stop: threading.Event,
    clock: Callable[[], float],
    delay_s: float = DELAY_S,
) -> None:
    """Look now and then at every multiple of `every_s`, until `stop` is set; a clock that is set back costs one interval."""
    while not stop.is_set():
        report(watch.look(int(clock())))
        due = next_look(clock(), every_s=every_s, delay_s=delay_s)
        while not stop.is_set() and (left := due - clock()) > 0:
            if left > every_s + delay_s:
                due = next_look(clock(), every_s=every_s, delay_s=delay_s)
            stop.wait(min(left, _NAP_S))

"""From evidence to a plan: one recommendation a task, and what the evidence does not cover."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import sub
from typing import Any, Final

from tierwise.core.call import UNASSIGNED
from tierwise.core.columns import Series, TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.errors import EvidenceError
from tierwise.core.evidence import EvidenceRow
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import RouteTable

OVERFLOW: Final = "other"
"""The task under which traffic beyond the cardinality limit is counted; no decision can be made about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What the evidence behind a plan covers. Buckets are Unix seconds; counts are runs of rung 0."""

    runs: int = 0
    priced: int = 0
    first_bucket: int | None = None
    last_bucket: int | None = None
    buckets: int = 0
    randomised: int = 0
    overflow: int = 0
    """Runs beyond the cardinality limit, which belong to no task."""
    unpriced: Mapping[str, int] | None = None
    """Runs with tokens whose model has no known price, by candidate."""
    without_tokens: Mapping[str, int] | None = None
    """Answered runs without token counts (streams without usage), which have no cost either, by candidate."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "runs": self.runs,
            "priced": self.priced,
            "first_bucket": self.first_bucket,
            "last_bucket": self.last_bucket,
            "buckets": self.buckets,
            "randomised": self.randomised,
            "overflow": self.overflow,
            "unpriced": dict(self.unpriced or {}),
            "without_tokens": dict(self.without_tokens or {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Recommendations by task name, and what they stand on. `at` is Unix seconds."""

    at: int
    table_version: int
    recommendations: tuple[Recommendation, ...] = ()
    coverage: Coverage = Coverage()
    notes: tuple[str, ...] = ()

    def of(self, task: str) -> Recommendation | None:
        """The recommendation of one task, `None` when the plan does not hold it."""
        return next((item for item in self.recommendations if item.task == task), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "at": self.at,
            "table_version": self.table_version,
            "recommendations": [item.to_json() for item in self.recommendations],
            "coverage": self.coverage.to_json(),
            "notes": list(self.notes),
        }


def plan(
    evidence: Iterable[TaskEvidence] | Sequence[EvidenceRow],
    policy: Policy | None,
    table: RouteTable,
    now: int,
    *,
    tasks: Sequence[str] | None = None,
    recorded: Iterable[str] = (),
) -> Plan:
    """Decide every task of the evidence, the policy and the table (or only `tasks`), in order of their names.

    Pure: the same inputs give the same plan. A task without any policy gets one with the defaults, whose candidates
    are the models seen in it, by name; calls outside any task are left out unless they are asked for. Evidence that
    comes task by task is not kept: a month of a thousand tasks need not fit into memory. `recorded` names tasks whose
    evidence was not read because others were asked for.

    Raises:
        EvidenceError: a task that was asked for is neither in the evidence nor in the policy nor in the table.
    """
    findings = Findings(policy=policy, table=table, now=now, tasks=tasks)
    for one in by_task(evidence):
        findings.add(one)
    return findings.plan(recorded=recorded)


class Findings:
    """A plan in the making: tasks come in any order, and what several processes found is put together."""

    def __init__(
        self,
        *,
        policy: Policy | None,
        table: RouteTable,
        now: int,
        tasks: Sequence[str] | None,
        beside: Callable[[TaskEvidence], Any] | None = None,
    ) -> None:
        """`tasks`, `table` and the others as for `plan`; what `beside` makes of each task's evidence is kept as well."""
        self.policy, self.table, self.now, self.beside = policy, table, now, beside
        self.wanted = None if tasks is None else list(dict.fromkeys(tasks))
        self.found = Found()

    def add(self, one: TaskEvidence) -> None:
        """Count the evidence of a task, and decide it where it was asked for."""
        found = self.found
        found.seen.add(one.task)
        found.coverage.add(one)
        if one.task == UNASSIGNED:
            found.stray += runs_of(one)
        if self.beside is not None:
            found.beside[one.task] = self.beside(one)
        if one.task in self.wanted if self.wanted is not None else one.task not in (UNASSIGNED, OVERFLOW):
            found.made[one.task] = self._decide(one)

    def plan(self, *, recorded: Iterable[str] = ()) -> Plan:
        """The plan; tasks without evidence are decided now.

        Raises:
            EvidenceError: a task that was asked for is not known at all.
        """
        made, wanted = self.found.made, self.wanted
        seen = self.found.seen | (set(recorded) if wanted is not None else set())
        others = set(self.policy.tasks if self.policy is not None else ()) | set(self.table.routes)
        known = sorted((seen - {UNASSIGNED, OVERFLOW}) | others)
        for task in known if wanted is None else wanted:
            if task in made:
                continue
            if task not in known:
                listed = ", ".join(known) or "none"
                raise EvidenceError(f"no task {task!r}: nothing recorded, no policy, no route; known tasks: {listed}")
            made[task] = self._decide(TaskEvidence(task))
        total = self.found.coverage.total()
        return Plan(
            at=self.now,
            table_version=self.table.version,
            recommendations=tuple(made[task] for task in (known if wanted is None else wanted)),
            coverage=total,
            notes=tuple(_notes(total, self.found.stray)),
        )

    def _decide(self, one: TaskEvidence) -> Recommendation:
        return decide(one, policy_for(one.task, self.policy, one), self.table.routes.get(one.task), self.now)


class Found:
    """What was found of some tasks; sums that can be added, so that processes can share the work."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.coverage = _Coverage()
        self.stray = 0
        self.made: dict[str, Recommendation] = {}
        self.beside: dict[str, Any] = {}

    def merge(self, other: Found) -> None:
        """Add what was found of other tasks."""
        self.seen |= other.seen
        self.coverage.merge(other.coverage)
        self.stray += other.stray
        self.made |= other.made
        self.beside |= other.beside


def by_task(evidence: Iterable[TaskEvidence] | Iterable[EvidenceRow]) -> Iterator[TaskEvidence]:
    """The evidence of each task: as it comes, or of rows in any order by the names of their tasks."""
    rows: dict[str, list[EvidenceRow]] = defaultdict(list)
    for one in evidence:
        if isinstance(one, TaskEvidence):
            yield one
        else:
            rows[one.key.task].append(one)
    for task in sorted(rows):
        yield TaskEvidence.of(rows[task], task)


def policy_for(task: str, policy: Policy | None, evidence: TaskEvidence) -> TaskPolicy:
    """The policy of a task: its own, that of `"*"`, else the defaults over the models seen.

    These are in the order of their names: an order by runs would change with the traffic, and the decision with it.
    """
    found = policy.for_task(task) if policy is not None else None
    if found is not None:
        return found if found.task == task else replace(found, task=task)
    seen = sorted({candidate for candidate, _, _, rung, _, _ in evidence.series if rung == 0})
    return TaskPolicy(task=task, candidates=tuple(seen), tiers=("",) * len(seen))


def runs_of(evidence: TaskEvidence) -> int:
    """Runs of a task, rung 0."""
    return int(sum(sum(series.column("n")) for identity, series in evidence.series.items() if identity[3] == 0))


class _Coverage:
    """Running sums of `Coverage` over tasks."""

    def __init__(self) -> None:
        self.runs = self.priced = self.randomised = self.overflow = 0
        self.first: int | None = None
        self.last: int | None = None
        self.buckets: set[tuple[int, str, int]] = set()
        self.unpriced: Counter[str] = Counter()
        self.without_tokens: Counter[str] = Counter()

    def add(self, evidence: TaskEvidence) -> None:
        grids: set[tuple[int, str]] = set()
        for (candidate, _, _, rung, grade, session), series in evidence.series.items():
            if rung != 0:
                continue
            numbers, priced_numbers = series.column("n"), series.column("priced")
            n = int(sum(numbers))
            if evidence.task == OVERFLOW:
                self.overflow += n
                continue
            priced = int(sum(priced_numbers))
            self.runs += n
            self.priced += priced
            self.randomised += n if grade == "randomised" else 0
            if numbers != priced_numbers:
                missing = map(sub, map(sub, numbers, priced_numbers), series.column("outcomes.error"))
                if absent := int(sum(one for one in missing if one > 0)):
                    tokens = any(name.startswith("tokens.") for name in series.names)
                    (self.without_tokens if priced > 0 or not tokens else self.unpriced)[candidate] += absent
            if (id(series.slots), session) not in grids:  # series of one store share their hours
                grids.add((id(series.slots), session))
                self._span(series, session)

    def _span(self, series: Series, session: str) -> None:
        buckets, slots = series.buckets, series.slots
        if not session and slots[0][2] < 0:
            self.buckets.update(slots)
        else:
            self.buckets.update((bucket, session, slot[2]) for bucket, slot in zip(buckets, slots, strict=True))
        first, last = min(buckets), max(buckets)
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)

    def merge(self, other: _Coverage) -> None:
        self.runs += other.runs
        self.priced += other.priced
        self.randomised += other.randomised
        self.overflow += other.overflow
        self.buckets |= other.buckets
        self.unpriced.update(other.unpriced)
        self.without_tokens.update(other.without_tokens)
        ends = [one for one in (self.first, other.first, self.last, other.last) if one is not None]
        self.first, self.last = (min(ends), max(ends)) if ends else (None, None)

    def total(self) -> Coverage:
        return Coverage(
            runs=self.runs,
            priced=self.priced,
            first_bucket=self.first,
            last_bucket=self.last,
            buckets=len(self.buckets),
            randomised=self.randomised,
            overflow=self.overflow,
            unpriced=dict(sorted(self.unpriced.items())),
            without_tokens=dict(sorted(self.without_tokens.items())),
        )


def _notes(coverage: Coverage, stray: int) -> Iterator[str]:
    for candidate, runs in (coverage.unpriced or {}).items():
        yield (
            f"no price for {candidate}: {_runs(runs)} count for success only; "
            "add it under prices: in tierwise.yaml (`tierwise prices missing` lists all)"
        )
    for candidate, runs in (coverage.without_tokens or {}).items():
        yield (
            f"no token counts from {candidate} (streams without usage): {_runs(runs)} have no cost and count for success "
            "only; pass `stream_usage=True` to `tierwise.instrument`, or "
            '`stream_options={"include_usage": True}` with each request'
        )
    if coverage.overflow:
        yield (
            f"{coverage.overflow:,} runs went beyond the limit of task names and are in no recommendation; "
            "use fewer task names (no ids or user names in them)"
        )
    if stray:
        yield f"runs outside any task: {stray:,}; put them in `with tierwise.task(...)` to get a recommendation"


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"

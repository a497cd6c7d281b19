"""From evidence to a plan: one recommendation a task, and what the evidence does not cover."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tierwise.core.call import UNASSIGNED
from tierwise.core.decide import decide
from tierwise.core.errors import EvidenceError
from tierwise.core.evidence import Evidence, EvidenceRow
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
    rows: Sequence[EvidenceRow],
    policy: Policy | None,
    table: RouteTable,
    now: int,
    *,
    tasks: Sequence[str] | None = None,
) -> Plan:
    """Decide every task of the evidence, the policy and the table (or only `tasks`), in order of their names.

    Pure: the same inputs give the same plan. A task without any policy gets one with the defaults, whose candidates
    are the models seen in it, by name; calls outside any task are left out unless they are asked for.

    Raises:
        EvidenceError: a task that was asked for is neither in the evidence nor in the policy nor in the table.
    """
    by_task: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_task[row.key.task].append(row)
    coverage = _coverage(rows)
    known = task_names(rows, policy, table)
    wanted = list(known) if tasks is None else list(dict.fromkeys(tasks))
    if missing := [task for task in wanted if task not in known and task not in by_task]:
        listed = ", ".join(known) or "none"
        raise EvidenceError(f"no task {missing[0]!r}: nothing recorded, no policy, no route; known tasks: {listed}")
    recommendations = []
    for task in wanted:
        own = by_task.get(task, [])
        recommendations.append(decide(own, policy_for(task, policy, own), table.routes.get(task), now))
    return Plan(
        at=now,
        table_version=table.version,
        recommendations=tuple(recommendations),
        coverage=coverage,
        notes=tuple(_notes(coverage, by_task)),
    )


def task_names(rows: Iterable[EvidenceRow], policy: Policy | None, table: RouteTable) -> tuple[str, ...]:
    """The tasks that can be decided, by name: seen, in the policy, or routed."""
    seen = {row.key.task for row in rows} - {UNASSIGNED, OVERFLOW}
    return tuple(sorted(seen | set(policy.tasks if policy is not None else ()) | set(table.routes)))


def policy_for(task: str, policy: Policy | None, rows: Iterable[EvidenceRow]) -> TaskPolicy:
    """The policy of a task: its own, that of `"*"`, else the defaults over the models seen.

    These are in the order of their names: an order by runs would change with the traffic, and the decision with it.
    """
    found = policy.for_task(task) if policy is not None else None
    if found is not None:
        return found if found.task == task else replace(found, task=task)
    seen = sorted({row.key.candidate for row in rows if row.key.rung == 0})
    return TaskPolicy(task=task, candidates=tuple(seen), tiers=("",) * len(seen))


def _coverage(rows: Iterable[EvidenceRow]) -> Coverage:
    runs = priced = randomised = overflow = 0
    unpriced: Counter[str] = Counter()
    without_tokens: Counter[str] = Counter()
    buckets: set[tuple[int, str, int]] = set()
    for row in rows:
        key, evidence = row.key, row.evidence
        if key.rung != 0:
            continue
        if key.task == OVERFLOW:
            overflow += evidence.n
            continue
        runs += evidence.n
        priced += evidence.priced
        randomised += evidence.n if key.grade == "randomised" else 0
        if missing := _without_cost(evidence):
            known = evidence.priced > 0 or not any(evidence.tokens.values())
            (without_tokens if known else unpriced)[key.candidate] += missing
        buckets.add((key.bucket, key.session, key.round))
    starts = [start for start, _, _ in buckets]
    return Coverage(
        runs=runs,
        priced=priced,
        first_bucket=min(starts, default=None),
        last_bucket=max(starts, default=None),
        buckets=len(buckets),
        randomised=randomised,
        overflow=overflow,
        unpriced=dict(sorted(unpriced.items())),
        without_tokens=dict(sorted(without_tokens.items())),
    )


def _without_cost(evidence: Evidence) -> int:
    """Runs that should have a cost and have none: an error without an answer used no tokens."""
    return max(evidence.n - evidence.priced - evidence.outcomes.get("error", 0), 0)


def _notes(coverage: Coverage, by_task: Mapping[str, Sequence[EvidenceRow]]) -> Iterable[str]:
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
    if stray := sum(row.evidence.n for row in by_task.get(UNASSIGNED, ()) if row.key.rung == 0):
        yield f"runs outside any task: {stray:,}; put them in `with tierwise.task(...)` to get a recommendation"


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"

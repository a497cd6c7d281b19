"""Evidence of one task as the report shows it: totals of each candidate, steps along the time axis, and the ladder's rungs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from tierwise.core.columns import Series, TaskEvidence
from tierwise.core.evidence import (
    HOUR_S,
    LATENCY_EDGES_S,
    UNCOUNTED,
    EvidenceBuilder,
    EvidenceRow,
    Key,
    bucket_of,
    key_of,
    key_of_run,
)

if TYPE_CHECKING:
    from tierwise.evidence import CallRow

MOST_STEPS: Final = 48
_LEAST_STEPS: Final = 6
_RUNS_A_STEP: Final = 12
"""Runs of each candidate that a step should hold: below, its band says nothing."""
_WIDTHS_H: Final = (1, 2, 3, 6, 12, 24, 48, 7 * 24, 14 * 24, 28 * 24, 91 * 24, 364 * 24)
_FLOW: Final = ("n", "successes", "priced", "priced_successes", "cost_sum", "cost_sq_sum", "cost_success_sum")
_FORM: Final = "json_forms."

Axis = Literal["time", "round"]


@dataclass(slots=True, kw_only=True)
class Step:
    """Sums of one candidate in one step of the axis; the names are those of `Evidence`."""

    n: float = 0
    successes: float = 0
    priced: float = 0
    priced_successes: float = 0
    cost_sum: float = 0
    cost_sq_sum: float = 0
    cost_success_sum: float = 0
    json_plain: float = 0
    json_expected: float = 0


@dataclass(slots=True, kw_only=True)
class CandidateSums:
    """One candidate on rung 0: totals by column of `Series`, and its steps by their number."""

    totals: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: dict[int, Step] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, int]:
        """First attempts by outcome."""
        return self._named("outcomes.")

    @property
    def json_forms(self) -> dict[str, int]:
        """First attempts by JSON form, where JSON was expected."""
        return self._named(_FORM)

    def histogram(self, which: str) -> list[int]:
        """Counts of `latency` or `ttft` by the edges of `LATENCY_EDGES_S`, and above them."""
        return [int(self.totals.get(f"{which}.{index}", 0)) for index in range(len(LATENCY_EDGES_S) + 1)]

    def _named(self, prefix: str) -> dict[str, int]:
        return {name[len(prefix) :]: int(value) for name, value in self.totals.items() if name.startswith(prefix)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RungSums:
    """What arrived on one rung, and what of it succeeded, by candidate."""

    attempts: Mapping[str, int]
    successes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSums:
    """One task: its axis (Unix seconds of the start of each step, or the first bench round of each), candidates, rungs."""

    task: str
    axis: Axis
    width: int
    """Of a step: seconds, or rounds."""
    places: tuple[int, ...]
    candidates: Mapping[str, CandidateSums]
    rungs: tuple[RungSums, ...]
    calls: int
    """Calls of every kind, those outside the runs included."""
    first: int | None = None
    last: int | None = None
    """First and last bucket, Unix seconds."""

    @property
    def runs(self) -> int:
        """Runs of all candidates."""
        return int(sum(one.totals["n"] for one in self.candidates.values()))


def fold(evidence: TaskEvidence) -> TaskSums:
    """Sum up one task; its evidence is not kept."""
    first_attempts = [(identity, series) for identity, series in evidence.of_candidates() if identity[3] == 0]
    placed = _Placed([series for _, series in first_attempts])
    candidates: dict[str, CandidateSums] = defaultdict(CandidateSums)
    calls = 0
    for series in evidence.series.values():
        calls += int(sum(sum(series.column(name)) for name in series.names if name.startswith("outcomes.")))
    for identity, series in first_attempts:
        sums = candidates[identity[0]]
        for name in series.names:
            sums.totals[name] += sum(series.column(name))
        placed.add(sums.steps, series)
    buckets = [bucket for series in evidence.series.values() for bucket in series.buckets]
    return TaskSums(
        task=evidence.task,
        axis=placed.axis,
        width=placed.width,
        places=placed.places,
        candidates={name: candidates[name] for name in sorted(candidates)},
        rungs=tuple(_rungs(evidence)),
        calls=calls,
        first=min(buckets, default=None),
        last=max(buckets, default=None),
    )


class _Placed:
    """Where the slots of a task lie on its axis: hours of live traffic, else bench rounds in their order."""

    def __init__(self, everything: list[Series]) -> None:
        runs = int(sum(sum(series.column("n")) for series in everything))
        arms = max(1, len(everything))
        live = any(slot[2] < 0 for series in everything for slot in series.slots)
        self.axis: Axis = "time" if live else "round"
        self._rounds: dict[tuple[str, int], int] = {}
        if live:
            hours = [bucket for series in everything for bucket in series.buckets]
            first, last = min(hours), max(hours)
            self.width = _width((last - first) // HOUR_S + 1, runs / arms) * HOUR_S
            self._start = first // self.width * self.width
            count = (last - self._start) // self.width + 1
            self.places = tuple(self._start + number * self.width for number in range(count))
            return
        order = sorted(
            {
                (bucket, *slot[1:])
                for series in everything
                for slot, bucket in zip(series.slots, series.buckets, strict=True)
            }
        )
        began = {session: bucket for bucket, session, _ in reversed(order)}
        rounds = sorted({(began[session], session, number) for _, session, number in order})
        self._rounds = {(session, number): place for place, (_, session, number) in enumerate(rounds)}
        self.width = _even(len(rounds), runs / arms)
        self.places = tuple(range(1, len(rounds) + 1, self.width))

    def add(self, steps: dict[int, Step], series: Series) -> None:
        """Add the sums of a series to the steps that its slots lie in."""
        columns = [series.column(name) for name in _FLOW]
        forms = [series.column(name) for name in series.names if name.startswith(_FORM)]
        plain = series.column(f"{_FORM}plain")
        places = [
            self._place(slot[1], slot[2], bucket) for slot, bucket in zip(series.slots, series.buckets, strict=True)
        ]
        start = 0
        for place, members in groupby(places):
            end = start + sum(1 for _ in members)
            step = steps.get(place)
            if step is None:
                step = steps[place] = Step()
            for name, column in zip(_FLOW, columns, strict=True):
                setattr(step, name, getattr(step, name) + sum(column[start:end]))
            if forms:
                step.json_plain += sum(plain[start:end])
                step.json_expected += sum(sum(column[start:end]) for column in forms)
            start = end

    def _place(self, session: str, number: int, bucket: int) -> int:
        if self.axis == "time":
            return (bucket - self._start) // self.width
        return self._rounds[session, number] // self.width


def _width(hours: int, runs: float) -> int:
    """Hours of a step: few enough steps, each with runs enough, but not fewer than can show a course."""
    fitting = [width for width in _WIDTHS_H if hours / width <= MOST_STEPS] or [_WIDTHS_H[-1]]
    for width in fitting:
        steps = max(1.0, hours / width)
        if runs / steps >= _RUNS_A_STEP or steps <= _LEAST_STEPS:
            return width
    return fitting[-1]


def _even(rounds: int, runs: float) -> int:
    wanted = min(MOST_STEPS, max(_LEAST_STEPS, int(runs / _RUNS_A_STEP)))
    return max(1, -(-rounds // wanted))


def _rungs(evidence: TaskEvidence) -> Iterator[RungSums]:
    attempts: dict[int, Counter[str]] = defaultdict(Counter)
    successes: dict[int, Counter[str]] = defaultdict(Counter)
    for (candidate, _, arm, rung, _, _), series in evidence.series.items():
        if arm == "shadow":
            continue
        for name in series.names:
            if name.startswith("outcomes."):
                outcome, number = name.removeprefix("outcomes."), int(sum(series.column(name)))
                if outcome not in UNCOUNTED and number:
                    attempts[rung][candidate] += number
                    if outcome == "success":
                        successes[rung][candidate] += number
    for rung in range(max(attempts, default=-1) + 1):
        yield RungSums(attempts=dict(attempts[rung].most_common()), successes=dict(successes[rung]))


def evidence_of_calls(calls: Iterable[CallRow]) -> list[TaskEvidence]:
    """The same evidence as the store keeps, made from rows: for reports about rows that are at hand."""
    from tierwise.core.call import Run
    from tierwise.surfaces.summary import runs_of

    calls = list(calls)
    builders: dict[Key, EvidenceBuilder] = defaultdict(EvidenceBuilder)
    of_run = Counter((call.task, call.run_id or "") for call in calls)
    hours: dict[tuple[str, str, int], int] = {}
    for call in sorted(calls, key=lambda row: row.started_at_ns):
        hours.setdefault((call.task, call.session, call.round), bucket_of(call.started_at_ns))
    for row in calls:
        bucket = hours[row.task, row.session, row.round] if row.round >= 0 else None
        one = row.to_call()
        builders[key_of(one, bucket)].add_call(one)
    for run in runs_of([call for call in calls if call.run_id is not None]):
        row = run.first
        whole = Run(
            run_id=row.run_id or "", task=row.task, candidate=row.candidate, epoch=row.epoch, arm=row.arm, grade=row.grade,
            started_at_ns=row.started_at_ns, duration_s=row.duration_s, calls=of_run[row.task, row.run_id or ""],
            success=run.success, outcome=row.outcome, cost_usd=run.cost_usd, session=row.session, round=row.round,
        )  # fmt: skip
        bucket = hours[row.task, row.session, row.round] if row.round >= 0 else None
        builders[key_of_run(whole, bucket)].add_run(whole)
    rows: dict[str, list[EvidenceRow]] = defaultdict(list)
    for key, builder in builders.items():
        rows[key.task].append(EvidenceRow(key=key, evidence=builder.build()))
    return [TaskEvidence.of(rows[task], task) for task in sorted(rows)]

"""From columns to what a decision looks at: closed buckets of rung 0, latest epochs, one pool per candidate."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import compress
from typing import Final

from tierwise.core.call import Grade
from tierwise.core.columns import Series, Slot, TaskEvidence
from tierwise.core.evidence import HOUR_S, UNCOUNTED
from tierwise.core.pool import EMPTY_POOL, RUNS, Pool
from tierwise.core.records import dataclass

COMPARED_ARMS: Final = ("primary", "canary", "explore", "pinned")
"""Arms whose randomised runs compare candidates; shadow and fallback traffic is another kind of traffic."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one series: the slots from `low` up to `high`."""

    series: Series
    low: int
    high: int

    def column(self, name: str) -> list[float]:
        """One column of the stretch."""
        column = self.series.column(name)
        return column if self.low == 0 and self.high == len(column) else column[self.low : self.high]

    @property
    def slots(self) -> list[Slot]:
        """The slots of the stretch."""
        slots = self.series.slots
        return slots if self.low == 0 and self.high == len(slots) else slots[self.low : self.high]

    def runs(self) -> int:
        """Runs in the stretch."""
        return int(sum(self.column(RUNS)))

    def since(self, start_s: int) -> Part:
        """The stretch from an hour on."""
        first = bisect_left(self.series.buckets, start_s)
        return Part(self.series, min(max(first, self.low), self.high), self.high)


def pool_of(parts: Sequence[Part]) -> Pool:
    """One pool of several stretches, bucket by bucket."""
    parts = [part for part in parts if part.high > part.low]
    if not parts:
        return EMPTY_POOL
    if len(parts) == 1:
        only = parts[0]
        return Pool(only.slots, only.column, only.series.names)
    slots = sorted(set().union(*(part.slots for part in parts)))
    places = {slot: place for place, slot in enumerate(slots)}
    wheres = [[places[slot] for slot in part.slots] for part in parts]

    def load(name: str) -> list[float]:
        sums: list[float] = [0] * len(slots)
        for part, where in zip(parts, wheres, strict=True):
            for place, value in zip(where, part.column(name), strict=True):
                sums[place] += value
        return sums

    return Pool(slots, load, frozenset().union(*(part.series.names for part in parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRuns:
    """Runs of one identity in a bucket that does not count yet; `bucket` in Unix seconds."""

    candidate: str
    arm: str
    grade: Grade
    bucket: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The evidence of one task, sorted out. `randomised` and `observed` hold a candidate's latest epoch only."""

    task: str
    randomised: dict[str, Pool] = field(default_factory=dict)
    observed: dict[str, Pool] = field(default_factory=dict)
    both: dict[str, Pool] = field(default_factory=dict)
    """`randomised` and `observed` together."""
    shadow: dict[str, Pool] = field(default_factory=dict)
    """Randomised runs whose answer nobody used."""
    escalated: dict[str, Pool] = field(default_factory=dict)
    """Attempts at rung 1 and later: the hard part of the traffic, never compared with first attempts."""
    epochs: dict[str, str] = field(default_factory=dict)
    older: dict[str, int] = field(default_factory=dict)
    """Runs of older epochs that were left out, by candidate."""
    chosen: dict[str, int] = field(default_factory=dict)
    """Observational runs in `observed`, by candidate; its other runs are shadow runs."""
    runs: dict[str, int] = field(default_factory=dict)
    """Runs of a candidate in closed buckets of the window: all epochs, all arms."""
    usage: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(runs, start of the first bucket with one) of a candidate in the window, hours still open included."""
    invalid: int = 0
    foreign: int = 0
    open_runs: tuple[OpenRuns, ...] = ()
    """Runs of hours that are still open, or too young for late feedback."""
    live_runs: int = 0
    """Runs of live traffic in closed hours, shadow runs left out."""
    live_span_s: int = 0
    """From the start of the first such hour to the end of the last."""
    sessions: frozenset[str] = frozenset()
    """Bench sessions that randomised rows come from; `""` stands for live traffic."""

    @property
    def single_session(self) -> bool:
        """Whether all randomised evidence comes from one bench session."""
        return len(self.sessions) == 1 and "" not in self.sessions

    def pool(self, candidate: str, grade: Grade | None) -> Pool:
        """A candidate's evidence: randomised alone, or everything there is."""
        return (self.randomised if grade == "randomised" else self.both).get(candidate, EMPTY_POOL)


def select(
    evidence: TaskEvidence, *, now: int, maturity_s: float = 0.0, since: Mapping[str, int] | None = None
) -> Selection:
    """Sort out the evidence of a task: drop what is open, immature or escalated, keep each candidate's latest epoch.

    An hour is closed when it ended at or before `now` (Unix seconds), and counts `maturity_s` later; a bench round is
    closed as written. `since` names, by candidate, the start of the first hour that counts: it drifted before.
    """
    ends = now - HOUR_S - int(maturity_s)
    by_candidate: dict[str, list[tuple[str, str, Grade, Part]]] = {}
    escalated: dict[str, list[Part]] = {}
    still_open: list[OpenRuns] = []
    tally = _Tally()
    for (candidate, epoch, arm, rung, grade, session), series in evidence.of_candidates():
        if not len(series):
            continue
        live = series.slots[0][2] < 0
        high = bisect_left(series.slots, (ends + 1,)) if live else len(series)
        part = Part(series, 0, high)
        if rung != 0:
            escalated.setdefault(candidate, []).append(part)
            continue
        tally.add(candidate, arm, grade, session if not live else "", part, live=live)
        if high:
            by_candidate.setdefault(candidate, []).append((epoch, arm, grade, part))  # type: ignore[arg-type]
        if high < len(series):
            numbers = series.column(RUNS)
            for place in range(high, len(series)):
                start, n = series.slots[place][0], int(numbers[place])
                still_open.append(OpenRuns(candidate=candidate, arm=arm, grade=grade, bucket=start, n=n))  # type: ignore[arg-type]
                if n > 0:
                    tally.use(candidate, n, start)
    selection = Selection(
        task=evidence.task,
        invalid=evidence.invalid,
        foreign=evidence.foreign,
        open_runs=tuple(still_open),
        live_runs=tally.live_runs,
        live_span_s=tally.last - tally.first + HOUR_S if tally.live_runs else 0,
        usage=tally.usage,
        sessions=frozenset(tally.sessions),
        runs=tally.runs,
        escalated={name: pool_of(parts) for name, parts in escalated.items()},
    )
    for name, mine in by_candidate.items():
        _split(selection, name, mine, (since or {}).get(name))
    return selection


class _Tally:
    """Running sums over the closed buckets of a task."""

    def __init__(self) -> None:
        self.usage: dict[str, tuple[int, int]] = {}
        self.runs: dict[str, int] = {}
        self.sessions: set[str] = set()
        self.live_runs = 0
        self.first, self.last = 1 << 62, 0

    def use(self, candidate: str, n: int, start: int) -> None:
        """Count runs of any hour."""
        runs, first = self.usage.get(candidate, (0, start))
        self.usage[candidate] = runs + n, min(first, start)

    def add(self, candidate: str, arm: str, grade: str, session: str, part: Part, *, live: bool) -> None:
        """Count a stretch of closed buckets."""
        numbers = part.column(RUNS)
        runs = int(sum(numbers))
        if part.high:
            self.runs[candidate] = self.runs.get(candidate, 0) + runs
        if runs <= 0:
            return
        first = next(compress(part.series.buckets, numbers))
        last = next(compress(reversed(part.series.buckets[part.low : part.high]), reversed(numbers)))
        self.use(candidate, runs, first)
        if grade == "randomised":
            self.sessions.add(session)
        if live and arm != "shadow":
            self.live_runs += runs
            self.first, self.last = min(self.first, first), max(self.last, last)


def _split(selection: Selection, name: str, mine: Sequence[tuple[str, str, Grade, Part]], since: int | None) -> None:
    """Put a candidate's stretches of its latest epoch where they belong."""
    epoch, current = _latest_epoch(mine)
    if since is not None:
        current = [(arm, grade, part.since(since)) for arm, grade, part in current]
    selection.epochs[name] = epoch
    left_out = selection.runs[name] - sum(part.runs() for _, _, part in current)
    if left_out > 0:
        selection.older[name] = left_out
    random, other, shadow, chosen = [], [], [], 0
    for arm, grade, part in current:
        if grade == "randomised" and arm in COMPARED_ARMS:
            random.append(part)
        elif arm != "fallback":
            other.append(part)
            chosen += part.runs() if grade == "observational" else 0
            if arm == "shadow":
                shadow.append(part)
    if random:
        selection.randomised[name] = pool_of(random)
    if other:
        selection.observed[name] = pool_of(other)
        selection.chosen[name] = chosen
    if shadow:
        selection.shadow[name] = pool_of(shadow)
    both = [*random, *other]
    if both:
        known = selection.randomised if not other else selection.observed if not random else None
        selection.both[name] = pool_of(both) if known is None else known[name]


def _latest_epoch(mine: Sequence[tuple[str, str, Grade, Part]]) -> tuple[str, list[tuple[str, Grade, Part]]]:
    """The epoch that was seen last, with its stretches and the failures of unknown identity since it began.

    A call that failed before an answer names no model: an epoch of nothing but errors is no epoch of its own.
    """
    epochs = {epoch for epoch, _, _, _ in mine}
    if len(epochs) == 1:
        return epochs.pop(), [(arm, grade, part) for _, arm, grade, part in mine]
    seen: dict[str, tuple[int, int]] = {}
    named: set[str] = set()
    for epoch, _, _, part in mine:
        start, end = part.series.buckets[part.low], part.series.buckets[part.high - 1]
        first, last = seen.get(epoch, (start, end))
        seen[epoch] = min(first, start), max(last, end)
        if epoch and not _only_errors(part):
            named.add(epoch)
    if not named:
        return max(seen), [(arm, grade, part) for _, arm, grade, part in mine]
    latest = max(named, key=lambda epoch: (seen[epoch][1], seen[epoch][0], epoch))
    since = seen[latest][0]
    return latest, [
        (arm, grade, part if epoch == latest else part.since(since))
        for epoch, arm, grade, part in mine
        if epoch == latest or epoch not in named
    ]


def _only_errors(part: Part) -> bool:
    names = [name for name in part.series.names if name.startswith("outcomes.")]
    return bool(names) and not any(
        any(part.column(name))
        for name in names
        if name != "outcomes.error" and name.removeprefix("outcomes.") not in UNCOUNTED
    )

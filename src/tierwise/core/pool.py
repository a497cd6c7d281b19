"""From rows to what a decision looks at: closed buckets of rung 0, latest epochs, one series of evidence per candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import add, attrgetter
from typing import Any, Final

from tierwise.core.call import Grade
from tierwise.core.evidence import HOUR_S, UNCOUNTED, Evidence, EvidenceRow
from tierwise.core.inputs import all_valid, in_order, is_valid

Value = Callable[[Evidence], float]
Histogram = Callable[[Evidence], tuple[int, ...]]
Slot = tuple[int, str, int]
"""A bucket's place in time: (start, session, round); a bench round has its session's name and starts at 0."""

COMPARED_ARMS: Final = ("primary", "canary", "explore", "pinned")
"""Arms whose randomised runs compare candidates; shadow and fallback traffic is another kind of traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Evidence of one candidate in order of time: `slots[i]` is the bucket of `rows[i]`, equal slots are adjacent."""

    slots: tuple[Slot, ...] = ()
    rows: tuple[Evidence, ...] = ()
    memo: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was worked out of this pool before, by what asked for it: the same few are asked for many times."""

    def total(self, value: Value) -> float:
        """Sum of a value over all rows."""
        key = ("total", value)
        if key not in self.memo:
            self.memo[key] = sum(self.series(value))
        found: float = self.memo[key]
        return found

    def series(self, value: Value) -> list[float]:
        """Sums of a value, one per bucket, in order of time; not to be changed."""
        key = ("series", value)
        if key not in self.memo:
            self.memo[key] = self._by_bucket(list(map(value, self.rows)))
        found: list[float] = self.memo[key]
        return found

    def histogram(self, which: Histogram) -> list[int]:
        """Histogram counts over all rows; empty without any. Not to be changed."""
        key = ("histogram", which)
        if key not in self.memo:
            self.memo[key] = list(map(sum, self._columns(which)))
        found: list[int] = self.memo[key]
        return found

    def at_or_below(self, which: Histogram, index: int) -> list[float]:
        """Counts per bucket of what lies at or below an edge of a histogram, in order of time; not to be changed.

        Index -1 counts everything.
        """
        key = ("below", which)
        if key not in self.memo:
            sums, below = [0] * len(self.rows), []
            for total, column in zip(self.histogram(which), self._columns(which), strict=True):
                if total:
                    sums = list(map(add, sums, column))
                below.append(sums)
            self.memo[key] = below
        below = self.memo[key]
        return self._by_bucket(below[index]) if below else self._by_bucket([0] * len(self.rows))

    def _columns(self, which: Histogram) -> list[tuple[int, ...]]:
        """One column a histogram bucket, one value a row."""
        key = ("columns", which)
        if key not in self.memo:
            counts = list(map(which, self.rows))
            width = max(map(len, counts), default=0)
            self.memo[key] = list(zip(*(one or (0,) * width for one in counts), strict=True)) if width else []
        found: list[tuple[int, ...]] = self.memo[key]
        return found

    def within(self, slots: frozenset[Slot]) -> Pool:
        """The rows of the given buckets."""
        if slots.issuperset(self.slots):
            return self
        kept = [(slot, row) for slot, row in zip(self.slots, self.rows, strict=True) if slot in slots]
        return Pool(slots=tuple(slot for slot, _ in kept), rows=tuple(row for _, row in kept))

    @property
    def buckets(self) -> int:
        """Distinct buckets with at least one run."""
        return len(self.live_slots)

    @property
    def live_slots(self) -> frozenset[Slot]:
        """Buckets in which the candidate has runs."""
        if "live" not in self.memo:
            self.memo["live"] = frozenset(slot for slot, row in zip(self.slots, self.rows, strict=True) if row.n > 0)
        found: frozenset[Slot] = self.memo["live"]
        return found

    def _by_bucket(self, values: list[float] | list[int]) -> list[float]:
        """Values of rows summed up by bucket: several rows may share one."""
        if "distinct" not in self.memo:
            self.memo["distinct"] = len(set(self.slots)) == len(self.slots)
        if self.memo["distinct"]:
            return values  # type: ignore[return-value]
        sums: dict[Slot, float] = {}
        for slot, one in zip(self.slots, values, strict=True):
            sums[slot] = sums[slot] + one if slot in sums else one
        return list(sums.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows of one task, sorted out. `randomised` and `observed` hold a candidate's latest epoch only."""

    task: str
    randomised: dict[str, Pool] = field(default_factory=dict)
    observed: dict[str, Pool] = field(default_factory=dict)
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
    open_rows: tuple[EvidenceRow, ...] = ()
    """Rows of hours that are still open."""
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
        if grade == "randomised":
            return self.randomised.get(candidate, EMPTY_POOL)
        return merge_pools(self.randomised.get(candidate), self.observed.get(candidate))


EMPTY_POOL: Final = Pool()
_EPOCH = attrgetter("key.epoch")


def select(rows: Iterable[EvidenceRow], *, task: str, now: int) -> Selection:
    """Sort out the rows of a task: drop what is invalid, open or escalated, keep each candidate's latest epoch.

    An hour is closed when it ended at or before `now` (Unix seconds); a bench round is closed as written.
    """
    return sort_out(in_order(rows), task=task, now=now)


def sort_out(ordered: Sequence[EvidenceRow], *, task: str, now: int) -> Selection:
    """`select` over rows that are in order already."""
    invalid = foreign = 0
    by_candidate: dict[str, list[EvidenceRow]] = {}
    still_open: list[EvidenceRow] = []
    valid, open_from = all_valid([row.evidence for row in ordered]), now - HOUR_S
    for row in ordered:
        key = row.key
        if key.task != task:
            foreign += 1
        elif not valid and not is_valid(row.evidence):
            invalid += 1
        elif key.rung != 0:
            continue
        elif key.bucket > open_from and key.round < 0:
            still_open.append(row)
        else:
            by_candidate.setdefault(key.candidate, []).append(row)
    tally = _Tally()
    for row in chain(*by_candidate.values()):
        tally.add(row)
    live_runs, live_span_s = tally.live_runs, tally.last - tally.first + HOUR_S if tally.live_runs else 0
    for row in still_open:
        tally.use(row)
    selection = Selection(
        task=task,
        invalid=invalid,
        foreign=foreign,
        open_rows=tuple(still_open),
        live_runs=live_runs,
        live_span_s=live_span_s,
        usage=tally.usage,
        sessions=frozenset(tally.sessions),
        runs={name: sum(row.evidence.n for row in rows) for name, rows in by_candidate.items()},
    )
    for name, mine in by_candidate.items():
        _split(selection, name, _by_slot(mine))
    return selection


class _Tally:
    """Running sums over the rows of a task."""

    def __init__(self) -> None:
        self.usage: dict[str, tuple[int, int]] = {}
        self.sessions: set[str] = set()
        self.live_runs = 0
        self.first, self.last = 1 << 62, 0

    def use(self, row: EvidenceRow) -> None:
        """Count a row of any hour."""
        key, n = row.key, row.evidence.n
        if n > 0:
            runs, first = self.usage.get(key.candidate, (0, key.bucket))
            self.usage[key.candidate] = runs + n, first if first <= key.bucket else key.bucket

    def add(self, row: EvidenceRow) -> None:
        """Count a row of a closed bucket."""
        key, n = row.key, row.evidence.n
        if n <= 0:
            return
        self.use(row)
        if key.grade == "randomised":
            self.sessions.add(key.session)
        if key.round < 0 and key.arm != "shadow":
            self.live_runs += n
            self.first, self.last = min(self.first, key.bucket), max(self.last, key.bucket)


def _split(selection: Selection, name: str, mine: Sequence[EvidenceRow]) -> None:
    """Put a candidate's rows of its latest epoch where they belong."""
    epoch, current = _latest_epoch(mine)
    selection.epochs[name] = epoch
    left_out = selection.runs[name] - sum(row.evidence.n for row in current)
    if left_out > 0:
        selection.older[name] = left_out
    random, other = [], []
    for row in current:
        key = row.key
        if key.grade == "randomised" and key.arm in COMPARED_ARMS:
            random.append(row)
        elif key.arm != "fallback":
            other.append(row)
    if random:
        selection.randomised[name] = _pool(random)
    if other:
        selection.observed[name] = _pool(other)
        selection.chosen[name] = sum(row.evidence.n for row in other if row.key.grade == "observational")


def _by_slot(rows: list[EvidenceRow]) -> list[EvidenceRow]:
    """Bench rounds first, by session and round, then the hours."""
    bench = [row for row in rows if row.key.round >= 0]
    if not bench:
        return rows
    bench.sort(key=_slot)
    return bench + [row for row in rows if row.key.round < 0]


def merge_pools(first: Pool | None, second: Pool | None) -> Pool:
    """Both pools' rows in order of time."""
    if first is None or second is None:
        return first or second or EMPTY_POOL
    pairs = sorted(
        zip(first.slots + second.slots, first.rows + second.rows, strict=True),
        key=lambda pair: pair[0],
    )
    return Pool(slots=tuple(slot for slot, _ in pairs), rows=tuple(row for _, row in pairs))


def _slot(row: EvidenceRow) -> Slot:
    key = row.key
    return (key.bucket, "", -1) if key.round < 0 else (0, key.session, key.round)


def _pool(rows: Sequence[EvidenceRow]) -> Pool:
    return Pool(slots=tuple(map(_slot, rows)), rows=tuple([row.evidence for row in rows]))


def _latest_epoch(rows: Sequence[EvidenceRow]) -> tuple[str, list[EvidenceRow]]:
    """The epoch that was seen last, with its rows and the failures of unknown identity since it began.

    A call that failed before an answer names no model: an epoch of nothing but errors is no epoch of its own.
    """
    epochs = set(map(_EPOCH, rows))
    if len(epochs) == 1:
        return epochs.pop(), list(rows)
    seen: dict[str, tuple[int, int]] = {}
    named: set[str] = set()
    for row in rows:
        epoch, start = row.key.epoch, row.key.bucket
        first, last = seen.get(epoch, (start, start))
        seen[epoch] = min(first, start), max(last, start)
        if epoch and epoch not in named and not _only_errors(row.evidence):
            named.add(epoch)
    if not named:
        return max(seen), list(rows)
    latest = max(named, key=lambda epoch: (seen[epoch][1], seen[epoch][0], epoch))
    since = seen[latest][0]
    return latest, [
        row for row in rows if row.key.epoch == latest or (row.key.epoch not in named and row.key.bucket >= since)
    ]


def _only_errors(evidence: Evidence) -> bool:
    return bool(evidence.outcomes) and all(name == "error" or name in UNCOUNTED for name in evidence.outcomes)

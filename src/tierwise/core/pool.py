"""From columns to what a decision looks at: closed buckets of rung 0, latest epochs, one pool per candidate."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from itertools import accumulate, compress
from operator import add, mul, sub
from typing import Any, Final

from tierwise.core.call import Grade
from tierwise.core.columns import PAIR_SUMS, Series, Slot, TaskEvidence, pair_column
from tierwise.core.evidence import HOUR_S, LATENCY_EDGES_S, UNCOUNTED
from tierwise.core.pairs import PairSums
from tierwise.core.records import dataclass

MAX_CLUSTERS: Final = 240
COMPARED_ARMS: Final = ("primary", "canary", "explore", "pinned")
"""Arms whose randomised runs compare candidates; shadow and fallback traffic is another kind of traffic."""

RUNS: Final = "n"
SUCCESSES: Final = "successes"
PRICED: Final = "priced"
PRICED_SUCCESSES: Final = "priced_successes"
COST: Final = "cost_sum"
COST_SQ: Final = "cost_sq_sum"
COST_SUCCESS: Final = "cost_success_sum"
ATTEMPTS: Final = "attempts"
"""Counted first attempts: cancelled and rejected calls left out."""
FORMS: Final = "forms"
"""Answers whose JSON was judged."""
TOKENS: Final = "tokens"
WELL_FORMED: Final = "well_formed"
"""First attempts in the asked-for form."""
JUDGED_BY_USERS: Final = "judged_by_users"
MALFORMED: Final = ("json_fenced", "json_mismatch", "json_invalid", "tool_arguments_invalid")


class Pool:
    """Evidence of one candidate in order of time: one number a bucket, by the name of what is summed.

    Names are those of `columns.Series` and the derived ones above. Nothing that is returned may be changed.
    """

    __slots__ = ("_load", "_names", "memo", "slots")

    def __init__(
        self, slots: Sequence[Slot] = (), load: Callable[[str], list[float]] | None = None, names: Iterable[str] = ()
    ) -> None:
        self.slots = slots
        self._load = load
        self._names = frozenset(names)
        self.memo: dict[object, Any] = {}
        """What was worked out of this pool before, by what asked for it: the same few are asked for many times."""

    def total(self, name: str) -> float:
        """Sum over all buckets."""
        key = ("total", name)
        if key not in self.memo:
            self.memo[key] = sum(self.series(name))
        found: float = self.memo[key]
        return found

    def series(self, name: str) -> list[float]:
        """One number a bucket, in order of time."""
        found: list[float] | None = self.memo.get(name)
        if found is None:
            derived = _DERIVED.get(name)
            if derived is not None:
                found = derived(self)
            elif name in self._names and self._load is not None:
                found = self._load(name)
            else:
                found = [0] * len(self.slots)
            self.memo[name] = found
        return found

    def clusters(self, name: str) -> list[float]:
        """The same, in stretches of neighbouring buckets where there are more than 240: what variances are made of.

        Wider clusters take in more of what persists; so many of them cost no power.
        """
        if len(self.slots) <= MAX_CLUSTERS:
            return self.series(name)
        key = ("clusters", name)
        if key not in self.memo:
            width = -(-len(self.slots) // MAX_CLUSTERS)
            sums = list(accumulate(self.series(name)))
            ends = sums[width - 1 :: width]
            if len(sums) % width:
                ends.append(sums[-1])
            self.memo[key] = list(map(sub, ends, [0, *ends]))
        found: list[float] = self.memo[key]
        return found

    def histogram(self, which: str) -> list[int]:
        """Histogram counts over all buckets (`latency` or `ttft`); empty without any."""
        key = ("histogram", which)
        if key not in self.memo:
            prefix = f"{which}."
            counts = [0] * (len(LATENCY_EDGES_S) + 1)
            for name in self._names:
                if name.startswith(prefix):
                    counts[int(name[len(prefix) :])] = int(self.total(name))
            self.memo[key] = counts if any(counts) else []
        found: list[int] = self.memo[key]
        return found

    def at_or_below(self, which: str, index: int) -> list[float]:
        """Counts per cluster of what lies at or below an edge of a histogram; index -1 counts everything."""
        key = ("below", which, index)
        if key not in self.memo:
            used = [one for one, count in enumerate(self.histogram(which)) if count]
            below = [one for one in used if index < 0 or one <= index]
            if index < 0 or 2 * len(below) <= len(used):
                self.memo[key] = _sum([self.clusters(f"{which}.{one}") for one in below], len(self.clusters(RUNS)))
            else:
                above = _sum([self.clusters(f"{which}.{one}") for one in used if one > index], len(self.clusters(RUNS)))
                self.memo[key] = list(map(sub, self.at_or_below(which, -1), above))
        found: list[float] = self.memo[key]
        return found

    def within(self, slots: frozenset[Slot]) -> Pool:
        """The given buckets only."""
        if slots.issuperset(self.slots):
            return self
        mask = [slot in slots for slot in self.slots]
        return Pool(list(compress(self.slots, mask)), lambda name: list(compress(self.series(name), mask)), self._names)

    def weighted(self, factors: Sequence[float]) -> Pool:
        """Every sum of a bucket times the bucket's factor."""
        return Pool(self.slots, lambda name: list(map(mul, self.series(name), factors)), self._names)

    def pairs(self, partner: str) -> list[PairSums]:
        """Shadow pairs with another candidate, bucket by bucket; empty without any."""
        if pair_column(partner, 0) not in self._names and not any(
            pair_column(partner, index) in self._names for index in range(1, PAIR_SUMS)
        ):
            return []
        columns = [self.series(pair_column(partner, index)) for index in range(PAIR_SUMS)]
        names = tuple(PairSums.__dataclass_fields__)
        return [PairSums(**dict(zip(names, sums, strict=True))) for sums in zip(*columns, strict=True) if any(sums)]

    def since(self, start_s: int) -> Pool:
        """The hours that began at `start_s` or later."""
        first = bisect_left(self.slots, (start_s,))
        if first == 0:
            return self
        return Pool(self.slots[first:], lambda name: self.series(name)[first:], self._names)

    @property
    def buckets(self) -> int:
        """Distinct buckets with at least one run."""
        return len(self.live_slots)

    @property
    def live_slots(self) -> frozenset[Slot]:
        """Buckets in which the candidate has runs."""
        if "live" not in self.memo:
            self.memo["live"] = frozenset(compress(self.slots, self.series(RUNS)))
        found: frozenset[Slot] = self.memo["live"]
        return found

    def _sum(self, names: Iterable[str]) -> list[float]:
        return _sum([self.series(name) for name in names], len(self.slots))

    def _named(self, prefix: str, without: Sequence[str] = ()) -> list[float]:
        """Sum of the columns of a mapping."""
        return self._sum(
            name for name in sorted(self._names) if name.startswith(prefix) and name[len(prefix) :] not in without
        )


def _sum(columns: Sequence[list[float]], length: int) -> list[float]:
    if not columns:
        return [0] * length
    found = columns[0]
    for column in columns[1:]:
        found = list(map(add, found, column))
    return found


def _well_formed(pool: Pool) -> list[float]:
    bad = pool._sum(f"outcomes.{name}" for name in MALFORMED)
    return list(map(sub, pool.series(ATTEMPTS), bad))


_DERIVED: Final[Mapping[str, Callable[[Pool], list[float]]]] = {
    ATTEMPTS: lambda pool: pool._named("outcomes.", UNCOUNTED),
    FORMS: lambda pool: pool._named("json_forms."),
    TOKENS: lambda pool: pool._named("tokens."),
    WELL_FORMED: _well_formed,
    JUDGED_BY_USERS: lambda pool: list(map(add, pool.series("accepted"), pool.series("rejected"))),
}


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


EMPTY_POOL: Final = Pool()


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
        busy = list(compress(part.series.buckets, numbers))
        first, last = busy[0], busy[-1]
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

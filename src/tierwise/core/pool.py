"""From rows to what a decision looks at: closed buckets of rung 0, latest epochs, one series of evidence per candidate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from tierwise.core.call import Grade
from tierwise.core.evidence import HOUR_S, UNCOUNTED, Evidence, EvidenceRow, Key
from tierwise.core.policy import TaskPolicy
from tierwise.core.recommendation import canonical_json
from tierwise.core.route import Route

Slot = tuple[int, str, int]
"""A bucket's place in time: (start, session, round); a bench round has its session's name and starts at 0."""

COMPARED_ARMS: Final = ("primary", "canary", "explore", "pinned")
"""Arms whose randomised runs compare candidates; shadow and fallback traffic is another kind of traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Evidence of one candidate in order of time: `slots[i]` is the bucket of `rows[i]`, equal slots are adjacent."""

    slots: tuple[Slot, ...] = ()
    rows: tuple[Evidence, ...] = ()
    _sums: dict[Callable[[Evidence], float], list[float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Series by the function they were read with: the same few are asked for many times."""
    _live: list[frozenset[Slot]] = field(default_factory=list, init=False, repr=False, compare=False)
    _unique: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    def total(self, value: Callable[[Evidence], float]) -> float:
        """Sum of a value over all rows."""
        return sum(self.series(value))

    def series(self, value: Callable[[Evidence], float]) -> list[float]:
        """Sums of a value, one per bucket, in order of time; not to be changed."""
        found = self._sums.get(value)
        if found is None:
            found = self._sums[value] = self._add_up(value)
        return found

    def histogram(self, which: Callable[[Evidence], tuple[int, ...]]) -> list[int]:
        """Histogram counts over all rows; empty without any."""
        recorded = [counts for counts in map(which, self.rows) if counts]
        return [sum(column) for column in zip(*recorded, strict=True)] if recorded else []

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
        if not self._live:
            self._live.append(frozenset(slot for slot, row in zip(self.slots, self.rows, strict=True) if row.n > 0))
        return self._live[0]

    def _distinct(self) -> bool:
        if not self._unique:
            self._unique.append(len(set(self.slots)) == len(self.slots))
        return self._unique[0]

    def _add_up(self, value: Callable[[Evidence], float]) -> list[float]:
        if self._distinct():
            return list(map(value, self.rows))
        sums: dict[Slot, float] = {}
        for slot, one in zip(self.slots, map(value, self.rows), strict=True):
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
    runs: dict[str, int] = field(default_factory=dict)
    """Runs of a candidate in the window: all epochs, all arms."""
    invalid: int = 0
    foreign: int = 0
    open_runs: int = 0
    open_until: int = 0
    runs_per_hour: float | None = None
    """Live runs of the task per hour of the time that the window covers."""
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


def select(rows: Sequence[EvidenceRow], *, task: str, now: int) -> Selection:  # noqa: PLR0912 - a branch a kind of row
    """Sort out the rows of a task: drop what is invalid, open or escalated, keep each candidate's latest epoch.

    An hour is closed when it ended at or before `now` (Unix seconds); a bench round is closed as written.
    """
    invalid = foreign = open_runs = open_until = 0
    kept: list[EvidenceRow] = []
    for row in rows:
        key, evidence = row.key, row.evidence
        if key.task != task:
            foreign += 1
        elif not is_valid(evidence):
            invalid += 1
        elif key.rung != 0:
            continue
        elif key.round < 0 and key.bucket + HOUR_S > now:
            open_runs += evidence.n
            open_until = max(open_until, key.bucket + HOUR_S)
        else:
            kept.append(row)
    kept.sort(key=_ORDER)
    by_candidate: dict[str, list[EvidenceRow]] = {}
    for row in kept:
        by_candidate.setdefault(row.key.candidate, []).append(row)
    selection = Selection(
        task=task,
        invalid=invalid,
        foreign=foreign,
        open_runs=open_runs,
        open_until=open_until,
        runs_per_hour=_runs_per_hour(kept),
        sessions=frozenset(row.key.session for row in kept if row.key.grade == "randomised" and row.evidence.n > 0),
        runs={name: sum(row.evidence.n for row in rows) for name, rows in by_candidate.items()},
    )
    for name, mine in by_candidate.items():
        epoch, current = _latest_epoch(mine)
        selection.epochs[name] = epoch
        left_out = selection.runs[name] - sum(row.evidence.n for row in current)
        if left_out > 0:
            selection.older[name] = left_out
        random, other = [], []
        for row in current:
            if row.key.grade == "randomised" and row.key.arm in COMPARED_ARMS:
                random.append(row)
            elif row.key.arm != "fallback":
                other.append(row)
        if random:
            selection.randomised[name] = _pool(random)
        if other:
            selection.observed[name] = _pool(other)
    return selection


def merge_pools(first: Pool | None, second: Pool | None) -> Pool:
    """Both pools' rows in order of time."""
    if first is None or second is None:
        return first or second or EMPTY_POOL
    pairs = sorted(
        zip(first.slots + second.slots, first.rows + second.rows, strict=True),
        key=lambda pair: pair[0],
    )
    return Pool(slots=tuple(slot for slot, _ in pairs), rows=tuple(row for _, row in pairs))


def is_valid(evidence: Evidence) -> bool:
    """Whether a row can be believed: finite sums, no negative counts or costs, parts not above their whole.

    A bucket may have fewer successes than none when feedback took back successes of another bucket.
    """
    e = evidence
    floats = _FLOATS(e)
    if not (sum(map(abs, floats)) <= _MOST and min(_NATURAL(e)) >= 0) or 0 < e.cost_sum < _LEAST:
        return False
    if not -e.rejected <= e.successes <= e.n or e.priced > e.n or e.priced_successes > e.priced:
        return False
    parts = (e.outcomes.values(), e.json_forms.values(), e.tokens.values(), e.latency, e.ttft)
    return all(not part or min(part) >= 0 for part in parts)


def hash_inputs(rows: Iterable[EvidenceRow], policy: TaskPolicy, route: Route | None, now: int) -> str:
    """BLAKE2b (128 bits, hex) over everything a decision depends on; the order of rows does not matter."""
    digest = hashlib.blake2b(canonical_json((policy, route, now)), digest_size=16)
    texts = [
        repr((_KEY(row.key), _NUMBERS(row.evidence), *(sorted(counts.items()) for counts in _MAPS(row.evidence))))
        for row in rows
    ]
    texts.sort()
    digest.update("\n".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


_KEY = attrgetter("task", "candidate", "epoch", "arm", "rung", "grade", "bucket", "session", "round")
_NUMBERS = attrgetter(
    "n", "successes", "priced", "priced_successes", "cost_sum", "cost_sq_sum", "cost_success_sum", "retries", "retried",
    "escalated", "latency", "latency_sum_s", "ttft", "check_score_sum", "check_count", "accepted", "rejected",
)  # fmt: skip
_MAPS = attrgetter("outcomes", "json_forms", "tokens")
_FLOATS = attrgetter("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
_NATURAL = attrgetter(
    "n", "priced", "cost_sum", "cost_sq_sum", "retries", "retried", "escalated", "latency_sum_s", "check_count",
    "check_score_sum", "accepted", "rejected",
)  # fmt: skip
_MOST, _LEAST = 1e15, 1e-30  # an hour's dollars and seconds: outside, squares would leave what a float can hold
_SUMS = attrgetter("n", "successes", "cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s")


def _ORDER(row: EvidenceRow) -> tuple[object, ...]:  # noqa: N802 - used as a constant sort key
    return _slot(row.key), row.key.epoch, row.key.arm, row.key.grade, _SUMS(row.evidence)


def _slot(key: Key) -> Slot:
    return (key.bucket, "", -1) if key.round < 0 else (0, key.session, key.round)


def _pool(rows: Sequence[EvidenceRow]) -> Pool:
    return Pool(slots=tuple(_slot(row.key) for row in rows), rows=tuple(row.evidence for row in rows))


def _latest_epoch(rows: Sequence[EvidenceRow]) -> tuple[str, list[EvidenceRow]]:
    """The epoch that was seen last, with its rows and the failures of unknown identity since it began.

    A call that failed before an answer names no model: an epoch of nothing but errors is no epoch of its own.
    """
    seen: dict[str, tuple[int, int]] = {}
    named: set[str] = set()
    for row in rows:
        epoch, start = row.key.epoch, row.key.bucket
        first, last = seen.get(epoch, (start, start))
        seen[epoch] = min(first, start), max(last, start)
        if epoch and not _only_errors(row.evidence):
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


def _runs_per_hour(rows: Iterable[EvidenceRow]) -> float | None:
    live = [(row.key.bucket, row.evidence.n) for row in rows if row.key.round < 0 and row.key.arm != "shadow"]
    runs = sum(n for _, n in live)
    if not runs:
        return None
    starts = [start for start, _ in live]
    return runs / ((max(starts) - min(starts)) / HOUR_S + 1)

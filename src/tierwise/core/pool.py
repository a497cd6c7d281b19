"""Evidence of one candidate as columns, one number a bucket, with what is derived of them and worked out once."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from operator import add, mul, sub
from typing import Any, Final

from tierwise.core.columns import PAIR_SUMS, Slot, pair_column
from tierwise.core.evidence import LATENCY_EDGES_S, UNCOUNTED
from tierwise.core.pairs import PairSums

MAX_CLUSTERS: Final = 240

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
            summands = self._summands(name)
            self.memo[key] = sum(self.series(name)) if summands is None else sum(map(self.total, summands))
        found: float = self.memo[key]
        return found

    def series(self, name: str) -> list[float]:
        """One number a bucket, in order of time."""
        found: list[float] | None = self.memo.get(name)
        if found is None:
            derived, summands = _DERIVED.get(name), self._summands(name)
            if summands is not None:
                found = self._sum(summands)
            elif derived is not None:
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
            self.memo[key] = _stretches(self.series(name), -(-len(self.slots) // MAX_CLUSTERS))
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
            self.memo[key] = self._at_or_below(which, index)
        found: list[float] = self.memo[key]
        return found

    def _at_or_below(self, which: str, index: int) -> list[float]:
        counts, whole = self.histogram(which), self.clusters(RUNS)
        used = [one for one, count in enumerate(counts) if count]
        split = len(used) if index < 0 else bisect_right(used, index)
        one_a_run = sum(counts) == self.total(RUNS)  # then what does not lie above lies below
        if one_a_run and len(used) - split < split:
            above = _sum([self.clusters(f"{which}.{one}") for one in used[split:]], len(whole))
            return list(map(sub, whole, above)) if split < len(used) else whole
        return _sum([self.clusters(f"{which}.{one}") for one in used[:split]], len(whole))

    def shared_with(self, other: Pool) -> tuple[Pool, Pool]:
        """Both pools in the buckets in which both have runs."""
        if (
            (self.slots is other.slots or self.slots == other.slots)
            and 0 not in self.series(RUNS)
            and 0 not in other.series(RUNS)
        ):
            return self, other
        shared = self.live_slots & other.live_slots
        return self.within(shared), other.within(shared)

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
        return len(self.slots) - self.series(RUNS).count(0)

    @property
    def live_slots(self) -> frozenset[Slot]:
        """Buckets in which the candidate has runs."""
        if "live" not in self.memo:
            self.memo["live"] = frozenset(compress(self.slots, self.series(RUNS)))
        found: frozenset[Slot] = self.memo["live"]
        return found

    def _sum(self, names: Iterable[str]) -> list[float]:
        return _sum([self.series(name) for name in names], len(self.slots))

    def _summands(self, name: str) -> list[str] | None:
        """The columns that a derived one is the sum of; `None` for any other."""
        if name not in _SUMS:
            return None
        prefix, without = _SUMS[name]
        return [one for one in sorted(self._names) if one.startswith(prefix) and one[len(prefix) :] not in without]


def _stretches(column: Sequence[float], width: int) -> list[float]:
    """Sums of `width` neighbours each; the last stretch may be shorter."""
    places = iter(column)
    if width == 2:
        found = [one + two for one, two in zip(places, places, strict=False)]
    elif width == 3:
        found = [one + two + three for one, two, three in zip(places, places, places, strict=False)]
    else:
        found = list(map(sum, zip(*[places] * width, strict=False)))
    rest = len(column) % width
    return [*found, sum(column[-rest:])] if rest else found


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


_SUMS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    ATTEMPTS: ("outcomes.", UNCOUNTED),
    FORMS: ("json_forms.", ()),
    TOKENS: ("tokens.", ()),
}
"""Sums of the columns of a mapping: prefix and what is left out."""

_DERIVED: Final[Mapping[str, Callable[[Pool], list[float]]]] = {
    WELL_FORMED: _well_formed,
    JUDGED_BY_USERS: lambda pool: list(map(add, pool.series("accepted"), pool.series("rejected"))),
}


EMPTY_POOL: Final = Pool()

"""Evidence of one task as columns, a series for each identity: what decisions read, made once and appended to."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter, eq, itemgetter
from typing import Final

from tierwise.core.evidence import LATENCY_EDGES_S, Evidence, EvidenceRow, Key
from tierwise.core.pairs import PairSums

Identity = tuple[str, str, str, int, str, str]
"""candidate, epoch, arm, rung, grade, bench session (`""` for live traffic): a key without its task and bucket."""
Slot = tuple[int, str, int]
"""A bucket's place in time: (start, session, round); a bench round has its session's name and starts at 0."""

Parts = tuple[
    tuple[float, ...], Mapping[str, int], Mapping[str, int], Mapping[str, int], tuple[int, ...], tuple[int, ...],
    Mapping[str, tuple[float, ...]],
]  # fmt: skip
"""The values of evidence: `INTEGERS` and `FLOATS`, then outcomes, json_forms, tokens, latency, ttft and pairs."""

INTEGERS: Final = (
    "n", "successes", "priced", "priced_successes", "retries", "retried", "escalated", "check_count", "accepted",
    "rejected",
)  # fmt: skip
FLOATS: Final = ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
_SCALARS: Final = (*INTEGERS, *FLOATS)
_NATURAL: Final = (
    "n", "priced", "cost_sum", "cost_sq_sum", "retries", "retried", "escalated", "latency_sum_s", "check_count",
    "check_score_sum", "accepted", "rejected",
)  # fmt: skip
PAIR_SUMS: Final = len(PairSums.__dataclass_fields__)
_LENGTHS: Final = frozenset({0, len(LATENCY_EDGES_S) + 1})
_MOST, _LEAST = 1e15, 1e-30  # an hour's dollars and seconds: outside, squares would leave what a float can hold

_FLOATS_FROM: Final = len(INTEGERS)
_REJECTED: Final = INTEGERS.index("rejected")
_scalars = attrgetter(*_SCALARS)
_natural = itemgetter(*(_SCALARS.index(name) for name in _NATURAL))
_identity = attrgetter("candidate", "epoch", "arm", "rung", "grade", "session")


class Series:
    """Evidence of one identity in order of time: `slots` and, by name, one number a slot.

    Columns are named as the fields of `Evidence`; those of its mappings as `outcomes.success`, those of its histograms
    as `latency.12`, by the index of the edge. What was never counted has no column.
    """

    __slots__ = ("_columns", "_digest", "buckets", "slots")

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.buckets: list[int] = []
        """When each slot began, Unix seconds: for bench rounds the hour of the first of its rows."""
        self._columns: dict[str, list[float]] = {name: [] for name in _SCALARS}
        self._digest = hashlib.blake2b(digest_size=16)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def names(self) -> Iterable[str]:
        """The columns there are."""
        return self._columns

    def column(self, name: str) -> list[float]:
        """One column, as long as `slots`; not to be changed."""
        column = self._columns.get(name)
        if column is None:
            return [0] * len(self.slots)
        if len(column) < len(self.slots):
            column.extend([0] * (len(self.slots) - len(column)))
        return column

    def digest(self) -> bytes:
        """A hash of everything that was appended, in its order."""
        return self._digest.copy().digest()

    def append(self, slot: Slot, bucket: int, parts: Parts) -> None:
        """Add the evidence of a bucket, the last one again or a later one.

        Raises:
            ValueError: the bucket lies before the last one.
        """
        slots, columns, scalars = self.slots, self._columns, parts[0]
        if not slots or slot > slots[-1]:
            slots.append(slot)
            self.buckets.append(bucket)
            for name, value in zip(_SCALARS, scalars, strict=True):
                columns[name].append(value)
        elif slot == slots[-1]:
            for name, value in zip(_SCALARS, scalars, strict=True):
                columns[name][-1] += value
        else:
            raise ValueError(f"buckets come in order of time: {slot} after {slots[-1]}")
        self.note((bucket, slot[2]), parts)
        self._count(parts)

    def _count(self, parts: Parts) -> None:
        _, outcomes, forms, tokens, latency, ttft, pairs = parts
        for prefix, counts in (("outcomes.", outcomes), ("json_forms.", forms), ("tokens.", tokens)):
            for name, count in counts.items():
                if count:
                    self._put(prefix + name, count)
        for name, sums in pairs.items():
            for index, value in enumerate(sums):
                if value:
                    self._put(pair_column(name, index), value)
        for names, histogram in ((_LATENCY, latency), (_TTFT, ttft)):
            if histogram:
                for name, count in zip(names, histogram, strict=True):
                    if count:
                        self._put(name, count)

    def note(self, place: tuple[object, ...], parts: Parts) -> None:
        """Let the digest know of evidence, believed or not."""
        scalars, outcomes, forms, tokens, latency, ttft, pairs = parts
        counts = (sorted(outcomes.items()), sorted(forms.items()), sorted(tokens.items()))
        self._digest.update(_bytes((place, scalars, *counts, latency, ttft, sorted(pairs.items()))))

    def _put(self, name: str, count: float) -> None:
        at = len(self.slots) - 1
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = []
        if len(column) > at:
            column[at] += count
            return
        if len(column) < at:
            column.extend([0] * (at - len(column)))
        column.append(count)


class TaskEvidence:
    """All evidence of one task, to be appended to as time goes on; `decide` reads it and changes nothing.

    Rows that cannot be believed (`is_valid`) are counted in `invalid` and left out, rows of other tasks in `foreign`.
    """

    __slots__ = ("_refused", "foreign", "invalid", "series", "task")

    def __init__(self, task: str) -> None:
        self.task = task
        self.series: dict[Identity, Series] = {}
        self.invalid = 0
        self.foreign = 0
        self._refused = Series()

    @staticmethod
    def of(rows: Iterable[EvidenceRow], task: str) -> TaskEvidence:
        """The evidence of rows in any order; rows of one key are summed, in an order of their own."""
        made = TaskEvidence(task)
        ordered = sorted(rows, key=_row_order)
        orders = list(map(_row_order, ordered))
        if any(map(eq, orders, orders[1:])):  # rows of one key: summed in one order, whichever they came in
            ordered.sort(key=lambda row: (_row_order(row), repr(_sortable(row.evidence))))
        for row in ordered:
            made.append(row.key, row.evidence)
        return made

    def append(self, key: Key, evidence: Evidence) -> None:
        """Add the evidence of one key; within one identity in order of time.

        Raises:
            ValueError: a bucket that lies before the last one of its identity.
        """
        parts = parts_of(evidence)
        if key.task != self.task:
            self.foreign += 1
            self._refused.note((key.task, key.bucket, key.round, _identity(key)), parts)
        else:
            self.append_parts(_identity(key), key.bucket, key.round, parts)

    def append_parts(self, identity: Identity, bucket: int, number: int, parts: Parts) -> None:
        """`append` for a store that has a row's values at hand; `number` is the bench round, -1 for an hour.

        Raises:
            ValueError: a bucket that lies before the last one of its identity.
        """
        if not _believable(parts):
            self.invalid += 1
            self._refused.note((self.task, bucket, number, identity), parts)
            return
        series = self.series.get(identity)
        if series is None:
            series = self.series[identity] = Series()
        series.append((bucket, "", -1) if number < 0 else (0, identity[5], number), bucket, parts)

    def of_candidates(self) -> Iterator[tuple[Identity, Series]]:
        """The series in a fixed order: by candidate, then the rest of the identity."""
        for identity in sorted(self.series):
            yield identity, self.series[identity]

    def without(self, identities: Iterable[Identity]) -> TaskEvidence:
        """The same evidence without some of its series."""
        left = TaskEvidence(self.task)
        gone = frozenset(identities)
        left.series = {identity: series for identity, series in self.series.items() if identity not in gone}
        left.invalid, left.foreign, left._refused = self.invalid, self.foreign, self._refused
        return left

    def digest(self) -> bytes:
        """A hash of all of it, the same for the same rows in the same order of time."""
        whole = hashlib.blake2b(self._refused.digest(), digest_size=16)
        for identity, series in self.of_candidates():
            whole.update(repr(identity).encode("utf-8", "surrogatepass"))
            whole.update(series.digest())
        return whole.digest()


def is_valid(evidence: Evidence) -> bool:
    """Whether a row can be believed: finite sums, no negative counts or costs, parts not above their whole.

    A bucket may have fewer successes than none when feedback took back successes of another bucket. Histograms have the
    edges of this version or none.
    """
    return _believable(parts_of(evidence))


def parts_of(evidence: Evidence) -> Parts:
    """The values of evidence as columns take them."""
    return (
        _scalars(evidence),
        evidence.outcomes,
        evidence.json_forms,
        evidence.tokens,
        tuple(evidence.latency),
        tuple(evidence.ttft),
        evidence.pairs,
    )


def _believable(parts: Parts) -> bool:
    scalars, outcomes, forms, tokens, latency, ttft, pairs = parts
    if not (sum(map(abs, scalars[_FLOATS_FROM:])) <= _MOST and min(_natural(scalars)) >= 0):
        return False
    n, successes, priced, priced_successes = scalars[:4]
    if 0 < scalars[_FLOATS_FROM] < _LEAST or len(latency) not in _LENGTHS or len(ttft) not in _LENGTHS:
        return False
    if not -scalars[_REJECTED] <= successes <= n or priced > n or priced_successes > priced:
        return False
    if pairs and not all(map(_pairs_fit, pairs.values())):
        return False
    return all(
        not part or min(part) >= 0 for part in (outcomes.values(), forms.values(), tokens.values(), latency, ttft)
    )


def pair_column(partner: str, index: int) -> str:
    """The column of one of the sums of `PairSums` with a partner."""
    return f"pairs.{index}.{partner}"


def _pairs_fit(sums: tuple[float, ...]) -> bool:
    return len(sums) == PAIR_SUMS and sum(map(abs, sums)) <= _MOST and min(sums) >= 0


def _sortable(evidence: Evidence) -> tuple[object, ...]:
    scalars, outcomes, forms, tokens, latency, ttft, pairs = parts_of(evidence)
    counts = (sorted(outcomes.items()), sorted(forms.items()), sorted(tokens.items()))
    return (scalars, *counts, latency, ttft, sorted(pairs.items()))


def _bytes(parts: tuple[object, ...]) -> bytes:
    """The same bytes for the same values, and no object remembered: version 2 of the format knows no references."""
    try:
        return marshal.dumps(parts, 2)  # type: ignore[arg-type]
    except ValueError:
        return repr(parts).encode("utf-8", "surrogatepass")


def _row_order(row: EvidenceRow) -> tuple[object, ...]:
    key = row.key
    slot = (key.bucket, "", -1) if key.round < 0 else (0, key.session, key.round)
    return (_identity(key), slot, key.bucket, key.task)


_LATENCY: Final = tuple(f"latency.{index}" for index in range(len(LATENCY_EDGES_S) + 1))
_TTFT: Final = tuple(f"ttft.{index}" for index in range(len(LATENCY_EDGES_S) + 1))

"""Evidence of one task as columns, a series for each identity: what decisions read, made once and appended to."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Iterable, Iterator
from operator import attrgetter, eq
from typing import Final

from tierwise.core.evidence import LATENCY_EDGES_S, Evidence, EvidenceRow, Key
from tierwise.core.pairs import PairSums

Identity = tuple[str, str, str, int, str, str]
"""candidate, epoch, arm, rung, grade, bench session (`""` for live traffic): a key without its task and bucket."""
Slot = tuple[int, str, int]
"""A bucket's place in time: (start, session, round); a bench round has its session's name and starts at 0."""

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

_scalars = attrgetter(*_SCALARS)
_floats = attrgetter(*FLOATS)
_natural = attrgetter(*_NATURAL)
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

    def append(self, slot: Slot, bucket: int, evidence: Evidence) -> None:
        """Add the evidence of a bucket, the last one again or a later one.

        Raises:
            ValueError: the bucket lies before the last one.
        """
        slots, columns = self.slots, self._columns
        if not slots or slot > slots[-1]:
            slots.append(slot)
            self.buckets.append(bucket)
            for name, value in zip(_SCALARS, _scalars(evidence), strict=True):
                columns[name].append(value)
        elif slot == slots[-1]:
            for name, value in zip(_SCALARS, _scalars(evidence), strict=True):
                columns[name][-1] += value
        else:
            raise ValueError(f"buckets come in order of time: {slot} after {slots[-1]}")
        self.note((bucket, slot[2]), evidence)
        self._count(evidence)

    def _count(self, evidence: Evidence) -> None:
        for prefix, counts in (
            ("outcomes.", evidence.outcomes),
            ("json_forms.", evidence.json_forms),
            ("tokens.", evidence.tokens),
        ):
            for name, count in counts.items():
                if count:
                    self._put(prefix + name, count)
        for name, sums in evidence.pairs.items():
            for index, value in enumerate(sums):
                if value:
                    self._put(pair_column(name, index), value)
        for index, count in enumerate(evidence.latency):
            if count:
                self._put(_LATENCY[index], count)
        for index, count in enumerate(evidence.ttft):
            if count:
                self._put(_TTFT[index], count)

    def note(self, place: object, evidence: Evidence) -> None:
        """Let the digest know of evidence, believed or not."""
        self._digest.update(_bytes((place, _parts(evidence))))

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
            ordered.sort(key=lambda row: (_row_order(row), repr(_parts(row.evidence))))
        for row in ordered:
            made.append(row.key, row.evidence)
        return made

    def append(self, key: Key, evidence: Evidence) -> None:
        """Add the evidence of one key; within one identity in order of time.

        Raises:
            ValueError: a bucket that lies before the last one of its identity.
        """
        slot = _slot_of(key)
        if key.task != self.task:
            self.foreign += 1
            self._refused.note((key.task, key.bucket, key.round, _identity(key)), evidence)
        elif not is_valid(evidence):
            self.invalid += 1
            self._refused.note((key.task, key.bucket, key.round, _identity(key)), evidence)
        else:
            identity = _identity(key)
            series = self.series.get(identity)
            if series is None:
                series = self.series[identity] = Series()
            series.append(slot, key.bucket, evidence)

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
    e = evidence
    if not (sum(map(abs, _floats(e))) <= _MOST and min(_natural(e)) >= 0):
        return False
    if 0 < e.cost_sum < _LEAST or len(e.latency) not in _LENGTHS or len(e.ttft) not in _LENGTHS:
        return False
    if not -e.rejected <= e.successes <= e.n or e.priced > e.n or e.priced_successes > e.priced:
        return False
    if e.pairs and not all(map(_pairs_fit, e.pairs.values())):
        return False
    parts = (e.outcomes.values(), e.json_forms.values(), e.tokens.values(), e.latency, e.ttft)
    return all(not part or min(part) >= 0 for part in parts)


def _parts(evidence: Evidence) -> tuple[object, ...]:
    return (
        _scalars(evidence),
        sorted(evidence.outcomes.items()),
        sorted(evidence.json_forms.items()),
        sorted(evidence.tokens.items()),
        tuple(evidence.latency),
        tuple(evidence.ttft),
        sorted(evidence.pairs.items()),
    )


def _bytes(parts: tuple[object, ...]) -> bytes:
    """The same bytes for the same values, and no object remembered: version 2 of the format knows no references."""
    try:
        return marshal.dumps(parts, 2)  # type: ignore[arg-type]
    except ValueError:
        return repr(parts).encode("utf-8", "surrogatepass")


def pair_column(partner: str, index: int) -> str:
    """The column of one of the sums of `PairSums` with a partner."""
    return f"pairs.{index}.{partner}"


def _pairs_fit(sums: tuple[float, ...]) -> bool:
    return len(sums) == PAIR_SUMS and sum(map(abs, sums)) <= _MOST and min(sums) >= 0


def _slot_of(key: Key) -> Slot:
    return (key.bucket, "", -1) if key.round < 0 else (0, key.session, key.round)


def _row_order(row: EvidenceRow) -> tuple[object, ...]:
    key = row.key
    return (_identity(key), _slot_of(key), key.bucket, key.task)


_LATENCY: Final = tuple(f"latency.{index}" for index in range(len(LATENCY_EDGES_S) + 1))
_TTFT: Final = tuple(f"ttft.{index}" for index in range(len(LATENCY_EDGES_S) + 1))

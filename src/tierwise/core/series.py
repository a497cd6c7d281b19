"""Evidence of one identity as columns, a number a bucket: appended row by row, or read from what a store keeps packed."""

from __future__ import annotations

import hashlib
import marshal
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, Protocol

from tierwise.core.evidence import LATENCY_EDGES_S

Slot = tuple[int, str, int]
"""A bucket's place in time: (start, session, round); a bench round has its session's name and starts at 0."""

Times = tuple[list[Slot], list[int], list[tuple[int, ...]]]
"""Slots and their starts in Unix seconds, and the stretches that they were joined of."""

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
DIGEST_BYTES: Final = 8
SCALARS: Final = (*INTEGERS, *FLOATS)
_ZEROS: Final[Mapping[str, float]] = dict.fromkeys(FLOATS, 0.0)
_LATENCY: Final = tuple(f"latency.{index}" for index in range(len(LATENCY_EDGES_S) + 1))
_TTFT: Final = tuple(f"ttft.{index}" for index in range(len(LATENCY_EDGES_S) + 1))


class Segment(Protocol):
    """A stretch of a series that is read when it is asked for: hours of live traffic, in order of time."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """The starts of its hours, Unix seconds; at least one. Equal tuples of one task should be one object."""
        ...

    @property
    def names(self) -> Iterable[str]:
        """The columns with anything in them."""
        ...

    @property
    def digests(self) -> bytes:
        """The digests of its rows, `DIGEST_BYTES` each."""
        ...

    def column(self, name: str) -> Sequence[float] | None:
        """One number a bucket; `None` where there is nothing."""
        ...


class Series:
    """Evidence of one identity in order of time: `slots` and, by name, one number a slot.

    Columns are named as the fields of `Evidence`; those of its mappings as `outcomes.success`, those of its histograms
    as `latency.12`, by the index of the edge. What was never counted has no column.

    A store hands over what it keeps packed as `Segment`s, of which only the columns are decoded that are asked for;
    rows may be appended behind.
    """

    __slots__ = ("_buckets", "_columns", "_digests", "_grids", "_joined", "_named", "_segments", "_slots", "_whole")

    def __init__(self, grids: dict[tuple[object, ...], Times] | None = None) -> None:
        self._segments: list[Segment] = []
        self._grids = grids
        self._joined: dict[str, list[float]] = {}
        self._whole: Times | None = None
        self._named: tuple[str, ...] | None = None
        self._slots: list[Slot] = []
        self._buckets: list[int] = []
        self._columns: dict[str, list[float]] = {}
        self._digests: list[bytes] = []

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def slots(self) -> list[Slot]:
        """The places of its buckets in time; not to be changed. Series of one store with the same hours share the list."""
        return self._slots if not self._segments else self._times()[0]

    @property
    def buckets(self) -> list[int]:
        """When each slot began, Unix seconds: for bench rounds the hour of the first of its rows. Not to be changed."""
        return self._buckets if not self._segments else self._times()[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns there are, in the order of their names."""
        if not self._segments:
            return tuple(sorted(self._columns or SCALARS))
        if self._named is None:
            self._named = tuple(
                sorted({*SCALARS, *self._columns, *chain.from_iterable(part.names for part in self._segments)})
            )
        return self._named

    def column(self, name: str) -> list[float]:
        """One column, as long as `slots`; not to be changed."""
        if not self._segments:
            return self._own(name)
        column = self._joined.get(name)
        if column is None:
            column = self._joined[name] = _join(name, self._segments)
            if self._slots:
                column += self._own(name)
        return column

    def _own(self, name: str) -> list[float]:
        """What was appended of a column."""
        column = self._columns.get(name)
        if column is None:
            return [0] * len(self._slots)
        if len(column) < len(self._slots):
            column.extend([0] * (len(self._slots) - len(column)))
        return column

    def _times(self) -> Times:
        if self._whole is None:
            # By identity, since tuples of hundreds of hours are slow to hash; kept in the value, so no id comes again.
            hours = [part.buckets for part in self._segments]
            key = (*map(id, hours), tuple(self._slots))
            known = None if self._grids is None else self._grids.get(key)
            if known is None:
                buckets = list(chain.from_iterable(hours))
                slots = [*((bucket, "", -1) for bucket in buckets), *self._slots]
                known = slots, buckets + self._buckets, hours
                if self._grids is not None:
                    self._grids[key] = known
            self._whole = known
        return self._whole

    def digests(self) -> bytes:
        """The digests of the rows it was made of, in their order."""
        return b"".join([part.digests for part in self._segments] + self._digests)

    def digest(self) -> bytes:
        """A hash of everything that was appended, in its order."""
        return hashlib.blake2b(self.digests(), digest_size=16).digest()

    def extend(self, part: Segment) -> None:
        """Add a stretch of hours that all lie behind the last slot.

        Raises:
            ValueError: they do not.
        """
        last = self._slots[-1] if self._slots else (self._segments[-1].buckets[-1], "", -1) if self._segments else None
        if last is not None and (part.buckets[0], "", -1) <= last:
            raise ValueError(f"buckets come in order of time: {part.buckets[0]} after {last}")
        if self._slots:
            self._segments.append(self._freeze())
        self._segments.append(part)
        self._whole, self._named, self._joined = None, None, {}

    def append(self, slot: Slot, bucket: int, parts: Parts) -> None:
        """Add the evidence of a bucket, the last one again or a later one.

        Raises:
            ValueError: the bucket lies before the last one.
        """
        if self._segments:
            self._whole, self._named, self._joined = None, None, {}
            if not self._slots and slot <= (self._segments[-1].buckets[-1], "", -1):
                self._thaw()
        if not self._columns:
            self._columns = {name: [] for name in SCALARS}
        slots, columns, scalars = self._slots, self._columns, parts[0]
        if not slots or slot > slots[-1]:
            slots.append(slot)
            self._buckets.append(bucket)
            for name, value in zip(SCALARS, scalars, strict=True):
                columns[name].append(value)
        elif slot == slots[-1]:
            for name, value in zip(SCALARS, scalars, strict=True):
                columns[name][-1] += value
        else:
            raise ValueError(f"buckets come in order of time: {slot} after {slots[-1]}")
        self._digests.append(digest_of((bucket, slot[2]), parts))
        self._count(parts)

    def _freeze(self) -> Segment:
        """What was appended so far, as a segment; the next row begins anew."""
        columns = {name: self._own(name) for name in self._columns}
        made = _Rows(tuple(self._buckets), b"".join(self._digests), columns)
        self._slots, self._buckets, self._digests = [], [], []
        self._columns = {}
        return made

    def _thaw(self) -> None:
        """All of it as if it had been appended, so that the last bucket can be added to."""
        slots, buckets, _ = self._times()
        columns = {name: list(self.column(name)) for name in self.names}
        self._slots, self._buckets, self._columns = list(slots), list(buckets), columns
        self._digests = [self.digests()]
        self._segments, self._whole, self._named, self._joined = [], None, None, {}

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

    def _put(self, name: str, count: float) -> None:
        at = len(self._slots) - 1
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = []
        if len(column) > at:
            column[at] += count
            return
        if len(column) < at:
            column.extend([0] * (at - len(column)))
        column.append(count)


def _join(name: str, parts: Sequence[Segment]) -> list[float]:
    """One list of a column. Neighbouring arrays of one type become numbers at once, which is what costs least."""
    made: list[float] = []
    whole: array[float] | None = None
    for part in parts:
        values = part.column(name)
        if whole is not None:
            if type(values) is array and values.typecode == whole.typecode:
                whole += values
                continue
            made += whole.tolist()
            whole = None
        if type(values) is array:
            whole = values[:]
        else:
            made += values or [_ZEROS.get(name, 0)] * len(part.buckets)
    if whole is not None:
        made += whole.tolist()
    return made


class _Rows:
    """Appended rows between two segments."""

    __slots__ = ("_columns", "buckets", "digests", "names")

    def __init__(self, buckets: tuple[int, ...], digests: bytes, columns: dict[str, list[float]]) -> None:
        self.buckets, self.digests, self._columns, self.names = buckets, digests, columns, tuple(columns)

    def column(self, name: str) -> Sequence[float] | None:
        return self._columns.get(name)


def digest_of(place: tuple[object, ...], parts: Parts) -> bytes:
    """A hash of one row of evidence, believed or not."""
    scalars, outcomes, forms, tokens, latency, ttft, pairs = parts
    counts = (sorted(outcomes.items()), sorted(forms.items()), sorted(tokens.items()))
    told = _bytes((place, scalars, *counts, latency, ttft, sorted(pairs.items())))
    return hashlib.blake2b(told, digest_size=DIGEST_BYTES).digest()


def pair_column(partner: str, index: int) -> str:
    """The column of one of the sums of `PairSums` with a partner."""
    return f"pairs.{index}.{partner}"


def _bytes(parts: tuple[object, ...]) -> bytes:
    """The same bytes for the same values, and no object remembered: version 2 of the format knows no references."""
    try:
        return marshal.dumps(parts, 2)  # type: ignore[arg-type]
    except ValueError:
        return repr(parts).encode("utf-8", "surrogatepass")

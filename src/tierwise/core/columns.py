"""Evidence of one task as columns, a series for each identity: what decisions read, made once and appended to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from operator import attrgetter, eq, itemgetter
from typing import Final

from tierwise.core.evidence import LATENCY_EDGES_S, Evidence, EvidenceRow, Key
from tierwise.core.pairs import PairSums
from tierwise.core.series import (
    INTEGERS,
    SCALARS,
    Parts,
    Segment,
    Series,
    Slot,
    Times,
    digest_of,
    pair_column,
)

__all__ = ["PAIR_SUMS", "Identity", "Segment", "Series", "Slot", "TaskEvidence", "is_valid", "pair_column", "parts_of"]

Identity = tuple[str, str, str, int, str, str]
"""candidate, epoch, arm, rung, grade, bench session (`""` for live traffic): a key without its task and bucket."""
_NATURAL: Final = (
    "n", "priced", "cost_sum", "cost_sq_sum", "retries", "retried", "escalated", "latency_sum_s", "check_count",
    "check_score_sum", "accepted", "rejected",
)  # fmt: skip
PAIR_SUMS: Final = len(PairSums.__dataclass_fields__)
_LENGTHS: Final = frozenset({0, len(LATENCY_EDGES_S) + 1})
_MOST, _LEAST = 1e15, 1e-30  # an hour's dollars and seconds: outside, squares would leave what a float can hold

_FLOATS_FROM: Final = len(INTEGERS)
_REJECTED: Final = INTEGERS.index("rejected")
_scalars = attrgetter(*SCALARS)
_natural = itemgetter(*(SCALARS.index(name) for name in _NATURAL))
_identity = attrgetter("candidate", "epoch", "arm", "rung", "grade", "session")


class TaskEvidence:
    """All evidence of one task, to be appended to as time goes on; `decide` reads it and changes nothing.

    Rows that cannot be believed (`is_valid`) are counted in `invalid` and left out, rows of other tasks in `foreign`.
    """

    __slots__ = ("_grids", "_refused", "foreign", "invalid", "series", "task")

    def __init__(self, task: str) -> None:
        self.task = task
        self.series: dict[Identity, Series] = {}
        self.invalid = 0
        self.foreign = 0
        self._refused: list[tuple[int, bytes]] = []
        self._grids: dict[tuple[object, ...], Times] = {}

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
            self._refused.append((key.bucket, digest_of((key.task, key.bucket, key.round, _identity(key)), parts)))
        else:
            self.append_parts(_identity(key), key.bucket, key.round, parts)

    def append_parts(self, identity: Identity, bucket: int, number: int, parts: Parts) -> None:
        """`append` for a store that has a row's values at hand; `number` is the bench round, -1 for an hour.

        Raises:
            ValueError: a bucket that lies before the last one of its identity.
        """
        if not _believable(parts):
            self.refuse(digest_of((self.task, bucket, number, identity), parts), bucket)
            return
        series = self.series.get(identity)
        if series is None:
            series = self.series[identity] = Series(self._grids)
        series.append((bucket, "", -1) if number < 0 else (0, identity[5], number), bucket, parts)

    def extend(self, identity: Identity, part: Segment) -> None:
        """Add hours of one identity that a store keeps packed; all of them behind what is there of it.

        Raises:
            ValueError: they are not.
        """
        series = self.series.get(identity)
        if series is None:
            series = self.series[identity] = Series(self._grids)
        series.extend(part)

    def refuse(self, digest: bytes, bucket: int = 0) -> None:
        """Count a row that cannot be believed, by its digest and its hour."""
        self.invalid += 1
        self._refused.append((bucket, digest))

    def refused(self) -> tuple[tuple[int, bytes], ...]:
        """The hours and digests of the rows that were left out."""
        return tuple(self._refused)

    def of_candidates(self) -> Iterator[tuple[Identity, Series]]:
        """The series in a fixed order: by candidate, then the rest of the identity."""
        for identity in sorted(self.series):
            yield identity, self.series[identity]

    def without(self, identities: Iterable[Identity]) -> TaskEvidence:
        """The same evidence without some of its series."""
        left = TaskEvidence(self.task)
        gone = frozenset(identities)
        left.series = {identity: series for identity, series in self.series.items() if identity not in gone}
        left.invalid, left.foreign, left._refused = self.invalid, self.foreign, list(self._refused)
        left._grids = self._grids
        return left

    def digest(self) -> bytes:
        """A hash of all of it, the same for the same rows in the same order of time."""
        whole = hashlib.blake2b(b"".join(sorted(digest for _, digest in self._refused)), digest_size=16)
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


def _pairs_fit(sums: tuple[float, ...]) -> bool:
    return len(sums) == PAIR_SUMS and sum(map(abs, sums)) <= _MOST and min(sums) >= 0


def _sortable(evidence: Evidence) -> tuple[object, ...]:
    scalars, outcomes, forms, tokens, latency, ttft, pairs = parts_of(evidence)
    counts = (sorted(outcomes.items()), sorted(forms.items()), sorted(tokens.items()))
    return (scalars, *counts, latency, ttft, sorted(pairs.items()))


def _row_order(row: EvidenceRow) -> tuple[object, ...]:
    key = row.key
    slot = (key.bucket, "", -1) if key.round < 0 else (0, key.session, key.round)
    return (_identity(key), slot, key.bucket, key.task)

"""The rows of a decision as a whole: their canonical order, whether they can be believed, and the hash of all inputs.

These run over every row of a window at each decision, so they go through the rows column by column.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, eq, le, methodcaller, neg
from typing import Any, Final

from tierwise.core.evidence import LATENCY_EDGES_S, Evidence, EvidenceRow
from tierwise.core.policy import TaskPolicy
from tierwise.core.recommendation import canonical_json
from tierwise.core.route import Route


def in_order(rows: Iterable[EvidenceRow]) -> list[EvidenceRow]:
    """The rows by candidate, then time, then the rest of their keys; rows of one key by what they hold."""
    ordered = sorted(rows, key=_KEY)
    keys = list(map(_KEY, ordered))
    if any(map(eq, keys, keys[1:])):
        ordered.sort(key=lambda row: (_KEY(row), _text(row.evidence)))
    return ordered


def all_valid(evidence: Sequence[Evidence]) -> bool:
    """Whether every row is valid, at a fraction of the cost of asking each; `False` says only that one may not be."""
    if not evidence:
        return True
    columns: dict[str, list[Any]] = {name: list(map(attrgetter(name), evidence)) for name in _INTEGERS + _FLOATS}
    if not sum(sum(map(abs, columns[name])) for name in _FLOATS) <= _MOST:
        return False
    if any(min(columns[name]) < 0 for name in _NATURAL) or min(filter(None, columns["cost_sum"]), default=1) < _LEAST:
        return False
    parts_fit = (
        all(map(le, columns["successes"], columns["n"]))
        and all(map(le, map(neg, columns["rejected"]), columns["successes"]))
        and all(map(le, columns["priced"], columns["n"]))
        and all(map(le, columns["priced_successes"], columns["priced"]))
    )
    if not parts_fit or not all(_histograms_fit(list(map(attrgetter(name), evidence))) for name in _HISTOGRAMS):
        return False
    values = chain.from_iterable(map(_VALUES, map(attrgetter(name), evidence)) for name in _MAPS)
    return min(chain.from_iterable(values), default=0) >= 0


def _histograms_fit(column: Sequence[Sequence[int]]) -> bool:
    return _LENGTHS.issuperset(map(len, column)) and (
        _small(column) is not None or min(chain.from_iterable(column), default=0) >= 0
    )


def is_valid(evidence: Evidence) -> bool:
    """Whether a row can be believed: finite sums, no negative counts or costs, parts not above their whole.

    A bucket may have fewer successes than none when feedback took back successes of another bucket. Histograms have the
    edges of this version or none.
    """
    e = evidence
    floats = [getattr(e, name) for name in _FLOATS]
    if not (sum(map(abs, floats)) <= _MOST and min(getattr(e, name) for name in _NATURAL) >= 0):
        return False
    if 0 < e.cost_sum < _LEAST or not _LENGTHS.issuperset((len(e.latency), len(e.ttft))):
        return False
    if not -e.rejected <= e.successes <= e.n or e.priced > e.n or e.priced_successes > e.priced:
        return False
    parts = (e.outcomes.values(), e.json_forms.values(), e.tokens.values(), e.latency, e.ttft)
    return all(not part or min(part) >= 0 for part in parts)


def hash_inputs(ordered: Sequence[EvidenceRow], policy: TaskPolicy, route: Route | None, now: int) -> str:
    """BLAKE2b (128 bits, hex) over everything a decision depends on; rows as `in_order` gives them."""
    digest = hashlib.blake2b(canonical_json((policy, route, now)), digest_size=16)
    evidence = [row.evidence for row in ordered]
    for part in chain(
        _names(list(map(_NAMES, ordered))),
        (_packed("q", list(map(attrgetter(name), ordered))) for name in ("key.bucket", "key.round", "key.rung")),
        (_packed("q", list(map(attrgetter(name), evidence))) for name in _INTEGERS),
        (_packed("d", list(map(attrgetter(name), evidence))) for name in _FLOATS),
        chain.from_iterable(_lists(list(map(attrgetter(name), evidence))) for name in _HISTOGRAMS),
        chain.from_iterable(_counts(list(map(attrgetter(name), evidence))) for name in _MAPS),
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _names(column: Sequence[Hashable]) -> tuple[bytes, bytes]:
    """The different values, and which of them each row has."""
    table = sorted(set(column))  # type: ignore[type-var]
    places = {value: place for place, value in enumerate(table)}
    return repr(table).encode("utf-8", "surrogatepass"), _packed("q", [places[value] for value in column])


def _lists(column: Sequence[Sequence[int]]) -> tuple[bytes, bytes]:
    small = _small(column)
    lengths = _packed("q", list(map(len, column)))
    return lengths, _packed("q", list(chain.from_iterable(column))) if small is None else small


def _small(column: Sequence[Sequence[int]]) -> bytes | None:
    """One byte a count, several times faster than anything else; `None` where a count is not in 0 to 255."""
    try:
        return b"".join(map(bytes, column))
    except (ValueError, TypeError):
        return None


def _counts(column: Sequence[Mapping[str, int]]) -> tuple[bytes, bytes, bytes]:
    given: list[tuple[str, ...]] = list(map(tuple, column))
    names = {one: tuple(sorted(one)) for one in set(given)}
    values = [counts[name] for counts, one in zip(column, given, strict=True) for name in names[one]]
    return *_names([names[one] for one in given]), _packed("q", values)


def _packed(kind: str, column: list[Any]) -> bytes:
    """Numbers as bytes, little-endian; as text where one of them is not of the kind (evidence may hold anything)."""
    try:
        numbers = array(kind, column)
    except (TypeError, OverflowError):
        return repr(column).encode()
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _text(evidence: Evidence) -> str:
    scalars = [getattr(evidence, name) for name in (*_INTEGERS, *_FLOATS, *_HISTOGRAMS)]
    return repr((scalars, [sorted(getattr(evidence, name).items()) for name in _MAPS]))


_VALUES = methodcaller("values")
_NAMES = attrgetter("key.task", "key.candidate", "key.epoch", "key.arm", "key.grade", "key.session")
_KEY = attrgetter(
    "key.candidate", "key.bucket", "key.session", "key.round", "key.epoch", "key.arm", "key.grade", "key.rung", "key.task",
)  # fmt: skip
_INTEGERS: Final = (
    "n", "successes", "priced", "priced_successes", "retries", "retried", "escalated", "check_count", "accepted",
    "rejected",
)  # fmt: skip
_FLOATS: Final = ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
_NATURAL: Final = (
    "n", "priced", "cost_sum", "cost_sq_sum", "retries", "retried", "escalated", "latency_sum_s", "check_count",
    "check_score_sum", "accepted", "rejected",
)  # fmt: skip
_HISTOGRAMS: Final = ("latency", "ttft")
_MAPS: Final = ("outcomes", "json_forms", "tokens")
_LENGTHS: Final = frozenset({0, len(LATENCY_EDGES_S) + 1})
_MOST, _LEAST = 1e15, 1e-30  # an hour's dollars and seconds: outside, squares would leave what a float can hold

"""Increases of counters and histograms, hour by hour, summed into the evidence of one task."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from operator import add, le, neg, sub
from typing import Final

from tierwise.core.columns import Identity, TaskEvidence
from tierwise.core.errors import EvidenceError
from tierwise.core.evidence import HOUR_S, LATENCY_EDGES_S, UNCOUNTED, latency_index
from tierwise.core.series import DIGEST_BYTES
from tierwise.evidence.prometheus_names import Naming
from tierwise.evidence.prometheus_samples import Histogram

Column = list[float]
_LATENCY_OF: Final = {"duration": "latency", "first_chunk": "ttft"}
_MOST, _LEAST = 1e15, 1e-30
_OVERFLOW: Final = len(LATENCY_EDGES_S)
_MONEY: Final = frozenset({"cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum"})
_SIGNED: Final = frozenset({"successes", "priced_successes", "cost_success_sum"})
"""From which late rejections are taken."""
_ACTIVE: Final = ("outcomes.", "n", "accepted", "rejected")
_UNIT: Final = {"priced": ("priced", "priced_successes"), "cost": ("cost_sum", "cost_success_sum")}


class Hours:
    """Hours of one identity as columns; a `core.series.Segment`."""

    __slots__ = ("_columns", "buckets", "names")

    def __init__(self, buckets: tuple[int, ...], columns: dict[str, Column]) -> None:
        self.buckets, self._columns, self.names = buckets, columns, tuple(columns)

    @property
    def digests(self) -> bytes:
        """Eight bytes an hour, drawn from all of it."""
        told = hashlib.shake_128(array("q", self.buckets).tobytes())
        for name in sorted(self._columns):
            told.update(name.encode("utf-8", "surrogatepass") + b"\0")
            told.update(array("d", self._columns[name]).tobytes())
        return told.digest(DIGEST_BYTES * len(self.buckets))

    def column(self, name: str) -> Column | None:
        """One number an hour; `None` where nothing was counted."""
        return self._columns.get(name)

    def only(self, wanted: Sequence[bool]) -> Hours:
        """The hours that are marked."""
        columns = {name: list(compress(column, wanted)) for name, column in self._columns.items()}
        return Hours(tuple(compress(self.buckets, wanted)), columns)


class Sums:
    """Hourly sums of one task over a window of `hours` hours from `start_s`, Unix seconds."""

    def __init__(self, task: str, naming: Naming, start_s: int, hours: int) -> None:
        self.task = task
        self.estimated = False
        """Some histogram has other edges than ours: its values are counted at the upper ends of its buckets."""
        self._hours = hours
        self._buckets = tuple(range(start_s, start_s + hours * HOUR_S, HOUR_S))
        self._labels = naming.labels
        self._columns: dict[Identity, dict[str, Column]] = {}
        self._cumulative: dict[tuple[Identity, str], dict[float, Column]] = {}
        self._identities: dict[tuple[str | None, ...], Identity] = {}

    def add(self, role: str, part: str, labels: Mapping[str, str], values: Sequence[float], first: int = 0) -> None:
        """Add one series' increases in the hours from index `first` on; `part` is of histograms:
        `bucket` (cumulative, as classic ones have it), `inside` (what lies between an edge and the one below) or `sum`;
        of calls and runs `all_priced`: each had a price but for those of the role `unpriced` or `runs_unpriced`.
        """
        get = labels.get
        names = self._labels
        outcome = get(names["outcome"])
        identity = self._identity(labels)
        if role == "calls":
            self._calls(identity, outcome or "", labels, values, first, priced=part == "all_priced")
        elif outcome in UNCOUNTED:
            return
        elif role in _LATENCY_OF:
            if part == "bucket":
                self._classic(identity, _LATENCY_OF[role], get("le", "+Inf"), values, first)
            elif part == "inside":
                self._put(identity, f"{_LATENCY_OF[role]}.{self._index(float(get('le', '+Inf')))}", values, first)
            elif part == "sum" and role == "duration":
                self._put(identity, "latency_sum_s", values, first)
        elif role == "tokens":
            self._put(identity, f"tokens.{get(names['token_kind'], '')}", values, first)
        elif role in ("retries", "retried", "check_count"):
            self._put(identity, role, values, first)
        elif role == "check_score":
            self._put(identity, "check_score_sum", values, first)
        elif role == "feedback":
            self._put(identity, "accepted" if get(names["accepted"]) == "true" else "rejected", values, first)
        elif role.startswith("runs"):
            self._runs(role, identity, get(names["run_success"]) == "true", values, first, priced=part == "all_priced")
        elif self._is_unit(identity, labels):
            self._money(role, identity, outcome == "success", values, first)

    def add_histograms(
        self,
        role: str,
        labels: Mapping[str, str],
        hours: Sequence[int],
        gained: Sequence[Histogram],
    ) -> None:
        """Add what native histograms gained in some hours: count, sum, upper edges and counts of their buckets."""
        if labels.get(self._labels["outcome"]) in UNCOUNTED:
            return
        columns = self._columns.setdefault(self._identity(labels), {})
        if role == "duration":
            sums = self._column(columns, "latency_sum_s")
            for hour, one in zip(hours, gained, strict=True):
                sums[hour] += one[1]
        name = _LATENCY_OF[role]
        known: dict[Sequence[float], list[Column]] = {}
        for hour, (_, _, uppers, counts) in zip(hours, gained, strict=True):
            chosen = known.get(uppers)
            if chosen is None:
                chosen = known[uppers] = [self._column(columns, f"{name}.{self._index(upper)}") for upper in uppers]
            for column, count in zip(chosen, counts, strict=True):
                column[hour] += count

    def add_sparse(
        self, role: str, part: str, labels: Mapping[str, str], hours: Sequence[int], values: Sequence[float]
    ) -> None:
        """`add` for increases in some hours only."""
        whole: list[float] = [0] * (hours[-1] - hours[0] + 1)
        first = hours[0]
        for hour, value in zip(hours, values, strict=True):
            whole[hour - first] = value
        self.add(role, part, labels, whole, first)

    def count_into(self, totals: list[float]) -> None:
        """Add the calls of each hour, whatever their outcome, to `totals`."""
        for columns in self._columns.values():
            for name, column in columns.items():
                if name.startswith("outcomes."):
                    totals[:] = map(add, totals, column)

    def build(self) -> TaskEvidence:
        """The evidence: hours in which something was counted, in order of time.

        Raises:
            EvidenceError: counts are not whole numbers, so somebody extrapolated them.
        """
        self._fold_classic()
        made = TaskEvidence(self.task)
        for identity, columns in sorted(self._columns.items()):
            self._take_back(columns)
            active = self._activity(columns)
            if not any(active):
                continue
            every = all(active)
            chosen = {}
            for name, column in columns.items():
                kept = column if every else list(compress(column, active))
                if any(kept):
                    chosen[name] = _money(kept) if name in _MONEY else _whole(kept, self.task, name)
            buckets = self._buckets if every else tuple(compress(self._buckets, active))
            part = _believed(Hours(buckets, chosen), made, identity)
            if part.buckets:
                made.extend(identity, part)
        return made

    def _identity(self, labels: Mapping[str, str]) -> Identity:
        names, get = self._labels, labels.get
        key = (
            get(names["candidate"]), get(names["epoch"]), get(names["arm"]), get(names["rung"]), get(names["grade"]),
        )  # fmt: skip
        known = self._identities.get(key)
        if known is None:
            candidate, epoch, arm, rung, grade = key
            known = (
                candidate or "", epoch or "", arm or "pinned", int(rung) if rung and rung.isdecimal() and len(rung) < 10 else 0,
                grade or "observational", "",
            )  # fmt: skip
            self._identities[key] = known
        return known

    def _is_unit(self, identity: Identity, labels: Mapping[str, str]) -> bool:
        """Whether a call is a run of its own, or an attempt at a higher rung, which is a unit as well."""
        return identity[3] > 0 or labels.get(self._labels["member"]) != "true"

    def _calls(
        self,
        identity: Identity,
        outcome: str,
        labels: Mapping[str, str],
        values: Sequence[float],
        first: int,
        *,
        priced: bool,
    ) -> None:
        self._put(identity, f"outcomes.{outcome}", values, first)
        if outcome in UNCOUNTED:
            return
        form = labels.get(self._labels["json_form"])
        if form:
            self._put(identity, f"json_forms.{form}", values, first)
        if self._is_unit(identity, labels):
            self._put(identity, "n", values, first)
            if outcome == "success":
                self._put(identity, "successes", values, first)
            if priced:
                self._money("priced", identity, outcome == "success", values, first)

    def _money(self, role: str, identity: Identity, success: bool, values: Sequence[float], first: int) -> None:
        if role == "cost_squared":
            self._put(identity, "cost_sq_sum", values, first)
            return
        if role == "unpriced":
            role, values = "priced", list(map(neg, values))
        whole, part = _UNIT[role]
        self._put(identity, whole, values, first)
        if success:
            self._put(identity, part, values, first)

    def _runs(
        self, role: str, identity: Identity, success: bool, values: Sequence[float], first: int, *, priced: bool
    ) -> None:
        identity = (*identity[:3], 0, *identity[4:])
        if role == "runs":
            self._put(identity, "n", values, first)
            if success:
                self._put(identity, "successes", values, first)
            if priced:
                self._money("priced", identity, success, values, first)
        elif role == "runs_escalated":
            self._put(identity, "escalated", values, first)
        else:
            self._money(role.removeprefix("runs_"), identity, success, values, first)

    def _put(self, identity: Identity, name: str, values: Sequence[float], first: int) -> None:
        """Add to a column. Columns may share a list, so none is changed in place."""
        columns = self._columns.setdefault(identity, {})
        column = columns.get(name)
        if len(values) == self._hours:
            if column is not None:
                columns[name] = list(map(add, column, values))
            else:
                columns[name] = values if isinstance(values, list) else list(values)
            return
        column = [0] * self._hours if column is None else list(column)
        end = first + len(values)
        column[first:end] = map(add, column[first:end], values)
        columns[name] = column

    def _column(self, columns: dict[str, Column], name: str) -> Column:
        column = columns.get(name)
        if column is None:
            column = columns[name] = [0] * self._hours
        return column

    def _classic(self, identity: Identity, name: str, edge: str, values: Sequence[float], first: int) -> None:
        by_edge = self._cumulative.setdefault((identity, name), {})
        column = by_edge.setdefault(float(edge), [0.0] * self._hours)
        end = first + len(values)
        column[first:end] = map(add, column[first:end], values)

    def _fold_classic(self) -> None:
        """Cumulative classic buckets as counts of our own."""
        for (identity, name), by_edge in self._cumulative.items():
            below: Column = [0.0] * self._hours
            for edge in sorted(by_edge):
                index, inside = self._index(edge), list(map(sub, by_edge[edge], below))
                if any(inside):
                    self._put(identity, f"{name}.{index}", inside, 0)
                below = by_edge[edge]
        self._cumulative.clear()

    def _index(self, edge: float) -> int:
        index = latency_index(edge)
        if index < _OVERFLOW and LATENCY_EDGES_S[index] != edge:
            self.estimated = True
        return index

    def _take_back(self, columns: dict[str, Column]) -> None:
        """A rejection takes a success away, in the hour it arrived and at the mean cost of a success."""
        rejected = columns.get("rejected")
        if rejected is None:
            return
        columns["successes"] = list(map(sub, columns.get("successes") or [0] * self._hours, rejected))
        priced, cost = columns.get("priced_successes"), columns.get("cost_success_sum")
        if priced and cost and (total := sum(priced)):
            mean = sum(cost) / total
            columns["priced_successes"] = list(map(sub, priced, rejected))
            columns["cost_success_sum"] = [paid - mean * number for paid, number in zip(cost, rejected, strict=True)]

    def _activity(self, columns: Mapping[str, Column]) -> list[bool]:
        active = [False] * self._hours
        for name, column in columns.items():
            if name.startswith(_ACTIVE):
                if all(column):
                    return [True] * self._hours
                active = [was or value != 0 for was, value in zip(active, column, strict=True)]
        return active


def _believed(part: Hours, made: TaskEvidence, identity: Identity) -> Hours:
    """The hours that can be believed; the others are counted as refused.

    Buckets of which a server had stored only some when it was asked come out negative here.
    """
    if all(map(all, _tests(part))):
        return part
    good = list(map(all, zip(*_tests(part), strict=True)))
    for place in compress(part.buckets, [not one for one in good]):
        digest = hashlib.blake2b(repr((identity, place)).encode(), digest_size=DIGEST_BYTES).digest()
        made.refuse(digest, place)
    return part.only(good)


def _tests(part: Hours) -> Iterator[Iterable[bool]]:
    """Tests that every hour must pass, an answer an hour each."""
    nothing: Column = [0] * len(part.buckets)

    def column(name: str) -> Column:
        return part.column(name) or nothing

    yield map(le, map(neg, column("rejected")), column("successes"))
    yield map(le, column("successes"), column("n"))
    yield map(le, column("priced"), column("n"))
    yield map(le, column("priced_successes"), column("priced"))
    costs = column("cost_sum")
    if min(filter(None, costs), default=_LEAST) < _LEAST:
        yield [not cost or cost >= _LEAST for cost in costs]
    for name in part.names:
        values = column(name)
        if name in _MONEY and not sum(map(abs, values)) <= _MOST:
            yield [abs(value) <= _MOST for value in values]
        if name not in _SIGNED and not (min(values) >= 0 and sum(values) <= _MOST):
            yield [0 <= value <= _MOST for value in values]


def _money(column: Column) -> Column:
    try:
        return list(map(float, column))
    except OverflowError:  # a whole number beyond all floats, which is not believed
        return column


def _whole(column: Column, task: str, name: str) -> Column:
    total: object = sum(column)
    if type(total) is int:
        return column
    if not all(map(float.is_integer, map(float, column))):
        raise EvidenceError(
            f"{task}: {name} is not a whole number in some hour, so somebody extrapolated the counters; let the recording "
            "rules be the ones that tierwise brings, or pass --raw"
        )
    return list(map(int, column))

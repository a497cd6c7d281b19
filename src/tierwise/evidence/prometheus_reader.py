"""Reads batches of tasks from a Prometheus-compatible server: recorded hours, then the others from the counters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Final

from tierwise.core.evidence import HOUR_S
from tierwise.core.records import dataclass
from tierwise.evidence.prometheus_api import Api, Dialect
from tierwise.evidence.prometheus_build import Sums
from tierwise.evidence.prometheus_http import TooMuchError
from tierwise.evidence.prometheus_names import (
    LATENCY_ROLES,
    METRIC_ROLES,
    RECORDED_PREFIX,
    RECORDED_ROLES,
    RECORDED_SUFFIX,
    Naming,
    any_of,
    selector,
)
from tierwise.evidence.prometheus_raw import Matcher, Place, Raw
from tierwise.evidence.prometheus_samples import Samples

if TYPE_CHECKING:
    from tierwise.core.columns import TaskEvidence

SETTLE_S: Final = 600
"""How long after its end an hour is read: exporters and queues need time, and the recording rules look back as far."""
RECORDED_CALLS: Final = (f"{RECORDED_PREFIX}calls{RECORDED_SUFFIX}",)
_RECORDED: Final = {
    **{
        f"{RECORDED_PREFIX}{role}{RECORDED_SUFFIX}": Place(role=role)
        for role in (*METRIC_ROLES, *RECORDED_ROLES)
        if role not in ("priced", "runs_priced", *LATENCY_ROLES)
    },
    **{f"{RECORDED_PREFIX}{role}{RECORDED_SUFFIX}": Place(role=role, part="all_priced") for role in ("calls", "runs")},
    **{
        f"{RECORDED_PREFIX}{role}_{part}{RECORDED_SUFFIX}": Place(role=role, part=part)
        for role in LATENCY_ROLES
        for part in ("inside", "sum")
    },
}
_LAST_LOOK_S: Final = HOUR_S + SETTLE_S - 1
_PAGE: Final = 720
"""Hours of one question at most."""
_AHEAD: Final = 2
"""Questions that a server works on while an answer is read."""


class Server:
    """What one server is like."""

    __slots__ = ("ahead_s", "dialect", "has_recorded", "known", "naming", "plain")

    def __init__(
        self, *, dialect: Dialect, naming: Naming, known: list[str], has_recorded: bool, ahead_s: float
    ) -> None:
        self.dialect, self.naming, self.known = dialect, naming, known
        self.has_recorded, self.ahead_s = has_recorded, ahead_s
        self.plain = False
        """It keeps to the lookback that a question names, which is less work for it than `last_over_time`."""

    def label_path(self, name: str) -> str:
        """A label's name in a path; Prometheus wants everything unusual escaped."""
        if self.dialect == "victoriametrics" or name.replace("_", "a").isalnum():
            return name
        escaped = (one if one.isalnum() else "__" if one == "_" else f"_{ord(one):x}_" for one in name)
        return "U__" + "".join(escaped)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """The recorded hours first … last (indices) of some tasks."""

    tasks: tuple[str, ...]
    first: int
    last: int

    def halves(self) -> tuple[_Question, _Question]:
        middle = (self.first + self.last) // 2
        return replace(self, last=middle), replace(self, first=middle + 1)


class Reader:
    """Reads the window of `hours` hours from `start`, Unix seconds; `done` are those that were recorded. Close it."""

    def __init__(
        self, api: Api, server: Server, matchers: tuple[Matcher, ...], start: int, hours: int, done: set[int]
    ) -> None:
        self._api, self._server, self._start, self._hours = api, server, start, hours
        self._matchers, self._done = matchers, done
        self._raw = Raw(api, server.naming, server.known, matchers)
        self._runs = list(_stretches(sorted(set(range(hours)) - done)))
        self._recorded = [
            (at, min(last, at + _PAGE - 1))
            for first, last in _stretches(sorted(done))
            for at in range(first, last + 1, _PAGE)
        ]
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="tierwise-evidence")
        self._asked: dict[_Question, Future[bytes]] = {}
        self._seen: set[int] = set()
        self._estimated = False

    def close(self) -> None:
        """Wait for questions that nobody wants to know any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, tasks: Sequence[str], upcoming: Sequence[Sequence[str]] = ()) -> list[TaskEvidence]:
        """The evidence of some tasks, of those that have any; the server is asked about `upcoming` batches meanwhile.

        Raises:
            TooMuchError: the answers are too large; ask for fewer tasks.
            EvidenceError: the server cannot be read.
        """
        sums = {task: Sums(task, self._server.naming, self._start, self._hours) for task in tasks}
        self._read_recorded(sums, upcoming)
        for first, last in self._runs:
            self._seen |= self._raw.read(sums, self._start, first, last)
        made = [one.build() for one in sums.values()]
        self._estimated = self._estimated or any(one.estimated for one in sums.values())
        return [one for one in made if one.series or one.invalid]

    def tell(self, notes: list[str]) -> None:
        """Where the evidence came from, and which hours it lacks."""
        missing = sum(last - first + 1 for first, last in self._runs)
        if self._done:
            notes.append(f"{len(self._done):,} hour(s) from recording rules, {missing:,} from the counters themselves")
        if self._seen:
            span = set(range(min(self._seen), max(self._seen) + 1))
            if gaps := span - self._seen - self._done:
                notes.append(
                    f"no samples at all in {len(gaps):,} hour(s): the Collector or the server was down, or nothing ran; calls "
                    "of processes that went on count in the next hour with samples"
                )
        if self._raw.resets:
            notes.append(
                f"counters began anew in {self._raw.resets:,} hour(s) of processes and were read sample by sample; give each "
                "process its own service.instance.id"
            )
        if self._estimated:
            notes.append(
                "some histograms have other edges than tierwise's; their values count at the upper ends of buckets"
            )

    def _read_recorded(self, sums: Mapping[str, Sums], upcoming: Sequence[Sequence[str]]) -> None:
        left = deque(self._questions(sums))
        later = [one for batch in upcoming for one in self._questions(batch)]
        while left:
            question = left.popleft()
            for one in islice(chain((question,), left, later), 1 + _AHEAD):
                if one not in self._asked:
                    self._asked[one] = self._pool.submit(self._ask, one)
            try:
                body = self._asked.pop(question).result()
            except TooMuchError:
                for waiting in self._asked.values():
                    waiting.cancel()
                self._asked.clear()
                if len(sums) > 1 or question.first == question.last:
                    raise
                left.extendleft(reversed(question.halves()))
                continue
            self._take(body, question, sums)

    def _questions(self, tasks: Sequence[str] | Mapping[str, object]) -> list[_Question]:
        return [_Question(tasks=tuple(tasks), first=first, last=last) for first, last in self._recorded]

    def _ask(self, question: _Question) -> bytes:
        task = (self._server.naming.labels["task"], "=~", any_of(question.tasks))
        chosen = selector([("__name__", "=~", any_of(_RECORDED)), task, *self._matchers])
        return _recorded_body(self._api, chosen, self._start, question.first, question.last, plain=self._server.plain)

    def _take(self, body: bytes, question: _Question, sums: Mapping[str, Sums]) -> None:
        task_label, times = self._server.naming.labels["task"], _look_times(self._start, question.first, question.last)
        grid = range(times[0], times[1] + 1, times[2])
        known = set(grid)
        for one in self._api.grid_of(body, *times):
            place, task = _RECORDED[one.labels["__name__"]], sums[one.labels.get(task_label, "")]
            if isinstance(one.times, range):
                task.add(place.role, place.part, one.labels, one.values, question.first)
            elif one.values and known.issuperset(one.times):
                values = list(map(dict(zip(one.times, one.values, strict=True)).get, grid, repeat(0)))
                task.add(place.role, place.part, one.labels, values, question.first)
            elif one.values:
                hours = [_hour_of(at, self._start) for at in one.times]
                task.add_sparse(place.role, place.part, one.labels, hours, one.values)


def recorded_hours(api: Api, chosen: str, start_s: int, hours: int, *, plain: bool) -> set[int]:
    """The hours (indices from `start_s`) in which a recorded series has a value."""
    found: set[int] = set()
    for first in range(0, hours, _PAGE):
        last = min(hours, first + _PAGE) - 1
        for one in _recorded_grid(api, chosen, start_s, first, last, plain=plain):
            found |= {_hour_of(at, start_s) for at in one.times}
    return found


def recorded_totals(api: Api, chosen: str, start_s: int, hours: int, first: int, last: int) -> list[float]:
    """The sums over recorded series in each of `hours` hours from `start_s`, filled from first to last."""
    totals = [0.0] * hours
    for one in _recorded_grid(api, chosen, start_s, first, last, plain=False):
        for at, value in zip(one.times, one.values, strict=True):
            totals[_hour_of(at, start_s)] += value
    return totals


def _recorded_grid(api: Api, chosen: str, start_s: int, first: int, last: int, *, plain: bool) -> Iterator[Samples]:
    return api.grid_of(
        _recorded_body(api, chosen, start_s, first, last, plain=plain), *_look_times(start_s, first, last)
    )


def _recorded_body(api: Api, chosen: str, start_s: int, first: int, last: int, *, plain: bool) -> bytes:
    """Recorded series over hours first … last, as the server answers. Each hour's last sample counts."""
    times = _look_times(start_s, first, last)
    if plain:
        return api.grid_body(chosen, *times, lookback_s=HOUR_S)
    return api.grid_body(f"last_over_time({chosen}[1h])", *times)


def _look_times(start_s: int, first: int, last: int) -> tuple[int, int, int]:
    """Start, end and step of the range query over hours first … last."""
    begin = start_s + (first + 1) * HOUR_S + _LAST_LOOK_S
    return begin, begin + (last - first) * HOUR_S, HOUR_S


def _hour_of(at_s: float, start_s: int) -> int:
    """Which hour (an index from `start_s`) a point of a recorded grid is about."""
    return round(at_s - _LAST_LOOK_S - start_s) // HOUR_S - 1


def _stretches(hours: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as (first, last)."""
    first = last = None
    for hour in hours:
        if last is not None and hour == last + 1:
            last = hour
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = hour
    if first is not None and last is not None:
        yield first, last

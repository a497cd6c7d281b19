"""Increases of cumulative counters by the hour, from the counters themselves: exact, whatever restarts, gaps or ends.

Only functions that every engine has and computes alike are used. The last value of each series in each hour is asked
for; an increase is the difference of two such values, a series that begins counts from zero, and where a counter was
reset inside an hour its samples are read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import sub
from typing import Final

from tierwise.core.errors import EvidenceError
from tierwise.core.evidence import HOUR_S
from tierwise.core.records import dataclass
from tierwise.evidence.prometheus_api import Api
from tierwise.evidence.prometheus_build import Sums
from tierwise.evidence.prometheus_http import TooMuchError
from tierwise.evidence.prometheus_names import Naming, any_of, quoted, selector
from tierwise.evidence.prometheus_samples import Histogram, Samples

Matcher = tuple[str, str, str]
SeriesKey = tuple[tuple[str, str], ...]

LOOKBACK: Final = "1d"
"""How long a process may send nothing and still be known when it comes back."""
PAGE_HOURS: Final = 168
_RESETS_MOST: Final = 2_000
_COUNTED_TWICE: Final = ("calls", "tokens", "runs")
"""Counters in which a restart shows best."""
_NOT_A_PROCESS: Final = ("tierwise", "gen_ai", "__name__", "le", "otel_scope", "scope_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One metric name on the server: the role it plays, and for classic histograms the part."""

    role: str
    part: str = ""


def places(naming: Naming) -> dict[str, Place]:
    """Every name under which a sample of evidence may stand."""
    found = {name: Place(role=role) for role, name in naming.metrics.items()}
    for role in ("duration", "first_chunk"):
        name = naming.metrics[role]
        found[f"{name}_bucket"] = Place(role=role, part="bucket")
        found[f"{name}_sum"] = Place(role=role, part="sum")
    return found


class Raw:
    """Reads the counters of some tasks, an hour after the other; keeps the last value of each series."""

    def __init__(self, api: Api, naming: Naming, known: Sequence[str], matchers: Sequence[Matcher]) -> None:
        """`known` names the metrics that the server has; `matchers` hold for every series."""
        self._api, self._naming, self._matchers = api, naming, tuple(matchers)
        self._places = {name: place for name, place in places(naming).items() if name in known}
        self.resets = 0
        """Hours of processes whose samples were read one by one because their counters began anew."""

    def read(self, sums: Mapping[str, Sums], start_s: int, first: int, last: int) -> set[int]:
        """Add the hours first … last (indices from `start_s`) of some tasks to their sums; returns hours with samples.

        Raises:
            TooMuchError: the answers are too large; ask for fewer tasks.
            EvidenceError: the server cannot be read, or resets are too many.
        """
        if not self._places:
            return set()
        chosen = self._selector(any_of(self._places), any_of(sums))
        before = start_s + first * HOUR_S
        state: dict[SeriesKey, float | Histogram] = {}
        for one in self._api.instant(f"last_over_time({chosen}[{LOOKBACK}])", before):
            state[_key(one.labels)] = one.histograms[-1] if one.histograms else one.values[-1]
        seen: set[int] = set()
        page, at = PAGE_HOURS, first
        while at <= last:
            end = min(last, at + page - 1)
            try:
                found = list(self._grid(f"last_over_time({chosen}[1h])", start_s, at, end))
            except TooMuchError:
                if end == at:
                    raise
                page = max(1, page // 2)
                continue
            again = self._again(any_of(sums), start_s, at, end) if found else {}
            for one in found:
                seen |= self._add(one, sums, state, again, start_s, at, end)
            at = end + 1
        return seen

    def _selector(self, names: str, tasks: str, *more: Matcher) -> str:
        task = (self._naming.labels["task"], "=~", tasks)
        return selector([("__name__", "=~", names), task, *self._matchers, *more])

    def _grid(self, query: str, start_s: int, first: int, last: int) -> Iterator[Samples]:
        return self._api.grid(query, start_s + (first + 1) * HOUR_S, start_s + (last + 1) * HOUR_S, HOUR_S)

    def _add(
        self,
        one: Samples,
        sums: Mapping[str, Sums],
        state: dict[SeriesKey, float | Histogram],
        again: Mapping[tuple[SeriesKey, int], Mapping[SeriesKey, Samples]],
        start_s: int,
        first: int,
        last: int,
    ) -> set[int]:
        labels = one.labels
        place, task = self._places[labels["__name__"]], sums[labels.get(self._naming.labels["task"], "")]
        key = _key(labels)
        process = _process(labels)
        samples = {index: found[key] for (who, index), found in again.items() if who == process and key in found}
        before = state.get(key)
        if one.histograms:
            hours = [round(at - start_s) // HOUR_S - 1 for at in one.histogram_times]
            past = before if isinstance(before, tuple) else _NONE
            for hour, now in zip(hours, one.histograms, strict=True):
                steps = samples[hour].histograms if hour in samples else (now,)
                gained = []
                for step in steps:
                    gained.append(_gained(past, step))
                    past = step
                task.add_histograms(place.role, labels, [hour] * len(gained), gained)
                past = now
            state[key] = past
            return set(hours)
        past_value = 0.0 if before is None or isinstance(before, tuple) else before
        state[key] = one.values[-1]
        if len(one.values) == last - first + 1 and not samples:
            grown = list(map(sub, one.values, (past_value, *one.values[:-1])))
            if min(grown) >= 0:
                task.add(place.role, place.part, labels, grown, first)
                return set(range(first, last + 1))
        hours = [round(at - start_s) // HOUR_S - 1 for at in one.times]
        grown = [0.0] * (last - first + 1)
        for hour, now_value in zip(hours, one.values, strict=True):
            steps_values = samples[hour].values if hour in samples else (now_value,)
            for value in steps_values:
                grown[hour - first] += value - past_value if value >= past_value else value
                past_value = value
            past_value = now_value
        task.add(place.role, place.part, labels, grown, first)
        return set(hours)

    def _again(
        self, tasks: str, start_s: int, first: int, last: int
    ) -> dict[tuple[SeriesKey, int], dict[SeriesKey, Samples]]:
        """The single samples of processes in hours in which their counters began anew."""
        reset: set[tuple[SeriesKey, int]] = set()
        names = [name for name, place in self._places.items() if place.role in _COUNTED_TWICE]
        for name in names:
            one = self._selector(quoted(name), tasks).replace("__name__=~", "__name__=", 1)
            query = f"resets({one}[1h]) > 0 or min_over_time({one}[1h]) < last_over_time({one}[{LOOKBACK}] offset 1h)"
            for series in self._grid(query, start_s, first, last):
                reset |= {(_process(series.labels), round(at - start_s) // HOUR_S - 1) for at in series.times}
        self.resets += len(reset)
        if len(reset) > _RESETS_MOST:
            raise EvidenceError(
                f"counters begin anew in {len(reset):,} hours of processes: several processes seem to share one name; give "
                "each its own service.instance.id and promote it to a label"
            )
        found: dict[tuple[SeriesKey, int], dict[SeriesKey, Samples]] = {}
        for process, hour in sorted(reset):
            more = [(name, "=", quoted(value)) for name, value in process]
            query = f"{self._selector(any_of(self._places), tasks, *more)}[1h]"
            samples = self._api.instant(query, start_s + (hour + 1) * HOUR_S)
            found[process, hour] = {_key(one.labels): one for one in samples if _process(one.labels) == process}
        return found


_NONE: Final[Histogram] = (0.0, 0.0, (), ())


def _gained(before: Histogram, now: Histogram) -> Histogram:
    """What a cumulative histogram gained: count, sum, upper edges and counts; all of `now` when it began anew."""
    if now[0] == before[0]:
        return _NONE
    past = dict(zip(before[2], before[3], strict=True)) if now[0] > before[0] else {}
    gained = [(upper, count - past.pop(upper, 0)) for upper, count in zip(now[2], now[3], strict=True)]
    if now[0] < before[0] or any(count < 0 for _, count in gained) or any(past.values()):
        return now
    kept = [(upper, count) for upper, count in gained if count]
    return now[0] - before[0], now[1] - before[1], tuple(upper for upper, _ in kept), [count for _, count in kept]


def _key(labels: Mapping[str, str]) -> SeriesKey:
    return tuple(sorted(labels.items()))


def _process(labels: Mapping[str, str]) -> SeriesKey:
    """What of the labels names the process."""
    return tuple(sorted(pair for pair in labels.items() if not pair[0].startswith(_NOT_A_PROCESS)))

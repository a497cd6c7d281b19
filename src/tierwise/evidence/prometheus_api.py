"""The query API of a Prometheus-compatible server: questions, answers read fast and mistrusted, what is partial refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from tierwise.core.errors import EvidenceError
from tierwise.core.records import dataclass
from tierwise.evidence.prometheus_http import Http

Dialect = Literal["prometheus", "victoriametrics"]
Histogram = tuple[float, float, Sequence[str], Sequence[str]]
"""Count, sum, upper edges of the buckets that are not empty, their counts; as they came."""

_POLITE: Final = (("nocache", "1"), ("partial_response", "false"), ("deny_partial_response", "1"), ("dedup", "true"))
"""VictoriaMetrics: answer for the times asked for; Thanos, VictoriaMetrics: no partial answers. Others ignore them."""
_QUERY: Final = "/api/v1/query"
_RANGE: Final = "/api/v1/query_range"
_VALUES, _HISTOGRAMS = '"values":[[', '"histograms":[['


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """One series of an answer: numbers and, of native histograms, distributions, each at Unix seconds."""

    labels: Mapping[str, str]
    times: Sequence[float] = ()
    """Of a range query without gaps a `range`."""
    values: Sequence[float] = ()
    histogram_times: Sequence[float] = ()
    histograms: Sequence[Histogram] = ()


class Api:
    """Questions to one server. Every answer with a warning, a partial mark or another form than expected is an error."""

    def __init__(self, http: Http, *, clock: Callable[[], float] = time.time) -> None:
        self.http = http
        self._clock = clock

    def instant(self, query: str, at_s: float | None = None) -> list[Samples]:
        """The series of an instant query: one sample each, or those of a range selector.

        Raises:
            EvidenceError: the server refuses, warns, or answers in part or nonsense.
        """
        parameters = [("query", query), *_POLITE]
        if at_s is not None:
            parameters.append(("time", f"{at_s:.3f}"))
        body, _ = self.http.post(_QUERY, parameters)
        return list(self._series(body))

    def grid(self, query: str, start_s: int, end_s: int, step_s: int) -> Iterator[Samples]:
        """The series of a range query at start, start + step … end, Unix seconds; a series is read when it is asked for.

        Raises:
            EvidenceError: as `instant`.
        """
        return self.grid_of(self.grid_body(query, start_s, end_s, step_s), start_s, end_s, step_s)

    def grid_body(self, query: str, start_s: int, end_s: int, step_s: int) -> bytes:
        """The answer of `grid` as it came, for `grid_of`."""
        parameters = [("query", query), ("start", str(start_s)), ("end", str(end_s)), ("step", str(step_s)), *_POLITE]
        return self.http.post(_RANGE, parameters)[0]

    def grid_of(self, body: bytes, start_s: int, end_s: int, step_s: int) -> Iterator[Samples]:
        """The series in an answer; see `grid`."""
        for one in self._series(body, range(start_s, end_s + 1, step_s)):
            for times in (one.times, one.histogram_times):
                if times and not (start_s <= times[0] and times[-1] <= end_s):
                    raise self._nonsense(body)
            yield one

    def label_values(self, label: str, matches: Sequence[str], start_s: int, end_s: int) -> list[str]:
        """The values of a label in [start, end] among series that match one of the selectors."""
        parameters = [
            *(("match[]", match) for match in matches),
            ("start", str(start_s)),
            ("end", str(end_s)),
            *_POLITE,
        ]
        body, _ = self.http.get(f"/api/v1/label/{label}/values", parameters)
        found = self._checked(body) or ()
        if not isinstance(found, (list, tuple)):
            raise self._nonsense(body)
        return list(map(str, found))

    def exists(self, matches: Sequence[str], start_s: int, end_s: int) -> bool:
        """Whether there is a series in [start, end] that matches one of the selectors."""
        parameters = [*(("match[]", match) for match in matches), ("start", str(start_s)), ("end", str(end_s))]
        body, _ = self.http.get("/api/v1/series", [*parameters, *_POLITE])
        return bool(self._checked(body))

    def clock_ahead_s(self) -> float:
        """How far the server's clock is ahead of ours, seconds; half a round trip uncertain."""
        before = self._clock()
        body, headers = self.http.post(_QUERY, [("query", "time()")])
        middle = (before + self._clock()) / 2
        self._checked(body)
        try:
            there = parsedate_to_datetime(headers["date"]).replace(tzinfo=UTC).timestamp() + 0.5
        except (KeyError, ValueError, TypeError):
            try:
                there = float(json.loads(body)["data"]["result"][0])
            except (KeyError, ValueError, TypeError, IndexError):
                raise self._nonsense(body) from None
        return there - middle

    def dialect(self) -> Dialect:
        """Which of the two kinds of server this is, by what it says about itself."""
        body, headers = self.http.post(_QUERY, [("query", "1")])
        self._checked(body)
        victoria = "x-server-hostname" in headers or '"executionTimeMsec"' in body[-200:].decode("utf-8", "replace")
        return "victoriametrics" if victoria else "prometheus"

    def retention_s(self, dialect: Dialect) -> int | None:
        """How long the server keeps samples, seconds; `None` where it does not say so (Mimir, Thanos, clusters)."""
        try:
            if dialect == "prometheus":
                found = self._checked(self.http.get("/api/v1/status/runtimeinfo")[0])
                text = str(found.get("storageRetention") or "") if isinstance(found, dict) else ""
                return _duration(text.split(" ")[0])
            flags = self.http.get("/flags")[0].decode("utf-8", "replace")
        except EvidenceError:
            return None
        if "-storageDataPath" not in flags and "-httpListenAddr" not in flags:
            return None
        _, mark, rest = flags.partition('-retentionPeriod="')
        text = rest.partition('"')[0] if mark else "1"
        return _duration(f"{text}M" if text.isdecimal() else text)

    def _series(self, body: bytes, grid: range | None = None) -> Iterator[Samples]:
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            raise self._nonsense(body) from None
        plain = text.startswith('{"status":"success"') and '"resultType":"matrix","result":[' in text[:200]
        if plain and '"warnings":[' not in text and '"isPartial":true' not in text:
            return self._scan(text, grid)
        return iter(self._parsed(body))

    def _scan(self, text: str, grid: range | None) -> Iterator[Samples]:
        """Series of an answer in the one form that servers write, without an object for each sample."""
        try:
            yield from _scanned(text, grid)
        except (ValueError, IndexError, TypeError, RecursionError):
            raise self._nonsense(text.encode()) from None

    def _parsed(self, body: bytes) -> list[Samples]:
        """The same from any valid JSON."""
        found = self._checked(body)
        try:
            kind, result = found["resultType"], found["result"]
            if kind not in ("vector", "matrix"):
                raise ValueError(kind)
            return [_from_json(one) for one in result]
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            raise self._nonsense(body) from None

    def _checked(self, body: bytes) -> Any:
        """The `data` of an answer that is whole.

        Raises:
            EvidenceError: it is not JSON of this API, an error, partial, or carries warnings.
        """
        try:
            found = json.loads(body)
            status = found["status"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._nonsense(body) from None
        if status != "success":
            said = " ".join(str(found.get("error", "")).split())[:300]
            raise EvidenceError(f"{self.http.base} answers with an error: {said}")
        if found.get("isPartial"):
            raise EvidenceError(
                f"{self.http.base} has only a part of the data (isPartial): a storage node is not reachable; no decision "
                "is made on a part, try again when all nodes are up"
            )
        if found.get("warnings"):
            warnings = found["warnings"]
            said = " ".join(str(warnings[0] if isinstance(warnings, list) else warnings).split())[:300]
            raise EvidenceError(
                f"{self.http.base} warns that its answer is not whole or not sound: {said}; no decision is made on it, "
                "mend the server's sources and try again"
            )
        return found.get("data")

    def _nonsense(self, body: bytes) -> EvidenceError:
        begin = body[:60].decode("utf-8", "replace").strip()
        page = " (a web page: is there a login or another program in front?)" if begin[:1] == "<" else ""
        return EvidenceError(
            f"{self.http.base} answers with something that is not the Prometheus API{page}; check --url and what stands "
            "between here and there"
        )


def _scanned(text: str, grid: range | None) -> Iterator[Samples]:
    """Series of a matrix answer. Inside JSON strings every quote is escaped, so the marks looked for cannot be there."""
    position, mark = text.index('"result":') + 9, '{"metric":'
    decode = json.JSONDecoder().raw_decode
    known = {} if grid is None else {f"{before}{at},": at for at in grid for before in ("", "],[")}
    if text[position + 1] == "]":
        return
    while True:
        position += 1
        if not text.startswith(mark, position):
            raise ValueError("series")
        labels, position = decode(text, position + len(mark))
        times: Sequence[float] = ()
        values: Sequence[float] = ()
        histogram_times: Sequence[float] = ()
        histograms: Sequence[Histogram] = ()
        while text[position] == ",":
            position += 1
            if text.startswith(_VALUES, position):
                end = text.index("]]", position)
                times, values = _numbers(text[position + len(_VALUES) : end], grid, known)
                position = end + 2
            elif text.startswith(_HISTOGRAMS, position):
                end = text.index("}]]", position)
                histogram_times, histograms = _distributions(text[position + len(_HISTOGRAMS) : end], known)
                position = end + 3
            else:
                raise ValueError("field")
        if text[position] != "}":
            raise ValueError("brace")
        position += 1
        yield Samples(labels=labels, times=times, values=values, histogram_times=histogram_times, histograms=histograms)
        if text[position] == "]":
            return
        if text[position] != ",":
            raise ValueError("comma")


def _numbers(body: str, grid: range | None, known: Mapping[str, float]) -> tuple[Sequence[float], list[float]]:
    """`1700000000,"3"],[1700003600,"4"` as times and values; `known` has the times of the grid as they are written."""
    parts = body.split('"')
    values = list(map(float, parts[1::2]))
    if grid is not None and len(values) == len(grid):
        return grid, values
    written = parts[0:-1:2]
    try:
        return list(map(known.__getitem__, written)), values
    except KeyError:
        return [float(part.strip("],[")) for part in written], values


def _distributions(body: str, known: Mapping[str, float]) -> tuple[list[float], list[Histogram]]:
    """`1700000000,{"count":"3","sum":"1.5","buckets":[[0,"0.5","0.65","3"]]}],[…` as times and histograms."""
    times: list[float] = []
    found: list[Histogram] = []
    for one in body.split("}],["):
        part = one.split('"')
        at = known.get(part[0][:-1])
        times.append(float(part[0][:-2]) if at is None else at)
        if part[1] != "count" or part[5] != "sum":
            raise ValueError("histogram")
        found.append((float(part[3]), float(part[7]), part[13::6], part[15::6]))
    return times, found


def _from_json(one: Mapping[str, Any]) -> Samples:
    values = one.get("values") or ([one["value"]] if "value" in one else [])
    histograms = one.get("histograms") or ([one["histogram"]] if "histogram" in one else [])
    return Samples(
        labels={str(name): str(value) for name, value in one["metric"].items()},
        times=[float(at) for at, _ in values],
        values=[float(value) for _, value in values],
        histogram_times=[float(at) for at, _ in histograms],
        histograms=[_histogram(value) for _, value in histograms],
    )


def _histogram(value: Mapping[str, Any]) -> Histogram:
    buckets = value.get("buckets") or []
    return (
        float(value["count"]),
        float(value["sum"]),
        tuple(str(bucket[2]) for bucket in buckets),
        tuple(str(bucket[3]) for bucket in buckets),
    )


_MOST_DIGITS: Final = 15


def _duration(text: str) -> int | None:
    """`400d`, `1y`, `2w3d` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 31 * 86_400, "y": 31_536_000}
    total, digits = 0, ""
    for character in text:
        if character.isdecimal() and len(digits) < _MOST_DIGITS:
            digits += character
        elif digits and character in units:
            total, digits = total + int(digits) * units[character], ""
        else:
            return None
    return total or None

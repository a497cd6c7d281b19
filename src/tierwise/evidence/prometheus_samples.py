"""The samples in an answer of the query API: series by series, numbers read in one go, no object for each sample."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final

from tierwise.core.records import dataclass

Histogram = tuple[float, float, Sequence[float], Sequence[float]]
"""Count, sum, upper edges of the buckets that are not empty, their counts."""

_FIELDS: Final = re.compile(rb'\},"(values|histograms)":\[\[')
_NEXT: Final = b',"histograms":[['
_INFINITE: Final = ((b"+Inf", b"9e999"), (b"-Inf", b"-9e999"))
_IN_NUMBERS: Final = b'"[]'
_IN_HISTOGRAMS: Final = b'"[]{}:countsmbk'  # leaves the e of "buckets", for numbers have it as well
_USUAL: Final = re.compile(rb'[^{]*\{"count":"[^"]*","sum":"[^"]*","buckets":\[\[')
_HEAD: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """One series of an answer: numbers and, of native histograms, distributions, each at Unix seconds."""

    labels: Mapping[str, str]
    times: Sequence[float] = ()
    """Of a range query without gaps a `range`."""
    values: Sequence[float] = ()
    """Whole numbers are `int` where the answer was read in one go."""
    histogram_times: Sequence[float] = ()
    histograms: Sequence[Histogram] = ()


def scanned(body: bytes, grid: range | None) -> Generator[Samples, None, int]:
    """The series of a matrix answer as servers write it; `grid` are the times of a range query. Returns where they end.

    Inside JSON strings every quote is escaped, so the marks looked for cannot stand in a label.

    Raises:
        ValueError, IndexError, TypeError: it is not in that form.
    """
    read = _reader()
    position, mark = body.index(b'"result":') + 9, b'{"metric":'
    if body[position + 1 : position + 2] == b"]":
        return position
    while True:
        position += 1
        if not body.startswith(mark, position):
            raise ValueError("series")
        found = _FIELDS.search(body, position)
        if found is None:
            raise ValueError("field")
        labels = json.loads(body[position + len(mark) : found.start() + 1])
        if not isinstance(labels, dict):
            raise TypeError("labels")
        position = found.end()
        times: Sequence[float] = ()
        values: Sequence[float] = ()
        histogram_times: Sequence[float] = ()
        histograms: Sequence[Histogram] = ()
        if found[1] == b"values":
            end = body.index(b"]]", position)
            times, values = _numbers(body[position:end], grid, read)
            position = end + 2
        if found[1] == b"histograms" or body.startswith(_NEXT, position):
            position += len(_NEXT) if found[1] == b"values" else 0
            histogram_times, histograms, position = _distributions(body, position, read)
        if body[position : position + 1] != b"}":
            raise ValueError("brace")
        position += 1
        yield Samples(labels=labels, times=times, values=values, histogram_times=histogram_times, histograms=histograms)
        following = body[position : position + 1]
        if following == b"]":
            return position
        if following != b",":
            raise ValueError("comma")


def from_api(one: Mapping[str, Any]) -> Samples:
    """A series of any valid answer, instant or range.

    Raises:
        KeyError, ValueError, TypeError, IndexError, AttributeError: it is none.
    """
    values = one.get("values") or ([one["value"]] if "value" in one else [])
    histograms = one.get("histograms") or ([one["histogram"]] if "histogram" in one else [])
    return Samples(
        labels={str(name): str(value) for name, value in one["metric"].items()},
        times=[float(at) for at, _ in values],
        values=[float(value) for _, value in values],
        histogram_times=[float(at) for at, _ in histograms],
        histograms=[_histogram(value) for _, value in histograms],
    )


def _reader() -> Callable[[bytes], Any]:
    from jiter import from_json

    return from_json


def _numbers(body: bytes, grid: range | None, read: Callable[[bytes], Any]) -> tuple[Sequence[float], Sequence[float]]:
    """`1700000000,"3"],[1700003600,"4"` as times and values."""
    try:
        if b"n" in body or b"t" in body:  # words: an infinity, or what is no number
            raise ValueError("words")
        bare = body.translate(None, _IN_NUMBERS)
        flat = read(b"[%b]" % bare)
    except ValueError:
        parts = body.split(b'"')
        return [float(part.strip(b"],[")) for part in parts[0:-1:2]], list(map(float, parts[1::2]))
    count = len(flat)
    if not count or count % 2 or len(body) - len(bare) != 2 * count - 2:
        raise ValueError("samples")
    if grid is not None and count == 2 * len(grid) and flat[0] == grid[0] and flat[-2] == grid[-1]:
        return grid, flat[1::2]
    return flat[::2], flat[1::2]


def _distributions(body: bytes, start: int, read: Callable[[bytes], Any]) -> tuple[list[float], list[Histogram], int]:
    """`1700000000,{"count":"3","sum":"1.5","buckets":[[0,"0.5","0.65","3"]]}],[…]]`: times, histograms, where they end."""
    end = body.index(b"}]]", start)
    whole = body[start:end]
    if not _USUAL.match(whole) or whole.count(b'"buckets":[[') != whole.count(b'"count":"'):
        return (*_one_by_one(whole), end + 3)
    for infinite, number in _INFINITE:
        if infinite in whole:
            whole = whole.replace(infinite, number)
    text = whole.replace(b"]]}],[", b";").translate(None, _IN_HISTOGRAMS).replace(b",e", b",").replace(b";", b"],[")
    found = read(b"[[%b]]" % text)
    for one in found:
        if len(one) % 4 != _HEAD:
            raise ValueError("histogram")
    return (
        [one[0] for one in found],
        [(one[1], one[2], tuple(one[5::4]), one[6::4]) for one in found],
        end + 3,
    )


def _one_by_one(whole: bytes) -> tuple[list[float], list[Histogram]]:
    """The same where some histogram has no buckets."""
    found = json.loads(b"[[%b}]]" % whole)
    return [float(at) for at, _ in found], [_histogram(value) for _, value in found]


def _histogram(value: Mapping[str, Any]) -> Histogram:
    buckets = value.get("buckets") or []
    return (
        float(value["count"]),
        float(value["sum"]),
        tuple(float(bucket[2]) for bucket in buckets),
        [float(bucket[3]) for bucket in buckets],
    )

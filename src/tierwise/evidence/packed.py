"""The packed form of hours of one task: columns of small numbers, of which a reader decodes only what it needs."""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import copysign
from typing import Any, Final

from tierwise.core.columns import Identity, TaskEvidence
from tierwise.core.series import DIGEST_BYTES

FORMAT: Final = b"tw1\n"
"""The first bytes; a reader that does not know them reads the rows instead."""

_BIG_ENDIAN: Final = sys.byteorder == "big"
_HEADER_LENGTH: Final = 4
_CODES: Final = (
    ("B", 0, 0xFF), ("H", 0, 0xFFFF), ("I", 0, 0xFFFF_FFFF), ("b", -0x80, 0x7F), ("h", -0x8000, 0x7FFF),
    ("i", -0x8000_0000, 0x7FFF_FFFF), ("q", -(1 << 63), (1 << 63) - 1),
)  # fmt: skip
_SIZES: Final = {"B": 1, "H": 2, "I": 4, "b": 1, "h": 2, "i": 4, "q": 8, "d": 8, "z": 8}


def encode(evidence: TaskEvidence) -> bytes:
    """Hours of live traffic in packed form. Nothing is rounded.

    `FORMAT`, the length of the header (4 bytes), the header (JSON), then the numbers. All numbers are little-endian. The
    header has `series` (candidate, epoch, arm, rung, grade, session and the number of its grid), `grids` (starts of hours),
    `columns` (name: code, offset, length, numbers of the series it is there for or null for all), `digests` (offset) and
    `refused` (hours and digests of the rows that cannot be believed). A column holds its series one after another;
    where there is none, all of it is 0. Codes: b, h, i, q are signed and B, H, I unsigned integers of 1, 2, 4 (and 8)
    bytes, d floats of 8 bytes, z the same with 0 for nothing, j JSON.
    """
    found = list(evidence.of_candidates())
    body = bytearray()
    grids: dict[tuple[int, ...], int] = {}
    numbers = [grids.setdefault(tuple(series.buckets), len(grids)) for _, series in found]
    columns: dict[str, tuple[str, int, int, list[int] | None]] = {}
    for name in sorted(set().union(*(series.names for _, series in found))):
        parts = [(place, series.column(name)) for place, (_, series) in enumerate(found)]
        parts = [(place, values) for place, values in parts if not _is_nothing(values)]
        if not parts:
            continue
        code, data = _numbers([value for _, values in parts for value in values])
        who = None if len(parts) == len(found) else [place for place, _ in parts]
        columns[name] = (code, len(body), len(data), who)
        body += data
    header = {
        "series": [[*identity, number] for (identity, _), number in zip(found, numbers, strict=True)],
        "grids": [list(grid) for grid in grids],
        "columns": columns,
        "digests": len(body),
        "refused": [[bucket, digest.hex()] for bucket, digest in evidence.refused()],
    }
    for _, series in found:
        body += series.digests()
    told = json.dumps(header, separators=(",", ":")).encode("ascii")
    return b"".join((FORMAT, len(told).to_bytes(_HEADER_LENGTH, "little"), told, body))


def _is_nothing(values: Sequence[float]) -> bool:
    """Whether a column can be left out: a negative zero would come back as another number."""
    return not any(values) and all(copysign(1.0, value) > 0 for value in values)


def _numbers(values: list[float]) -> tuple[str, bytes]:
    kinds = set(map(type, values))
    if kinds == {int}:
        low, high = min(values), max(values)
        for code, least, most in _CODES:
            if least <= low and high <= most:
                return code, _bytes(code, values)
    elif kinds == {float}:
        return "d", _bytes("d", values)
    elif kinds == {int, float} and all((type(value) is float) == bool(value) for value in values):
        return "z", _bytes("d", values)
    return "j", json.dumps(values, separators=(",", ":")).encode("ascii")


def _bytes(code: str, values: list[float]) -> bytes:
    made = array(code, values)
    if _BIG_ENDIAN:
        made.byteswap()
    return made.tobytes()


Values = tuple["array[Any] | list[float]", Mapping[int, int]]
_NOTHING: Final[Values] = [], {}


class Block:
    """Packed hours of one task, read as needed.

    Raises:
        ValueError: the bytes are of another form.
    """

    __slots__ = ("_columns", "_data", "_digests", "_grids", "_names", "_places", "decoded", "refused", "series")

    def __init__(self, data: bytes) -> None:
        if data[: len(FORMAT)] != FORMAT:
            raise ValueError("packed evidence of an unknown form")
        start = len(FORMAT) + _HEADER_LENGTH
        end = start + int.from_bytes(data[len(FORMAT) : start], "little")
        header: dict[str, Any] = json.loads(data[start:end])
        self._data = memoryview(data)[end:]
        self._grids: list[tuple[int, ...]] = [tuple(grid) for grid in header["grids"]]
        self.series: list[tuple[Identity, int]] = [((*one[:6],), one[6]) for one in header["series"]]
        starts = accumulate((len(self._grids[grid]) for _, grid in self.series), initial=0)
        self._places = dict(enumerate(starts))
        self._columns: dict[str, tuple[str, int, int, list[int] | None]] = header["columns"]
        self._digests: int = header["digests"]
        self.decoded: dict[str, Values] = {}
        self._names: list[list[str]] | None = None
        self.refused: list[tuple[int, bytes]] = [(at, bytes.fromhex(digest)) for at, digest in header["refused"]]

    def add_to(self, evidence: TaskEvidence, since: int | None = None, until: int | None = None) -> None:
        """Hand the hours that start in [since, until) over, behind what is there of each identity."""
        for bucket, digest in self.refused:
            if (since is None or bucket >= since) and (until is None or bucket < until):
                evidence.refuse(digest, bucket)
        for number, identity, low, hours in self._stretches(since, until):
            evidence.extend(identity, Stretch(self, number, low, hours))

    def _stretches(self, since: int | None, until: int | None) -> Iterator[tuple[int, Identity, int, tuple[int, ...]]]:
        windows: dict[int, tuple[int, tuple[int, ...]]] = {}
        for number, (identity, grid) in enumerate(self.series):
            window = windows.get(grid)
            if window is None:
                hours = self._grids[grid]
                low = 0 if since is None else bisect_left(hours, since)
                high = len(hours) if until is None else bisect_left(hours, until)
                window = windows[grid] = low, hours[low:high]
            if window[1]:
                yield number, identity, *window

    def length(self, number: int) -> int:
        """How many hours one of its series has."""
        return len(self._grids[self.series[number][1]])

    def names(self, number: int) -> list[str]:
        """The columns of one of its series."""
        if self._names is None:
            dense = [name for name, (_, _, _, who) in self._columns.items() if who is None]
            self._names = [list(dense) for _ in self.series]
            for name, (_, _, _, who) in self._columns.items():
                for one in who or ():
                    self._names[one].append(name)
        return self._names[number]

    def values(self, name: str) -> Values:
        """Numbers of its series, and where those of a series begin, by its number; kept in `decoded`."""
        told = self._columns.get(name)
        made = self.decoded[name] = _NOTHING if told is None else self._decode(*told)
        return made

    def digests(self, number: int, low: int, count: int) -> bytes:
        """The digests of rows of one of its series."""
        start = self._digests + (self._places[number] + low) * DIGEST_BYTES
        return bytes(self._data[start : start + count * DIGEST_BYTES])

    def _decode(self, code: str, offset: int, length: int, who: list[int] | None) -> Values:
        data = self._data[offset : offset + length]
        values: array[Any] | list[float]
        if code == "j":
            values = json.loads(bytes(data))
        else:
            made = array("d" if code == "z" else code)
            made.frombytes(data)
            if _BIG_ENDIAN:
                made.byteswap()
            values = made if code != "z" else [value or 0 for value in made]
        if who is None:
            return values, self._places
        sizes = accumulate((self.length(one) for one in who), initial=0)
        return values, dict(zip(who, sizes, strict=False))


class Stretch:
    """Hours of one series of a block; a `core.series.Segment`."""

    __slots__ = ("_block", "_decoded", "_low", "_number", "buckets")

    def __init__(self, block: Block, number: int, low: int, buckets: tuple[int, ...]) -> None:
        self._block, self._number, self._low, self.buckets = block, number, low, buckets
        self._decoded = block.decoded

    @property
    def names(self) -> list[str]:
        """The columns with anything in them."""
        names = self._block.names(self._number)
        if len(self.buckets) == self._block.length(self._number):
            return names
        return [name for name in names if any(self.column(name) or ())]

    @property
    def digests(self) -> bytes:
        """The digests of its rows."""
        return self._block.digests(self._number, self._low, len(self.buckets))

    def column(self, name: str) -> array[Any] | list[float] | None:
        """One number an hour; `None` where there is nothing."""
        known = self._decoded.get(name) or self._block.values(name)
        place = known[1].get(self._number)
        if place is None:
            return None
        start = place + self._low
        return known[0][start : start + len(self.buckets)]

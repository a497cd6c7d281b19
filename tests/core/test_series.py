"""Series of appended rows and of stretches that a store hands over: the same columns, whichever way they came."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tierwise.core.columns import TaskEvidence, parts_of
from tierwise.core.evidence import HOUR_S, Evidence, Key
from tierwise.core.series import Series, digest_of

IDENTITY = ("m", "e", "explore", 0, "randomised", "")


@dataclass
class Stretch:
    """Hours as a store may hand them over."""

    buckets: tuple[int, ...]
    columns: dict[str, Sequence[float]]
    digests: bytes = b""

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def column(self, name: str) -> Sequence[float] | None:
        return self.columns.get(name)


def _hour(number: int) -> Evidence:
    return Evidence(n=number, successes=1, outcomes={"success": 1, "error": number % 2}, cost_sum=number / 7)


def _key(number: int) -> Key:
    return Key(
        task="t", candidate="m", epoch="e", arm="explore", rung=0, grade="randomised", bucket=number * HOUR_S
    )  # fmt: skip


def _stretch(first: int, last: int) -> Stretch:
    numbers = range(first, last)
    buckets = tuple(number * HOUR_S for number in numbers)
    digests = b"".join(digest_of((number * HOUR_S, -1), parts_of(_hour(number))) for number in numbers)
    columns: dict[str, Sequence[float]] = {
        "n": array("B", numbers),
        "successes": [1] * len(buckets),
        "outcomes.success": array("B", [1] * len(buckets)),
        "cost_sum": array("d", [number / 7 for number in numbers]),
    }
    if any(number % 2 for number in numbers):
        columns["outcomes.error"] = array("H", [number % 2 for number in numbers])
    return Stretch(buckets, columns, digests)


def _mixed(*parts: tuple[str, int, int]) -> TaskEvidence:
    made = TaskEvidence("t")
    for kind, first, last in parts:
        if kind == "stretch":
            made.extend(IDENTITY, _stretch(first, last))
        else:
            for number in range(first, last):
                made.append(_key(number), _hour(number))
    return made


@pytest.mark.parametrize(
    "parts",
    [
        (("stretch", 1, 5), ("stretch", 5, 9)),
        (("rows", 1, 3), ("stretch", 3, 7), ("rows", 7, 9)),
        (("stretch", 1, 3), ("rows", 3, 6), ("stretch", 6, 7), ("stretch", 7, 9)),
        (("stretch", 1, 2), ("stretch", 2, 3), ("rows", 3, 9)),
    ],
)
def test_rows_and_stretches_are_one_series(parts: tuple[tuple[str, int, int], ...]) -> None:
    """Whatever comes packed, slots, names, columns and digest are those of the rows."""
    plain, mixed = _mixed(("rows", 1, 9)), _mixed(*parts)
    one, other = plain.series[IDENTITY], mixed.series[IDENTITY]
    assert (one.slots, one.buckets, one.names) == (other.slots, other.buckets, other.names)
    for name in (*one.names, "latency.3"):
        assert one.column(name) == other.column(name)
    assert plain.digest() == mixed.digest()
    assert len(one) == len(other) == 8


def test_a_row_of_the_last_packed_hour_is_added_to_it() -> None:
    """More evidence of the last hour is summed with what a store handed over."""
    plain, mixed = _mixed(("rows", 1, 5)), _mixed(("stretch", 1, 5))
    for made in (plain, mixed):
        assert made.series[IDENTITY].column("n") == [1, 2, 3, 4]
        made.append(_key(4), _hour(4))
        made.append(_key(6), _hour(6))
    one, other = plain.series[IDENTITY], mixed.series[IDENTITY]
    assert other.column("n") == [1, 2, 3, 8, 6]
    assert {name: one.column(name) for name in one.names} == {name: other.column(name) for name in other.names}
    assert (one.slots, plain.digest()) == (other.slots, mixed.digest())


def test_stretches_come_in_order_of_time() -> None:
    """A stretch that begins before the end of what is there is refused, as a row is."""
    series = Series()
    series.extend(_stretch(3, 5))
    for late in (_stretch(4, 6), _stretch(1, 2)):
        with pytest.raises(ValueError, match="in order of time"):
            series.extend(late)
    with pytest.raises(ValueError, match="in order of time"):
        series.append((HOUR_S, "", -1), HOUR_S, parts_of(_hour(1)))


def test_series_with_the_same_hours_share_them() -> None:
    """What a decision looks up by hour is made once for all series of a store that have the same hours."""
    made = TaskEvidence("t")
    stretch, twin = _stretch(1, 5), _stretch(1, 5)
    twin.buckets = stretch.buckets
    made.extend(IDENTITY, stretch)
    made.extend(("other", *IDENTITY[1:]), twin)
    one, other = made.series.values()
    assert one.slots is other.slots


def test_a_segments_numbers_are_left_alone() -> None:
    """Joining columns changes nothing of what a store handed over."""
    first, second = _stretch(1, 3), _stretch(3, 5)
    made = TaskEvidence("t")
    made.extend(IDENTITY, first)
    made.extend(IDENTITY, second)
    made.series[IDENTITY].column("n").append(9)
    assert (list(first.columns["n"]), list(second.columns["n"])) == ([1, 2], [3, 4])

"""Reading the samples of an answer in one go gives what reading its JSON piece by piece gives."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tierwise.evidence.prometheus_samples import from_api, scanned

GRID = range(1_795_000_000, 1_795_000_000 + 3600 * 12, 3600)
LABELS = {"__name__": "m", "task": 'a"}],"values":[[ü\\', "le": "+Inf"}


def answer(result: list[dict[str, Any]]) -> bytes:
    """The body of a matrix answer, written as servers write it."""
    data = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def histogram(rng: random.Random, *, edges: bool = True) -> dict[str, Any]:
    """A native histogram as the API has it."""
    uppers = sorted(rng.sample(["0.01", "0.25", "0.5", "1", "2.5e+01", "1e-05", "+Inf"], rng.randint(1, 7)), key=float)
    lowers = ["-Inf", *uppers[:-1]]
    buckets = [[3, low, high, str(rng.randint(1, 9))] for low, high in zip(lowers, uppers, strict=True)]
    made: dict[str, Any] = {"count": str(rng.randint(0, 99)), "sum": repr(rng.random())}
    return made | {"buckets": buckets} if edges else made


@pytest.mark.parametrize("seed", range(8))
def test_numbers_and_histograms_are_read_as_they_are_written(seed: int) -> None:
    """Whole and broken numbers, exponents, infinities, gaps, empty histograms; labels that look like samples."""
    rng = random.Random(seed)  # noqa: S311
    texts = ("3", "0.1", "1e-07", "1e+21", repr(rng.random()), *(("NaN", "+Inf", "-Inf")[:seed]))
    result: list[dict[str, Any]] = []
    for number in range(6):
        times = [at for at in GRID if number < 2 or rng.random() < 0.6] or [GRID[0]]
        one: dict[str, Any] = {"metric": LABELS | {"number": str(number)}}
        if number != 3:
            one["values"] = [[at, rng.choice(texts)] for at in times]
        if number >= 3:
            one["histograms"] = [[at, histogram(rng, edges=number < 5 or rng.random() < 0.5)] for at in times]
        result.append(one)
    for grid in (GRID, None):
        found = list(scanned(answer(result), grid))
        assert len(found) == len(result)
        for mine, one in zip(found, result, strict=True):
            wanted = from_api(one)
            assert mine.labels == wanted.labels
            assert list(mine.times) == wanted.times
            assert str(list(map(float, mine.values))) == str(wanted.values)
            assert list(mine.histogram_times) == list(wanted.histogram_times)
            assert [(*mine_one[:2], *map(list, mine_one[2:])) for mine_one in mine.histograms] == [
                (*wanted_one[:2], *map(list, wanted_one[2:])) for wanted_one in wanted.histograms
            ]
        assert seed or isinstance(found[0].times, range) == (grid is not None)  # later seeds have words in it


@pytest.mark.parametrize(
    "field",
    [
        b'"values":[[1,"2"],[3]]', b'"values":[[1,"true"]]', b'"values":[[1,"null"]]', b'"values":[[1,2]]', b'"values":[[]]',
        b'"values":[[1,"2"', b'"histograms":[[1,{"sum":"1","count":"2","buckets":[[0,"1"]]}]]', b'"other":[[1,"2"]]',
        b'"histograms":[[1,{"count":"1","sum":"2","buckets":[[0,"1","2"]]}]]', b'"values":[[1,"2"]],"values":[[1,"2"]]',
    ],
)  # fmt: skip
def test_what_is_no_sample_is_an_error(field: bytes) -> None:
    """Never a number that nobody sent."""
    body = b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},%b}]}}' % field
    with pytest.raises((ValueError, IndexError, TypeError)):
        list(scanned(body, None))

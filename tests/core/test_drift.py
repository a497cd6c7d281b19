"""Drift: what it finds, what it must not take for one, how often it errs and how soon it is there."""

from __future__ import annotations

import math
import random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwise.core.drift import CHANGE, EARLIER, RECENT_RUNS, WINDOWS, Drift, Z, find_drift

PER_BUCKET = 20


def successes(
    rng: random.Random, buckets: int, rate: float, *, shock: float = 0.0, persistence: float = 0.0
) -> list[int]:
    """Successes of 20 runs a bucket; the hours' common shocks are on the logit, autocorrelated by `persistence`."""
    state, found = rng.gauss(0, 1), []
    for _ in range(buckets):
        logit = math.log(rate / (1 - rate)) + shock * state
        found.append(sum(rng.random() < 1 / (1 + math.exp(-logit)) for _ in range(PER_BUCKET)))
        state = persistence * state + math.sqrt(1 - persistence**2) * rng.gauss(0, 1)
    return found


def alarms(found: list[int], cost: list[float], cost_sq: list[float]) -> int:
    """Alarms of a history that is looked at after every bucket; each begins a new epoch with its window."""
    n = [PER_BUCKET] * len(found)
    start, count, end = 0, 0, 1
    while end <= len(found):
        drift = find_drift(n[start:end], found[start:end], cost[start:end], cost_sq=cost_sq[start:end])
        if drift is not None:
            count, start = count + 1, end - drift.buckets
        end += 1
    return count


def costs(
    rng: random.Random, buckets: int, *, sigma: float = 0.8, median_usd: float = 0.01
) -> tuple[list[float], list[float]]:
    """Sums and sums of squares of 20 lognormal costs a bucket."""
    drawn = [[median_usd * math.exp(sigma * rng.gauss(0, 1)) for _ in range(PER_BUCKET)] for _ in range(buckets)]
    return [sum(one) for one in drawn], [sum(c * c for c in one) for one in drawn]


@pytest.mark.parametrize(
    ("rate", "sigma", "shock", "persistence", "most"),
    [(0.9, 0.8, 0.0, 0.0, 0.1), (0.97, 1.5, 0.0, 0.0, 0.1), (0.9, 0.8, 0.6, 0.0, 0.2), (0.9, 0.8, 0.6, 0.5, 0.4)],
)
def test_false_alarms_are_rare(rate: float, sigma: float, shock: float, persistence: float, most: float) -> None:
    """300 buckets of 20 runs without a change, looked at every hour: under .1 alarms; correlated hours cost some more."""
    histories, found = 16, 0
    for seed in range(histories):
        rng = random.Random(seed)  # noqa: S311
        cost, cost_sq = costs(rng, 300, sigma=sigma)
        found += alarms(successes(rng, 300, rate, shock=shock, persistence=persistence), cost, cost_sq)
    assert found / histories < most


def delay(seed: int, before: float, after: float) -> int:
    """Buckets after a change of the success rate until it is found, at most 60."""
    rng = random.Random(seed)  # noqa: S311
    found = successes(rng, 100, before)
    for waited in range(1, 61):
        found += successes(rng, 1, after)
        if find_drift([PER_BUCKET] * len(found), found) is not None:
            return waited
    return 60


def test_a_model_that_became_worse_is_found_in_three_buckets() -> None:
    """.9 to .5 at 20 runs a bucket: at most 3 buckets in the median; a recovery is a drift as well."""
    assert median(delay(seed, 0.9, 0.5) for seed in range(60)) <= 3
    assert median(delay(seed, 0.5, 0.9) for seed in range(60)) <= 3


def test_the_window_is_that_of_the_change() -> None:
    """Six bad buckets after a hundred good ones: the drift says six, with the rates before and after."""
    rng = random.Random(3)  # noqa: S311
    found = successes(rng, 100, 0.9) + [8] * 6
    drift = find_drift([PER_BUCKET] * 106, found)
    assert drift is not None
    assert (drift.buckets, drift.metric, drift.after) == (6, "success_rate", 0.4)
    assert drift.before == pytest.approx(sum(found[:100]) / 2000)
    assert drift.z < -Z


def test_a_cost_that_doubled_is_found_and_one_dear_run_is_not() -> None:
    """Cost per run twice as high for six buckets alarms; the same sum from a single run says nothing of the others."""
    rng = random.Random(4)  # noqa: S311
    cost, cost_sq = costs(rng, 106)
    n, fine = [PER_BUCKET] * 106, [18] * 106
    doubled = cost[:100] + [2 * c for c in cost[100:]]
    drift = find_drift(n, fine, doubled, cost_sq=cost_sq[:100] + [4 * q for q in cost_sq[100:]])
    assert drift is not None
    assert (drift.metric, drift.buckets) == ("cost_per_run", 6)
    assert drift.z > Z
    halved = find_drift(
        n, fine, cost[:100] + [c / 4 for c in cost[100:]], cost_sq=cost_sq[:100] + [q / 16 for q in cost_sq[100:]]
    )
    assert halved is not None
    assert halved.z < -Z
    once = 10 * cost[-1]
    assert find_drift(n, fine, [*cost[:-1], cost[-1] + once], cost_sq=[*cost_sq[:-1], cost_sq[-1] + once**2]) is None
    assert find_drift(n, fine, doubled) is None


def test_runs_without_a_known_cost_do_not_make_a_candidate_cheap() -> None:
    """The cost per run is over the runs whose cost is known."""
    rng = random.Random(5)  # noqa: S311
    cost, cost_sq = costs(rng, 84, sigma=0.1)
    few = [c / 4 if i >= 60 else c for i, c in enumerate(cost)]
    few_sq = [q / 4 if i >= 60 else q for i, q in enumerate(cost_sq)]
    priced = [PER_BUCKET / 4 if i >= 60 else PER_BUCKET for i in range(84)]
    n, fine = [PER_BUCKET] * 84, [18] * 84
    assert find_drift(n, fine, few, cost_sq=few_sq, priced=priced) is None
    assert find_drift(n, fine, few, cost_sq=few_sq) is not None


def test_hours_that_vary_anyway_are_no_drift() -> None:
    """Two bad hours among hours of which every fifth is bad say nothing; among steady ones they do."""
    n = [200] * 62
    assert find_drift(n, ([180, 180, 180, 180, 100] * 12) + [100] * 2) is None
    steady = find_drift(n, [180] * 60 + [100] * 2)
    assert steady is not None
    assert steady.buckets == 2


def test_one_bad_hour_is_no_drift_however_bad() -> None:
    """What an hour says alone may be an outage; the next hour, bad as well, makes it a drift."""
    n = [200] * 70
    assert find_drift(n[:61], [180] * 60 + [20]) is None
    assert find_drift(n[:63], [180] * 60 + [180, 20, 180]) is None
    assert find_drift(n[:62], [180] * 60 + [20, 60]) is not None
    dear, squares = [2.0] * 60 + [60.0], [0.03] * 60 + [27.0]
    assert find_drift(n[:61], [180] * 61, dear, cost_sq=squares) is None
    twice = find_drift(n[:62], [180] * 62, [*dear, 40.0], cost_sq=[*squares, 12.0])
    assert twice is not None
    assert twice.metric == "cost_per_run"


def test_larger_recent_buckets_have_the_design_effect_of_their_size() -> None:
    """Where small hours vary together, large ones of the same kind are two hours and no proof."""
    rng = random.Random(6)  # noqa: S311
    hours = [9 if rng.random() < 0.8 else 5 for _ in range(60)]
    assert find_drift([10] * 60 + [400] * 2, [*hours, 230, 230]) is None
    assert find_drift([10] * 60 + [400] * 2, [8] * 60 + [230] * 2) is not None


@pytest.mark.parametrize(
    ("n", "found"),
    [
        ([], []),
        ([PER_BUCKET] * EARLIER, [20] * (EARLIER - 1) + [0]),
        ([(RECENT_RUNS - 1) // 6] * 16, [(RECENT_RUNS - 1) // 6] * 10 + [0] * 6),
        ([0] * 30 + [100], [0] * 30 + [0]),
        ([2000] * 60, [1800] * 36 + [int(2000 * (0.9 - CHANGE * 0.98))] * 24),
    ],
)
def test_too_little_is_no_drift(n: list[int], found: list[int]) -> None:
    """Fewer than 10 earlier buckets, fewer than 20 recent runs, nothing earlier, or a change of less than 5 points."""
    assert find_drift(n, found) is None


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1), st.floats(0, 5), st.floats(1, 9)), max_size=60))
@settings(max_examples=80)
def test_what_is_found_is_what_the_buckets_say(rows: list[tuple[int, float, float, float]]) -> None:
    """Any history gives either nothing or a window whose means are those of its buckets; it never raises."""
    n = [row[0] for row in rows]
    found = [int(row[0] * row[1]) for row in rows]
    cost = [row[0] * row[2] for row in rows]
    squares = [row[0] * row[2] ** 2 * row[3] for row in rows]
    drift = find_drift(n, found, cost, cost_sq=squares)
    if drift is None:
        return
    totals = found if drift.metric == "success_rate" else cost
    window = drift.buckets
    assert isinstance(drift, Drift)
    assert window in WINDOWS
    assert drift.before == pytest.approx(sum(totals[:-window]) / sum(n[:-window]))
    assert drift.after == pytest.approx(sum(totals[-window:]) / sum(n[-window:]))
    assert (drift.z > Z) == (drift.after > drift.before)
    assert abs(drift.z) > Z

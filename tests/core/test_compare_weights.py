"""Comparisons while the split between the arms moves: time must not pass for a difference between the models."""

from __future__ import annotations

import random

import pytest

from core.synthetic import TASK, after, policy, row, runs
from tierwise.core.columns import TaskEvidence
from tierwise.core.compare import common_weights, compare
from tierwise.core.pool import RUNS, SUCCESSES, Pool
from tierwise.core.selection import select


def _arms(split: list[tuple[int, int]], rates: list[tuple[float, float]], seed: int) -> tuple[Pool, Pool]:
    """Pools of two arms: (runs of the old, runs of the new) and their rates, hour by hour."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    rows = []
    for hour, ((old, new), (p_old, p_new)) in enumerate(zip(split, rates, strict=True)):
        for name, n, p in (("old", old, p_old), ("new", new, p_new)):
            rows.append(row(name, runs(n, sum(rng.random() < p for _ in range(n))), hour=hour))
    found = select(TaskEvidence.of(rows, TASK), now=after(len(split)))
    return found.pool("old", "randomised"), found.pool("new", "randomised")


def test_hours_that_got_harder_are_no_fault_of_the_arm_that_met_them() -> None:
    """Two equal models, work that gets harder, and a split that moves to one of them: no difference is seen."""
    split = [(19, 2)] * 40 + [(2, 19)] * 40
    rates = [(0.95, 0.95)] * 40 + [(0.6, 0.6)] * 40
    wrong = crude = 0
    for seed in range(60):
        old, new = _arms(split, rates, seed)
        found = compare(old, new, policy("old", "new"), alpha=0.05, concurrent=True)
        wrong += not found.difference_low <= 0 <= found.difference_high
        crude += new.total(SUCCESSES) / new.total(RUNS) < old.total(SUCCESSES) / old.total(RUNS) - 0.2
    assert crude == 60  # the totals say that the new one is far worse, each time
    assert wrong <= 3


def test_a_real_difference_is_still_seen_while_the_split_moves() -> None:
    """Ten hours of an even split and many of a lopsided one show a clear difference."""
    split = [(10, 10)] * 10 + [(2, 18)] * 60
    old, new = _arms(split, [(0.6, 0.95)] * 70, seed=1)
    found = compare(old, new, policy("old", "new"), alpha=0.05, concurrent=True)
    assert found.difference_low > 0
    assert (found.n_incumbent, found.n_challenger) == (220, 1180)


def test_even_weights_change_nothing() -> None:
    """Where the split never moved, weighting gives the same rates and numbers of runs."""
    old, new = _arms([(12, 4)] * 20, [(0.8, 0.7)] * 20, seed=2)
    for plain, weighted in zip((old, new), common_weights(old, new), strict=True):
        assert weighted.total(RUNS) == pytest.approx(plain.total(RUNS))
        assert weighted.total(SUCCESSES) == pytest.approx(plain.total(SUCCESSES))

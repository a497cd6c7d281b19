"""A primary that breaks its guardrail: whoever could replace it gets enough traffic to be measured, and takes over."""

from __future__ import annotations

import random

import pytest

from core.synthetic import after, policy, row, runs
from tierwise.core.decide import decide
from tierwise.core.evidence import EvidenceRow
from tierwise.core.policy import GuardrailMetric
from tierwise.core.route import Route
from tierwise.core.traffic import ArmSums, Explore, split

RUNS_AN_HOUR = 20
ARMS = {"cheap": (0.5, 0.001), "good": (0.97, 0.01)}
"""Success rate and USD a run: by cost per success the cheap one wins, by the limit it must not."""
LIMIT = (GuardrailMetric(metric="success_rate", op=">=", limit=0.8),)


@pytest.mark.parametrize("explore", ["adaptive", 0.2])
def test_a_cheap_primary_below_its_limit_is_replaced(explore: Explore) -> None:
    """Though nobody can gain on its cost per success, the label moves to the one that holds the limit, and stays."""
    wanted = policy("cheap", "good", guardrails=LIMIT, explore=explore, apply="auto")
    rng = random.Random(3)  # noqa: S311
    route: Route | None = None
    rows: list[EvidenceRow] = []
    traffic, primaries = {"cheap": 1.0}, []
    for hour in range(72):
        for name, share in traffic.items():
            n = sum(rng.random() < share for _ in range(RUNS_AN_HOUR))
            rate, cost = ARMS[name]
            won = sum(rng.random() < rate for _ in range(n))
            if n:
                rows.append(row(name, runs(n, won, cost=cost), hour=hour, arm="explore", grade="randomised"))
        found = decide(rows, wanted, route, after(hour + 1))
        route = found.after or route
        traffic = dict(found.traffic) or traffic
        primaries.append("cheap" if route is None else route.primary)
    assert primaries[-1] == "good"
    assert primaries.index("good") < 48
    assert "cheap" not in primaries[primaries.index("good") :]


def test_a_broken_primary_counts_for_half_at_most() -> None:
    """However surely it has the least loss."""
    known = (
        ArmSums(
            candidate="cheap",
            n=400,
            successes=200,
            priced=400,
            priced_successes=200,
            cost_sum=0.4,
            cost_sq_sum=0.0005,
            cost_success_sum=0.2,
        ),
        ArmSums(
            candidate="dear",
            n=40,
            successes=39,
            priced=40,
            priced_successes=39,
            cost_sum=4.0,
            cost_sq_sum=0.41,
            cost_success_sum=3.9,
        ),
    )
    whole = split(known, primary="cheap", explore="adaptive", value=0.001)
    half = split(known, primary="cheap", explore="adaptive", value=0.001, broken=True)
    assert whole["cheap"] > 0.99
    assert half == pytest.approx({"cheap": 0.5, "dear": 0.5})
    assert split(known[:1], primary="cheap", explore="adaptive", value=0.001, broken=True) == {"cheap": 1.0}

"""Shadow pairs in decisions: fewer runs, no confounding, and nothing where they say nothing."""

from __future__ import annotations

import random
from dataclasses import replace

from core.synthetic import TASK, after, policy, row, runs
from tierwise.core.decide import decide
from tierwise.core.evidence import Evidence, EvidenceRow
from tierwise.core.pairs import PairSums, of_pair
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Route

ROUTE = Route(task=TASK, primary="dear")
NOW = after(200)


def values(sums: PairSums) -> tuple[float, ...]:
    """The sums as evidence holds them."""
    return tuple(getattr(sums, name) for name in PairSums.__dataclass_fields__)


def shadowed(hours: int, per_hour: int, *, cheap: float = 0.9, first: int = 0) -> list[EvidenceRow]:
    """Hours in which every prompt went to both: outcomes go together, costs differ threefold."""
    rng, rows = random.Random(4), []  # noqa: S311 - repeatable, not secret
    for hour in range(first, first + hours):
        total, good_i, good_c = PairSums(), 0, 0
        for _ in range(per_hour):
            hard = rng.random()
            one, two = hard < 0.9, hard < cheap
            good_i, good_c = good_i + one, good_c + two
            costs = {
                "incumbent_cost_usd": 0.003 * (0.5 + rng.random()),
                "challenger_cost_usd": 0.001 * (0.5 + rng.random()),
            }
            total += of_pair(incumbent_success=one, challenger_success=two, **costs)
        rows.append(row("dear", runs(per_hour, good_i, cost=0.003), hour=hour, arm="pinned", grade="observational"))
        shadow = replace(runs(per_hour, good_c, cost=0.001), pairs={"dear": values(total)})
        rows.append(row("cheap", shadow, hour=hour, arm="shadow"))
    return rows


def codes(found: Recommendation) -> set[str]:
    """The codes of its reasons."""
    return {reason.code for reason in found.reasons}


def test_pairs_decide_where_nobody_ever_chose_the_challenger() -> None:
    """A challenger that only answered in the shadow wins, by pairs, and that is no observational matter."""
    found = decide(shadowed(20, 10), policy("dear", "cheap"), ROUTE, NOW)
    assert found.verdict == "PROMOTE"
    assert found.primary == "cheap"
    assert "observational" not in codes(found)
    assert any("200 shadow pairs" in reason.text for reason in found.reasons)


def test_automatic_changes_may_rest_on_pairs() -> None:
    """`auto` never acts on runs that were chosen, but pairs are like for like."""
    found = decide(shadowed(30, 10), policy("dear", "cheap", apply="auto", confidence=0.99), ROUTE, NOW)
    assert found.action == "trial"
    blind = [replace(one, evidence=replace(one.evidence, pairs={})) for one in shadowed(30, 10)]
    assert decide(blind, policy("dear", "cheap", apply="auto", confidence=0.99), ROUTE, NOW).action in (
        "none",
        "traffic",
    )


def test_pairs_that_show_worse_success_bar_the_challenger() -> None:
    """Three times cheaper, ten points worse: not within the margin."""
    found = decide(shadowed(40, 10, cheap=0.75), policy("dear", "cheap"), ROUTE, NOW)
    assert found.verdict == "KEEP"
    assert "success_worse" in codes(found)


def test_few_pairs_decide_nothing() -> None:
    """Below the minimum the verdict says what is missing."""
    found = decide(shadowed(4, 2), policy("dear", "cheap"), ROUTE, NOW)
    assert found.verdict == "INSUFFICIENT"


def test_pairs_with_what_the_incumbent_was_before_do_not_count() -> None:
    """A new epoch of the incumbent starts its pairs anew."""
    old = [
        replace(one, key=replace(one.key, epoch="e0")) if one.key.candidate == "dear" else one
        for one in shadowed(20, 10)
    ]
    now = [
        row("dear", runs(5, 5, cost=0.003), hour=hour, arm="pinned", grade="observational") for hour in range(50, 55)
    ]
    found = decide([*old, *now], policy("dear", "cheap"), ROUTE, NOW)
    assert not any("shadow pair" in reason.text for reason in found.reasons)


def test_pairs_merge_like_everything_else() -> None:
    """Sums of pairs add up by partner."""
    one = Evidence(pairs={"a": (1.0,) * 17})
    both = one + Evidence(pairs={"a": (2.0,) * 17, "b": (1.0,) * 17})
    assert both.pairs == {"a": (3.0,) * 17, "b": (1.0,) * 17}

"""Ladders: rungs by success per USD on escalated traffic, what stands in for it by name, and what a rung is worth."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.synthetic import misses
from tierwise.core.rungs import HARDNESS, order_rungs, worth_its_cost
from tierwise.core.traffic import ArmSums

V = 0.02


def attempts(name: str, n: float, successes: float, cost: float, *, priced: bool = True) -> ArmSums:
    """Attempts at one mean cost, with a coefficient of variation of .5 that is independent of success."""
    known = n if priced else 0.0
    return ArmSums(
        candidate=name,
        n=n,
        successes=successes,
        priced=known,
        priced_successes=successes if priced else 0.0,
        cost_sum=known * cost,
        cost_sq_sum=known * cost * cost * 1.25,
        cost_success_sum=successes * cost if priced else 0.0,
    )


def by_name(*sums: ArmSums) -> dict[str, ArmSums]:
    """Sums by their candidate."""
    return {one.candidate: one for one in sums}


def test_escalated_traffic_orders_the_rungs_not_first_attempts() -> None:
    """A model at .905 on all prompts and .447 on those that another had failed stands behind one that helps there."""
    first = by_name(attempts("sonnet", 2000, 1810, 0.004), attempts("opus", 2000, 1820, 0.006))
    assert [one.candidate for one in order_rungs({}, first, ["opus", "sonnet"])] == ["sonnet", "opus"]
    escalated = by_name(attempts("sonnet", 215, 96, 0.004), attempts("opus", 200, 170, 0.006))
    found = order_rungs(escalated, first, ["opus", "sonnet"])
    assert [(one.candidate, one.basis) for one in found] == [("opus", "escalated"), ("sonnet", "escalated")]
    assert found[1].rate == pytest.approx(96 / 215, abs=0.01)
    assert "96 of 215 runs" in found[1].reason
    assert "assumed" not in found[0].reason


def test_first_attempts_stand_in_only_by_name_and_made_harder() -> None:
    """Without escalated attempts the basis is `assumed`, the rate lower than on first attempts, the reason says so."""
    first = by_name(attempts("a", 998, 899, 0.004))
    (found,) = order_rungs({}, first, ["a"])
    assert (found.basis, found.n) == ("assumed", 0)
    assert found.rate == pytest.approx(0.9 * HARDNESS)
    assert "assumed from first attempts: 90 % of them succeeded" in found.reason
    assert "an assumption as well" in found.reason


def test_how_much_harder_is_learned_from_those_with_both() -> None:
    """Where escalated attempts succeed nearly as often as first ones, so is it assumed of the others."""
    first = by_name(attempts("a", 998, 899, 0.004), attempts("b", 998, 899, 0.004))
    easy, hard = (
        order_rungs(by_name(attempts("a", 1000, s, 0.004)), first, ["a", "b"])[-1 if s > 500 else 0] for s in (890, 200)
    )
    assert (easy.candidate, hard.candidate) == ("b", "b")
    assert easy.rate == pytest.approx(0.89, abs=0.01)
    assert hard.rate == pytest.approx(0.2, abs=0.01)
    assert "measured over 1,000 runs" in hard.reason


def test_few_escalated_attempts_are_shrunk() -> None:
    """Three lucky attempts at a fifth more do not put a rung before one that is known; sixty do."""
    first = by_name(attempts("lucky", 500, 450, 0.0048), attempts("known", 500, 450, 0.004))
    known = attempts("known", 300, 225, 0.004)
    few = order_rungs(by_name(known, attempts("lucky", 3, 3, 0.0048)), first, ["lucky", "known"])
    assert [(one.candidate, one.basis) for one in few] == [("known", "escalated"), ("lucky", "mixed")]
    many = order_rungs(by_name(known, attempts("lucky", 60, 60, 0.0048)), first, ["lucky", "known"])
    assert [one.candidate for one in many] == ["lucky", "known"]


def test_what_nobody_knows_comes_last_in_the_order_given() -> None:
    """Candidates without attempts, or without any cost, are never best; what is free and succeeds comes first."""
    escalated = by_name(
        attempts("dear", 50, 1, 1.0), attempts("unpriced", 50, 50, 0.0, priced=False), attempts("free", 50, 5, 0.0)
    )
    found = order_rungs(escalated, {}, ["new", "unpriced", "dear", "free", "other"])
    assert [one.candidate for one in found] == ["free", "dear", "new", "unpriced", "other"]
    assert [one.basis for one in found[2:]] == ["unknown"] * 3
    assert found[0].successes_per_usd == math.inf
    assert found[2].successes_per_usd == 0
    assert "what it costs" in found[3].reason


def test_a_cost_that_only_first_attempts_show_is_named() -> None:
    """Escalated attempts without a price borrow that of first attempts, and the reason says so."""
    (found,) = order_rungs(
        by_name(attempts("a", 50, 20, 0.0, priced=False)), by_name(attempts("a", 50, 45, 0.004)), ["a"]
    )
    assert found.basis == "mixed"
    assert found.cost_usd == pytest.approx(0.004)
    assert "the cost of first attempts" in found.reason


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(0, 300), st.floats(0, 1), st.floats(0, 0.1)), max_size=6
    ),
    st.permutations("abcdef"),
)
def test_every_candidate_is_a_rung_once_in_an_order_that_does_not_depend_on_the_evidence_order(
    rows: dict[str, tuple[int, float, float]], order: list[str]
) -> None:
    """All candidates, known ones first by success per USD; the evidence may come in any order."""
    sums = {name: attempts(name, n, n * rate, cost) for name, (n, rate, cost) in rows.items()}
    found = order_rungs(sums, {}, order)
    assert sorted(one.candidate for one in found) == sorted(order)
    known = [one.successes_per_usd for one in found if one.basis != "unknown"]
    assert known == sorted(known, reverse=True)
    assert [one.basis == "unknown" for one in found] == sorted(one.basis == "unknown" for one in found)
    assert found == order_rungs(dict(reversed(sums.items())), {}, order)


def test_a_rung_is_worth_what_it_earns_beyond_its_cost() -> None:
    """V times success against cost, with bounds around the net and the numbers in the reason."""
    worth = worth_its_cost(attempts("sonnet", 215, 96, 0.004), V)
    assert worth.verdict == "worth"
    assert worth.point == pytest.approx(V * 96 / 215 - 0.004)
    assert 0 < worth.low < V * 96 / 215 - 0.004 < worth.high
    assert "96 of 215 runs succeeded" in worth.reason
    assert worth.reason.endswith("worth its cost.")
    lost = worth_its_cost(attempts("opus", 400, 40, 0.01), V)
    assert lost.verdict == "not_worth"
    assert lost.high < 0
    assert lost.reason.endswith("not worth its cost.")


def test_what_is_not_decided_says_how_many_attempts_would_tell() -> None:
    """Near the border the verdict is unknown; with the attempts it asks for and the same figures it is not."""
    few = worth_its_cost(attempts("a", 40, 12, 0.004), V)
    assert few.verdict == "unknown"
    assert few.runs_needed is not None
    n = 40 + few.runs_needed
    assert worth_its_cost(attempts("a", n, 0.3 * n, 0.004), V).verdict == "worth"
    assert worth_its_cost(attempts("a", n / 2, 0.3 * n / 2, 0.004), V).verdict == "unknown"
    even = worth_its_cost(attempts("a", 40, 8, 0.004), V)
    assert (even.verdict, even.runs_needed) == ("unknown", None)


def test_few_attempts_decide_only_when_it_is_clear() -> None:
    """Below 30 attempts the exact rate sequence speaks, with a factor of two for the cost."""
    assert worth_its_cost(attempts("a", 12, 11, 0.0001), V).verdict == "worth"
    assert worth_its_cost(attempts("a", 20, 0, 0.02), V).verdict == "not_worth"
    assert worth_its_cost(attempts("a", 12, 11, 0.008), V).verdict == "unknown"
    assert worth_its_cost(attempts("a", 12, 11, 0.008), V).low == -math.inf


def test_correlated_hours_widen_the_bounds() -> None:
    """An effective share of a quarter doubles what the bounds leave open."""
    plain, shared = (worth_its_cost(attempts("a", 400, 200, 0.004), V, effective=share) for share in (1.0, 0.25))
    assert shared.high - shared.low == pytest.approx(2 * (plain.high - plain.low))


def test_nothing_known_and_nonsense_are_told_apart() -> None:
    """No attempts: unknown with a reason; a negative value of a success is refused."""
    nothing = worth_its_cost(attempts("a", 10, 5, 0.0, priced=False), V)
    assert (nothing.verdict, nothing.point, nothing.n) == ("unknown", None, 0)
    with pytest.raises(ValueError, match="must not be negative"):
        worth_its_cost(attempts("a", 10, 5, 0.004), -1.0)


def test_the_net_is_covered_at_every_look() -> None:
    """The true net worth leaves its bounds in at most 5 % of histories, looked at after every 10 attempts."""
    rate, cost = 0.4, 0.008
    net = V * rate - cost

    def wrong(seed: int) -> bool:
        rng = random.Random(seed)  # noqa: S311
        n = s = 0
        c = c_sq = c_s = 0.0
        for _ in range(60):
            for _ in range(10):
                success = rng.random() < rate
                price = rng.lognormvariate(math.log(cost) - 0.32, 0.8)
                n, s, c, c_sq, c_s = n + 1, s + success, c + price, c_sq + price * price, c_s + price * success
            sums = ArmSums(
                candidate="a", n=n, successes=s, priced=n, priced_successes=s, cost_sum=c, cost_sq_sum=c_sq, cost_success_sum=c_s
            )  # fmt: skip
            found = worth_its_cost(sums, V)
            if not found.low <= net <= found.high or found.verdict != "unknown":
                return True
        return False

    assert misses(wrong, 50) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 50)

"""The rows of a decision as a whole: order, validity and hash, each against its plain definition."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.synthetic import after, histogram, hours, policy, rounds, row, runs
from tierwise.core.columns import TaskEvidence, is_valid
from tierwise.core.decide import decide
from tierwise.core.evidence import Evidence, EvidenceRow
from tierwise.core.inputs import hash_inputs
from tierwise.core.route import Route
from tierwise.core.selection import select

ROUTE = Route(task="summary", primary="dear")
NOW = after(100)
COUNTS = st.one_of(st.integers(-1, 4), st.just(300), st.just(1 << 70))
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-31, 1e16, float("nan"), float("inf")]), st.floats(0, 1))
MAPS = st.dictionaries(st.sampled_from(["success", "error", "b"]), COUNTS, max_size=3)
HISTOGRAMS = st.sampled_from(
    [(), histogram([1.0, 2.0]), (1, 2), (300, *histogram([1.0])[1:]), (-1, *histogram([1.0])[1:])]
)
ANY = st.builds(
    Evidence,
    n=COUNTS, successes=COUNTS, priced=COUNTS, priced_successes=COUNTS, cost_sum=FLOATS, cost_sq_sum=FLOATS,
    cost_success_sum=FLOATS, outcomes=MAPS, json_forms=MAPS, tokens=MAPS, latency=HISTOGRAMS, ttft=HISTOGRAMS,
    latency_sum_s=FLOATS, check_score_sum=FLOATS, rejected=COUNTS, retried=COUNTS,
)  # fmt: skip
ALMOST = st.tuples(
    st.sampled_from(["n", "successes", "priced", "cost_sum", "latency", "outcomes", "rejected"]), ANY
).map(lambda pair: replace(runs(4, 3), **{pair[0]: getattr(pair[1], pair[0])}))


def digest(rows: list[EvidenceRow]) -> str:
    """The hash of a decision over these rows."""
    return hash_inputs(TaskEvidence.of(rows, "summary"), policy("dear", "cheap"), ROUTE, NOW)


@given(st.lists(st.one_of(ANY, ALMOST), max_size=4))
def test_only_rows_that_can_be_believed_are_summed(evidence: list[Evidence]) -> None:
    """Whatever a store holds, what is summed is finite and not negative, and the rest is counted."""
    found = TaskEvidence.of([row("dear", one, hour=hour) for hour, one in enumerate(evidence)], "summary")
    assert found.invalid == sum(not is_valid(one) for one in evidence)
    for series in found.series.values():
        for name in ("n", "priced", "cost_sum", "latency_sum_s", "outcomes.success", "latency.3"):
            assert all(isfinite(value) and value >= 0 for value in series.column(name))


def test_a_row_of_feedback_alone_can_be_believed() -> None:
    """Feedback may take back successes of another bucket; counts may be large, costs unknown."""
    taken_back = Evidence(rejected=2, successes=-2, priced_successes=-2, cost_success_sum=-0.1)
    assert all(map(is_valid, [runs(10, 9), runs(1000, 900), Evidence(), taken_back, runs(3, 0, cost=None)]))


@given(st.lists(st.tuples(st.sampled_from(["dear", "cheap"]), st.integers(0, 3), ANY), max_size=6))
def test_columns_hold_the_sums_of_the_rows(parts: list[tuple[str, int, Evidence]]) -> None:
    """Every column adds up to the sum over the believed rows, and each slot appears once."""
    rows = [row(name, evidence, hour=hour) for name, hour, evidence in parts if is_valid(evidence)]
    found = TaskEvidence.of(rows, "summary")
    for name in ("n", "successes", "retried"):
        assert sum(sum(series.column(name)) for series in found.series.values()) == sum(
            getattr(one.evidence, name) for one in rows
        )
    assert sum(sum(series.column("outcomes.b")) for series in found.series.values()) == sum(
        one.evidence.outcomes.get("b", 0) for one in rows
    )
    for series in found.series.values():
        assert series.slots == sorted(set(series.slots))


def test_appending_is_the_same_as_making_all_at_once() -> None:
    """A history that grew bucket by bucket gives the same bytes as one read as a whole."""
    rows = [*hours("dear", runs(9, 8), 12), *hours("cheap", runs(5, 5), 12)]
    grown = TaskEvidence("summary")
    for one in sorted(rows, key=lambda one: one.key.bucket):
        grown.append(one.key, one.evidence)
    chosen = policy("dear", "cheap")
    assert decide(grown, chosen, ROUTE, NOW).canonical_bytes() == decide(rows, chosen, ROUTE, NOW).canonical_bytes()
    with pytest.raises(ValueError, match="order of time"):
        grown.append(rows[0].key, rows[0].evidence)


@pytest.mark.parametrize("field", ["latency", "ttft"])
def test_a_histogram_with_other_edges_is_left_out(field: str) -> None:
    """Rows written with other edges are no reason to fail: they are left out, and it is said."""
    strange = replace(runs(5, 5), **{field: (1, 2, 3)})
    found = decide([*hours("dear", runs(5, 5), 12), row("dear", strange, hour=20)], policy("dear"), ROUTE, NOW)
    assert found.candidates[0].n == 60
    assert "invalid_evidence" in {reason.code for reason in found.reasons}


@given(st.lists(st.tuples(st.sampled_from(["dear", "cheap"]), st.integers(0, 2), ANY), max_size=5), st.randoms())
def test_the_hash_does_not_depend_on_the_order_of_rows(parts: list[tuple[str, int, Evidence]], rng: object) -> None:
    """Not even where several rows have one key."""
    rows = [row(name, evidence, hour=hour) for name, hour, evidence in parts]
    mixed = list(rows)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert digest(mixed) == digest(rows)


def test_the_hash_depends_on_every_field() -> None:
    """Each sum, count, name and place gives another hash; the order of a mapping does not."""
    one = replace(runs(4, 3, forms={"plain": 3}), ttft=histogram([0.5]), check_score_sum=0.5)
    changes: dict[str, object] = {
        "n": 5, "successes": 2, "priced": 3, "priced_successes": 2, "cost_sum": 0.5, "cost_sq_sum": 0.5,
        "cost_success_sum": 0.5, "outcomes": {"success": 3, "error": 1}, "json_forms": {"fenced": 3}, "retries": 1,
        "pairs": {"m": (1.0,) * 17},
        "retried": 1, "escalated": 1, "tokens": {"input": 400}, "latency": histogram([3.0]), "latency_sum_s": 0.5,
        "ttft": histogram([300.0]), "check_score_sum": 0.25, "check_count": 1, "accepted": 1, "rejected": 1,
    }  # fmt: skip
    assert set(changes) == set(Evidence.__dataclass_fields__)
    rows = [row("dear", replace(one, **{name: value})) for name, value in changes.items()]  # type: ignore[arg-type]
    rows += [row("dear", one, **place) for place in PLACES]  # type: ignore[arg-type]
    assert len({digest([one]) for one in rows} | {digest([]), digest([row("dear", one)])}) == len(rows) + 2
    turned = replace(one, outcomes=dict(reversed(one.outcomes.items())))
    assert digest([row("dear", turned)]) == digest([row("dear", one)])


PLACES: list[dict[str, object]] = [
    {"hour": 1}, {"task": "t"}, {"epoch": "e2"}, {"arm": "shadow"}, {"rung": 1}, {"grade": "observational"},
    {"session": "s"}, {"round_number": 1},
]  # fmt: skip


def test_buckets_of_a_pool_are_in_order_whatever_the_order_of_rows() -> None:
    """Bench rounds by session and number, then the hours: variance over neighbouring buckets depends on it."""
    rows = [
        *hours("a", runs(1, 1), 3),
        *rounds("a", runs(1, 1), 3, session="s2"),
        *rounds("a", runs(1, 1), 12, session="s1"),
        row("a", runs(1, 1), session="s1", round_number=2, hour=7),
    ]
    for given_rows in (rows, rows[::-1]):
        slots = select(TaskEvidence.of(given_rows, "summary"), now=NOW).pool("a", "randomised").slots
        assert list(slots) == sorted(slots)
        assert len(set(slots)) == len(slots) == len(rows) - 1  # the last row belongs to a round that is there already

"""Geometry of the report's pictures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core.outcome import OUTCOMES
from tierwise.surfaces.report.svg import Point, pareto, scatter, segments, strip

POINTS = st.lists(
    st.builds(
        lambda cost, rate, spread, number: Point(
            name=f"model-{number}",
            cost=cost,
            cost_low=cost * (1 - spread),
            cost_high=math.inf if spread > 0.9 else cost * (1 + spread),
            rate=rate,
            rate_low=rate * (1 - spread),
            rate_high=min(1.0, rate * (1 + spread)),
            series=number,
        ),
        cost=st.floats(1e-9, 1e4),
        rate=st.floats(0, 1),
        spread=st.floats(0, 1),
        number=st.integers(0, 20),
    ),
    min_size=1,
    max_size=8,
)


@given(st.dictionaries(st.sampled_from([*OUTCOMES, "something new"]), st.integers(0, 10**6), min_size=1))
def test_outcome_bar_is_full_and_has_no_gaps(outcomes: dict[str, int]) -> None:
    """The parts of a bar follow each other without gap, success first, and fill it; nothing counted is left out."""
    parts = segments(outcomes)
    assert sum(part.count for part in parts) == sum(outcomes.values())
    before = 0.0
    for part in parts:
        assert part.start == pytest.approx(before, abs=0.01)
        before = part.start + part.width
    assert not parts or before == pytest.approx(100, abs=0.01)
    if outcomes.get("success"):
        assert parts[0].outcome == "success"


@given(POINTS)
def test_scatter_keeps_every_mark_inside(points: list[Point]) -> None:
    """Marks and their interval bars stay inside the plot whatever the costs; cheaper is never further right."""
    picture = scatter(points)
    assert picture is not None
    assert len(picture.marks) == len(points)
    for mark in picture.marks:
        assert picture.left <= mark.left <= mark.x + 0.01 <= mark.right + 0.02 <= picture.right + 0.04
        assert picture.top - 0.01 <= mark.top <= mark.y + 0.01 <= mark.bottom + 0.02 <= picture.bottom + 0.04
    values = [tick.value for tick in picture.x_ticks]
    assert values == sorted(values)
    assert 2 <= len(values) <= 12


@given(POINTS)
def test_pareto_front_is_what_nobody_beats(points: list[Point]) -> None:
    """A point is on the front when none is cheaper and at least as good, or as cheap and better."""
    front = pareto(points)
    for point in points:
        beaten = any(
            other.cost <= point.cost
            and other.rate >= point.rate
            and (other.cost, other.rate) != (point.cost, point.rate)
            for other in points
        )
        assert any((point.cost, point.rate) == (kept.cost, kept.rate) for kept in front) is not beaten


def test_scatter_without_a_finite_cost_is_no_picture() -> None:
    """Candidates that never succeeded have no place in a cost picture."""
    endless = Point(
        name="m", cost=math.inf, cost_low=0, cost_high=math.inf, rate=0, rate_low=0, rate_high=0.1, series=0
    )
    assert scatter([endless]) is None
    assert scatter([]) is None


def test_labels_of_near_candidates_do_not_cover_each_other() -> None:
    """Three candidates with the same success get three labels at different places."""
    points = [
        Point(
            name=f"a-long-model-name-{n}",
            cost=0.01 + n / 10000,
            cost_low=0.009,
            cost_high=0.012,
            rate=1.0,
            rate_low=0.8,
            rate_high=1.0,
            series=n,
        )
        for n in range(3)
    ]
    picture = scatter(points)
    assert picture is not None
    places = [(mark.label_x, mark.label_y) for mark in picture.marks]
    assert all(abs(a[1] - b[1]) >= 14 or abs(a[0] - b[0]) > 100 for i, a in enumerate(places) for b in places[:i])


def test_strip_is_clipped_to_its_scale() -> None:
    """An interval that leaves the scale ends at its edge; without a scale there is nothing to draw."""
    drawn = strip(-1.0, 5.0, 0.5, end=1.0)
    assert drawn is not None
    assert (drawn.low, drawn.high, drawn.mark) == (0, 100, 50)
    assert strip(0.0, 1.0, 0.5, end=0.0) is None

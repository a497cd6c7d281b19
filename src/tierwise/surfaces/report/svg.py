"""Geometry of the report's small pictures: interval strips, outcome bars and the cost-quality scatter (no markup)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tierwise.core.outcome import OUTCOMES

SHAPES: Final = ("circle", "square", "diamond", "triangle", "ring", "cross")
OUTCOME_ORDER: Final = tuple(reversed(OUTCOMES))
"""Success first, then what is nearest to it."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """An interval with its estimate on a common scale, in percent of the width."""

    low: float
    high: float
    mark: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One outcome's part of a bar, in percent of the width."""

    outcome: str
    count: int
    start: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate before it is placed: cost per success in USD, success rate in [0, 1], both with intervals."""

    name: str
    cost: float
    cost_low: float
    cost_high: float
    rate: float
    rate_low: float
    rate_high: float
    series: int
    recommended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A candidate as drawn, in the picture's units; `open_right` when its cost interval leaves the picture."""

    name: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    open_right: bool
    label_x: float
    label_y: float
    anchor: str
    series: int
    shape: str
    recommended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """An axis tick: place in the picture's units and value on the axis."""

    at: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """The whole picture: size, plot area, marks, ticks and the corner points of the Pareto front."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    front: tuple[tuple[float, float], ...]


def strip(low: float, high: float, mark: float, *, end: float) -> Strip | None:
    """An interval on the scale from 0 to `end`, clipped to it; `None` when there is nothing to draw."""
    if not (end > 0 and math.isfinite(end)) or math.isnan(low) or math.isnan(high):
        return None
    first, last, middle = (100 * min(1.0, max(0.0, value / end)) for value in (low, high, mark))
    return Strip(low=round(first, 2), high=round(max(last, first), 2), mark=round(middle, 2))


def segments(outcomes: Mapping[str, int]) -> tuple[Segment, ...]:
    """The parts of an outcome bar, success first; unknown outcomes come last, empty ones are left out."""
    total = sum(outcomes.values())
    order = [name for name in OUTCOME_ORDER if outcomes.get(name)]
    order += sorted(name for name in outcomes if name not in OUTCOME_ORDER and outcomes[name])
    parts = []
    before = 0
    for name in order:
        start, width = 100 * before / total, 100 * outcomes[name] / total
        parts.append(Segment(outcome=name, count=outcomes[name], start=round(start, 3), width=round(width, 3)))
        before += outcomes[name]
    return tuple(parts)


def scatter(points: Sequence[Point], *, width: float = 460, height: float = 300) -> Scatter | None:
    """Place candidates: cost to the right from 0, success upwards; `None` without a point of finite cost."""
    points = [point for point in points if math.isfinite(point.cost) and point.cost > 0]
    if not points:
        return None
    left, right, top, bottom = 52.0, width - 30, 46.0, height - 44
    # A candidate with hardly a success has an endless interval: it must not squeeze the others together.
    reach = max(
        min(point.cost_high if math.isfinite(point.cost_high) else 0.0, 2.5 * max(p.cost for p in points))
        for point in points
    )
    x_ticks = _nice(0.0, max(reach, *(point.cost for point in points)) * 1.04, count=4)
    y_ticks = _nice(min(0.9, max(0.0, min(point.rate_low for point in points))), 1.0, count=5)
    x_end, y_start = x_ticks[-1], y_ticks[0]

    def at_x(value: float) -> float:
        return round(left + (right - left) * min(1.0, max(0.0, value / x_end)), 2)

    def at_y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - y_start) / (1.0 - y_start), 2)

    dots = [(at_x(point.cost), at_y(point.rate)) for point in points]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in dots]
    marks: list[Mark] = []
    for point, (x, y) in sorted(zip(points, dots, strict=True), key=lambda pair: (pair[1][1], pair[1][0])):
        label_x, label_y, anchor = _label(len(point.name), x, y, taken, edges=(left, 24.0, right, bottom))
        marks.append(
            Mark(
                name=point.name,
                x=x,
                y=y,
                left=at_x(point.cost_low),
                right=at_x(point.cost_high) if math.isfinite(point.cost_high) else right,
                top=at_y(min(1.0, point.rate_high)),
                bottom=at_y(max(y_start, point.rate_low)),
                open_right=not math.isfinite(point.cost_high) or point.cost_high > x_end,
                label_x=label_x,
                label_y=label_y,
                anchor=anchor,
                series=point.series,
                shape=SHAPES[point.series % len(SHAPES)],
                recommended=point.recommended,
            )
        )
    return Scatter(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        marks=tuple(marks),
        x_ticks=tuple(Tick(at=at_x(value), value=value) for value in x_ticks),
        y_ticks=tuple(Tick(at=at_y(value), value=value) for value in y_ticks),
        front=tuple((at_x(point.cost), at_y(point.rate)) for point in pareto(points)),
    )


def pareto(points: Sequence[Point]) -> list[Point]:
    """The candidates that no other beats in both cost and success, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.rate)):
        if not best or point.rate > best[-1].rate:
            best.append(point)
    return best


def _label(letters: int, x: float, y: float, taken: list[Box], *, edges: Box) -> tuple[float, float, str]:
    """The first place around a dot where a label covers neither dot nor label and stays inside; reserves it in `taken`."""
    wide = 7.0 * letters
    choices: list[tuple[float, float, str]] = [
        (x + side * 10 if side else x, y + down, {1: "start", -1: "end", 0: "middle"}[side])
        for down in (-11, 20, -25, 34, -39, 48)
        for side in (0, 1, -1)
    ]
    boxes = []
    for at, base, anchor in choices:
        start = at - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
        boxes.append((start, base - 12, start + wide, base + 3))
    for choice, box in zip(choices, boxes, strict=True):
        inside = box[0] >= edges[0] - 4 and box[1] >= edges[1] - 12 and box[2] <= edges[2] + 10 and box[3] <= edges[3]
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return round(choice[0], 2), round(choice[1], 2), choice[2]
    at, base, anchor = choices[1 if x < (edges[0] + edges[2]) / 2 else 2]
    return round(at, 2), round(base, 2), anchor


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _nice(low: float, high: float, *, count: int) -> list[float]:
    """About `count` round values from at or below `low` to at or above `high`."""
    rough = max(high - low, 1e-12) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]

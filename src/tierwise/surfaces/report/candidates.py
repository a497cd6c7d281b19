"""One task's candidates side by side: the rows of its table and its cost-quality picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tierwise.core.outcome import OUTCOMES
from tierwise.core.recommendation import CandidateReport, GuardrailState, Interval, Recommendation
from tierwise.surfaces.report.svg import Point, Scatter, Segment, Strip, scatter, segments, strip
from tierwise.surfaces.report.text import (
    ABSENT,
    clean,
    count,
    money,
    money_decimals,
    percent,
    plural,
    seconds,
    seconds_decimals,
)

STATE_WORDS: Final = {
    "proven": "proven",
    "holding": "holding",
    "failing": "failing",
    "refuted": "broken",
    "unknown": "not recorded",
}
_MONEY: Final = frozenset({"cost_per_call", "cost_per_success"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One outcome of a bar: its colour's name, its words, and its place in percent."""

    known: str
    words: str
    start: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One candidate's entry in a row: the value, a second line, and what goes with it."""

    value: str = ABSENT
    note: str = ""
    best: bool = False
    strip: Strip | None = None
    state: str = ""
    state_words: str = ""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure of all candidates; `heading` rows only name the group below."""

    label: str
    note: str = ""
    cells: tuple[Cell, ...] = ()
    heading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """An axis tick with its words."""

    at: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScatter:
    """The picture, its tick labels and what it says in words."""

    picture: Scatter
    x_ticks: tuple[Label, ...]
    y_ticks: tuple[Label, ...]
    description: str
    outside: tuple[str, ...]
    """Candidates without a finite cost per success, which the picture cannot show."""


def candidate_rows(item: Recommendation, outcomes: Mapping[str, Mapping[str, int]]) -> tuple[Row, ...]:
    """Every row of a task's table, candidates in the recommendation's order; outcome counts by candidate."""
    reports = item.candidates
    rows = [
        Row(label="Runs", cells=tuple(_runs(report) for report in reports)),
        _success_row(reports),
        _json_row(reports),
        _cost_row(reports),
        _plain_money_row(reports),
        _latency_row("Latency p50", [(r.latency_p50_s, r.latency_p50_interval_s) for r in reports]),
        _latency_row("Latency p95", [(r.latency_p95_s, r.latency_p95_interval_s) for r in reports]),
        _difference_row(reports),
        Row(
            label="Outcomes",
            note="of first attempts, up to now",
            cells=tuple(_outcome_cell(outcomes.get(r.candidate, {})) for r in reports),
        ),
        *_guardrail_rows(reports),
        Row(label="More runs needed", cells=tuple(Cell(value=count(r.runs_needed)) for r in reports)),
    ]
    return tuple(row for row in rows if row.heading or any(cell != Cell() for cell in row.cells))


def _runs(report: CandidateReport) -> Cell:
    note = f"in {plural(report.buckets, 'time bucket')}" if report.buckets else ""
    return Cell(value=count(report.n), note=note + (f", {report.grade}" if report.grade and note else ""))


def _success_row(reports: Sequence[CandidateReport]) -> Row:
    best = _best([r.success_rate for r in reports], highest=True)
    cells = []
    for report in reports:
        rate, bounds = report.success_rate, report.success_rate_interval
        if rate is None:
            cells.append(Cell())
            continue
        low, high = _or(bounds.low, 0.0), _or(bounds.high, 1.0)
        note = f"{percent(low)} to {percent(high)} · {report.successes:,} of {report.n:,}"
        cells.append(Cell(value=percent(rate), note=note, best=rate == best, strip=strip(low, high, rate, end=1.0)))
    return Row(label="Success", cells=tuple(cells))


def _json_row(reports: Sequence[CandidateReport]) -> Row:
    cells = (Cell() if r.json_valid_rate is None else Cell(value=percent(r.json_valid_rate)) for r in reports)
    return Row(label="Valid JSON", note="plain, not fenced", cells=tuple(cells))


def _cost_row(reports: Sequence[CandidateReport]) -> Row:
    costs = [r.cost_per_success_usd for r in reports]
    finite = [cost for cost in costs if cost is not None and math.isfinite(cost)]
    best = _best(costs)
    places = money_decimals(costs, digits=3)
    highs = [r.cost_per_success_interval_usd.high for r in reports]
    end = max((high for high in [*highs, *finite] if high is not None and math.isfinite(high)), default=0.0)
    end = min(end, 2.5 * max(finite, default=0.0))
    cells = []
    for report, cost in zip(reports, costs, strict=True):
        if cost is None or not math.isfinite(cost):
            note = "no success yet" if report.n and not report.successes else "no price known" if report.n else ""
            cells.append(Cell(value="∞" if note == "no success yet" else ABSENT, note=note))
            continue
        bounds = report.cost_per_success_interval_usd
        note = _money_interval(bounds, places)
        drawn = strip(_or(bounds.low, 0.0), _or(bounds.high, end), cost, end=end) if note else None
        cells.append(Cell(value=money(cost, decimals=places), note=note, best=cost == best, strip=drawn))
    return Row(label="Cost per success", cells=tuple(cells))


def _money_interval(bounds: Interval, places: int) -> str:
    if bounds.low is None and bounds.high is None:
        return ""
    low = money(_or(bounds.low, 0.0), decimals=places)
    return f"{low} or more" if bounds.high is None else f"{low} to {money(bounds.high, decimals=places)}"


def _plain_money_row(reports: Sequence[CandidateReport]) -> Row:
    costs = [r.cost_per_call_usd for r in reports]
    places = money_decimals(costs, digits=3)
    cells = (Cell() if cost is None else Cell(value=money(cost, decimals=places)) for cost in costs)
    return Row(label="Cost per run", cells=tuple(cells))


def _latency_row(label: str, values: Sequence[tuple[float | None, Interval]]) -> Row:
    places = seconds_decimals(value for value, _ in values)
    best = _best([value for value, _ in values])
    cells = []
    for value, bounds in values:
        if value is None:
            cells.append(Cell())
            continue
        low = f"{_or(bounds.low, 0.0):.3g}"
        note = f"{low} to {bounds.high:.3g} s" if bounds.high is not None else f"{low} s or more"
        known = bounds.low is not None or bounds.high is not None
        cells.append(Cell(value=seconds(value, decimals=places), note=note if known else "", best=value == best))
    return Row(label=label, cells=tuple(cells))


def _difference_row(reports: Sequence[CandidateReport]) -> Row:
    cells = []
    for report in reports:
        if report.role == "incumbent":
            cells.append(Cell(value="baseline"))
        elif report.gain is None:
            cells.append(Cell())
        else:
            bounds = report.gain_interval
            known = bounds.low is not None or bounds.high is not None
            note = f"{_signed(bounds.low, '−∞')} to {_signed(bounds.high, '∞')}" if known else ""
            cells.append(Cell(value=_signed(report.gain, ABSENT), note=note))
    shown = any(report.role == "challenger" and report.gain is not None for report in reports)
    return Row(label="Gain over current", note="in the task's objective", cells=tuple(cells) if shown else ())


def _signed(value: float | None, absent: str) -> str:
    if value is None:
        return absent
    return f"{'−' if value < 0 else '+'}{percent(abs(value))}"


def _outcome_cell(outcomes: Mapping[str, int]) -> Cell:
    if not outcomes:
        return Cell()
    total = sum(outcomes.values())
    parts = tuple(_part(segment) for segment in segments(outcomes))
    return Cell(value=plural(total, "run"), parts=parts)


def _part(segment: Segment) -> Part:
    known = segment.outcome if segment.outcome in OUTCOMES else "other"
    words = f"{segment.count:,} {clean(segment.outcome, longest=40).replace('_', ' ')}"
    return Part(known=known, words=words, start=segment.start, width=segment.width)


def _guardrail_rows(reports: Sequence[CandidateReport]) -> list[Row]:
    limits = list(dict.fromkeys((g.metric, g.op, g.limit) for report in reports for g in report.guardrails))
    if not limits:
        return []
    rows = [Row(label="Guardrails", heading=True)]
    for metric, op, limit in limits:
        cells = []
        for report in reports:
            found = [g for g in report.guardrails if (g.metric, g.op, g.limit) == (metric, op, limit)]
            cells.append(_guardrail_cell(found[0]) if found else Cell())
        words = f"{metric_words(metric)} {'≥' if op == '>=' else '≤'} {metric_value(metric, limit)}"
        rows.append(Row(label=words, cells=tuple(cells)))
    return rows


def _guardrail_cell(state: GuardrailState) -> Cell:
    value = metric_value(state.metric, state.estimate) if state.estimate is not None else ""
    note = ""
    if state.low is not None or state.high is not None:
        low = metric_value(state.metric, state.low) if state.low is not None else ""
        high = metric_value(state.metric, state.high) if state.high is not None else ""
        note = f"{low} to {high}" if low and high else f"{low} or more" if low else f"{high} or less"
    if state.state in ("holding", "failing") and state.runs_to_prove:
        note += f"{' · ' if note else ''}{plural(state.runs_to_prove, 'more run')} to prove"
    return Cell(value=value, note=note, state=state.state, state_words=STATE_WORDS.get(state.state, state.state))


def metric_words(metric: str) -> str:
    """A policy metric's name as people read it."""
    words = clean(metric).replace("_", " ").replace("json", "JSON").replace("ttft", "first chunk")
    return words[:1].upper() + words[1:]


def metric_value(metric: str, value: float) -> str:
    """A metric's value in its own unit: percent, seconds, USD or a plain number."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if metric.startswith(("latency", "ttft")):
        return f"{value:.3g}\u00a0s"
    if metric in _MONEY:
        return money(value)
    return percent(value) if metric.endswith("_rate") or metric == "check_score" else f"{value:,.0f}"


def task_scatter(item: Recommendation, series: Mapping[str, int]) -> TaskScatter | None:
    """The task's cost-quality picture; `None` when no candidate has both figures."""
    points = [
        Point(
            name=clean(report.candidate, longest=28),
            cost=report.cost_per_success_usd,
            cost_low=_or(report.cost_per_success_interval_usd.low, 0.0),
            cost_high=_or(report.cost_per_success_interval_usd.high, math.inf),
            rate=report.success_rate,
            rate_low=_or(report.success_rate_interval.low, 0.0),
            rate_high=_or(report.success_rate_interval.high, 1.0),
            series=series[report.candidate],
            recommended=report.candidate == item.primary,
        )
        for report in item.candidates
        if report.cost_per_success_usd is not None and report.success_rate is not None
    ]
    picture = scatter(points)
    if picture is None:
        return None
    shown = {mark.name for mark in picture.marks}
    places = money_decimals(tick.value for tick in picture.x_ticks)
    words = [f"{p.name}: {percent(p.rate)} success at {money(p.cost)} per success" for p in points]
    return TaskScatter(
        picture=picture,
        x_ticks=tuple(
            Label(at=tick.at, words=money(tick.value, decimals=places) if tick.value else "$0")
            for tick in picture.x_ticks
        ),
        y_ticks=tuple(Label(at=tick.at, words=percent(tick.value)) for tick in picture.y_ticks),
        description="; ".join(words) + ".",
        outside=tuple(
            clean(r.candidate) for r in item.candidates if r.n and clean(r.candidate, longest=28) not in shown
        ),
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _best(values: Sequence[float | None], *, highest: bool = False) -> float | None:
    """The best value, `None` where all are alike: then nothing deserves emphasis."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return None
    return max(known) if highest else min(known)

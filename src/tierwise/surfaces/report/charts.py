"""Numbers of the charts: steps and histograms → arrays with confidence bands, and each chart in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from tierwise.core.confseq import (
    asymptotic_half_width,
    cost_per_success_variance,
    log_ratio_bounds,
    quantile_estimate,
    quantile_interval,
    rate_interval,
)
from tierwise.core.evidence import LATENCY_EDGES_S
from tierwise.surfaces.report.sums import CandidateSums, Step, TaskSums
from tierwise.surfaces.report.text import ABSENT, clean, money, percent, plural, seconds

ALPHA: Final = 0.05
MOST_LINES: Final = 6
"""Candidates in one chart: those with most runs."""
_OUT: Final = 3.0
"""Bands of money end at so many times the highest estimate, or they would flatten every line."""

Band = tuple[float | None, float | None, float | None]
"""Estimate, low, high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A change of the route on the time axis: when (Unix seconds) and what."""

    at: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart of a task: which, its heading, what it says in words, and what its axis means."""

    kind: str
    title: str
    words: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """One row of the percentile table: its label and, by candidate, estimate and interval."""

    label: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCharts:
    """What the page needs to draw a task's charts: `data` is JSON-ready."""

    charts: tuple[Chart, ...]
    legend: tuple[tuple[str, int], ...]
    """Candidate and the number of its colour."""
    percentiles: tuple[Percentile, ...]
    columns: tuple[str, ...]
    data: Mapping[str, Any]


def task_charts(sums: TaskSums, series: Mapping[str, int], marks: Sequence[Mark] = ()) -> TaskCharts | None:
    """The charts of one task; `None` when nothing was recorded."""
    lines = [(name, one) for name, one in sums.candidates.items() if one.totals["n"] or any(one.outcomes.values())]
    lines = sorted(sorted(lines, key=lambda pair: -pair[1].totals["n"])[:MOST_LINES])
    if not lines:
        return None
    drawn: dict[str, list[dict[str, Any]]] = {}
    charts = []
    when = _when(sums)
    for kind, title, band, write in (
        ("success", "Success rate", _success, percent),
        ("json", "JSON validity", _json, percent),
        ("cost", "Cost per success", _cost, money),
    ):
        found = [_line(name, one, len(sums.places), band) for name, one in lines]
        found = [line for line in found if any(value is not None for value in line["y"])]
        if not found:
            continue
        if kind == "cost":
            _bounded(found)
        drawn[kind] = found
        charts.append(Chart(kind=kind, title=title, words=f"{title} over {when}. {_told(found, write)}", note=when))
    latency = [(name, one.histogram("latency")) for name, one in lines]
    known = [(name, counts) for name, counts in latency if sum(counts)]
    if known:
        edges = _edges([counts for _, counts in known])
        drawn["latency"] = [{"name": clean(name), "y": _cumulative(counts, edges), "n": []} for name, counts in known]
        words = "; ".join(
            f"{clean(name)} half within {_latency(counts, 0.5)[0]}, 95 % within {_latency(counts, 0.95)[0]}"
            for name, counts in known
        )
        note = "share of answers that arrived within so many seconds, retries included"
        charts.append(
            Chart(kind="latency", title="Latency distribution", words=f"Latency, {note}: {words}.", note=note)
        )
    numbers = {clean(name): series.get(name, 0) for name, _ in lines}
    return TaskCharts(
        charts=tuple(charts),
        legend=tuple((clean(name), series.get(name, 0)) for name, _ in lines),
        percentiles=tuple(_percentiles([one for _, one in lines])),
        columns=tuple(clean(name) for name, _ in lines),
        data={
            "axis": sums.axis,
            "width": sums.width,
            "x": list(sums.places),
            "edges": list(LATENCY_EDGES_S[: edges + 1]) if known else [],
            "colours": numbers,
            "charts": drawn,
            "marks": [[mark.at, mark.words] for mark in marks] if sums.axis == "time" else [],
        },
    )


def charts_json(tasks: Mapping[str, TaskCharts]) -> str:
    """The data of many tasks as JSON that can stand inside a script element: no `<`, `>` or `&` in it."""
    text = json.dumps({ident: charts.data for ident, charts in tasks.items()}, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _when(sums: TaskSums) -> str:
    if sums.axis == "round":
        every = f"of {plural(sums.width, 'round')} each" if sums.width > 1 else "of one round each"
        return f"bench rounds, {plural(len(sums.places), 'step')} {every}"
    hours = sums.width // 3600
    length = plural(hours // 24, "day") if hours % 24 == 0 else plural(hours, "hour")
    return f"time (UTC), {plural(len(sums.places), 'step')} of {length}"


def _line(name: str, one: CandidateSums, count: int, band: Callable[[Step], Band]) -> dict[str, Any]:
    values: list[Band] = [(None, None, None)] * count
    runs = [0] * count
    for place, step in one.steps.items():
        values[place] = band(step)
        runs[place] = int(step.n)
    estimate, low, high = ([_short(value[index]) for value in values] for index in range(3))
    return {"name": clean(name), "y": estimate, "low": low, "high": high, "n": runs}


def _success(step: Step) -> Band:
    return _rate(step.successes, step.n)


def _json(step: Step) -> Band:
    return _rate(step.json_plain, step.json_expected)


def _rate(part: float, whole: float) -> Band:
    if whole <= 0:
        return None, None, None
    part = min(max(part, 0.0), whole)  # feedback may take back a success of an earlier step
    low, high = _interval(part, whole)
    return part / whole, low, high


@lru_cache(maxsize=8192)
def _interval(part: float, whole: float) -> tuple[float, float]:
    """Kept, since small steps have the same few counts again and again."""
    return rate_interval(part, whole, ALPHA)


def _cost(step: Step) -> Band:
    if step.priced_successes <= 0 or step.cost_sum <= 0:
        return None, None, None
    estimate = step.cost_sum / step.priced_successes
    variance = cost_per_success_variance(
        n=step.priced, successes=step.priced_successes, cost_sum=step.cost_sum, cost_sq_sum=step.cost_sq_sum,
        cost_success_sum=step.cost_success_sum,
    )  # fmt: skip
    low, high = log_ratio_bounds(math.log(estimate), asymptotic_half_width(variance, step.priced, ALPHA))
    return estimate, low, high


def _bounded(lines: Sequence[dict[str, Any]]) -> None:
    top = _OUT * max(value for line in lines for value in line["y"] if value is not None)
    for line in lines:
        line["high"] = [None if value is None else min(value, top) for value in line["high"]]


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _told(lines: Iterable[dict[str, Any]], write: Callable[[float | None], str]) -> str:
    told = []
    for line in lines:
        known = [value for value in line["y"] if value is not None]
        told.append(f"{line['name']}: {write(known[0])} at first, {write(known[-1])} at last")
    return "; ".join(told) + "."


def _edges(histograms: Sequence[Sequence[int]]) -> int:
    """The number of the last edge worth drawing: the first one that everything lies below, if there is one."""
    last = max(max(index for index, count in enumerate(counts) if count) for counts in histograms)
    return min(last, len(LATENCY_EDGES_S) - 1)


def _cumulative(counts: Sequence[int], edges: int) -> list[float | None]:
    total, below, shares = sum(counts), 0, []
    for count in counts[: edges + 1]:
        below += count
        shares.append(_short(below / total))
    return shares


def _latency(counts: Sequence[int], tau: float) -> tuple[str, str]:
    estimate = quantile_estimate(counts, LATENCY_EDGES_S, tau)
    if estimate is None:
        return ABSENT, ""
    if math.isinf(estimate):
        return f"over {LATENCY_EDGES_S[-1]:g}\u00a0s", ""
    low, high = quantile_interval(counts, LATENCY_EDGES_S, tau, ALPHA)
    bounds = f"{low:.3g} to {high:.3g}\u00a0s" if math.isfinite(high) else f"{low:.3g}\u00a0s or more"
    return seconds(estimate), bounds


def _percentiles(lines: Sequence[CandidateSums]) -> Iterable[Percentile]:
    for which, name in (("latency", "Latency"), ("ttft", "First chunk")):
        histograms = [one.histogram(which) for one in lines]
        if not any(map(sum, histograms)):
            continue
        for tau in (0.5, 0.9, 0.95, 0.99) if which == "latency" else (0.5, 0.95):
            yield Percentile(
                label=f"{name} p{100 * tau:g}", cells=tuple(_latency(counts, tau) for counts in histograms)
            )

"""The published-style comparison: one row of figures a model, and which task each model passes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tierwise.core.confseq import quantile_estimate
from tierwise.core.evidence import LATENCY_EDGES_S, UNCOUNTED
from tierwise.surfaces.report.sums import TaskSums
from tierwise.surfaces.report.text import ABSENT, clean, count, money, percent
from tierwise.surfaces.report.text import money_decimals as places_of_money
from tierwise.surfaces.report.text import seconds as seconds_of
from tierwise.surfaces.report.text import seconds_decimals as places_of_seconds
from tierwise.surfaces.report.view import Matrix, ModelRow
from tierwise.surfaces.summary import ModelSummary, summarise

if TYPE_CHECKING:
    from tierwise.evidence import CallRow

MOST_ROWS: Final = 200
"""Tasks in the pass table."""


def summaries(sums: Sequence[TaskSums], calls: Sequence[CallRow]) -> tuple[dict[str, ModelSummary], bool]:
    """One summary a model by name, and whether all of it comes from the rows.

    Where the rows at hand are not all that the evidence counts (there are more than are read, or old ones were
    pruned), counts, costs and latencies come from the evidence; what only rows tell (fastest, slowest, size, finish
    reasons) from the rows at hand.
    """
    of_rows = summarise(calls)
    if sum(one.calls for one in sums) <= len(calls):
        return dict(sorted(of_rows.items())), True
    merged: dict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for one in sums:
        for name, candidate in one.candidates.items():
            for column, total in candidate.totals.items():
                merged[name][column] += total
    return {name: _summary(name, merged[name], of_rows.get(name)) for name in sorted(merged)}, False


def _summary(name: str, totals: Mapping[str, float], rows: ModelSummary | None) -> ModelSummary:
    def counts(prefix: str) -> dict[str, int]:
        return {key[len(prefix) :]: int(value) for key, value in totals.items() if key.startswith(prefix)}

    outcomes, forms = counts("outcomes."), counts("json_forms.")
    histogram = [int(totals.get(f"latency.{index}", 0)) for index in range(len(LATENCY_EDGES_S) + 1)]
    runs, successes, priced = int(totals["n"]), int(totals["successes"]), int(totals["priced"])
    answered = sum(histogram)
    blank = rows if rows is not None else _BLANK
    return replace(
        blank,
        model=name,
        runs=runs,
        successes=successes,
        latency_mean_s=totals["latency_sum_s"] / answered if answered else None,
        latency_median_s=quantile_estimate(histogram, LATENCY_EDGES_S, 0.5),
        latency_p95_s=quantile_estimate(histogram, LATENCY_EDGES_S, 0.95),
        task_score=successes / runs if runs else None,
        json_valid_rate=forms.get("plain", 0) / sum(forms.values()) if sum(forms.values()) else None,
        retries=int(totals["retries"]),
        cost_usd=totals["cost_sum"] if priced else None,
        cost_per_success_usd=totals["cost_sum"] / totals["priced_successes"] if totals["priced_successes"] else None,
        unpriced=max(0, runs - priced),
        not_counted=sum(outcomes.get(outcome, 0) for outcome in UNCOUNTED),
        outcomes=outcomes,
    )


_BLANK: Final = ModelSummary(
    model="", runs=0, successes=0, latency_mean_s=None, latency_median_s=None, latency_p95_s=None, latency_min_s=None,
    latency_max_s=None, task_score=None, output_chars_mean=None, non_stop_finish_reasons=0, json_valid_rate=None,
    retries=0, cost_usd=None, cost_per_success_usd=None,
)  # fmt: skip


def model_rows(models: Mapping[str, ModelSummary], scale: float) -> Iterable[ModelRow]:
    """The rows of the comparison table, numbers of one measure with the same decimals; see `render.MEASURES`."""
    summaries = list(models.values())
    latencies = [value for summary in summaries for value in _latencies(summary)]
    places = places_of_seconds(value for value in latencies if value is None or math.isfinite(value))
    cost_places = places_of_money(summary.cost_usd for summary in summaries)
    each_places = places_of_money((summary.cost_per_success_usd for summary in summaries), digits=3)
    for summary in summaries:
        timed = [
            (
                seconds_of(value, decimals=places),
                f"{seconds_of(value * scale, decimals=2)}" if value is not None and scale != 1 else "",
            )
            for value in _latencies(summary)
        ]
        valid = summary.json_valid_rate
        yield ModelRow(
            name=clean(summary.model),
            cells=(
                (count(summary.runs), ""),
                *timed,
                (ABSENT if summary.task_score is None else f"{summary.task_score:.2f}", ""),
                (count(summary.output_chars_mean), ""),
                (count(summary.non_stop_finish_reasons), ""),
                (ABSENT if valid is None else percent(valid), ""),
                (count(summary.retries), ""),
                (
                    money(summary.cost_usd, decimals=cost_places),
                    f"{summary.unpriced:,} without cost" if summary.unpriced else "",
                ),
                (money(summary.cost_per_success_usd, decimals=each_places), ""),
            ),
        )


def _latencies(summary: ModelSummary) -> tuple[float | None, ...]:
    return (
        summary.latency_mean_s,
        summary.latency_median_s,
        summary.latency_p95_s,
        summary.latency_min_s,
        summary.latency_max_s,
    )


def scale_words(scale: float, *, exact: bool, rows: int) -> str:
    """What must be said about the figures of the table."""
    words = []
    if scale != 1:
        words.append(f"The lighter figure beside a latency is the published scale: the measured time × {scale:g}.")
    if not exact:
        words.append(
            "Counts, costs, averages and percentiles come from hourly evidence (percentiles read from a histogram); fastest, "
            f"slowest, output size and finish reasons from the latest {rows:,} calls."
        )
    return " ".join(words)


def matrix(sums: Sequence[TaskSums], names: Sequence[str], order: Sequence[str]) -> Matrix:
    """Tasks in the order of the recommendations, then the others; models by name."""
    table = {one.task: verdicts(one) for one in sums}
    table = {task: cells for task, cells in table.items() if cells}
    seen = {model for cells in table.values() for model in cells}
    models = [name for name in names if name in seen]
    listed = set(order)
    tasks = [task for task in order if task in table] + [task for task in table if task not in listed]
    rows = []
    for task in tasks[:MOST_ROWS]:
        cells = [table[task].get(model, "") for model in models]
        rows.append((clean(task), tuple((words.split(" ")[0], words or ABSENT) for words in cells)))
    return Matrix(models=tuple(map(clean, models)), rows=tuple(rows), left_out=max(0, len(tasks) - MOST_ROWS))


def verdicts(one: TaskSums) -> dict[str, str]:
    """Model → `pass` (every run succeeded), `fail` (none did) or `mixed 3/5` (successes / runs)."""
    found = {}
    for name, candidate in one.candidates.items():
        runs, successes = int(candidate.totals["n"]), int(candidate.totals["successes"])
        if runs:
            short = f"mixed {successes}/{runs}" if 0 < successes < runs else "fail" if successes <= 0 else "pass"
            found[name] = short
    return found

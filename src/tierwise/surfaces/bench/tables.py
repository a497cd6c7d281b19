"""The tables of bench and demo: comparison, task × model, token budget, route map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.measure import Measurement
from rich.text import Text

from tierwise.core.recommendation import Recommendation
from tierwise.surfaces.bench.budget import TokenBudget
from tierwise.surfaces.bench.suite import Suite
from tierwise.surfaces.cli.common import NOTHING, cell, count, make_table, money, percent, seconds
from tierwise.surfaces.summary import ModelSummary, pass_table, summarise, summary_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tierwise.evidence import CallRow

_UNBOUNDED: Final = 10_000
_STYLES: Final = {
    "pass": "green",
    "fail": "red",
    "PROMOTE": "bold green",
    "KEEP": "green",
    "TRIAL": "cyan",
    "HOLD": "yellow",
    "ROLLBACK": "red",
    "INSUFFICIENT": "yellow",
}


def models_of(suite: Suite, calls: Iterable[CallRow], *, models: Sequence[str]) -> dict[str, ModelSummary]:
    """One summary for each model asked, in their order, over the suite's tasks alone (no probe)."""
    names = {task.name for task in suite.tasks}
    found = summarise(call for call in calls if call.task in names)
    return {model: found[model] if model in found else summary_of(model, ()) for model in models}


def tasks_of(suite: Suite, calls: Iterable[CallRow], *, models: Sequence[str]) -> dict[str, dict[str, str]]:
    """Task → model → `pass`, `fail` or `mixed 3/5`, in the suite's order; `no runs` where nothing was counted."""
    names = [task.name for task in suite.tasks]
    found = pass_table(call for call in calls if call.task in set(names))
    return {name: {model: found.get(name, {}).get(model, "no runs") for model in models} for name in names}


def comparison_table(
    summaries: Mapping[str, ModelSummary], *, title: str, console: Console, scale: float | None = None
) -> Table:
    """The comparison: a row for each model where the console is wide enough, else a column for each.

    With a `scale`, latencies are shown as measured and, beside it in brackets, times the scale.
    """
    metrics = _metrics(scale)
    wide = make_table("Model", *metrics, title=title, right=tuple(metrics))
    for model, summary in summaries.items():
        wide.add_row(cell(model), *(cell(show(summary)) for show in metrics.values()))
    if Measurement.get(console, console.options.update(max_width=_UNBOUNDED), wide).maximum <= console.width:
        return wide
    high = make_table("Model", *summaries, title=title, right=tuple(summaries))
    for name, show in metrics.items():
        high.add_row(cell(name), *(cell(show(summary)) for summary in summaries.values()))
    return high


def _metrics(scale: float | None) -> dict[str, Callable[[ModelSummary], str]]:
    def latency(value: float | None) -> str:
        if value is None or scale is None:
            return seconds(value)
        return f"{seconds(value)} ({value * scale:.2f} s)"

    return {
        "Runs": lambda one: count(one.runs),
        "Avg": lambda one: latency(one.latency_mean_s),
        "Median": lambda one: latency(one.latency_median_s),
        "p95": lambda one: latency(one.latency_p95_s),
        "Fastest": lambda one: latency(one.latency_min_s),
        "Slowest": lambda one: latency(one.latency_max_s),
        "Task score": lambda one: percent(one.task_score, digits=0),
        "Avg output size": lambda one: (
            NOTHING if one.output_chars_mean is None else f"{one.output_chars_mean:,.0f} chars"
        ),
        "Non-stop finish reasons": lambda one: count(one.non_stop_finish_reasons),
        "JSON validity": lambda one: percent(one.json_valid_rate, digits=0),
        "Retries": lambda one: count(one.retries),
        "Cost": lambda one: money(one.cost_usd),
        "Cost per success": lambda one: money(one.cost_per_success_usd),
    }


def task_table(tasks: Mapping[str, Mapping[str, str]], outcomes: Mapping[tuple[str, str], str], *, title: str) -> Table:
    """Which task each model passes; a failure names its most frequent outcome."""
    models = list(next(iter(tasks.values()), {}))
    table = make_table("Task", *models, title=title)
    for task, verdicts in tasks.items():
        cells = []
        for model, verdict in verdicts.items():
            why = outcomes.get((task, model))
            text = verdict if why is None or verdict == "pass" else f"{verdict} ({why})"
            cells.append(cell(text, style=_STYLES.get(verdict, "yellow")))
        table.add_row(cell(task), *cells)
    return table


def failures_of(calls: Iterable[CallRow]) -> dict[tuple[str, str], str]:
    """(task, model) → the most frequent outcome of its calls that did not succeed."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for call in calls:
        if call.outcome != "success":
            mine = counts.setdefault((call.task, call.candidate), {})
            mine[call.outcome] = mine.get(call.outcome, 0) + 1
    return {key: max(mine, key=lambda outcome: mine[outcome]) for key, mine in counts.items()}


def budget_table(budget: TokenBudget, *, title: str) -> Table:
    """What came back under each limit, a row for each model and prompt."""
    limits = {limit: "omitted" if limit is None else str(limit) for limit in budget.max_tokens}
    table = make_table("Model", "Prompt", *(f"max_tokens {text}" for text in limits.values()), title=title)
    rows: dict[tuple[str, str], dict[int | None, str]] = {}
    for result in budget.results:
        if result.output_chars == 0 and result.cut:
            text = f"{result.finish_reason}, empty"
        elif result.cut:
            text = f"{result.finish_reason}, {result.output_chars} chars"
        else:
            text = f"{result.finish_reason or result.outcome}, {result.output_chars} chars"
        rows.setdefault((result.model, result.prompt), {})[result.max_tokens] = text
    for (model, prompt), found in rows.items():
        texts = [found.get(limit, NOTHING) for limit in limits]
        table.add_row(
            cell(model), cell(prompt), *(cell(text, style="red" if text.startswith("length") else "") for text in texts)
        )
    return table


def route_table(recommendations: Sequence[Recommendation], *, title: str) -> Table:
    """The route map: what each task uses, what it should use, behind it what, and how sure that is."""
    table = make_table(
        "Task",
        "Verdict",
        "Now",
        "Recommended",
        "Fallbacks",
        "Runs still needed",
        title=title,
        right=("Runs still needed",),
    )
    for one in recommendations:
        trial = f"{one.primary}, try {one.challenger}" if one.verdict == "TRIAL" else None
        table.add_row(
            cell(one.task),
            cell(one.verdict, style=_STYLES.get(one.verdict, "")),
            cell(one.current or NOTHING),
            cell(trial or one.primary or NOTHING),
            Text("\n").join(cell(name) for name in one.fallbacks or (NOTHING,)),
            cell(f"{one.runs_needed:,} per model" if one.runs_needed else NOTHING),
        )
    return table

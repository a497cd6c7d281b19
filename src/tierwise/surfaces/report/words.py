"""The report's sentences: what it says first, what is not known yet, and what it was made from."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tierwise.core.recommendation import Recommendation
from tierwise.surfaces.report.candidates import metric_words
from tierwise.surfaces.report.sums import TaskSums
from tierwise.surfaces.report.text import clean, listed, money, plural, utc, window
from tierwise.surfaces.summary import ModelSummary

_REST = {
    "TRIAL": ("{} is worth a trial on part of the traffic: {}.", "{} are worth a trial on part of the traffic: {}."),
    "KEEP": ("{} stays as it is: {}.", "{} stay as they are: {}."),
    "HOLD": ("{} needs a person's look: {}.", "{} need a person's look: {}."),
    "ROLLBACK": ("{} goes back to the model before: {}.", "{} go back to the model before: {}."),
    "INSUFFICIENT": (
        "{} needs more runs before anything can be said: {}.",
        "{} need more runs before anything can be said: {}.",
    ),
}


def lede(recommendations: Sequence[Recommendation], *, empty: bool) -> Iterable[str]:
    """The first sentences: what to change, and what else there is."""
    if empty:
        yield "Nothing is recorded yet. Instrument a client, run `tierwise bench`, or see `tierwise demo`."
        return
    if not recommendations:
        yield "No task has a recommendation yet: there are calls, but none belongs to a named task."
        return
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for item in recommendations:
        by_verdict[item.verdict].append(clean(item.task, longest=40))
    total = len(recommendations)
    if moved := by_verdict.get("PROMOTE"):
        words = f"Change the model of {len(moved)} of {plural(total, 'task')}: {listed(moved, longest=6)}."
        per_month = [item.saving_per_month_usd for item in recommendations if item.verdict == "PROMOTE"]
        known = [saving for saving in per_month if saving is not None]
        if known and sum(known) > 0:
            words += f" At the observed volume that saves about {money(sum(known), decimals=2)} a month."
        yield words
    else:
        yield f"No change of model is recommended for any of {plural(total, 'task')}."
    sentences = []
    for verdict, (one, many) in _REST.items():
        if names := by_verdict.get(verdict):
            words = one if len(names) == 1 else many
            sentences.append(words.format(plural(len(names), "task"), listed(names, longest=6)))
    if sentences:
        yield " ".join(sentences)


def facts(
    sums: Sequence[TaskSums],
    models: Mapping[str, ModelSummary],
    recommendations: Sequence[Recommendation],
    span: tuple[float, float] | None,
) -> str:
    """Counts, money and window in one line."""
    runs = sum(summary.runs for summary in models.values())
    calls = sum(one.calls for one in sums)
    costs = [summary.cost_usd for summary in models.values() if summary.cost_usd is not None]
    tasks = {one.task for one in sums} | {item.task for item in recommendations}
    words = [plural(len(tasks), "task"), plural(len(models), "model"), plural(runs, "run")]
    if calls != runs:
        words.append(plural(calls, "call"))
    if costs:
        words.append(f"{money(sum(costs), decimals=2 if sum(costs) >= 1 else None)} spent")
    if span is not None:
        words.append(window(*span))
    return " · ".join(words)


def unknown(recommendations: Sequence[Recommendation], models: Mapping[str, ModelSummary]) -> Iterator[tuple[str, str]]:
    """What is open, by task or model, with the runs that would close it."""
    for item in recommendations:
        task = clean(item.task)
        if item.verdict == "INSUFFICIENT":
            needs = [f"{clean(c.candidate)}: {c.runs_needed:,}" for c in item.candidates if c.runs_needed]
            words = f"No verdict yet. {plural(item.runs_needed, 'more run')} needed"
            yield task, words + (f" ({'; '.join(needs)})." if needs else ".")
        elif item.runs_needed:
            yield task, f"Still open: about {plural(item.runs_needed, 'more run')} would decide, if the rates stay."
        if item.grade == "observational":
            yield (
                task,
                (
                    "The models were not compared on the same kind of traffic (observational): the difference may come from "
                    "the prompts. `tierwise bench` or a trial makes sure."
                ),
            )
        yield from _open_limits(item, task)
    for summary in models.values():
        yield from _without_cost(summary)


def _open_limits(item: Recommendation, task: str) -> Iterator[tuple[str, str]]:
    for report in item.candidates:
        if report.candidate not in (item.primary, item.challenger):
            continue
        limits = [
            metric_words(state.metric)
            + (f" ({plural(state.runs_to_prove, 'more run')})" if state.runs_to_prove else "")
            for state in report.guardrails
            if state.state in ("holding", "failing", "unknown")
        ]
        if limits:
            yield task, f"Not proven for {clean(report.candidate)}: {listed(limits, longest=12)}."


def _without_cost(summary: ModelSummary) -> Iterator[tuple[str, str]]:
    if summary.without_price:
        yield (
            clean(summary.model),
            (
                f"{plural(summary.without_price, 'run')} without a known price, outside every cost figure. Add the model's "
                "rates under prices: in tierwise.yaml, then run `tierwise prices reprice`."
            ),
        )
    if summary.without_tokens:
        yield (
            clean(summary.model),
            (
                f"{plural(summary.without_tokens, 'answered run')} without token counts, outside every cost figure. Streams "
                "report them when asked: `tierwise.instrument(client, stream_usage=True)`."
            ),
        )


def sources(
    sums: Sequence[TaskSums],
    recommendations: Sequence[Recommendation],
    *,
    span: tuple[float, float] | None,
    generated_at: int,
    store: str | None,
    simulated: bool,
) -> Iterator[tuple[str, str]]:
    """What the page was made from, for its footer."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        tierwise = version("tierwise")
    except PackageNotFoundError:
        tierwise = "unknown version"
    if store is not None:
        yield "Store", clean(store, longest=1000)
    yield "Calls", f"{sum(one.calls for one in sums):,}" + (f", {window(*span)}" if span is not None else "")
    yield "Simulated", "yes: a simulated gateway, no real model answered" if simulated else "no"
    yield "Made by", f"tierwise {tierwise}, Python {sys.version_info.major}.{sys.version_info.minor}"
    yield "Charts", "uPlot 1.6.32, © 2022 Leon Sorokin, MIT licence (inside this file)"
    yield "Written", utc(generated_at)
    hashes = [f"{clean(item.task, longest=60)} {clean(item.input_hash)}" for item in recommendations[:100]]
    if hashes:
        more = f"; and {len(recommendations) - 100:,} more" if len(recommendations) > 100 else ""
        yield "Decision inputs", "; ".join(hashes) + more

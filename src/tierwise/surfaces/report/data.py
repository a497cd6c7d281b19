"""What the report shows: calls and recommendations → plain values, every number already in words."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tierwise.core.recommendation import Reason, Recommendation
from tierwise.surfaces.report.candidates import Row, TaskScatter, candidate_rows, metric_words, task_scatter
from tierwise.surfaces.report.text import ABSENT, clean, count, listed, money, percent, plural, utc, window
from tierwise.surfaces.report.text import money_decimals as places_of_money
from tierwise.surfaces.report.text import seconds as seconds_of
from tierwise.surfaces.report.text import seconds_decimals as places_of_seconds
from tierwise.surfaces.summary import ModelSummary, pass_table, runs_of, summarise

if TYPE_CHECKING:
    from tierwise.evidence import CallRow

VERDICT_WORDS: Final = {
    "PROMOTE": "Change to the recommended model: the gain is shown and success is not worse.",
    "KEEP": "Leave it as it is: no candidate is shown to be better.",
    "TRIAL": "A gain is shown, but not yet that success holds: try it on a part of the traffic.",
    "HOLD": "Change nothing automatically: something needs a person's look.",
    "INSUFFICIENT": "Too few runs to say anything yet.",
    "ROLLBACK": "Return to the model before: the new one broke a limit.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task: its verdict, its route, the reasons, and its candidates side by side."""

    ident: str
    name: str
    verdict: str
    verdict_words: str
    grade: str
    current: str
    primary: str
    changes: bool
    challenger: str
    fallbacks: str
    ladder: str
    saving_per_1000: str
    saving_per_month: str
    confidence: str
    why: tuple[str, ...]
    """What the table of routes says: the first reason and, for a change, the first about the candidate to change to."""
    reasons: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    """Candidate and its part in the route."""
    rows: tuple[Row, ...]
    scatter: TaskScatter | None
    runs_needed: int
    input_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model of the comparison table: its cells in the order of the measures, each with an optional second figure."""

    name: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Task × model: `pass`, `fail` or `mixed`, with its words."""

    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """Everything on the page."""

    title: str
    generated: str
    simulated: bool
    lede: tuple[str, ...]
    facts: str
    notes: tuple[str, ...]
    tasks: tuple[TaskView, ...]
    models: tuple[ModelRow, ...]
    scale_words: str
    matrix: Matrix
    unknown: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, str], ...]
    verdict_words: tuple[tuple[str, str], ...]


def build(
    *,
    calls: Iterable[CallRow],
    recommendations: Sequence[Recommendation],
    title: str,
    simulated: bool,
    notes: Sequence[str],
    generated_at: int,
    store: str | None,
    latency_scale: float,
) -> ReportView:
    """Turn calls and recommendations into what the page shows; `generated_at` is in Unix seconds."""
    calls = list(calls)
    models = dict(sorted(summarise(calls).items()))
    outcomes = _outcomes(calls)
    names = sorted({*models, *(report.candidate for item in recommendations for report in item.candidates)})
    series = {name: number for number, name in enumerate(names)}
    tasks = tuple(
        _task(number, item, outcomes.get(item.task, {}), series) for number, item in enumerate(recommendations, start=1)
    )
    return ReportView(
        title=clean(title),
        generated=utc(generated_at),
        simulated=simulated,
        lede=tuple(_lede(recommendations)),
        facts=_facts(calls, models, recommendations),
        notes=tuple(clean(note, longest=2000) for note in notes),
        tasks=tasks,
        models=tuple(_model_rows(models, latency_scale)),
        scale_words=_scale_words(latency_scale),
        matrix=_matrix(calls, names, [item.task for item in recommendations]),
        unknown=tuple(_unknown(recommendations, models)),
        sources=tuple(_sources(calls, recommendations, generated_at, store, simulated)),
        verdict_words=tuple(VERDICT_WORDS.items()),
    )


def _outcomes(calls: Sequence[CallRow]) -> dict[str, dict[str, Counter[str]]]:
    """Task → candidate → outcomes of first attempts."""
    table: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for run in runs_of(calls):
        table[run.first.task][run.first.candidate][run.first.outcome] += 1
    return table


def _task(
    number: int, item: Recommendation, outcomes: Mapping[str, Mapping[str, int]], series: Mapping[str, int]
) -> TaskView:
    savings = (item.saving_per_1000_runs_usd, item.saving_per_month_usd)
    return TaskView(
        ident=f"task-{number}",
        name=clean(item.task),
        verdict=item.verdict,
        verdict_words=VERDICT_WORDS.get(item.verdict, ""),
        grade=item.grade or ABSENT,
        current=_name(item.current),
        primary=_name(item.primary),
        changes=item.primary is not None and item.primary != item.current,
        challenger=clean(item.challenger) if item.challenger is not None else "",
        fallbacks=", ".join(map(clean, item.fallbacks)) or "none",
        ladder=", then ".join(map(clean, item.ladder)) if len(item.ladder) > 1 else "",
        saving_per_1000=money(savings[0]),
        saving_per_month=money(savings[1]),
        confidence=f"{100 * item.confidence:g}\u00a0%",
        why=tuple(_why(item)),
        reasons=tuple((clean(reason.code), clean(reason.text, longest=2000)) for reason in _ordered(item)),
        columns=tuple((clean(report.candidate), _part(report.candidate, item)) for report in item.candidates),
        rows=candidate_rows(item, outcomes),
        scatter=task_scatter(item, series),
        runs_needed=item.runs_needed,
        input_hash=clean(item.input_hash),
    )


def _why(item: Recommendation) -> Iterable[str]:
    first, about = item.reasons[:1], _ordered(item)[:1]
    for reason in dict.fromkeys((*first, *about) if item.primary != item.current else first):
        yield clean(reason.text, longest=2000)


def _ordered(item: Recommendation) -> list[Reason]:
    """Reasons with those first that are about the candidate the verdict is about."""
    subject = item.challenger or item.primary
    return sorted(item.reasons, key=lambda reason: reason.candidate != subject)


def _name(candidate: str | None) -> str:
    return ABSENT if candidate is None else clean(candidate)


def _part(candidate: str, item: Recommendation) -> str:
    parts = []
    if candidate == item.current:
        parts.append("current")
    if candidate == item.primary and item.primary != item.current:
        parts.append("recommended")
    elif candidate == item.challenger:
        parts.append("challenger")
    if candidate in item.fallbacks:
        place = f" {item.fallbacks.index(candidate) + 1}" if len(item.fallbacks) > 1 else ""
        parts.append(f"fallback{place}")
    return ", ".join(parts)


def _lede(recommendations: Sequence[Recommendation]) -> Iterable[str]:
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
    rest = {
        "TRIAL": "{} worth a trial on part of the traffic: {}.",
        "KEEP": "{} as it is: {}.",
        "HOLD": "{} a person's look: {}.",
        "ROLLBACK": "{} back to the model before: {}.",
        "INSUFFICIENT": "{} more runs before anything can be said: {}.",
    }
    verbs = {
        "TRIAL": "is/are",
        "KEEP": "stays/stay",
        "HOLD": "needs/need",
        "ROLLBACK": "goes/go",
        "INSUFFICIENT": "needs/need",
    }
    sentences = []
    for verdict, words in rest.items():
        if names := by_verdict.get(verdict):
            one, many = verbs[verdict].split("/")
            sentences.append(
                words.format(
                    f"{plural(len(names), 'task')} {one if len(names) == 1 else many}", listed(names, longest=6)
                )
            )
    if sentences:
        yield " ".join(sentences)


def _facts(
    calls: Sequence[CallRow], models: Mapping[str, ModelSummary], recommendations: Sequence[Recommendation]
) -> str:
    runs = sum(summary.runs for summary in models.values())
    costs = [summary.cost_usd for summary in models.values() if summary.cost_usd is not None]
    tasks = {call.task for call in calls} | {item.task for item in recommendations}
    words = [plural(len(tasks), "task"), plural(len(models), "model"), plural(runs, "run")]
    if len(calls) != runs:
        words.append(plural(len(calls), "call"))
    if costs:
        words.append(f"{money(sum(costs), decimals=2 if sum(costs) >= 1 else None)} spent")
    if calls:
        words.append(_window(calls))
    return " · ".join(words)


def _window(calls: Sequence[CallRow]) -> str:
    starts = [call.started_at_ns for call in calls]
    return window(min(starts) / 1e9, max(starts) / 1e9)


def _model_rows(models: Mapping[str, ModelSummary], scale: float) -> Iterable[ModelRow]:
    summaries = list(models.values())
    latencies = [value for summary in summaries for value in _latencies(summary)]
    places = places_of_seconds(latencies)
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
                (_non_stop(summary), ""),
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


def _non_stop(summary: ModelSummary) -> str:
    return count(summary.non_stop_finish_reasons)


def _scale_words(scale: float) -> str:
    if scale == 1:
        return ""
    return f"The lighter figure beside a latency is the published scale: the measured time × {scale:g}."


def _matrix(calls: Sequence[CallRow], names: Sequence[str], order: Sequence[str]) -> Matrix:
    """Tasks in the order of the recommendations, then the others; models by name."""
    rows = []
    table = pass_table(calls)
    seen = {model for cells in table.values() for model in cells}
    models = [name for name in names if name in seen]
    tasks = [task for task in order if task in table]
    for task in [*tasks, *(task for task in table if task not in tasks)]:
        cells = table[task]
        verdicts = [cells.get(model, "") for model in models]
        rows.append((clean(task), tuple((words.split(" ")[0], words or ABSENT) for words in verdicts)))
    return Matrix(models=tuple(map(clean, models)), rows=tuple(rows))


def _unknown(
    recommendations: Sequence[Recommendation], models: Mapping[str, ModelSummary]
) -> Iterable[tuple[str, str]]:
    for item in recommendations:
        task = clean(item.task)
        if item.verdict == "INSUFFICIENT":
            needs = [f"{clean(c.candidate)}: {c.runs_needed:,}" for c in item.candidates if c.runs_needed]
            words = f"No verdict yet. {plural(item.runs_needed, 'more run')} needed"
            yield task, words + (f" ({'; '.join(needs)})." if needs else ".")
        if item.grade == "observational":
            yield (
                task,
                (
                    "The models were not compared on the same kind of traffic (observational): the difference may come from "
                    "the prompts. `tierwise bench` or a trial makes sure."
                ),
            )
        for report in item.candidates:
            if report.candidate not in (item.primary, item.challenger):
                continue
            holding = [state for state in report.guardrails if state.state in ("holding", "failing", "unknown")]
            open_limits = [
                metric_words(state.metric)
                + (f" ({plural(state.runs_to_prove, 'more run')})" if state.runs_to_prove else "")
                for state in holding
            ]
            if open_limits:
                yield task, f"Not proven for {clean(report.candidate)}: {listed(open_limits, longest=12)}."
    for summary in models.values():
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


def _sources(
    calls: Sequence[CallRow],
    recommendations: Sequence[Recommendation],
    generated_at: int,
    store: str | None,
    simulated: bool,
) -> Iterable[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        tierwise = version("tierwise")
    except PackageNotFoundError:
        tierwise = "unknown version"
    if store is not None:
        yield "Store", clean(store, longest=1000)
    yield "Calls", f"{len(calls):,}" + (f", {_window(calls)}" if calls else "")
    yield "Simulated", "yes: a simulated gateway, no real model answered" if simulated else "no"
    yield "Made by", f"tierwise {tierwise}, Python {sys.version_info.major}.{sys.version_info.minor}"
    yield "Written", utc(generated_at)
    hashes = [f"{clean(item.task, longest=60)} {clean(item.input_hash)}" for item in recommendations]
    if hashes:
        yield "Decision inputs", "; ".join(hashes)

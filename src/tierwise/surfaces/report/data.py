"""What the report shows: evidence, calls, recommendations and decisions → one `ReportView`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from tierwise.core.recommendation import Reason, Recommendation
from tierwise.surfaces.report import words
from tierwise.surfaces.report.candidates import candidate_rows, task_scatter
from tierwise.surfaces.report.charts import Mark, charts_json, task_charts
from tierwise.surfaces.report.decisions import Decision, decisions, marks
from tierwise.surfaces.report.flow import flow
from tierwise.surfaces.report.models import matrix, model_rows, scale_words, summaries
from tierwise.surfaces.report.sums import TaskSums, evidence_of_calls, fold
from tierwise.surfaces.report.text import ABSENT, clean, money, utc
from tierwise.surfaces.report.view import VERDICT_WORDS, ReportView, TaskView

if TYPE_CHECKING:
    from tierwise.advisor import AuditEntry
    from tierwise.evidence import CallRow

MOST_DETAILED: Final = 60
"""Tasks with a section of their own: those to be changed first, then those with most runs."""
MOST_UNKNOWN: Final = 200
_URGENT: Final = ("ROLLBACK", "PROMOTE", "HOLD", "TRIAL")


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
    sums: Sequence[TaskSums] | None = None,
    history: Sequence[AuditEntry] = (),
    table_version: int | None = None,
    most_detailed: int = MOST_DETAILED,
) -> ReportView:
    """Turn what is known into what the page shows; `generated_at` is in Unix seconds.

    `sums` stand for all traffic of the window; without them they are made from the calls.
    """
    calls = list(calls)
    totals = list(sums) if sums is not None else list(map(fold, evidence_of_calls(calls)))
    by_task = {one.task: one for one in totals}
    models, exact = summaries(totals, calls)
    names = sorted({*models, *(report.candidate for item in recommendations for report in item.candidates)})
    series = {name: number for number, name in enumerate(names)}
    told = decisions(history, current_version=table_version)
    tasks = _tasks(recommendations, by_task, series, told, most_detailed)
    empty = not recommendations and not totals
    open_questions = list(words.unknown(recommendations, models))
    span = _span(totals, calls)
    return ReportView(
        title=clean(title),
        generated=utc(generated_at),
        simulated=simulated,
        lede=tuple(words.lede(recommendations, empty=empty)),
        facts=words.facts(totals, models, recommendations, span),
        notes=tuple(clean(note, longest=2000) for note in notes),
        tasks=tuple(tasks),
        models=tuple(model_rows(models, latency_scale)),
        scale_words=scale_words(latency_scale, exact=exact, rows=len(calls)),
        matrix=matrix(totals, names, [item.task for item in recommendations]),
        unknown=tuple(open_questions[:MOST_UNKNOWN]),
        unknown_left_out=max(0, len(open_questions) - MOST_UNKNOWN),
        sources=tuple(
            words.sources(
                totals, recommendations, span=span, generated_at=generated_at, store=store, simulated=simulated
            )
        ),
        verdict_words=tuple(VERDICT_WORDS.items()),
        decisions=tuple(told),
        charts_json=charts_json({task.ident: task.charts for task in tasks if task.charts is not None}),
        empty=empty,
    )


def _span(totals: Sequence[TaskSums], calls: Sequence[CallRow]) -> tuple[float, float] | None:
    """First and last moment, Unix seconds: of the calls where all are at hand, else of the evidence's hours."""
    if calls and sum(one.calls for one in totals) <= len(calls):
        starts = [call.started_at_ns for call in calls]
        return min(starts) / 1e9, max(starts) / 1e9
    first = [one.first for one in totals if one.first is not None]
    last = [one.last for one in totals if one.last is not None]
    return (min(first), max(last) + 3600) if first and last else None


def _tasks(
    recommendations: Sequence[Recommendation],
    sums: Mapping[str, TaskSums],
    series: Mapping[str, int],
    told: Sequence[Decision],
    most_detailed: int,
) -> list[TaskView]:
    def urgency(item: Recommendation) -> tuple[bool, int]:
        known = sums.get(item.task)
        return item.verdict not in _URGENT, -(known.runs if known is not None else 0)

    chosen = {item.task for item in islice(sorted(recommendations, key=urgency), most_detailed)}
    changes = marks(told)
    return [
        task_view(number, item, sums.get(item.task), series, changes.get(clean(item.task), ()), item.task in chosen)
        for number, item in enumerate(recommendations, start=1)
    ]


def task_view(
    number: int,
    item: Recommendation,
    sums: TaskSums | None,
    series: Mapping[str, int],
    changes: Sequence[Mark] = (),
    detailed: bool = True,
) -> TaskView:
    """One task; without details only what its row in the overview needs."""
    savings = (item.saving_per_1000_runs_usd, item.saving_per_month_usd)
    outcomes = {name: one.outcomes for name, one in sums.candidates.items()} if sums is not None else {}
    return TaskView(
        ident=f"task-{number}",
        name=clean(item.task),
        raw_name=item.task,
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
        rows=candidate_rows(item, outcomes) if detailed else (),
        scatter=task_scatter(item, series) if detailed else None,
        runs_needed=item.runs_needed,
        input_hash=clean(item.input_hash),
        charts=task_charts(sums, series, changes) if detailed and sums is not None else None,
        flow=flow(sums) if detailed and sums is not None else None,
        detailed=detailed,
    )


def _why(item: Recommendation) -> Iterable[str]:
    """For a change or a trial: what is wrong with the model in use, then what is right with the one to take."""
    chosen = item.reasons[:1]
    if item.primary != item.current or item.challenger is not None:
        parties = (None, item.current, item.challenger or item.primary)
        first = [reason for reason in item.reasons if reason.candidate in parties]
        chosen = (*first[:1], *_ordered(item)[:1])
    for reason in dict.fromkeys(chosen):
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

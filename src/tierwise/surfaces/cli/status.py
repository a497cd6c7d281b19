"""`tierwise status`: one line a task: route, runs, cost, latency, success, verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    clean,
    config_option,
    count,
    emit_json,
    err,
    json_option,
    make_table,
    money,
    open_store,
    out,
    probe_tasks,
    read_settings,
    say,
    seconds,
    since_option,
    store_option,
)
from tierwise.surfaces.cli.manual import OR_EMPTY, manual
from tierwise.surfaces.cli.plan import STYLES, make_plan, report_of

if TYPE_CHECKING:
    from tierwise.core.recommendation import CandidateReport, Recommendation


@click.command(
    "status",
    epilog=manual(
        "tierwise status",
        "tierwise status --since 7d --json",
        fault=OR_EMPTY,
    ),
)
@since_option("30d")
@json_option
@config_option
@store_option
def command(since: int | None, as_json: bool, config: str | None, store: str | None) -> None:
    """Show every task's route, runs, cost, latency, success and verdict.

    The numbers are those of the task's current model, the hour that is still open included; the verdict counts hours
    that have ended. Success is `0.83 (0.79 to 0.86, n=100)`: the estimate and an interval that holds however often you
    look. The token-budget probe of `tierwise bench` is left out; `tierwise calls` has it. Without recorded calls: a message
    and exit code 2.
    """
    settings = read_settings(config, store)
    with open_store(settings) as opened:
        probes, lost = probe_tasks(opened), opened.dropped_count()
    made, _ = make_plan(settings, since=since, tasks=None)
    seen, _ = make_plan(settings, since=since, tasks=None, open_hour=True)
    items = [item for item in made.recommendations if item.task not in probes]
    notes = (*made.notes, *_losses(lost))
    reports = {item.task: report_of(item, item.current) for item in seen.recommendations}
    if as_json:
        emit_json(
            {
                "at": made.at,
                "store": settings.store_path,
                "tasks": [_line(item, reports.get(item.task)) for item in items],
                "coverage": made.coverage.to_json(),
                "notes": list(notes),
            }
        )
        return
    numbers = ("n", "$/1k calls", "p95", "Success")
    table = make_table("Task", "Route", *numbers, "Verdict", right=numbers[:-1])
    for item in items:
        report = reports.get(item.task)
        table.add_row(
            cell(item.task),
            cell((report.candidate if report else item.current) or NOTHING),
            cell(count(report.n) if report else NOTHING),
            cell(money(_per_1000(report))),
            cell(seconds(report.latency_p95_s if report else None)),
            cell(success_words(report)),
            cell(_verdict(item), style=STYLES.get(item.verdict, "")),
        )
    if items:
        out().print(table)
    else:
        say(
            "no task has a name yet; name the work with `with tierwise.task(...)`, `tierwise calls` lists what there is"
        )
    for note in notes:
        err().print(f"note: {clean(note)}", style="yellow", soft_wrap=True)


def _losses(lost: int) -> tuple[str, ...]:
    if not lost:
        return ()
    made = "call was made but not stored, so it is" if lost == 1 else "calls were made but not stored, so they are"
    return (f"{count(lost)} {made} in none of these figures; `tierwise doctor` says what to do",)


def _line(item: Recommendation, report: CandidateReport | None) -> dict[str, object]:
    bounds = report.success_rate_interval if report else None
    return {
        "task": item.task,
        "route": report.candidate if report else item.current,
        "fallbacks": list(item.fallbacks),
        "n": report.n if report else 0,
        "cost_per_1000_calls_usd": _per_1000(report),
        "cost_per_success_usd": report.cost_per_success_usd if report else None,
        "latency_p95_s": report.latency_p95_s if report else None,
        "success_rate": report.success_rate if report else None,
        "success_rate_interval": {"low": bounds.low, "high": bounds.high} if bounds else None,
        "verdict": item.verdict,
        "primary": item.primary,
        "grade": item.grade,
        "runs_needed": item.runs_needed,
    }


def _per_1000(report: CandidateReport | None) -> float | None:
    return None if report is None or report.cost_per_call_usd is None else 1000 * report.cost_per_call_usd


def success_words(report: CandidateReport | None) -> str:
    """`0.83 (0.79 to 0.86, n=100)`: the interval rounded outwards, inside [0, 1]."""
    if report is None or report.success_rate is None:
        return NOTHING
    bounds = report.success_rate_interval
    low = 0.0 if bounds.low is None else math.floor(100 * bounds.low + 1e-9) / 100
    high = 1.0 if bounds.high is None else math.ceil(100 * bounds.high - 1e-9) / 100
    return f"{report.success_rate:.2f} ({max(low, 0.0):.2f} to {min(high, 1.0):.2f}, n={report.n:,})"


def _verdict(item: Recommendation) -> str:
    if item.verdict == "PROMOTE" and item.primary is not None:
        return f"PROMOTE {item.primary}"
    if item.verdict == "INSUFFICIENT" and item.runs_needed:
        return f"INSUFFICIENT ({item.runs_needed:,} more)"
    return item.verdict

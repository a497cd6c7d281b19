"""`tierwise explain`: everything behind one task's recommendation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    config_option,
    count,
    emit_json,
    err,
    json_option,
    make_table,
    money,
    out,
    percent,
    read_settings,
    seconds,
    since_option,
    store_option,
)
from tierwise.surfaces.cli.plan import make_plan, reasons, route_arrow, tasks_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from tierwise.core.policy import TaskPolicy
    from tierwise.core.recommendation import CandidateReport, GuardrailState, Interval, Recommendation

STATES = {"refuted": "red", "failing": "yellow", "holding": "", "proven": "green", "unknown": "dim"}


@click.command("explain", epilog="Example:  tierwise explain strict-json --since 7d")
@tasks_option
@since_option("30d")
@json_option
@config_option
@store_option
def command(
    tasks: tuple[str, ...],
    more_tasks: tuple[str, ...],
    since: int | None,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Show the whole decision about one TASK: candidates with intervals, guardrails with their states, reasons."""
    wanted = (*tasks, *more_tasks)
    if len(wanted) != 1:
        raise click.UsageError("name one task: `tierwise explain TASK`; `tierwise plan` lists all")
    settings = read_settings(config, store)
    made, policy = make_plan(settings, since=since, tasks=wanted)
    item = made.recommendations[0]
    if as_json:
        emit_json({"at": made.at, "table_version": made.table_version, **item.to_json()})
        return
    own = policy.for_task(item.task) if policy is not None else None
    _policy(own)
    reasons(item)
    _route(item)
    _candidates(item)
    _guardrails(item)
    for note in made.notes:
        err().print(cell(f"note: {note}", style="yellow"), soft_wrap=True)


def _policy(own: TaskPolicy | None) -> None:
    if own is None:
        text = "no policy for this task: defaults over the models seen (add it under tasks: in tierwise.yaml)"
    else:
        text = f"objective {own.objective.kind}, candidates {', '.join(own.candidates)}"
    out().print(cell(text, style="dim"), soft_wrap=True)


def _route(item: Recommendation) -> None:
    console = out()
    console.print()
    console.print(Text("  route      ").append(route_arrow(item)), soft_wrap=True)
    console.print(cell(f"  fallbacks  {', '.join(item.fallbacks) or NOTHING}"), soft_wrap=True)
    if item.ladder:
        console.print(cell(f"  ladder     {', then '.join(item.ladder)}"), soft_wrap=True)
    if item.challenger is not None and item.saving_per_1000_runs_usd is not None:
        per_1000, month = money(item.saving_per_1000_runs_usd), item.saving_per_month_usd
        more = "" if month is None else f", {money(month)} per month at the window's volume"
        console.print(cell(f"  saving     {per_1000} per 1,000 runs{more}"))
    console.print(cell(f"  inputs     {item.input_hash}", style="dim"), soft_wrap=True)


def _candidates(item: Recommendation) -> None:
    table = make_table(
        "Candidate", "Role", "Grade", "Runs", "Buckets", "Success", "Cost/success", "p50", "p95", "JSON valid", "Gain",
        "Success difference", "Runs needed", right=("Runs", "Buckets", "Runs needed"),
    )  # fmt: skip
    for report in item.candidates:
        table.add_row(*(cell(value) for value in _candidate(report)))
    out().print()
    out().print(table)


def _candidate(report: CandidateReport) -> tuple[str, ...]:
    return (
        report.candidate,
        report.role,
        report.grade or NOTHING,
        count(report.n),
        count(report.buckets),
        _with_interval(report.success_rate, report.success_rate_interval, percent),
        _with_interval(report.cost_per_success_usd, report.cost_per_success_interval_usd, money),
        _with_interval(report.latency_p50_s, report.latency_p50_interval_s, seconds),
        _with_interval(report.latency_p95_s, report.latency_p95_interval_s, seconds),
        percent(report.json_valid_rate),
        _with_interval(report.gain, report.gain_interval, percent),
        _with_interval(report.success_difference, report.success_difference_interval, percent),
        count(report.runs_needed) if report.runs_needed else NOTHING,
    )


def _with_interval(estimate: float | None, bounds: Interval, write: Callable[[float | None], str]) -> str:
    if bounds.low is None and bounds.high is None:
        return write(estimate)
    low = "…" if bounds.low is None else write(bounds.low)
    high = "…" if bounds.high is None else write(bounds.high)
    return f"{write(estimate)} [{low}, {high}]"


def _guardrails(item: Recommendation) -> None:
    table = make_table("Candidate", "Guardrail", "Estimate", "State", "Runs to prove", right=("Runs to prove",))
    for report in item.candidates:
        for state in report.guardrails:
            bounds = f" [{_number(state.low)}, {_number(state.high)}]"
            table.add_row(
                cell(report.candidate),
                cell(_limit(state)),
                cell(_number(state.estimate) + (bounds if state.low is not None or state.high is not None else "")),
                cell(state.state, style=STATES.get(state.state, "")),
                cell(count(state.runs_to_prove)),
            )
    if table.row_count:
        out().print()
        out().print(table)


def _limit(state: GuardrailState) -> str:
    text = f"{state.metric} {state.op} {state.limit:g}"
    if state.tested_at is not None and state.tested_at != state.limit:
        text += f" (tested at {state.tested_at:g})"
    return text


def _number(value: float | None) -> str:
    return "…" if value is None else f"{value:.4g}"

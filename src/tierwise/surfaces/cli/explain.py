"""`tierwise explain`: everything behind one task's recommendation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from tierwise.core import wording
from tierwise.surfaces.cli import words
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
from tierwise.surfaces.cli.manual import OR_EMPTY, manual
from tierwise.surfaces.cli.plan import make_plan, reasons, tasks_option
from tierwise.surfaces.cli.source import Source, source_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from tierwise.core.policy import TaskPolicy
    from tierwise.core.recommendation import CandidateReport, GuardrailState, Interval, Recommendation

_LEGEND = (
    "[low, high] are bounds that hold at every look. Runs needed: further runs until this candidate's comparison is "
    "decided, if its rates stay what they are; an estimate."
)
STATES = {"refuted": "red", "failing": "yellow", "holding": "", "proven": "green", "unknown": "dim"}


@click.command(
    "explain",
    epilog=manual(
        "tierwise explain strict-json",
        "tierwise explain summary --since 7d --json",
        "tierwise explain summary --url http://prometheus:9090",
        fault=OR_EMPTY,
    ),
)
@tasks_option
@since_option("30d")
@json_option
@config_option
@store_option
@source_options
def command(
    tasks: tuple[str, ...],
    more_tasks: tuple[str, ...],
    since: int | None,
    as_json: bool,
    config: str | None,
    store: str | None,
    source: Source,
) -> None:
    """Show the whole decision about one TASK, in words and numbers.

    The verdict with its reasons, the route with its canary, split of the traffic, cool-down and what is left alone, what
    would change the verdict, every candidate with bounds, every limit with its state. "Runs needed" is an estimate: the
    further runs a candidate takes until its comparison is decided, if its rates stay what they are.
    """
    wanted = (*tasks, *more_tasks)
    if len(wanted) != 1:
        raise click.UsageError("name one task: `tierwise explain TASK`; `tierwise plan` lists all")
    from tierwise.routing import read_table, route_to_json

    settings = read_settings(config, store)
    made, policy = make_plan(settings, since=since, tasks=wanted, source=source)
    item = made.recommendations[0]
    table = read_table(settings.routes_path)
    route = table.routes.get(item.task)
    own = policy.for_task(item.task) if policy is not None else None
    if as_json:
        document = {
            "route": None if route is None else route_to_json(route),
            "what_would_change": [text for _, text in words.what_would_change(item, own, route)],
        }
        emit_json({"at": made.at, "table_version": made.table_version, **item.to_json(), **document})
        return
    _policy(own)
    reasons(item)
    for title, lines in (
        ("route", words.route_lines(item, route, table.version)),
        ("traffic", words.traffic_lines(item, route)),
        ("saving", words.saving_lines(item)),
        ("what would change this", words.what_would_change(item, own, route)),
    ):
        _section(title, lines)
    _candidates(item)
    _guardrails(item)
    out().print()
    out().print(cell(f"inputs  {item.input_hash}", style="dim"), soft_wrap=True)
    for note in made.notes:
        err().print(cell(f"note: {note}", style="yellow"), soft_wrap=True)


def _policy(own: TaskPolicy | None) -> None:
    if own is None:
        text = "no policy for this task: defaults over the models seen (add it under tasks: in tierwise.yaml)"
    else:
        text = words.policy_line(own)
    out().print(cell(text, style="dim"), soft_wrap=True)


def _section(title: str, lines: list[tuple[str, str]]) -> None:
    if not lines:
        return
    console = out()
    console.print()
    console.print(cell(title, style="bold"))
    for name, text in lines:
        console.print(cell(f"  {name:<9}  " if name else "  · ").append(_arrow(text)), soft_wrap=True)


def _arrow(text: str) -> Text:
    """The text as data; `a → b` with its ends in colour."""
    old, arrow, new = text.partition(" → ")
    if not arrow:
        return cell(text)
    return Text.assemble(cell(old, style="red"), arrow, cell(new, style="green"))


def _candidates(item: Recommendation) -> None:
    table = make_table(
        "Candidate", "Role", "Grade", "Runs", "Buckets", "Success", "Cost/success", "p50", "p95", "JSON valid", "Gain",
        "Success difference", "Runs needed", right=("Runs", "Buckets", "Runs needed"),
    )  # fmt: skip
    for report in item.candidates:
        table.add_row(*(cell(value) for value in _candidate(report)))
    out().print()
    out().print(table)
    out().print(
        cell(_LEGEND, style="dim"),
        soft_wrap=True,
    )


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
    table = make_table(
        "Candidate", "Guardrail", "Evidence", "State", "Runs to prove", "In tierwise.yaml", right=("Runs to prove",)
    )
    for report in item.candidates:
        for state in report.guardrails:
            table.add_row(
                cell(report.candidate),
                cell(wording.limit(state)),
                cell(wording.finding(state).removeprefix(f"{wording.limit(state)}: ")),
                cell(f"{state.state}: {words.STATES[state.state]}", style=STATES.get(state.state, "")),
                cell(count(state.runs_to_prove)),
                cell(_limit(state), style="dim"),
            )
    if table.row_count:
        out().print()
        out().print(table)


def _limit(state: GuardrailState) -> str:
    text = f"{state.metric} {state.op} {state.limit:g}"
    if state.tested_at is not None and state.tested_at != state.limit:
        text += f" (tested at {state.tested_at:g})"
    return text

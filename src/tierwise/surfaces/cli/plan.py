"""`tierwise plan`: what the evidence recommends for each task; also the steps that `apply` and `explain` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.text import Text

from tierwise.core.evidence import HOUR_S
from tierwise.surfaces.cli import complete, words
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
    out,
    percent,
    read_policy,
    read_settings,
    say,
    seconds,
    since_option,
    store_option,
)
from tierwise.surfaces.cli.manual import OR_EMPTY, manual
from tierwise.surfaces.cli.progress import lasting
from tierwise.surfaces.cli.source import Source, notes_of, nothing_found, reading, source_options

if TYPE_CHECKING:
    from tierwise.advisor import Plan
    from tierwise.config import Settings
    from tierwise.core.policy import Policy
    from tierwise.core.recommendation import CandidateReport, Recommendation

F = TypeVar("F", bound=Callable[..., Any])

STYLES = {"PROMOTE": "green", "TRIAL": "cyan", "KEEP": "", "HOLD": "red", "INSUFFICIENT": "yellow", "ROLLBACK": "red"}


def tasks_option(function: F) -> F:
    """Add `[TASK]...` and `--task TASK`, two forms of the same (arguments `tasks` and `more_tasks`)."""
    named = click.option(
        "--task",
        "more_tasks",
        multiple=True,
        metavar="TASK",
        help="Only this task; may be repeated.",
        shell_complete=complete.tasks,
    )
    return click.argument("tasks", nargs=-1, metavar="[TASK]...", shell_complete=complete.tasks)(named(function))


def make_plan(
    settings: Settings,
    *,
    since: int | None,
    tasks: Sequence[str] | None,
    open_hour: bool = False,
    quiet: bool = False,
    source: Source | None = None,
) -> tuple[Plan, Policy | None]:
    """Read policy, route file and store (or the server that `source` names), and decide.

    A window begins with a whole hour. `open_hour` counts the hour that has not ended yet, as if it had: for showing what
    is there, not for changing a route. `quiet` leaves the warnings about the policy file out.

    Raises:
        TierwiseError: a file is broken, nothing is recorded, or a task is unknown.
    """
    from tierwise.advisor.crew import plan_of_store
    from tierwise.routing import read_table

    now = int(time.time())
    policy = read_policy(settings, quiet=quiet)
    with reading(settings, source) as store:
        first = None if since is None else (now - since) // HOUR_S * HOUR_S
        table = read_table(settings.routes_path)
        at = (now // HOUR_S + 1) * HOUR_S if open_hour else now
        with lasting("deciding tasks") as told:
            made = plan_of_store(store, policy, table, at, since=first, tasks=tasks or None, told=told)
        if made is None:
            raise nothing_found(settings, source)
        return replace(made, notes=(*made.notes, *notes_of(store))), policy


def findings(recommendations: Iterable[Recommendation]) -> list[str]:
    """What `plan --check` fails on, in words: routes to change, alarms, and incumbents that break a guardrail.

    A change that only waits for the end of a cool-down is none.
    """
    found = []
    for item in recommendations:
        waiting = any(reason.code == "cooldown" for reason in item.reasons)
        if item.verdict in ("PROMOTE", "ROLLBACK") or (item.verdict == "HOLD" and not waiting):
            found.append(f"{item.task}: {item.verdict}")
            continue
        report = report_of(item, item.current)
        broken = [state.metric for state in report.guardrails if state.state == "refuted"] if report else []
        if broken:
            found.append(f"{item.task}: {item.current} breaks {', '.join(broken)}")
    return found


def report_of(item: Recommendation, candidate: str | None) -> CandidateReport | None:
    """The numbers of one candidate in a recommendation."""
    return next((report for report in item.candidates if report.candidate == candidate), None)


def target(item: Recommendation) -> str | None:
    """The candidate that the verdict is about."""
    return item.challenger if item.verdict in ("PROMOTE", "TRIAL") and item.challenger else item.primary


@click.command(
    "plan",
    epilog=manual(
        "tierwise plan",
        "tierwise plan summary --since 7d",
        "tierwise plan --check                        # in CI",
        "tierwise plan --url http://prometheus:9090   # evidence of a fleet",
        finding="with --check: a route should change, or a guardrail is broken",
        fault=OR_EMPTY,
    ),
)
@tasks_option
@since_option("30d")
@click.option("--all", "show_all", is_flag=True, help="Tasks without a change too, with all their reasons.")
@click.option("--check", is_flag=True, help="Exit 1 when a route should change or a guardrail is broken.")
@json_option
@config_option
@store_option
@source_options
def command(
    tasks: tuple[str, ...],
    more_tasks: tuple[str, ...],
    since: int | None,
    show_all: bool,
    check: bool,
    as_json: bool,
    config: str | None,
    store: str | None,
    source: Source,
) -> None:
    """Recommend a route for each task (or those named) from its recorded calls, with reasons. Changes nothing.

    Without a route the current model is the one with most runs in the window; a reason says so. The saving is per month
    where the window holds a day of live traffic and 100 runs of it, else per 1,000 runs.
    """
    settings = read_settings(config, store)
    wanted = (*tasks, *more_tasks)
    made, _ = make_plan(settings, since=since, tasks=wanted, source=source)
    if as_json:
        emit_json(made.to_json())
    else:
        show(made, show_all=show_all or bool(wanted))
    found = findings(made.recommendations)
    if check and found:
        say(f"{len(found)} finding(s): " + "; ".join(found), style="yellow")
        raise click.exceptions.Exit(1)


def show(made: Plan, *, show_all: bool) -> None:
    """The table of tasks, then each task's reasons, then what the evidence does not cover."""
    console = out()
    table = make_table(
        "Task", "Current → recommended", "Verdict", "Success", "Cost/success", "p95", "Saving", "Runs needed",
        right=("Success", "Cost/success", "p95", "Saving", "Runs needed"),
        whole=("Verdict",),
    )  # fmt: skip
    for item in made.recommendations:
        now, then = report_of(item, item.current), report_of(item, target(item))
        pair = None if target(item) == item.current else then
        table.add_row(
            cell(item.task),
            route_arrow(item),
            cell(item.verdict, style=STYLES.get(item.verdict, "")),
            cell(_both(_success(now), _success(pair))),
            cell(_both(_cost(now), _cost(pair))),
            cell(_both(_p95(now), _p95(pair))),
            cell(_saving(item)),
            cell(count(item.runs_needed) if item.runs_needed else NOTHING),
        )
    console.print(table)
    for item in made.recommendations:
        if show_all or item.verdict != "KEEP":
            reasons(item)
    for note in made.notes:
        err().print(f"note: {clean(note)}", style="yellow", soft_wrap=True)
    _next_step(made)


def reasons(item: Recommendation) -> None:
    """One task's verdict and its reasons in words."""
    console = out()
    console.print()
    head = Text.assemble(cell(item.task, style="bold"), "  ", cell(item.verdict, style=STYLES.get(item.verdict, "")))
    if item.grade:
        head.append(f"  ({item.grade} evidence, confidence {item.confidence:g})", style="dim")
    console.print(head)
    for reason in item.reasons:
        console.print(Text("  · ").append(cell(reason.text)), soft_wrap=True)
    exploring = words.exploring_text(item)
    if exploring is not None:
        console.print(Text("  · ").append(cell(exploring)), soft_wrap=True, style="dim")


def route_arrow(item: Recommendation) -> Text:
    """`a → b` where something should change, else the current candidate."""
    wanted, current = target(item), item.current or NOTHING
    if wanted is None or wanted == item.current:
        return cell(current)
    return Text.assemble(cell(current, style="red"), " → ", cell(wanted, style="green"))


def _next_step(made: Plan) -> None:
    if any(item.verdict == "PROMOTE" for item in made.recommendations):
        say(
            "\n`tierwise apply --dry-run` shows the change, `tierwise apply` makes it, `tierwise explain TASK` all numbers."
        )


def _both(now: str, then: str) -> str:
    return now if then == NOTHING else f"{now} → {then}"


def _success(report: CandidateReport | None) -> str:
    return percent(report.success_rate) if report is not None else NOTHING


def _cost(report: CandidateReport | None) -> str:
    return money(report.cost_per_success_usd) if report is not None else NOTHING


def _p95(report: CandidateReport | None) -> str:
    return seconds(report.latency_p95_s) if report is not None else NOTHING


def _saving(item: Recommendation) -> str:
    if item.verdict not in ("PROMOTE", "TRIAL"):
        return NOTHING
    if item.saving_per_month_usd is not None:
        return f"{money(item.saving_per_month_usd)} / month"
    per_1000 = item.saving_per_1000_runs_usd
    return NOTHING if per_1000 is None else f"{money(per_1000)} / 1,000 runs"

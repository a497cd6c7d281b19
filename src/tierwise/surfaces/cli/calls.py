"""`tierwise calls`: recorded calls, newest last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tierwise.core.outcome import OUTCOMES
from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    count,
    emit_json,
    emit_jsonl,
    json_option,
    make_table,
    money,
    nothing_recorded,
    open_store,
    out,
    read_settings,
    say,
    seconds,
    since_option,
    store_option,
    when,
)

if TYPE_CHECKING:
    from tierwise.evidence import CallRow


@click.command(
    "calls",
    epilog="Examples:  tierwise calls --task summary --outcome truncated  |  tierwise calls --nl --limit 0 > all.jsonl",
)
@click.option("--task", metavar="TASK", help="Only this task.")
@click.option("--model", metavar="MODEL", help="Only this model (candidate).")
@click.option("--outcome", type=click.Choice(OUTCOMES), metavar="OUTCOME", help="Only this outcome, e.g. json_fenced.")
@since_option("all")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="At most so many, 0 for all.")
@json_option
@click.option("--nl", "as_lines", is_flag=True, help="Print one JSON document a line.")
@store_option
def command(
    task: str | None,
    model: str | None,
    outcome: str | None,
    since: int | None,
    limit: int,
    as_json: bool,
    as_lines: bool,
    store: str | None,
) -> None:
    """List recorded calls, the latest ones, newest last. Prompts and answers are never recorded.

    An empty store gives a message and exit code 2; a filter that nothing matches gives an empty list.
    """
    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other: choose one document or one line a call")
    settings = read_settings(store=store)
    with open_store(settings) as opened:
        found = list(
            opened.calls(
                task=task,
                model=model,
                outcome=outcome,
                since_ns=None if since is None else (int(time.time()) - since) * 10**9,
                limit=limit or None,
                newest_first=True,
            )
        )
        if not found and opened.call_count() == 0:
            raise nothing_recorded(settings)
    found.reverse()
    if as_lines:
        emit_jsonl(row.to_json() for row in found)
    elif as_json:
        emit_json([row.to_json() for row in found])
    elif found:
        _show(found)
    else:
        say("no recorded call matches; `tierwise calls` without filters shows the latest")


def _show(rows: list[CallRow]) -> None:
    numbers = ("Latency", "Tokens in", "Tokens out", "Cost", "Retries")
    table = make_table("Started", "Task", "Model", "Outcome", *numbers, "Finish", right=numbers)
    for row in rows:
        table.add_row(
            cell(when(row.started_at_ns // 10**9)),
            cell(row.task),
            cell(row.candidate),
            cell(_outcome(row), style="" if row.outcome == "success" else "yellow"),
            cell(seconds(row.duration_s)),
            cell(count(row.input_tokens)),
            cell(count(row.output_tokens)),
            cell(money(row.cost_usd)),
            cell(row.retries or NOTHING),
            cell(", ".join(row.finish_reasons) or NOTHING),
        )
    out().print(table)
    for advice in dict.fromkeys(row.advice for row in rows if row.advice):
        say(f"advice: {advice}")


def _outcome(row: CallRow) -> str:
    return f"{row.outcome} ({row.error_type})" if row.error_type else row.outcome

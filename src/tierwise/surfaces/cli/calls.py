"""`tierwise calls`: recorded calls, newest last."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Final

import click

from tierwise.core.outcome import OUTCOMES
from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    config_option,
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
from tierwise.surfaces.cli.follow import Lines, Wanted, last_id, new_calls, wait_for_store
from tierwise.surfaces.cli.manual import OR_EMPTY, manual

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.evidence import CallRow, SqliteStore

NUMBERS: Final = ("Latency", "Tokens in", "Tokens out", "Cost", "Retries")
COLUMNS: Final = ("Task", "Model", "Outcome", *NUMBERS, "Finish")


@click.command(
    "calls",
    epilog=manual(
        "tierwise calls --task summary --outcome truncated",
        "tierwise calls --follow                      # and every new one, until Ctrl-C",
        "tierwise calls --nl --limit 0 > all.jsonl",
        fault=OR_EMPTY,
    ),
)
@click.option("--task", metavar="TASK", help="Only this task.", shell_complete=complete.tasks)
@click.option("--model", metavar="MODEL", help="Only this model (candidate).", shell_complete=complete.models)
@click.option("--outcome", type=click.Choice(OUTCOMES), metavar="OUTCOME", help="Only this outcome, e.g. json_fenced.")
@since_option("all")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="At most so many, 0 for all.")
@click.option(
    "--follow", "-f", is_flag=True, help="Go on with every new call, until Ctrl-C; JSON is a document a line."
)
@json_option
@click.option("--nl", "as_lines", is_flag=True, help="Print one JSON document a line.")
@config_option
@store_option
def command(
    task: str | None,
    model: str | None,
    outcome: str | None,
    since: int | None,
    limit: int,
    follow: bool,
    as_json: bool,
    as_lines: bool,
    config: str | None,
    store: str | None,
) -> None:
    """List recorded calls, the latest ones, newest last. Prompts and answers are never recorded.

    An empty store gives a message and exit code 2; a filter that nothing matches gives an empty list. --follow waits for
    calls where there are none yet, and shows each as soon as it is recorded (within about a second).
    """
    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other: choose one document or one line a call")
    settings = read_settings(config, store)
    wanted = Wanted(task=task, model=model, outcome=outcome)
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(settings, wanted, since=since, limit=limit, as_lines=as_lines or as_json)
        say("stopped")
        return
    with open_store(settings) as opened:
        found = _latest(opened, wanted, since=since, limit=limit)
        if not found and opened.call_count() == 0:
            raise nothing_recorded(settings)
    if as_lines:
        emit_jsonl(row.to_json() for row in found)
    elif as_json:
        emit_json([row.to_json() for row in found])
    elif found:
        _show(found)
    else:
        say("no recorded call matches; `tierwise calls` without filters shows the latest")


def _latest(store: SqliteStore, wanted: Wanted, *, since: int | None, limit: int) -> list[CallRow]:
    """The newest calls of a window, oldest first."""
    found = list(
        store.calls(
            task=wanted.task,
            model=wanted.model,
            outcome=wanted.outcome,
            since_ns=None if since is None else (int(time.time()) - since) * 10**9,
            limit=limit or None,
            newest_first=True,
        )
    )
    found.reverse()
    return found


def _follow(settings: Settings, wanted: Wanted, *, since: int | None, limit: int, as_lines: bool) -> None:
    """Show the latest calls and then each new one."""
    path = wait_for_store(settings)
    after = last_id(path)  # first: a call that comes meanwhile would be shown twice otherwise, or never
    with open_store(settings) as opened:
        latest = [row for row in _latest(opened, wanted, since=since, limit=limit) if row.id <= after]
    lines = Lines(("Started (UTC)", *COLUMNS), right=NUMBERS)
    advised: set[str] = set()
    if not as_lines:
        lines.widen([_line(row) for row in latest])
        lines.head()
    for row in chain(latest, new_calls(path, wanted, after=after)):
        if as_lines:
            emit_jsonl(iter([row.to_json()]))
            continue
        lines.row(_line(row), style="" if row.outcome == "success" else "yellow")
        if row.advice and row.advice not in advised:
            advised.add(row.advice)
            say(f"advice: {row.advice}")


def _line(row: CallRow) -> list[str]:
    started = datetime.fromtimestamp(row.started_at_ns // 10**9, UTC)
    return [f"{started:%Y-%m-%d %H:%M:%S}", *_values(row)]


def _values(row: CallRow) -> list[str]:
    """A call in the columns of `COLUMNS`."""
    return [
        row.task,
        row.candidate,
        f"{row.outcome} ({row.error_type})" if row.error_type else row.outcome,
        seconds(row.duration_s),
        count(row.input_tokens),
        count(row.output_tokens),
        money(row.cost_usd),
        str(row.retries or NOTHING),
        ", ".join(row.finish_reasons) or NOTHING,
    ]


def _show(rows: list[CallRow]) -> None:
    table = make_table("Started", *COLUMNS, right=NUMBERS)
    for row in rows:
        values = [cell(value) for value in _values(row)]
        if row.outcome != "success":
            values[2].stylize("yellow")
        table.add_row(cell(when(row.started_at_ns // 10**9)), *values)
    out().print(table)
    for advice in dict.fromkeys(row.advice for row in rows if row.advice):
        say(f"advice: {advice}")

"""`tierwise report`: recorded calls and the plan as one self-contained HTML page."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tierwise.surfaces.cli.common import (
    config_option,
    emit_json,
    json_option,
    nothing_recorded,
    open_store,
    probe_tasks,
    read_settings,
    say,
    since_option,
    store_option,
)
from tierwise.surfaces.cli.plan import make_plan


@click.command("report", epilog="Examples:  tierwise report  |  tierwise report -o june.html --since 30d --title June")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"), show_default=True,
    metavar="FILE", help="Where to write the page.",
)  # fmt: skip
@click.option("--title", default="Which model for which task", show_default=True, help="The page's title.")
@click.option("--simulated", is_flag=True, help="Say on the page that the calls were simulated.")
@since_option("30d")
@json_option
@config_option
@store_option
def command(
    output: Path,
    title: str,
    simulated: bool,
    since: int | None,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Write one HTML page: recommended routes with reasons, models compared, what is not known yet.

    Everything is inside the file: no script, no network. Only you can read it until you change its permissions.
    --json prints what the page is made from. Without recorded calls: a message and exit code 2.
    """
    from tierwise.config import is_probe
    from tierwise.surfaces.report import write_report
    from tierwise.surfaces.summary import pass_table, summarise

    settings = read_settings(config, store)
    made, _ = make_plan(settings, since=since, tasks=None)
    with open_store(settings) as opened:
        since_ns = None if since is None else (int(time.time()) - since) * 10**9
        calls = [call for call in opened.calls(since_ns=since_ns) if not is_probe(call.task, call.session)]
        probes = probe_tasks(opened)
    items = [item for item in made.recommendations if item.task not in probes]
    if not calls and not items:
        raise nothing_recorded(settings)
    path = write_report(
        calls=calls,
        recommendations=items,
        path=output,
        title=title,
        simulated=simulated,
        notes=made.notes,
        generated_at=made.at,
        store=str(settings.store_path),
    )
    if as_json:
        emit_json(
            {
                "report": path,
                "models": {name: summary.to_json() for name, summary in summarise(calls).items()},
                "tasks": pass_table(calls),
                "recommendations": [item.to_json() for item in items],
            }
        )
        return
    click.echo(path)
    say(f"{len(items)} tasks, {len(calls):,} calls; open it in a browser")

"""`tierwise report`: recorded calls, the plan and the audit log as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from tierwise.surfaces.cli.common import (
    config_option,
    emit_json,
    json_option,
    nothing_recorded,
    read_settings,
    say,
    since_option,
    store_option,
)
from tierwise.surfaces.cli.manual import OR_EMPTY, manual
from tierwise.surfaces.cli.plan import tasks_option
from tierwise.surfaces.cli.progress import lasting


@click.command(
    "report",
    epilog=manual(
        "tierwise report",
        "tierwise report -o june.html --since 30d --title June",
        fault=OR_EMPTY,
    ),
)
@tasks_option
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
    tasks: tuple[str, ...],
    more_tasks: tuple[str, ...],
    output: Path,
    title: str,
    simulated: bool,
    since: int | None,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Write one HTML page: recommended routes with reasons, charts, models compared, decisions, what is not known yet.

    Everything is inside the file: it asks no network for anything. Only you can read it until you change its
    permissions. Of more than 60 tasks (all, or those named) the most urgent have a section of their own. --json prints
    what the page is made from. Without recorded calls: a message and exit code 2.
    """
    from tierwise.surfaces.report import write_report
    from tierwise.surfaces.report.models import summaries, verdicts
    from tierwise.surfaces.report.reading import read_all

    settings = read_settings(config, store)
    with lasting("reading tasks") as told:
        found = read_all(settings, since=since, tasks=(*tasks, *more_tasks), told=told)
    if not found.calls and not found.recommendations:
        raise nothing_recorded(settings)
    path = write_report(
        calls=found.calls,
        recommendations=found.recommendations,
        path=output,
        title=title,
        simulated=simulated,
        notes=found.notes,
        generated_at=found.at,
        store=str(settings.store_path),
        sums=found.sums,
        history=found.history,
        table_version=found.table_version,
    )
    if as_json:
        models, _ = summaries(found.sums, found.calls)
        emit_json(
            {
                "report": path,
                "models": {name: summary.to_json() for name, summary in models.items()},
                "tasks": {one.task: verdicts(one) for one in found.sums},
                "recommendations": [item.to_json() for item in found.recommendations],
            }
        )
        return
    click.echo(path)
    count = len(found.recommendations)
    say(f"{count:,} task{'' if count == 1 else 's'}; open it in a browser")

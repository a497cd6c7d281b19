"""`tierwise apply`: write recommended routes to the route file, with an audit entry for each decision."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from rich.text import Text

from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    config_option,
    confirm,
    emit_json,
    json_option,
    out,
    read_settings,
    say,
    since_option,
    store_option,
    who,
)
from tierwise.surfaces.cli.manual import OR_EMPTY, manual
from tierwise.surfaces.cli.plan import make_plan, tasks_option
from tierwise.surfaces.cli.source import Source, source_options

if TYPE_CHECKING:
    from pathlib import Path

    from tierwise.advisor import Applied, Change
    from tierwise.core.route import Route


@click.command(
    "apply",
    epilog=manual(
        "tierwise apply --dry-run",
        "tierwise apply strict-json --yes --by ci",
        "tierwise apply summary --trial            # start its canary",
        fault=f"{OR_EMPTY}, or the route file cannot be written",
    ),
)
@tasks_option
@click.option("--dry-run", is_flag=True, help="Show what would change, change nothing.")
@click.option("--trial", is_flag=True, help="Start a canary (25 %) for tasks whose verdict is TRIAL.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--by", metavar="WHO", help="Who decides, for the audit log [default: user@host].")
@since_option("30d")
@json_option
@config_option
@store_option
@source_options
def command(
    tasks: tuple[str, ...],
    more_tasks: tuple[str, ...],
    dry_run: bool,
    trial: bool,
    yes: bool,
    by: str | None,
    since: int | None,
    as_json: bool,
    config: str | None,
    store: str | None,
    source: Source,
) -> None:
    """Write the routes that `tierwise plan` recommends (all tasks, or those named) to the route file.

    PROMOTE moves the primary, KEEP writes a first route where there is none, TRIAL needs --trial, and HOLD and
    INSUFFICIENT leave the primary; fallbacks, ladder and traffic shares may follow the evidence whatever the verdict.
    What will change is shown, and asked about, first. Each change is logged, and each verdict that is new for its task;
    `tierwise history` shows them, `tierwise rollback TASK` goes back.
    """
    from tierwise.advisor import Applied, apply, changes_of
    from tierwise.routing import read_table

    settings = read_settings(config, store)
    made, policy = make_plan(settings, since=since, tasks=(*tasks, *more_tasks), source=source)
    table = read_table(settings.routes_path)
    now = int(time.time())
    planned = changes_of(made.recommendations, table, now=now, policy=policy, trial=trial)
    open_changes = [change for change in planned if change.action != "none"]
    if not as_json:
        show(planned)
        if store is not None and open_changes:
            _tell_where_else(settings.routes_path, read_settings(config).routes_path)
    if dry_run:
        say("nothing was changed (--dry-run)")
        if as_json:
            _emit(Applied(table=table, changes=planned), dry_run=True)
        return
    if open_changes and not confirm(f"Write {len(open_changes)} route(s) to {settings.routes_path}?", yes=yes):
        say("nothing was changed")
        return
    applied = apply(
        made.recommendations,
        routes_path=settings.routes_path,
        audit_path=settings.audit_path,
        now=now,
        by=by or who(),
        expected_version=made.table_version,
        policy=policy,
        trial=trial,
    )
    if as_json:
        _emit(applied, dry_run=False)
    elif applied.changed:
        say(f"{settings.routes_path} is at version {applied.table.version}; undo with `tierwise rollback TASK`")
    else:
        say("nothing to change")


def _tell_where_else(written: Path, usual: Path) -> None:
    """Routes are beside the store: those beside a named store are not the ones that an application without it reads."""
    if written != usual:
        text = f"routes beside this store are written; applications with the default store read {usual}"
        say(f"note: {text}; set TIERWISE_ROUTES={usual} to write there", style="yellow")


def _emit(applied: Applied, *, dry_run: bool) -> None:
    emit_json(
        {
            "dry_run": dry_run,
            "changed": applied.changed and not dry_run,
            "version": applied.table.version,
            "changes": [change.to_json() for change in applied.changes],
        }
    )


def show(changes: Iterable[Change]) -> None:
    """Each task's change as a diff."""
    console = out()
    for change in changes:
        if change.action == "none":
            console.print(Text.assemble("  ", cell(change.task), "  ", cell(change.note, style="dim")), soft_wrap=True)
            continue
        console.print(Text.assemble(cell("~ " + change.task, style="bold"), "  ", change.action), soft_wrap=True)
        for line in _lines(change.before, change.after):
            console.print(line, soft_wrap=True)


def _lines(before: Route | None, after: Route | None) -> Iterable[Text]:
    old, new = _facts(before), _facts(after)
    for name in dict.fromkeys([*old, *new]):
        was, becomes = old.get(name, NOTHING), new.get(name, NOTHING)
        if was == becomes:
            yield cell(f"    {name}: {was}")
        else:
            yield Text.assemble(f"    {name}: ", cell(was, style="red"), " → ", cell(becomes, style="green"))


def _facts(route: Route | None) -> dict[str, str]:
    if route is None:
        return {}
    facts = {"primary": route.primary, "fallbacks": ", ".join(route.fallbacks) or NOTHING}
    if route.ladder:
        facts["ladder"] = ", then ".join(route.ladder)
    if route.canary is not None:
        facts["canary"] = f"{route.canary.candidate} at {100 * route.canary.share:g} %"
    return facts

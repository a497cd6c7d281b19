"""`tierwise rollback`: return a task to the route it had before its last change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.byhand import change_by_hand, change_options, cooldown_of
from tierwise.surfaces.cli.common import config_option, json_option, read_policy, read_settings, store_option, who
from tierwise.surfaces.cli.manual import OR_ROUTES, manual

if TYPE_CHECKING:
    from tierwise.advisor import Applied


@click.command(
    "rollback",
    epilog=manual(
        "tierwise rollback strict-json --note 'customers complain'",
        "tierwise rollback summary --dry-run",
        fault=OR_ROUTES,
    ),
)
@click.argument("task", required=False, shell_complete=complete.tasks)
@click.option("--task", "named", metavar="TASK", help="The same as TASK.", shell_complete=complete.tasks)
@change_options
@json_option
@config_option
@store_option
def command(
    task: str | None,
    named: str | None,
    dry_run: bool,
    yes: bool,
    by: str | None,
    note: str,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Return TASK to the route it had before its last change; once more goes back one more.

    A canary is one change, whatever its stages. The candidate that is left is not recommended again until the task has
    cooled down.
    """
    wanted = {name for name in (task, named) if name is not None}
    if len(wanted) != 1:
        raise click.UsageError("name one task: `tierwise rollback TASK`")
    from tierwise.advisor import rollback

    (chosen,) = wanted
    settings = read_settings(config, store)
    cooldown_s = cooldown_of(read_policy(settings), chosen)
    now = int(time.time())

    def make(*, expected_version: int | None, dry_run: bool) -> Applied:
        return rollback(
            chosen,
            routes_path=settings.routes_path,
            audit_path=settings.audit_path,
            now=now,
            by=by or who(),
            cooldown_s=cooldown_s,
            note=note,
            expected_version=expected_version,
            dry_run=dry_run,
        )

    change_by_hand(make, settings, dry_run=dry_run, yes=yes, as_json=as_json)

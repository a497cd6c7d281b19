"""`tierwise rollback`: return a task to the route it had before its last change."""

from __future__ import annotations

import time

import click

from tierwise.surfaces.cli.apply import show
from tierwise.surfaces.cli.common import (
    config_option,
    confirm,
    emit_json,
    json_option,
    read_policy,
    read_settings,
    say,
    store_option,
    who,
)


@click.command("rollback", epilog="Example:  tierwise rollback strict-json --note 'customers complain'")
@click.argument("task")
@click.option("--dry-run", is_flag=True, help="Show what would change, change nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--by", metavar="WHO", help="Who decides, for the audit log [default: user@host].")
@click.option("--note", default="", metavar="TEXT", help="Why, for the audit log.")
@json_option
@config_option
@store_option
def command(
    task: str,
    dry_run: bool,
    yes: bool,
    by: str | None,
    note: str,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Return TASK to the route it had before its last change; once more goes back one more.

    The candidate that is left is not recommended again until the task has cooled down.
    """
    from tierwise.advisor import rollback
    from tierwise.advisor.apply import DEFAULT_COOLDOWN_S

    settings = read_settings(config, store)
    policy = read_policy(settings)
    own = policy.for_task(task) if policy is not None else None
    cooldown_s = own.cooldown_s if own is not None else DEFAULT_COOLDOWN_S
    now = int(time.time())
    looked = rollback(
        task,
        routes_path=settings.routes_path,
        audit_path=settings.audit_path,
        now=now,
        by=by or who(),
        cooldown_s=cooldown_s,
        note=note,
        dry_run=True,
    )
    if not as_json:
        show(looked.changes)
    if not dry_run and not confirm(f"Write this route to {settings.routes_path}?", yes=yes):
        say("nothing was changed")
        return
    if dry_run:
        say("nothing was changed (--dry-run)")
        done = looked
    else:
        done = rollback(
            task,
            routes_path=settings.routes_path,
            audit_path=settings.audit_path,
            now=now,
            by=by or who(),
            cooldown_s=cooldown_s,
            note=note,
            expected_version=looked.table.version,
        )
        say(f"{settings.routes_path} is at version {done.table.version}")
    if as_json:
        changes = [change.to_json() for change in done.changes]
        emit_json({"dry_run": dry_run, "version": done.table.version, "changes": changes})

"""`tierwise abort`: end a task's canary."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.byhand import change_by_hand, change_options, cooldown_of, evidence_of
from tierwise.surfaces.cli.common import Duration, config_option, json_option, read_settings, store_option, who
from tierwise.surfaces.cli.manual import OR_ROUTES, manual
from tierwise.surfaces.cli.plan import report_of

if TYPE_CHECKING:
    from tierwise.advisor import Applied
    from tierwise.config import Settings
    from tierwise.core.recommendation import Recommendation


@click.command(
    "abort",
    epilog=manual(
        "tierwise abort strict-json --note 'wrong region'",
        "tierwise abort strict-json --for 24h --yes",
        fault=OR_ROUTES,
    ),
)
@click.argument("task", shell_complete=complete.tasks)
@click.option(
    "--for", "pause", type=Duration(), metavar="DURATION",
    help="Leave the challenger alone this long, then it may be tried again [default: for the policy's cool-down, and "
    "until its model, price, parameters or prompt version change].",
)  # fmt: skip
@change_options
@json_option
@config_option
@store_option
def command(
    task: str,
    pause: int | None,
    dry_run: bool,
    yes: bool,
    by: str | None,
    note: str,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """End the canary of TASK: all its traffic goes back to the primary, and the challenger backs off.

    `tierwise promote TASK MODEL` puts it in place all the same, `tierwise rollback TASK` undoes a promotion.
    """
    from tierwise.advisor import abort

    settings = read_settings(config, store)
    item, policy, _ = evidence_of(settings, task)
    backoff_s = float(pause) if pause is not None else cooldown_of(policy, task)
    epoch = None if pause is not None else _epoch(settings, task, item)
    now = int(time.time())

    def make(*, expected_version: int | None, dry_run: bool) -> Applied:
        return abort(
            task,
            routes_path=settings.routes_path,
            audit_path=settings.audit_path,
            now=now,
            by=by or who(),
            backoff_s=backoff_s,
            epoch=epoch,
            note=note,
            expected_version=expected_version,
            dry_run=dry_run,
        )

    change_by_hand(make, settings, dry_run=dry_run, yes=yes, as_json=as_json)


def _epoch(settings: Settings, task: str, item: Recommendation | None) -> str | None:
    """The challenger's present epoch; `None` when it cannot be told: then time alone counts."""
    from tierwise.routing import read_table

    route = read_table(settings.routes_path).routes.get(task)
    if route is None or route.canary is None:
        return None
    name = route.canary.candidate
    report = report_of(item, name) if item is not None else None
    return (report.epoch if report is not None else None) or route.epochs.get(name)

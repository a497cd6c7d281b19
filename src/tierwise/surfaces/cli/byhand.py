"""What `promote`, `abort` and `rollback` share: show a change, ask, make it from the same table, say what was done."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from tierwise.core.errors import ConfigError, TierwiseError
from tierwise.surfaces.cli.apply import show
from tierwise.surfaces.cli.common import confirm, emit_json, read_policy, say
from tierwise.surfaces.cli.plan import make_plan

if TYPE_CHECKING:
    from tierwise.advisor import Applied
    from tierwise.config import Settings
    from tierwise.core.policy import Policy
    from tierwise.core.recommendation import Recommendation

F = TypeVar("F", bound=Callable[..., Any])


class Make(Protocol):
    """Makes the change, or with `dry_run` only looks at it."""

    def __call__(self, *, expected_version: int | None, dry_run: bool) -> Applied:
        """Raises `RouteError` when the table is not at `expected_version` any more."""


def change_options(function: F) -> F:
    """Add `--dry-run`, `--yes`, `--by` and `--note`."""
    for option in (
        click.option("--note", default="", metavar="TEXT", help="Why, for the audit log."),
        click.option("--by", metavar="WHO", help="Who decides, for the audit log [default: user@host]."),
        click.option("--yes", "-y", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would change, change nothing."),
    ):
        function = option(function)
    return function


def evidence_of(
    settings: Settings, task: str, since: int | None = 30 * 86_400
) -> tuple[Recommendation | None, Policy | None, str | None]:
    """What the evidence says of a task at present, its policy, and why nothing can be said: people may decide all the same."""
    try:
        made, policy = make_plan(settings, since=since, tasks=[task])
    except ConfigError:
        raise
    except (TierwiseError, sqlite3.Error) as error:
        return None, read_policy(settings), f"the evidence could not be read, so nothing is known about it ({error})"
    return made.recommendations[0], policy, None


def cooldown_of(policy: Policy | None, task: str) -> float:
    """How long a task rests after a change, in seconds, as its policy says."""
    from tierwise.advisor.apply import DEFAULT_COOLDOWN_S

    own = policy.for_task(task) if policy is not None else None
    return own.cooldown_s if own is not None else DEFAULT_COOLDOWN_S


def change_by_hand(
    make: Make,
    settings: Settings,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    before_asking: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Look, show, ask, change; what `before_asking` returns stands in the JSON document as well."""
    looked = make(expected_version=None, dry_run=True)
    if not as_json:
        show(looked.changes)
    more = before_asking()
    if not dry_run and not confirm(f"Write this route to {settings.routes_path}?", yes=yes):
        say("nothing was changed")
        return
    if dry_run:
        say("nothing was changed (--dry-run)")
        done = looked
    else:
        done = make(expected_version=looked.table.version, dry_run=False)
        say(f"{settings.routes_path} is at version {done.table.version}")
    if as_json:
        changes = [change.to_json() for change in done.changes]
        emit_json({"dry_run": dry_run, "version": done.table.version, "changes": changes, **more})

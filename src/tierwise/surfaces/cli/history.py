"""`tierwise history`: who changed which route, when and why, from the audit log."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from tierwise.core.errors import RouteError
from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    config_option,
    emit_json,
    json_option,
    make_table,
    out,
    percent,
    read_settings,
    say,
    store_option,
    when,
)
from tierwise.surfaces.cli.manual import manual
from tierwise.surfaces.cli.plan import tasks_option

if TYPE_CHECKING:
    from tierwise.advisor import AuditEntry
    from tierwise.core.route import Route


@click.command(
    "history",
    epilog=manual("tierwise history", "tierwise history strict-json --json", "tierwise history --traffic --limit 200"),
)
@tasks_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest entries only.")
@click.option("--traffic", is_flag=True, help="New splits of the traffic too, which come every hour while exploring.")
@json_option
@config_option
@store_option
def command(
    tasks: tuple[str, ...],
    more_tasks: tuple[str, ...],
    limit: int,
    traffic: bool,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Show every change of routes and every new verdict (of all tasks, or those named), newest first: who, when, what, why.

    Automatic changes are marked. New splits of the traffic are left out unless asked for (--traffic).
    """
    from tierwise.advisor import read_history, real_entries
    from tierwise.routing import read_table

    settings = read_settings(config, store)
    wanted = (*tasks, *more_tasks)
    history = read_history(settings.audit_path, traffic=traffic)
    try:
        version = read_table(settings.routes_path).version
    except RouteError as error:
        say(f"warning: {error}", style="yellow")
        version = None
    real = {id(entry) for entry in real_entries(history.entries, current_version=version)}
    entries = list(islice((e for e in reversed(history.entries) if _shown(e, wanted, traffic=traffic)), limit))
    for problem in history.problems:
        say(f"warning: {problem}", style="yellow")
    if as_json:
        listed = [{**entry.to_json(), "in_force_once": id(entry) in real} for entry in entries]
        emit_json({"path": settings.audit_path, "entries": listed, "problems": list(history.problems)})
        return
    if not entries:
        about = f" about {', '.join(wanted)}" if wanted else ""
        say(f"no decisions yet{about}; `tierwise apply` makes one ({settings.audit_path})")
        return
    table = make_table("When", "Version", "Task", "Action", "Verdict", "Change", "By", "Why", right=("Version",))
    for entry in entries:
        why = entry.note or (entry.reasons[0].get("text", "") if entry.reasons else "")
        table.add_row(
            cell(when(entry.at)),
            cell(entry.version),
            cell(entry.task or f"{len(entry.traffic):,} task(s)"),
            cell(entry.action if id(entry) in real else f"{entry.action} (interrupted, never in force)"),
            cell(entry.verdict or NOTHING),
            cell(_split(entry, wanted) if entry.traffic else _change(entry.before, entry.after)),
            cell(entry.by + (" (automatic)" if entry.automatic else "")),
            cell(why),
        )
    out().print(table)


def _shown(entry: AuditEntry, wanted: tuple[str, ...], *, traffic: bool) -> bool:
    if entry.action == "traffic" and not entry.verdict and not traffic:
        return False
    return not wanted or entry.task in wanted or any(task in entry.traffic for task in wanted)


def _split(entry: AuditEntry, wanted: tuple[str, ...]) -> str:
    told = []
    for task, item in entry.traffic.items():
        shares = item.fields.get("propensities")
        if task in (wanted or entry.traffic) and isinstance(shares, dict):
            numbers = [(model, share) for model, share in sorted(shares.items()) if isinstance(share, (int, float))]
            parts = ", ".join(f"{model} {percent(share)}" for model, share in numbers)
            told.append(f"{task}: {parts}")
    return "; ".join(told[:3]) + (f"; and {len(told) - 3:,} more" if len(told) > 3 else "")


def _change(before: Route | None, after: Route | None) -> str:
    old, new = _short(before), _short(after)
    return new if old == new else f"{old} → {new}"


def _short(route: Route | None) -> str:
    if route is None:
        return NOTHING
    canary = route.canary
    return route.primary + (f" + {canary.candidate} {100 * canary.share:g} %" if canary is not None else "")

"""`tierwise doctor`: what is installed, which configuration is in force, whether records are sound, complete and exported."""

from __future__ import annotations

import platform
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from tierwise.core.errors import ConfigError, RouteError, StoreError
from tierwise.evidence.files import place_problem
from tierwise.surfaces.cli.common import (
    cell,
    clean,
    config_option,
    count,
    emit_json,
    is_there,
    json_option,
    make_table,
    open_store,
    out,
    probe_tasks,
    read_settings,
    recorded_elsewhere,
    say,
    store_option,
)
from tierwise.surfaces.cli.manual import manual
from tierwise.surfaces.cli.reach import export_points
from tierwise.surfaces.cli.store import health_json, size

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.core.evidence import EvidenceRow
    from tierwise.core.policy import Policy
    from tierwise.core.route import Route
    from tierwise.evidence import StoreHealth

PACKAGES: Final = ("openai", "opentelemetry-sdk", "genai-prices", "pydantic", "jsonschema-rs", "click", "rich")
MOST_NAMED: Final = 5
RECENT_S: Final = 30 * 86_400
CLOCK_SLACK_S: Final = 60.0
"""Machines that share a store may differ by this much without a finding."""

STYLES: Final = {"ok": "green", "note": "yellow", "finding": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing looked at: `finding` needs somebody to act, `note` is worth knowing; `todo` says what to do."""

    level: Literal["ok", "note", "finding"]
    about: str
    text: str
    todo: str = ""


@click.command(
    "doctor",
    epilog=manual("tierwise doctor", "tierwise doctor --json", finding="something needs doing", fault="wrong use"),
)
@json_option
@config_option
@store_option
def command(as_json: bool, config: str | None, store: str | None) -> None:
    """Check versions, policy, routes, store, losses, prices, clocks and export; exit 1 when something needs doing.

    Reads only. Where OTEL_* variables ask for export, it opens a connection to the endpoint's host
    and port and closes it again without sending anything.
    """
    health: StoreHealth | None = None
    points: list[Point] = []
    try:
        settings = read_settings(config, store)
    except ConfigError as error:
        points.append(_finding("config", str(error), "name an existing file with --config or TIERWISE_CONFIG"))
    else:
        policy, points = _policy(settings)
        health, found = _store(settings, policy)
        points += [*found, *_routes(settings, policy)]
    points.append(_catalogue())
    points += [Point(level=level, about="export", text=text, todo=todo) for level, text, todo in export_points()]
    failed = any(point.level == "finding" for point in points)
    if as_json:
        emit_json(
            {
                "ok": not failed,
                "versions": versions(),
                "points": [asdict(point) for point in points],
                "store": None if health is None else health_json(health),
            }
        )
    else:
        _show(points)
    if failed:
        raise click.exceptions.Exit(1)


def _show(points: list[Point]) -> None:
    out().print(clean(", ".join(f"{name} {version}" for name, version in versions().items())), soft_wrap=True)
    table = make_table("", "", "", whole=("",))
    table.show_header = False
    table.columns[2].no_wrap = False
    for point in points:
        text = f"{point.text}; {point.todo}" if point.todo else point.text
        table.add_row(cell(point.level, style=STYLES[point.level]), cell(point.about), cell(text))
    out().print(table)
    number = sum(point.level == "finding" for point in points)
    say(f"{number} finding(s)" if number else "nothing found", style="red" if number else "green")


def _ok(about: str, text: str) -> Point:
    return Point(level="ok", about=about, text=text)


def _note(about: str, text: str, todo: str = "") -> Point:
    return Point(level="note", about=about, text=text, todo=todo)


def _finding(about: str, text: str, todo: str) -> Point:
    return Point(level="finding", about=about, text=text, todo=todo)


def versions() -> dict[str, str]:
    """Versions of what matters here; packages that are not installed are left out."""
    from tierwise import __version__

    found = {"tierwise": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _policy(settings: Settings) -> tuple[Policy | None, list[Point]]:
    if settings.config_path is None:
        todo = "without one every model seen is a candidate; `tierwise schema` describes the file"
        return None, [_note("config", "no tierwise.yaml here or above", todo)]
    from tierwise.config import check_policy

    try:
        findings = check_policy(settings.config_path)
    except ConfigError as error:
        return None, [_finding("config", str(error), "make it readable, or name another with --config")]
    correct = "correct it; `tierwise validate` checks again"
    points = [_finding("config", str(one), correct) for one in findings.errors]
    points += [_note("config", str(one)) for one in findings.warnings]
    if findings.policy is not None:
        tasks = len(findings.policy.tasks) + (findings.policy.default is not None)
        points.append(_ok("config", f"{settings.config_path}: valid, {tasks} task(s)"))
    return findings.policy, points


def _routes(settings: Settings, policy: Policy | None) -> Iterator[Point]:
    from tierwise.routing import read_table

    path = settings.routes_path
    try:
        table = read_table(path)
    except RouteError as error:
        todo = "correct it, restore a copy, or move it away to start without routes"
        yield _finding("routes", str(error), todo)
        return
    if not table.version:
        yield _ok("routes", f"{path}: not there yet; `tierwise apply` makes it")
    else:
        yield _ok("routes", f"{path}: version {table.version}, {len(table.routes)} task(s)")
    strangers = [text for task in sorted(table.routes) if (text := _stranger(table.routes[task], policy)) is not None]
    if strangers:
        todo = "`tierwise plan` decides among the policy's candidates; add the model, or `tierwise promote TASK MODEL`"
        yield _note("routes", f"the policy does not name where some routes lead: {_some(strangers)}", todo)


def _stranger(route: Route, policy: Policy | None) -> str | None:
    """What is wrong with a route by the policy: its primary or canary is no candidate of the task any more."""
    own = policy.for_task(route.task) if policy is not None else None
    named = (route.primary, *([route.canary.candidate] if route.canary is not None else ()))
    unknown = [name for name in named if own is not None and name not in own.candidates]
    return f"{route.task} to {' and '.join(unknown)}" if unknown else None


def _store(settings: Settings, policy: Policy | None) -> tuple[StoreHealth | None, list[Point]]:
    path = settings.store_path
    if path is None:
        return None, [_note("store", "off: nothing is recorded on this machine", "unset TIERWISE_STORE to record")]
    if not is_there(path):
        return None, [*_place_for(path), *_elsewhere(settings)]
    try:
        with open_store(settings) as opened:
            health = opened.health()
            unpriced, probes = opened.unpriced_models(), probe_tasks(opened)
            tasks = [task for task in opened.tasks() if task not in probes]
            uncounted = _without_tokens(opened.evidence(int(time.time()) - RECENT_S))
    except StoreError as error:  # its message says what to do
        return None, [_finding("store", str(error), "")]
    points = [_soundness(health)]
    if problem := place_problem(path):
        todo = "check the owner and mode of the file and its folder, or set TIERWISE_STORE"
        points.append(_finding("store", f"new calls cannot be recorded: {problem}", todo))
    if not health.calls:
        points += _elsewhere(settings)
    return health, [
        *points,
        *_losses(health),
        _prices(health, unpriced),
        *_tokens(uncounted),
        *_clock(health),
        *_tasks(tasks, policy),
    ]


def _soundness(health: StoreHealth) -> Point:
    if not health.intact:
        todo = "copy it away, then restore a copy or let a new one be made"
        return _finding("store", f"{health.path}: damaged ({health.problem})", todo)
    return _ok(
        "store",
        f"{health.path}: {count(health.calls)} calls, {size(health.size_bytes)}, schema {health.schema_version}, intact",
    )


def _place_for(path: Path) -> Iterator[Point]:
    if problem := place_problem(path):
        todo = "make it writable for the user that runs the application, or set TIERWISE_STORE to a path that can be written"
        yield _finding("store", f"{path}: cannot be made: {problem}", todo)
    else:
        yield _note("store", f"{path}: not there yet", "the first recorded call makes it; `tierwise demo` shows one")


def _elsewhere(settings: Settings) -> Iterator[Point]:
    """Calls in the place that was the default before a tierwise.yaml or pyproject.toml moved it."""
    if found := recorded_elsewhere(settings):
        yield _note("store", f"no calls here, but {found}")


def _losses(health: StoreHealth) -> Iterator[Point]:
    if health.dropped:
        text = f"{count(health.dropped)} calls were made but not stored: the queue was full, or the store refused them"
        todo = "look for 'tierwise:' warnings in the application's log (locked file, full disk); the number stays"
        yield _finding("losses", text, todo)
    else:
        yield _ok("losses", "none counted")
    if health.pruned:
        yield _ok("retention", f"{count(health.pruned)} rows pruned so far; their hourly evidence is kept")


def _prices(health: StoreHealth, unpriced: list[tuple[str, str, int]]) -> Point:
    if not unpriced:
        return _ok("prices", "every call with tokens has a cost")
    names = _some([f"{provider}/{model} ({count(calls)})" for provider, model, calls in unpriced])
    todo = "state them under prices: in tierwise.yaml, then `tierwise prices reprice`"
    return _finding("prices", f"no cost for {count(health.unpriced)} calls: {names}", todo)


def _catalogue() -> Point:
    from tierwise.pricing.catalogue import describe
    from tierwise.surfaces.cli.prices import catalogue_words

    return _ok("prices", catalogue_words(describe(datetime.now(UTC))))


def _without_tokens(rows: Iterable[EvidenceRow]) -> Counter[str]:
    """Answered runs without any token count, by candidate; an error uses none."""
    found: Counter[str] = Counter()
    for row in rows:
        evidence = row.evidence
        if row.key.rung == 0 and not any(evidence.tokens.values()):
            found[row.key.candidate] += max(evidence.n - evidence.priced - evidence.outcomes.get("error", 0), 0)
    return +found


def _tokens(uncounted: Counter[str]) -> Iterator[Point]:
    if not uncounted:
        return
    names = _some([f"{candidate} ({count(runs)})" for candidate, runs in uncounted.most_common()])
    text = f"{count(uncounted.total())} answered runs of the last 30 days have no token counts, so no cost: {names}"
    yield _note(
        "tokens", text, "streams need `tierwise.instrument(client, stream_usage=True)` where the server allows it"
    )


def _clock(health: StoreHealth) -> Iterator[Point]:
    if health.newest_ns is None:
        return
    ahead_s = health.newest_ns / 1e9 - time.time()
    if ahead_s > CLOCK_SLACK_S:
        text = f"the newest call lies {ahead_s / 3600:,.1f} h in the future: a clock here or where it was made is wrong"
        yield _finding("clock", text, "set the clocks (NTP); such calls count in hours that have not come yet")
    else:
        yield _ok("clock", "no call lies in the future")


def _tasks(seen: list[str], policy: Policy | None) -> Iterator[Point]:
    from tierwise.core.call import UNASSIGNED

    if UNASSIGNED in seen:
        yield _note("tasks", "some calls have no task", "name the work with `with tierwise.task(...)`")
    if policy is None:
        return
    unknown = [task for task in seen if task != UNASSIGNED and task not in policy.tasks]
    if not unknown:
        return
    text = f"{count(len(unknown))} task(s) recorded that the policy does not name: {_some(unknown)}"
    if policy.default is not None:
        yield _note("tasks", f'{text}; "*" covers them')
    else:
        yield _finding("tasks", text, 'correct the spelling, add them under tasks:, or add a task "*"')


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

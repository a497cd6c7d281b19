"""`tierwise store`: where the embedded store is, what it holds, pruning and compacting it."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tierwise.core.errors import StoreError
from tierwise.evidence.sqlite import MAX_BYTES, RETENTION_S
from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    clean,
    config_option,
    count,
    emit_json,
    json_option,
    make_table,
    open_store,
    out,
    read_settings,
    say,
    store_option,
    when,
)
from tierwise.surfaces.cli.manual import OR_EMPTY, manual
from tierwise.surfaces.cli.progress import waiting

if TYPE_CHECKING:
    from tierwise.evidence import StoreHealth

F = TypeVar("F", bound=Callable[..., Any])


def _dry_run_option(function: F) -> F:
    return click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")(function)


@click.group(
    "store",
    epilog=manual(
        "tierwise store status", "sqlite3 \"$(tierwise store path)\" 'SELECT task, count(*) FROM calls GROUP BY task'"
    ),
)
def command() -> None:
    """Where the store is, what it holds, and its upkeep. Its tables are open to any SQLite tool."""


@command.command(
    "path",
    short_help="Print the path of the store's file.",
    epilog=manual(
        "tierwise store path",
        'sqlite3 "$(tierwise store path)"',
        fault="wrong use or configuration, or the store is off",
    ),
)
@json_option
@config_option
@store_option
def path(as_json: bool, config: str | None, store: str | None) -> None:
    """Print the path of the store's file, whether or not it exists yet."""
    found = read_settings(config, store).store_path
    if as_json:
        emit_json({"path": found, "exists": found is not None and found.is_file()})
    elif found is None:
        raise StoreError("the store is off (TIERWISE_STORE=off or --store off)")
    else:
        click.echo(str(found))


@command.command(
    "status",
    short_help="What it holds, its size, what was pruned or lost.",
    epilog=manual(
        "tierwise store status",
        "tierwise store status --json",
        finding="it is damaged",
        fault=OR_EMPTY,
    ),
)
@json_option
@config_option
@store_option
def status(as_json: bool, config: str | None, store: str | None) -> None:
    """Show what the store holds, how big it is, what was pruned or lost; exit 1 when it is damaged."""
    with open_store(read_settings(config, store)) as opened:
        health = opened.health()
    if as_json:
        emit_json(health_json(health))
    else:
        _show(health)
    if not health.intact:
        say(f"damaged: {health.problem}; copy the file away, then restore a copy or let a new one be made", style="red")
        raise click.exceptions.Exit(1)


@command.command(
    "prune",
    short_help="Delete rows beyond the retention now.",
    epilog=manual(
        "tierwise store prune --dry-run",
        "tierwise store prune",
        fault=OR_EMPTY,
    ),
)
@_dry_run_option
@json_option
@config_option
@store_option
def prune(dry_run: bool, as_json: bool, config: str | None, store: str | None) -> None:
    """Delete rows of calls and runs beyond the retention (30 days, 1 GiB) now; hourly evidence stays, and is packed.

    Writers do this by themselves once an hour. The file shrinks only a little: `tierwise store vacuum` does the rest.
    """
    settings = read_settings(config, store)
    if dry_run:
        with open_store(settings) as opened:
            expected = expect_pruned(opened.path)
        if as_json:
            emit_json({"dry_run": True, **asdict(expected)})
        else:
            about = "about " if expected.estimated else ""
            click.echo(f"{about}{expected.rows:,} rows would be deleted; the hourly evidence is kept")
        return
    with open_store(settings, read_only=False) as opened, waiting("deleting rows and packing evidence"):
        deleted = opened.prune()
        opened.pack()
    if as_json:
        emit_json({"dry_run": False, "deleted": deleted})
    else:
        click.echo(f"{deleted:,} rows deleted; the hourly evidence is kept")


@command.command(
    "vacuum",
    epilog=manual(
        "tierwise store vacuum --dry-run",
        "tierwise store vacuum",
        fault=OR_EMPTY,
    ),
)
@_dry_run_option
@json_option
@config_option
@store_option
def vacuum(dry_run: bool, as_json: bool, config: str | None, store: str | None) -> None:
    """Rewrite the file without free space. Needs as much free disk again; writers wait meanwhile."""
    settings = read_settings(config, store)
    if dry_run:
        with open_store(settings) as opened, _reading(opened.path) as connection:
            _, free = _pages(connection)
            file_bytes = opened.path.stat().st_size
        if as_json:
            emit_json({"dry_run": True, "size_bytes": file_bytes, "free_bytes": free})
        else:
            click.echo(f"{size(file_bytes)}, of which {size(free)} would be freed, and a little more by packing pages")
        return
    with open_store(settings, read_only=False) as opened, waiting("rewriting the file"):
        before, after = opened.vacuum()
    if as_json:
        emit_json({"dry_run": False, "before_bytes": before, "after_bytes": after})
    else:
        click.echo(f"{size(before)} → {size(after)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedPrune:
    """What pruning would delete: `rows` in all, `too_old` beyond the retention; `estimated` when size decides."""

    rows: int
    too_old: int
    estimated: bool


def expect_pruned(path: Path, *, now_s: float | None = None, max_bytes: int = MAX_BYTES) -> ExpectedPrune:
    """How many rows of calls and runs a prune would delete now, without deleting any.

    Rows go oldest first under both limits, so the larger number counts. Rows differ in size: beyond `max_bytes` it is
    an estimate.
    """
    limit_ns = int(((time.time() if now_s is None else now_s) - RETENTION_S) * 1e9)
    with _reading(path) as connection:
        used, _ = _pages(connection)
        rows, too_old = connection.execute(
            "SELECT count(*), coalesce(sum(started_at_ns < ?), 0) FROM "
            "(SELECT started_at_ns FROM calls UNION ALL SELECT started_at_ns FROM runs)",
            (limit_ns,),
        ).fetchone()
    too_many = math.ceil(rows * (used - max_bytes) / used) if used > max_bytes else 0
    return ExpectedPrune(rows=max(too_old, too_many), too_old=too_old, estimated=too_many > too_old)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        yield connection


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the pages in use, and of those that are free."""
    pages, free, page_size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * page_size, free * page_size


def health_json(health: StoreHealth) -> dict[str, object]:
    """A store's health as plain JSON values."""
    return {
        "path": health.path,
        "schema_version": health.schema_version,
        "calls": health.calls,
        "runs": health.runs,
        "evidence_rows": health.evidence_rows,
        "size_bytes": health.size_bytes,
        "wal_bytes": health.wal_bytes,
        "oldest_ns": health.oldest_ns,
        "newest_ns": health.newest_ns,
        "pruned": health.pruned,
        "dropped": health.dropped,
        "unpriced": health.unpriced,
        "intact": health.intact,
        "problem": health.problem,
    }


def size(number: int) -> str:
    """Bytes as `12.3 MiB`."""
    amount, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - the unit reached is what is wanted
        if amount < 1024:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _show(health: StoreHealth) -> None:
    def time(ns: int | None) -> str:
        return NOTHING if ns is None else when(ns // 10**9)

    table = make_table("Store", clean(str(health.path)))
    for name, value in (
        ("schema version", str(health.schema_version)),
        ("calls", count(health.calls)),
        ("  from", time(health.oldest_ns)),
        ("  to", time(health.newest_ns)),
        ("  without a price", count(health.unpriced)),
        ("runs of several calls", count(health.runs)),
        ("rows of evidence", count(health.evidence_rows)),
        ("size", f"{size(health.size_bytes)}, of which {size(health.wal_bytes)} write-ahead log"),
        ("pruned rows", count(health.pruned)),
        ("lost rows", count(health.dropped)),
        ("integrity", "ok" if health.intact else f"damaged: {health.problem}"),
    ):
        table.add_row(cell(name), cell(value))
    out().print(table)

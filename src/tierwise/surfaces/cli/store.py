"""`tierwise store`: where the embedded store is, what it holds, pruning and compacting it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tierwise.core.errors import StoreError
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

if TYPE_CHECKING:
    from tierwise.evidence import StoreHealth


@click.group(
    "store",
    epilog="Examples:  sqlite3 \"$(tierwise store path)\" 'SELECT task, count(*) FROM calls GROUP BY task'  |  "
    "tierwise store status",
)
def command() -> None:
    """Where the store is, what it holds, and its upkeep. Its tables are open to any SQLite tool."""


@command.command("path", epilog='Example:  sqlite3 "$(tierwise store path)"')
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


@command.command("status", epilog="Example:  tierwise store status --json")
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


@command.command("prune", epilog="Example:  tierwise store prune")
@json_option
@config_option
@store_option
def prune(as_json: bool, config: str | None, store: str | None) -> None:
    """Delete call rows beyond the retention (30 days, 1 GiB) now; hourly evidence stays."""
    with open_store(read_settings(config, store), read_only=False) as opened:
        deleted = opened.prune()
    if as_json:
        emit_json({"deleted": deleted})
    else:
        click.echo(f"{deleted:,} rows deleted; the hourly evidence is kept")


@command.command("vacuum", epilog="Example:  tierwise store vacuum")
@json_option
@config_option
@store_option
def vacuum(as_json: bool, config: str | None, store: str | None) -> None:
    """Rewrite the file without free space. Needs as much free disk again; writers wait meanwhile."""
    with open_store(read_settings(config, store), read_only=False) as opened:
        before, after = opened.vacuum()
    if as_json:
        emit_json({"before_bytes": before, "after_bytes": after})
    else:
        click.echo(f"{size(before)} → {size(after)}")


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

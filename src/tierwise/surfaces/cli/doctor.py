"""`tierwise doctor`: what is installed, which configuration is in force, whether the store is sound and complete."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import click

from tierwise.core.errors import ConfigError, RouteError, StoreError
from tierwise.surfaces.cli.common import (
    cell,
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
)
from tierwise.surfaces.cli.store import health_json, size

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.evidence import StoreHealth

PACKAGES: Final = ("openai", "opentelemetry-sdk", "genai-prices", "pydantic", "jsonschema-rs", "click", "rich")
SHOWN_VARIABLES: Final = frozenset(
    {
        "OTEL_SDK_DISABLED", "OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER",
        "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
    }
)  # fmt: skip
"""Variables whose values hold no secret; of all others the name alone is shown, of endpoints scheme, host and port."""

MOST_MODELS: Final = 5
Level = Literal["ok", "note", "finding"]
STYLES: Final = {"ok": "green", "note": "yellow", "finding": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing looked at: `finding` needs somebody to act, `note` is worth knowing."""

    level: Level
    about: str
    text: str


@click.command("doctor", epilog="Examples:  tierwise doctor  |  tierwise doctor --json")
@json_option
@config_option
@store_option
def command(as_json: bool, config: str | None, store: str | None) -> None:
    """Check versions, configuration, store, losses, prices and OpenTelemetry variables; exit 1 when something is wrong.

    Reads only; nothing is created and no network is used.
    """
    settings, points = _settings(config, store)
    health: StoreHealth | None = None
    if settings is not None:
        points += [*_policy(settings), *_routes(settings)]
        health, found = _store(settings)
        points += found
    points += _telemetry()
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
        out().print(", ".join(f"{name} {version}" for name, version in versions().items()), soft_wrap=True)
        table = make_table("", "", "")
        table.show_header = False
        for point in points:
            table.add_row(cell(point.level, style=STYLES[point.level]), cell(point.about), cell(point.text))
        out().print(table)
        findings = sum(point.level == "finding" for point in points)
        say(f"{findings} finding(s)" if failed else "nothing found", style="red" if failed else "green")
    if failed:
        raise click.exceptions.Exit(1)


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


def _settings(config: str | None, store: str | None) -> tuple[Settings | None, list[Point]]:
    try:
        return read_settings(config, store), []
    except ConfigError as error:
        return None, [Point(level="finding", about="config", text=str(error))]


def _policy(settings: Settings) -> Iterator[Point]:
    if settings.config_path is None:
        yield Point(level="note", about="config", text="no tierwise.yaml here or above; every model is a candidate")
        return
    from tierwise.config import check_policy

    try:
        findings = check_policy(settings.config_path)
    except ConfigError as error:
        yield Point(level="finding", about="config", text=str(error))
        return
    for one in findings.errors:
        yield Point(level="finding", about="config", text=str(one))
    for one in findings.warnings:
        yield Point(level="note", about="config", text=str(one))
    if findings.policy is not None:
        tasks = len(findings.policy.tasks) + (findings.policy.default is not None)
        yield Point(level="ok", about="config", text=f"{settings.config_path}: valid, {tasks} task(s)")


def _routes(settings: Settings) -> Iterator[Point]:
    from tierwise.routing import read_table

    if not settings.routes_path.exists():
        return
    try:
        table = read_table(settings.routes_path)
    except RouteError as error:
        yield Point(level="finding", about="routes", text=str(error))
    else:
        yield Point(level="ok", about="routes", text=f"{settings.routes_path}: version {table.version}")


def _store(settings: Settings) -> tuple[StoreHealth | None, list[Point]]:
    path = settings.store_path
    if path is None:
        return None, [Point(level="note", about="store", text="off; nothing is recorded on this machine")]
    if not path.exists():
        return None, [_place_for(path)]
    try:
        with open_store(settings) as opened:
            health = opened.health()
            unpriced = opened.unpriced_models()
    except StoreError as error:
        return None, [Point(level="finding", about="store", text=str(error))]
    points = [_soundness(health)]
    if not os.access(path, os.W_OK):
        points.append(Point(level="finding", about="store", text=f"{path}: cannot be written; check its owner and mode"))
    if health.dropped:
        text = f"{count(health.dropped)} calls were made but not stored: the queue was full, or the store refused them"
        points.append(Point(level="finding", about="losses", text=text))
    else:
        points.append(Point(level="ok", about="losses", text="none counted"))
    if unpriced:
        names = ", ".join(f"{provider}/{model} ({count(calls)})" for provider, model, calls in unpriced[:MOST_MODELS])
        more = f" and {len(unpriced) - MOST_MODELS} more" if len(unpriced) > MOST_MODELS else ""
        text = f"no cost for {count(health.unpriced)} calls: {names}{more}; `tierwise prices missing` says what to do"
        points.append(Point(level="finding", about="prices", text=text))
    else:
        points.append(Point(level="ok", about="prices", text="every call with tokens has a cost"))
    return health, points


def _soundness(health: StoreHealth) -> Point:
    if not health.intact:
        text = f"{health.path}: damaged ({health.problem}); copy it away, then restore a copy or let a new one be made"
        return Point(level="finding", about="store", text=text)
    text = f"{health.path}: {count(health.calls)} calls, {size(health.size_bytes)}, schema {health.schema_version}, intact"
    return Point(level="ok", about="store", text=text)


def _place_for(path: Path) -> Point:
    folder = next(parent for parent in path.parents if parent.exists())
    if folder.is_dir() and os.access(folder, os.W_OK):
        return Point(level="note", about="store", text=f"{path}: not there yet; the first recorded call makes it")
    text = f"{path}: cannot be made, {folder} is not a folder that can be written; set TIERWISE_STORE to another path"
    return Point(level="finding", about="store", text=text)


def _telemetry() -> list[Point]:
    names = sorted(name for name, value in os.environ.items() if name.startswith("OTEL_") and value)
    if not names:
        return [Point(level="note", about="telemetry", text="no OTEL_* variable is set; only the store records")]
    points = []
    for name in names:
        value = os.environ[name]
        if name.endswith("_ENDPOINT"):
            points.append(_endpoint(name, value))
        elif name == "OTEL_SDK_DISABLED" and value.strip().lower() == "true":
            points.append(Point(level="note", about="telemetry", text=f"{name}=true: nothing is exported"))
        else:
            text = f"{name}={value}" if name in SHOWN_VARIABLES else f"{name} is set"
            points.append(Point(level="ok", about="telemetry", text=text))
    return points


def _endpoint(name: str, value: str) -> Point:
    try:
        parts = urlsplit(value.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https"):
        text = f"{name} is not a URL; write http://HOST:4317 (gRPC) or http://HOST:4318 (HTTP)"
        return Point(level="finding", about="telemetry", text=text)
    shown = f"[{host}]" if ":" in host else host
    return Point(
        level="ok", about="telemetry", text=f"{name}={parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
    )

"""What every command shares: consoles, JSON, options, opening the store, asking, and the way numbers are written."""

from __future__ import annotations

import getpass
import json
import math
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tierwise.core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.core.policy import Policy
    from tierwise.evidence.sqlite import SqliteStore

F = TypeVar("F", bound=Callable[..., Any])

PIPE_WIDTH = 200
"""Columns assumed where output is not a terminal and `COLUMNS` is not set: wide enough that nothing is cut."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the group decide what a closed pipe means; rich would exit with 1, which is a finding here."""
        raise BrokenPipeError


def out() -> Console:
    """The console for data (stdout). Markup is off: names come from traffic and are data."""
    return _console(stderr=False)


def err() -> Console:
    """The console for narration (stderr)."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        columns = os.environ.get("COLUMNS", "")
        console.width = int(columns) if columns.isdigit() and int(columns) > 0 else PIPE_WIDTH
    return console


def say(message: str, *, style: str | None = None) -> None:
    """Narrate on stderr, control characters made visible."""
    err().print(clean(message, keep="\n"), style=style, soft_wrap=True)


def clean(text: str, *, keep: str = "") -> str:
    """Text that cannot drive a terminal: control and direction characters become `\\xNN` or `\\uNNNN`."""

    def visible(match: re.Match[str]) -> str:
        character = match.group()
        if character in keep:
            return character
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNSAFE.sub(visible, text)


def cell(value: object, *, style: str = "") -> Text:
    """A table cell whose text is data, never markup."""
    return Text(clean(str(value)), style=style)


def make_table(
    *columns: str, title: str | None = None, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()
) -> Table:
    """A plain table; the columns named in `right` hold numbers, those in `whole` are never broken over lines."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
    return table


def emit_json(value: object) -> None:
    """Print one JSON document on stdout: indented, ASCII, infinities and NaN as `null`."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def emit_jsonl(values: Iterator[object]) -> None:
    """Print one compact JSON document a line."""
    for value in values:
        click.echo(json.dumps(_finite(value), allow_nan=False, separators=(",", ":")))


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


# --- options -----------------------------------------------------------------------------------------------------


class Duration(click.ParamType[int | None]):
    """`30d`, `12h`, `90m`, `45s` or `all` -> seconds, or `None` for all."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Parse the text; fails with the accepted forms."""
        if value is None or isinstance(value, int):
            return value
        if value == "all":
            return None
        match = re.fullmatch(r"(\d{1,6})\s*([smhdw])", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration; write 30d, 12h, 90m or all", param, ctx)
        return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}[match[2]]


def config_option(function: F) -> F:
    """Add `--config PATH` (argument `config`)."""
    text = "Policy file [default: TIERWISE_CONFIG, else the nearest tierwise.yaml upward]."
    return click.option("--config", type=click.Path(dir_okay=False), metavar="FILE", help=text)(function)


def store_option(function: F) -> F:
    """Add `--store PATH` (argument `store`)."""
    text = "Store [default: TIERWISE_STORE, else .tierwise/tierwise.db of the project]."
    return click.option("--store", type=click.Path(dir_okay=False), metavar="FILE", help=text)(function)


def json_option(function: F) -> F:
    """Add `--json` (argument `as_json`)."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


def since_option(default: str = "30d") -> Callable[[F], F]:
    """Add `--since DURATION` (argument `since`: seconds back, or `None` for all)."""
    text = "How far back: 30d, 12h, 90m or all."

    def add(function: F) -> F:
        return click.option("--since", type=Duration(), default=default, show_default=True, help=text)(function)

    return add


# --- settings, policy, store -----------------------------------------------------------------------------------------


def read_settings(config: str | None = None, store: str | None = None) -> Settings:
    """Where everything is, from argument, environment and files, in this order."""
    from tierwise.config import read_settings as read

    return read(config=config, store=store)


def read_policy(settings: Settings, *, quiet: bool = False) -> Policy | None:
    """The policy in force, or `None` without a file; warnings are narrated, unless `quiet`.

    Raises:
        ConfigError: the file is broken; the message lists every error.
    """
    if settings.config_path is None:
        return None
    from tierwise.config import check_policy

    findings = check_policy(settings.config_path)
    for warning in () if quiet else findings.warnings:
        say(f"warning: {warning}", style="yellow")
    if findings.policy is None:
        raise ConfigError("\n".join(str(error) for error in findings.errors))
    return findings.policy


@contextmanager
def open_store(settings: Settings, *, read_only: bool = True) -> Iterator[SqliteStore]:
    """Open the store for a command and close it afterwards.

    Raises:
        StoreError: it is off, missing or cannot be opened; the message says what to do.
    """
    path = settings.store_path
    if path is None:
        raise StoreError("the store is off (TIERWISE_STORE=off or --store off); name one with --store FILE")
    if not is_there(path):
        raise _not_there(settings, path)
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a store; name the file, for example {path / 'tierwise.db'}")
    from tierwise.evidence.sqlite import SqliteStore

    with SqliteStore.open(path, read_only=read_only) as store:
        yield store


def is_there(path: Path) -> bool:
    """Whether something is at `path`, as far as this user may see."""
    try:
        return path.exists()
    except OSError:
        return False


def probe_tasks(store: SqliteStore) -> set[str]:
    """Recorded tasks that nothing but the token-budget probe of `bench` asked: no work of the user's."""
    from tierwise.config import PROBE_PREFIX, is_probe

    named = [task for task in store.tasks() if task.startswith(PROBE_PREFIX)]
    keys = [row.key for row in store.evidence(tasks=named)] if named else []
    return set(named) - {key.task for key in keys if not is_probe(key.task, key.session)}


def _not_there(settings: Settings, path: Path) -> StoreError:
    if problem := unwritable(path):
        return StoreError(problem)
    if elsewhere := recorded_elsewhere(settings):
        return StoreError(f"no calls recorded yet in {path}, which does not exist; {elsewhere}")
    return StoreError(
        f"no calls recorded yet: {path} does not exist; instrument a client "
        "(`client = tierwise.instrument(OpenAI())`), run `tierwise demo`, or name another store with --store FILE"
    )


def nothing_recorded(settings: Settings) -> StoreError:
    """The error of a store that exists and holds nothing in the window asked for, or that cannot take anything."""
    path = settings.store_path
    if path is not None and (problem := unwritable(path)):
        return StoreError(problem)
    if path is not None and not _call_count(path) and (elsewhere := recorded_elsewhere(settings)):
        return StoreError(f"no calls recorded yet in {path}; {elsewhere}")
    return StoreError(
        f"no calls recorded yet in {path} for this window; make some calls through an instrumented "
        "client, or widen --since (`--since all`)"
    )


def unwritable(path: Path) -> str | None:
    """What keeps a store at `path` from being made or written, and what to do; `None` when nothing does."""
    from tierwise.evidence.files import place_problem

    problem = place_problem(path)
    if problem is None:
        return None
    return (
        f"nothing can be recorded in {path}: {problem}; make it writable for the user that runs the application, or "
        "set TIERWISE_STORE to a path that can be written"
    )


def recorded_elsewhere(settings: Settings) -> str | None:
    """Calls in a default place other than the store in force, with the way to them; `None` when there are none."""
    from tierwise.config import other_stores
    from tierwise.config.discovery import FOLDER_NAME

    for other in other_stores(settings.store_path, config=settings.config_path):
        if number := _call_count(other):
            project = other.parent.name == FOLDER_NAME
            why = (
                "the default place of a project around this one"
                if project
                else ("the default place where there is no tierwise.yaml or pyproject.toml")
            )
            return (
                f"{count(number)} call{'s are' if number > 1 else ' is'} in {other}, {why}; to go on with "
                f"{'them' if number > 1 else 'it'}, set TIERWISE_STORE={shlex.quote(str(other))}, for the application too"
            )
    return None


def _call_count(path: Path) -> int:
    from tierwise.evidence.sqlite import SqliteStore

    try:
        with SqliteStore.open(path, read_only=True) as store:
            return store.call_count()
    except StoreError:
        return 0


# --- people ------------------------------------------------------------------------------------------------------


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on stderr; `--yes` answers. Without a terminal nobody can answer, so it is an error.

    Raises:
        ConfigError: not a terminal and no `--yes`.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Not a terminal, so nobody can answer: pass --yes, or --dry-run to look only")
    return click.confirm(question, err=True, default=False)


def who() -> str:
    """`user@host`, for the audit log."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = "unknown"
    return clean(f"{user}@{socket.gethostname()}")


# --- numbers -----------------------------------------------------------------------------------------------------

NOTHING = "–"


def money(usd: float | None) -> str:
    """USD with three significant digits below one dollar: `$0.00123`, `$12.34`."""
    if usd is None or not math.isfinite(usd):
        return NOTHING
    sign, size = ("-", -usd) if usd < 0 else ("", usd)
    if size == 0:
        return "$0"
    if size >= 1:
        return f"{sign}${size:,.2f}"
    digits = min(9, 2 - math.floor(math.log10(size)))
    return f"{sign}${size:.{digits}f}"


def percent(share: float | None, *, digits: int = 1) -> str:
    """A share in [0, 1] as `97.5 %`."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def seconds(duration_s: float | None) -> str:
    """Seconds as `1.25 s`, below one second as `250 ms`."""
    if duration_s is None or not math.isfinite(duration_s):
        return NOTHING
    return f"{1000 * duration_s:.0f} ms" if duration_s < 1 else f"{duration_s:.3g} s"


def count(number: int | None) -> str:
    """A count with thousands separated."""
    return NOTHING if number is None else f"{number:,}"


def when(unix_s: int) -> str:
    """Unix seconds as `2026-05-01 12:00 UTC`."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""What the shell offers for names: tasks, models, receipts, commands. It only reads, and says nothing when it cannot."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.core.policy import Policy
    from tierwise.core.route import RouteTable
    from tierwise.evidence.sqlite import SqliteStore

LATEST_CALLS: Final = 2_000
"""Of which models are offered."""
RECEIPTS: Final = 20
_SAFE: Final = re.compile(r"\w[\w.:/@%+,=-]*")
"""Names come from traffic, and bash puts what it is offered on the line as it is: nothing that a shell would obey."""

Offer = Callable[[click.Context, str], Iterable[CompletionItem]]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quietly(offer: Offer) -> Complete:
    """An offer that is empty where anything goes wrong: a shell that completes must not print errors."""

    @functools.wraps(offer)
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        try:
            return [
                one for one in offer(ctx, incomplete) if one.value.startswith(incomplete) and _SAFE.fullmatch(one.value)
            ]
        except Exception:  # noqa: BLE001 - see above
            return []

    return complete


@_quietly
def tasks(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Recorded tasks, then those of policy and route file; on a line that names some, the others."""
    from tierwise.core.call import UNASSIGNED

    del incomplete
    settings, policy, table = _known(ctx)
    recorded = _recorded(settings, lambda store: store.tasks())
    others = (*(policy.tasks if policy is not None else ()), *table.routes)
    given = ctx.params.get("tasks") or ()
    for name in dict.fromkeys((*recorded, *others)):
        if name not in given and name != UNASSIGNED:
            yield CompletionItem(name)


@_quietly
def models(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Candidates of the policy (of the TASK on the line, where there is one) and models of the latest calls.

    In a list with commas the last one is completed.
    """
    settings, policy, table = _known(ctx)
    task = ctx.params.get("task")
    own = policy.for_task(task) if policy is not None and isinstance(task, str) else None
    route = table.routes.get(task) if isinstance(task, str) else None
    if own is not None or route is not None:
        found = [*(own.candidates if own is not None else ()), *([route.primary, *route.fallbacks] if route else ())]
    else:
        candidates = (name for one in (policy.tasks.values() if policy is not None else ()) for name in one.candidates)
        found = [*candidates, *_recorded(settings, _latest_models)]
    before, comma, _ = incomplete.rpartition(",")
    for name in dict.fromkeys(found):
        if name not in before.split(",") and _SAFE.fullmatch(name):
            yield CompletionItem(before + comma + name)


@_quietly
def receipts(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Receipts of the latest calls that are runs of their own, with the call in words where the shell shows them."""
    from tierwise.core.receipt import receipt_keys, receipt_of, write_receipt
    from tierwise.instrument.marks import KEY_VARIABLE
    from tierwise.surfaces.cli.common import open_store, when

    del incomplete
    keys = receipt_keys(os.environ.get(KEY_VARIABLE))
    with open_store(_settings(ctx)) as store:
        latest = list(store.calls(limit=RECEIPTS, newest_first=True))
    for row in latest:
        if row.run_id is None:
            words = f"{row.task}, {row.candidate}, {row.outcome}, {when(row.started_at_ns // 10**9)}"
            yield CompletionItem(write_receipt(receipt_of(row.to_call()), keys), help=words)


@_quietly
def documented(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Commands whose `--json` has a schema."""
    from tierwise.surfaces.cli.outputs import OUTPUTS

    del ctx, incomplete
    yield from map(CompletionItem, OUTPUTS)


def _settings(ctx: click.Context) -> Settings:
    from tierwise.surfaces.cli.common import read_settings

    return read_settings(ctx.params.get("config"), ctx.params.get("store"))


def _known(ctx: click.Context) -> tuple[Settings, Policy | None, RouteTable]:
    """Where everything is, the policy and the routes; a broken file is as good as none."""
    from tierwise.core.errors import TierwiseError
    from tierwise.core.route import RouteTable
    from tierwise.routing import read_table
    from tierwise.surfaces.cli.common import read_policy

    settings = _settings(ctx)
    policy, table = None, RouteTable()
    with suppress(TierwiseError, OSError):
        policy = read_policy(settings, quiet=True)
    with suppress(TierwiseError, OSError):
        table = read_table(settings.routes_path)
    return settings, policy, table


def _recorded(settings: Settings, ask: Callable[[SqliteStore], list[str]]) -> list[str]:
    """What the store says; nothing where it cannot be read."""
    from tierwise.core.errors import StoreError
    from tierwise.surfaces.cli.common import open_store

    with suppress(StoreError, sqlite3.Error, OSError), open_store(settings) as store:
        return ask(store)
    return []


def _latest_models(store: SqliteStore) -> list[str]:
    return list(dict.fromkeys(row.candidate for row in store.calls(limit=LATEST_CALLS, newest_first=True)))

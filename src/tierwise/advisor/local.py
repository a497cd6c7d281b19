"""The plan of this project: policy, routes and store where the application has them, as `tierwise plan` reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tierwise.advisor.crew import plan_of_store
from tierwise.advisor.plan import Plan
from tierwise.config import load_policy, read_settings
from tierwise.core.errors import StoreError
from tierwise.core.evidence import HOUR_S
from tierwise.routing import read_table
from tierwise.runtime import open_store


def local_plan(
    tasks: Sequence[str] | None, *, since_s: float | None, config: str | Path | None, store: str | Path | None
) -> Plan:
    """Decide every task, or those named, from the evidence of the last `since_s` seconds (`None`: all of it).

    Raises:
        TierwiseError: a file is broken or missing, nothing is recorded, or a task is unknown.
    """
    settings = read_settings(config=config, store=store)
    policy = None if settings.config_path is None else load_policy(settings.config_path)
    now = int(time.time())
    since = None if since_s is None else (now - int(since_s)) // HOUR_S * HOUR_S
    with open_store(store) as opened:
        # One process: others would import the program that asks, which need not be ready for that.
        made = plan_of_store(
            opened, policy, read_table(settings.routes_path), now, since=since, tasks=tasks or None, processes=1
        )
        if made is None:
            raise StoreError(
                f"no calls recorded yet in {opened.path} for this window; make some calls through an instrumented client, "
                "or pass since_s=None for all that was ever recorded"
            )
    return made

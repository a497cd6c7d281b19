"""Names of tasks that tierwise itself gives: the prompts of the token-budget probe of bench and demo."""

from __future__ import annotations

from typing import Final

PROBE_PREFIX: Final = "token-budget-"


def is_probe(task: str, session: str) -> bool:
    """Whether calls (or evidence) of a task in a session are the probe's: recorded, but no work of the user's.

    `session` is empty for live traffic: an application's own task may have any name.
    """
    return bool(session) and task.startswith(PROBE_PREFIX)

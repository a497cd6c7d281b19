"""The registry of checks: functions of the answer that the application registers for a task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, TypeVar

from tierwise.core.checks import Check
from tierwise.core.errors import ConfigError

CheckFunction = TypeVar("CheckFunction", bound=Callable[..., bool | float])

_lock = threading.Lock()
_by_task: dict[str, tuple[Check, ...]] = {}


def check(
    task: str, *, name: str | None = None, on: Literal["text", "value"] = "text", threshold: float = 1.0
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function that judges the answers of a task: `@tierwise.check("summary")`.

    The function takes the answer's text, or with `on="value"` the parsed JSON value, and returns a bool or a score in
    [0, 1]; a score below `threshold` makes the call's outcome `check_failed`. It runs on the caller's thread after the
    answer is there; an exception in it is counted and changes nothing. Registering the same name again replaces it.

    Raises `ConfigError` for an empty task, a threshold outside [0, 1] or an unknown `on`.
    """
    if not isinstance(task, str) or not task.strip():
        raise ConfigError(f"check: the task must be a non-empty string, got {task!r}; write @tierwise.check('summary')")
    if on not in ("text", "value"):
        raise ConfigError(f"check for {task!r}: on must be 'text' or 'value', got {on!r}")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"check for {task!r}: threshold must be in [0, 1], got {threshold!r}")

    def register(function: CheckFunction) -> CheckFunction:
        made = Check(
            name=name or str(getattr(function, "__name__", "check")),
            function=function,
            on=on,
            threshold=float(threshold),
        )
        with _lock:
            others = tuple(known for known in _by_task.get(task, ()) if known.name != made.name)
            _by_task[task] = (*others, made)
        return function

    return register


def checks_for(task: str) -> tuple[Check, ...]:
    """The checks registered for a task."""
    return _by_task.get(task, ())


def forget_checks(task: str | None = None) -> None:
    """Remove the checks of a task, or all of them."""
    with _lock:
        if task is None:
            _by_task.clear()
        else:
            _by_task.pop(task, None)

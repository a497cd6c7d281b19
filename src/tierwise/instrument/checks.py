"""The registry of checks: functions of the answer that the application registers for a task."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tierwise.core.checks import Check, CheckSubject, make_check
from tierwise.core.errors import ConfigError

CheckFunction = TypeVar("CheckFunction", bound=Callable[..., bool | float | None])

_lock = threading.Lock()
_by_task: dict[str, tuple[Check, ...]] = {}


def check(
    task: str, *, name: str | None = None, on: CheckSubject | None = None, threshold: float = 1.0
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function that judges the answers of a task: `@tierwise.check("summary")`.

    The function takes the answer's text, with `on="value"` the parsed JSON value, with `on="logprob"` the mean log
    probability of its tokens, and returns a bool, a score in [0, 1], or `None` when it has nothing to say; a score below
    `threshold` makes the call's outcome `check_failed`. Without `on`, the ready-made checks of `tierwise.core.checks`
    know what they look at, any other function takes the text. It runs on the caller's thread after the answer is there;
    an exception in it is counted and changes nothing. Registering the same name again replaces it.

    Raises `ConfigError` for an empty task, a threshold outside [0, 1], an unknown `on`, and a function that cannot be
    called or is `async`.
    """
    if not isinstance(task, str) or not task.strip():
        raise ConfigError(f"check: the task must be a non-empty string, got {task!r}; write @tierwise.check('summary')")
    if on not in (None, "text", "value", "logprob"):
        raise ConfigError(f"check for {task!r}: on must be 'text', 'value' or 'logprob', got {on!r}")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"check for {task!r}: threshold must be in [0, 1], got {threshold!r}")

    def register(function: CheckFunction) -> CheckFunction:
        if not callable(function):
            raise ConfigError(f"check for {task!r}: {function!r} is not a function; write @tierwise.check({task!r})")
        if _is_async(function):
            raise ConfigError(
                f"check for {task!r}: {getattr(function, '__qualname__', function)!s} is async; a check runs on the "
                "caller's thread and cannot wait: write it with def"
            )
        made = make_check(function, name=name, on=on, threshold=float(threshold))
        with _lock:
            others = tuple(known for known in _by_task.get(task, ()) if known.name != made.name)
            _by_task[task] = (*others, made)
        return function

    return register


def _is_async(function: Any) -> bool:
    """Whether calling it gives something to wait for, which would be neither true nor false."""
    return any(
        inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)
        for one in (function, getattr(type(function), "__call__", None))  # noqa: B004
    )


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

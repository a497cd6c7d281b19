"""What tasks' answers take in tokens, as far as this process has seen, and token limits that would cut them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from tierwise.core.call import Call

MIN_SEEN: Final = 100
"""Answers of a task before anything is said: below, a p99 is the longest of few."""
_KEPT: Final = 1_000
_MAX_TASKS: Final = 1_000
_STEP: Final = 200
"""The p99 is worked out again after so many further answers."""

_log = logging.getLogger("tierwise")


class _Seen:
    __slots__ = ("counts", "p99", "until")

    def __init__(self) -> None:
        self.counts: deque[int] = deque(maxlen=_KEPT)
        self.until = MIN_SEEN
        self.p99: int | None = None


class OutputLimits:
    """Output tokens of the latest 1,000 whole answers of each task, and the warnings that follow from them."""

    __slots__ = ("_lock", "_tasks", "_told")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, _Seen] = {}
        self._told: set[tuple[str, int]] = set()

    def saw(self, call: Call) -> None:
        """Take note of an answer that no limit cut; those that one cut are as long as the limit and say nothing."""
        tokens = None if call.usage is None else call.usage.output_tokens
        if tokens is None or call.outcome in ("truncated", "error", "rejected", "cancelled"):
            return
        seen = self._tasks.get(call.task)
        if seen is None:
            if len(self._tasks) >= _MAX_TASKS:
                return
            seen = self._tasks.setdefault(call.task, _Seen())
        with self._lock:
            seen.counts.append(tokens)
            seen.until -= 1
            if seen.until <= 0:
                seen.until = _STEP
                ordered = sorted(seen.counts)
                seen.p99 = ordered[-(-99 * len(ordered) // 100) - 1]

    def p99(self, task: str) -> int | None:
        """Output tokens that 99 % of a task's answers stay within; `None` below 100 answers."""
        seen = self._tasks.get(task)
        return None if seen is None else seen.p99

    def enough(self, task: str, limit: int, *, raises: bool) -> int | None:
        """The limit to use in place of one that would cut the task's answers, `None` where it is fine; said once."""
        needed = self.p99(task)
        if needed is None or limit >= needed:
            return None
        if (task, limit) not in self._told and len(self._told) < _MAX_TASKS:
            self._told.add((task, limit))
            _log.warning(
                "tierwise: task %s: max_tokens=%d would cut answers, 99 %% of them take up to %d tokens; %s",
                task,
                limit,
                needed,
                "raised" if raises else f"use max_tokens={needed} or set raise_max_tokens: true in the policy",
            )
        return needed if raises else None

"""What tasks' answers take in tokens, as far as store and process know, and token limits that would cut them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tierwise.core.call import Call

MIN_SEEN: Final = 100
"""Answers of a task before anything is said: below, a p99 is the longest of few."""
CUT: Final = ("truncated", "error", "rejected", "cancelled")
"""Outcomes of answers that say nothing about the length of whole ones."""
_KEPT: Final = 1_000
_MAX_TASKS: Final = 1_000
_STEP: Final = 200
"""The p99 is worked out again after so many further answers."""

_log = logging.getLogger("tierwise")

Earlier = Callable[[], Mapping[str, Sequence[int]]]
"""Output tokens of earlier answers by task, oldest first. May take its time, and may raise."""


class _Seen:
    __slots__ = ("asked", "counts", "p99", "until")

    def __init__(self) -> None:
        self.counts: deque[int] = deque(maxlen=_KEPT)
        self.until = MIN_SEEN
        self.p99: int | None = None
        self.asked: tuple[int, bool] | None = None
        """A limit that was asked about before the earlier answers were there."""


class OutputLimits:
    """Output tokens of the latest 1,000 whole answers of each task, and the warnings that follow from them.

    `earlier` is read once, on a thread of its own, when the first call has been looked at: no call waits for it.
    """

    __slots__ = ("_earlier", "_lock", "_tasks", "_told")

    def __init__(self, earlier: Earlier | None = None) -> None:
        self._earlier = earlier
        self._lock = threading.Lock()
        self._tasks: dict[str, _Seen] = {}
        self._told: set[tuple[str, int]] = set()

    def saw(self, call: Call) -> None:
        """Take note of an answer that no limit cut; those that one cut are as long as the limit and say nothing."""
        tokens = None if call.usage is None else call.usage.output_tokens
        if tokens is not None and call.outcome not in CUT:
            self.add(call.context.name, tokens)

    def add(self, task: str, tokens: int) -> None:
        """Take note of a whole answer's length."""
        seen = self._tasks.get(task)
        if seen is None:
            seen = self._of(task)
            if seen is None:
                return
        seen.counts.append(tokens)
        seen.until -= 1
        if seen.until <= 0:
            self._work_out(seen)

    def p99(self, task: str) -> int | None:
        """Output tokens that 99 % of a task's answers stay within; `None` below 100 answers."""
        seen = self._tasks.get(task)
        return None if seen is None else seen.p99

    def enough(self, task: str, limit: int, *, raises: bool) -> int | None:
        """The limit to use in place of one that would cut the task's answers, `None` where it is fine; said once."""
        seen = self._tasks.get(task)
        if seen is None:
            seen = self._of(task)
            if seen is None:
                return None
            seen.asked = (limit, raises)
        needed = seen.p99
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

    def _of(self, task: str) -> _Seen | None:
        if len(self._tasks) >= _MAX_TASKS:
            return None
        seen = self._tasks.setdefault(task, _Seen())
        with self._lock:
            earlier, self._earlier = self._earlier, None
        if earlier is not None:
            try:
                threading.Thread(target=self._load, args=(earlier,), name="tierwise-limits", daemon=True).start()
            except RuntimeError:  # the interpreter is ending
                return seen
        return seen

    def _load(self, earlier: Earlier) -> None:
        try:
            found = earlier()
        except Exception as fault:  # noqa: BLE001 - what this process sees is enough in time
            _log.debug("tierwise: token counts of earlier answers: %r", fault)
            return
        for task, counts in found.items():
            if task not in self._tasks and len(self._tasks) >= _MAX_TASKS:
                continue
            seen = self._tasks.setdefault(task, _Seen())
            room = _KEPT - len(seen.counts)
            seen.counts.extendleft(reversed(counts[-room:] if room > 0 else ()))
            if len(seen.counts) >= MIN_SEEN:
                self._work_out(seen)
        for task, seen in list(self._tasks.items()):
            asked, seen.asked = seen.asked, None
            if asked is not None:  # the only call of a process, perhaps
                self.enough(task, asked[0], raises=asked[1])

    def _work_out(self, seen: _Seen) -> None:
        with self._lock:
            seen.until = _STEP
            ordered = sorted(seen.counts)
            seen.p99 = ordered[-(-99 * len(ordered) // 100) - 1]

"""Shadows: a run's prompt asked of a challenger as well, in the background, bounded, within a budget, and never used."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tierwise.core.call import Call, Pair, TaskContext
from tierwise.core.pairs import of_pair
from tierwise.core.records import dataclass
from tierwise.instrument.dialects.base import Dialect, Reading
from tierwise.instrument.entering import enter, leave
from tierwise.instrument.guard import quietly
from tierwise.instrument.lanes import Lane, is_async
from tierwise.instrument.observation import Observation, Routed

if TYPE_CHECKING:
    from tierwise.core.route import Draw

THREADS: Final = 2
WAITING: Final = 32
"""Shadows that wait for a thread, or run at once in an event loop; what comes beyond is left out."""
_DAY_S: Final = 86_400
_log = logging.getLogger("tierwise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """One request that a challenger gets as well, and the call whose prompt it is."""

    candidate: str
    lane: Lane
    client: Any
    options: Any
    body: Mapping[str, Any]
    dialect: Dialect
    draw: Draw
    context: TaskContext
    partner: Call
    pool: Shadows

    def observation(self) -> Observation:
        """The shadow's own call: of no run, of an arm that nothing else has."""
        routed = Routed(
            candidate=self.candidate,
            arm="shadow",
            version=self.draw.version,
            propensity=None,
            context=self.context,
            run=None,
            ended=self._ended,
        )
        return Observation(self.lane.hook, self.dialect, self.body, False, routed=routed)

    def _ended(self, _: Observation, call: Call, __: Reading, ___: BaseException | None) -> Call:
        """The call with the pair's sums, where both sides of it count; what it cost is taken off the budget."""
        cost = None if call.cost is None else call.cost.amount_usd
        self.pool.spent(self.context.name, cost)
        if not (call.counted and self.partner.counted):
            return call
        partner_cost = self.partner.cost
        sums = of_pair(
            incumbent_success=self.partner.outcome == "success",
            challenger_success=call.outcome == "success",
            incumbent_cost_usd=None if partner_cost is None else partner_cost.amount_usd,
            challenger_cost_usd=cost,
        )
        values = tuple(float(getattr(sums, name)) for name in type(sums).__dataclass_fields__)
        return replace(call, pair=Pair(candidate=self.partner.candidate, sums=values))


class Shadows:
    """Runs shadows: synchronous ones on two threads of its own, asynchronous ones as tasks of the caller's event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Shadow] = queue.Queue(WAITING)
        self._threads = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._usd: dict[str, float] = {}
        self._unknown: set[str] = set()
        self._day = 0
        self.dropped = 0
        """Shadows that were left out since too many were under way."""

    def allows(self, task: str, budget_usd_per_day: float | None) -> bool:
        """Whether a task's budget of this process and day (UTC) has room; a shadow of unknown cost ends it."""
        if budget_usd_per_day is None:
            return True
        self._new_day()
        return task not in self._unknown and self._usd.get(task, 0.0) < budget_usd_per_day

    def spent(self, task: str, usd: float | None) -> None:
        """Take what a shadow cost off its task's budget."""
        self._new_day()
        with self._lock:
            if usd is None:
                self._unknown.add(task)
            else:
                self._usd[task] = self._usd.get(task, 0.0) + usd

    def _new_day(self) -> None:
        day = int(self._clock()) // _DAY_S
        if day != self._day:
            with self._lock:
                self._day = day
                self._usd.clear()
                self._unknown.clear()

    def submit(self, shadow: Shadow) -> None:
        """Have a shadow run some time; never waits."""
        if self._pid != os.getpid():
            self._start_over()
        if is_async(shadow.client):
            self._submit_task(shadow)
            return
        try:
            self._waiting.put_nowait(shadow)
        except queue.Full:
            self.dropped += 1
            return
        if self._threads < THREADS:
            with self._lock:
                if self._threads < THREADS:
                    self._threads += 1
                    threading.Thread(target=self._work, name="tierwise-shadow", daemon=True).start()

    def _submit_task(self, shadow: Shadow) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another event loop than asyncio's, or none any more
            self.dropped += 1
            return
        if len(self._tasks) >= WAITING:
            self.dropped += 1
            return
        task = loop.create_task(self._run_async(shadow), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def wait(self, timeout_s: float) -> bool:
        """Wait until no synchronous shadow waits or runs; false when that took longer."""
        end = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks:
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)
        return True

    def _work(self) -> None:
        waiting = self._waiting
        while True:
            shadow = waiting.get()
            try:
                contextvars.Context().run(self._run, shadow)
            except BaseException as error:  # noqa: BLE001 - nobody waits for a shadow
                _log.debug("tierwise: a shadow of %s: %r", shadow.context.name, error)
            finally:
                del shadow
                waiting.task_done()

    def _run(self, shadow: Shadow) -> None:
        lane, observation = shadow.lane, shadow.observation()
        entered = enter(observation)
        try:
            result = _owner(lane).request(shadow.client, object, shadow.options)
        except BaseException as error:
            leave(observation, entered)
            quietly(lane.hook.recorder, "shadow", observation.failed, error)
            raise
        leave(observation, entered)
        observation.http_response = None
        quietly(lane.hook.recorder, "shadow", observation.answered, result)

    async def _run_async(self, shadow: Shadow) -> None:
        lane = shadow.lane
        try:
            observation = shadow.observation()
            entered = enter(observation)
            try:
                result = await _owner(lane).request(shadow.client, object, shadow.options)
            except BaseException as error:
                leave(observation, entered)
                quietly(lane.hook.recorder, "shadow", observation.failed, error)
                raise
            leave(observation, entered)
            observation.http_response = None
            quietly(lane.hook.recorder, "shadow", observation.answered, result)
        except Exception as error:  # noqa: BLE001 - nobody waits for a shadow
            _log.debug("tierwise: a shadow of %s: %r", shadow.context.name, error)


def _owner(lane: Lane) -> Any:
    return lane.owner or lane.hook.original_class


def shadow_of(
    partner: Call,
    *,
    candidate: str,
    lane: Lane,
    client: Any,
    options: Any,
    body: Mapping[str, Any],
    dialect: Dialect,
    draw: Draw,
    context: TaskContext,
    pool: Shadows,
) -> None:
    """Have a challenger asked what a run was asked, now that its first call has ended."""
    if partner.arm == "fallback" or partner.context.risk == "high":
        return
    if not pool.allows(context.name, draw.shadow_budget_usd_per_day):
        return
    pool.submit(
        Shadow(
            candidate=candidate, lane=lane, client=client, options=options, body=body, dialect=dialect, draw=draw, context=context,
            partner=partner, pool=pool,
        )
    )  # fmt: skip

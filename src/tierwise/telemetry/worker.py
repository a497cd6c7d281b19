"""One queue and one thread per runtime: finished calls go to the metrics at once, to the sinks in batches."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tierwise.core.call import Call, Run
from tierwise.core.records import dataclass
from tierwise.telemetry import process
from tierwise.telemetry import semconv as sc
from tierwise.telemetry.feed import BATCH, Feed

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from tierwise.core.ports import PriceLater, Sink
    from tierwise.core.receipt import Verdict
    from tierwise.telemetry.faults import Faults
    from tierwise.telemetry.metrics import MetricTable
    from tierwise.telemetry.series import FeedbackKey

CAPACITY: Final = 16_384
INTERVAL_S: Final = 0.1
_ROUNDS_BEFORE_SLEEP: Final = 20
_PUMP_S: Final = 0.5
"""How long rows are written before the queue and the requests of others are looked at again, seconds."""
_EXPORT_S: Final = 1.0
"""What exporters get at the end at least, seconds, however long the sinks took."""

_log = logging.getLogger("tierwise")

CallItem = tuple[Call, "Span", "PriceLater | None"]
Settle = Callable[[Call, "Span", bool], None]
"""What a call still needs outside the caller's thread: `settle(call, span, late)`; `late` means the span is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackItem:
    """One verdict of the application on a call; `emit` sends its log record, `key` is its series where it is counted."""

    key: FeedbackKey | None
    emit: Callable[[], None]
    verdict: Verdict


Item = CallItem | Run | FeedbackItem


class _Ticket:
    """A request to the thread: flush (and, with `last`, end); `finished` is plain so that a signal handler may poll."""

    __slots__ = ("deadline", "done", "exporters", "finished", "last", "ok", "stored", "until")

    def __init__(self, *, timeout_s: float, last: bool = False, exporters: bool = False) -> None:
        self.deadline = time.monotonic() + timeout_s
        # A sink that is slow at the end is left while the loss can still be counted, before the process is gone.
        self.until = self.deadline + timeout_s / 2 if last else math.inf
        self.last = last
        self.exporters = exporters
        self.done = threading.Event()
        self.finished = False
        self.stored = False
        self.ok = False


class Worker:
    """Takes finished calls from any thread; `put` never blocks and never raises for want of room.

    The metrics' lock makes one order: whoever drains (this thread, a metric collection, a flush) takes an item and
    records it before anyone else takes the next. Sinks are only touched by this thread.
    """

    def __init__(
        self,
        metrics: MetricTable,
        *,
        faults: Faults,
        settle: Settle,
        sinks: Sequence[Sink] = (),
        flush_exporters: Callable[[float], bool] | None = None,
        close_exporters: Callable[[float], bool] | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        self._metrics = metrics
        self._faults = faults
        self._settle = settle
        self._flush_exporters = flush_exporters
        self._close_exporters = close_exporters
        self._size = capacity
        self._room = capacity
        self._closed = False
        self._feeds = [Feed(sink, capacity=capacity, faults=faults, dropped=self._drop_rows) for sink in sinks]
        self._start_over()
        metrics.add_drain(self.drain)
        process.watch(self)

    def _start_over(self) -> None:
        self._queue: deque[Item] = deque()
        self._recorded: deque[Item] = deque()
        self._bell: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asleep = True

    # --- any thread --------------------------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Queue one finished call, run or verdict."""
        waiting = self._queue
        if len(waiting) >= self._room:
            self._overflow(item)
            return
        waiting.append(item)
        if self._asleep or len(waiting) == BATCH:
            self._ring()

    def drain(self) -> None:
        """Record the metrics of everything that is queued now; what is in another thread's hands is waited for."""
        waiting = self._queue
        for _ in range(2):  # pricing a run's last call ends the run, which is then queued itself
            for _ in range(len(waiting)):
                with self._metrics.lock:
                    try:
                        item = waiting.popleft()
                    except IndexError:
                        return
                    self._record(item)

    def flush(self, timeout_s: float, *, exporters: bool = False) -> bool:
        """Record and store everything finished so far; True when that was done within `timeout_s` seconds."""
        if self._closed:
            self.drain()
            return True
        ok = self._request(_Ticket(timeout_s=timeout_s, exporters=exporters), timeout_s)
        self._faults.raise_pending()
        return ok

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """Flush, close the sinks and the exporters, end the thread. What finishes later is recorded in the metrics only.

        It takes `timeout_s` seconds at most, twice that where a sink refuses: its last try is waited for.
        """
        with self._starting:
            if self._closed:
                return True
            self._closed = True
        process.forget(self)
        thread = self._thread
        ticket = _Ticket(timeout_s=timeout_s, last=True)
        ok = self._request(ticket, timeout_s)
        self._room = 0
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=_EXPORT_S if ok or ticket.stored else max(0.1, timeout_s))
        self.drain()
        self._metrics.remove_drain(self.drain)
        self._faults.raise_pending()
        return ok

    def request_last_flush(self, timeout_s: float) -> Callable[[], bool]:
        """Ask the thread for a flush of everything, exporters included, without taking any lock (for a signal handler).

        Returns a function that says whether it is done.
        """
        if self._thread is None:
            return lambda: True
        ticket = _Ticket(timeout_s=timeout_s, exporters=True)
        self._bell.put(ticket)
        return lambda: ticket.finished

    def after_fork_in_child(self) -> None:
        """Start from nothing: the parent still holds what it queued."""
        self._start_over()
        for feed in self._feeds:
            feed.after_fork_in_child()

    @property
    def fork_lock(self) -> threading.Lock:
        """The lock to hold while the process forks, so that no recording is cut in half."""
        return self._metrics.lock

    def reset_metrics(self) -> None:
        """Start the metrics from nothing in a forked child."""
        self._metrics.after_fork_in_child()

    # --- the caller's side, rare paths -------------------------------------------------------------------------------

    def _overflow(self, item: Item) -> None:
        """Full (or closed): record the metrics here, leave the store out. A busy lock means queueing, not waiting."""
        lock = self._metrics.lock
        if not (lock.acquire(timeout=0.5) if self._closed else lock.acquire(blocking=False)):
            if len(self._queue) < 2 * self._size and not self._closed:
                self._queue.append(item)
            else:
                self._metrics.count_dropped("metrics")
                if self._feeds:
                    self._drop_rows(1)
                self._give_up_price(item)
            return
        if self._feeds:
            self._drop_rows(1)
        try:
            if isinstance(item, tuple) and item[2] is not None:
                # Pricing may wait for the catalogue; the caller must not.
                self._metrics.count_dropped(sc.DROPPED_PRICE)
                self._settle_safely(item[0], item[1], late=True)
            self._record_metrics(item)
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("metrics", error)
        finally:
            lock.release()
        self._give_up_price(item)  # may queue the call's run, so outside of the lock

    def _give_up_price(self, item: Item) -> None:
        if not isinstance(item, tuple) or item[2] is None:
            return
        try:
            item[2].skip(item[0])
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("price", error)

    def _ring(self) -> None:
        if not self._starting.acquire(blocking=False):
            return  # someone is starting the thread at this moment
        try:
            thread = self._thread
            if thread is None:
                thread = threading.Thread(target=self._run, name="tierwise-worker", daemon=True)
                thread.start()
                self._thread = thread
            else:
                self._bell.put(None)
            self._asleep = False
        except RuntimeError:
            self._thread = None  # the interpreter is ending: flush and collections drain on their own thread
        finally:
            self._starting.release()

    def _request(self, ticket: _Ticket, timeout_s: float) -> bool:
        if self._thread is None and (self._queue or self._recorded or any(map(len, self._feeds))):
            self._ring()
        thread = self._thread
        if thread is None or not thread.is_alive() or thread is threading.current_thread():
            self._serve(ticket)
        else:
            self._bell.put(ticket)
            ticket.done.wait(timeout_s)
        return ticket.ok

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        idle_rounds = 0
        while True:
            tickets = self._wait(doze=idle_rounds >= _ROUNDS_BEFORE_SLEEP)
            idle_rounds = 0 if self._queue or self._recorded or tickets else idle_rounds + 1
            self._asleep = False
            try:
                self.drain()
                self._pump(until=time.monotonic() + _PUMP_S)
            except Exception as error:  # noqa: BLE001
                self._faults.note_in_background("worker", error)
            for ticket in tickets:
                self._serve(ticket)
            if any(ticket.last for ticket in tickets):
                return

    def _wait(self, *, doze: bool) -> list[_Ticket]:
        """Sleep for one interval, or, after a quiet while, until someone rings; returns the flushes asked for."""
        pause: float | None = INTERVAL_S
        if doze and not any(map(len, self._feeds)):
            # The order matters: a put appends, then looks at the flag; here the flag is set, then the queue looked at.
            self._asleep = True
            pause = 0.0 if self._queue else None
        tickets: list[_Ticket] = []
        try:
            rung = self._bell.get(timeout=pause) if pause != 0.0 else self._bell.get_nowait()
            while True:
                if rung is not None:
                    tickets.append(rung)
                rung = self._bell.get_nowait()
        except queue.Empty:
            return tickets

    def _serve(self, ticket: _Ticket) -> None:
        try:
            self.drain()
            ok = self._pump(now=True, until=ticket.until)
            while not ok and time.monotonic() < ticket.deadline:
                time.sleep(min(0.05, max(0.0, ticket.deadline - time.monotonic())))
                ok = self._pump(now=True, until=ticket.until)
            flushed = [feed.flush() for feed in self._feeds]
            ok = all(flushed) and ok
            if ticket.exporters and self._flush_exporters is not None:
                ok = self._flush_exporters(max(0.1, ticket.deadline - time.monotonic())) and ok
            if ticket.last:
                for feed in self._feeds:
                    feed.close()
                ticket.stored = True
                ok = self._end_exporters(max(_EXPORT_S, ticket.deadline - time.monotonic())) and ok
            ticket.ok = ok
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("worker", error)
        finally:
            ticket.finished = True
            ticket.done.set()

    def _end_exporters(self, timeout_s: float) -> bool:
        if self._close_exporters is None or self._close_exporters(timeout_s):
            return True
        _log.warning(
            "tierwise: the exporters did not take everything within %.1f s before the end; spans and metrics of the last "
            "moments may be missing there. Look at what OTEL_EXPORTER_OTLP_ENDPOINT names",
            timeout_s,
        )
        return False

    def _pump(self, *, now: bool = False, until: float = math.inf) -> bool:
        recorded = self._recorded
        for _ in range(len(recorded)):
            item = recorded.popleft()
            if isinstance(item, tuple):
                call, span, late = item
                if late is not None or call.checks:
                    self._settle_safely(call, span, late=late is not None)
                row: Call | Run | Verdict = call
            elif isinstance(item, FeedbackItem):
                self._emit_safely(item)
                row = item.verdict
            else:
                row = item
            for feed in self._feeds:
                feed.add(row)
        written = [feed.pump(now=now, until=until) for feed in self._feeds]
        return all(written)

    # --- recording; the metrics' lock is held ------------------------------------------------------------------------

    def _record(self, item: Item) -> None:
        try:
            if isinstance(item, tuple) and item[2] is not None:
                item = (self._priced(item[0], item[2]), item[1], item[2])
            self._record_metrics(item)
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("metrics", error)
        if len(self._recorded) < 2 * self._size:
            self._recorded.append(item)
        else:
            if self._feeds:
                self._drop_rows(1)
            if isinstance(item, tuple) and item[2] is not None:
                self._settle_safely(item[0], item[1], late=True)

    def _record_metrics(self, item: Item) -> None:
        if isinstance(item, tuple):
            self._metrics.record(item[0], item[1])
        elif isinstance(item, Run):
            self._metrics.record_run(item)
        elif item.key is not None:
            self._metrics.record_feedback(item.key)

    def _priced(self, call: Call, price: PriceLater) -> Call:
        try:
            return price(call)
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("price", error)
            return call

    def _settle_safely(self, call: Call, span: Span, *, late: bool) -> None:
        try:
            self._settle(call, span, late)
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("settle", error)

    def _emit_safely(self, item: FeedbackItem) -> None:
        try:
            item.emit()
        except Exception as error:  # noqa: BLE001
            self._faults.note_in_background("feedback", error)

    def _drop_rows(self, number: int) -> None:
        self._metrics.count_dropped(sc.DROPPED_STORE, number)
        for feed in self._feeds:
            feed.note_lost(number)

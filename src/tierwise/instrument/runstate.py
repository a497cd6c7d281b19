"""A run of several calls while it goes on: what its calls told, until it is closed."""

from __future__ import annotations

import threading
import time

from tierwise.core.call import Call, Run
from tierwise.core.ports import Recorder, Span
from tierwise.instrument.guard import quietly


class RunState:
    """What a run of several calls has seen so far: filled by its calls, closed by the end of its `task()` block.

    A routed run outside such a block is closed when its last call has been sent.
    """

    __slots__ = (
        "_calls",
        "_closed",
        "_lock",
        "_open",
        "_recorder",
        "_reported",
        "_started_at_ns",
        "_t0",
        "cleaned_at",
        "first",
        "last",
        "span",
        "unpriced",
        "usd",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._calls = 0
        self._closed = self._reported = False
        self._recorder: Recorder | None = None
        self._started_at_ns = 0
        self._t0 = 0.0
        self.first: Call | None = None
        self.last: Call | None = None
        self.usd = 0.0
        self.unpriced = False
        self.cleaned_at = -1
        """The place of the call whose answer local clean-up made usable."""
        self.span: Span | None = None

    def begin(self, recorder: Recorder) -> int:
        """Count a call in; returns its place in the run, from 0."""
        with self._lock:
            if self._recorder is None:
                self._recorder, self._started_at_ns, self._t0 = recorder, time.time_ns(), time.perf_counter()
            place = self._calls
            self._calls += 1
            self._open += 1
            return place

    def adopt(self, recorder: Recorder, started_at_ns: int, t0: float) -> None:
        """Count in a call that began before it was known to be the first of several."""
        with self._lock:
            self._recorder, self._started_at_ns, self._t0 = recorder, started_at_ns, t0
            self._calls = self._open = 1

    def done(self, call: Call) -> None:
        """Take a finished call; the last one to finish after the block's end ends the run.

        A call that begins after that, in a task or thread which outlives its block, is no part of it any more.
        """
        with self._lock:
            self._open -= 1
            if call.rung == 0:
                self.first = call
            if self.last is None or call.rung >= self.last.rung:
                self.last = call
            if call.cost is not None:
                self.usd += call.cost.amount_usd
            elif call.outcome not in ("error", "rejected", "cancelled"):
                self.unpriced = True
            ended = self._closed and self._open == 0 and not self._reported
            self._reported |= ended
        if ended:
            self._finish()

    def close(self) -> None:
        """The block ended: no further call joins."""
        with self._lock:
            already, self._closed = self._closed, True
            ended = not already and self._open == 0
            self._reported |= ended and self.last is not None
        if ended:
            self._finish()

    @property
    def started_at_ns(self) -> int:
        """When its first call began, Unix nanoseconds."""
        return self._started_at_ns

    @property
    def ended(self) -> bool:
        """Whether its last call has finished and no further one may join."""
        with self._lock:
            return self._closed and self._open == 0

    def so_far(self) -> Run | None:
        """The run as it stands; `None` before its first call has finished."""
        first, last = self.first or self.last, self.last
        if first is None or last is None:
            return None
        cleaned = self.cleaned_at == last.rung
        return Run(
            run_id=first.context.run_id or "",
            task=first.task,
            candidate=first.candidate,
            epoch=first.epoch,
            arm=first.arm,
            grade=first.grade,
            started_at_ns=self._started_at_ns,
            duration_s=time.perf_counter() - self._t0,
            calls=self._calls,
            success=cleaned or last.outcome == "success",
            outcome=last.outcome,
            cost_usd=None if self.unpriced else self.usd,
            provider=first.request.provider,
            cleaned=cleaned,
            session=first.context.session,
            round=first.context.round,
        )

    def _finish(self) -> None:
        run, recorder = self.so_far(), self._recorder
        if recorder is None:
            return
        if run is None:
            self._end_span(recorder, None)
            return
        try:
            recorder.finish_run(run)
        finally:
            self._end_span(recorder, run)

    def _end_span(self, recorder: Recorder, run: Run | None) -> None:
        span, self.span = self.span, None
        if span is not None:
            quietly(recorder, "run", recorder.end_run, span, run)

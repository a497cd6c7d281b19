"""The wall clock jumps while calls run: durations stay true, spans end after they begin, evidence keeps its count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tierwise
from support.io_rig import Rig
from tierwise.evidence import SqliteStore

pytestmark = pytest.mark.faults

HOUR_S = 3600
DAY_S = 24 * HOUR_S
LONG_S = 60.0
"""No call takes so long; a jump makes it an hour at least."""


class WallClock:
    """The machine's wall clock with an offset, seconds; the monotonic clocks are not touched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset_s = 0
        bare, bare_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: bare() + self.offset_s)
        monkeypatch.setattr(time, "time_ns", lambda: bare_ns() + self.offset_s * 10**9)

    @contextmanager
    def jumping(self, *offsets_s: int) -> Iterator[None]:
        """It jumps every few milliseconds, so in the middle of calls."""
        stop = threading.Event()

        def jump() -> None:
            number = 0
            while not stop.wait(0.003):
                number += 1
                self.offset_s = offsets_s[number % len(offsets_s)]

        thread = threading.Thread(target=jump, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.offset_s = offsets_s[0]


@pytest.mark.parametrize(
    "offsets_s",
    [(HOUR_S, 0), (-HOUR_S, 0), (DAY_S, 0), (-DAY_S, 0), (DAY_S, -DAY_S, HOUR_S, -HOUR_S)],
    ids=["hour forward", "hour back", "day forward", "day back", "to and fro"],
)
def test_a_clock_that_jumps(
    url: str, tmp_path: Path, offsets_s: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every span, row and try lies in its call's true duration; each call is in the hour of its start, and counted once."""
    monkeypatch.delenv("TIERWISE_RAISE", raising=False)
    clock = WallClock(monkeypatch)
    spans = InMemorySpanExporter()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    began = time.time()
    store = SqliteStore.open(tmp_path / "s.db", clock=time.time)
    rig = Rig(url, store, tracer_provider=tracer_provider)
    try:
        with clock.jumping(*offsets_s):
            rig.attack(f"clock jumps by {', '.join(f'{one / HOUR_S:+g} h' for one in offsets_s)}", calls=300)
        assert tierwise.force_flush(10)
        rows = list(store.calls())
        assert (len(rows), rig.internal("dropped"), rig.internal("errors")) == (rig.calls, 0, 0)
        assert [row.duration_s for row in rows if not 0 <= row.duration_s < LONG_S] == []
        assert [row for row in rows if not 0 <= (row.time_to_first_chunk_s or 0) <= row.duration_s] == []
        hours = {int(began + offset) // HOUR_S + late for offset in (0, *offsets_s) for late in (0, 1)}
        assert {row.started_at_ns // (HOUR_S * 10**9) for row in rows} <= hours
        evidence = store.evidence()
        assert sum(row.evidence.n for row in evidence) == sum(
            row.outcome not in ("cancelled", "rejected") for row in rows
        )
        assert {row.key.bucket // HOUR_S for row in evidence} <= hours
        _assert_spans_are_sane(spans, rig.calls)
        tries = [(row, one) for row in rows for one in row.failed_tries]
        assert len(tries) > 5
        for row, one in tries:
            assert 0 <= one.ended_at_ns - row.started_at_ns <= row.duration_s * 1e9 + 1e6
    finally:
        rig.close()
        tracer_provider.shutdown()


def _assert_spans_are_sane(spans: InMemorySpanExporter, number: int) -> None:
    found = spans.get_finished_spans()
    assert len(found) == number
    for span in found:
        assert span.start_time is not None
        assert span.end_time is not None
        assert 0 <= span.end_time - span.start_time < LONG_S * 1e9
        for event in span.events:
            assert span.start_time <= event.timestamp <= span.end_time + 10**6, event.name


def test_a_store_after_the_clock_went_back(tmp_path: Path) -> None:
    """Rows of a future that the clock had for a day stay, and those after it are counted and kept beside them."""
    from support.calls import START_NS, make_call

    now = [START_NS / 1e9 + DAY_S]
    with SqliteStore.open(tmp_path / "s.db", clock=lambda: now[0]) as store:
        store.write([make_call(started_at_ns=int(now[0] * 1e9))])
        now[0] -= DAY_S
        for _ in range(3):
            store.write([make_call(started_at_ns=int(now[0] * 1e9))])
        assert store.prune() == 0
        assert (store.call_count(), sum(row.evidence.n for row in store.evidence())) == (4, 4)
        assert store.health().intact


@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S, DAY_S, -DAY_S])
def test_a_decision_by_a_wrong_clock(offset_s: int) -> None:
    """A clock that is off dates a change by itself alone: no time before the canary, no cool-down beyond its length."""
    from core.synthetic import TASK, after, policy, row, runs
    from tierwise.core.decide import decide
    from tierwise.core.route import Canary, Route

    rows = [row(name, runs(20, 18, cost=cost), hour=hour, arm=arm)
            for hour in range(60) for name, cost, arm in (("dear", 0.003, "primary"), ("cheap", 0.001, "canary"))]  # fmt: skip
    started = after(58)
    route = Route(
        task=TASK, primary="dear", propensities={"dear": 0.75, "cheap": 0.25}, since=after(0), cooldown_until=after(70),
        canary=Canary(candidate="cheap", share=0.25, stage=0, started_at=started),
    )  # fmt: skip
    now = after(60) + offset_s
    found = decide(rows, policy("dear", "cheap", apply="auto"), route, now)
    following = found.after or route
    assert following.since in (route.since, now)
    assert following.cooldown_until in (route.cooldown_until, now + 12 * HOUR_S)
    assert following.canary is None or 0 <= following.canary.started_at - started <= max(0, offset_s) + 3 * HOUR_S
    assert sum(following.propensities.values()) == pytest.approx(1)
    assert all(until <= now + 30 * DAY_S for until in following.backoff.values())

"""The worker: order, full queue, refusing sinks, flush, shutdown, sleep."""

from __future__ import annotations

import threading
import time

import pytest

from tierwise.telemetry import feed
from tierwise.telemetry import worker as worker_module


def _wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 10 s"
        time.sleep(0.005)


def test_rows_arrive_in_order_without_a_flush(rig, call):
    """The thread writes what was finished by itself, in order, each once."""
    calls = [rig.record(call(duration_s=float(number))) for number in range(1_200)]
    _wait_until(lambda: len(rig.sink.rows) >= 1_200)
    assert rig.sink.rows == calls


def test_no_thread_before_the_first_call(rig):
    """Opening telemetry starts no thread."""
    rig.open()
    assert not [thread for thread in threading.enumerate() if thread.name == "tierwise-worker"]


def test_a_sleeping_thread_wakes_for_the_next_call(rig, call, monkeypatch):
    """After a quiet while the thread sleeps until it is rung, and the next call is still written by itself."""
    monkeypatch.setattr(worker_module, "INTERVAL_S", 0.001)
    rig.record(call())
    _wait_until(lambda: rig.telemetry.worker._asleep)
    rig.record(call())
    _wait_until(lambda: len(rig.sink.rows) == 2)


def test_a_refusing_store_is_retried(rig, call):
    """Rows that the store refuses are kept and written when it works again, in order, each once."""
    rig.sink.refuse = 2
    calls = [rig.record(call(duration_s=float(number))) for number in range(3)]
    assert rig.telemetry.worker.flush(5.0)
    assert rig.sink.rows == calls
    assert rig.telemetry.metrics.internal("dropped") == {}


def test_flush_gives_up_at_its_deadline(rig, call):
    """While the store refuses, flush says False within its time and nothing is lost."""
    rig.sink.refuse = 1_000_000
    rig.record(call())
    assert not rig.telemetry.worker.flush(0.2)
    rig.sink.refuse = 0
    assert rig.telemetry.worker.flush(5.0)
    assert len(rig.sink.rows) == 1


def test_a_full_queue_drops_rows_but_no_metrics(rig, call, points):
    """While the sink blocks and the queue is full the caller goes on: metrics are exact, lost rows are counted."""
    release = threading.Event()
    rig.sink.gate = lambda: release.wait(20)
    rig.open(capacity=10)
    rig.record(call())
    for _ in range(200):
        rig.record(call())
    found = points(rig.cumulative)
    lost = rig.telemetry.metrics.internal("dropped").get("metrics", 0)  # where the table was being read: counted
    assert found["tierwise.calls"][0].value == found["tierwise.call.duration"][0].count == 201 - lost
    release.set()
    assert rig.telemetry.worker.flush(10.0)
    dropped = rig.telemetry.metrics.internal("dropped")["store"]
    assert dropped > 0
    assert len(rig.sink.rows) + dropped == 201


def test_a_full_queue_does_not_wait_for_prices(rig, call, points):
    """With a full queue an unpriced call is recorded at once without cost, counted, and its span ends."""
    telemetry = rig.open(capacity=0)
    rig.record(call(cost=None), price_later=lambda _: pytest.fail("must not be asked"))
    assert telemetry.metrics.internal("dropped") == {"store": 1, "price": 1}
    assert points(rig.cumulative)["tierwise.calls"][0].value == 1
    assert len(rig.spans.get_finished_spans()) == 1


def test_a_full_queue_tells_the_run_that_no_price_comes(rig, call):
    """The run of a call that nobody prices is told, so that it ends; what it queues then does not deadlock."""
    telemetry = rig.open(capacity=0)

    class GivenUp:
        skip = staticmethod(rig.end_run)

    rig.record(call(cost=None), price_later=GivenUp())
    assert telemetry.metrics.internal("dropped") == {"store": 2, "price": 1}


def test_a_run_ended_by_pricing_is_in_the_same_flush(rig, call):
    """Pricing the last call of a run ends the run: one flush stores both."""
    telemetry = rig.open()

    def price(unpriced):
        rig.end_run(unpriced)
        return unpriced

    rig.record(call(cost=None), price_later=price)
    assert telemetry.worker.flush(5.0)
    assert [type(row).__name__ for row in rig.sink.rows] == ["Call", "Run"]


def test_a_collection_waits_for_prices(rig, call, points):
    """A collection contains the cost of a call whose price is still being looked up."""
    rig.record(call(cost=None), price_later=lambda unpriced: call(started_at_ns=unpriced.started_at_ns))
    assert points(rig.cumulative)["tierwise.call.cost"][0].value == 0.001


def test_a_broken_sink_loses_its_batch_only(rig, call, monkeypatch):
    """A sink that fails for any other reason loses that batch, counted as dropped and as a fault; the rest goes on."""
    monkeypatch.delenv("TIERWISE_RAISE")
    fail = [True]

    def gate():
        if fail.pop() if fail else False:
            raise RuntimeError("bug")

    rig.sink.gate = gate
    rig.record(call())
    assert rig.telemetry.worker.flush(5.0)
    rig.record(call())
    assert rig.telemetry.worker.flush(5.0)
    assert len(rig.sink.rows) == 1
    assert rig.telemetry.metrics.internal("dropped") == {"store": 1}
    assert rig.telemetry.metrics.internal("errors") == {"sink": 1}


def test_background_faults_surface_at_the_next_flush(rig, call):
    """With TIERWISE_RAISE=1 a fault on the worker's thread is raised by flush, and the thread lives on."""
    rig.sink.gate = lambda: 1 / 0
    rig.record(call())
    with pytest.raises(ZeroDivisionError):
        rig.telemetry.worker.flush(5.0)
    rig.sink.gate = lambda: None
    rig.record(call())
    assert rig.telemetry.worker.flush(5.0)
    assert len(rig.sink.rows) == 1


def test_shutdown_writes_closes_and_ends_the_thread(rig, call, points):
    """Shutdown writes what waits, closes sinks once and ends the thread; later calls still count in the metrics."""
    rig.record(call())
    worker = rig.telemetry.worker
    assert worker.shutdown(5.0)
    assert worker.shutdown(5.0)
    assert (len(rig.sink.rows), rig.sink.closed) == (1, 1)
    assert not worker._thread.is_alive()
    rig.record(call())
    assert points(rig.cumulative)["tierwise.calls"][0].value == 2
    assert rig.telemetry.metrics.internal("dropped") == {"store": 1}


def test_shutdown_with_a_refusing_store_counts_the_loss(rig, call, caplog):
    """Rows that the store refuses to the end are counted and said so in the log."""
    rig.sink.refuse = 1_000_000
    rig.record(call())
    assert not rig.telemetry.worker.shutdown(0.2)
    _wait_until(lambda: rig.sink.closed == 1)
    assert rig.telemetry.metrics.internal("dropped") == {"store": 1}
    assert "could not be stored" in caplog.text


def test_shutdown_with_a_slow_store_counts_what_is_not_written_in_time(rig, call, caplog, monkeypatch):
    """A store that needs longer than the end may take gets what fits; the rest is counted, and the thread is gone."""
    monkeypatch.setattr(feed, "BATCH", 16)
    go = threading.Event()
    rig.sink.gate = lambda: (go.wait(10), time.sleep(0.1))
    for _ in range(320):
        rig.record(call())
    worker = rig.telemetry.worker
    go.set()
    assert not worker.shutdown(0.4)
    assert not worker._thread.is_alive()
    dropped = rig.telemetry.metrics.internal("dropped")["store"]
    assert dropped > 80
    assert len(rig.sink.rows) + dropped == 320
    assert "could not be stored before the end" in caplog.text

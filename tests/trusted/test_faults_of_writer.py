"""What the writer does in the background is slow or has no memory: callers do not notice, losses are counted."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import tierwise
from support.io_rig import Rig
from tierwise.evidence import SqliteStore

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("in_production")]

TESTS = Path(__file__).parents[1]
SLOW_S = 2.0


class Connection:
    """A connection on which the next statements that begin with `word` first do something else."""

    def __init__(self, connection: sqlite3.Connection, word: str, first: Any, times: int = 3) -> None:
        self._connection, self._word, self._first, self._times = connection, word, first, times

    def execute(self, statement: str, *values: Any) -> Any:
        self._before(statement)
        return self._connection.execute(statement, *values)

    def executemany(self, statement: str, *values: Any) -> Any:
        self._before(statement)
        return self._connection.executemany(statement, *values)

    def _before(self, statement: str) -> None:
        if self._times and statement.lstrip().startswith(self._word):
            self._times -= 1
            self._first()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Exporter(SpanExporter):
    """Exports nowhere, but does something first for a while."""

    def __init__(self, first: Any, times: int = 2) -> None:
        self._first, self._times = first, times
        self.got = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._times:
            self._times -= 1
            self._first()
        self.got += len(spans)
        return SpanExportResult.SUCCESS


def _slow() -> None:
    time.sleep(SLOW_S)


def _no_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize("word", ["BEGIN", "INSERT", "COMMIT"])
def test_a_slow_disk(url: str, tmp_path: Path, word: str) -> None:
    """Each statement of that kind takes two seconds: no call takes any of them, and all are stored."""
    store = SqliteStore.open(tmp_path / "s.db")
    rig = Rig(url, store)
    try:
        assert tierwise.force_flush(10)
        store._connection = Connection(store._connection, word, _slow)  # type: ignore[assignment, arg-type]
        rig.attack(f"{word} takes {SLOW_S:g} s")
        assert tierwise.force_flush(30)
        assert (store.call_count(), rig.internal("dropped")) == (rig.calls, 0)
    finally:
        rig.close()


def _exporting(exporter: SpanExporter) -> TracerProvider:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=100))
    return made


def test_a_slow_exporter(url: str, tmp_path: Path) -> None:
    """An export of two seconds delays neither a call nor the store."""
    exporter = Exporter(_slow)
    tracer_provider = _exporting(exporter)
    rig = Rig(url, tmp_path / "s.db", tracer_provider=tracer_provider)
    try:
        rig.attack(f"an export takes {SLOW_S:g} s")
        assert tierwise.force_flush(30)
        assert exporter.got == rig.calls
    finally:
        rig.close()
        tracer_provider.shutdown()


def test_a_flush_keeps_to_its_time(url: str, tmp_path: Path) -> None:
    """`force_flush` comes back in its time although the exporter hangs, has stored all, and makes no second thread."""
    import threading

    held, before = threading.Event(), set(threading.enumerate())
    tracer_provider = _exporting(Exporter(lambda: held.wait(60), times=1))
    rig = Rig(url, tmp_path / "s.db", tracer_provider=tracer_provider)
    try:
        rig.call(20)
        time.sleep(0.3)
        began = time.monotonic()
        for _ in range(3):
            assert not tierwise.force_flush(0.5)
        took = time.monotonic() - began
        print(f"\n[figures] three flushes of 0.5 s against an exporter that hangs: {took:.2f} s")
        assert took < 20
        made = [one.name for one in threading.enumerate() if one not in before]
        assert made.count("tierwise-export") == 1
        with SqliteStore.open(tmp_path / "s.db", read_only=True) as store:
            assert store.call_count() == rig.calls
        held.set()
        assert tierwise.force_flush(10)
    finally:
        held.set()
        rig.close()
        tracer_provider.shutdown()


@pytest.mark.parametrize("word", ["BEGIN", "INSERT", "COMMIT"])
def test_no_memory_in_the_writer(url: str, tmp_path: Path, word: str, caplog: pytest.LogCaptureFixture) -> None:
    """What there was no memory to write is kept and written as soon as there is; nothing is lost or there twice."""
    store = SqliteStore.open(tmp_path / "s.db")
    rig = Rig(url, store)
    try:
        assert tierwise.force_flush(10)
        store._connection = Connection(store._connection, word, _no_memory)  # type: ignore[assignment, arg-type]
        rig.attack("MemoryError in the writer", calls=200)
        assert tierwise.force_flush(10)
        health = store.health()
        assert (health.calls, health.dropped, rig.internal("dropped"), rig.internal("errors")) == (rig.calls, 0, 0, 0)
        assert sum("no memory" in record.getMessage() for record in caplog.records) == 1
    finally:
        rig.close()


def test_no_memory_in_the_exporter(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an exporter has no memory for is its loss alone; OpenTelemetry logs it, the store has everything."""
    exporter = Exporter(_no_memory, times=1)
    tracer_provider = _exporting(exporter)
    rig = Rig(url, tmp_path / "s.db", tracer_provider=tracer_provider)
    try:
        rig.attack("MemoryError in the exporter", calls=200)
        assert tierwise.force_flush(10)
        assert 0 < exporter.got < rig.calls
        assert any("while exporting" in record.getMessage() for record in caplog.records)
        with SqliteStore.open(tmp_path / "s.db", read_only=True) as store:
            assert store.call_count() == rig.calls
    finally:
        rig.close()
        tracer_provider.shutdown()


def test_a_limit_on_memory(url: str, tmp_path: Path) -> None:
    """A process at its limit of address space, which cannot start a thread: calls are answered and stored all the same."""
    script = """
    import resource, sys
    import openai, tierwise
    from support.io_rig import Rig
    from pathlib import Path

    rig = Rig(sys.argv[1], Path(sys.argv[2]))
    rig.attack("before", calls=20)
    tierwise.force_flush(10)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))
    try:
        bytearray(1 << 30)
    except MemoryError:
        rig.pairs(200)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert tierwise.force_flush(10)
    print(rig.calls, rig.internal("dropped"))
    rig.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), url, str(tmp_path / "s.db")],
        cwd=TESTS, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "TIERWISE_RAISE": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls, dropped = map(int, done.stdout.split("\n")[-2].split())
    assert calls >= 200
    print(f"\n[figures] address space at its limit: {calls} calls, {dropped} counted as dropped")
    with SqliteStore.open(tmp_path / "s.db") as store:
        assert store.health().intact
        assert store.call_count() == calls - dropped

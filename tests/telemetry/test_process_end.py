"""Exit, SIGTERM and fork, in real processes: what was finished is written."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

PRELUDE = """
import json, os, signal, sys, threading, time
sys.path.insert(0, {directory!r})
from conftest import make_call
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from tierwise.telemetry import open_telemetry

PATH = sys.argv[1]

def write(kind, number):
    with open(PATH, "a") as file:
        file.write(f"{{kind}} {{os.getpid()}} {{number}}\\n")

class FileSink:
    def write(self, batch): write("rows", len(batch))
    def flush(self): pass
    def close(self): write("closed", 0)
    def after_fork_in_child(self): write("forked", 0)

class FileExporter(SpanExporter):
    def export(self, spans):
        write("spans", len(spans))
        return SpanExportResult.SUCCESS

tracer_provider = TracerProvider()
tracer_provider.add_span_processor(BatchSpanProcessor(FileExporter(), schedule_delay_millis=3_600_000))
reader = InMemoryMetricReader()
meter_provider = MeterProvider([reader])
telemetry = open_telemetry(sinks=[FileSink()], tracer_provider=tracer_provider, meter_provider=meter_provider)

def record(number=1):
    for _ in range(number):
        call = make_call()
        span = telemetry.recorder.start(call.request, call.context, call.started_at_ns)
        telemetry.recorder.finish(span, call)

def counted(name):
    data = reader.get_metrics_data()
    return sum(getattr(p, "value", getattr(p, "count", 0)) for r in data.resource_metrics for s in r.scope_metrics
               for m in s.metrics if m.name == name for p in m.data.data_points) if data else 0
"""


def _start(tmp_path: Path, script: str) -> tuple[subprocess.Popen[str], Path]:
    code = PRELUDE.format(directory=str(Path(__file__).parent)) + textwrap.dedent(script)
    path = tmp_path / "written"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, path


def _sums(path: Path) -> dict[tuple[str, int], int]:
    sums: dict[tuple[str, int], int] = {}
    for line in path.read_text().splitlines():
        kind, pid, number = line.split()
        sums[kind, int(pid)] = sums.get((kind, int(pid)), 0) + int(number)
    return sums


def test_normal_exit_writes_everything(tmp_path):
    """A script that just ends has all its rows and spans written and the sink closed, without a word on stderr."""
    process, path = _start(tmp_path, "record(50)")
    _, errors = process.communicate(timeout=30)
    sums = _sums(path)
    assert (process.returncode, errors) == (0, "")
    assert (sums["rows", process.pid], sums["spans", process.pid]) == (50, 50)
    assert ("closed", process.pid) in sums


def test_sigterm_flushes_then_kills(tmp_path):
    """SIGTERM with its default action: rows and spans are written, then the process dies of the signal as before."""
    process, path = _start(tmp_path, "record(50); print('ready', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    sums = _sums(path)
    assert (process.returncode, errors) == (-signal.SIGTERM, "")
    assert (sums["rows", process.pid], sums["spans", process.pid]) == (50, 50)


def test_sigterm_does_not_hang_on_a_held_lock(tmp_path):
    """SIGTERM while the main thread holds the metrics' lock still ends the process within its grace period."""
    script = """
    from tierwise.telemetry import process
    process._GRACE_S = 0.5
    record(1)
    with telemetry.metrics.lock:
        print('ready', flush=True)
        time.sleep(60)
    """
    process, _ = _start(tmp_path, script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_the_applications_own_handler_stays(tmp_path):
    """A SIGTERM handler that the application has set is not replaced; its exit is a normal one."""
    script = """
    telemetry.shutdown()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    telemetry = open_telemetry(sinks=[FileSink()], tracer_provider=tracer_provider, meter_provider=meter_provider)
    record(5)
    print('ready', flush=True)
    time.sleep(60)
    """
    process, path = _start(tmp_path, script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 7
    assert _sums(path)["rows", process.pid] == 5


def test_fork_child_starts_with_nothing(tmp_path):
    """The child counts and writes its own calls only, the parent keeps its own, each exactly once."""
    script = """
    from tierwise.telemetry import process
    record(30)
    child = os.fork()
    if child == 0:
        record(7)
        assert counted("tierwise.calls") == 7, counted("tierwise.calls")
        assert telemetry.force_flush(10)
        telemetry.shutdown()
        os._exit(0)
    record(3)
    assert os.waitpid(child, 0)[1] == 0
    print(child, counted("tierwise.calls"), flush=True)
    """
    process, path = _start(tmp_path, script)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    child, calls = map(int, out.split())
    sums = _sums(path)
    assert calls == 33
    assert (sums["rows", process.pid], sums["rows", child]) == (33, 7)
    assert ("forked", child) in sums


def test_forks_under_load_do_not_deadlock(tmp_path):
    """Forking again and again while other threads record: every child records, collects and flushes in time."""
    script = """
    stop = threading.Event()
    def load():
        while not stop.is_set():
            record(1)
            time.sleep(0.002)  # the SDK's own span queue is bounded
    threads = [threading.Thread(target=load) for _ in range(3)]
    for t in threads: t.start()
    results = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            record(2)
            ok = telemetry.worker.flush(10)
            os._exit(0 if ok else 3)
        results.append(os.waitpid(child, 0)[1])
    stop.set()
    for t in threads: t.join()
    print(results, flush=True)
    """
    process, path = _start(tmp_path, script)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors, out.strip()) == (0, "", str([0] * 10))
    children = {pid: rows for (kind, pid), rows in _sums(path).items() if kind == "rows" and pid != process.pid}
    assert sorted(children.values()) == [2] * 10


def test_import_is_light():
    """Importing the telemetry package loads neither the SDK nor gRPC nor any exporter."""
    code = """
    import sys, tierwise.telemetry
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "grpc", "openai", "pydantic", "genai_prices")
    print([name for name in sys.modules if name.startswith(heavy)])
    """
    started = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=False
    )
    assert out.stdout == "[]\n", (out.stderr, time.monotonic() - started)

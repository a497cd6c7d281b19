"""Fork, `os._exit`, SIGTERM and an exit amid streams, with a real client and a real store: what was finished is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tierwise.evidence import SqliteStore

TESTS = Path(__file__).parents[1]
PRELUDE = """
import os, signal, sys, threading, time, traceback
import tierwise
from support.canned import ASK, stream, sync_client
from support.load import POLICY, numbered_client

STORE = sys.argv[1]

def client(name, made=None):
    return tierwise.instrument(made or numbered_client(name), task="busy", config=POLICY, store=STORE)

def calls(observed, number):
    for _ in range(number):
        observed.chat.completions.create(**ASK)
"""

pytestmark = pytest.mark.faults


def _run(tmp_path: Path, script: str, *, kill: int | None = None) -> tuple[int, str, str, SqliteStore]:
    code = PRELUDE + textwrap.dedent(script)
    path = tmp_path / "s.db"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        said = ""
        if kill is not None:
            assert process.stdout is not None
            said = process.stdout.readline()
            process.send_signal(kill)
        try:
            out, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, said + out, errors, SqliteStore.open(path)


def test_a_normal_end_amid_open_streams(tmp_path: Path) -> None:
    """Streams that nobody read to the end do not hold the exit up; all finished calls are stored, the streams as left."""
    script = """
    calls(client("plain"), 30)
    streaming = client("", sync_client(stream("Hel", "lo"))[0])
    kept = [streaming.chat.completions.create(**ASK, stream=True) for _ in range(3)]
    for one in kept[:2]:
        next(iter(one))
    """
    status, _, errors, store = _run(tmp_path, script)
    with store:
        outcomes = [row.outcome for row in store.calls()]
    assert status == 0
    assert "tierwise" not in errors  # the client itself complains of its streams at such an end
    assert outcomes.count("success") == 30
    assert set(outcomes) <= {"success", "cancelled"}


def test_os_exit_loses_what_was_not_flushed_and_no_more(tmp_path: Path) -> None:
    """`os._exit` runs no handler: what was flushed is there, and the store is sound."""
    script = """
    observed = client("p")
    calls(observed, 20)
    assert tierwise.force_flush(10)
    calls(observed, 20)
    os._exit(3)
    """
    status, _, errors, store = _run(tmp_path, script)
    with store:
        assert (status, errors) == (3, "")
        assert 20 <= store.call_count() <= 40
        assert store.health().intact


def test_sigterm_under_load_keeps_what_had_finished(tmp_path: Path) -> None:
    """Every call that returned before the signal is stored, and the process dies of the signal."""
    script = """
    observed = client("p")
    callers = [threading.Thread(target=calls, args=(observed, 5), daemon=True) for number in range(60)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    print("ready", flush=True)
    time.sleep(60)
    """
    status, said, errors, store = _run(tmp_path, script, kill=signal.SIGTERM)
    with store:
        assert (status, said.split(), errors) == (-signal.SIGTERM, ["ready"], "")
        assert store.call_count() == 300


def test_forks_while_the_writer_writes(tmp_path: Path) -> None:
    """Children forked amid writing make calls of their own; every call of parent and children is there once."""
    script = """
    observed = client("parent")
    calls(observed, 1)  # the client imports on its first call, and Python's own locks do not survive a fork
    stop = threading.Event()
    made = []
    def load():
        while not stop.is_set():
            calls(observed, 1)
            made.append(1)
            time.sleep(0.002)
    loading = threading.Thread(target=load, daemon=True)
    loading.start()
    for number in range(12):
        time.sleep(0.05)
        child = os.fork()
        if child == 0:
            try:
                calls(client(f"child{number}"), 5)
                ok = tierwise.force_flush(10)
            except BaseException:
                traceback.print_exc()
                os._exit(8)
            os._exit(0 if ok else 9)
        status = os.waitpid(child, 0)[1]
        assert status == 0, status
    stop.set()
    loading.join()
    print(len(made))
    """
    status, said, errors, store = _run(tmp_path, script)
    with store:
        assert (status, errors) == (0, "")
        ids = [row.response_id or "" for row in store.calls()]
        assert len(ids) == len(set(ids)) == 1 + json.loads(said) + 12 * 5
        assert store.health().intact

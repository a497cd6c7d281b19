"""The OTLP endpoint fails in every way that networks do: callers do not notice, the store has all, the process ends in time."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tierwise
from support.io_rig import Rig
from tierwise.evidence import SqliteStore

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("in_production")]

TESTS = Path(__file__).parents[1]
END_S = 5.0
"""What the exporters get at the end of a process, as docs/instrument.md says."""


@pytest.fixture(autouse=True)
def _exports_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")


@contextmanager
def refusing() -> Iterator[str]:
    """A port on which nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def _sockets(serve: Callable[[socket.socket], object], scheme: str = "http") -> Iterator[str]:
    """Accepts connections and does this with each."""
    kept: list[socket.socket] = []
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    made, _ = listening.accept()
                    kept.append(made)
                    threading.Thread(target=_quietly, args=(serve, made), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for one in kept:
                one.close()


def _quietly(serve: Callable[[socket.socket], object], made: socket.socket) -> None:
    with suppress(OSError, ssl.SSLError):
        serve(made)


@contextmanager
def hanging() -> Iterator[str]:
    """It accepts and never answers."""
    with _sockets(lambda made: None) as at:
        yield at


@contextmanager
def garbage() -> Iterator[str]:
    """It answers with what is no HTTP."""

    def serve(made: socket.socket) -> None:
        made.recv(65_536)
        made.sendall(b"\x00\xff\x00 nothing that anybody understands\r\n\r\n" * 40)
        made.close()

    with _sockets(serve) as at:
        yield at


@contextmanager
def cutting() -> Iterator[str]:
    """It cuts the connection in the middle of an answer."""

    def serve(made: socket.socket) -> None:
        made.recv(65_536)
        made.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
        made.close()

    with _sockets(serve) as at:
        yield at


@contextmanager
def no_tls() -> Iterator[str]:
    """It speaks plain text where TLS is asked for."""

    def serve(made: socket.socket) -> None:
        made.recv(65_536)
        made.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        made.close()

    with _sockets(serve, scheme="https") as at:
        yield at


@contextmanager
def _status(status: int, headers: dict[str, str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def too_many() -> AbstractContextManager[str]:
    """429 with a Retry-After of a minute."""
    return _status(429, {"Retry-After": "60"})


def unavailable() -> AbstractContextManager[str]:
    """503 with a Retry-After of a minute."""
    return _status(503, {"Retry-After": "60"})


@contextmanager
def no_name() -> Iterator[str]:
    """A host of which no name server knows."""
    yield "http://collector.invalid:4318"


FAULTS = [
    *((fault, "http/protobuf") for fault in (refusing, hanging, garbage, cutting, no_tls, too_many, unavailable, no_name)),
    *((fault, "grpc") for fault in (refusing, hanging, garbage, no_tls, no_name)),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "protocol"), FAULTS)
def test_an_endpoint_that_fails(
    url: str,
    tmp_path: Path,
    fault: Callable[[], AbstractContextManager[str]],
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls are the bare client's, the store has every one, `shutdown` comes back in its time."""
    with fault() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        rig = Rig(url, tmp_path / "s.db", own_providers=True)
        try:
            rig.attack(f"{fault.__name__} over {protocol}", calls=150)
        finally:
            began = time.monotonic()
            rig.close()
            took = time.monotonic() - began
    print(f"[figures] {fault.__name__} over {protocol}: shutdown took {took:.1f} s")
    assert took < END_S + 10
    with SqliteStore.open(tmp_path / "s.db", read_only=True) as store:
        assert (store.call_count(), store.health().dropped) == (rig.calls, 0)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("how", ["exit", "SIGTERM"])
def test_a_process_ends_although_the_endpoint_hangs(tmp_path: Path, protocol: str, how: str) -> None:
    """A normal exit and SIGTERM wait five seconds for an endpoint that never answers; the store has every call."""
    script = """
    import os, signal, sys, time
    import tierwise
    from support.load import POLICY, numbered_client
    from support.canned import ASK

    client = tierwise.instrument(numbered_client("p"), task="busy", config=POLICY, store=sys.argv[1])
    for _ in range(50):
        client.chat.completions.create(**ASK)
    time.sleep(0.5)
    print(time.monotonic(), flush=True)
    if sys.argv[2] == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    """
    with hanging() as endpoint:
        settings: dict[str, Any] = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "s.db"), how],
            cwd=TESTS, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, **settings, "TIERWISE_RAISE": ""},
        )  # fmt: skip
        took = time.monotonic() - float(done.stdout)
    print(f"\n[figures] {how} with a hanging endpoint over {protocol}: {took:.1f} s")
    assert took < END_S + 15
    assert done.returncode == (-15 if how == "SIGTERM" else 0), done.stderr
    if how == "exit":
        assert "the exporters did not take everything" in done.stderr
    with SqliteStore.open(tmp_path / "s.db", read_only=True) as store:
        assert store.call_count() == 50


def test_an_endpoint_that_comes_back(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal, what is still queued is exported as soon as somebody listens."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            got.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    with refusing() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        rig = Rig(url, tmp_path / "s.db", own_providers=True)
        try:
            rig.call(5)
            time.sleep(0.5)
            server = ThreadingHTTPServer(("127.0.0.1", int(endpoint.rsplit(":", 1)[1])), Handler)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            rig.call(5)
            assert tierwise.force_flush(30)
            assert {"/v1/traces", "/v1/metrics"} <= set(got)
        finally:
            rig.close()
            server.shutdown()
            server.server_close()
            thread.join()

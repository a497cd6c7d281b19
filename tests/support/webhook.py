"""A real HTTP server on localhost that takes webhooks and answers as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hook:
    """What arrived, and what is answered: one (status, headers, body) after the other, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = [(200, {}, b"ok")]
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""

    def answer(self, *statuses: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Answer with these statuses from now on."""
        self.answers = [(status, headers or {}, body) for status in statuses]

    def documents(self) -> list[Any]:
        """The bodies as JSON."""
        return [json.loads(body) for body in self.bodies]

    def news(self) -> list[Sequence[tuple[str, str]]]:
        """Of each body, task and kind of its news."""
        return [[(item["task"], item["kind"]) for item in document["news"]] for document in self.documents()]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hook: Hook


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        hook = self.server.hook
        hook.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        hook.headers.append({name.lower(): value for name, value in self.headers.items()})
        hook.paths.append(self.path)
        status, headers, body = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


@contextmanager
def webhook() -> Iterator[Hook]:
    """Runs the server; gives what arrives there."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hook = Hook()
    server.hook.url = f"http://127.0.0.1:{server.server_address[1]}/services/T000SECRET?key=hushhush"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

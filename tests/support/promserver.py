"""An HTTP server on this machine that answers as a test says: a stand-in for the Prometheus API and its faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request as it came."""

    path: str
    values: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Answer:
    """What to say; a `Date` header tells the server's clock."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    date_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Standin:
    """A running stand-in: where it is, what was asked, and the function that answers."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Answer | None] = lambda asked: None
    """`None` gives what an empty Prometheus would say."""


def ok(data: object, **more: object) -> Answer:
    """A success of the API."""
    return Answer(body=json.dumps({"status": "success", "data": data, **more}, separators=(",", ":")).encode())


def matrix(*series: tuple[Mapping[str, str], Mapping[int, float]]) -> dict[str, Any]:
    """A matrix of (labels, value by Unix seconds)."""
    result = [
        {"metric": dict(labels), "values": [[at, f"{value:g}"] for at, value in values.items()]}
        for labels, values in series
    ]
    return {"resultType": "matrix", "result": result}


def empty(asked: Asked) -> Answer:
    """What an empty Prometheus says."""
    if asked.path.endswith("/values") or asked.path.endswith("/series"):
        return ok([])
    if asked.path.endswith("/query_range"):
        return ok(matrix())
    if asked.values.get("query") == "time()":
        return ok({"resultType": "scalar", "result": [0, "0"]})
    if asked.path.endswith("/runtimeinfo"):
        return ok({})
    return ok({"resultType": "vector", "result": []})


@contextmanager
def standin() -> Iterator[Standin]:
    """Run one for a while."""
    made = Standin()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self, body: bytes) -> None:
            parts = urlsplit(self.path)
            values = dict(parse_qsl(parts.query) + parse_qsl(body.decode()))
            asked = Asked(path=parts.path, values=values, headers={n.lower(): v for n, v in self.headers.items()})
            made.asked.append(asked)
            said = made.answer(asked) or empty(asked)
            self.send_response_only(said.status)
            self.send_header("Date", formatdate(said.date_s, usegmt=True))
            self.send_header("Content-Length", str(len(said.body)))
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the reader may have had enough
                self.wfile.write(said.body)

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

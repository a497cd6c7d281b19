"""What sends to a Collector in stack tests, and what it sends to: raw OTLP spans with acknowledgements, a trace backend."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from support.stack import Running, query


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


class TraceSink:
    """A trace backend on loopback: takes OTLP over HTTP and keeps it."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                sink.requests.append(ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Silent."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> TraceSink:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def text(self) -> str:
        """Everything that came, as text."""
        return "\n".join(str(request) for request in tuple(self.requests))

    def spans(self) -> list[dict[str, Any]]:
        """The attributes of every span that came."""
        return [
            {item.key: _value(item.value) for item in span.attributes}
            for request in tuple(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def derived(self) -> list[dict[str, Any]]:
        """Those from which metrics were derived."""
        return [span for span in self.spans() if "tierwise.grade" in span]


def fleet(*arguments: str | int, environment: Mapping[str, str], within_s: float = 240.0) -> None:
    """Run `fixtures/fleet_app.py` to its end; what it says on stderr is a failure."""
    app = Path(__file__).parents[1] / "stack" / "fixtures" / "fleet_app.py"
    done = subprocess.run(
        [sys.executable, str(app), *(str(one) for one in arguments)], env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=within_s,
    )  # fmt: skip
    if done.returncode or done.stderr:
        raise AssertionError(f"fleet_app.py {arguments} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def one_span(service: str, **attributes: str | int | float) -> ExportTraceServiceRequest:
    """A request with one foreign span of a chat call, 100 ms long."""
    now = time.time_ns()
    known = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 1, **attributes,
    }  # fmt: skip
    span = Span(
        trace_id=os.urandom(16), span_id=os.urandom(8), name="chat gpt-4o", kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=now - 10**8, end_time_unix_nano=now,
        attributes=[KeyValue(key=key, value=_any(value)) for key, value in known.items()],
    )  # fmt: skip
    resource = Resource(attributes=[KeyValue(key="service.name", value=_any(service))])
    scope = ScopeSpans(scope=InstrumentationScope(name="someone.else"), spans=[span])
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope])])


def _any(value: str | int | float) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)


def post(url: str, request: ExportTraceServiceRequest, *, token: str | None = None, timeout_s: float = 10.0) -> int:
    """Send spans over HTTP; gives the status, 0 when nobody answered."""
    headers = {"content-type": "application/x-protobuf"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    message = urllib.request.Request(f"{url}/v1/traces", request.SerializeToString(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(message, timeout=timeout_s) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


class Load:
    """Threads that send one span at a time and count what was acknowledged."""

    def __init__(self, url: str, service: str, *, threads: int = 4) -> None:
        self.acknowledged = 0
        self.unanswered = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(url, service)) for _ in range(threads)]

    def _send(self, url: str, service: str) -> None:
        while not self._stop.is_set():
            status = post(url, one_span(service))
            with self._lock:
                if status == 200:
                    self.acknowledged += 1
                else:
                    self.unanswered += 1
            self._stop.wait(0.005 if status == 200 else 0.1)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def counted(backend: Running, selector: str) -> float:
    """The exact total of counters from their raw samples of the last hour, over all resets; each series began at zero."""
    total = 0.0
    for series in query(backend, f"{selector}[1h]"):
        before = 0.0
        for _, text in series["values"]:
            value = float(text)
            total += value if value < before else value - before
            before = value
    return total

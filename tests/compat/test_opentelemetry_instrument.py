"""`opentelemetry-instrument python app.py`: tierwise's spans and metrics arrive, and the program knows of nothing."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from compat.model_server import ModelServer
from compat.watching import Watching

pytestmark = pytest.mark.vendors

APP = """
import asyncio, os
from openai import AsyncOpenAI, OpenAI

ask = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
client = OpenAI(base_url=os.environ["SERVER"], api_key="none")
client.chat.completions.create(**ask)
print(len(list(client.chat.completions.create(**ask, stream=True))))

async def main():
    async with AsyncOpenAI(base_url=os.environ["SERVER"], api_key="none") as client:
        await client.chat.completions.create(**ask)

asyncio.run(main())
"""
REQUESTS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Receiver:
    """An OTLP/HTTP receiver on localhost that decodes what it gets."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Any]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                received.append((self.path, REQUESTS[self.path].FromString(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        """End the server."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def scopes(self, path: str, group: str, scope_group: str) -> Iterator[tuple[Any, Any]]:
        """(resource, scope and its items) of one signal."""
        for found, request in self.received:
            if found == path:
                for resource in getattr(request, group):
                    for scope in getattr(resource, scope_group):
                        yield resource.resource, scope


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running receiver."""
    made = Receiver()
    yield made
    made.close()


def _instrumented(app: Path, models: ModelServer, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program under the command of this environment."""
    command = shutil.which("opentelemetry-instrument", path=str(Path(sys.executable).parent))
    assert command is not None, "the package opentelemetry-distro is not installed here"
    base = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TIERWISE_"))}
    # Other packages of this environment that would instrument too are not what is tested.
    base["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "openai,openai_v2,httpx,httpx2,openai-v2,openai_genai"
    return subprocess.run(
        [command, sys.executable, str(app)], cwd=app.parent, env=base | {"SERVER": models.url} | environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A program that knows nothing of tierwise."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def test_the_entry_point_is_declared() -> None:
    """pyproject.toml names the class that the command loads."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared["opentelemetry_instrumentor"] == {"tierwise": "tierwise.surfaces.instrumentor:TierwiseInstrumentor"}


def test_otlp(models: ModelServer, watching: Watching, receiver: Receiver, app: Path) -> None:
    """Spans, metrics and stored calls of a program as it is: plain, streamed and asynchronous, by one set of providers."""
    done = _instrumented(
        app, models, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_LOGS_EXPORTER="none", OTEL_SERVICE_NAME="shop", TIERWISE_TASK="auto", TIERWISE_STORE=str(watching.path),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
    spans = [
        (dict(_attributes(resource))["service.name"], scope.scope.name, span.name)
        for resource, scope in receiver.scopes("/v1/traces", "resource_spans", "scope_spans")
        for span in scope.spans
    ]
    assert spans == [("shop", "tierwise", "chat gpt-5-mini")] * 3
    metrics = [
        metric
        for _, scope in receiver.scopes("/v1/metrics", "resource_metrics", "scope_metrics")
        for metric in scope.metrics
        if scope.scope.name == "tierwise"
    ]
    calls = [point for metric in metrics if metric.name == "tierwise.calls" for point in metric.sum.data_points]
    assert [point.as_int for point in calls] == [3]
    assert {dict(_attributes(point))["tierwise.task"] for point in calls} == {"auto"}
    rows = watching.rows()
    assert [(row.task, row.outcome, row.stream) for row in rows] == [
        ("auto", "success", False), ("auto", "success", True), ("auto", "success", False),
    ]  # fmt: skip
    assert all(row.trace_id for row in rows)


def _attributes(holder: Any) -> Iterator[tuple[str, str]]:
    for attribute in holder.attributes:
        yield attribute.key, attribute.value.string_value


def test_the_console_exporter(models: ModelServer, watching: Watching, app: Path) -> None:
    """With the console exporters alone, what is printed holds tierwise's spans."""
    done = _instrumented(
        app, models, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="console", OTEL_LOGS_EXPORTER="none",
        TIERWISE_STORE=str(watching.path),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count('"name": "chat gpt-5-mini"') == 3
    assert '"name": "tierwise.calls"' in done.stdout


def test_a_broken_policy_leaves_the_program_alone(models: ModelServer, watching: Watching, app: Path) -> None:
    """What is wrong is said on stderr; the program runs."""
    (app.parent / "tierwise.yaml").write_text("tasks: 3\n")
    done = _instrumented(app, models, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    assert (done.returncode, done.stdout) == (0, "4\n")
    assert "tierwise.yaml:1:" in done.stderr

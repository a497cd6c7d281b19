"""Providers: given, global, or ours by the standard variables, against a real OTLP/HTTP receiver."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tierwise.core.errors import ConfigError
from tierwise.telemetry.setup import exporter_names, providers

REQUESTS = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Receiver:
    """An OTLP/HTTP receiver on localhost that decodes what it gets."""

    def __init__(self) -> None:
        self.received: list[tuple[str, object]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                received.append((self.path, REQUESTS[self.path].FromString(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def spans(self):
        return [
            span for path, request in self.received if path == "/v1/traces"
            for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]  # fmt: skip

    def metrics(self):
        return {
            metric.name: metric for path, request in self.received if path == "/v1/metrics"
            for resource in request.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
        }  # fmt: skip


@pytest.fixture
def receiver():
    """A running receiver."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def clean_environment(monkeypatch):
    """No OTEL_ variable is set."""
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


SCRIPT = """
import sys
sys.path.insert(0, {directory!r})
from conftest import make_call
from tierwise.core.call import CheckResult
from tierwise.telemetry import open_telemetry
{before}
telemetry = open_telemetry()
{after}
for number in range(3):
    call = make_call(checks=(CheckResult(name="c", score=0.0, passed=False),))
    span = telemetry.recorder.start(call.request, call.context, call.started_at_ns)
    telemetry.recorder.finish(span, call)
{end}
"""


def _run(environment: dict[str, str], *, before: str = "", after: str = "", end: str = "") -> str:
    code = SCRIPT.format(
        directory=str(Path(__file__).parent), before=textwrap.dedent(before), after=textwrap.dedent(after),
        end=textwrap.dedent(end),
    )  # fmt: skip
    import os

    base = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=base | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_endpoint_variable_alone_exports_everything(receiver):
    """With OTEL_EXPORTER_OTLP_ENDPOINT alone, spans, metrics and events of a script that just ends arrive, no gRPC."""
    out = _run(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_SERVICE_NAME": "shop"},
        end="print('grpc' in sys.modules)",
    )
    assert out == "False\n"
    assert [span.name for span in receiver.spans()] == ["chat gpt-5-mini"] * 3
    found = receiver.metrics()
    assert [point.as_int for point in found["tierwise.calls"].sum.data_points] == [3]
    assert [point.count for point in found["gen_ai.client.operation.duration"].histogram.data_points] == [3]
    assert found["tierwise.call.duration"].histogram.data_points[0].exemplars
    logs = [request for path, request in receiver.received if path == "/v1/logs"]
    assert logs[0].resource_logs[0].scope_logs[0].log_records[0].event_name == "gen_ai.evaluation.result"
    resource = {a.key: a.value.string_value for a in logs[0].resource_logs[0].resource.attributes}
    assert resource["service.name"] == "shop"


def test_exporter_none_turns_one_signal_off(receiver):
    """OTEL_METRICS_EXPORTER=none and logs none leave the spans only."""
    _run({
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none",
    })  # fmt: skip
    assert {path for path, _ in receiver.received} == {"/v1/traces"}


def test_force_flush_exports_at_once(receiver):
    """force_flush sends what was finished without waiting for an interval or the exit."""
    _run(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint},
        end="assert telemetry.force_flush(10); import os; os._exit(0)",
    )
    assert len(receiver.spans()) == 3
    assert receiver.metrics()["tierwise.calls"].sum.data_points[0].as_int == 3


def test_console_exporters_need_no_endpoint():
    """OTEL_TRACES_EXPORTER=console prints spans and makes no other signal."""
    assert _run({"OTEL_TRACES_EXPORTER": "console"}).count('"name": "chat gpt-5-mini"') == 3


def test_without_variables_nothing_is_made(clean_environment):
    """Without providers and variables the SDK is not even imported, spans are no-ops, globals stay unset."""
    code = """
    import sys
    from opentelemetry import trace
    from tierwise.core.call import Request, TaskContext
    from tierwise.telemetry import open_telemetry
    recorder = open_telemetry().recorder
    span = recorder.start(Request(operation="chat", provider="openai", model="m"), TaskContext(), 1)
    print("opentelemetry.sdk" in sys.modules, span.is_recording(), type(trace.get_tracer_provider()).__name__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("False False ProxyTracerProvider\n", "")


def test_sdk_disabled_makes_nothing(receiver):
    """OTEL_SDK_DISABLED=true wins over an endpoint."""
    _run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_SDK_DISABLED": "true"})
    assert receiver.received == []


GLOBALS = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
"""
SHOW = """
points = {m.name: m.data.data_points for r in reader.get_metrics_data().resource_metrics
          for s in r.scope_metrics for m in s.metrics}
print(len(exporter.get_finished_spans()), points["tierwise.calls"][0].value,
      points["tierwise.call.duration"][0].count, trace.get_tracer_provider() is provider)
"""


@pytest.mark.parametrize("place", ["before", "after"])
def test_global_providers_are_used_whenever_they_are_set(place):
    """Global providers of the application count, set before or after tierwise was opened, and are not replaced."""
    before, after = (GLOBALS, "") if place == "before" else ("", GLOBALS)
    assert _run({}, before=before, after=after, end=SHOW) == "3 3 3 True\n"


def test_a_second_runtime_after_late_globals_counts_too():
    """A runtime opened after the application set its providers shares the counters of one opened before."""
    again = """
    other = open_telemetry()
    span = other.recorder.start(call.request, call.context, call.started_at_ns)
    other.recorder.finish(span, call)
    """
    assert _run({}, after=GLOBALS, end=textwrap.dedent(again) + SHOW) == "4 4 4 True\n"


def test_global_providers_win_over_variables(receiver):
    """Where the application set providers, an endpoint variable makes no second ones."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_LOGS_EXPORTER": "none"}
    assert _run(environment, before=GLOBALS, end=SHOW) == "3 3 3 True\n"
    assert receiver.received == []


def test_a_dead_endpoint_loses_no_time_on_the_callers_side():
    """With nothing listening, flush returns within its time and reports that it could not export."""
    out = _run(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none",
        },
        end="""
        import logging, os
        logging.disable(logging.CRITICAL)
        print(telemetry.worker.flush(5), flush=True)
        os._exit(0)
        """,
    )  # fmt: skip
    assert out == "True\n"


def test_given_providers_are_used_as_they_are(rig):
    """Providers given to the call win over everything and are not shut down with it."""
    chosen = providers(rig.tracer_provider, rig.meter_provider, rig.logger_provider)
    assert (chosen.tracer_provider, chosen.meter_provider) == (rig.tracer_provider, rig.meter_provider)
    assert chosen.own == ()


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, ("otlp_proto_grpc",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"}, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c/v1/metrics"}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ("otlp_proto_grpc",)),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            ("otlp_proto_http",),
        ),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp_proto_http")),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, ()),
    ],
)
def test_variables_choose_exporters(clean_environment, variables, names):
    """The standard variables name the exporters and protocols, the signal's own before the general one."""
    for name, value in variables.items():
        clean_environment.setenv(name, value)
    assert exporter_names("TRACES") == names


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkinn", "zipkinn.*not installed; known: console"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/json.*use one of grpc, http/protobuf"),
    ],
)
def test_wrong_variables_are_config_errors(clean_environment, name, value, message):
    """An unknown exporter or protocol is a ConfigError that says which variable and what is known."""
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        pytest.fail("a global tracer provider was set by another test")
    clean_environment.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318")
    clean_environment.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        providers(meter_provider=metrics.NoOpMeterProvider())

"""What an exchange's replay shows against its recording: the caller's side, the span, the call and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import tierwise
from support.exchanges import Exchange, Seen, perform
from tierwise.core.call import Call
from tierwise.core.policy import Policy

OPERATIONS: Final = {"embeddings": "embeddings", "completions": "text_completion"}
API_TYPES: Final = {"chat.completions": "chat_completions", "responses": "responses"}
TOKEN_ATTRIBUTES: Final = {
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cache_read": "gen_ai.usage.cache_read.input_tokens",
    "cache_write": "gen_ai.usage.cache_write.input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
    "input_audio": "gen_ai.usage.audio.input_tokens",
    "output_audio": "gen_ai.usage.audio.output_tokens",
}
PARAMETERS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "max_output_tokens": ("gen_ai.request.max_tokens", int),
    "seed": ("gen_ai.request.seed", int),
    "n": ("gen_ai.request.choice.count", int),
    "stop": ("gen_ai.request.stop_sequences", lambda stop: (stop,) if isinstance(stop, str) else tuple(stop)),
    "reasoning_effort": ("gen_ai.request.reasoning.level", str),
    "previous_response_id": ("gen_ai.request.previous_response.id", str),
    "service_tier": ("openai.request.service_tier", str),
    "dimensions": ("gen_ai.embeddings.dimension.count", int),
    "encoding_format": ("gen_ai.request.encoding_formats", lambda encoding: (encoding,)),
}
MEASURED: Final = {
    "tierwise.epoch": str,
    "tierwise.advice": str,
    "tierwise.try.duration": float,
    "tierwise.retry.backoff": float,
    "gen_ai.response.time_to_first_chunk": float,
}


class Sink:
    """Keeps the finished calls, as a store would."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def write(self, batch: Any) -> None:
        self.rows.extend(batch)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def after_fork_in_child(self) -> None:
        """Nothing is shared."""


class Rig:
    """tierwise on in-memory exporters: finished spans, metric points of one collection, finished calls."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.sink = Sink()

    def instrument(self, client: Any, recorded: Exchange) -> Any:
        """`tierwise.instrument` with these exporters and the exchange's prices."""
        store: Any = self.sink
        return tierwise.instrument(
            client,
            config=Policy(prices=recorded.prices),
            store=store,
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
        )

    def points(self) -> dict[str, list[Any]]:
        """Data points by metric name."""
        found: dict[str, list[Any]] = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found.setdefault(metric.name, []).extend(metric.data.data_points)
        return found

    def close(self) -> None:
        """Stop tierwise and the providers."""
        tierwise.shutdown()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


class Report(list[str]):
    """Differences between what is and what should be, in words."""

    def same(self, what: str, found: Any, expected: Any) -> None:
        """Add a difference unless both are equal."""
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=1e-9)
        if found != expected:
            self.append(f"{what}: {_short(found)}, expected {_short(expected)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "…"


def replay(
    recorded: Exchange, rig: Rig, *, asynchronous: bool, instrument: Callable[[Any], Any] | None = None
) -> list[str]:
    """Replay one exchange to a bare and to an instrumented client; every difference found, in words."""
    bare = perform(recorded, lambda client: client, asynchronous=asynchronous)
    observed = perform(
        recorded, instrument or (lambda client: rig.instrument(client, recorded)), asynchronous=asynchronous
    )
    tierwise.force_flush(30.0)  # the first price catalogue of a process may take a while
    report = Report()
    _compare_with_recording(report, recorded, bare)
    _compare_callers(report, recorded, bare, observed)
    _compare_span(report, recorded, bare, rig)
    _compare_call(report, recorded, rig)
    _compare_metrics(report, recorded, rig)
    return report


def _compare_with_recording(report: Report, recorded: Exchange, bare: Seen) -> None:
    """The bare client sees what the exchange says it is about."""
    sees = recorded.expected["sees"]
    error = bare.error or {}
    if "type" in sees:
        report.same("bare type", bare.kind, sees["type"])
    if "text" in sees:
        report.same(
            "bare text", bare.texts[-1] if recorded.call["mode"] == "stream" else "".join(bare.texts), sees["text"]
        )
    if "chunks" in sees:
        report.same("bare chunks", bare.chunks, sees["chunks"])
    if "waits" in sees:
        report.same("bare waits", bare.waits, sees["waits"])
    report.same("bare exception", error.get("type"), sees.get("raises"))
    if "status" in sees:
        report.same("bare status", error.get("status"), sees["status"])
    if sees.get("message", "") not in error.get("message", ""):
        report.append(f"bare message: {error.get('message')!r} without {sees['message']!r}")


def _compare_callers(report: Report, recorded: Exchange, bare: Seen, observed: Seen) -> None:
    """The instrumented client gives the caller, and sends, what the bare one does."""
    report.same("caller: returned", observed.kind, bare.kind)
    report.same("caller: number of values", len(observed.values), len(bare.values))
    for index, (kind, bare_kind) in enumerate(zip(observed.types, bare.types, strict=False)):
        if kind is not bare_kind and not (issubclass(kind, bare_kind) and kind.__name__ == bare_kind.__name__):
            report.append(f"caller: type of value {index}: {kind}, expected {bare_kind}")
    for index, (found, expected) in enumerate(zip(observed.values, bare.values, strict=False)):
        report.same(f"caller: value {index}", found, expected)
    report.same("caller: exception", observed.error, bare.error)
    report.same("caller: response closed", observed.closed, bare.closed)
    report.same("caller: arguments kept", observed.arguments_kept, True)
    asks = bool(recorded.expected.get("asks_usage"))
    if not asks:
        report.same("caller: pieces read", observed.pieces, bare.pieces)
    report.same("sent: number of requests", len(observed.requests), len(bare.requests))
    for found, expected in zip(observed.requests, bare.requests, strict=False):
        body = dict(found["body"])
        if asks:
            own = expected["body"].get("stream_options")
            report.same(
                "sent: stream_options", body.pop("stream_options", None), {**(own or {}), "include_usage": True}
            )
            if own is not None:
                body["stream_options"] = own
        report.same("sent: body", body, expected["body"])
        for part in ("method", "url", "headers"):
            report.same(f"sent: {part}", found[part], expected[part])
    if len(observed.waits) != len(bare.waits):
        report.append(f"caller: waited {observed.waits}, expected {bare.waits}")
    if "waits" in recorded.expected["sees"]:  # stated by the server; otherwise they are random
        report.same("caller: waits", observed.waits, bare.waits)


def _request_attributes(recorded: Exchange, body: Mapping[str, Any]) -> dict[str, Any]:
    """What the span must say of the request, by the conventions."""
    api = recorded.call["api"]
    server = urlsplit(recorded.base_url)
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS.get(api, "chat"),
        "gen_ai.provider.name": recorded.expected["provider"],
        "gen_ai.request.model": body["model"],
        "server.address": server.hostname,
        "server.port": server.port or {"http": 80, "https": 443}[server.scheme],
        "tierwise.task": recorded.task.get("name", "unassigned"),
    }
    if api in API_TYPES:
        attributes["openai.api.type"] = API_TYPES[api]
    if recorded.streams:
        attributes["gen_ai.request.stream"] = True
    for name, (attribute, kind) in PARAMETERS.items():
        if body.get(name) is not None and not (name == "n" and body[name] == 1):
            attributes[attribute] = kind(body[name])
    if (body.get("reasoning") or {}).get("effort"):
        attributes["gen_ai.request.reasoning.level"] = body["reasoning"]["effort"]
    wanted = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    if wanted:
        attributes["gen_ai.output.type"] = "text" if wanted["type"] == "text" else "json"
    return attributes


def _answer_attributes(recorded: Exchange) -> dict[str, Any]:
    """What the span must say of the answer, by the recording."""
    expected = recorded.expected
    attributes: dict[str, Any] = {"tierwise.outcome": expected["outcome"]}
    pairs = {
        "id": "gen_ai.response.id",
        "model": "gen_ai.response.model",
        "service_tier": "openai.response.service_tier",
        "fingerprint": "openai.response.system_fingerprint",
        "json_form": "tierwise.json.form",
        "error_type": "error.type",
        "retries": "tierwise.retries",
    }
    attributes |= {attribute: expected[name] for name, attribute in pairs.items() if name in expected}
    if "finish_reasons" in expected:
        attributes["gen_ai.response.finish_reasons"] = tuple(expected["finish_reasons"])
    if "json_form" in expected:
        attributes["tierwise.json.valid"] = expected["json_form"] == "plain"
    for kind, count in (expected["tokens"] or {}).items():
        if count or kind in ("input", "output"):
            attributes[TOKEN_ATTRIBUTES[kind]] = count
    if "cost" in expected:
        attributes["tierwise.cost.amount"] = float(expected["cost"]["usd"])
        attributes["tierwise.cost.currency"] = "USD"
        attributes["tierwise.cost.source"] = expected["cost"]["source"]
    return attributes


def _compare_span(report: Report, recorded: Exchange, bare: Seen, rig: Rig) -> None:
    spans = [span for span in rig.spans.get_finished_spans() if "gen_ai.operation.name" in (span.attributes or {})]
    report.same("span: how many", len(spans), 1)
    if len(spans) != 1:
        return
    (span,) = spans
    found = dict(span.attributes or {})
    if (
        found.get("tierwise.cost.source") == "catalogue"
        and recorded.expected["tokens"]
        and "cost" not in recorded.expected
    ):
        for name in ("amount", "currency", "source"):  # what a catalogue says today is not the recording's to state
            del found[f"tierwise.cost.{name}"]
    measured: dict[str, Any] = {name: found.pop(name) for name in MEASURED if name in found}
    wanted = _request_attributes(recorded, bare.requests[0]["body"]) | _answer_attributes(recorded)
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted:
            report.append(f"span {name}: {found[name]!r}, which the recording does not say")
        else:
            report.same(f"span {name}", found.get(name), wanted[name])
    due = {"tierwise.epoch", "tierwise.try.duration"}
    due |= {"tierwise.retry.backoff"} if "retries" in recorded.expected else set()
    due |= {"tierwise.advice"} if "advice" in recorded.expected else set()
    due |= {"gen_ai.response.time_to_first_chunk"} if bare.chunks else set()
    report.same("span: what is measured", set(measured), due)
    for name, value in measured.items():
        if not isinstance(value, MEASURED[name]) or (isinstance(value, float) and value < 0):
            report.append(f"span {name}: {value!r} is not a {MEASURED[name].__name__}")
    if recorded.expected.get("advice", "") not in measured.get("tierwise.advice", ""):
        report.append(f"span tierwise.advice: {measured.get('tierwise.advice')!r}")
    report.same("span: name", span.name, f"{wanted['gen_ai.operation.name']} {wanted['gen_ai.request.model']}")
    report.same("span: kind", span.kind, SpanKind.CLIENT)
    status = StatusCode.ERROR if "error_type" in recorded.expected else StatusCode.UNSET
    report.same("span: status", span.status.status_code, status)
    tries = [event.attributes or {} for event in span.events if event.name == "tierwise.try"]
    report.same("span: events", len(span.events), len(tries))
    seen = [attributes.get("http.response.status_code", attributes.get("error.type")) for attributes in tries]
    report.same("span: tries", seen, list(recorded.expected.get("tries", [])))


def _compare_call(report: Report, recorded: Exchange, rig: Rig) -> None:
    calls = [row for row in rig.sink.rows if isinstance(row, Call)]
    report.same("call: how many", len(calls), 1)
    if len(calls) != 1:
        return
    (call,), expected = calls, recorded.expected
    report.same("call: outcome", call.outcome, expected["outcome"])
    report.same(
        "call: error_type",
        call.error_type or ("_OTHER" if call.outcome == "error" else None),
        expected.get("error_type"),
    )
    report.same("call: json_form", call.json_form, expected.get("json_form"))
    report.same("call: retries", call.retries, expected.get("retries", 0))
    report.same("call: finish_reasons", list(call.answer.finish_reasons), expected.get("finish_reasons", []))
    tokens = None
    if call.usage is not None:
        names = [field.name for field in fields(call.usage) if field.name.endswith("_tokens")]
        counts = {name.removesuffix("_tokens"): getattr(call.usage, name) for name in names}
        tokens = {
            kind: count for kind, count in counts.items() if count or (count == 0 and kind in ("input", "output"))
        }
    stated = expected["tokens"]
    if stated is not None:
        stated = {kind: count for kind, count in stated.items() if count or kind in ("input", "output")}
    report.same("call: tokens", tokens, stated)
    if "cost" in expected:
        cost = None if call.cost is None else call.cost.amount_usd
        report.same("call: cost", cost, float(expected["cost"]["usd"]))
        report.same("call: cost source", call.cost and call.cost.source, expected["cost"]["source"])
    elif call.cost is not None and (call.cost.source != "catalogue" or expected["tokens"] is None):
        report.append(f"call: cost {call.cost}, which the recording does not say")


def _compare_metrics(report: Report, recorded: Exchange, rig: Rig) -> None:
    points = rig.points()
    expected, api = recorded.expected, recorded.call["api"]

    def sums(name: str, by: str) -> dict[Any, float]:
        found: dict[Any, float] = {}
        for point in points.get(name, []):
            key = (point.attributes or {}).get(by)
            found[key] = found.get(key, 0) + (point.sum if hasattr(point, "sum") else point.value)
        return {key: value for key, value in found.items() if value}

    def durations(name: str) -> list[tuple[Any, ...]]:
        keys = ("gen_ai.operation.name", "gen_ai.provider.name", "error.type")
        return [(point.count, *((point.attributes or {}).get(key) for key in keys)) for point in points.get(name, [])]

    one = (1, OPERATIONS.get(api, "chat"), expected["provider"], expected.get("error_type"))
    report.same("metric gen_ai.client.operation.duration", durations("gen_ai.client.operation.duration"), [one])
    latest = [] if api == "embeddings" else [one]
    report.same("metric gen_ai.client.inference.duration", durations("gen_ai.client.inference.duration"), latest)
    stated = {kind: count for kind, count in (expected["tokens"] or {}).items() if count}
    both = {kind: stated[kind] for kind in ("input", "output") if kind in stated}
    report.same("metric gen_ai.client.token.usage", sums("gen_ai.client.token.usage", "gen_ai.token.type"), both)
    for kind in ("input", "output") if api != "embeddings" else ():
        name = f"gen_ai.client.inference.operation.{kind}_tokens"
        report.same(f"metric {name}", sum(sums(name, "").values()), stated.get(kind, 0))
    report.same("metric tierwise.calls", sums("tierwise.calls", "tierwise.outcome"), {expected["outcome"]: 1})
    folded = {kind: count for kind, count in stated.items() if "audio" not in kind}  # the counter has five kinds
    report.same("metric tierwise.call.tokens", sums("tierwise.call.tokens", "tierwise.token.kind"), folded)
    report.same(
        "metric tierwise.call.retries", sum(sums("tierwise.call.retries", "").values()), expected.get("retries", 0)
    )
    if "cost" in expected:
        cost = sum(sums("tierwise.call.cost", "").values())
        report.same("metric tierwise.call.cost", cost, float(expected["cost"]["usd"]))
    report.same("metric tierwise.internal.errors", sums("tierwise.internal.errors", "tierwise.where"), {})

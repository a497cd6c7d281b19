"""Spans of finished calls: exact names, types and levels of the attributes, events, status, context."""

from __future__ import annotations

import contextvars
import logging
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from tierwise.core.call import Answer, CheckResult, Request, TaskContext, Try, Usage
from tierwise.core.receipt import Receipt, Verdict
from tierwise.telemetry import open_telemetry, spans
from tierwise.telemetry.recorder import TelemetryRecorder
from tierwise.telemetry.spans import call_attributes, end_span, request_attributes, start_attributes


def _exact(attributes: Any, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert attributes[name] == value, name
        assert type(attributes[name]) is type(value), name


def test_request_attributes_have_the_conventions_names_and_types(rig, call):
    """Every request parameter that was given is on the span with its exact type, and nothing else is."""
    request = Request(
        operation="chat", api_type="chat_completions", provider="groq", model="llama-4", server_address="api.groq.com",
        server_port=8443, stream=True, output_type="json", temperature=0, top_p=1, frequency_penalty=0.5,
        presence_penalty=-1, max_tokens=64, seed=7, choice_count=2, stop_sequences=("a", "b"), reasoning_level="low",
        previous_response_id="resp_0", conversation_id="conv_1", service_tier="flex",
    )  # fmt: skip
    context = TaskContext(name="strict-json", risk="high", prompt_version="v3")
    span = rig.span(call(request=request, context=context))
    assert span.name == "chat llama-4"
    assert span.kind is SpanKind.CLIENT
    expected = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "groq", "gen_ai.request.model": "llama-4",
        "server.address": "api.groq.com", "server.port": 8443, "openai.api.type": "chat_completions",
        "gen_ai.request.stream": True, "gen_ai.output.type": "json", "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0, "gen_ai.request.frequency_penalty": 0.5, "gen_ai.request.presence_penalty": -1.0,
        "gen_ai.request.max_tokens": 64, "gen_ai.request.seed": 7, "gen_ai.request.choice.count": 2,
        "gen_ai.request.stop_sequences": ("a", "b"), "gen_ai.request.reasoning.level": "low",
        "gen_ai.request.previous_response.id": "resp_0", "gen_ai.conversation.id": "conv_1",
        "openai.request.service_tier": "flex", "tierwise.task": "strict-json", "tierwise.risk": "high",
        "gen_ai.prompt.version": "v3",
    }  # fmt: skip
    _exact(span.attributes, expected)
    assert set(start_attributes(request, context) | request_attributes(request, context)) == set(expected)


def test_parameters_that_were_not_given_leave_no_attribute():
    """A bare request has only the required attributes, the model and the task; one choice and no stream are silent."""
    bare = Request(operation="chat", provider="openai", model="m", choice_count=1, stream=False)
    assert request_attributes(bare, TaskContext()) == {}
    assert set(start_attributes(bare, TaskContext())) == {
        "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "tierwise.task",
    }  # fmt: skip


def test_embeddings_carry_dimensions_and_formats(rig, call):
    """An embeddings span is named after its operation and carries dimension count and encoding formats."""
    request = Request(
        operation="embeddings", provider="openai", model="e3", dimensions=256, encoding_formats=("float",)
    )
    span = rig.span(call(request=request, usage=Usage(input_tokens=5), answer=Answer(model="e3")))
    assert span.name == "embeddings e3"
    _exact(
        span.attributes,
        {"gen_ai.embeddings.dimension.count": 256, "gen_ai.request.encoding_formats": ("float",)},
    )
    assert "gen_ai.usage.output_tokens" not in span.attributes


def test_response_attributes_have_the_conventions_names_and_types(rig, call):
    """Everything known at the end is on the span with its exact type, ours included, and the end time is the call's."""
    finished = call(
        answer=Answer(
            id="chatcmpl-9", model="gpt-5-mini-x", finish_reasons=("stop", "length"), service_tier="default",
            system_fingerprint="fp_1",
        ),
        usage=Usage(
            input_tokens=10, output_tokens=20, cache_read_tokens=4, cache_write_tokens=3, reasoning_tokens=8,
            input_audio_tokens=2, output_audio_tokens=1,
        ),
        outcome="json_fenced", json_form="fenced", time_to_first_chunk_s=0.1, retries=2, backoff_s=1.5, last_try_s=0.2,
        arm="canary", rung=1, route_version=4, propensity=0.25, candidate="fast-json", advice="raise max_tokens",
        context=TaskContext(name="summary", run_id="r-1"),
    )  # fmt: skip
    span = rig.span(finished)
    expected = {
        "gen_ai.response.id": "chatcmpl-9", "gen_ai.response.model": "gpt-5-mini-x",
        "gen_ai.response.finish_reasons": ("stop", "length"), "gen_ai.response.time_to_first_chunk": 0.1,
        "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 20, "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_write.input_tokens": 3, "gen_ai.usage.reasoning.output_tokens": 8,
        "gen_ai.usage.audio.input_tokens": 2, "gen_ai.usage.audio.output_tokens": 1,
        "openai.response.service_tier": "default", "openai.response.system_fingerprint": "fp_1",
        "tierwise.outcome": "json_fenced", "tierwise.json.valid": False, "tierwise.json.form": "fenced",
        "tierwise.cost.amount": 0.001, "tierwise.cost.currency": "USD", "tierwise.cost.source": "catalogue",
        "tierwise.retries": 2, "tierwise.retry.backoff": 1.5, "tierwise.try.duration": 0.2, "tierwise.arm": "canary",
        "tierwise.rung": 1, "tierwise.run.id": "r-1", "tierwise.route.version": 4, "tierwise.propensity": 0.25,
        "tierwise.candidate": "fast-json", "tierwise.epoch": "e1", "tierwise.advice": "raise max_tokens",
    }  # fmt: skip
    _exact(span.attributes, expected)
    assert set(call_attributes(finished)) == set(expected)
    assert span.start_time == finished.started_at_ns
    assert span.end_time == finished.started_at_ns + 250_000_000
    assert span.status.status_code is StatusCode.UNSET


def test_unreported_usage_and_cost_leave_no_attribute(rig, call):
    """Tokens, cost and JSON validity are absent when nothing is known, never zero or false."""
    names = set(rig.span(call(usage=None, cost=None)).attributes)
    assert not {name for name in names if name.startswith(("gen_ai.usage", "tierwise.cost", "tierwise.json"))}


@pytest.mark.parametrize(
    ("outcome", "error_type", "expected"),
    [
        ("error", "RateLimitError", "RateLimitError"),
        ("error", None, "_OTHER"),
        ("rejected", "BadRequestError", "BadRequestError"),
        ("truncated", "LengthFinishReasonError", "LengthFinishReasonError"),
        ("truncated", None, None),
        ("cancelled", None, None),
        ("json_invalid", None, None),
        ("success", None, None),
    ],
)
def test_only_errors_mark_the_span(rig, call, outcome, error_type, expected):
    """Status ERROR and error.type stand for errors, rejected requests and exceptions, not for other outcomes."""
    span = rig.span(call(outcome=outcome, error_type=error_type))
    assert span.attributes.get("error.type") == expected
    assert span.status.status_code is (StatusCode.UNSET if expected is None else StatusCode.ERROR)


def test_failed_tries_are_events(rig, call):
    """Arize-ai/openinference#1175: each failed try is an event with number, status or error, wait and its own time."""
    tries = (
        Try(number=1, status=429, backoff_s=0.5, ended_at_ns=1_000),
        Try(number=2, error_type="APIConnectionError", backoff_s=1, ended_at_ns=2_000),
    )
    events = rig.span(call(retries=2, backoff_s=1.5, failed_tries=tries)).events
    assert [(event.name, event.timestamp) for event in events] == [("tierwise.try", 1_000), ("tierwise.try", 2_000)]
    assert dict(events[0].attributes) == {
        "tierwise.try.number": 1, "tierwise.retry.backoff": 0.5, "http.response.status_code": 429,
    }  # fmt: skip
    assert dict(events[1].attributes) == {
        "tierwise.try.number": 2, "tierwise.retry.backoff": 1.0, "error.type": "APIConnectionError",
    }  # fmt: skip


def test_span_is_current_between_activate_and_deactivate(rig, call):
    """Spans made meanwhile become children, and the former context returns afterwards."""
    recorder: TelemetryRecorder = rig.open().recorder
    finished = call()
    span = recorder.start(finished.request, finished.context, finished.started_at_ns)
    before = trace.get_current_span()
    token = recorder.activate(span)
    assert trace.get_current_span() is span
    recorder.deactivate(token)
    assert trace.get_current_span() is before
    context = span.get_span_context()
    assert recorder.ids(span) == (context.trace_id, context.span_id)
    recorder.finish(span, finished)


def test_deactivating_elsewhere_is_silent(rig, call, caplog):
    """openlit/openlit#1369: a token of another context, or one used twice, neither raises nor logs."""
    recorder = rig.open().recorder
    finished = call()
    span = recorder.start(finished.request, finished.context, finished.started_at_ns)
    token = contextvars.copy_context().run(recorder.activate, span)
    with caplog.at_level(logging.DEBUG):
        recorder.deactivate(token)
        recorder.deactivate(token)
        recorder.deactivate(None)
    assert caplog.records == []
    recorder.finish(span, finished)


def test_unsampled_spans_cost_no_attributes_but_are_counted(rig, call, points, total):
    """A span that does not record gets no attribute; metrics and rows hold the call all the same, without exemplar."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    telemetry = open_telemetry(sinks=[rig.sink], tracer_provider=provider, meter_provider=rig.meter_provider)
    finished = call()
    span = telemetry.recorder.start(finished.request, finished.context, finished.started_at_ns)
    telemetry.recorder.finish(span, finished)
    found = points(rig.cumulative)
    assert total(found["tierwise.calls"]) == 1
    assert list(found["tierwise.call.duration"][0].exemplars) == []
    assert telemetry.shutdown()
    assert rig.sink.rows == [finished]


def test_cost_that_comes_later_is_on_the_span(rig, call):
    """With `price_later` the span ends on the worker, priced, at its true end; metrics and row have the cost too."""
    unpriced = call(cost=None, epoch="unpriced")
    priced = call(started_at_ns=unpriced.started_at_ns)
    rig.record(unpriced, price_later=lambda _: priced)
    assert rig.telemetry.worker.flush(5.0)
    (span,) = rig.spans.get_finished_spans()
    assert span.attributes["tierwise.cost.amount"] == 0.001
    assert span.attributes["tierwise.epoch"] == "e1"
    assert span.end_time == unpriced.started_at_ns + 250_000_000
    assert rig.sink.rows == [priced]


def test_a_failing_price_still_ends_the_span(rig, call, monkeypatch):
    """When pricing fails the call is recorded without cost, its span ends, and the fault is counted."""
    monkeypatch.delenv("TIERWISE_RAISE")
    rig.record(call(cost=None), price_later=lambda _: 1 / 0)
    assert rig.telemetry.worker.flush(5.0)
    assert len(rig.spans.get_finished_spans()) == 1
    assert len(rig.sink.rows) == 1
    assert rig.telemetry.metrics.internal("errors") == {"price": 1}


def test_failed_checks_are_evaluation_events(rig, call):
    """A failed check is a log record in the span's context; one that passed is not."""
    checks = (CheckResult(name="bullets", score=0.4, passed=False), CheckResult(name="short", score=1.0, passed=True))
    span = rig.span(call(outcome="check_failed", checks=checks))
    assert rig.telemetry.worker.flush(5.0)
    (log,) = rig.logs.get_finished_logs()
    record = log.log_record
    assert record.event_name == "gen_ai.evaluation.result"
    assert dict(record.attributes) == {
        "gen_ai.evaluation.name": "bullets", "gen_ai.evaluation.score.value": 0.4,
        "gen_ai.evaluation.score.label": "fail", "gen_ai.response.id": "chatcmpl-1",
    }  # fmt: skip
    assert (record.trace_id, record.span_id) == (span.context.trace_id, span.context.span_id)


def test_feedback_is_counted_and_emitted(rig, points):
    """A verdict adds to tierwise.feedback by accepted and is an evaluation event in the call's own span."""
    recorder = rig.open().recorder
    receipt = Receipt(
        task="summary", candidate="m", epoch="e1", arm="primary", rung=0, grade="randomised", started_at_ns=1,
        trace_id=7, span_id=9,
    )  # fmt: skip
    for accepted in (True, False, False):
        recorder.feedback(Verdict(receipt=receipt, accepted=accepted))
    counted = {p.attributes["tierwise.feedback.accepted"]: p.value for p in points(rig.cumulative)["tierwise.feedback"]}
    assert counted == {True: 1, False: 2}
    assert rig.telemetry.worker.flush(5.0)
    logs = [log.log_record for log in rig.logs.get_finished_logs()]
    assert [log.attributes["gen_ai.evaluation.score.label"] for log in logs] == ["accepted", "rejected", "rejected"]
    assert {(log.trace_id, log.span_id) for log in logs} == {(7, 9)}


def test_internal_errors_are_counted_logged_once_and_raised_on_request(rig, points, caplog, monkeypatch):
    """A fault is raised with TIERWISE_RAISE=1, else logged once per place without its message, and counted always."""
    recorder = rig.open().recorder
    with pytest.raises(ValueError, match="sk-secret"):
        recorder.internal_error("finish", ValueError("sk-secret"))
    monkeypatch.delenv("TIERWISE_RAISE")
    recorder.internal_error("finish", ValueError("sk-secret"))
    assert len(caplog.records) == 1
    assert "sk-secret" not in caplog.text
    (point,) = points(rig.cumulative)["tierwise.internal.errors"]
    assert (point.value, dict(point.attributes)) == (2, {"tierwise.where": "finish"})


def test_a_span_that_breaks_still_lets_the_call_be_recorded(rig, call, points, total, monkeypatch):
    """When the span raises, the fault is counted and metrics and row are complete."""
    monkeypatch.delenv("TIERWISE_RAISE")
    recorder = rig.open().recorder
    finished = call()
    span = recorder.start(finished.request, finished.context, finished.started_at_ns)
    monkeypatch.setattr(spans, "set_clean_attributes", lambda *_: 1 / 0)
    recorder.finish(span, finished)
    monkeypatch.undo()
    assert total(points(rig.cumulative)["tierwise.calls"]) == 1
    assert len(rig.spans.get_finished_spans()) == 1
    assert rig.telemetry.metrics.internal("errors") == {"span": 1}


@given(
    name=st.text(st.characters(exclude_categories=()), max_size=300),
    count=st.integers(min_value=-(2**70), max_value=2**70),
)
def test_hostile_answers_can_always_be_encoded(name, count):
    """Whatever a provider sends as names and counts, lone surrogates and huge integers included, OTLP can encode it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    request = Request(operation="chat", provider="p", model=name, seed=count, max_tokens=count, stop_sequences=(name,))
    context = TaskContext(name=name)
    call = replace(
        _hostile_base(request, context),
        answer=Answer(id=name, model=name, finish_reasons=(name,), system_fingerprint=name),
        usage=Usage(input_tokens=count),
        error_type=name,
    )
    span = provider.get_tracer("t").start_span("chat", attributes=start_attributes(request, context))
    end_span(span, call)
    assert encode_spans(exporter.get_finished_spans()).SerializeToString()


def _hostile_base(request: Request, context: TaskContext) -> Any:
    from tierwise.core.call import Call

    return Call(
        request=request, context=context, answer=Answer(), outcome="error", candidate=request.model, epoch="e",
        started_at_ns=1, duration_s=0.1,
    )  # fmt: skip

"""Complaints about other instrumentations that show in spans, metrics, threads and contexts: real SDK, real clients."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from support.canned import ASK, Canned, Reply, async_client, chat, httpx, stream, sync_client, typed
from support.shapes import PLAIN, STREAMED, client_for, read, reply_for
from tierwise.core.cost import flat_rates
from tierwise.testing import FixedPrices, chat_chunks, instrument_in_memory

RATES = FixedPrices(flat_rates(source="override", input=1.0, output=2.0))


def observe(client: Any, rig: Any) -> Any:
    """Instrument with the rig's real recorder, made on first use."""
    telemetry = rig.telemetry or rig.open()
    return instrument_in_memory(client, recorder=telemetry.recorder, prices=RATES)


def attributes_of(rig: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each set of attributes stands: spans, their events, log records, metric points."""
    for span in rig.spans.get_finished_spans():
        yield span.name, dict(span.attributes or {})
        for event in span.events:
            yield event.name, dict(event.attributes or {})
    for log in rig.logs.get_finished_logs():
        yield "log", dict(log.log_record.attributes or {})
    data = rig.cumulative.get_metrics_data()
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    yield metric.name, dict(point.attributes or {})


@pytest.mark.parametrize("opt_in", ["", "gen_ai_latest_experimental", "gen_ai_latest_experimental/dup"])
def test_the_provider_has_one_name(rig, monkeypatch, opt_in):
    """SigNoz/signoz#12759: `gen_ai.provider.name` wherever a provider is named, `gen_ai.system` nowhere."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    client, _ = sync_client(
        chat(), stream("a"), Reply(status=400, body={"error": {}}), base_url="https://api.groq.com/v1"
    )
    observe(client, rig)
    read("sync", "create", client)
    read("sync", "stream", client)
    read("sync", "create", client)
    found = list(attributes_of(rig))
    assert [where for where, names in found if "gen_ai.system" in names] == []
    named = [names["gen_ai.provider.name"] for where, names in found if where.startswith(("chat", "gen_ai.client"))]
    assert len(named) > 5
    assert set(named) == {"groq"}


def test_a_cost_says_its_amount_currency_and_source(rig, points):
    """open-telemetry/semantic-conventions-genai#443, open-telemetry/semantic-conventions#2312: on the span and as a metric."""
    client, _ = sync_client(chat())
    observe(client, rig)
    read("sync", "create", client)
    (span,) = rig.spans.get_finished_spans()
    cost = {name: value for name, value in span.attributes.items() if name.startswith("tierwise.cost.")}
    assert cost == {
        "tierwise.cost.amount": pytest.approx(22e-6), "tierwise.cost.currency": "USD", "tierwise.cost.source": "override",
    }  # fmt: skip
    assert sum(point.value for point in points(rig.cumulative)["tierwise.call.cost"]) == pytest.approx(22e-6)


def test_a_long_stream_is_one_span_without_events(rig):
    """No event and no log record for each chunk: a stream of 300 costs one span, as a plain call does."""
    client, _ = sync_client(stream(*["a"] * 300))
    observe(client, rig)
    read("sync", "stream", client)
    assert rig.telemetry.worker.flush(5.0)
    (span,) = rig.spans.get_finished_spans()
    assert (span.events, rig.logs.get_finished_logs()) == ((), ())
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("shape", STREAMED)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_stream_that_breaks_is_an_error_and_its_span_ends(rig, mode, shape):
    """traceloop/openllmetry#4429: status ERROR with the exception's name, what had come until then, and no span left open."""
    client = client_for(mode, Reply(events=chat_chunks(['{"name": ', '"A'])[:3], done=False, drop=True))
    observe(client, rig)
    error: Any = None
    try:
        error = read(mode, shape, client)[0].__name__  # newer clients raise an error of their own
    except httpx.ReadError as caught:
        error = type(caught).__name__
    (span,) = rig.spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == error
    assert (span.attributes["tierwise.outcome"], span.attributes["gen_ai.response.id"]) == ("error", "chatcmpl-1")


@pytest.mark.parametrize("way", ["close", "block", "helper", "dropped"])
def test_leaving_a_stream_is_no_error(rig, way):
    """Arize-ai/openinference#3796, openlit/openlit#1515: the span is exported when the stream is left, without ERROR."""
    client, _ = sync_client(stream("a", "b", "c"))
    observe(client, rig)
    if way == "helper":
        with typed(client).stream(**ASK) as events:
            next(iter(events))
    elif way == "block":
        with client.chat.completions.create(**ASK, stream=True) as chunks:
            next(chunks)
    else:
        chunks = client.chat.completions.create(**ASK, stream=True)
        next(chunks)
        if way == "close":
            chunks.close()
        del chunks
        gc.collect()
    (span,) = rig.spans.get_finished_spans()
    assert (span.status.status_code, span.attributes["tierwise.outcome"]) == (StatusCode.UNSET, "cancelled")
    assert "error.type" not in span.attributes


def test_the_current_span_is_the_applications_own_while_a_stream_is_read(rig, caplog):
    """openlit/openlit#1369: reading, leaving and collecting a stream in other contexts moves no context and logs nothing."""
    tracer = rig.tracer_provider.get_tracer("application")
    client, _ = async_client(stream("a", "b", "c"))
    observe(client, rig)

    async def read_one(chunks: Any) -> None:
        with tracer.start_as_current_span("inner") as inner:
            await chunks.__anext__()
            assert trace.get_current_span() is inner

    async def go() -> None:
        with tracer.start_as_current_span("outer") as outer:
            for closed in (True, False):
                chunks = await client.chat.completions.create(**ASK, stream=True)
                assert trace.get_current_span() is outer
                await asyncio.create_task(read_one(chunks))
                if closed:
                    await asyncio.create_task(chunks.close())
                del chunks
                gc.collect()
                await asyncio.sleep(0)
                assert trace.get_current_span() is outer

    with caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        asyncio.run(go())
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    spans = {span.name: span for span in rig.spans.get_finished_spans()}
    calls = [span for span in rig.spans.get_finished_spans() if span.name == "chat gpt-5-mini"]
    assert [span.parent.span_id for span in calls] == [spans["outer"].context.span_id] * 2
    assert spans["inner"].parent.span_id == spans["outer"].context.span_id


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_spans_of_the_http_library_are_children(rig, mode):
    """While the request is under way the call's span is current, for each of its tries."""
    parents: list[Any] = []

    class Watching(Canned):
        def _next(self, request: Any) -> Reply:
            parents.append(trace.get_current_span())
            return super()._next(request)

    wire = Watching(Reply(status=500, body={"error": {}}, headers={"retry-after-ms": "1"}), chat())
    client: Any
    if mode == "sync":
        http = openai.DefaultHttpxClient(transport=wire.sync_transport())
        client = openai.OpenAI(api_key="sk-test", http_client=http, max_retries=1)
    else:
        ahttp = openai.DefaultAsyncHttpxClient(transport=wire.async_transport())
        client = openai.AsyncOpenAI(api_key="sk-test", http_client=ahttp, max_retries=1)
    observe(client, rig)
    read(mode, "create", client)
    (span,) = rig.spans.get_finished_spans()
    assert [parent.get_span_context().span_id for parent in parents] == [span.context.span_id] * 2
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_what_the_caller_sends_beside_the_prompt_is_on_no_span(rig):
    """Headers, keys and query of a call are nowhere, whoever gave them: client, copy or call; nor are messages."""
    client, _ = sync_client(chat(), Reply(status=401, body={"error": {"message": "bad key sk-PLANTED"}}))
    observe(client, rig)
    planted: dict[str, Any] = {
        "extra_headers": {"Authorization": "Bearer PLANTED", "api-key": "PLANTED"},
        "extra_query": {"key": "PLANTED"},
        "extra_body": {"secret": "PLANTED"},
    }
    copied = client.with_options(default_headers={"x-own": "PLANTED"}, api_key="sk-PLANTED")
    copied.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": "PLANTED"}]}, **planted)
    with pytest.raises(openai.AuthenticationError):
        copied.chat.completions.create(**ASK, **planted)
    assert rig.telemetry.worker.flush(5.0)
    spans = rig.spans.get_finished_spans()
    assert len(spans) == 2
    assert "PLANTED" not in json.dumps([list(attributes_of(rig)), [span.to_json() for span in spans]], default=str)
    assert "PLANTED" not in repr(rig.sink.rows)


class Begun:
    """Threads and event loops that come to be while it watches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[str] = []
        start, new_loop = threading.Thread.start, asyncio.new_event_loop

        def starting(thread: threading.Thread) -> None:
            self.found.append(f"thread {thread.name}")
            start(thread)

        def looping() -> asyncio.AbstractEventLoop:
            self.found.append("event loop")
            return new_loop()

        monkeypatch.setattr(threading.Thread, "start", starting)
        monkeypatch.setattr(asyncio, "new_event_loop", looping)
        monkeypatch.setattr("asyncio.events.new_event_loop", looping)
        monkeypatch.setattr("asyncio.runners.events.new_event_loop", looping)


def test_the_watch_for_threads_and_loops_sees_them(monkeypatch):
    """The watch of the next test is one that can fail."""
    begun = Begun(monkeypatch)
    asyncio.run(asyncio.to_thread(int))
    assert begun.found[0] == "event loop"
    assert [one for one in begun.found if one.startswith("thread")]


def test_no_thread_and_no_event_loop_for_a_call(rig, monkeypatch):
    """traceloop/openllmetry#2547: after the first call the one worker is all there is, inside a running loop too."""
    client = client_for("sync", *[reply_for(shape) for shape in (*PLAIN, *STREAMED)] * 13)
    asynchronous, _ = async_client(chat())
    observe(client, rig)
    observe(asynchronous, rig)
    first, _ = sync_client(chat())
    observe(first, rig)
    first.chat.completions.create(**ASK)  # starts the worker

    def calls() -> None:
        for _ in range(6):
            for shape in (*PLAIN, *STREAMED):
                read("sync", shape, client)

    async def inside() -> list[str]:
        await asynchronous.chat.completions.create(**ASK)  # the bare client asks for its platform on a thread, once
        begun = Begun(monkeypatch)
        calls()
        for _ in range(20):
            await asynchronous.chat.completions.create(**ASK)
        return list(begun.found)  # the end of the loop begins a thread of its own

    assert asyncio.run(inside()) == []
    begun = Begun(monkeypatch)
    calls()
    assert begun.found == []
    assert rig.telemetry.worker.flush(5.0)
    assert len(rig.sink.rows) == 1 + 21 + 2 * 6 * 8


def test_two_instrumentations_count_tokens_once(rig, monkeypatch, points):
    """Beside another instrumentation there are two spans, the user's choice; tierwise's own metrics count each call once."""
    from openai.resources.chat import completions

    tracer = rig.tracer_provider.get_tracer("another")
    bare = completions.Completions.create

    def create(self: Any, *args: Any, **kwargs: Any) -> Any:
        with tracer.start_as_current_span("chat by another", attributes={"gen_ai.usage.output_tokens": 5}):
            return bare(self, *args, **kwargs)

    monkeypatch.setattr(completions.Completions, "create", create)
    client, _ = sync_client(chat(), stream("a"))
    observe(client, rig)
    observe(client, rig)
    read("sync", "create", client)
    read("sync", "stream", client)
    theirs = [span for span in rig.spans.get_finished_spans() if span.name == "chat by another"]
    ours = [span for span in rig.spans.get_finished_spans() if span.name == "chat gpt-5-mini"]
    assert [span.parent.span_id for span in ours] == [span.context.span_id for span in theirs]
    found = points(rig.cumulative)
    tokens = {p.attributes["gen_ai.token.type"]: p.sum for p in found["gen_ai.client.token.usage"]}
    assert (len(ours), tokens) == (2, {"input": 24, "output": 10})
    assert sum(point.value for point in found["tierwise.calls"]) == 2

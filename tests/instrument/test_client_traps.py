"""How the openai client really behaves where an instrumentation is easily wrong: one test for each such place."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import gc
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

import tierwise
from support.canned import ASK, Canned, Reply, async_client, chat, httpx, stream, sync_client, typed
from support.shapes import Person, client_for, read, reply_for
from tierwise.core.cost import flat_rates
from tierwise.instrument.entering import current
from tierwise.testing import FixedPrices, chat_body, chat_chunks, instrument_in_memory

RATES = FixedPrices(flat_rates(source="override", input=1.0, output=2.0))


def test_no_http_library_is_imported() -> None:
    """The client may be built on httpx or on httpx2, and either may be missing: tierwise imports neither."""
    sources = sorted(Path(tierwise.__file__).parent.rglob("*.py"))
    imported = {
        name
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "opentelemetry.trace" in imported
    assert {name for name in imported if name.partition(".")[0] in ("httpx", "httpx2", "httpcore", "aiohttp")} == set()


class Renewing(httpx.Auth):  # type: ignore[misc]
    """Sends a request again with a fresh token when the first one was refused, as workload identities do."""

    def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        response = yield request
        if response.status_code == 401:
            request.headers["authorization"] = "Bearer fresh"
            yield request


@pytest.mark.parametrize(
    "first",
    [
        Reply(status=307, body="", headers={"location": "https://eu.api.openai.com/v1/chat/completions"}),
        Reply(status=401, body={"error": {"message": "expired"}}),
    ],
    ids=["redirect", "token"],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_sends_that_are_no_retries_are_not_counted_as_such(mode: str, first: Reply) -> None:
    """A redirect and a replay with a new token are HTTP requests inside one try: one call, no retry, no failed try."""
    wire = Canned(first, chat())
    client: Any
    if mode == "sync":
        http = openai.DefaultHttpxClient(transport=wire.sync_transport(), auth=Renewing())
        client = openai.OpenAI(api_key="sk-test", http_client=http, max_retries=2)
    else:
        ahttp = openai.DefaultAsyncHttpxClient(transport=wire.async_transport(), auth=Renewing())
        client = openai.AsyncOpenAI(api_key="sk-test", http_client=ahttp, max_retries=2)
    recorder = instrument_in_memory(client)
    read(mode, "create", client)
    assert len(wire.bodies) == 2
    assert [(call.outcome, call.retries, call.failed_tries) for call in recorder.calls] == [("success", 0, ())]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("streamed", [False, True])
def test_results_do_not_carry_the_retries_and_need_not(mode: str, streamed: bool) -> None:
    """Parsed answers, streams and exceptions know nothing of retries; a status error after them has the count all the same."""
    failing = Reply(status=500, body={"error": {"message": "no"}}, headers={"retry-after-ms": "1"})
    client = client_for(mode, failing, max_retries=2)
    recorder = instrument_in_memory(client)
    assert read(mode, "stream" if streamed else "create", client)[0] is openai.InternalServerError
    (call,) = recorder.calls
    assert (call.outcome, call.retries, [one.status for one in call.failed_tries]) == ("error", 2, [500, 500, 500])


STRICT: Any = {
    "type": "function",
    "function": {
        "name": "lookup",
        "strict": True,
        "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    },
}


def _tool_call(arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("reply", "arguments", "error", "outcome"),
    [
        (chat('{"name"', finish_reason="length"), {}, "LengthFinishReasonError", "truncated"),
        (chat("x", finish_reason="content_filter"), {}, "ContentFilterFinishReasonError", "filtered"),
        (chat('{"name": 1}'), {}, "ValidationError", "json_mismatch"),
        (
            chat(None, message=_tool_call('{"id": '), finish_reason="tool_calls"),
            {"tools": [STRICT]},
            "JSONDecodeError",
            "tool_arguments_invalid",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_parse_that_raises_was_billed(
    mode: str, reply: Reply, arguments: dict[str, Any], error: str, outcome: str
) -> None:
    """openai/openai-python#1700: `.parse()` raises after the answer was billed; tokens, cost and the client's exception stay."""
    client = client_for(mode, reply)
    recorder = instrument_in_memory(client, prices=RATES)
    if error != "JSONDecodeError":
        arguments = {"response_format": Person}
    with pytest.raises((openai.OpenAIError, pydantic.ValidationError, ValueError)) as caught:
        _finished(typed(client).parse(**ASK, **arguments))
    (call,) = recorder.calls
    assert (type(caught.value).__name__, call.error_type, call.outcome) == (error, error, outcome)
    assert call.usage is not None
    assert call.cost is not None
    assert call.cost.amount_usd == pytest.approx((12 * 1.0 + 5 * 2.0) / 1e6)


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


def _finished(answer: Any) -> Any:
    return asyncio.run(_awaited(answer)) if asyncio.iscoroutine(answer) else answer


def test_a_call_begins_when_it_is_sent() -> None:
    """Managers and coroutines that are made and not entered yet are no calls, and have no span."""
    client, canned = async_client(stream("a"), chat())
    synchronous, _ = sync_client(stream("a"))
    recorder = instrument_in_memory(client)
    instrument_in_memory(synchronous, recorder=recorder)

    async def go() -> None:
        streaming = typed(client).stream(**ASK)
        whole = client.chat.completions.with_streaming_response.create(**ASK)
        plain = client.chat.completions.create(**ASK)
        typed(synchronous).stream(**ASK)
        synchronous.chat.completions.with_streaming_response.create(**ASK)
        await asyncio.sleep(0)
        assert (recorder.spans, canned.bodies) == ([], [])
        async with streaming as events:
            async for _event in events:
                pass
        async with whole as response:
            await response.parse()
        await plain

    asyncio.run(go())
    assert [call.outcome for call in recorder.calls] == ["success"] * 3


def test_an_async_stream_that_is_left_and_resumed_is_one_call() -> None:
    """`break` leaves an async stream open; reading on gives the rest, and one finished call."""
    client, _ = async_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)

    async def go() -> int:
        chunks = await client.chat.completions.create(**ASK, stream=True)
        async for _chunk in chunks:
            break
        gc.collect()
        await asyncio.sleep(0)
        assert recorder.calls == []
        return len([chunk async for chunk in chunks])

    assert asyncio.run(go()) == 4
    assert [call.outcome for call in recorder.calls] == ["success"]


@pytest.mark.parametrize("name", ["copy", "with_options"])
def test_async_copies_are_observed_once(name: str) -> None:
    """A copy is of the client's own class and is observed, as is a copy of the copy, once a call."""
    client, _ = async_client(chat())
    recorder = instrument_in_memory(client)
    copied = getattr(client, name)(timeout=5)
    again = getattr(copied, name)(max_retries=1)
    assert isinstance(again, openai.AsyncOpenAI)
    read("async", "create", copied)
    read("async", "create", again)
    assert len(recorder.calls) == len(recorder.spans) == 2


def test_resources_taken_before_are_observed() -> None:
    """Resources keep the client's `post` from when they were made; those made before instrumenting are observed too."""
    client, _ = sync_client(chat(), stream("a"))
    completions, raw = client.chat.completions, client.chat.completions.with_raw_response
    post = client.post
    recorder = instrument_in_memory(client)
    raw.create(**ASK)
    assert len(list(completions.create(**ASK, stream=True))) == 3
    post("/chat/completions", cast_to=object, body=dict(ASK))
    assert len(recorder.calls) == 3


def test_an_answer_that_is_no_object_is_handed_on() -> None:
    """HTML with status 200 is a plain string to the caller, and no success."""
    client, _ = sync_client(Reply(body="<html>busy</html>", headers={"content-type": "text/html"}))
    recorder = instrument_in_memory(client)
    answer: Any = client.chat.completions.create(**ASK)
    assert answer == "<html>busy</html>"
    assert type(answer) is str
    assert [(call.outcome, call.error_type) for call in recorder.calls] == [("error", "not_json")]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": None, "completion_tokens_details": None},
        {"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}},
        {"prompt_tokens": 12, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": None}},
        {"prompt_tokens": 12, "completion_tokens": 5},
    ],
)
@pytest.mark.parametrize("shape", ["create", "stream"])
def test_details_that_are_null_are_unknown(shape: str, usage: dict[str, Any]) -> None:
    """Token details may be null or missing: unknown, not 0, and the totals stand."""
    chunks = chat_chunks(["a"])
    chunks[-1]["usage"] = usage
    client = client_for(
        "sync", Reply(events=chunks) if shape == "stream" else Reply(body=chat_body() | {"usage": usage})
    )
    recorder = instrument_in_memory(client)
    read("sync", shape, client)
    found = recorder.calls[0].usage
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (12, 5)
    assert (found.cache_read_tokens, found.cache_write_tokens, found.reasoning_tokens) == (None, None, None)


def test_async_paginators_are_awaitable_and_iterable() -> None:
    """`await client.models.list()` and `async for … in client.models.list()` both work as before, without a span."""
    page = Reply(body={"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]})
    client, _ = async_client(page)
    recorder = instrument_in_memory(client)

    async def go() -> list[str]:
        listed = (await client.models.list()).data
        return [model.id for model in listed] + [model.id async for model in client.models.list()]

    assert asyncio.run(go()) == ["m", "m"]
    assert recorder.spans == []


def test_nothing_is_current_while_a_stream_is_read() -> None:
    """Between chunks no call is current, so that other work done meanwhile belongs to nobody's call."""
    client, _ = sync_client(stream("a", "b"), chat("other"))
    recorder = instrument_in_memory(client)
    for number, _chunk in enumerate(client.chat.completions.create(**ASK, stream=True)):
        assert (current.get(), recorder.active) == (None, 0)
        if number == 0:
            client.chat.completions.create(**ASK)
    assert [call.request.stream for call in recorder.calls] == [False, True]


def test_an_async_stream_read_in_other_contexts_ends_once() -> None:
    """openlit/openlit#1369: opened in one task, read in a second, closed in a third, each with a context of its own."""
    client, _ = async_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)

    async def go() -> None:
        opened = asyncio.create_task(_awaited(client.chat.completions.create(**ASK, stream=True)))
        chunks = await opened
        await asyncio.create_task(_awaited(chunks.__anext__()), context=contextvars.Context())
        await asyncio.create_task(_awaited(chunks.close()), context=contextvars.Context())
        await asyncio.create_task(_awaited(chunks.close()))

    asyncio.run(go())
    assert [(call.outcome, call.error_type) for call in recorder.calls] == [("cancelled", None)]
    assert (recorder.errors, recorder.active, current.get()) == ([], 0, None)


@pytest.mark.parametrize(
    "connect",
    [
        lambda client: (client.realtime if hasattr(client, "realtime") else client.beta.realtime).connect(model="m"),
        lambda client: getattr(client.responses, "connect", dict)(),
    ],
    ids=["realtime", "responses"],
)
@pytest.mark.parametrize("make", [sync_client, async_client])
def test_websockets_are_left_alone(make: Callable[..., Any], connect: Callable[[Any], Any]) -> None:
    """What no HTTP request carries is not observed: the client's own connection manager, no span."""
    bare, _ = make(chat())
    client, _ = make(chat())
    recorder = instrument_in_memory(client)
    assert type(connect(client)) is type(connect(bare))
    assert recorder.spans == []


def _patched_instance(client: Any, seen: list[str]) -> None:
    """What some instrumentations do: a function of their own in the place of the client's `request`."""
    bare = client.request

    def request(*args: Any, **kwargs: Any) -> Any:
        seen.append("in")
        return bare(*args, **kwargs)

    client.request = request


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("shape", ["create", "stream", "raw", "parse"])
def test_another_instrumentation_on_the_client_changes_no_count(order: str, shape: str) -> None:
    """Beside a patched `request` each side sees a call once, whichever came first, and tierwise comes off again."""
    client = client_for("sync", reply_for(shape))
    seen: list[str] = []
    if order == "before":
        _patched_instance(client, seen)
        recorder = instrument_in_memory(client)
    else:
        recorder = instrument_in_memory(client)
        _patched_instance(client, seen)
    read("sync", shape, client)
    assert (len(seen), len(recorder.spans)) == (1, len(recorder.calls))
    assert [call.usage.output_tokens for call in recorder.calls if call.usage] == [5]
    tierwise.uninstrument(client)
    assert type(client) is openai.OpenAI
    read("sync", shape, client)
    assert (len(seen), len(recorder.calls)) == (2, 1)


def test_another_instrumentation_of_the_class_changes_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a wrapper around `Completions.create` and a wrapped stream each call is counted once."""
    from openai.resources.chat import completions

    bare = completions.Completions.create
    seen: list[Any] = []

    def create(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer: Any = bare(self, *args, **kwargs)
        seen.append(answer)
        if not kwargs.get("stream"):
            return answer
        inner = answer._iterator
        answer._iterator = (chunk for chunk in inner)
        return answer

    monkeypatch.setattr(completions.Completions, "create", create)
    client, _ = sync_client(chat(), stream("a", "b"))
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK)
    assert len(list(client.chat.completions.create(**ASK, stream=True))) == 4
    assert len(seen) == 2
    assert [(call.outcome, call.usage and call.usage.output_tokens) for call in recorder.calls] == [("success", 5)] * 2


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_another_instrumentation_of_request_sees_the_calls_too(
    mode: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a wrapper around the class's `request`, put there before or after, each side sees each call once."""
    original: Any = type("OpenAI", (openai.OpenAI if mode == "sync" else openai.AsyncOpenAI,), {})
    bare = original.request
    seen: list[str] = []

    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append("in")
        return bare(self, *args, **kwargs)

    async def arequest(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append("in")
        return await bare(self, *args, **kwargs)

    client = client_for(mode, chat(), of=original)
    if order == "after":
        recorder = instrument_in_memory(client)
    monkeypatch.setattr(original, "request", request if mode == "sync" else arequest)
    if order == "before":
        recorder = instrument_in_memory(client)
    read(mode, "create", client)
    assert (len(seen), len(recorder.calls)) == (1, 1)

"""What users of other instrumentations complain about in public: each complaint is a behaviour that tierwise must not show."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from support.canned import ASK, Canned, Reply, async_client, chat, httpx, stream, sync_client, typed
from support.shapes import PLAIN, STREAMED, client_for, read, reply_for
from tierwise.core.cost import flat_rates
from tierwise.instrument.background import open_responses
from tierwise.instrument.observation import Observation
from tierwise.pricing import load_price_book
from tierwise.testing import FixedPrices, MemoryRecorder, chat_body, chat_chunks, instrument_in_memory

RATES = FixedPrices(flat_rates(source="catalogue", input=1.0, output=2.0))


@pytest.mark.parametrize("shape", [*PLAIN, *STREAMED])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_shape_of_a_call_shows_its_tries(mode: str, shape: str) -> None:
    """Arize-ai/openinference#3664, Arize-ai/openinference#1175: retries are counted, their backoff kept apart."""
    failures = [
        Reply(status=status, body={"error": {}}, headers={"retry-after-ms": wait})
        for status, wait in ((429, "20"), (500, "1"))
    ]
    bare = read(mode, shape, client_for(mode, *failures, reply_for(shape, bare=True), max_retries=2))
    client = client_for(mode, *failures, reply_for(shape), max_retries=2)
    recorder = instrument_in_memory(client)
    assert read(mode, shape, client) == bare
    (call,) = recorder.calls
    assert (call.outcome, call.retries) == ("success", 2)
    assert [(failed.number, failed.status) for failed in call.failed_tries] == [(0, 429), (1, 500)]
    assert call.failed_tries[0].backoff_s > 0.015  # sleeps may end a timer's tick early, never by a quarter
    assert call.backoff_s == sum(failed.backoff_s for failed in call.failed_tries)
    assert call.last_try_s is not None
    assert call.last_try_s <= call.duration_s - call.backoff_s


@pytest.mark.parametrize("shape", ["raw", "streaming-response", "raw-stream", "streaming-response-stream"])
def test_async_raw_shapes_have_their_data(shape: str) -> None:
    """open-telemetry/opentelemetry-python-genai#624, Arize-ai/openinference#1134: no empty record, no coroutine left unawaited."""
    client = client_for("async", reply_for(shape))
    recorder = instrument_in_memory(client)
    read("async", shape, client)
    gc.collect()  # a coroutine that nobody awaited would warn here, and warnings are errors
    (call,) = recorder.calls
    assert (call.outcome, call.answer.id, call.answer.output_chars) == ("success", "chatcmpl-1", 15)
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (12, 5)


def test_the_raw_streamed_response_of_an_agent_has_its_data() -> None:
    """open-telemetry/opentelemetry-python-genai#624: `responses.create(stream=True)` by way of the raw response, async."""
    client, _ = async_client(_response_events("response.completed"))
    recorder = instrument_in_memory(client)

    async def go() -> list[str]:
        raw = await client.responses.with_raw_response.create(model="gpt-5-mini", input="x", stream=True)
        return [event.type async for event in raw.parse()]

    assert asyncio.run(go())[-1] == "response.completed"
    (call,) = recorder.calls
    assert call.usage is not None
    assert (call.outcome, call.usage.input_tokens, call.usage.output_tokens) == ("success", 12, 5)


def _response_events(last: str, **changes: Any) -> Reply:
    text = {"type": "output_text", "text": "Hello.", "annotations": []}
    body = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini", "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "status": last.rpartition(".")[2],
        "output": [{"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}],
        "usage": {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17, "input_tokens_details": {"cached_tokens": 4},
                  "output_tokens_details": {"reasoning_tokens": 3}},
    } | changes  # fmt: skip
    created = {**body, "status": "in_progress", "output": [], "usage": None}
    return Reply(
        events=[
            {"type": "response.created", "sequence_number": 0, "response": created},
            {"type": last, "sequence_number": 1, "response": body},
        ],
        done=False,
    )


@pytest.mark.parametrize(
    ("last", "changes", "outcome"),
    [
        ("response.completed", {}, "success"),
        ("response.incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "truncated"),
        ("response.failed", {"error": {"code": "server_error", "message": "no"}}, "error"),
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_response_that_did_not_complete_keeps_its_usage(
    mode: str, last: str, changes: dict[str, Any], outcome: str
) -> None:
    """Arize-ai/openinference#3796: a streamed response that ends incomplete or failed was billed like any other."""
    client = client_for(mode, _response_events(last, **changes))
    recorder = instrument_in_memory(client, prices=RATES)

    async def go() -> list[str]:
        return [event.type async for event in await client.responses.create(model="m", input="x", stream=True)]

    if mode == "sync":
        seen = [event.type for event in client.responses.create(model="m", input="x", stream=True)]
    else:
        seen = asyncio.run(go())
    assert seen == ["response.created", last]
    (call,) = recorder.calls
    assert call.usage is not None
    assert call.cost is not None
    assert (call.outcome, call.usage.cache_read_tokens, call.usage.reasoning_tokens) == (outcome, 4, 3)
    assert call.cost.amount_usd == pytest.approx((12 * 1.0 + 5 * 2.0) / 1e6)


@pytest.mark.parametrize("shape", ["create", "stream"])
def test_cached_and_reasoning_tokens_are_recorded(shape: str) -> None:
    """open-telemetry/opentelemetry-python-genai#541: cached, written and reasoning tokens, of streams too."""
    usage = {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }  # fmt: skip
    chunks = chat_chunks(["a"])
    chunks[-1]["usage"] = usage
    client = client_for(
        "sync", Reply(events=chunks) if shape == "stream" else Reply(body=chat_body() | {"usage": usage})
    )
    recorder = instrument_in_memory(client)
    read("sync", shape, client)
    found = recorder.calls[0].usage
    assert found is not None
    assert (found.input_tokens, found.cache_read_tokens, found.cache_write_tokens) == (100, 60, 10)
    assert (found.output_tokens, found.reasoning_tokens) == (50, 40)


def test_usage_on_a_chunk_with_choices_is_counted_and_priced() -> None:
    """BerriAI/litellm#36168: the usage that comes beside the last choice is the usage, not an estimate from the text."""
    events = chat_chunks(["a", "b"], usage=False)
    events[-1]["usage"] = {"prompt_tokens": 900, "completion_tokens": 7, "total_tokens": 907}
    client, _ = sync_client(Reply(events=events))
    recorder = instrument_in_memory(client, prices=RATES)
    assert len(list(client.chat.completions.create(**ASK, stream=True))) == len(events)
    cost = recorder.calls[0].cost
    assert cost is not None
    assert cost.amount_usd == pytest.approx((900 * 1.0 + 7 * 2.0) / 1e6)


def test_usage_repeated_on_every_chunk_is_billed_once() -> None:
    """langfuse/langfuse#8808: a vendor that repeats cumulative usage on each of 20 chunks costs what its last says."""
    events = chat_chunks(["a"] * 18, usage=False)
    for number, event in enumerate(events):
        event["usage"] = {"prompt_tokens": 1000, "completion_tokens": number, "total_tokens": 1000 + number}
    client, _ = sync_client(Reply(events=events))
    recorder = instrument_in_memory(client, prices=RATES)
    list(client.chat.completions.create(**ASK, stream=True))
    cost = recorder.calls[0].cost
    assert cost is not None
    assert cost.amount_usd == pytest.approx((1000 * 1.0 + 19 * 2.0) / 1e6)


@pytest.mark.parametrize(
    ("asked", "served", "factor"),
    [("flex", "flex", 0.5), ("flex", "default", 1.0), ("flex", None, 0.5), (None, None, 1.0)],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_the_service_tier_that_served_a_call_is_its_price(
    asked: str | None, served: str | None, factor: float, streamed: bool
) -> None:
    """BerriAI/litellm#13810: flex is billed at half, unless the provider says that another tier served the call."""
    events = [event | {"service_tier": served} for event in chat_chunks(["a"])]
    reply = Reply(events=events) if streamed else Reply(body=chat_body() | {"service_tier": served})
    client, _ = sync_client(reply)
    book: Any = load_price_book(background=False)
    recorder = instrument_in_memory(client, prices=book)
    wanted: dict[str, Any] = {} if asked is None else {"service_tier": asked}
    answer: Any = client.chat.completions.create(**ASK, **wanted, stream=streamed)
    if streamed:
        list(answer)
    cost = recorder.calls[0].cost
    assert cost is not None
    assert cost.amount_usd == pytest.approx(factor * (12 * 0.25 + 5 * 2.0) / 1e6)


def test_a_provider_of_no_known_name_is_believed_about_its_cost() -> None:
    """An unknown host's own figure stands; without one a model of its own has no price, and none is borrowed."""
    usage = chat_body()["usage"]
    replies = [
        Reply(body=chat_body() | {"model": "gpt-5-mini", "usage": usage | {"cost": 0.0123}}),
        Reply(body=chat_body() | {"model": "own-model", "usage": usage}),
    ]
    client, _ = sync_client(*replies, base_url="https://llm.example.org/v1")
    book: Any = load_price_book(background=False)
    recorder = instrument_in_memory(client, prices=book)
    client.chat.completions.create(**ASK)
    client.chat.completions.create(**{**ASK, "model": "own-model"})
    first, second = recorder.calls
    assert first.cost is not None
    assert (first.cost.amount_usd, first.cost.source) == (0.0123, "provider")
    assert second.cost is None
    assert second.usage is not None


def test_every_choice_of_a_stream_reaches_the_caller() -> None:
    """A chunk of choice 1 after the end of choice 0 is not mistaken for the usage chunk that was asked for."""
    head = chat_chunks([])[0]
    events = [
        {**head, "choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]}
        for index, text, reason in ((0, "a", None), (0, "", "stop"), (1, "b", None), (1, "c", None), (1, "", "stop"))
    ]
    bare, _ = sync_client(Reply(events=events))
    client, canned = sync_client(Reply(events=[*events, chat_chunks([])[-1]]))
    recorder = instrument_in_memory(client)
    seen = [chunk.model_dump() for chunk in client.chat.completions.create(**ASK, stream=True, n=2)]
    assert canned.bodies[0]["stream_options"] == {"include_usage": True}
    assert seen == [chunk.model_dump() for chunk in bare.chat.completions.create(**ASK, stream=True, n=2)]
    assert recorder.calls[0].usage is not None


def test_the_callers_stream_options_are_merged_not_changed() -> None:
    """pydantic/logfire#1280: usage is asked for beside the caller's other options, in a dictionary of our own."""
    client, canned = sync_client(stream("a"))
    recorder = instrument_in_memory(client)
    options: Any = {"include_obfuscation": False}
    body: dict[str, Any] = {**ASK, "stream": True, "stream_options": options}
    list(client.chat.completions.create(**body))
    chunk, cls = openai.types.chat.ChatCompletionChunk, openai.Stream[openai.types.chat.ChatCompletionChunk]
    list(client.post("/chat/completions", cast_to=chunk, body=body, stream=True, stream_cls=cls))  # the body as it is
    for sent in canned.bodies:
        assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert (options, body) == ({"include_obfuscation": False}, {**ASK, "stream": True, "stream_options": options})
    assert [call.usage is not None for call in recorder.calls] == [True, True]


class Recording(Canned):
    """Keeps each request's headers and address beside its body."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__(*replies)
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    def _next(self, request: Any) -> Reply:
        headers = {name: value for name, value in request.headers.items() if name != "idempotency-key"}
        self.requests.append((request.method, str(request.url), headers))
        return super()._next(request)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_sent_is_what_the_caller_gave(streamed: bool) -> None:
    """Metadata, storing, users and headers of the caller's are sent as the bare client sends them; nothing is added."""

    def sent(*, instrumented: bool) -> Recording:
        wire = Recording(stream("a") if streamed else chat())
        http = openai.DefaultHttpxClient(transport=wire.sync_transport())
        client = openai.OpenAI(api_key="sk-test", http_client=http, max_retries=0)
        if instrumented:
            instrument_in_memory(client, stream_usage=False)
        answer: Any = client.chat.completions.create(
            **ASK, stream=streamed, store=False, metadata={"team": "a"}, user="u-1", seed=7, logit_bias={"50256": -100},
            extra_headers={"x-own": "1"}, extra_query={"q": "1"}, extra_body={"vendor_option": {"deep": [1, None]}},
        )  # fmt: skip
        if streamed:
            list(answer)
        return wire

    bare, observed = sent(instrumented=False), sent(instrumented=True)
    assert observed.bodies == bare.bodies
    assert observed.bodies[0]["metadata"] == {"team": "a"}
    assert observed.requests == bare.requests


def test_concurrent_streams_keep_their_own_usage() -> None:
    """40 streams read at once, by threads and by tasks, each have their own tokens and task."""

    def body_for(request: Any) -> bytes:
        seed = json.loads(request.content)["seed"]
        events = chat_chunks(["a"] * 5)
        events[-1]["usage"] = {"prompt_tokens": 1000 + seed, "completion_tokens": seed, "total_tokens": 1000 + 2 * seed}
        return b"".join(Reply(events=events).blocks())

    def answer(request: Any) -> Any:
        return httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=body_for(request), request=request
        )

    async def aanswer(request: Any) -> Any:
        await asyncio.sleep(0)
        return answer(request)

    options: dict[str, Any] = {"api_key": "sk-test", "max_retries": 0}
    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(answer))
    client = openai.OpenAI(http_client=http, **options)
    asynchronous = openai.AsyncOpenAI(
        http_client=openai.DefaultAsyncHttpxClient(transport=httpx.MockTransport(aanswer)), **options
    )
    recorder = instrument_in_memory(client)
    instrument_in_memory(asynchronous, recorder=recorder)
    together = threading.Barrier(8)

    def one(seed: int) -> None:
        chunks = client.chat.completions.create(**ASK, stream=True, seed=seed)
        next(chunks)
        together.wait(30)
        assert len(list(chunks)) == 6

    async def aone(seed: int) -> None:
        chunks = await asynchronous.chat.completions.create(**ASK, stream=True, seed=seed)
        async for _chunk in chunks:
            await asyncio.sleep(0)

    async def go() -> None:
        await asyncio.gather(*map(aone, range(100, 120)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(24)))
    asyncio.run(go())
    assert len(recorder.calls) == 44
    for call in recorder.calls:
        assert call.usage is not None
        assert (call.usage.input_tokens, call.usage.output_tokens) == (
            1000 + (call.request.seed or 0),
            call.request.seed,
        )


def test_chunks_are_not_kept() -> None:
    """A stream's chunks are the caller's alone: one that it has dropped is gone while the stream goes on."""
    client, _ = sync_client(stream(*"abcdef"))
    recorder = instrument_in_memory(client)
    chunks = client.chat.completions.create(**ASK, stream=True)
    next(chunks)
    seen = weakref.ref(next(chunks))
    next(chunks)
    gc.collect()
    assert seen() is None
    list(chunks)
    assert recorder.calls[0].answer.output_chars == 6


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_is_kept_of_a_call_that_has_ended(streamed: bool) -> None:
    """Calls of the responses API leave no object behind, in no list of open ones."""
    events = _response_events("response.completed")
    client, _ = sync_client(events if streamed else Reply(body=[*(events.events or ())][-1]["response"]))
    recorder = instrument_in_memory(client)

    def alive() -> int:
        while gc.collect():  # some clients' streams take more than one round
            pass
        return sum(type(one) is Observation for one in gc.get_objects())

    before = alive()
    for _ in range(10):
        answer: Any = client.responses.create(model="m", input="x", stream=streamed)
        if streamed:
            list(answer)
    del answer
    assert [call.outcome for call in recorder.calls] == ["success"] * 10
    assert not open_responses
    assert alive() == before


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.moderations.create(input="x"),
        lambda client: client.images.generate(prompt="x"),
        lambda client: client.audio.speech.create(model="tts-1", voice="alloy", input="x"),
        lambda client: client.files.list(),
        lambda client: client.models.retrieve("m"),
        lambda client: client.get("/chat/completions", cast_to=object),
        lambda client: client.post("/chat/completions/chatcmpl-1", cast_to=object, body={"metadata": {}}),
        lambda client: client.post("/responses/input_tokens", cast_to=object, body={"model": "m", "input": "x"}),
        lambda client: client.post("/decisions", cast_to=object, body={"model": "m", "input": "x"}),
    ],
    ids=["moderation", "image", "speech", "files", "model", "stored", "metadata", "counting", "unknown"],
)
def test_only_inference_makes_spans(ask: Any) -> None:
    """Other endpoints, and such as are not known yet, pass untouched and make no span."""
    body = {"id": "x", "object": "list", "data": [], "results": [], "model": "m", "created": 1}
    bare, _ = sync_client(Reply(body=body))
    client, _ = sync_client(Reply(body=body))
    recorder = instrument_in_memory(client)
    found, expected = ask(client), ask(bare)
    assert type(found) is type(expected)
    if isinstance(found, openai.BaseModel):
        assert found.model_dump() == expected.model_dump()
    assert (recorder.spans, recorder.calls) == ([], [])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_leaving_the_stream_helper_early_is_no_error(mode: str) -> None:
    """Arize-ai/openinference#3796, openlit/openlit#1515: the call ends when the block is left, cancelled, without an error."""
    client = client_for(mode, stream("a", "b", "c"))
    recorder = instrument_in_memory(client)

    async def go() -> None:
        async with typed(client).stream(**ASK) as events:
            async for _event in events:
                break
        assert [call.outcome for call in recorder.calls] == ["cancelled"]

    if mode == "async":
        asyncio.run(go())
    else:
        with typed(client).stream(**ASK) as events:
            for _event in events:
                break
    assert [(call.outcome, call.error_type, call.answer.id) for call in recorder.calls] == [
        ("cancelled", None, "chatcmpl-1")
    ]


@pytest.mark.parametrize(
    "text", ["Here you are: {}", "```json\n{}\n```", '{"a": 1', '{"b": 1}'], ids=["prose", "fence", "cut", "mismatch"]
)
def test_json_that_is_not_as_asked_is_told(text: str) -> None:
    """vllm-project/vllm#55441: an HTTP 200 whose JSON is of no use is no success."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    client, _ = sync_client(chat(text))
    recorder = instrument_in_memory(client)
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    client.chat.completions.create(**ASK, response_format=wanted)
    (call,) = recorder.calls
    assert (call.outcome.startswith("json_"), call.json_form != "plain") == (True, True)


def test_a_stream_that_fails_at_once_is_ended() -> None:
    """traceloop/openllmetry#4429: an error before the first chunk marks the call and ends its span, sync and async."""
    for mode in ("sync", "async"):
        client = client_for(mode, Reply(events=[{"error": {"message": "no", "code": "overloaded"}}]))
        recorder: MemoryRecorder = instrument_in_memory(client)
        assert read(mode, "stream", client)[0] is openai.APIError
        assert [(call.outcome, call.error_type) for call in recorder.calls] == [("error", "APIError")]
        assert [span.ended for span in recorder.spans] == [1]

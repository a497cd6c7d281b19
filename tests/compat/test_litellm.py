"""LiteLLM's own functions, observed: in an environment that has it, against a local server and LiteLLM's mock answers."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from support.canned import Canned, Reply, async_client, chat, stream, sync_client
from support.ducks import observe, only
from support.local_server import local_server
from tierwise.instrument import duck
from tierwise.testing import MemoryRecorder, chat_chunks, instrument_in_memory

# Warnings while LiteLLM is imported and used are its own.
pytestmark = [pytest.mark.vendors, pytest.mark.filterwarnings("ignore")]

MESSAGES = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """The package, with the prices that come with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        yield importlib.import_module("litellm")


@pytest.fixture
def recorder(litellm: Any) -> Iterator[MemoryRecorder]:
    """The module instrumented in place, put back after the test."""
    before = {name: getattr(litellm, name) for name in ("completion", "acompletion", "embedding", "aembedding")}
    module, recorder = observe(litellm)
    assert module is litellm
    yield recorder
    assert duck.uninstrument(litellm)
    assert {name: getattr(litellm, name) for name in before} == before


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base URL of a server on localhost."""
    with local_server() as url:
        yield url


def _ask(url: str, **others: Any) -> dict[str, Any]:
    return {"model": "openai/gpt-5-mini", "messages": MESSAGES, "api_base": url, "api_key": "k", **others}


def _dumped(value: Any) -> Any:
    """Plain values, without the time that LiteLLM stamps on each."""
    if isinstance(value, list):
        return [_dumped(one) for one in value]
    return value.model_dump(exclude={"created", "_response_ms"}, warnings=False)


def test_a_completion(litellm: Any, recorder: MemoryRecorder, server: str) -> None:
    """The bare function's values; tokens, and LiteLLM's own cost figure as the reported one."""
    bare = duck.uninstrument(litellm) and litellm.completion(**_ask(server))
    _, recorder = observe(litellm)
    answer = litellm.completion(**_ask(server))
    assert type(answer) is type(bare)
    assert _dumped(answer) == _dumped(bare)
    call = only(recorder)
    assert (call.outcome, call.request.model, call.request.provider) == ("success", "openai/gpt-5-mini", "127.0.0.1")
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens, call.answer.output_chars) == (12, 5, 6)
    assert call.cost is not None
    assert (call.cost.source, call.cost.amount_usd) == ("provider", answer._hidden_params["response_cost"])


def test_an_async_completion(litellm: Any, recorder: MemoryRecorder, server: str) -> None:
    """One call, though `acompletion` goes through `completion` on another thread."""
    asyncio.run(litellm.acompletion(**_ask(server)))
    assert only(recorder).outcome == "success"


def test_a_stream(litellm: Any, recorder: MemoryRecorder, server: str) -> None:
    """The chunks of the bare function, of its own class; the usage that the provider reported."""
    duck.uninstrument(litellm)
    bare = list(litellm.completion(**_ask(server, stream=True)))
    _, recorder = observe(litellm)
    chunks = litellm.completion(**_ask(server, stream=True))
    assert isinstance(chunks, litellm.CustomStreamWrapper)
    seen = list(chunks)
    assert _dumped(seen) == _dumped(bare)
    call = only(recorder)
    assert (call.outcome, call.answer.output_chars, call.answer.finish_reasons) == ("success", 5, ("stop",))
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (12, 5)


def test_an_async_stream(litellm: Any, recorder: MemoryRecorder, server: str) -> None:
    """An asynchronous stream is read alike."""

    async def go() -> str:
        chunks = await litellm.acompletion(**_ask(server, stream=True))
        assert isinstance(chunks, litellm.CustomStreamWrapper)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(go()) == "Hello"
    call = only(recorder)
    assert (call.outcome, call.usage is not None) == ("success", True)


def test_the_callers_own_usage_chunk_stays(litellm: Any, recorder: MemoryRecorder, server: str) -> None:
    """A caller who asks for usage gets LiteLLM's last chunk, and its cost figure is recorded."""
    chunks = list(litellm.completion(**_ask(server, stream=True, stream_options={"include_usage": True})))
    assert chunks[-1].usage.completion_tokens == 5
    call = only(recorder)
    assert call.usage is not None
    assert call.usage.provider_cost_usd == chunks[-1].usage.cost


def _openai(litellm: Any, *replies: Reply) -> tuple[Any, Canned]:
    return sync_client(*replies, base_url="http://gateway/v1")


@pytest.mark.parametrize("reported", [True, False])
def test_usage_is_asked_for_and_kept_back(litellm: Any, reported: bool) -> None:
    """The option reaches the server, the caller sees no further chunk, and LiteLLM's own count is no report."""
    events = chat_chunks(["Hel", "lo"], usage=False)
    client, _ = _openai(litellm, Reply(events=events))
    bare = list(litellm.completion(**_ask("http://gateway/v1", stream=True, client=client)))
    client, answers = _openai(litellm, Reply(events=chat_chunks(["Hel", "lo"], usage=reported)))
    _, recorder = observe(litellm, stream_usage=True)
    try:
        chunks = list(litellm.completion(**_ask("http://gateway/v1", stream=True, client=client)))
    finally:
        duck.uninstrument(litellm)
    assert answers.bodies[0]["stream_options"] == {"include_usage": True}
    assert _dumped(chunks) == _dumped(bare)
    call = only(recorder)
    assert call.outcome == "success"
    assert (call.usage.output_tokens if call.usage else None) == (5 if reported else None)


def test_a_stream_that_is_left(litellm: Any, recorder: MemoryRecorder, server: str) -> None:
    """Break and resume is one call; a dropped stream is one cancelled call."""
    chunks = litellm.completion(**_ask(server, stream=True))
    for _chunk in chunks:
        break
    assert recorder.calls == []
    list(chunks)
    assert only(recorder).outcome == "success"
    chunks = litellm.completion(**_ask(server, stream=True))
    next(chunks)
    del chunks
    gc.collect()
    assert [call.outcome for call in recorder.calls] == ["success", "cancelled"]


@pytest.mark.parametrize(
    ("mock", "outcome"),
    [("litellm.RateLimitError", "error"), ("litellm.ContextWindowExceededError", "rejected")],
)
def test_errors(litellm: Any, recorder: MemoryRecorder, mock: str, outcome: str) -> None:
    """LiteLLM's exceptions reach the caller, with their names and statuses in the record."""
    name = mock.partition(".")[2]
    with pytest.raises(getattr(litellm, name)):
        litellm.completion("openai/gpt-5-mini", MESSAGES, mock_response=mock)
    call = only(recorder)
    assert (call.outcome, call.error_type) == (outcome, name)


def test_a_cancelled_task(litellm: Any, recorder: MemoryRecorder) -> None:
    """Cancelling the task that awaits the answer is a cancelled call."""

    async def go() -> None:
        running = asyncio.create_task(
            litellm.acompletion("openai/gpt-5-mini", MESSAGES, mock_response="Hi", mock_delay=60)
        )
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(go())
    assert only(recorder).outcome == "cancelled"


@pytest.mark.parametrize(
    ("model", "provider"),
    [("anthropic/claude-3-5-haiku-20241022", "anthropic"), ("gpt-5-mini", "openai"), ("groq/llama-3.1-8b", "groq"),
     ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "aws.bedrock"), ("gemini/gemini-2.5-flash", "gcp.gemini")],
)  # fmt: skip
def test_providers_are_named_in_the_conventions_words(
    litellm: Any, recorder: MemoryRecorder, model: str, provider: str
) -> None:
    """Without a base URL the prefix of the model, or LiteLLM's own list of models, names the provider."""
    litellm.completion(model=model, messages=MESSAGES, mock_response="Hi")
    request = only(recorder).request
    assert (request.provider, request.model, request.server_address) == (provider, model, None)


def test_embeddings_and_text_completions(litellm: Any, recorder: MemoryRecorder) -> None:
    """The other functions are read in their own dialects, sync and async."""
    litellm.embedding("openai/text-embedding-3-small", ["x"], mock_response=[0.1])
    litellm.text_completion(prompt="x", model="openai/gpt-3.5-turbo-instruct", mock_response="Hi")
    asyncio.run(litellm.aembedding("openai/text-embedding-3-small", ["x"], mock_response=[0.1]))
    litellm.responses(input="x", model="openai/gpt-5-mini", mock_response="Hi")
    assert [(call.request.operation, call.outcome, call.request.model) for call in recorder.calls] == [
        ("embeddings", "success", "openai/text-embedding-3-small"),
        ("text_completion", "success", "openai/gpt-3.5-turbo-instruct"),
        ("embeddings", "success", "openai/text-embedding-3-small"),
        ("chat", "success", "openai/gpt-5-mini"),
    ]
    assert recorder.errors == []


def test_a_function_on_its_own(litellm: Any, server: str) -> None:
    """`completion = tierwise.instrument(litellm.completion)` observes that function and leaves the module alone."""
    completion, recorder = observe(litellm.completion)
    litellm.completion(**_ask(server))
    assert recorder.calls == []
    completion(**_ask(server))
    assert only(recorder).outcome == "success"


@pytest.mark.parametrize("streamed", [False, True])
def test_an_instrumented_client_inside_is_part_of_the_call(
    litellm: Any, recorder: MemoryRecorder, streamed: bool
) -> None:
    """LiteLLM with an instrumented OpenAI client of the application's is one call."""
    client, _ = sync_client(stream("Hi") if streamed else chat("Hi"), base_url="http://gateway/v1")
    inner = instrument_in_memory(client)
    answer = litellm.completion(**_ask("http://gateway/v1", client=client, stream=streamed))
    if streamed:
        list(answer)
    assert only(recorder).outcome == "success"
    assert inner.calls == []


def test_an_instrumented_async_client_inside_is_part_of_the_call(litellm: Any, recorder: MemoryRecorder) -> None:
    """The same for an asynchronous one."""
    client, _ = async_client(chat("Hi"), base_url="http://gateway/v1")
    inner = instrument_in_memory(client)
    asyncio.run(litellm.acompletion(**_ask("http://gateway/v1", client=client)))
    assert only(recorder).outcome == "success"
    assert inner.calls == []


def test_a_router(litellm: Any, server: str) -> None:
    """A router is instrumented in place: its functions and its `chat.completions.create`, one call each."""
    router = litellm.Router(
        model_list=[
            {"model_name": "fast", "litellm_params": {"model": "openai/gpt-5-mini", "api_base": server, "api_key": "k"}}
        ]
    )
    same, recorder = observe(router)
    assert same is router
    router.completion("fast", MESSAGES)
    asyncio.run(router.acompletion("fast", MESSAGES))
    router.chat.completions.create(model="fast", messages=MESSAGES)
    assert [(call.request.model, call.outcome) for call in recorder.calls] == [("fast", "success")] * 3
    assert duck.uninstrument(router)
    router.completion("fast", MESSAGES)
    assert len(recorder.calls) == 3

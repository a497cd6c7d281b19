"""Clients of any make and functions: the application gets what the bare one gives, the recorder gets one call."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import functools
import gc
import inspect
import pickle
import types
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import MagicMock

import pydantic
import pytest

from support.canned import ASK, Reply, chat, stream, sync_client
from support.ducks import AsyncCompletions, Chat, Completions, Duck, FreshChat, FreshDuck, namespace, observe, only
from tierwise.core.errors import ConfigError
from tierwise.instrument import duck, duckcalls, proxies
from tierwise.instrument.context import task
from tierwise.instrument.duckcalls import CoveringObservation
from tierwise.instrument.entering import current
from tierwise.testing import chat_body, chat_chunks, instrument_in_memory

MESSAGES = [{"role": "user", "content": "Say hello."}]


def _text(chunks: Any) -> str:
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    return "".join(getattr(delta, "content", None) or "" for delta in deltas)


def test_a_plain_call_is_recorded_with_its_numbers() -> None:
    """The answer is the very object that the bare client gave; model, tokens and outcome are recorded."""
    completions = Completions()
    client, recorder = observe(Duck(completions), task="greeting")
    assert client.chat.completions.create(MESSAGES, model="m-1", temperature=0.5) is completions.body
    call = only(recorder)
    assert (call.task, call.outcome, call.request.model, call.request.temperature) == (
        "greeting",
        "success",
        "m-1",
        0.5,
    )
    assert call.answer.model == "gpt-5-mini-2025-08-07"
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (12, 5)
    assert call.answer.output_chars == len("Hello")


def test_positional_arguments_are_read() -> None:
    """Arguments may be positional; the function gets them as they were given."""
    completions = Completions()
    client, recorder = observe(Duck(completions))
    client.chat.completions.create(MESSAGES, "m-2")
    assert only(recorder).request.model == "m-2"
    assert completions.seen[0][1]["model"] == "m-2"


def test_extra_body_wins_and_nothing_is_mutated() -> None:
    """`extra_body` names the model that is really asked; the caller's objects stay as they were."""
    completions = Completions()
    client, recorder = observe(Duck(completions), stream_usage=True)
    arguments: dict[str, Any] = {
        "messages": MESSAGES,
        "model": "a",
        "extra_body": {"model": "b"},
        "stream_options": {"x": 1},
    }
    before = copy.deepcopy(arguments)
    list(client.chat.completions.create(**arguments, stream=True))
    assert arguments == before
    assert only(recorder).request.model == "b"


@pytest.mark.parametrize(
    ("base_url", "provider", "address"),
    [
        ("https://api.groq.com/openai/v1", "groq", "api.groq.com"),
        ("http://localhost:8000/v1", "localhost", "localhost"),
        (None, "support", None),
    ],
)
def test_the_provider_is_named_by_the_host(base_url: str | None, provider: str, address: str | None) -> None:
    """The base URL's host names the provider; without one the client's package does."""
    client, recorder = observe(Duck(Completions(), base_url))
    client.chat.completions.create(MESSAGES)
    request = only(recorder).request
    assert (request.provider, request.server_address) == (provider, address)


def test_the_clients_own_model_is_the_default() -> None:
    """A client that was made for one model is asked without naming it."""
    bare = Duck(Completions())
    bare.model = "house-model"  # type: ignore[attr-defined]
    client, recorder = observe(bare)
    client.chat.completions.create(MESSAGES)
    assert only(recorder).request.model == "house-model"


def test_every_api_is_read_in_its_own_way() -> None:
    """Responses, embeddings and legacy completions are observed where a client has them."""

    class Api:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def create(self, **_arguments: Any) -> Any:
            return self.answer

    bare: Any = Duck(Completions())
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    bare.embeddings = Api({"data": [{"embedding": [0.1]}], "model": "e", "usage": usage})
    bare.completions = Api({"choices": [{"text": "Hi", "finish_reason": "stop"}], "model": "c", "usage": usage})
    bare.responses = Api({"id": "r", "status": "completed", "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]})  # fmt: skip
    client, recorder = observe(bare)
    client.embeddings.create(model="e", input="x")
    client.completions.create(model="c", prompt="x")
    client.responses.create(model="r", input="x")
    operations = [(call.request.operation, call.request.api_type, call.outcome) for call in recorder.calls]
    assert operations == [
        ("embeddings", None, "success"), ("text_completion", None, "success"), ("chat", "responses", "success"),
    ]  # fmt: skip


class HttpStatusError(Exception):
    """As some clients raise it: the status is the response's."""

    def __init__(self, status: int) -> None:
        self.response = types.SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError("no"), "error"), (HttpStatusError(404), "rejected"), (HttpStatusError(503), "error"),
     (KeyboardInterrupt(), "cancelled")],
)  # fmt: skip
def test_exceptions_are_the_same_object(error: BaseException, outcome: str) -> None:
    """The caller catches the very exception, its traceback ending where it was raised."""
    client, recorder = observe(Duck(Completions(error=error)))
    with pytest.raises(type(error)) as caught:
        client.chat.completions.create(MESSAGES)
    assert caught.value is error
    assert caught.traceback[-1].name == "create"
    assert only(recorder).outcome == outcome


def test_wrong_arguments_raise_as_they_did() -> None:
    """A `TypeError` for missing arguments is the bare function's own."""
    client, recorder = observe(Duck(Completions()))
    with pytest.raises(TypeError, match="messages"):
        client.chat.completions.create(model="m")
    assert [call.outcome for call in recorder.calls] == ["error"]


def test_a_stream_is_lazy_and_keeps_its_type_and_chunks() -> None:
    """Nothing is read early, each chunk is the same object, and a generator stays one to whoever asks."""
    completions = Completions()
    client, recorder = observe(Duck(completions))
    chunks = client.chat.completions.create(MESSAGES, model="m", stream=True)
    assert completions.read == 0
    assert isinstance(chunks, types.GeneratorType)
    assert inspect.isgenerator(chunks)
    assert isinstance(chunks, collections.abc.Iterator)
    assert not isinstance(chunks, collections.abc.AsyncIterator)
    assert not hasattr(chunks, "__enter__")
    assert iter(chunks) is chunks
    seen = [next(chunks)]
    assert completions.read == 1
    assert recorder.calls == []
    seen.extend(chunks)
    assert all(mine is theirs for mine, theirs in zip(seen, completions.chunks, strict=True))
    call = only(recorder)
    assert (call.outcome, call.answer.finish_reasons, call.chunks) == ("success", ("stop",), 5)
    assert call.usage is not None
    assert call.usage.output_tokens == 5
    assert call.time_to_first_chunk_s is not None


def test_break_and_resume_is_one_finished_call() -> None:
    """A `for` over the stream is a fresh generator: `break` does not end a stream; reading on later does."""
    completions = Completions(parts=("a", "b", "c"))
    client, recorder = observe(Duck(completions))
    chunks = client.chat.completions.create(MESSAGES, stream=True)
    for _chunk in chunks:
        break
    assert recorder.calls == []
    assert not completions.closed
    assert _text(chunks) == "abc"
    assert only(recorder).outcome == "success"


@pytest.mark.parametrize("way", ["close", "throw", "drop", "unread"])
def test_a_stream_that_is_left_is_one_cancelled_call(way: str) -> None:
    """`close()`, `GeneratorExit`, garbage collection and never reading each end the call once, as cancelled."""
    completions = Completions()
    client, recorder = observe(Duck(completions))
    chunks = client.chat.completions.create(MESSAGES, stream=True)
    if way != "unread":
        next(chunks)
    if way == "close":
        chunks.close()
        chunks.close()
    elif way == "throw":
        with pytest.raises(GeneratorExit):
            chunks.throw(GeneratorExit)
    del chunks
    gc.collect()
    assert only(recorder).outcome == "cancelled"
    assert completions.closed is (way != "unread")


def test_leaving_after_the_finish_reason_is_success() -> None:
    """An application that stops at the finish reason has the whole answer."""
    client, recorder = observe(Duck(Completions()))
    chunks = client.chat.completions.create(MESSAGES, stream=True)
    for chunk in chunks:
        if chunk.choices[0].finish_reason:
            break
    chunks.close()
    assert only(recorder).outcome == "success"


def test_an_error_in_mid_stream_is_the_same_object_and_marked() -> None:
    """traceloop/openllmetry#4429: a broken stream is an error, with what it had said so far."""
    error = ConnectionError("reset")
    completions = Completions(error=error)
    completions.chunks = completions.chunks[:2]
    client, recorder = observe(Duck(completions))
    with pytest.raises(ConnectionError) as caught:
        list(client.chat.completions.create(MESSAGES, stream=True))
    assert caught.value is error
    call = only(recorder)
    assert (call.outcome, call.error_type, call.answer.output_chars) == ("error", "ConnectionError", 3)


def test_generators_can_be_sent_to_and_delegated_to() -> None:
    """`send` and `yield from` work as with the bare generator, the return value included."""

    def create(messages: Any, stream: bool = False) -> Any:
        heard = yield namespace(chat_chunks(["a"])[0])
        yield heard
        return "returned"

    observed, recorder = observe(create)

    def outer() -> Iterator[Any]:
        result = yield from observed(MESSAGES, stream=True)
        assert result == "returned"

    generator: Any = outer()
    next(generator)
    assert generator.send("said") == "said"
    assert list(generator) == []
    assert len(recorder.calls) == 1


class Events:
    """A stream object as SDKs make them: iteration by a fresh generator, a context manager, attributes."""

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)
        self.headers = {"x-request-id": "r"}
        self.closed = False

    def __iter__(self) -> Iterator[Any]:
        yield from self._chunks

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.closed = True


def _events_client() -> tuple[Any, list[Events], Any]:
    made: list[Events] = []

    def create(messages: Any, stream: bool = False) -> Events:
        made.append(Events([namespace(chunk) for chunk in chat_chunks(["a", "b"])]))
        return made[-1]

    bare = Duck(types.SimpleNamespace(create=create))
    client, recorder = observe(bare)
    return client, made, recorder


def test_stream_objects_keep_their_class_and_attributes() -> None:
    """The caller's object is an instance of its class, with its attributes; iterating the temporary is not leaving it."""
    client, made, recorder = _events_client()
    chunks = client.chat.completions.create(MESSAGES, stream=True)
    assert isinstance(chunks, Events)
    assert chunks.headers is made[0].headers
    assert not hasattr(chunks, "__next__")
    assert not isinstance(chunks, collections.abc.Iterator)
    for chunk in chunks:
        assert chunk.choices
        break
    assert _text(chunks) == "ab"
    assert only(recorder).outcome == "success"
    assert _text(client.chat.completions.create(MESSAGES, stream=True)) == "ab"
    assert [call.outcome for call in recorder.calls] == ["success", "success"]


def test_leaving_a_with_block_early_is_cancelled() -> None:
    """openlit/openlit#1515: leaving the block closes the stream and ends the call there and then."""
    client, made, recorder = _events_client()
    with client.chat.completions.create(MESSAGES, stream=True) as chunks:
        assert isinstance(chunks, Events)
        next(iter(chunks))
    assert made[0].closed
    assert only(recorder).outcome == "cancelled"


def test_a_list_of_chunks_is_a_stream_that_has_ended() -> None:
    """A fake client that answers `stream=True` with a list hands out that list."""
    listed = [namespace(chunk) for chunk in chat_chunks(["a"])]
    observed, recorder = observe(lambda messages, stream: listed)
    assert observed(MESSAGES, stream=True) is listed
    assert only(recorder).outcome == "success"


def test_a_whole_answer_to_a_stream_request_is_read_whole() -> None:
    """A client that ignores `stream=True` and answers with a model is recorded all the same."""

    class Answer(pydantic.BaseModel):
        choices: list[Any]
        usage: dict[str, int]

    body = chat_body("Hi")
    answer = Answer(choices=body["choices"], usage=body["usage"])
    observed, recorder = observe(lambda messages, stream: answer)
    assert observed(MESSAGES, stream=True) is answer
    call = only(recorder)
    assert (call.outcome, call.usage is not None) == ("success", True)


@pytest.mark.parametrize(
    ("base_url", "setting", "asked"),
    [
        ("https://api.openai.com/v1", None, True),
        ("https://api.openai.com/v1", False, False),
        ("http://localhost/v1", None, False),
        ("http://localhost/v1", True, True),
        (None, None, False),
    ],
)
def test_usage_is_asked_for_only_where_it_is_accepted(base_url: str | None, setting: bool | None, asked: bool) -> None:
    """The usage chunk that tierwise's request brings is kept back; who is not known to take the option is not asked."""
    completions = Completions()
    client, _ = observe(Duck(completions, base_url), stream_usage=setting)
    chunks = list(client.chat.completions.create(MESSAGES, stream=True))
    assert ("stream_options" in completions.seen[0][1]) is asked
    assert chunks == (completions.chunks[:-1] if asked else completions.chunks)


def test_usage_is_not_asked_of_a_function_that_does_not_take_it() -> None:
    """A function without `stream_options` is called as it was."""
    observed, recorder = observe(lambda messages, stream=False: iter([]), stream_usage=True)
    assert list(observed(MESSAGES, stream=True)) == []
    assert len(recorder.calls) == 1


# -- asynchronous ------------------------------------------------------------------------------------------------------


def test_an_async_call_is_recorded_alike() -> None:
    """A coroutine function stays one; the call begins when it is awaited, in the task of that moment."""
    completions = AsyncCompletions()
    client, recorder = observe(Duck(completions))
    assert inspect.iscoroutinefunction(client.chat.completions.create)

    async def go() -> None:
        coroutine = client.chat.completions.create(MESSAGES, model="m")
        assert inspect.iscoroutine(coroutine)
        assert coroutine.__qualname__ == "AsyncCompletions.create"
        assert recorder.spans == []
        with task("later"):
            assert await coroutine is completions.body

    asyncio.run(go())
    call = only(recorder)
    assert (call.task, call.outcome) == ("later", "success")


def test_a_coroutine_that_nobody_awaits_is_no_call() -> None:
    """One warning, with the bare coroutine's name, and nothing recorded."""
    client, recorder = observe(Duck(AsyncCompletions()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.chat.completions.create(MESSAGES)
        gc.collect()
    assert [str(one.message) for one in caught] == ["coroutine 'AsyncCompletions.create' was never awaited"]
    assert recorder.spans == []


def test_async_exceptions_and_wrong_arguments() -> None:
    """The exception is the same object; missing arguments raise at the call, before anything is awaited."""
    error = HttpStatusError(429)
    client, recorder = observe(Duck(AsyncCompletions(error=error)))

    async def go() -> None:
        with pytest.raises(HttpStatusError) as caught:
            await client.chat.completions.create(MESSAGES)
        assert caught.value is error

    asyncio.run(go())
    assert only(recorder).outcome == "error"
    with pytest.raises(TypeError, match="messages"):
        client.chat.completions.create()


def test_a_cancelled_task_is_a_cancelled_call() -> None:
    """Cancellation reaches the bare coroutine and the recorder, before the answer and in mid-stream."""
    reached: list[str] = []

    async def create(messages: Any, stream: bool = False) -> Any:
        async def chunks() -> AsyncIterator[Any]:
            yield namespace(chat_chunks(["a"])[0])
            await forever()

        async def forever() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                reached.append("cancelled")
                raise

        if stream:
            return chunks()
        return await forever()

    observed, recorder = observe(create)

    async def go(stream: bool) -> None:
        async def reading() -> None:
            answer = await observed(MESSAGES, stream=stream)
            async for _chunk in answer:
                pass

        running = asyncio.create_task(reading())
        for _ in range(5):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(go(stream=False))
    asyncio.run(go(stream=True))
    assert reached == ["cancelled", "cancelled"]
    assert [call.outcome for call in recorder.calls] == ["cancelled", "cancelled"]
    assert recorder.active == 0


def test_an_async_stream_keeps_its_type_and_chunks() -> None:
    """Nothing is read early; each chunk is the same object; an async generator stays one."""
    completions = AsyncCompletions()
    client, recorder = observe(Duck(completions))

    async def go() -> None:
        chunks = await client.chat.completions.create(MESSAGES, stream=True)
        assert completions.read == 0
        assert inspect.isasyncgen(chunks)
        assert not hasattr(chunks, "__next__")
        assert aiter(chunks) is chunks
        seen = []
        async for chunk in chunks:
            seen.append(chunk)
            break
        seen += [chunk async for chunk in chunks]
        assert all(mine is theirs for mine, theirs in zip(seen, completions.chunks, strict=True))

    asyncio.run(go())
    call = only(recorder)
    assert (call.outcome, call.chunks) == ("success", 5)


@pytest.mark.parametrize("way", ["aclose", "drop", "unread"])
def test_an_async_stream_that_is_left_is_one_cancelled_call(way: str) -> None:
    """`aclose()`, garbage collection and never reading each end the call once, as cancelled."""
    completions = AsyncCompletions()
    client, recorder = observe(Duck(completions))

    async def go() -> None:
        chunks = await client.chat.completions.create(MESSAGES, stream=True)
        if way != "unread":
            await anext(chunks)
        if way == "aclose":
            await chunks.aclose()
        del chunks
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert only(recorder).outcome == "cancelled"

    asyncio.run(go())
    assert completions.closed is (way != "unread")


def test_an_async_stream_that_breaks_is_marked() -> None:
    """The exception in mid-stream is the same object."""
    error = ConnectionError("reset")
    client, recorder = observe(Duck(AsyncCompletions(error=error)))

    async def go() -> None:
        with pytest.raises(ConnectionError) as caught:
            async for _chunk in await client.chat.completions.create(MESSAGES, stream=True):
                pass
        assert caught.value is error

    asyncio.run(go())
    assert only(recorder).outcome == "error"


def test_usage_of_an_async_stream_is_asked_for_in_new_arguments() -> None:
    """The coroutine is made anew with the option, before the first has begun."""
    completions = AsyncCompletions()
    client, _recorder = observe(Duck(completions, "https://api.openai.com/v1"))

    async def go() -> list[Any]:
        return [chunk async for chunk in await client.chat.completions.create(MESSAGES, stream=True)]

    assert asyncio.run(go()) == completions.chunks[:-1]
    assert [arguments["stream_options"] for _, arguments in completions.seen] == [{"include_usage": True}]


class Later:
    """An awaitable that is no coroutine, as some SDKs return it, usable with `async with` too."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self.value

    async def __aenter__(self) -> Any:
        return self.value

    async def __aexit__(self, *_error: object) -> None:
        return None


@pytest.mark.parametrize("kind", ["coroutine", "future", "task", "object"])
def test_functions_that_return_awaitables(kind: str) -> None:
    """A coroutine, a future, a task or any other awaitable is one like before, and its result is recorded."""
    body = namespace(chat_body("Hi"))
    made: list[Any] = []

    def create(messages: Any, **_others: Any) -> Any:
        async def answer() -> Any:
            return body

        found: Any = Later(body) if kind == "object" else answer()
        if kind == "task":
            found = asyncio.ensure_future(found)
        elif kind == "future":
            found.close()
            found = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(found.set_result, body)
        made.append(found)
        return found

    observed, recorder = observe(create)

    async def go() -> None:
        found = observed(MESSAGES)
        assert isinstance(found, type(made[0]))
        assert (found is made[0]) is (kind in ("future", "task"))
        assert await asyncio.wait_for(found, 5) is body
        await asyncio.sleep(0)
        if kind == "object":
            async with observed(MESSAGES) as entered:
                assert entered is body

    asyncio.run(go())
    assert [call.outcome for call in recorder.calls] == ["success"] * (2 if kind == "object" else 1)
    assert recorder.active == 0


@pytest.mark.parametrize("kind", ["coroutine", "task", "object"])
def test_functions_that_return_awaitables_of_streams(kind: str) -> None:
    """What they bring is observed as a stream, though the awaitable itself is gone."""
    completions = AsyncCompletions()

    def create(messages: Any, **_others: Any) -> Any:
        if kind == "object":
            return Later(completions._achunks())
        found = AsyncCompletions.create(completions, messages, stream=True)
        return asyncio.ensure_future(found) if kind == "task" else found

    observed, recorder = observe(create)

    async def go() -> None:
        chunks = await observed(MESSAGES, stream=True)
        gc.collect()
        assert recorder.calls == []
        assert [chunk async for chunk in chunks] == completions.chunks

    asyncio.run(go())
    assert only(recorder).outcome == "success"


def test_an_awaitable_that_fails_or_is_dropped_is_one_call() -> None:
    """A failed task is an error that asyncio still reports as unseen; an awaitable nobody awaits was cancelled."""

    def create(messages: Any, fail: bool = False) -> Any:
        async def answer() -> Any:
            raise ValueError("no")

        return asyncio.ensure_future(answer()) if fail else Later(None)

    observed, recorder = observe(create)
    reported: list[Any] = []

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
        observed(MESSAGES)
        gc.collect()
        failing = observed(MESSAGES, fail=True)
        for _ in range(3):
            await asyncio.sleep(0)
        del failing
        gc.collect()

    asyncio.run(go())
    assert [call.outcome for call in recorder.calls] == ["cancelled", "error"]
    assert [type(error) for error in reported] == [ValueError]


# -- installing and undoing --------------------------------------------------------------------------------------------


def test_instrumenting_twice_is_one_span_and_is_undone_entirely() -> None:
    """Instrumenting again replaces the wiring; `uninstrument` leaves nothing of ours."""
    completions = Completions()
    client = Duck(completions)
    before = (dict(vars(client)), vars(completions).keys() - {"create"}, completions.create)
    assert observe(client)[0] is client
    _, first = observe(client)
    _, second = observe(client)
    client.chat.completions.create(MESSAGES)
    assert (len(first.calls), len(second.calls)) == (0, 1)
    assert isinstance(client, Duck)
    assert duck.uninstrument(client) is True
    assert (vars(client), vars(completions).keys(), completions.create) == before
    client.chat.completions.create(MESSAGES)
    assert len(second.calls) == 1
    assert duck.uninstrument(client) is False


def test_an_instance_attribute_is_put_back() -> None:
    """A `create` that was the object's own, not its class's, is there again afterwards."""

    def create(messages: Any) -> Any:
        return namespace(chat_body("Hi"))

    resource = types.SimpleNamespace(create=create)
    client, recorder = observe(Duck(resource))
    client.chat.completions.create(MESSAGES)
    duck.uninstrument(client)
    assert resource.create is create
    assert len(recorder.calls) == 1


def test_resources_made_anew_on_each_access() -> None:
    """The client's class is swapped; it and its resources stay what they were to `isinstance`; undone entirely."""
    completions = Completions()
    client = FreshDuck(completions)
    before = dict(vars(client))
    _, first = observe(client)
    _, second = observe(client, task="fresh")
    assert isinstance(client, FreshDuck)
    assert type(client).__name__ == "FreshDuck"
    assert isinstance(client.chat, FreshChat)
    chat_resource = client.chat
    assert chat_resource.completions.create(MESSAGES, "m") is completions.body
    assert list(client.chat.completions.create(MESSAGES, stream=True)) == completions.chunks
    assert (len(first.calls), [call.task for call in second.calls]) == (0, ["fresh", "fresh"])
    assert duck.uninstrument(client) is True
    assert type(client) is FreshDuck
    assert vars(client) == before
    client.chat.completions.create(MESSAGES)
    chat_resource.completions.create(MESSAGES)
    assert len(second.calls) == 2


def test_two_clients_of_one_class_are_apart() -> None:
    """Swapping one client's class observes no other client."""
    client, recorder = observe(FreshDuck(Completions()))
    other = FreshDuck(Completions())
    other.chat.completions.create(MESSAGES)
    assert type(other) is FreshDuck
    assert recorder.calls == []
    client.chat.completions.create(MESSAGES)
    assert len(recorder.calls) == 1


class SlottedCompletions:
    """A resource that takes no attribute."""

    __slots__ = ()

    def create(self, messages: Any, model: str = "m") -> Any:
        """A completion."""
        return namespace(chat_body("Hi"))


class LazyDuck:
    """A client whose resources come from `__getattr__`."""

    def __getattr__(self, name: str) -> Any:
        if name != "chat":
            raise AttributeError(name)
        return Chat(SlottedCompletions())


@pytest.mark.parametrize("make", [lambda: Duck(SlottedCompletions()), LazyDuck])
def test_resources_that_cannot_be_written_to(make: Any) -> None:
    """Slots and `__getattr__` are no obstacle; attributes that are not there stay so."""
    client, recorder = observe(make())
    client.chat.completions.create(MESSAGES)
    assert not hasattr(client, "embeddings")
    assert only(recorder).outcome == "success"
    assert duck.uninstrument(client)
    client.chat.completions.create(MESSAGES)
    assert len(recorder.calls) == 1


def test_a_client_that_cannot_be_observed_says_so() -> None:
    """No attribute can be set and no class swapped: `ConfigError` names the way out."""

    class Fixed:
        __slots__ = ()

        @property
        def chat(self) -> Any:
            return Chat(SlottedCompletions())

    with pytest.raises(ConfigError, match=r"tierwise\.instrument\(client\.chat\.completions\.create\)"):
        observe(Fixed())


@pytest.mark.parametrize("target", [object(), 3, Duck, lambda x: x, types.ModuleType("empty"), Duck(object())])
def test_what_has_none_of_the_shapes_is_refused(target: Any) -> None:
    """`supports` is false and `instrument` raises `ConfigError`."""
    assert not duck.supports(target)
    with pytest.raises(ConfigError, match=r"chat\.completions\.create"):
        observe(target)
    assert duck.uninstrument(target) is False


def test_attributes_of_a_swapped_client_can_be_set() -> None:
    """A resource that the application replaces is the one it gets, and it is observed."""
    client, recorder = observe(Duck(SlottedCompletions()))
    other = Chat(SlottedCompletions())
    client.chat.completions = other.completions
    client.chat.completions.create(MESSAGES)
    del client.chat.completions
    assert not hasattr(client.chat, "completions")
    assert len(recorder.calls) == 1


@pytest.mark.parametrize("make", [Duck, FreshDuck])
def test_copies_and_pickles_are_those_of_the_bare_client(make: Any) -> None:
    """A copied or unpickled client works and is not observed; the original still is."""
    client, recorder = observe(make(Completions()))
    for copied in (copy.deepcopy(client), pickle.loads(pickle.dumps(client))):  # noqa: S301
        assert type(copied) is make
        assert type(copy.deepcopy(client.chat)) is type(copied.chat)
        copied.chat.completions.create(MESSAGES)
    assert recorder.calls == []
    client.chat.completions.create(MESSAGES)
    assert len(recorder.calls) == 1


def test_observed_functions_can_be_pickled() -> None:
    """A function, wrapped on its own or in place, and a method come back as the bare ones by name."""
    observed, _ = observe(completion)
    assert pickle.loads(pickle.dumps(observed)) is completion  # noqa: S301
    assert copy.copy(observed) is completion
    method, _ = observe(Completions(parts=("a",)).create)
    assert pickle.loads(pickle.dumps(method)).__self__.parts == ("a",)  # noqa: S301


def test_resources_that_were_never_looked_at_are_not_made() -> None:
    """Asking a client that is not instrumented to undo it leaves its lazy resources unmade."""

    class Lazy:
        @functools.cached_property
        def chat(self) -> Chat:
            return Chat(Completions())

    client = Lazy()
    assert duck.uninstrument(client) is False
    assert vars(client) == {}
    _, recorder = observe(client)
    client.chat.completions.create(MESSAGES)
    assert duck.uninstrument(client) is True
    client.chat.completions.create(MESSAGES)
    assert len(recorder.calls) == 1


def test_properties_that_raise_are_left_alone() -> None:
    """A client whose other attributes raise is observed all the same."""

    class Touchy(Duck):
        @property
        def embeddings(self) -> Any:
            raise RuntimeError("not in your plan")

        base_url = model = embeddings

    client, recorder = observe(Touchy(Completions()))
    client.chat.completions.create(MESSAGES)
    assert only(recorder).outcome == "success"
    with pytest.raises(RuntimeError, match="not in your plan"):
        _ = client.embeddings


def test_mocks_stay_mocks() -> None:
    """An application's tests may instrument a mock: it counts its calls as before."""
    client = MagicMock()
    client.chat.completions.create.return_value = namespace(chat_body("Hi"))
    bare = client.chat.completions.create
    observe(client)
    client.chat.completions.create(model="m", messages=MESSAGES)
    client.chat.completions.create.assert_called_once_with(model="m", messages=MESSAGES)
    duck.uninstrument(client)
    assert client.chat.completions.create is bare


# -- functions ---------------------------------------------------------------------------------------------------------


def completion(model: str, messages: list[Any], **_others: Any) -> Any:
    """As LiteLLM's."""
    return namespace(chat_body("Hi"))


async def acompletion(model: str, messages: list[Any], **_others: Any) -> Any:
    """As LiteLLM's."""
    return namespace(chat_body("Hi"))


def embedding(model: str, input: list[str]) -> Any:  # noqa: A002
    """As LiteLLM's."""
    return {"data": [{"embedding": [0.1]}], "model": model, "usage": {"prompt_tokens": 1}}


def test_a_function_is_returned_wrapped() -> None:
    """The wrapped function has the bare one's name, signature and behaviour; instrumenting it again is one span."""
    observed, first = observe(completion)
    assert observed is not completion
    assert (observed.__name__, inspect.signature(observed)) == ("completion", inspect.signature(completion))
    again, second = observe(observed)
    assert again is observed
    observed("anthropic/claude-x", MESSAGES)
    assert (len(first.calls), len(second.calls)) == (0, 1)
    assert only(second).request.provider == "anthropic"
    assert duck.uninstrument(observed) is True
    observed("m", MESSAGES)
    assert len(second.calls) == 1


def test_partials_and_methods_are_functions() -> None:
    """A bound method and a partial can be instrumented on their own."""
    completions = Completions()
    observed, recorder = observe(completions.create)
    observed(MESSAGES, "m-1")
    observed, other = observe(functools.partial(completions.create, model="m-2"))
    observed(MESSAGES)
    assert only(recorder).request.model == "m-1"
    assert only(other).outcome == "success"


def test_a_module_is_instrumented_in_place() -> None:
    """The functions of a module like LiteLLM's are wrapped in place and put back."""
    module: Any = types.ModuleType("litellm_like")
    module.completion, module.acompletion, module.embedding = completion, acompletion, embedding
    assert duck.supports(module)
    same, recorder = observe(module)
    assert same is module
    module.completion("groq/llama", MESSAGES)
    asyncio.run(module.acompletion("gpt-x", MESSAGES, custom_llm_provider="azure"))
    module.embedding("mistral/embed", ["x"])
    assert [(call.request.operation, call.request.provider) for call in recorder.calls] == [
        ("chat", "groq"), ("chat", "azure.ai.openai"), ("embeddings", "mistral_ai"),
    ]  # fmt: skip
    assert duck.uninstrument(module.embedding)
    module.embedding("mistral/embed", ["x"])
    module.completion("groq/llama", MESSAGES)
    assert len(recorder.calls) == 4
    assert duck.uninstrument(module)
    assert (module.completion, module.acompletion, module.embedding) == (completion, acompletion, embedding)
    assert vars(module).keys() >= {"completion"}
    assert not any(name.startswith("_tierwise") for name in vars(module))


def test_a_response_format_given_as_a_class_means_json() -> None:
    """LiteLLM takes a pydantic model as `response_format`; Text Generation Inference a grammar with `value`."""

    class Person(pydantic.BaseModel):
        name: str

    observed, recorder = observe(completion)
    observed("m", MESSAGES, response_format=Person)
    observed("m", MESSAGES, response_format={"type": "json", "value": Person.model_json_schema()})
    assert [(call.expects_json, call.outcome) for call in recorder.calls] == [(True, "json_invalid")] * 2


def test_a_stated_cost_is_the_providers() -> None:
    """LiteLLM's own figure is taken as a reported cost, and its usage from where it keeps it."""

    class Response(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        model: str = "m"
        choices: list[Any]
        _hidden_params: dict[str, Any] = pydantic.PrivateAttr(default_factory=dict)

    body = chat_body("Hi")
    response = Response(choices=body["choices"])
    response.usage = namespace(body["usage"])  # type: ignore[attr-defined]
    response._hidden_params["response_cost"] = 1.25e-05
    observed, recorder = observe(lambda model, messages: response)
    assert observed("m", MESSAGES) is response
    call = only(recorder)
    assert call.cost is not None
    assert (call.cost.amount_usd, call.cost.source) == (1.25e-05, "provider")
    assert call.usage is not None
    assert call.usage.input_tokens == 12


# -- inside each other -------------------------------------------------------------------------------------------------


def test_an_instrumented_client_inside_is_part_of_the_call() -> None:
    """A function that uses an instrumented OpenAI client is one call, with the retries that the client made."""
    client, _ = sync_client(Reply(status=500, body={}), chat("Hi"), max_retries=1)
    inner = instrument_in_memory(client)

    def create(model: str, messages: Any) -> Any:
        return client.with_options(max_retries=1).chat.completions.create(model=model, messages=messages)

    observed, recorder = observe(create)
    observed("m", MESSAGES)
    assert only(recorder).retries == 1
    assert inner.calls == []
    client.chat.completions.create(**ASK)
    assert len(inner.calls) == 1


def test_a_client_used_while_a_stream_is_read_is_part_of_it() -> None:
    """A generator that asks an instrumented client at its first step is one call, and the client is free again after."""
    client, _ = sync_client(stream("a", "b"), chat("Hi"))
    inner = instrument_in_memory(client)

    def create(model: str, messages: Any, stream: bool = False) -> Any:
        yield from client.chat.completions.create(model=model, messages=messages, stream=True)

    observed, recorder = observe(create)
    chunks = observed("m", MESSAGES, stream=True)
    next(chunks)
    client.chat.completions.create(**ASK)
    assert _text(chunks) == "ab"
    assert only(recorder).outcome == "success"
    assert len(inner.calls) == 1


def test_a_stainless_stream_is_handed_on_as_it_is() -> None:
    """A function that returns an OpenAI stream gives that very object, observed."""
    client, _ = sync_client(stream("a", "b"))
    made: list[Any] = []

    def create(model: str, messages: Any, stream: bool = False) -> Any:
        made.append(client.chat.completions.create(model=model, messages=messages, stream=True))
        return made[-1]

    observed, recorder = observe(create)
    chunks = observed("m", MESSAGES, stream=True)
    assert chunks is made[0]
    assert _text(chunks) == "ab"
    assert only(recorder).outcome == "success"


def test_functions_inside_each_other_are_one_call() -> None:
    """An observed function that calls another observed one is one call."""
    lower, inner = observe(completion)

    def create(model: str, messages: Any) -> Any:
        return lower(model, messages)

    upper, recorder = observe(create)
    upper("m", MESSAGES)
    assert (len(recorder.calls), len(inner.calls)) == (1, 0)


# -- faults ------------------------------------------------------------------------------------------------------------


class Odd:
    """A value on which everything but identity raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__"):
            return object.__getattribute__(self, name)
        raise RuntimeError("do not look")

    def __bool__(self) -> bool:
        raise RuntimeError("do not look")


def test_faults_of_ours_do_not_reach_the_caller() -> None:
    """Arguments and answers that cannot be looked at go through; each fault is counted."""
    answer = Odd()
    observed, recorder = observe(lambda messages, stream=None, extra=None: answer)
    assert observed(MESSAGES) is answer
    assert observed(MESSAGES, stream=Odd()) is answer
    assert recorder.errors
    assert all(span.ended == 1 for span in recorder.spans)


def test_chunks_that_cannot_be_read_go_through() -> None:
    """A chunk that nobody can look at reaches the caller."""
    odd = Odd()
    observed, recorder = observe(lambda messages, stream: iter([odd]))
    (seen,) = observed(MESSAGES, stream=True)
    assert seen is odd
    assert [span.ended for span in recorder.spans] == [1]


@pytest.mark.parametrize("where", ["start", "activate", "deactivate", "finish", "ids"])
def test_a_broken_recorder_does_not_reach_the_caller(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method of the recorder may raise: results are the bare client's."""
    completions = Completions()
    client, recorder = observe(Duck(completions))

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(type(recorder), where, broken)
    assert client.chat.completions.create(MESSAGES) is completions.body
    assert list(client.chat.completions.create(MESSAGES, stream=True)) == completions.chunks
    assert recorder.errors
    assert current.get() is None


_INTERNAL = [
    (duckcalls, name)
    for name in ("provider_named", "default_base", "readable", "stated_cost", "parameters_of", "_written_format",
                 "_is_stream", "_stream", "observed_stream", "observed_awaitable", "Hook", "CoveringObservation", "attach")
] + [(proxies, name) for name in ("_stand_in", "_class_for", "readable", "received_chunks", "Watch")] + [
    (duck, "observed"), (duck, "Node"), (duckcalls.Source, "body_of"), (duckcalls.Source, "hook_for"),
    (CoveringObservation, "may_ask_usage"), (CoveringObservation, "_finish"), (CoveringObservation, "_judge"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "name"), _INTERNAL, ids=lambda value: getattr(value, "__name__", value))
def test_each_internal_function_may_fail(where: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any part of this broken, every kind of call gives the application what the bare client gives."""
    completions, asynchronous, fresh = Completions(), AsyncCompletions(), Completions()
    client, _ = observe(Duck(completions), stream_usage=True)
    async_client, _ = observe(Duck(asynchronous))
    fresh_client, _ = observe(FreshDuck(fresh))
    events, made, _ = _events_client()

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(where, name, broken)
    assert client.chat.completions.create(MESSAGES, response_format={"type": "text"}) is completions.body
    chunks = list(client.chat.completions.create(MESSAGES, stream=True))
    assert chunks in (completions.chunks, completions.chunks[:-1])
    assert fresh_client.chat.completions.create(MESSAGES) is fresh.body
    with events.chat.completions.create(MESSAGES, stream=True) as entered:
        assert _text(entered) == "ab"
    assert made[0].closed

    async def go() -> None:
        assert await async_client.chat.completions.create(MESSAGES) is asynchronous.body
        seen = [chunk async for chunk in await async_client.chat.completions.create(MESSAGES, stream=True)]
        assert seen == asynchronous.chunks

    asyncio.run(go())

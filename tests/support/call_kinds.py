"""Calls of every kind, each made with a client that `prepare` has had in hand and may have instrumented."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import openai

import tierwise
from support.canned import ASK, Reply, async_client, chat, stream, sync_client
from support.ducks import AsyncCompletions, Completions, Duck, FreshDuck
from support.exchanges import Seen, _describe, _dump, exchange, names, perform

Prepare = Callable[[Any], Any]
_ERROR: Final = {"error": {"message": "no", "type": "server_error", "code": None}}
_TOOL_CALL: Final = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
_TOOLS: Final = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of call; `make` returns what the application can tell of it, the same every time."""

    name: str
    make: Callable[[Prepare], Any]
    late_prices: bool = False


def kinds(*, every_exchange: bool) -> list[Kind]:
    """All kinds of calls: the recorded exchanges, sync and async, and those that no exchange has."""
    chosen = names() if every_exchange else [name for name in _SOME if name in names()]
    found = [
        Kind(name=f"{name} {'async' if asynchronous else 'sync'}", make=_exchange(name, asynchronous=asynchronous))
        for name in chosen
        for asynchronous in (False, True)
    ]
    return found + [Kind(name=make.__name__.strip("_"), make=make) for make in _OWN] + [
        Kind(name=f"{make.__name__.strip('_')} before prices", make=make, late_prices=True)
        for make in (_in_a_run, _read_to_the_end)
    ]  # fmt: skip


_SOME: Final = (
    "openai-chat-plain",
    "openai-429-then-success",
    "openai-500-exhausted",
    "openai-401",
    "openai-connection-lost-then-success",
    "openai-timeout",
    "openai-stream-usage-asked-by-tierwise",
    "openai-stream-left-early",
    "openai-stream-connection-reset",
    "openai-stream-error-event",
    "openai-stream-cut-without-end",
    "openai-stream-helper",
    "openai-stream-raw-response",
    "openai-stream-logprobs",
    "openai-stream-tool-arguments-in-pieces",
    "openai-stream-never-read",
    "openai-streaming-response",
    "openai-stream-raw-bytes-of-parts",
    "openai-parse-holds",
    "openai-parse-length",
    "openai-parse-breaks-type",
    "openai-tool-calls-parallel",
    "openai-logprobs",
    "openai-refusal",
    "openai-json-schema-holds",
    "openai-response-create",
    "openai-response-parse",
    "openai-response-stream",
    "openai-response-stream-helper",
    "openai-response-tool-calls",
    "openai-embeddings-dimensions-raw",
    "openai-embeddings-base64",
    "openai-completions-legacy",
    "openai-completions-legacy-stream",
    "azure-chat",
    "litellm-cost-header",
    "ollama-chat-fenced-json",
    "llamacpp-json-in-prose",
    "gateway-200-html",
    "openrouter-stream-usage-with-choices",
)


def _exchange(name: str, *, asynchronous: bool) -> Callable[[Prepare], Any]:
    def make(prepare: Prepare) -> Any:
        return _told(perform(exchange(name), prepare, asynchronous=asynchronous))

    return make


def _told(seen: Seen) -> dict[str, Any]:
    """What the application can tell; usage asked for is not, nor how long a jittered wait was."""
    requests = []
    for request in seen.requests:
        body = {name: value for name, value in request["body"].items() if name != "stream_options"}
        requests.append({**request, "body": body})
    return {
        "kind": seen.kind,
        "types": [f"{one.__module__}.{one.__qualname__}" for one in seen.types],
        "values": seen.values,
        "texts": seen.texts,
        "chunks": seen.chunks,
        "error": seen.error,
        "closed": seen.closed,
        "arguments kept": seen.arguments_kept,
        "requests": requests,
        "waits": len(seen.waits),
    }


# -- kinds that are no exchange ------------------------------------------------------------------------------------


def _shown(value: Any) -> Any:
    return f"{type(value).__module__}.{type(value).__qualname__}", _dump(value)


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return _describe(error)


def _read_to_the_end(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("Hel", "lo", usage=False)))
    with tierwise.task("text", labels={"a": "b"}, prompt_version="2"):
        return [_shown(chunk) for chunk in client.chat.completions.create(**ASK, stream=True)]


_AUTO: Final = {**ASK, "model": "auto"}
_AS_JSON: Final = {"response_format": {"type": "json_object"}}


def _said(call: Callable[[], Any]) -> Any:
    """The type and the JSON that a call brings, with or without a fence around it; an error of the server's as nothing.

    A routed run may end sooner with a fault inside: what it brings then is the first answer, or the first error.
    """
    try:
        answer = call()
    except openai.InternalServerError:
        return None
    return type(answer).__qualname__, answer.choices[0].message.content.strip("`json\n")


def _routed(prepare: Prepare) -> Any:
    client = prepare(_sync(chat('{"a": 1}')))
    with tierwise.task("routed", labels={"a": "b"}):
        found = [_said(lambda: client.chat.completions.create(**_AUTO, max_tokens=50, extra_body={"x": 1}))]
        return [*found, _shown(client.chat.completions.with_raw_response.create(**_AUTO).parse())]


def _routed_after_an_error(prepare: Prepare) -> Any:
    client = prepare(_sync(Reply(status=503, body=_ERROR), chat('{"a": 1}')))
    with tierwise.task("routed"):
        _said(lambda: client.chat.completions.create(**_AUTO))
        return _said(lambda: client.chat.completions.create(**_AUTO))


def _climbing(prepare: Prepare) -> Any:
    client = prepare(_sync(chat('`{"a": 1}`'), chat('{"a": 1}')))
    with tierwise.task("climbing"):
        found = [_said(lambda: client.chat.completions.create(**_AUTO, **_AS_JSON))]
    client = prepare(_sync(chat('```json\n{"a": 1}\n```')))
    with tierwise.task("climbing"):
        found.append(_said(lambda: client.chat.completions.create(**_AUTO, **_AS_JSON)))
    return found


def _reviewed(prepare: Prepare) -> Any:
    client = prepare(_sync(chat('{"a": 1}')))
    with tierwise.task("reviewed"):
        return _said(lambda: client.chat.completions.create(**_AUTO))


def _shadowed(prepare: Prepare) -> Any:
    client = prepare(_sync(chat('{"a": 1}')))
    with tierwise.task("shadowed"):
        return _said(lambda: client.chat.completions.create(**_AUTO))


def _routed_stream(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", usage=False)))
    with tierwise.task("routed"):
        return [_shown(chunk) for chunk in client.chat.completions.create(**_AUTO, stream=True)]


def _async_routed(prepare: Prepare) -> Any:
    async def go() -> Any:
        client = prepare(async_client(chat('{"a": 1}'), stream("a", "b", usage=False))[0])
        with tierwise.task("climbing"):
            answer = await client.chat.completions.create(**_AUTO, **_AS_JSON)
            made = await client.chat.completions.create(**_AUTO, stream=True)
            return _shown(answer), [_shown(chunk) async for chunk in made]

    return asyncio.run(go())


def _left_by_break(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", "c", usage=False)))
    made = client.chat.completions.create(**ASK, stream=True)
    first = []
    for chunk in made:
        first.append(_shown(chunk))
        if len(first) == 2:
            break
    rest = [_shown(chunk) for chunk in made]
    return first, rest, made.response.is_closed


def _left_by_with(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", "c", usage=False)))
    with client.chat.completions.create(**ASK, stream=True) as made:
        first = _shown(next(iter(made)))
    return first, made.response.is_closed


def _dropped_unread(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", "c", usage=False)))
    made = client.chat.completions.create(**ASK, stream=True)
    response = made.response
    del made
    return response.status_code


def _raw_bytes(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", usage=False), chat()))
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        pieces = list(response.http_response.iter_raw())
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        return pieces, b"".join(response.iter_bytes())


def _by_post(prepare: Prepare) -> Any:
    client = prepare(_sync(chat()))
    found = client.post("/chat/completions", body=ASK, cast_to=object), client.with_options(timeout=5).models
    return _shown(found[0])


def _decorated(prepare: Prepare) -> Any:
    client = prepare(_sync(chat("Hi"), stream("a", "b", usage=False)))

    @tierwise.task("decorated", risk="high")
    def plain() -> Any:
        return _shown(client.chat.completions.create(**ASK))

    @tierwise.task
    def pieces() -> Any:
        for chunk in client.chat.completions.create(**ASK, stream=True):
            yield _shown(chunk)

    return plain(), list(pieces())


def _async_decorated(prepare: Prepare) -> Any:
    async def go() -> Any:
        client = prepare(async_client(chat("Hi"), stream("a", "b", usage=False))[0])

        @tierwise.task("decorated", expects="text")
        async def plain() -> Any:
            return _shown(await client.chat.completions.create(**ASK))

        @tierwise.task("decorated", run_id="r")
        async def pieces() -> Any:
            async for chunk in await client.chat.completions.create(**ASK, stream=True):
                yield _shown(chunk)

        found = await plain(), [piece async for piece in pieces()]
        async with tierwise.task("entered"):
            left = [_shown(chunk) async for chunk in await client.chat.completions.create(**ASK, stream=True)]
        await client.close()
        return found, left

    return asyncio.run(go())


def _async_cancelled(prepare: Prepare) -> Any:
    async def go() -> Any:
        reply = Reply(status=500, body=_ERROR, headers={"retry-after": "60"})
        client = prepare(async_client(reply, max_retries=2)[0])
        try:
            await asyncio.wait_for(client.chat.completions.create(**ASK), 0.005)
        except TimeoutError as error:
            return type(error), str(error)
        finally:
            await client.close()

    return asyncio.run(go())


def _in_a_run(prepare: Prepare) -> Any:
    client = prepare(_sync(chat("Hi"), Reply(status=400, body=_ERROR), chat("[1]")))
    with tierwise.task("policy", run_id="one", schema={"type": "array"}):
        return [_tried(lambda: _shown(client.chat.completions.create(**ASK))) for _ in range(3)]


def _checked(prepare: Prepare) -> Any:
    client = prepare(_sync(chat('"HELLO"'), chat('"hello"')))
    with tierwise.task("checked", schema={"type": "string"}):
        return [_shown(client.chat.completions.create(**ASK)) for _ in range(2)]


def _with_tools(prepare: Prepare) -> Any:
    client = prepare(_sync(chat(None, message={"tool_calls": [_TOOL_CALL]}, finish_reason="tool_calls")))
    return _shown(
        client.chat.completions.create(**ASK, tools=_TOOLS, temperature=0.5, max_tokens=9, stop=["x"], seed=1)
    )


def _in_the_background(prepare: Prepare) -> Any:
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini", "output": [], "tools": []}
    head |= {"parallel_tool_calls": True, "tool_choice": "auto"}
    usage: dict[str, Any] = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    part = {"type": "output_text", "text": "Hi", "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    done = {**head, "status": "completed", "output": [message], "usage": usage}
    queued = {**head, "status": "queued"}
    failed = Reply(status=404, body=_ERROR)
    client = prepare(_sync(Reply(body=queued), Reply(body=queued), failed, Reply(body=done)))
    found = [_shown(client.responses.create(model="gpt-5-mini", input="Hi", background=True))]
    return found + [_tried(lambda: _shown(client.responses.retrieve("resp_1"))) for _ in range(3)]


def _duck(prepare: Prepare) -> Any:
    found: list[Any] = []
    for make in (lambda one: Duck(one, base_url="https://api.openai.com/v1"), FreshDuck):
        completions = Completions()
        client = prepare(make(completions))
        found.append(client.chat.completions.create([], model="m") is completions.body)
        chunks = list(client.chat.completions.create([], model="m", stream=True))
        found.append([chunk for chunk in chunks if chunk.choices] == completions.chunks[:-1])
        with_break = client.chat.completions.create([], model="m", stream=True)
        found.append(next(with_break) is completions.chunks[0])
        with_break.close()
        found.append((completions.closed, len(completions.seen)))
    client = prepare(Duck(Completions(error=KeyError("k"))))
    return found, _tried(lambda: client.chat.completions.create([])), _tried(
        lambda: list(client.chat.completions.create([], stream=True))
    )  # fmt: skip


def _duck_that_hides_usage(prepare: Prepare) -> Any:
    client = prepare(Duck(_AskedFor(Completions()), base_url="https://api.openai.com/v1"))
    return len(list(client.chat.completions.create([], model="m", stream=True)))


class _AskedFor:
    """Sends usage only when asked."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def create(self, messages: Any, model: str, *, stream: bool = False, stream_options: Any = None) -> Any:
        chunks = self._completions.chunks
        return iter(chunks if stream_options else chunks[:-1])


def _async_duck(prepare: Prepare) -> Any:
    async def go() -> Any:
        completions = AsyncCompletions()
        client = prepare(Duck(completions))
        found: list[Any] = [await client.chat.completions.create([]) is completions.body]
        chunks = [chunk async for chunk in await client.chat.completions.create([], stream=True)]
        found.append([chunk for chunk in chunks if chunk.choices] == completions.chunks[:-1])
        broken = prepare(Duck(AsyncCompletions(error=KeyError("k"))))
        try:
            await broken.chat.completions.create([])
        except KeyError as error:
            found.append(repr(error))
        function = prepare(_later)
        found.append(await function(messages=[], model="m"))
        found.append([chunk.object async for chunk in await function(messages=[], model="m", stream=True)])
        return found

    return asyncio.run(go())


def _later(messages: Any, model: str, stream: bool = False) -> Any:
    """A function that is not a coroutine function, but returns a coroutine."""
    return _answer(AsyncCompletions(), stream)


async def _answer(completions: AsyncCompletions, stream: bool) -> Any:
    await asyncio.sleep(0)
    return completions._achunks() if stream else completions.body


_OWN: Final = (
    _read_to_the_end,
    _left_by_break,
    _left_by_with,
    _dropped_unread,
    _raw_bytes,
    _by_post,
    _decorated,
    _async_decorated,
    _async_cancelled,
    _in_a_run,
    _checked,
    _with_tools,
    _in_the_background,
    _routed,
    _routed_after_an_error,
    _climbing,
    _reviewed,
    _shadowed,
    _routed_stream,
    _async_routed,
    _duck,
    _duck_that_hides_usage,
    _async_duck,
)


def _sync(*replies: Reply) -> Any:
    return sync_client(*replies)[0]


def bare(client: Any) -> Any:
    """No instrumentation."""
    return client

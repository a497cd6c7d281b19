"""The shapes in which one chat completion can be asked for and read, sync and async: `SHAPES[name](client)`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pydantic

from support.canned import ASK, Reply, async_client, chat, stream, sync_client, typed

TEXT = '{"name": "Ada"}'
STREAMED = ("stream", "stream-helper", "raw-stream", "streaming-response-stream")
PLAIN = ("create", "parse", "raw", "streaming-response")
ASKED = ("stream", "stream-helper")
"""The shapes for which tierwise asks for usage itself."""


class Person(pydantic.BaseModel):
    name: str


def reply_for(shape: str, *, bare: bool = False) -> Reply:
    """The answer that suits a shape: the same text, whole or in pieces; `bare` as a server gives it unasked for usage."""
    if shape not in STREAMED:
        return chat(TEXT)
    return stream('{"name": ', '"Ada"}', usage=not (bare and shape in ASKED))


def _create(client: Any) -> Any:
    return client.chat.completions.create(**ASK).model_dump()


def _parse(client: Any) -> Any:
    return typed(client).parse(**ASK, response_format=Person).choices[0].message.parsed


def _raw(client: Any) -> Any:
    return client.chat.completions.with_raw_response.create(**ASK).parse().model_dump()


def _streaming_response(client: Any) -> Any:
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        return response.parse().model_dump()


def _stream(client: Any) -> Any:
    return [chunk.model_dump() for chunk in client.chat.completions.create(**ASK, stream=True)]


def _helper(client: Any) -> Any:
    with typed(client).stream(**ASK, response_format=Person) as events:
        kinds = [event.type for event in events]
        return kinds, events.get_final_completion().choices[0].message.parsed


def _raw_stream(client: Any) -> Any:
    return [c.model_dump() for c in client.chat.completions.with_raw_response.create(**ASK, stream=True).parse()]


def _streaming_response_stream(client: Any) -> Any:
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        return [chunk.model_dump() for chunk in response.parse()]


async def _acreate(client: Any) -> Any:
    return (await client.chat.completions.create(**ASK)).model_dump()


async def _aparse(client: Any) -> Any:
    return (await typed(client).parse(**ASK, response_format=Person)).choices[0].message.parsed


async def _araw(client: Any) -> Any:
    return (await client.chat.completions.with_raw_response.create(**ASK)).parse().model_dump()


async def _astreaming_response(client: Any) -> Any:
    async with client.chat.completions.with_streaming_response.create(**ASK) as response:
        return (await response.parse()).model_dump()


async def _astream(client: Any) -> Any:
    return [chunk.model_dump() async for chunk in await client.chat.completions.create(**ASK, stream=True)]


async def _ahelper(client: Any) -> Any:
    async with typed(client).stream(**ASK, response_format=Person) as events:
        kinds = [event.type async for event in events]
        return kinds, (await events.get_final_completion()).choices[0].message.parsed


async def _araw_stream(client: Any) -> Any:
    raw = await client.chat.completions.with_raw_response.create(**ASK, stream=True)
    return [chunk.model_dump() async for chunk in raw.parse()]


async def _astreaming_response_stream(client: Any) -> Any:
    async with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        return [chunk.model_dump() async for chunk in await response.parse()]


SYNC: dict[str, Callable[[Any], Any]] = {
    "create": _create,
    "parse": _parse,
    "raw": _raw,
    "streaming-response": _streaming_response,
    "stream": _stream,
    "stream-helper": _helper,
    "raw-stream": _raw_stream,
    "streaming-response-stream": _streaming_response_stream,
}
ASYNC: dict[str, Callable[[Any], Any]] = {
    "create": _acreate,
    "parse": _aparse,
    "raw": _araw,
    "streaming-response": _astreaming_response,
    "stream": _astream,
    "stream-helper": _ahelper,
    "raw-stream": _araw_stream,
    "streaming-response-stream": _astreaming_response_stream,
}


def client_for(mode: str, *replies: Reply, max_retries: int = 0, of: type | None = None) -> Any:
    """A real client of `mode` ("sync" or "async") over canned replies; `of` is a subclass to make it of."""
    client: Any
    make: Any = sync_client if mode == "sync" else async_client
    client, _ = make(*replies, max_retries=max_retries)
    if of is None:
        return client
    return of(api_key="sk-test", base_url=client.base_url, max_retries=max_retries, http_client=client._client)


def read(mode: str, shape: str, client: Any) -> Any:
    """Ask in one shape and read everything: plain values, or the exception that came."""
    try:
        return SYNC[shape](client) if mode == "sync" else asyncio.run(ASYNC[shape](client))
    except openai.OpenAIError as error:
        return type(error), str(error)

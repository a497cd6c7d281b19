"""A transport that answers from a list, and clients on it: real openai clients over a mock HTTP transport."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import openai
from openai import _base_client

from tierwise.testing import chat_body, chat_chunks

httpx: Any = getattr(_base_client, "httpx2", None) or _base_client.httpx  # which of the two this openai is built on


@dataclass
class Reply:
    """One canned HTTP answer: JSON or text body, or server-sent events; `drop` breaks the stream at its end."""

    status: int = 200
    body: Any = None
    events: Sequence[Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    error: Callable[[Any], Exception] | None = None
    drop: bool = False
    done: bool = True
    separator: str = "\n\n"

    def blocks(self) -> list[bytes]:
        if self.events is None:
            body = self.body if isinstance(self.body, (str, bytes)) else json.dumps(self.body)
            return [body.encode() if isinstance(body, str) else body]
        blocks = []
        for event in self.events or ():
            data = event if isinstance(event, str) else "data: " + json.dumps(event)
            blocks.append((data + self.separator).encode())
        if self.done:
            blocks.append(("data: [DONE]" + self.separator).encode())
        return blocks


def chat(content: str | None = "Hello.", **changes: Any) -> Reply:
    """A chat completion reply."""
    return Reply(body=chat_body(content, **changes))


def stream(*parts: str, **options: Any) -> Reply:
    """A streamed chat completion reply."""
    return Reply(events=chat_chunks(parts, **options))


class Canned:
    """Answers requests in order; the last reply repeats. Keeps the request bodies and whether each body was closed."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.bodies: list[Any] = []
        self.blocks_sent = 0

    def _next(self, request: Any) -> Reply:
        self.bodies.append(json.loads(request.content) if request.content else None)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply.error is not None:
            raise reply.error(request)
        return reply

    def _response(self, request: Any, *, asynchronous: bool) -> Any:
        reply = self._next(request)
        headers = dict(reply.headers)
        if reply.events is not None:
            headers.setdefault("content-type", "text/event-stream")
        elif not isinstance(reply.body, (str, bytes)):
            headers.setdefault("content-type", "application/json")
        content: Any = self._aevents(reply, request) if asynchronous else self._events(reply, request)
        return httpx.Response(reply.status, headers=headers, content=content, request=request)

    def _events(self, reply: Reply, request: Any) -> Iterator[bytes]:
        for block in reply.blocks():
            self.blocks_sent += 1
            yield block
        if reply.drop:
            raise httpx.ReadError("connection reset", request=request)

    async def _aevents(self, reply: Reply, request: Any) -> AsyncIterator[bytes]:
        for block in reply.blocks():
            self.blocks_sent += 1
            await anyio.sleep(0)
            yield block
        if reply.drop:
            raise httpx.ReadError("connection reset", request=request)

    def sync_transport(self) -> Any:
        return httpx.MockTransport(lambda request: self._response(request, asynchronous=False))

    def async_transport(self) -> Any:
        async def handler(request: Any) -> Any:
            return self._response(request, asynchronous=True)

        return httpx.MockTransport(handler)


def sync_client(
    *replies: Reply, base_url: str = "https://api.openai.com/v1", max_retries: int = 0
) -> tuple[openai.OpenAI, Canned]:
    """A real sync client whose transport answers from the list."""
    canned = Canned(*replies)
    http = openai.DefaultHttpxClient(transport=canned.sync_transport())
    return openai.OpenAI(api_key="sk-test", base_url=base_url, max_retries=max_retries, http_client=http), canned


def async_client(
    *replies: Reply, base_url: str = "https://api.openai.com/v1", max_retries: int = 0
) -> tuple[openai.AsyncOpenAI, Canned]:
    """A real async client whose transport answers from the list."""
    canned = Canned(*replies)
    http = openai.DefaultAsyncHttpxClient(transport=canned.async_transport())
    return openai.AsyncOpenAI(api_key="sk-test", base_url=base_url, max_retries=max_retries, http_client=http), canned


def typed(client: Any) -> Any:
    """Where `parse` and `stream` are: beside `create`, before openai 1.92 under `beta`."""
    stable = client.chat.completions
    return stable if hasattr(stable, "parse") else client.beta.chat.completions


ASK: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Say hello."}]}

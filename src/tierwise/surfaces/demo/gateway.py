"""A simulated OpenAI-compatible gateway on 127.0.0.1: real HTTP, server-sent events, passing faults.

It knows nothing of who measures it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tierwise.surfaces.demo.answers import answer
from tierwise.surfaces.demo.models import (
    CHARS_PER_TOKEN,
    LATENCY_SCALE,
    PROFILES,
    Profile,
    draw_for,
    fault_for,
    latency_for,
    tokens_of,
)

_CHUNK_CHARS: Final = 48
_FIRST_CHUNK_SHARE: Final = 0.35
_MESSAGE_TOKENS: Final = 4
_START_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer before it is sent: visible text, why it ended, token counts, seconds until its last byte."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    latency_s: float

    def usage(self) -> dict[str, object]:
        """The `usage` object of the API."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def make_reply(profile: Profile, body: Mapping[str, Any], *, seed: int, count: int, scale: float) -> Reply:
    """What a model answers to its `count`-th request with this prompt; pure, so that it can be replayed."""
    prompt = _prompt(body["messages"])
    identity = _identity(body)
    limit = _limit(body)
    json_mode = isinstance(body.get("response_format"), Mapping) and body["response_format"].get("type") in (
        "json_object",
        "json_schema",
    )
    text = answer(profile, prompt, draw_for(seed, profile.name, identity, count, "text"), json_mode=json_mode)
    reasoning = draw_for(seed, profile.name, identity, count, "reasoning").randint(*profile.reasoning_tokens)
    finish_reason = "stop"
    if limit is not None and reasoning + tokens_of(text) > limit:
        finish_reason = "length"
        reasoning = min(reasoning, limit)
        text = text[: (limit - reasoning) * CHARS_PER_TOKEN]
    return Reply(
        text=text,
        finish_reason=finish_reason,
        prompt_tokens=tokens_of(prompt) + _MESSAGE_TOKENS * len(body["messages"]),
        completion_tokens=reasoning + tokens_of(text),
        reasoning_tokens=reasoning,
        latency_s=latency_for(seed, profile, identity, count) / scale,
    )


def _prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(_text(message.get("content")) for message in messages)


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if isinstance(body.get(name), int):
            return int(body[name])
    return None


def _identity(body: Mapping[str, Any]) -> str:
    return f"{_limit(body)}\x1e{_prompt(body['messages'])}"


class Gateway:
    """The simulated gateway as a server in a thread: `with Gateway(seed=1) as gateway: OpenAI(base_url=gateway.base_url)`.

    `scale` divides the published latencies. The port is the system's choice.
    """

    def __init__(self, *, seed: int = 1, scale: float = LATENCY_SCALE, profiles: Sequence[Profile] = PROFILES) -> None:
        self._seed, self._scale = seed, scale
        self._profiles = {profile.name: profile for profile in profiles}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._started = int(time.time())
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """The URL to give to a client, `/v1` included. Raises `RuntimeError` while the gateway is not running."""
        if self._socket is None:
            msg = "the gateway is not running; use it in a with block"
            raise RuntimeError(msg)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    @property
    def requests(self) -> int:
        """Requests to a known model so far, failed tries included."""
        return sum(self._counts.values())

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    def __enter__(self) -> Gateway:
        # With the protocol named, asyncio turns Nagle's algorithm off; else every answer waits 40 ms for an acknowledgement.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            self.app(), log_level="error", access_log=False, lifespan="off", loop="asyncio", http="h11", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="simulated-gateway", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                self.__exit__(None, None, None)
                msg = "the simulated gateway did not start; is 127.0.0.1 blocked on this machine?"
                raise OSError(msg)
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(_START_S)
        if self._socket is not None:
            self._socket.close()
        self._server = self._thread = self._socket = None

    # -- endpoints ---------------------------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        if (refused := _unauthorised(request)) is not None:
            return refused
        data = [
            {"id": profile.name, "object": "model", "created": self._started, "owned_by": profile.owner}
            for profile in self._profiles.values()
        ]
        return JSONResponse({"object": "list", "data": data})

    async def _chat(self, request: Request) -> Response:
        arrived = time.monotonic()
        if (refused := _unauthorised(request)) is not None:
            return refused
        try:
            body = await request.json()
            json.dumps(body, ensure_ascii=False).encode()  # a lone surrogate could not be sent back
        except (ValueError, RecursionError):
            body = None
        if (problem := _problem(body)) is not None:
            return _error(400, problem)
        profile = self._profiles.get(body["model"])
        if profile is None:
            text = f"The model `{body['model']}` does not exist or you do not have access to it."
            return _error(404, text, param="model", code="model_not_found")
        return await self._complete(profile, body, arrived)

    async def _complete(self, profile: Profile, body: Mapping[str, Any], arrived: float) -> Response:
        identity = _identity(body)
        count = self._counts[profile.name, identity]
        self._counts[profile.name, identity] += 1
        fault = fault_for(self._seed, profile.name, identity, count)
        if fault is not None:
            return self._fault(fault.status, fault.retry_after_s / self._scale)
        reply = make_reply(profile, body, seed=self._seed, count=count, scale=self._scale)
        head = {
            "id": f"chatcmpl-{draw_for(self._seed, profile.name, identity, count, 'id').getrandbits(96):024x}",
            "created": int(time.time()),
            "model": profile.name,
        }
        if body.get("stream"):
            options = body.get("stream_options")
            wants_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
            events = _events(head, reply, arrived, wants_usage=wants_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        await _until(arrived + reply.latency_s)
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": reply.usage()})

    def _fault(self, status: int, retry_after_s: float) -> Response:
        text = "Rate limit reached, try again later." if status == 429 else "The model is overloaded, try again later."
        kind = "rate_limit_exceeded" if status == 429 else "server_overloaded"
        # Whole seconds in Retry-After are far too long at this scale, so the exact wait is sent in milliseconds as well.
        wait = {"retry-after": str(max(1, round(retry_after_s))), "retry-after-ms": f"{1000 * retry_after_s:.0f}"}
        return _error(status, text, kind=kind, headers=wait)


def _unauthorised(request: Request) -> Response | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return None
    text = "You did not provide an API key. Send it in an Authorization header: Bearer YOUR_KEY."
    return _error(401, text, code="invalid_api_key")


def _problem(body: object) -> str | None:
    """What is wrong with a request body, or `None`."""
    if not isinstance(body, dict):
        return "We could not parse the JSON body of your request."
    if not isinstance(body.get("model"), str):
        return "You must provide a model parameter."
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        return "'messages' must be a list of at least one message."
    limit = _limit(body)
    if limit is not None and limit < 1:
        return "'max_tokens' must be at least 1."
    if body.get("n") not in (None, 1):
        return "This gateway is simulated and gives one choice: 'n' must be 1."
    return None


def _error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=dict(headers or {}))


async def _until(moment: float) -> None:
    """Sleep until a moment of the monotonic clock."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def _events(
    head: Mapping[str, object], reply: Reply, arrived: float, *, wants_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as server-sent events: the first after a share of the latency, the others evenly after it."""

    def event(delta: Mapping[str, object], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk: dict[str, object] = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        if wants_usage:
            chunk["usage"] = None
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    with suppress(asyncio.CancelledError):
        pieces = [reply.text[start : start + _CHUNK_CHARS] for start in range(0, len(reply.text), _CHUNK_CHARS)]
        first = reply.latency_s * _FIRST_CHUNK_SHARE
        step = (reply.latency_s - first) / max(1, len(pieces))
        await _until(arrived + first)
        yield event({"role": "assistant", "content": "", "refusal": None})
        for number, piece in enumerate(pieces, start=1):
            await _until(arrived + first + step * number)
            yield event({"content": piece})
        yield event({}, reply.finish_reason)
        if wants_usage:
            usage = {**head, "object": "chat.completion.chunk", "choices": [], "usage": reply.usage()}
            yield b"data: " + json.dumps(usage).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

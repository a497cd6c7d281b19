"""Secrets planted in every place where an application or a provider may have one, and calls of every form that carry them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import openai
from pydantic import BaseModel

import tierwise
from support.canned import typed
from tierwise.testing import chat_body, chat_chunks

MARK: Final = "PLANTEDx7q"
"""Every secret begins with it, and goes on with the name of its place."""
COMMENT: Final = "REMARKEDx7q"
"""What a feedback comment says: kept in the store and in the call's event, nowhere else."""


def secret(place: str) -> str:
    """The secret of a place."""
    return MARK + place


def traces_of(mark: str, data: bytes) -> list[bytes]:
    """What stands around each trace of a mark in some bytes: as it is, in any case, in UTF-16, or in base64."""
    forms = [mark.lower().encode(), mark.lower().encode("utf-16-le")]
    lowered = data.lower()
    found = [lowered[max(0, at - 60) : at + 60] for form in forms if (at := lowered.find(form)) >= 0]
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + mark.encode())[shift + 1 if shift else 0 : -4]
        found += [coded] if coded in data else []
    return found


class Server:
    """Real HTTP on loopback: keeps every body that it gets, its path and headers, and answers with what `answer` gives."""

    def __init__(self, answer: Callable[[str, bytes], tuple[int, str, bytes]]) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                server.paths.append(self.path)
                server.bodies.append(data)
                server.heads.append(str(self.headers))
                status, kind, out = answer(self.path, data)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(out)))
                self.send_header("retry-after-ms", "1")
                self.send_header("x-request-id", secret("AnswerHeader"))
                self.send_header("set-cookie", f"session={secret('Cookie')}")
                self.end_headers()
                self.wfile.write(out)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _events(*events: Any) -> bytes:
    return b"".join(f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n".encode() for e in (*events, "[DONE]"))


def _tool_call() -> dict[str, Any]:
    arguments = json.dumps({"at": secret("ToolArgument")})
    return {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}


def _error() -> dict[str, Any]:
    return {
        "error": {
            "message": f"no such key {secret('ErrorMessage')}",
            "type": "server_error",
            "param": secret("ErrorParam"),
            "code": None,
        }
    }


def _response(**changes: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": secret("Answer"), "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini", "tools": []}
    head |= {"parallel_tool_calls": True, "tool_choice": "auto", "instructions": secret("Instructions")}
    return {**head, "status": "completed", "output": [message], "usage": usage, **changes}


def provider(path: str, data: bytes) -> tuple[int, str, bytes]:
    """What the planted provider answers; the name of the model says how."""
    body = json.loads(data) if data else {}
    model = body.get("model", "")
    if model == "fails":
        return 500, "application/json", json.dumps(_error()).encode()
    if model == "forbids":
        return 401, "application/json", json.dumps(_error()).encode()
    if model == "speaks-html":
        return 200, "text/html", f"<html>{secret('Html')}</html>".encode()
    if "embeddings" in path:
        found = {"object": "embedding", "index": 0, "embedding": [0.5]}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return (
            200,
            "application/json",
            json.dumps({"object": "list", "data": [found], "model": model, "usage": usage}).encode(),
        )
    if "responses" in path:
        return _answer_of_responses(body)
    if body.get("stream"):
        chunks = chat_chunks([secret("Chunk"), secret("Chunk")])
        last = [_error()] if model == "breaks" else []
        return 200, "text/event-stream", _events(*chunks, *last)
    if body.get("tools"):
        made = chat_body(None, message={"tool_calls": [_tool_call()]}, finish_reason="tool_calls")
    elif model == "refuses":
        made = chat_body(None, message={"refusal": secret("Refusal")})
    else:
        text = json.dumps({"a": secret("Answer")})
        made = chat_body(f"```\n{text}\n```" if model == "fences" else text, model=model or "m")
    return 200, "application/json", json.dumps(made).encode()


def _answer_of_responses(body: dict[str, Any]) -> tuple[int, str, bytes]:
    if body.get("background"):
        return 200, "application/json", json.dumps(_response(status="queued", output=[], usage=None)).encode()
    if not body.get("stream"):
        return 200, "application/json", json.dumps(_response()).encode()
    delta = {
        "type": "response.output_text.delta",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "logprobs": [],
    }
    events = [
        {"type": "response.created", "sequence_number": 0, "response": _response(status="in_progress", output=[])},
        {**delta, "sequence_number": 1, "delta": secret("Answer")},
        {"type": "response.completed", "sequence_number": 2, "response": _response()},
    ]
    return 200, "text/event-stream", _events(*events)


MESSAGES: Final = [
    {"role": "system", "content": secret("System")},
    {"role": "user", "content": secret("Prompt")},
]
ASK: Final[dict[str, Any]] = {
    "messages": MESSAGES,
    "user": secret("User"),
    "metadata": {"k": secret("Metadata")},
    "extra_headers": {"x-key": secret("Header"), "cookie": secret("Cookie")},
    "extra_query": {"token": secret("Query")},
    "extra_body": {"own": secret("Body")},
}
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": secret("ToolDescription"),
            "parameters": {
                "type": "object",
                "properties": {"at": {"type": "integer", "description": secret("Schema")}},
            },
        },
    }
]


class Shape(BaseModel):
    """What answers are parsed into; they do not hold it."""

    b: int


def client_options(port: int, *, in_address: bool = False) -> dict[str, Any]:
    """Of a client with secrets in its key, query, headers and organization, and `in_address` in user info and query there."""
    host = f"127.0.0.1:{port}"
    address = f"{secret('UserInfo')}:{secret('Password')}@{host}/v1?key={secret('AddressQuery')}&"
    return {
        "api_key": secret("Key"),
        "base_url": f"http://{address if in_address else host + '/v1'}",
        "default_headers": {"x-default": secret("DefaultHeader")},
        "default_query": {"sig": secret("DefaultQuery")},
        "organization": secret("Organization"),
        "project": secret("Project"),
        "max_retries": 1,
    }


def sync_calls(client: openai.OpenAI, *, every_form: bool = True) -> list[Any]:
    """Calls of every form of a sync client, or one that works and one that fails; gives what they returned."""
    chat: Any = client.chat.completions
    made: list[Any] = []

    def tried(call: Callable[[], Any]) -> None:
        with suppress(openai.APIError, ValueError):
            made.append(call())

    for model in ("plain", "fails"):
        tried(lambda model=model: chat.create(model=model, **ASK))  # type: ignore[misc]
    if not every_form:
        return made
    for model in ("fences", "refuses", "forbids", "speaks-html"):
        tried(lambda model=model: chat.create(model=model, **ASK))  # type: ignore[misc]
    for model in ("plain", "breaks", "fails"):
        tried(lambda model=model: list(chat.create(model=model, stream=True, **ASK)))  # type: ignore[misc]
    tried(lambda: chat.create(model="plain", tools=TOOLS, **ASK))
    tried(lambda: chat.with_raw_response.create(model="plain", **ASK).parse())
    with chat.with_streaming_response.create(model="plain", **ASK) as raw:
        tried(raw.read)
    tried(lambda: typed(client).parse(model="plain", response_format=Shape, **ASK))
    with typed(client).stream(model="plain", **ASK) as stream:
        tried(lambda: list(stream))
    tried(lambda: client.embeddings.create(model="e", input=secret("Prompt")))
    tried(lambda: client.responses.create(model="plain", input=secret("Prompt"), instructions=secret("System")))
    tried(lambda: list(client.responses.create(model="plain", input=secret("Prompt"), stream=True)))
    tried(lambda: client.responses.create(model="plain", input=secret("Prompt"), background=True))
    tried(lambda: client.responses.retrieve("resp_1"))
    with tierwise.task("checked", expects="json"):
        tried(lambda: chat.create(model="fences", **ASK))
    for _ in range(2):
        with tierwise.task("routed"):
            tried(lambda: chat.create(model="auto", **ASK))
            tried(lambda: list(chat.create(model="auto", stream=True, **ASK)))
    return made


def async_calls(options: dict[str, Any], prepare: Callable[[Any], Any]) -> None:
    """Calls of an async client: plain, streamed, routed, failing, cancelled."""

    async def go() -> None:
        async with openai.AsyncOpenAI(**options) as client:
            prepare(client)
            chat: Any = client.chat.completions
            await chat.create(model="plain", **ASK)
            async for _ in await chat.create(model="plain", stream=True, **ASK):
                pass
            with tierwise.task("routed"):
                await chat.create(model="auto", **ASK)
            with suppress(openai.APIError):
                await chat.create(model="fails", **ASK)
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await chat.create(model="plain", **ASK)

    asyncio.run(go())

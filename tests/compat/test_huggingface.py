"""Hugging Face's InferenceClient, sync and async: in an environment that has it, against a local server."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.ducks import observe, only
from support.local_server import local_server
from tierwise.instrument import duck
from tierwise.testing import chat_body

pytestmark = [pytest.mark.vendors, pytest.mark.filterwarnings("ignore")]

MESSAGES = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def hub() -> Any:
    """The package."""
    return importlib.import_module("huggingface_hub")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base URL of a server on localhost."""
    with local_server() as url:
        yield url


class _Refuses(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        data = json.dumps({"error": "no such model"}).encode()
        self.send_response(404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The base URL of a server that knows no model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_call(hub: Any, server: str) -> None:
    """The bare client's values through either name of the method, one call each, the client's type unchanged."""
    client = hub.InferenceClient(base_url=server, api_key="k")
    bare = client.chat.completions.create(messages=MESSAGES, model="m")
    same, recorder = observe(client)
    assert same is client
    assert isinstance(client, hub.InferenceClient)
    answer = client.chat.completions.create(messages=MESSAGES, model="m")
    assert (type(answer), answer) == (type(bare), bare)
    call = only(recorder)
    assert (call.outcome, call.request.model, call.request.provider) == ("success", "m", "127.0.0.1")
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens, call.answer.output_chars) == (12, 5, 6)
    assert client.chat_completion(MESSAGES, model="m") == bare
    assert len(recorder.calls) == 2


def test_a_stream(hub: Any, server: str) -> None:
    """The bare client's chunks, read as they are asked for."""
    client = hub.InferenceClient(base_url=server, api_key="k")
    bare = list(client.chat.completions.create(messages=MESSAGES, model="m", stream=True))
    _, recorder = observe(client)
    chunks = client.chat.completions.create(messages=MESSAGES, model="m", stream=True)
    for _chunk in chunks:
        break
    assert recorder.calls == []
    assert len(list(chunks)) == len(bare) - 1
    call = only(recorder)
    assert (call.outcome, call.answer.output_chars, call.answer.finish_reasons) == ("success", 5, ("stop",))
    assert call.usage is not None
    assert list(client.chat.completions.create(messages=MESSAGES, model="m", stream=True)) == bare


def test_the_async_client(hub: Any, server: str) -> None:
    """Plain and streamed, with the values of the synchronous client."""
    bare = hub.InferenceClient(base_url=server, api_key="k")
    answer = bare.chat.completions.create(messages=MESSAGES, model="m")
    parts = list(bare.chat.completions.create(messages=MESSAGES, model="m", stream=True))

    async def go() -> Any:
        async with hub.AsyncInferenceClient(base_url=server, api_key="k") as client:
            _, recorder = observe(client, task="hub")
            assert await client.chat.completions.create(messages=MESSAGES, model="m") == answer
            chunks = await client.chat.completions.create(messages=MESSAGES, model="m", stream=True)
            assert [chunk async for chunk in chunks] == parts
            assert await client.chat_completion(MESSAGES, model="m") == answer
            return recorder

    recorder = asyncio.run(go())
    assert recorder.errors == []
    assert [(call.task, call.outcome) for call in recorder.calls] == [("hub", "success")] * 3


def test_an_error(hub: Any, refusing: str) -> None:
    """The client's own exception; its status is the response's, and says whose fault it was."""
    client = hub.InferenceClient(base_url=refusing, api_key="k")
    _, recorder = observe(client)
    with pytest.raises(hub.errors.HfHubHTTPError) as caught:
        client.chat.completions.create(messages=MESSAGES, model="m")
    assert caught.value.response.status_code == 404
    call = only(recorder)
    assert (call.outcome, call.error_type) == ("rejected", type(caught.value).__name__)


def test_without_a_base_url(hub: Any) -> None:
    """The package names the provider and the client's own model is the default."""
    client = hub.InferenceClient(model="org/model", token="k")
    client.chat_completion = lambda messages, model=None: chat_body("Hi")
    _, recorder = observe(client)
    client.chat.completions.create(messages=MESSAGES)
    request = only(recorder).request
    assert (request.provider, request.model, request.server_address) == ("huggingface", "org/model", None)


def test_uninstrumenting(hub: Any, server: str) -> None:
    """Nothing of ours is left; instrumenting twice was one span."""
    client = hub.InferenceClient(base_url=server, api_key="k")
    before = dict(vars(client))
    _, first = observe(client)
    _, second = observe(client)
    client.chat.completions.create(messages=MESSAGES, model="m")
    assert (len(first.calls), len(second.calls)) == (0, 1)
    assert duck.uninstrument(client)
    assert type(client) is hub.InferenceClient
    assert vars(client) == before
    client.chat.completions.create(messages=MESSAGES, model="m")
    assert len(second.calls) == 1

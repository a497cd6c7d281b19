"""HTTP clients of the application's own under openai's: the library it is built on, httpx, httpx2, aiohttp."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import openai
import pytest

from compat.watching import Watching
from support.local_server import local_server

# Warnings while the packages are imported and used are their own.
pytestmark = [pytest.mark.vendors, pytest.mark.filterwarnings("ignore")]

ASK: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Say hello."}]}
SYNC: dict[str, Callable[[], Any]] = {
    "default": openai.DefaultHttpxClient,
    "httpx": lambda: importlib.import_module("httpx").Client(),
    "httpx2": lambda: importlib.import_module("httpx2").Client(),
}
ASYNC: dict[str, Callable[[], Any]] = {
    "default": openai.DefaultAsyncHttpxClient,
    "httpx": lambda: importlib.import_module("httpx").AsyncClient(),
    "httpx2": lambda: importlib.import_module("httpx2").AsyncClient(),
    "aiohttp": openai.DefaultAioHttpClient,
}


def _use(client: Any) -> list[Any]:
    """A plain call, a stream to its end, a raw body read as bytes, and three streams left early."""
    chat = client.chat.completions
    seen: list[Any] = [chat.create(**ASK)]
    stream = chat.create(**ASK, stream=True)
    seen += [type(stream).__name__, list(stream)]
    with chat.with_streaming_response.create(**ASK) as body:
        seen.append(b"".join(body.iter_bytes()))
    with chat.create(**ASK, stream=True) as left:
        seen.append(next(iter(left)))
    left = chat.create(**ASK, stream=True)
    seen.append(next(iter(left)))
    left.close()
    left = chat.create(**ASK, stream=True)
    for chunk in left:
        seen.append(chunk)
        break
    del left
    gc.collect()
    return seen


async def _ause(client: Any) -> list[Any]:
    """The same, asynchronous."""
    chat = client.chat.completions
    seen: list[Any] = [await chat.create(**ASK)]
    stream = await chat.create(**ASK, stream=True)
    seen += [type(stream).__name__, [chunk async for chunk in stream]]
    async with chat.with_streaming_response.create(**ASK) as body:
        seen.append(b"".join([part async for part in body.iter_bytes()]))
    async with await chat.create(**ASK, stream=True) as left:
        async for chunk in left:
            seen.append(chunk)
            break
    left = await chat.create(**ASK, stream=True)
    seen.append(await left.__anext__())
    await left.close()
    left = await chat.create(**ASK, stream=True)
    async for chunk in left:
        seen.append(chunk)
        break
    await left.response.aclose()
    del left
    gc.collect()
    await client.close()
    return seen


@pytest.fixture(params=["client", "global"])
def way(request: pytest.FixtureRequest) -> str:
    """Both ways to instrument."""
    found: str = request.param
    return found


def _made(watching: Watching, way: str, make: Callable[[], Any]) -> Any:
    if way == "global":
        watching.instrument(stream_usage=False)
        return make()
    return watching.instrument(make(), stream_usage=False)


def _check(watching: Watching) -> None:
    rows = watching.rows()
    assert [row.outcome for row in rows] == ["success"] * 3 + ["cancelled"] * 3
    assert [row.input_tokens for row in rows[:3]] == [12] * 3
    assert len(watching.spans()) == 6
    assert all(row.time_to_first_chunk_s is not None for row in rows if row.stream)


@pytest.mark.parametrize("library", list(SYNC))
def test_a_sync_http_client(watching: Watching, way: str, library: str) -> None:
    """The bare client's values, and each call once with its outcome, over real HTTP."""
    with local_server() as url:

        def make() -> Any:
            return openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=SYNC[library]())

        with make() as bare:
            expected = _use(bare)
        with _made(watching, way, make) as client:
            assert _use(client) == expected
    _check(watching)


@pytest.mark.parametrize("library", list(ASYNC))
def test_an_async_http_client(watching: Watching, way: str, library: str) -> None:
    """The same, asynchronous; aiohttp behind openai's adapter too."""
    with local_server() as url:

        async def use(make_observed: Callable[[Callable[[], Any]], Any]) -> list[Any]:
            return await _ause(
                make_observed(
                    lambda: openai.AsyncOpenAI(
                        base_url=url, api_key="none", max_retries=0, http_client=ASYNC[library]()
                    )
                )
            )

        expected = asyncio.run(use(lambda make: make()))
        assert asyncio.run(use(lambda make: _made(watching, way, make))) == expected
    _check(watching)


@pytest.mark.parametrize("library", list(ASYNC))
def test_a_cancelled_task(watching: Watching, library: str) -> None:
    """A task cancelled while it waits for the answer: one cancelled call, and the client goes on working."""

    async def go() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()
            writer.close()

        asked = asyncio.Event()
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        silent_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        with local_server() as url:
            client = openai.AsyncOpenAI(
                base_url=silent_url, api_key="none", max_retries=0, http_client=ASYNC[library]()
            )
            watching.instrument(client)
            task = asyncio.create_task(client.chat.completions.create(**ASK))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            client.base_url = url
            await client.chat.completions.create(**ASK)
            await client.close()
        server.close()

    asyncio.run(go())
    assert [row.outcome for row in watching.rows()] == ["cancelled", "success"]


SLOW_IMPORT = """
import importlib.abc, os, sys, threading, time

reached = threading.Event()

class Slow(importlib.abc.MetaPathFinder):
    # Keeps httpx2 half imported for a while, as a cold disk does.
    def find_spec(self, name, path=None, target=None):
        if name == "httpx2._models":
            reached.set()
            time.sleep(1)
        return None

import openai
sys.meta_path.insert(0, Slow())
import tierwise
client = openai.OpenAI(base_url=os.environ["SERVER"], api_key="none", max_retries=0)
client.chat.completions.create(model="gpt-5-mini", messages=[])
tierwise.instrument(client, store=os.environ["STORE"])
if not hasattr(sys.modules.get("httpx2"), "Client"):
    reached.wait(10)
for number in range(5):
    client.chat.completions.create(model="gpt-5-mini", messages=[])
tierwise.force_flush()
"""


def test_loading_prices_does_not_disturb_the_first_calls(watching: Watching) -> None:
    """openai 2 looks at httpx2 whenever somebody has begun to import it: the price list must not do so beside a call."""
    with local_server() as url:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SLOW_IMPORT)],
            env=os.environ | {"SERVER": url, "STORE": str(watching.path)}, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [row.outcome for row in watching.rows()] == ["success"] * 5

"""Other vendors' SDKs of Stainless's make, through the ordinary hook: groq, together, cerebras, sync and async."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from support import canned
from support.canned import Canned, Reply, chat
from tierwise.instrument import stainless
from tierwise.testing import MemoryRecorder, chat_chunks, instrument_in_memory

pytestmark = pytest.mark.vendors


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """Where an SDK has its clients, and the provider that they talk to."""

    module: str
    sync_name: str
    async_name: str
    provider: str
    host: str
    options: dict[str, Any]


VENDORS = [
    Vendor(
        module="groq",
        sync_name="Groq",
        async_name="AsyncGroq",
        provider="groq",
        host="api.groq.com",
        options={},
    ),
    Vendor(
        module="together",
        sync_name="Together",
        async_name="AsyncTogether",
        provider="together",
        host="api.together.ai",
        options={},
    ),
    Vendor(
        module="cerebras.cloud.sdk",
        sync_name="Cerebras",
        async_name="AsyncCerebras",
        provider="cerebras",
        host="api.cerebras.ai",
        options={"warm_tcp_connection": False},
    ),
]
FINGERPRINT = {"system_fingerprint": "fp_1"}
"""Cerebras's SDK reads a chunk without one as something else."""
ASK: dict[str, Any] = {"model": "llama-x", "messages": [{"role": "user", "content": "Say hello."}]}

Make = Callable[..., tuple[Any, Canned]]


@pytest.fixture(params=VENDORS, ids=lambda vendor: vendor.module)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    """One vendor after the other."""
    found: Vendor = request.param
    return found


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a real client of the vendor's over a mock transport of the HTTP library that it is built on."""
    module = importlib.import_module(vendor.module)
    base_client = importlib.import_module(f"{vendor.module}._base_client")
    http = getattr(base_client, "httpx2", None) or base_client.httpx
    monkeypatch.setattr(canned, "httpx", http)

    def made(*replies: Reply, max_retries: int = 0) -> tuple[Any, Canned]:
        answers = Canned(*replies)
        if request.param == "sync":
            kind, client = vendor.sync_name, http.Client(transport=answers.sync_transport())
        else:
            kind, client = vendor.async_name, http.AsyncClient(transport=answers.async_transport())
        options = {"api_key": "k", "max_retries": max_retries, "http_client": client, **vendor.options}
        return getattr(module, kind)(**options), answers

    return made


def run(client: Any, use: Callable[[Any], Any]) -> Any:
    """Call the client and read what it gives: sync or async, whole or streamed."""

    async def go() -> Any:
        answer = await use(client)
        return [chunk async for chunk in answer] if hasattr(answer, "__aiter__") else answer

    if not inspect.iscoroutinefunction(inspect.unwrap(type(client).request)):
        answer = use(client)
        return list(answer) if hasattr(answer, "__next__") else answer
    return asyncio.run(go())


def dumped(value: Any) -> Any:
    """A response or chunks as plain values."""
    return [one.model_dump() for one in value] if isinstance(value, list) else value.model_dump()


def chunks_of(*parts: str, **options: Any) -> list[dict[str, Any]]:
    """Chunks as these vendors send them."""
    return [chunk | FINGERPRINT for chunk in chat_chunks(parts, **options)]


def plain(client: Any) -> Any:
    """A plain call."""
    return client.chat.completions.create(**ASK)


def streamed(client: Any) -> Any:
    """A streamed call."""
    return client.chat.completions.create(**ASK, stream=True)


def only(recorder: MemoryRecorder) -> Any:
    """The one call that was recorded, and no fault."""
    assert recorder.errors == []
    (call,) = recorder.calls
    assert [span.ended for span in recorder.spans] == [1]
    assert recorder.active == 0
    return call


def test_a_plain_call(make: Make, vendor: Vendor) -> None:
    """One call with the vendor's name and host, and the very values of the bare client."""
    assert stainless.supports(make(chat())[0])
    bare = run(make(chat("Hi there."))[0], plain)
    client, _ = make(chat("Hi there."))
    recorder = instrument_in_memory(client)
    answer = run(client, plain)
    assert type(answer) is type(bare)
    assert dumped(answer) == dumped(bare)
    call = only(recorder)
    assert (call.request.provider, call.request.server_address) == (vendor.provider, vendor.host)
    assert (call.outcome, call.request.model, call.usage.input_tokens, call.usage.output_tokens) == (
        "success", "llama-x", 12, 5,
    )  # fmt: skip


def test_a_stream(make: Make, vendor: Vendor) -> None:
    """The chunks are those that the bare client gives when it is not asked for usage; the tokens are recorded."""
    bare = run(make(Reply(events=chunks_of("Hel", "lo", usage=False)))[0], streamed)
    client, answers = make(Reply(events=chunks_of("Hel", "lo")))
    recorder = instrument_in_memory(client)
    chunks = run(client, streamed)
    assert answers.bodies[0]["stream_options"] == {"include_usage": True}
    assert dumped(chunks) == dumped(bare)
    assert type(chunks[0]) is type(bare[0])
    call = only(recorder)
    assert (call.outcome, call.answer.output_chars, call.usage.output_tokens) == ("success", 5, 5)


def test_usage_on_the_last_chunk_with_choices(make: Make, vendor: Vendor) -> None:
    """Groq's `x_groq`, and usage beside the finish reason as Together and Cerebras send it, reach both."""
    events = chunks_of("Hi", usage=False)
    counts = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    events[-1] |= {"x_groq": {"id": "req_1", "usage": counts}} if vendor.module == "groq" else {"usage": counts}
    bare = run(make(Reply(events=events))[0], streamed)
    client, _ = make(Reply(events=events))
    recorder = instrument_in_memory(client)
    assert dumped(run(client, streamed)) == dumped(bare)
    assert only(recorder).usage.output_tokens == 5


def test_an_error(make: Make, vendor: Vendor) -> None:
    """The exception has the bare one's type, text and status; the call is recorded once."""
    reply = Reply(status=404, body={"error": {"message": "no such model"}})
    with pytest.raises(Exception, match="no such model") as bare:
        run(make(reply)[0], plain)
    client, _ = make(reply)
    recorder = instrument_in_memory(client)
    with pytest.raises(type(bare.value)) as caught:
        run(client, plain)
    assert (type(caught.value), str(caught.value)) == (type(bare.value), str(bare.value))
    call = only(recorder)
    assert (call.outcome, call.error_type) == ("rejected", type(bare.value).__name__)


def test_a_retry(make: Make, vendor: Vendor) -> None:
    """A failed try is inside the call: its status, its backoff, one call."""
    failed = Reply(status=503, body={}, headers={"retry-after-ms": "1"})
    client, answers = make(failed, chat(), max_retries=1)
    recorder = instrument_in_memory(client)
    run(client, plain)
    call = only(recorder)
    assert (call.outcome, call.retries, [one.status for one in call.failed_tries]) == ("success", 1, [503])
    assert call.backoff_s > 0
    assert len(answers.bodies) == 2


def test_a_stream_that_breaks(make: Make, vendor: Vendor) -> None:
    """A connection that is lost in mid-stream is an error with what had come."""
    client, _ = make(Reply(events=chunks_of("Hel", finish_reason=None, usage=False), done=False, drop=True))
    recorder = instrument_in_memory(client)
    with pytest.raises(canned.httpx.ReadError):
        run(client, streamed)
    call = only(recorder)
    assert (call.outcome, call.error_type, call.answer.output_chars) == ("error", "ReadError", 3)


def test_uninstrumenting(make: Make, vendor: Vendor) -> None:
    """The client has its own class again and nothing is recorded."""
    client, _ = make(chat())
    kind = type(client)
    recorder = instrument_in_memory(client)
    assert isinstance(client, kind)
    assert stainless.uninstrument(client)
    assert type(client) is kind
    run(client, plain)
    assert recorder.calls == []

"""However a body is read, and whatever goes wrong inside tierwise: each call ends once, with what is certain."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from support.canned import ASK, Reply, async_client, chat, stream, sync_client
from tierwise.instrument import rawbody
from tierwise.instrument.hook import Hook
from tierwise.testing import MemoryRecorder, chat_body, chat_chunks, instrument_in_memory


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_a_body_read_as_raw_bytes_is_recorded(coding: str | None) -> None:
    """`iter_raw` to the end is a success with its tokens, whatever the content encoding."""
    plain = json.dumps(chat_body("Hello.")).encode()
    pack: dict[str | None, Callable[[bytes], bytes]] = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}
    headers = {"content-type": "application/json"} | ({"content-encoding": coding} if coding else {})
    client, _ = sync_client(Reply(body=pack[coding](plain), headers=headers))
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        taken = b"".join(response.http_response.iter_raw())
    assert taken == pack[coding](plain)
    (call,) = recorder.calls
    assert call.outcome == "success"
    assert call.usage is not None
    assert call.usage.input_tokens == 12


def test_an_unknown_encoding_is_a_success_without_tokens() -> None:
    """Raw bytes that tierwise cannot decode went to the application: success, no tokens, counted as not read."""
    client, _ = sync_client(Reply(body=b"\x1b\x00", headers={"content-encoding": "br"}))
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert b"".join(response.http_response.iter_raw()) == b"\x1b\x00"
    assert [(call.outcome, call.usage) for call in recorder.calls] == [("success", None)]
    assert [where for where, _ in recorder.errors] == ["raw"]


def test_raw_bytes_left_half_way_are_cancelled() -> None:
    """Leaving `iter_raw` before the body is whole is cancelled."""
    client, _ = sync_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        for _ in response.http_response.iter_raw():
            break
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def test_async_raw_stream_is_recorded() -> None:
    """`aiter_raw` of a stream gives text and tokens; times are those of its pieces."""
    client, _ = async_client(stream("Hel", "lo"))
    recorder = instrument_in_memory(client)

    async def go() -> None:
        async with client.chat.completions.with_streaming_response.create(
            **ASK, stream=True, stream_options={"include_usage": True}
        ) as response:
            _ = [piece async for piece in response.http_response.aiter_raw()]

    asyncio.run(go())
    (call,) = recorder.calls
    assert (call.outcome, call.answer.output_chars) == ("success", 5)
    assert call.usage is not None
    assert call.time_to_first_chunk_s is not None


def test_a_raw_stream_that_breaks_keeps_what_it_said() -> None:
    """A connection lost while raw events are read is an error that has the text and the model so far."""
    events = chat_chunks(("Hello ", "wor"))[:3]
    client, _ = sync_client(Reply(events=events, drop=True, done=False))
    recorder = instrument_in_memory(client)
    with (
        client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response,
        pytest.raises(Exception, match="connection reset"),
    ):
        _ = list(response.iter_bytes())
    (call,) = recorder.calls
    assert call.outcome == "error"
    assert call.answer.model == "gpt-5-mini-2025-08-07"
    assert call.answer.output_chars > 0


def test_a_body_over_the_bound_is_a_success_without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON body too large to keep is no failure of the model: success, counted as not read."""
    monkeypatch.setattr(rawbody, "MAX_BODY", 1000)
    client, _ = sync_client(chat("x" * 2000))
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert len(response.read()) > 2000
    assert [call.outcome for call in recorder.calls] == ["success"]
    assert [where for where, _ in recorder.errors] == ["raw"]


def test_a_large_body_within_the_bound_is_read() -> None:
    """Ten megabytes of JSON, read as bytes, are judged like any answer."""
    client, _ = sync_client(chat("x" * (10 << 20)))
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        response.read()
    assert [(call.outcome, call.answer.output_chars) for call in recorder.calls] == [("success", 10 << 20)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_are_found_however_they_are_cut(size: int, end: str) -> None:
    """Every line ending that the format allows, cut anywhere, gives the same events; comments give none."""
    found: list[Any] = []
    events = rawbody.RawEvents(found.append)
    text = f': ping{end}{end}data: {{"a":{end}data: 1}}{end}{end}event: x{end}data: {{"b": 2}}{end}{end}data: [DONE]'
    raw = text.encode()
    for start in range(0, len(raw), size):
        events.feed(raw[start : start + size])
    events.end()
    assert found == [{"a": 1}, {"b": 2}]


def test_an_endless_event_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without end costs bounded memory, is told once, and the next event is read."""
    monkeypatch.setattr(rawbody, "MAX_EVENT", 100)
    found: list[Any] = []
    events = rawbody.RawEvents(found.append)
    events.feed(b"data: " + b"x" * 50)
    with pytest.raises(ValueError, match="more than"):
        events.feed(b"x" * 50)
    events.feed(b'\n\ndata: {"a": 1}\n\n')
    assert found == [{"a": 1}]


def test_a_retry_that_was_not_made_is_not_counted() -> None:
    """Cancelling during the back-off leaves the failed try, but no retry."""
    client, _ = async_client(Reply(status=500, body={}, headers={"retry-after": "60"}), max_retries=3)
    recorder = instrument_in_memory(client)

    async def go() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.chat.completions.create(**ASK), 0.05)

    asyncio.run(go())
    (call,) = recorder.calls
    assert (call.outcome, call.retries, len(call.failed_tries)) == ("cancelled", 0, 1)
    assert call.failed_tries[0].status == 500
    assert call.backoff_s > 0


@pytest.mark.parametrize("place", ["_rates", "_judge", "_error_type"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_fault_while_finishing_does_not_lose_the_call(
    monkeypatch: pytest.MonkeyPatch, place: str, streamed: bool
) -> None:
    """Whatever breaks after the answer came: the call is there once, its span ended, its run counted, the fault told."""
    import tierwise
    from tierwise.instrument.observation import Observation

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    client, _ = sync_client(stream("Hi") if streamed else chat())
    recorder = instrument_in_memory(client)
    monkeypatch.setattr(Observation, place, broken)
    with tierwise.task("t", run_id="r"):
        answer = client.chat.completions.create(**ASK, stream=streamed)
        if streamed:
            assert list(answer)
    assert [call.outcome for call in recorder.calls] == ["success"]
    assert [span.ended for span in recorder.spans] == [1]
    assert [run.run_id for run in recorder.runs] == ["r"]
    assert recorder.errors


def test_an_epoch_that_cannot_be_made_does_not_lose_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing call whose reading broke too keeps its outcome and error type."""

    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("bug")

    client, _ = sync_client(Reply(status=401, body={"error": {"message": "no"}}))
    recorder = instrument_in_memory(client)
    monkeypatch.setattr(Hook, "epoch", broken)
    with pytest.raises(Exception, match="401"):
        client.chat.completions.create(**ASK)
    assert [(call.outcome, call.error_type, call.epoch) for call in recorder.calls] == [
        ("rejected", "AuthenticationError", "")
    ]


def test_a_run_waits_for_the_price_of_its_calls() -> None:
    """A run whose calls ended before the prices were there has their cost, in the same flush."""
    import tierwise
    from tierwise.core.cost import flat_rates
    from tierwise.testing import FixedPrices

    class Late(FixedPrices):
        ready = False

    later: list[Any] = []

    class Deferring(MemoryRecorder):
        def finish(self, span: Any, call: Any, *, price_later: Any = None, content: Any = None) -> None:
            later.append((call, price_later))

    client, _ = sync_client(chat())
    prices = Late(fixed=None, ready=False)
    recorder = instrument_in_memory(client, prices=prices, recorder=Deferring())
    with tierwise.task("t", run_id="r"):
        client.chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
    assert recorder.runs == []
    prices.fixed = flat_rates(source="override", input=1.0, output=2.0)
    first, second = later
    priced = first[1](first[0])
    second[1].skip(second[0])
    (run,) = recorder.runs
    assert priced.cost is not None
    assert run.calls == 2
    assert run.cost_usd is None, "one of its calls has no price"


def test_one_task_object_entered_by_many_at_once() -> None:
    """A `task()` made once and shared by coroutines and threads keeps their calls and runs apart."""
    import tierwise
    from tierwise.instrument.context import current_scope

    shared = tierwise.task("shared", run_id="r")
    other = tierwise.task("other")
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    names: list[tuple[str | None, str | None]] = []

    async def first(began: asyncio.Event, go_on: asyncio.Event) -> None:
        with shared:
            began.set()
            await go_on.wait()
            client.chat.completions.create(**ASK)
        scope = current_scope()
        names.append(("first", None if scope is None else scope.context.name))

    async def second(began: asyncio.Event, go_on: asyncio.Event) -> None:
        await began.wait()
        with other:
            with shared:
                client.chat.completions.create(**ASK)
                client.chat.completions.create(**ASK)
            scope = current_scope()
            names.append(("second", None if scope is None else scope.context.name))
        go_on.set()

    async def go() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()
        await asyncio.gather(first(began, go_on), second(began, go_on))

    asyncio.run(go())
    assert names == [("second", "other"), ("first", None)]
    assert sorted(run.calls for run in recorder.runs) == [1, 2]

    recorder.runs.clear()
    barrier = threading.Barrier(4)

    def work() -> None:
        for _ in range(20):
            barrier.wait(10)
            with shared:
                client.chat.completions.create(**ASK)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.calls for run in recorder.runs] == [1] * 80


def test_a_task_object_nested_in_itself() -> None:
    """Entering the same object inside itself gives two runs, each closed by its own block."""
    import tierwise

    shared = tierwise.task("shared", run_id="r")
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    with shared:
        with shared:
            client.chat.completions.create(**ASK)
        assert [run.calls for run in recorder.runs] == [1]
        client.chat.completions.create(**ASK)
    assert [run.calls for run in recorder.runs] == [1, 1]

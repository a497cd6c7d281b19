"""Under trio, through anyio, calls, streams, retries and cancellation are recorded as under asyncio."""

from __future__ import annotations

import gc

import openai
import pytest
import trio

import tierwise
from support.canned import ASK, Reply, async_client, chat, stream
from tierwise.testing import instrument_in_memory


# The bare client leaves the generators of a finished stream to the garbage collector as well; trio remarks on it.
@pytest.mark.filterwarnings("ignore:Async generator 'openai._streaming:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Async generator 'httpx2:ResourceWarning")
def test_calls_and_streams_under_trio_keep_their_task() -> None:
    """Twenty concurrent calls and a stream each belong to their own task."""
    client, _ = async_client(chat())
    streaming, _ = async_client(stream("a", "b"))
    recorder = instrument_in_memory(client)
    instrument_in_memory(streaming, recorder=recorder)

    async def one(number: int) -> None:
        async with tierwise.task(f"task-{number}"):
            await client.chat.completions.create(**ASK)

    async def go() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        with tierwise.task("streamed"):
            chunks = await streaming.chat.completions.create(**ASK, stream=True)
            assert len([chunk async for chunk in chunks]) == 4
        del chunks
        gc.collect()  # here, where the remark is expected, not in some later test

    trio.run(go)
    assert {call.task for call in recorder.calls} == {*(f"task-{n}" for n in range(20)), "streamed"}
    assert {call.outcome for call in recorder.calls} == {"success"}


def test_retry_and_cancellation_under_trio() -> None:
    """A retry is counted; a scope cancelled before the retry leaves one cancelled call without one."""
    client, _ = async_client(Reply(status=500, body={}, headers={"retry-after-ms": "1"}), chat(), max_retries=1)
    hanging, _ = async_client(Reply(status=500, body={}, headers={"retry-after": "60"}), max_retries=3)
    recorder = instrument_in_memory(client)
    instrument_in_memory(hanging, recorder=recorder)

    async def go() -> None:
        await client.chat.completions.create(**ASK)
        with trio.move_on_after(0.05):
            await hanging.chat.completions.create(**ASK)
        with pytest.raises(openai.InternalServerError):
            await hanging.with_options(max_retries=0).chat.completions.create(**ASK)

    trio.run(go)
    assert [(call.outcome, call.retries) for call in recorder.calls] == [("success", 1), ("cancelled", 0), ("error", 0)]

"""Streams: every chunk reaches the caller, the call ends exactly once, however the stream ends."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import openai
import pydantic
import pytest

from support.canned import ASK, Reply, async_client, httpx, stream, sync_client, typed
from tierwise.testing import chat_body, chat_chunks, instrument_in_memory


def _bare_chunks(reply: Reply) -> list[Any]:
    client, _ = sync_client(reply, base_url="http://localhost/v1")
    return [chunk.model_dump() for chunk in client.chat.completions.create(**ASK, stream=True)]


def test_a_stream_is_recorded_at_its_end() -> None:
    """Tokens, finish reason, first-chunk time and chunk count are there once the stream is exhausted."""
    client, _ = sync_client(stream("Hel", "lo"))
    recorder = instrument_in_memory(client)
    chunks = client.chat.completions.create(**ASK, stream=True)
    assert isinstance(chunks, openai.Stream)
    assert type(chunks).__name__ == "Stream"
    assert recorder.calls == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    (call,) = recorder.calls
    assert (call.outcome, call.answer.finish_reasons, call.answer.output_chars) == ("success", ("stop",), 5)
    assert call.usage is not None
    assert call.usage.output_tokens == 5
    assert call.time_to_first_chunk_s is not None
    assert 0 < call.time_to_first_chunk_s <= call.duration_s
    assert call.time_per_output_chunk_s is not None
    assert [span.ended for span in recorder.spans] == [1]


def test_usage_is_asked_for_and_its_chunk_kept_back() -> None:
    """pydantic/logfire#1280: from a known host usage is asked for in a new dict; the extra chunk is kept back from the caller."""
    client, canned = sync_client(stream("a", "b"))
    recorder = instrument_in_memory(client)
    seen = [chunk.model_dump() for chunk in client.chat.completions.create(**ASK, stream=True)]
    assert canned.bodies[0]["stream_options"] == {"include_usage": True}
    assert seen == _bare_chunks(stream("a", "b", usage=False))
    assert recorder.calls[0].usage is not None


def test_the_callers_own_usage_chunk_is_not_hidden() -> None:
    """A caller who asked for usage gets the chunk."""
    client, _ = sync_client(stream("a"))
    instrument_in_memory(client)
    options = {"include_usage": True}
    seen = [chunk.model_dump() for chunk in client.chat.completions.create(**ASK, stream=True, stream_options=options)]
    assert seen == _bare_chunks(stream("a"))


@pytest.mark.parametrize(
    ("base_url", "setting", "asked"),
    [
        ("https://api.openai.com/v1", None, True),
        ("https://api.openai.com/v1", False, False),
        ("https://x.openai.azure.com/openai/v1", None, False),
        ("http://localhost:8000/v1", None, False),
        ("http://localhost:8000/v1", True, True),
    ],
)
def test_usage_is_asked_for_only_where_it_is_accepted(base_url: str, setting: bool | None, asked: bool) -> None:
    """openai/openai-python#1469: Azure and unknown hosts are not asked by default; `stream_usage` overrides."""
    client, canned = sync_client(stream("a"), base_url=base_url)
    instrument_in_memory(client, stream_usage=setting)
    list(client.chat.completions.create(**ASK, stream=True))
    assert ("stream_options" in canned.bodies[0]) is asked


def test_a_caller_who_said_no_to_usage_is_not_overruled() -> None:
    """`include_usage: False` and `extra_body` stay as they are."""
    client, canned = sync_client(stream("a", usage=False))
    instrument_in_memory(client)
    list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": False}))
    assert canned.bodies[0]["stream_options"] == {"include_usage": False}


def test_prelude_chunk_without_choices_is_not_hidden() -> None:
    """Azure's content-filter prelude has empty choices but is not ours to hide."""
    prelude = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
    client, _ = sync_client(Reply(events=[prelude, *chat_chunks(["a"])]))
    recorder = instrument_in_memory(client)
    seen = list(client.chat.completions.create(**ASK, stream=True))
    assert len(seen) == 4
    assert recorder.calls[0].answer.model == "gpt-5-mini-2025-08-07"


def test_break_and_resume_is_one_finished_call() -> None:
    """A `for` over the stream is a fresh generator: `break` does not end a stream; reading on later does."""
    client, _ = sync_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)
    chunks = client.chat.completions.create(**ASK, stream=True)
    for _chunk in chunks:
        break
    assert recorder.calls == []
    list(chunks)
    assert [call.outcome for call in recorder.calls] == ["success"]


def test_close_after_a_few_chunks_is_cancelled() -> None:
    """Arize-ai/openinference#3796: a closed stream is one cancelled call, with what it had said."""
    client, _ = sync_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)
    chunks = client.chat.completions.create(**ASK, stream=True)
    next(chunks)
    next(chunks)
    chunks.close()
    chunks.close()
    (call,) = recorder.calls
    assert (call.outcome, call.answer.id, call.usage) == ("cancelled", "chatcmpl-1", None)


def test_leaving_a_with_block_early_is_cancelled() -> None:
    """openlit/openlit#1515: leaving the block ends the call there and then."""
    client, _ = sync_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)
    with client.chat.completions.create(**ASK, stream=True) as chunks:
        next(chunks)
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def test_leaving_after_the_finish_reason_is_success() -> None:
    """An application that stops at the finish reason has the whole answer."""
    client, _ = sync_client(stream("a"))
    recorder = instrument_in_memory(client)
    with client.chat.completions.create(**ASK, stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices[0].finish_reason:
                break
    assert [call.outcome for call in recorder.calls] == ["success"]


def test_a_stream_never_iterated_ends_with_garbage_collection() -> None:
    """A stream that nobody reads runs no code of its own: it is ended when it is collected."""
    client, _ = sync_client(stream("a"))
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK, stream=True)
    gc.collect()
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def test_a_stream_dropped_half_way_ends_with_garbage_collection() -> None:
    """A stream that was begun and forgotten is ended when it is collected."""
    client, _ = sync_client(stream("a", "b"))
    recorder = instrument_in_memory(client)
    next(client.chat.completions.create(**ASK, stream=True))
    gc.collect()
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def test_error_in_mid_stream_is_an_error() -> None:
    """traceloop/openllmetry#4429: a stream that breaks is an error, with the same exception for the caller."""
    client, _ = sync_client(Reply(events=chat_chunks(["a"])[:2], done=False, drop=True))
    recorder = instrument_in_memory(client)
    with pytest.raises((openai.APIConnectionError, httpx.ReadError)) as caught:
        list(client.chat.completions.create(**ASK, stream=True))
    (call,) = recorder.calls
    assert (call.outcome, call.error_type, call.answer.id) == ("error", type(caught.value).__name__, "chatcmpl-1")


def test_error_event_in_mid_stream_is_an_error() -> None:
    """An error event makes the client raise; the call is an error."""
    events = [*chat_chunks(["a"])[:2], {"error": {"message": "overloaded", "code": "503"}}]
    client, _ = sync_client(Reply(events=events))
    recorder = instrument_in_memory(client)
    with pytest.raises(openai.APIError, match="overloaded"):
        list(client.chat.completions.create(**ASK, stream=True))
    assert recorder.calls[0].outcome == "error"


def test_stream_cut_without_finish_reason_is_truncated() -> None:
    """A stream that ends without finish reason and usage was cut on its way: truncated, and the advice says so."""
    client, _ = sync_client(stream("a", finish_reason=None, usage=False))
    recorder = instrument_in_memory(client)
    list(client.chat.completions.create(**ASK, stream=True))
    (call,) = recorder.calls
    assert (call.outcome, call.usage, call.answer.finish_reasons) == ("truncated", None, ())
    assert call.advice is not None
    assert "without a finish reason" in call.advice


def test_a_stream_with_usage_but_no_finish_reason_is_whole() -> None:
    """Usage comes last: a server that sends it and no finish reason has said all it had to say."""
    client, _ = sync_client(stream("a", finish_reason=None))
    recorder = instrument_in_memory(client)
    list(client.chat.completions.create(**ASK, stream=True))
    assert recorder.calls[0].outcome == "success"


def test_cumulative_usage_takes_the_last() -> None:
    """langfuse/langfuse#8808, BerriAI/litellm#36168: usage repeated on chunks with choices is taken once, the last."""
    events = chat_chunks(["a", "b"], usage=False)
    for number, event in enumerate(events, start=1):
        event["usage"] = {"prompt_tokens": 12, "completion_tokens": number, "total_tokens": 12 + number}
    client, _ = sync_client(Reply(events=events))
    recorder = instrument_in_memory(client)
    assert len(list(client.chat.completions.create(**ASK, stream=True))) == len(events)
    usage = recorder.calls[0].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (12, len(events))


def test_choices_null_in_a_chunk_does_not_crash() -> None:
    """A chunk with `choices: null` reaches the caller as the bare client would give it."""
    events = chat_chunks(["a"])
    events.insert(1, {**events[0], "choices": None})
    client, _ = sync_client(Reply(events=events))
    recorder = instrument_in_memory(client)
    assert None in [chunk.choices for chunk in client.chat.completions.create(**ASK, stream=True)]
    assert recorder.calls[0].outcome == "success"


def test_tool_call_deltas_without_index_are_joined() -> None:
    """Mistral leaves the index out of tool-call deltas; arguments are joined and judged."""
    head = chat_chunks([])[0]

    def delta(**call: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}

    events = [
        delta(id="c1", type="function", function={"name": "f", "arguments": '{"a":'}),
        delta(function={"arguments": " 1}"}),
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    client, _ = sync_client(Reply(events=events))
    recorder = instrument_in_memory(client)
    list(client.chat.completions.create(**ASK, stream=True))
    assert (recorder.calls[0].outcome, recorder.calls[0].answer.finish_reasons) == ("success", ("tool_calls",))


def test_streamed_json_is_judged_whole() -> None:
    """JSON that arrives in pieces inside a fence is `json_fenced`."""
    client, _ = sync_client(stream("```json\n", '{"a": 1}', "\n```"))
    recorder = instrument_in_memory(client)
    list(client.chat.completions.create(**ASK, stream=True, response_format={"type": "json_object"}))
    assert (recorder.calls[0].outcome, recorder.calls[0].json_form) == ("json_fenced", "fenced")


def test_several_streamed_choices_keep_apart() -> None:
    """With `n=2` the choices' texts and finish reasons do not mix."""
    head = chat_chunks([])[0]
    events = [
        {**head, "choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]}
        for index, text, reason in ((0, "a", None), (1, "b", None), (1, "", "length"), (0, "", "stop"))
    ]
    client, _ = sync_client(Reply(events=events))
    recorder = instrument_in_memory(client)
    list(client.chat.completions.create(**ASK, stream=True, n=2))
    assert (recorder.calls[0].answer.finish_reasons, recorder.calls[0].outcome) == (("stop", "length"), "truncated")


class Person(pydantic.BaseModel):
    name: str


def test_stream_helper_read_to_the_end() -> None:
    """`.stream()` gives its events and its final completion; one call, with usage."""
    client, _ = sync_client(stream('{"name": ', '"Ada"}'))
    recorder = instrument_in_memory(client)
    with typed(client).stream(**ASK, response_format=Person) as events:
        for _event in events:
            pass
        assert events.get_final_completion().choices[0].message.parsed == Person(name="Ada")
    (call,) = recorder.calls
    assert (call.outcome, call.json_form) == ("success", "plain")
    assert call.usage is not None


def test_stream_helper_left_early_ends_at_its_exit() -> None:
    """The helper closes the response past the stream's own `close`; the call ends there, cancelled, no error."""
    client, _ = sync_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)
    with typed(client).stream(**ASK) as events:
        next(iter(events))
    assert [(call.outcome, call.error_type) for call in recorder.calls] == [("cancelled", None)]


def test_stream_helper_cut_by_length_is_truncated() -> None:
    """The helper's LengthFinishReasonError reaches the caller; the call is `truncated` and billed."""
    client, _ = sync_client(stream('{"name', finish_reason="length"))
    recorder = instrument_in_memory(client)
    with (
        typed(client).stream(**ASK, response_format=Person) as events,
        pytest.raises(openai.LengthFinishReasonError),
    ):
        for _event in events:
            pass
    assert [call.outcome for call in recorder.calls] == ["truncated"]


def test_raw_stream_parsed_later_is_observed() -> None:
    """`with_raw_response` and `stream=True`: the stream of `.parse()` is observed, the request is as it was."""
    client, canned = sync_client(stream("a", "b"))
    recorder = instrument_in_memory(client)
    raw = client.chat.completions.with_raw_response.create(**ASK, stream=True)
    assert recorder.calls == []
    parsed = raw.parse()
    assert isinstance(parsed, openai.Stream)
    assert len(list(parsed)) == 5
    assert "stream_options" not in canned.bodies[0]
    assert [call.outcome for call in recorder.calls] == ["success"]


def test_raw_stream_read_as_lines_is_recorded() -> None:
    """Azure/azure-sdk-for-python#48646: raw bytes of a stream are the caller's, untouched, and still counted."""
    client, _ = sync_client(stream("a", "b"))
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    (call,) = recorder.calls
    assert (call.outcome, call.answer.output_chars) == ("success", 2)
    assert call.usage is not None


def test_raw_stream_never_parsed_is_cancelled() -> None:
    """A raw response whose stream is never made is ended when it is collected."""
    client, _ = sync_client(stream("a"))
    recorder = instrument_in_memory(client)
    client.chat.completions.with_raw_response.create(**ASK, stream=True)
    gc.collect()
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def test_async_stream_is_recorded() -> None:
    """An async stream is an AsyncStream to the caller and one call to the recorder."""
    client, _ = async_client(stream("a", "b"))
    recorder = instrument_in_memory(client)

    async def go() -> None:
        chunks = await client.chat.completions.create(**ASK, stream=True)
        assert isinstance(chunks, openai.AsyncStream)
        assert [chunk.model_dump() async for chunk in chunks] == _bare_chunks(stream("a", "b", usage=False))

    asyncio.run(go())
    assert [call.outcome for call in recorder.calls] == ["success"]
    assert recorder.calls[0].usage is not None


@pytest.mark.parametrize("how", ["close", "with", "break", "cancel"])
def test_async_stream_left_early(how: str) -> None:
    """openlit/openlit#1369: close, block exit, break and task cancellation each end the call once, cancelled."""
    client, _ = async_client(stream("a", "b", "c"))
    recorder = instrument_in_memory(client)

    async def read() -> None:
        chunks = await client.chat.completions.create(**ASK, stream=True)
        if how == "with":
            async with chunks:
                await chunks.__anext__()
        elif how == "close":
            await chunks.__anext__()
            await chunks.close()
        elif how == "break":
            async for _chunk in chunks:
                break
            del chunks, _chunk
            gc.collect()
            await asyncio.sleep(0.01)
        else:
            async for _chunk in chunks:
                await asyncio.sleep(30)

    async def go() -> None:
        running = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        if how == "cancel":
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            await running
        del running
        gc.collect()
        await asyncio.sleep(0.01)

    asyncio.run(go())
    gc.collect()
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def test_closing_runs_once_for_the_caller_too() -> None:
    """The response's own close still closes: the connection is given back."""
    client, _ = sync_client(stream("a", "b"))
    instrument_in_memory(client)
    chunks = client.chat.completions.create(**ASK, stream=True)
    next(chunks)
    chunks.close()
    assert chunks.response.is_closed


def test_post_with_a_stream_of_its_own_is_observed() -> None:
    """`client.post` reaches the same hook as the resources."""
    client, _ = sync_client(stream("a"), Reply(body=chat_body()))
    recorder = instrument_in_memory(client)
    chunks = client.post(
        "/chat/completions",
        cast_to=openai.types.chat.ChatCompletionChunk,
        body={**ASK, "stream": True},
        stream=True,
        stream_cls=openai.Stream[openai.types.chat.ChatCompletionChunk],
    )
    list(chunks)
    client.post("/chat/completions", cast_to=openai.types.chat.ChatCompletion, body=ASK)
    assert [call.outcome for call in recorder.calls] == ["success", "success"]


@pytest.mark.parametrize("index", [1, 7, None, "a"])
def test_a_choice_of_any_index_is_the_answer(index: Any) -> None:
    """A server that does not count its one choice from 0 gives an answer as any other: no empty choice stands beside it."""
    chunks = chat_chunks(["He", "llo."])
    for chunk in chunks:
        for choice in chunk["choices"]:
            choice["index"] = index
    client, _ = sync_client(Reply(events=chunks))
    recorder = instrument_in_memory(client)
    for _ in client.chat.completions.create(**ASK, stream=True):
        pass
    (call,) = recorder.calls
    assert (call.outcome, call.answer.finish_reasons, call.answer.output_chars) == ("success", ("stop",), 6)


def test_a_stream_whose_first_choice_comes_late_has_it_all_the_same() -> None:
    """Choice 0 is there when its text comes behind another's."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    order = ((1, "b", None), (0, "aa", None), (0, "a", None), (1, "", "stop"), (0, "", "length"))
    chunks = [{**head, "choices": [{"index": i, "delta": {"content": t}, "finish_reason": r}]} for i, t, r in order]
    client, _ = sync_client(Reply(events=chunks))
    recorder = instrument_in_memory(client)
    for _ in client.chat.completions.create(**ASK, stream=True):
        pass
    (call,) = recorder.calls
    assert (call.outcome, call.answer.finish_reasons, call.answer.output_chars) == ("truncated", ("length", "stop"), 4)


def test_more_than_ten_streamed_choices_stay_in_order() -> None:
    """Reasons are told by the number of their choice, not by its first digit."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    reasons = ["stop"] * 12
    reasons[2] = "length"
    chunks = [
        {**head, "choices": [{"index": place, "delta": {"content": "x"}, "finish_reason": reason}]}
        for place, reason in enumerate(reasons)
    ]
    client, _ = sync_client(Reply(events=chunks))
    recorder = instrument_in_memory(client)
    for _ in client.chat.completions.create(**ASK, stream=True):
        pass
    assert recorder.calls[0].answer.finish_reasons == tuple(reasons)

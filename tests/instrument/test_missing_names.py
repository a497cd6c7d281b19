"""Names inside the client that tierwise leans on may go: calls are recorded all the same, and the caller sees nothing."""

from __future__ import annotations

import logging
from typing import Any

import openai
import pytest

from support.canned import ASK, Reply, sync_client
from support.shapes import PLAIN, STREAMED, client_for, read, reply_for
from tierwise.testing import instrument_in_memory

NAMES = ("_build_request", "_sleep_for_retry", "_process_response", "copy", "with_options")
CLASSES: dict[str, type] = {"sync": openai.OpenAI, "async": openai.AsyncOpenAI}
RETRIED = Reply(status=429, body={"error": {}}, headers={"retry-after-ms": "1"})


def _without(original: type, hidden: str) -> type:
    """A subclass that does not show one of its names; the client itself goes on using it, as after a renaming."""

    class Hiding(type(original)):  # type: ignore[misc]
        def __getattribute__(cls, name: str) -> Any:
            if name == hidden:
                raise AttributeError(name)
            return super().__getattribute__(name)

    return Hiding(original.__name__, (original,), {"__module__": original.__module__})


@pytest.mark.parametrize("shape", [*PLAIN, *STREAMED])
@pytest.mark.parametrize("hidden", NAMES)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_name_that_is_gone_costs_only_what_it_told(mode: str, hidden: str, shape: str) -> None:
    """Whichever name is missing and however the answer is read: the bare client's values, and one call with its tokens."""
    bare = read(mode, shape, client_for(mode, RETRIED, reply_for(shape, bare=True), max_retries=1))
    client = client_for(mode, RETRIED, reply_for(shape), max_retries=1, of=_without(CLASSES[mode], hidden))
    recorder = instrument_in_memory(client)
    assert read(mode, shape, client) == bare
    (call,) = recorder.calls
    assert (call.outcome, call.answer.id, call.duration_s > 0) == ("success", "chatcmpl-1", True)
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (12, 5)
    assert (call.retries, len(call.failed_tries)) == ((0, 0) if hidden == "_sleep_for_retry" else (1, 1))
    assert [span.ended for span in recorder.spans] == [1]
    assert recorder.errors == []


@pytest.mark.parametrize("hidden", NAMES)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_missing_name_is_told_once(mode: str, hidden: str, caplog: pytest.LogCaptureFixture) -> None:
    """One warning a class, which names the client and what it lacks, however many clients and calls there are."""
    original = _without(CLASSES[mode], hidden)
    with caplog.at_level(logging.WARNING, logger="tierwise"):
        for _ in range(2):
            client = client_for(mode, reply_for("create"), of=original)
            recorder = instrument_in_memory(client)
            read(mode, "create", client)
            read(mode, "create", client)
            assert len(recorder.calls) == 2
    (record,) = caplog.records
    assert f"{original.__name__} has no {hidden}" in record.getMessage()


@pytest.mark.parametrize("hidden", ["copy", "with_options"])
def test_the_other_name_of_a_copy_still_works(hidden: str) -> None:
    """`copy` and `with_options` are one function under two names: either is enough for a copy to be observed."""
    client = client_for("sync", reply_for("create"), of=_without(openai.OpenAI, hidden))
    recorder = instrument_in_memory(client, task="copied")
    left = {"copy", "with_options"} - {hidden}
    copied = getattr(client, left.pop())(timeout=5)
    read("sync", "create", copied)
    assert [call.task for call in recorder.calls] == ["copied"]


class Renamed(openai.Stream[openai.types.chat.ChatCompletionChunk]):
    """A stream that keeps its iterator under another name, as a later client might."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._other_name = self.__dict__.pop("_iterator")

    def __next__(self) -> Any:
        return next(self._other_name)

    def __iter__(self) -> Any:
        yield from self._other_name


def test_a_stream_without_its_private_iterator_is_the_callers_all_the_same() -> None:
    """Where a stream cannot be observed no usage is asked for, since its chunk could not be kept back; the call is read
    along with its bytes."""

    def chunks_of(client: Any) -> list[Any]:
        chunk = openai.types.chat.ChatCompletionChunk
        body = {**ASK, "stream": True}
        chunks = client.post("/chat/completions", cast_to=chunk, body=body, stream=True, stream_cls=Renamed)
        return [one.model_dump() for one in chunks]

    bare = chunks_of(sync_client(reply_for("stream", bare=True))[0])
    client, canned = sync_client(reply_for("stream", bare=True))
    recorder = instrument_in_memory(client)
    assert chunks_of(client) == bare
    assert "stream_options" not in canned.bodies[0]
    (call,) = recorder.calls
    assert (call.outcome, call.answer.output_chars > 0) == ("success", True)
    assert [where for where, _ in recorder.errors] == ["attach"]

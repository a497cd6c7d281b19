"""Background responses: one call from creation to collection, billed once; other requests for responses are no calls."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from openai.resources.responses import Responses

import tierwise
from support.canned import Reply, async_client, sync_client
from tierwise.instrument import background
from tierwise.instrument.background import OpenResponses, open_responses, response_id_of
from tierwise.testing import instrument_in_memory

ASK: dict[str, Any] = {"model": "gpt-5-mini", "input": "Say hello.", "background": True}


pytestmark = pytest.mark.skipif(
    "background" not in inspect.signature(Responses.create).parameters,
    reason="this openai has no background responses yet",
)


@pytest.fixture(autouse=True)
def nothing_open() -> Any:
    """Each test starts and ends without open responses."""
    open_responses.give_up()
    yield
    open_responses.give_up()


def _response(status: str, **changes: Any) -> Reply:
    text = {"type": "output_text", "text": "Hello.", "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    done = status == "completed"
    return Reply(
        body={
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": "gpt-5-mini-2025-08-07",
            "status": status,
            "background": True,
            "output": [message] if done else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17} if done else None,
        }
        | changes
    )


def test_a_background_response_is_billed_once_when_it_is_collected() -> None:
    """Polling ends the call at the first final status; further retrieves of the same id count nothing."""
    client, _ = sync_client(_response("queued"), _response("in_progress"), _response("completed"))
    recorder = instrument_in_memory(client)
    with tierwise.task("report", run_id="r"):
        made = client.responses.create(**ASK)
    assert recorder.calls == []
    assert client.responses.retrieve(made.id).status == "in_progress"
    assert recorder.calls == []
    assert client.responses.retrieve(made.id).output_text == "Hello."
    for _ in range(3):
        client.responses.retrieve(made.id)
    (call,) = recorder.calls
    assert (call.outcome, call.task, call.answer.finish_reasons) == ("success", "report", ("stop",))
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (12, 5)
    assert [span.ended for span in recorder.spans] == [1]
    assert [run.calls for run in recorder.runs] == [1]


def test_another_client_may_collect() -> None:
    """The collecting client may be another one of the process, raw and asynchronous."""
    client, _ = sync_client(_response("queued"))
    recorder = instrument_in_memory(client)
    made = client.responses.create(**ASK)
    other, _ = async_client(_response("completed"))
    instrument_in_memory(other, recorder=recorder)

    async def go() -> None:
        raw = await other.responses.with_raw_response.retrieve(made.id)
        assert raw.parse().status == "completed"

    asyncio.run(go())
    assert [call.outcome for call in recorder.calls] == ["success"]


def test_a_response_made_elsewhere_is_no_call() -> None:
    """Retrieving a stored response that this process did not create bills nothing."""
    client, _ = sync_client(_response("completed"))
    recorder = instrument_in_memory(client)
    client.responses.retrieve("resp_other")
    assert (recorder.calls, recorder.spans) == ([], [])


def test_input_items_and_their_pages_are_no_calls() -> None:
    """Listing the input items of an open response, over two pages, neither counts nor ends it."""
    item = {"id": "i", "type": "message", "role": "user", "content": []}
    page = {"object": "list", "data": [item], "has_more": True, "first_id": "i", "last_id": "i"}
    client, _ = sync_client(_response("queued"), Reply(body=page), Reply(body={**page, "has_more": False}))
    recorder = instrument_in_memory(client)
    client.responses.create(**ASK)
    assert len(list(client.responses.input_items.list("resp_1"))) == 2
    assert recorder.calls == []
    assert open_responses


def test_a_failing_poll_keeps_the_call_open() -> None:
    """A poll that raises is not the end of the response."""
    client, _ = sync_client(_response("queued"), Reply(status=500, body={}), _response("completed"))
    recorder = instrument_in_memory(client)
    client.responses.create(**ASK)
    with pytest.raises(Exception, match="500"):
        client.responses.retrieve("resp_1")
    client.responses.retrieve("resp_1")
    assert [call.outcome for call in recorder.calls] == ["success"]


@pytest.mark.parametrize(
    ("end", "outcome", "error_type"),
    [
        (_response("failed", error={"code": "server_error", "message": "no"}), "error", "server_error"),
        (_response("incomplete", incomplete_details={"reason": "max_output_tokens"}), "truncated", None),
        (_response("cancelled"), "cancelled", None),
    ],
)
def test_other_ends_of_a_background_response(end: Reply, outcome: str, error_type: str | None) -> None:
    """Failed, incomplete and cancelled responses end their call with that outcome."""
    client, _ = sync_client(_response("queued"), end)
    recorder = instrument_in_memory(client)
    client.responses.create(**ASK)
    client.responses.retrieve("resp_1")
    assert [(call.outcome, call.error_type) for call in recorder.calls] == [(outcome, error_type)]


def test_cancelling_ends_the_call() -> None:
    """`responses.cancel` ends the open call as cancelled."""
    client, _ = sync_client(_response("in_progress"), _response("cancelled"))
    recorder = instrument_in_memory(client)
    client.responses.create(**ASK)
    client.responses.cancel("resp_1")
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def _events(*, final: bool) -> Reply:
    created = _response("in_progress").body
    events = [
        {"type": "response.created", "sequence_number": 0, "response": created},
        {
            "type": "response.output_text.delta", "sequence_number": 1, "item_id": "m", "output_index": 0,
            "content_index": 0, "delta": "Hello.", "logprobs": [],
        },
    ]  # fmt: skip
    if final:
        events.append({"type": "response.completed", "sequence_number": 2, "response": _response("completed").body})
    return Reply(events=events, done=False)


def test_a_background_stream_may_be_resumed() -> None:
    """Leaving a background stream keeps the call open; the resumed stream ends it, once."""
    client, _ = sync_client(_events(final=False), _events(final=True))
    recorder = instrument_in_memory(client)
    with client.responses.create(**ASK, stream=True) as stream:
        for _event in stream:
            break
    assert recorder.calls == []
    resumed = client.responses.retrieve("resp_1", stream=True, starting_after=1)
    assert [event.type for event in resumed][-1] == "response.completed"
    (call,) = recorder.calls
    assert (call.outcome, call.answer.id) == ("success", "resp_1")
    assert call.usage is not None


def test_a_background_stream_read_to_its_end_needs_no_collecting() -> None:
    """The final event ends the call; nothing stays open."""
    client, _ = sync_client(_events(final=True))
    recorder = instrument_in_memory(client)
    list(client.responses.create(**ASK, stream=True))
    assert [call.outcome for call in recorder.calls] == ["success"]
    assert not open_responses


def test_the_oldest_open_response_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """More open responses than the bound: the oldest is abandoned, which is cancelled, and its span ends."""
    monkeypatch.setattr(background, "MAX_OPEN", 2)
    replies = [_response("queued", id=f"resp_{number}") for number in range(3)]
    client, _ = sync_client(*replies)
    recorder = instrument_in_memory(client)
    for _ in range(3):
        client.responses.create(**ASK)
    assert [(call.outcome, call.usage) for call in recorder.calls] == [("cancelled", None)]
    open_responses.give_up()
    assert [call.outcome for call in recorder.calls] == ["cancelled"] * 3
    assert [span.ended for span in recorder.spans] == [1, 1, 1]


def test_which_requests_name_a_stored_response() -> None:
    """Only retrieve and cancel name one; lists, compaction and creation do not."""
    assert response_id_of("get", "/responses/resp_1") == "resp_1"
    assert response_id_of("get", "/openai/v1/responses/resp_1?stream=true") == "resp_1"
    assert response_id_of("post", "/responses/resp_1/cancel") == "resp_1"
    for method, url in (
        ("get", "/responses/resp_1/input_items"),
        ("post", "/responses"),
        ("post", "/responses/compact"),
        ("delete", "/responses/resp_1"),
        ("get", "/models"),
    ):
        assert response_id_of(method, url) is None
    assert not OpenResponses()

"""HTTP 200 with JSON that is not what the API answers with: an error with a name, never an empty answer."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from support.canned import ASK, Reply, sync_client
from tierwise.core.call import Call
from tierwise.instrument.dialects.responses import Responses
from tierwise.testing import chat_body, instrument_in_memory

NO_OBJECTS = ["[]", "123", "null", "true", '[{"choices": []}]']


def _call(body: str, ask: Any) -> Call:
    client, _ = sync_client(Reply(body=body, headers={"content-type": "application/json"}))
    recorder = instrument_in_memory(client)
    ask(client)
    (call,) = recorder.calls
    assert recorder.errors == []
    return call


def _chat(client: openai.OpenAI) -> None:
    client.chat.completions.create(**ASK)


def _raw_chat(client: openai.OpenAI) -> None:
    client.chat.completions.with_raw_response.create(**ASK)


def _completions(client: openai.OpenAI) -> None:
    client.completions.create(model="m", prompt="x")


def _responses(client: openai.OpenAI) -> None:
    client.responses.create(model="m", input="x")


def _embeddings(client: openai.OpenAI) -> None:
    client.embeddings.with_raw_response.create(model="m", input="x")


@pytest.mark.parametrize("ask", [_chat, _raw_chat, _completions])
@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"choices": "abc"}',
        '{"choices": {}}',
        '{"choices": null}',
        '{"choices": ["abc"]}',
        '{"choices": [null, 1]}',
        '{"id": "x", "model": "m"}',
        '{"status": "ok"}',
        *NO_OBJECTS,
    ],
)
def test_a_body_without_choices_is_malformed(body: str, ask: Any) -> None:
    """Without a list of choices nothing was answered, whatever the status says."""
    call = _call(body, ask)
    assert (call.outcome, call.error_type) == ("error", "malformed")


@pytest.mark.parametrize(
    "body", ["{}", '{"output": "abc"}', '{"output": ["abc"]}', '{"id": "r", "status": "completed"}', *NO_OBJECTS]
)
def test_a_response_without_output_is_malformed(body: str) -> None:
    """The responses API answers with a list of output items."""
    call = _call(body, _responses)
    assert (call.outcome, call.error_type) == ("error", "malformed")


@pytest.mark.parametrize("body", ["{}", '{"data": "abc"}', '{"data": {}}', *NO_OBJECTS])
def test_embeddings_without_data_are_malformed(body: str) -> None:
    """Embeddings come as a list of data."""
    call = _call(body, _embeddings)
    assert (call.outcome, call.error_type) == ("error", "malformed")


@pytest.mark.parametrize(
    ("ask", "body", "outcome"),
    [
        (_chat, chat_body() | {"choices": []}, "empty"),
        (_chat, chat_body() | {"choices": None}, "empty"),
        (_chat, {"choices": []}, "empty"),
        (_chat, {"id": "x", "choices": [{"message": None}]}, "empty"),
        (_responses, {"id": "r", "status": "completed", "output": []}, "empty"),
        (_responses, {"id": "r", "status": "completed", "output": None}, "empty"),
        (_responses, {"id": "r", "status": "incomplete"}, "truncated"),
        (_embeddings, {"data": [], "model": "m"}, "success"),
        (_embeddings, {"data": [{"index": 0, "embedding": "AAAA"}]}, "success"),
    ],
)
def test_an_answer_of_nothing_is_no_error(ask: Any, body: dict[str, Any], outcome: str) -> None:
    """An empty list, or null in a body that says what it is, is an answer; a response may be cut before any output."""
    call = _call(json.dumps(body), ask)
    assert (call.outcome, call.error_type) == (outcome, None)


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ({"error": {"code": 502, "message": "upstream"}}, "502"),
        ({"error": {"type": "overloaded"}, "choices": None, "id": "x"}, "overloaded"),
        ({"error": {"code": "busy"}, "choices": []}, "busy"),
        ({"error": {"code": "busy"}, "choices": "abc"}, "busy"),
        ({"error": "something went wrong"}, "_OTHER"),
        ({"error": None}, "malformed"),
    ],
)
@pytest.mark.parametrize("ask", [_chat, _raw_chat, _completions])
def test_an_error_object_names_the_error(body: dict[str, Any], error_type: str, ask: Any) -> None:
    """What the server calls its error is kept."""
    call = _call(json.dumps(body), ask)
    assert (call.outcome, call.error_type) == ("error", error_type)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_pending_response_needs_no_output(status: str) -> None:
    """A response that is still being made may leave its output out; an error in it counts all the same."""
    body = {"id": "r", "status": status}
    assert Responses().response(body).error_type is None
    assert Responses().response(body | {"error": {"code": "busy"}}).error_type == "busy"


@pytest.mark.parametrize("ask", [_responses, _embeddings])
def test_an_error_object_names_the_error_elsewhere(ask: Any) -> None:
    """The other APIs keep the server's name of the error too."""
    call = _call('{"error": {"code": "busy"}, "output": null, "data": null}', ask)
    assert (call.outcome, call.error_type) == ("error", "busy")


def test_an_answer_beside_an_error_is_an_answer() -> None:
    """An error field next to usable choices changes nothing."""
    call = _call(json.dumps(chat_body() | {"error": {"code": "late"}}), _chat)
    assert (call.outcome, call.error_type) == ("success", None)


def test_text_that_is_no_json_keeps_its_name() -> None:
    """A page of HTML is `not_json`, not `malformed`."""
    client, _ = sync_client(Reply(body="<html>busy</html>", headers={"content-type": "text/html"}))
    recorder = instrument_in_memory(client)
    _chat(client)
    assert [(call.outcome, call.error_type) for call in recorder.calls] == [("error", "not_json")]

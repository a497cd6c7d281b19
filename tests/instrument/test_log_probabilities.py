"""Mean log probability of an answer: read from every API that reports it, plain and streamed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import tierwise
from support.canned import ASK, Reply, sync_client
from tierwise.core.call import Call
from tierwise.core.checks import min_confidence
from tierwise.instrument.checks import forget_checks
from tierwise.instrument.dialects.chat import Chat
from tierwise.instrument.dialects.completions import Completions
from tierwise.instrument.dialects.responses import Responses
from tierwise.instrument.dialects.values import mean_of, token_logprobs
from tierwise.testing import chat_body, chat_chunks, instrument_in_memory


def _listed(*values: Any) -> dict[str, Any]:
    return {"content": [{"token": "x", "logprob": value, "bytes": None, "top_logprobs": []} for value in values]}


def _chat(*values: float) -> dict[str, Any]:
    body = chat_body()
    body["choices"][0]["logprobs"] = _listed(*values)
    return body


def _chunks(*values: float) -> list[dict[str, Any]]:
    chunks = copy.deepcopy(chat_chunks(["word"] * len(values)))
    for chunk, value in zip(chunks[1:], values, strict=False):
        chunk["choices"][0]["logprobs"] = _listed(value)
    return chunks


def _calls(reply: Reply, least: float, **more: Any) -> list[Call]:
    tierwise.check("t")(min_confidence(logprob=least))
    client, _ = sync_client(reply)
    recorder = instrument_in_memory(client, task="t")
    answer = client.chat.completions.create(**ASK, **more)
    if more.get("stream"):
        list(answer)
    forget_checks()
    return recorder.calls


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("least", "outcome"), [(-0.5, "success"), (-0.3, "check_failed")])
def test_confidence_in_log_probabilities_decides(stream: bool, least: float, outcome: str) -> None:
    """`min_confidence(logprob=)` compares the mean of the tokens, of whole answers and of streams."""
    reply = Reply(events=_chunks(-0.2, -0.6)) if stream else Reply(body=_chat(-0.2, -0.6))
    (call,) = _calls(reply, least, stream=stream)
    assert call.outcome == outcome
    assert [check.name for check in call.checks] == ["min_confidence(logprob)"]


@pytest.mark.parametrize("stream", [False, True])
def test_without_log_probabilities_the_check_does_not_apply(stream: bool) -> None:
    """An answer without log probabilities is neither sure nor unsure."""
    reply = Reply(events=chat_chunks(["a", "b"])) if stream else Reply(body=chat_body())
    (call,) = _calls(reply, -0.1, stream=stream)
    assert (call.outcome, call.checks) == ("success", ())


def test_streamed_choices_have_means_of_their_own() -> None:
    """Log probabilities of interleaved choices are not mixed, and the text beside them is whole."""
    reader = Chat().stream()
    for index, value in ((0, -1.0), (1, -3.0), (0, -2.0), (1, -5.0)):
        reader.see(
            {
                "id": "c",
                "model": "m",
                "choices": [{"index": index, "delta": {"content": "x"}, "logprobs": _listed(value)}],
            }
        )
    choices = reader.reading().choices
    assert [(choice.text, choice.mean_logprob) for choice in choices] == [("xx", -1.5), ("xx", -4.0)]


def test_legacy_completions_have_a_mean() -> None:
    """`token_logprobs` of text completions is read, whole and streamed; the first token's null is left out."""
    choice = {"index": 0, "text": "ab", "finish_reason": "stop", "logprobs": {"token_logprobs": [None, -1.0, -2.0]}}
    body = {"id": "c", "model": "m", "choices": [choice]}
    dialect = Completions()
    assert dialect.response(body).choices[0].mean_logprob == -1.5
    reader = dialect.stream()
    reader.see(body)
    reader.see(body)
    assert reader.reading().choices[0].mean_logprob == -1.5


def test_responses_have_a_mean_over_their_parts() -> None:
    """Text parts of a response carry their tokens' log probabilities, whole and in the final event."""
    parts = [
        {"type": "output_text", "text": "a", "logprobs": [{"logprob": -1.0}]},
        {"type": "output_text", "text": "b", "logprobs": [{"logprob": -2.0}, {"logprob": -6.0}]},
        {"type": "output_text", "text": "c", "logprobs": []},
    ]
    body = {"id": "r", "model": "m", "status": "completed", "output": [{"type": "message", "content": parts}]}
    dialect = Responses()
    assert dialect.response(body).choices[0].mean_logprob == -3.0
    reader = dialect.stream()
    reader.see({"type": "response.completed", "response": body})
    assert reader.reading().choices[0].mean_logprob == -3.0


@pytest.mark.parametrize(
    "value",
    [
        None,
        "x",
        -0.5,
        [],
        {},
        [None, "x", {}, {"logprob": "x"}, {"logprob": True}, {"logprob": float("nan")}, {"logprob": 10**400}],
        {"content": None, "refusal": []},
        {"content": "x", "token_logprobs": "x"},
        {"token_logprobs": [None, "x", float("-inf")]},
        {"token_logprobs": [-1e308, -1e308]},
    ],
)
def test_odd_log_probabilities_are_none(value: object) -> None:
    """Whatever a server puts there, the mean is a finite number or nothing."""
    assert mean_of(token_logprobs(value)) is None
    body = chat_body()
    body["choices"][0]["logprobs"] = value
    assert Chat().response(body).choices[0].mean_logprob is None

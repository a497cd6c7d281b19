"""Candidates with clients of their own: upstreams, base URLs, keys that stay where they belong; and token limits."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import types
from typing import Any

import openai
import pytest

import tierwise
from support.canned import ASK, async_client, chat, httpx, stream, sync_client
from support.routing import AUTO, MESSAGES, policy, routed
from tierwise.core.errors import ConfigError
from tierwise.core.policy import ModelSpec, Policy, TaskPolicy
from tierwise.instrument.limits import MIN_SEEN, OutputLimits
from tierwise.testing import MemoryRecorder, instrument_in_memory

HERE = {"there": ModelSpec(name="there", model="vendor/model", upstream="up", params={"temperature": 0})}


def test_a_candidate_is_asked_at_its_upstream() -> None:
    """Request, key and address are the upstream's; the call names its provider; the client given stays untouched."""
    other, canned = sync_client(chat("Hi."), base_url="https://api.groq.com/openai/v1")
    made = routed(chat(), policy=policy("there", models=HERE), upstreams={"up": other})
    answer = made.client.chat.completions.create(**AUTO)
    assert type(answer) is openai.types.chat.ChatCompletion
    assert canned.bodies == [{"model": "vendor/model", "messages": MESSAGES, "temperature": 0}]
    assert made.canned.bodies == []
    (call,) = made.recorder.calls
    assert (call.candidate, call.request.provider, call.request.model) == ("there", "groq", "vendor/model")
    assert type(other) is openai.OpenAI
    other.chat.completions.create(**ASK)
    assert len(made.recorder.calls) == 1


def test_retries_and_streams_of_an_upstream_are_observed() -> None:
    """What the upstream's client does is seen as on the client itself."""
    limited = chat()
    limited.status, limited.body, limited.headers = 429, {"error": {}}, {"retry-after-ms": "1"}
    other, _ = sync_client(limited, stream("Hi"), max_retries=1)
    made = routed(chat(), policy=policy("there", models=HERE), upstreams={"up": other}, stream_usage=True)
    chunks = list(made.client.chat.completions.create(**AUTO, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hi", None]
    (call,) = made.recorder.calls
    assert (call.retries, call.usage is not None, call.chunks > 1) == (1, True, True)


def test_asynchronous_upstreams() -> None:
    """An asynchronous client has asynchronous upstreams."""

    async def go() -> None:
        other, canned = async_client(chat("Hi."))
        made = routed(chat(), policy=policy("there", models=HERE), upstreams={"up": other}, asynchronous=True)
        await made.client.chat.completions.create(**AUTO)
        assert [body["model"] for body in canned.bodies] == ["vendor/model"]

    asyncio.run(go())


def test_the_callers_keys_do_not_go_to_an_upstream() -> None:
    """Headers with keys of this one request are for the host they were given for."""
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return httpx.Response(200, json=chat().body, request=request)

    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(answer))
    other = openai.OpenAI(api_key="sk-up", base_url="https://up.example/v1", http_client=http)
    made = routed(chat(), policy=policy("there", models=HERE), upstreams={"up": other})
    headers = {"Authorization": "Bearer secret", "X-Trace": "1", "api-key": "secret"}
    made.client.chat.completions.create(**AUTO, extra_headers=headers)
    assert str(seen[0].url) == "https://up.example/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer sk-up"
    assert (seen[0].headers["x-trace"], seen[0].headers.get("api-key")) == ("1", None)


def test_a_base_url_of_the_policy_gets_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the variable that the policy names, never from the client."""
    monkeypatch.setenv("LOCAL_KEY", "sk-local")
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return httpx.Response(200, json=chat().body, request=request)

    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(answer))
    client = openai.OpenAI(api_key="sk-secret", organization="org-secret", http_client=http)
    models = {
        name: ModelSpec(name=name, model=name, base_url=f"http://{name}:8000/v1", api_key_env=key)
        for name, key in (("keyed", "LOCAL_KEY"), ("free", None))
    }
    tasks = {name: TaskPolicy(task=name, candidates=(name,)) for name in models}
    recorder = instrument_in_memory(client, policy=Policy(tasks=tasks, models=models))
    for name in models:
        with tierwise.task(name):
            client.chat.completions.create(**AUTO)
    assert [str(request.url) for request in seen] == [
        "http://keyed:8000/v1/chat/completions", "http://free:8000/v1/chat/completions",
    ]  # fmt: skip
    assert [request.headers["authorization"] for request in seen] == ["Bearer sk-local", "Bearer none"]
    assert not any("secret" in str(request.headers.raw) for request in seen)
    assert [call.request.server_address for call in recorder.calls] == ["keyed", "free"]


def test_a_client_of_another_package_stands_behind_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groq's own client, say: its key and address are taken over, the answer is of the caller's package."""
    package = types.ModuleType("groq")
    monkeypatch.setitem(sys.modules, "groq", package)
    kind = type("Groq", (openai.OpenAI,), {"__module__": "groq._client"})
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return httpx.Response(200, json=chat("Hi.").body, request=request)

    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(answer))
    client = openai.OpenAI(api_key="sk-secret", http_client=http)
    other = kind(api_key="gsk", base_url="https://api.groq.com")
    recorder = instrument_in_memory(client, policy=policy("there", models=HERE), upstreams={"up": other}, task="t")
    answered = client.chat.completions.create(**AUTO)
    assert type(answered) is openai.types.chat.ChatCompletion
    assert str(seen[0].url) == "https://api.groq.com/openai/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer gsk"
    assert recorder.calls[0].request.provider == "groq"


def test_a_missing_upstream_is_passed_over_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A candidate that cannot be asked is left out; the log says what to pass."""
    made = routed(chat("Hi."), policy=policy("there", "deep", models=HERE))
    with caplog.at_level(logging.WARNING, "tierwise"):
        for _ in range(3):
            made.client.chat.completions.create(**AUTO)
    assert made.told == [("deep", "fallback", 0, "success")] * 3
    (record,) = caplog.records
    assert "no upstream 'up' for candidate 'there'" in record.getMessage()


def test_where_nobody_can_be_asked_the_default_model_is() -> None:
    """No candidate has a client: the request goes out once, with a name that the policy knows."""
    made = routed(chat("Hi."), policy=policy("there", models=HERE))
    made.client.chat.completions.create(**AUTO)
    assert made.asked == ["there"]


def test_wrong_upstreams_raise_when_instrumenting(tmp_path: Any) -> None:
    """What is no client, or of the other kind, is wrong configuration."""
    client, _ = sync_client(chat())
    for upstream, words in ((object(), "no request"), (async_client(chat())[0], "is asynchronous, the client sync")):
        with pytest.raises(ConfigError, match=words):
            tierwise.instrument(client, store="off", upstreams={"up": upstream})
    assert type(client) is openai.OpenAI


def test_clients_made_later_are_routed_and_lanes_are_not_taken_for_them() -> None:
    """A lane's client is no client of the application's, although it is made by the same class."""
    other, canned = sync_client(chat("Hi."))
    try:
        tierwise.instrument(config=policy("there", models=HERE), store="off", upstreams={"up": other})
        client, _ = sync_client(chat())
        with tierwise.task("t"):
            assert client.chat.completions.create(**AUTO).choices[0].message.content == "Hi."
        assert len(canned.bodies) == 1
    finally:
        tierwise.uninstrument()
        tierwise.shutdown()


# -- token limits ------------------------------------------------------------------------------------------------------


def _answers(tokens: int) -> Any:
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    return chat("Hi", usage=usage)


@pytest.mark.parametrize("raises", [False, True])
def test_a_limit_that_would_cut_answers_is_said_once(caplog: pytest.LogCaptureFixture, raises: bool) -> None:
    """After enough whole answers a smaller limit is warned of with the number to use, and raised where that is allowed."""
    made = routed(_answers(180), policy=policy("fast", raise_max_tokens=raises))
    create = made.client.chat.completions.create
    with caplog.at_level(logging.WARNING, "tierwise"):
        for _ in range(MIN_SEEN):
            create(**AUTO, max_tokens=64)
        assert caplog.records == []
        for _ in range(3):
            create(**AUTO, max_tokens=64)
        create(**AUTO, max_tokens=400)
    (record,) = caplog.records
    assert "task t: max_tokens=64 would cut answers, 99 % of them take up to 180 tokens" in record.getMessage()
    assert ("raised" if raises else "use max_tokens=180") in record.getMessage()
    assert [body["max_tokens"] for body in made.canned.bodies[-4:]] == [180 if raises else 64] * 3 + [400]


def _wait_for_earlier_answers() -> None:
    for thread in threading.enumerate():
        if thread.name == "tierwise-limits":
            thread.join(30)


def test_limits_begin_with_what_the_store_knows(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A new process warns of its first call's limit, named or not: earlier ones' whole answers are in the store."""
    store = tmp_path / "tierwise.db"

    def client() -> tuple[Any, Any]:
        made, canned = sync_client(_answers(180))
        return tierwise.instrument(made, config=policy("fast", raise_max_tokens=True), store=store, task="t"), canned

    try:
        create = client()[0].chat.completions.create
        for _ in range(MIN_SEEN):
            create(model="fast", messages=MESSAGES)
        tierwise.shutdown()  # the next client is another process's, as far as limits are known
        later, canned = client()
        limits = later.__dict__["_tierwise"].wiring.limits
        with caplog.at_level(logging.WARNING, "tierwise"):
            later.chat.completions.create(**AUTO, max_tokens=64)
            _wait_for_earlier_answers()
            assert limits.p99("t") == 180
            later.chat.completions.create(**AUTO, max_tokens=64)
        (record,) = caplog.records
        assert "task t: max_tokens=64 would cut answers" in record.getMessage()
        assert canned.bodies[-1]["max_tokens"] == 180
    finally:
        tierwise.shutdown()


def test_a_store_that_cannot_be_read_leaves_limits_to_this_process() -> None:
    """What fails on the way to earlier answers is no call's concern."""

    def broken() -> Any:
        raise OSError("gone")

    limits = OutputLimits(broken)
    assert limits.enough("t", 10, raises=True) is None
    _wait_for_earlier_answers()
    for _ in range(MIN_SEEN):
        limits.add("t", 50)
    assert limits.enough("t", 10, raises=True) == 50


def test_answers_that_a_limit_cut_say_nothing() -> None:
    """Their length is the limit's, not the task's."""
    made = routed(
        chat("Hi", finish_reason="length", usage={"prompt_tokens": 1, "completion_tokens": 64, "total_tokens": 65}),
        policy=policy("fast"),
    )
    for _ in range(MIN_SEEN + 1):
        made.client.chat.completions.create(**AUTO, max_tokens=64)
    limits = made.client.__dict__["_tierwise"].wiring.limits
    assert limits.p99("t") is None


def test_the_recorder_is_shared_by_all_lanes() -> None:
    """Calls of every upstream come out in one recorder."""
    other, _ = sync_client(chat())
    recorder = MemoryRecorder()
    client, _ = sync_client(chat())
    models = {**HERE, "here": ModelSpec(name="here", model="m")}
    tasks = {name: TaskPolicy(task=name, candidates=(name,)) for name in models}
    instrument_in_memory(client, policy=Policy(tasks=tasks, models=models), upstreams={"up": other}, recorder=recorder)
    for name in models:
        with tierwise.task(name):
            client.chat.completions.create(**AUTO)
    assert [call.candidate for call in recorder.calls] == ["there", "here"]

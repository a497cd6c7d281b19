"""`model="auto"`: who is asked, with what, as which arm, in each way of calling; and who takes over after an error."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import tierwise
from support.canned import Reply, chat, httpx, stream, sync_client, typed
from support.routing import AUTO, MESSAGES, policy, routed, table, task_policy
from tierwise.core.errors import RouteError
from tierwise.core.policy import Condition, ModelSpec, Policy
from tierwise.core.route import Canary

TWO = policy("fast", "deep")
ERROR: dict[str, Any] = {"error": {"message": "no", "type": "server_error", "code": None}}


def error(status: int) -> Reply:
    """An error answer."""
    return Reply(status=status, body=ERROR)


class Out(BaseModel):
    """A parsed type."""

    a: int


def test_auto_takes_the_first_candidate_without_a_route() -> None:
    """The request names the candidate; the call is the primary's, and a run of its own as any single call is."""
    made = routed(chat("Hi."), policy=TWO)
    answer = made.client.chat.completions.create(**AUTO, temperature=0.5)
    assert type(answer) is openai.types.chat.ChatCompletion
    assert made.canned.bodies == [{"model": "fast", "messages": MESSAGES, "temperature": 0.5}]
    (call,) = made.recorder.calls
    assert (call.candidate, call.arm, call.rung, call.propensity, call.route_version) == ("fast", "primary", 0, 1.0, 0)
    assert call.grade == "randomised"
    assert (call.context.run_id, made.recorder.runs, made.recorder.run_spans) == (None, [], [])


def test_auto_follows_the_route() -> None:
    """The primary of the table, its version on the call."""
    made = routed(chat(), policy=TWO, routes=table(primary="deep"))
    made.client.chat.completions.create(**AUTO)
    assert made.asked == ["deep"]
    assert made.recorder.calls[0].route_version == 7


def test_the_arguments_of_the_caller_stay_as_they_are() -> None:
    """No list, mapping or header of the caller's is changed."""
    given: dict[str, Any] = {**AUTO, "extra_body": {"top_k": 3}, "extra_headers": {"X-A": "b"}}
    kept = repr(given)
    made = routed(chat(), policy=policy("fast", models={"fast": ModelSpec(name="fast", model="f", params={"seed": 1})}))
    made.client.chat.completions.create(**given)
    assert repr(given) == kept
    assert made.canned.bodies == [{"model": "f", "messages": MESSAGES, "top_k": 3, "seed": 1}]


def test_explicit_models_are_left_alone() -> None:
    """A named model, also by `extra_body`, is pinned, outside of every run."""
    made = routed(chat(), policy=TWO)
    made.client.chat.completions.create(model="other", messages=MESSAGES)
    made.client.chat.completions.create(**AUTO, extra_body={"model": "third"})
    assert made.asked == ["other", "third"]
    assert made.told == [("other", "pinned", 0, "success"), ("third", "pinned", 0, "success")]
    assert made.recorder.runs == []
    assert made.recorder.calls[0].route_version is None


def test_auto_in_extra_body_is_routed() -> None:
    """`extra_body` wins over `model=`, as it does at the client."""
    made = routed(chat(), policy=TWO)
    made.client.chat.completions.create(model="x", messages=MESSAGES, extra_body={"model": "auto"})
    assert made.asked == ["fast"]


def test_arms_share_the_traffic_as_the_route_says_and_stay_with_a_run() -> None:
    """Primary, canary and explorers by their shares; the calls of one run id go to one candidate."""
    routes = table(
        primary="fast", canary=Canary(candidate="deep", share=0.3), propensities={"fast": 0.6, "deep": 0.3, "new": 0.1}
    )
    made = routed(chat(), policy=policy("fast", "deep", "new"), routes=routes)
    for _ in range(300):
        made.client.chat.completions.create(**AUTO)
    arms = [(call.candidate, call.arm, call.propensity) for call in made.recorder.calls]
    assert set(arms) == {("fast", "primary", 0.6), ("deep", "canary", 0.3), ("new", "explore", 0.1)}
    assert 130 < sum(arm == "primary" for _, arm, _ in arms) < 230
    made.canned.bodies.clear()
    for number in range(10):
        with tierwise.task("t", run_id=f"r{number}"):
            for _ in range(3):
                made.client.chat.completions.create(**AUTO)
    assert all(len(set(made.asked[place : place + 3])) == 1 for place in range(0, 30, 3))
    assert len(set(made.asked)) > 1
    assert [run.calls for run in made.recorder.runs[-10:]] == [3] * 10


@pytest.mark.parametrize("how", ["task", "policy"])
def test_routing_can_be_turned_off(how: str) -> None:
    """Of a call or a task: the first candidate, nothing drawn, nothing that takes over."""
    routes = table(primary="deep", propensities={"deep": 0.5, "fast": 0.5})
    made = routed(error(500), policy=policy("fast", "deep", route=how == "task"), routes=routes)
    for _ in range(5):
        with tierwise.task("t", route=how != "task"), pytest.raises(openai.InternalServerError):
            made.client.chat.completions.create(**AUTO)
    assert set(made.asked) == {"deep" if how == "task" else "fast"}
    assert {call.arm for call in made.recorder.calls} == {"pinned"}


def test_high_risk_is_never_explored() -> None:
    """A call of high risk takes the primary whatever the shares are, and compares nothing."""
    routes = table(primary="deep", propensities={"deep": 0.01, "fast": 0.99})
    made = routed(chat(), policy=TWO, routes=routes)
    for _ in range(20):
        with tierwise.task("t", risk="high"):
            made.client.chat.completions.create(**AUTO)
    assert set(made.asked) == {"deep"}
    assert {(call.arm, call.propensity, call.grade) for call in made.recorder.calls} == {
        ("pinned", None, "observational")
    }


def test_conditions_send_a_call_elsewhere() -> None:
    """The first that matches: by risk, labels, tools or the size of the input."""
    conditions = (
        Condition(candidates=("strong",), risk=("high",)),
        Condition(candidates=("long",), min_input_tokens=1000),
        Condition(candidates=("tools",), tools=True),
        Condition(candidates=("paid",), labels={"plan": "paid"}),
    )
    made = routed(chat(), policy=policy("fast", "deep", conditions=conditions))
    create = made.client.chat.completions.create
    with tierwise.task("t", risk="high", labels={"plan": "paid"}):
        create(**AUTO)
    create(model="auto", messages=[{"role": "user", "content": "x" * 5000}])
    create(**AUTO, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    with tierwise.task("t", labels={"plan": "paid"}):
        create(**AUTO)
    create(**AUTO)
    assert made.asked == ["strong", "long", "tools", "paid", "fast"]
    assert [call.arm for call in made.recorder.calls] == ["pinned"] * 4 + ["primary"]


def test_candidates_bring_model_and_parameters() -> None:
    """The candidate's parameters win over the caller's, null takes one away; the epoch is the candidate's."""
    models = {"precise": ModelSpec(name="precise", model="vendor/big", params={"temperature": 0, "top_p": None})}
    made = routed(chat(), policy=policy("precise", models=models))
    made.client.chat.completions.create(**AUTO, temperature=1, top_p=0.5)
    assert made.canned.bodies == [{"model": "vendor/big", "messages": MESSAGES, "temperature": 0}]
    (call,) = made.recorder.calls
    assert (call.candidate, call.request.model, call.request.temperature) == ("precise", "vendor/big", 0)


def test_unnamed_tasks_and_the_default_model() -> None:
    """A task nobody named takes the default model; where nothing at all is known the error says what to do."""
    made = routed(chat(), policy=policy("fast", default_model="plain"), task="other")
    made.client.chat.completions.create(**AUTO)
    assert made.asked == ["plain"]
    made = routed(chat(), policy=TWO, task="other")
    with pytest.raises(RouteError, match=r"nothing is known of task 'other'.*tierwise\.yaml"):
        made.client.chat.completions.create(**AUTO)
    assert made.canned.bodies == []


def test_without_policy_and_routes_auto_is_a_model_name() -> None:
    """Nobody asked for routing: a gateway's own `auto` still works."""
    made = routed(chat(), policy=Policy())
    made.client.chat.completions.create(**AUTO)
    assert made.asked == ["auto"]
    assert made.told == [("auto", "pinned", 0, "success")]


def test_embeddings_are_not_routed() -> None:
    """Vectors of one model are of no use among those of another."""
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    body = {"object": "list", "data": [vector], "model": "e", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    made = routed(Reply(body=body), policy=TWO)
    assert made.client.embeddings.create(model="auto", input="x").data[0].embedding == [0.5]
    assert made.asked == ["auto"]


# -- ways of calling -----------------------------------------------------------------------------------------------


def test_parsed_raw_and_streamed_calls_are_routed() -> None:
    """Each way of calling gives its own type and asks the candidate."""
    made = routed(chat('{"a": 1}'), policy=TWO)
    completions = made.client.chat.completions
    parsed = typed(made.client).parse(**AUTO, response_format=Out)
    assert parsed.choices[0].message.parsed == Out(a=1)
    raw = completions.with_raw_response.create(**AUTO)
    assert raw.parse().choices[0].message.content == '{"a": 1}'
    with completions.with_streaming_response.create(**AUTO) as response:
        assert response.http_response.is_stream_consumed is False
        assert response.json()["choices"][0]["message"]["content"] == '{"a": 1}'
    assert made.asked == ["fast"] * 3
    assert [call.outcome for call in made.recorder.calls] == ["success"] * 3
    assert made.recorder.runs == []


def test_streams_are_routed() -> None:
    """Every chunk in order, one call, which ends with the stream."""
    made = routed(stream("Hel", "lo", usage=False), policy=TWO)
    with made.client.chat.completions.create(**AUTO, stream=True) as chunks:
        assert isinstance(chunks, openai.Stream)
        assert made.recorder.calls == []
        texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert texts == ["", "Hel", "lo", None]
    assert made.told == [("fast", "primary", 0, "success")]
    assert made.recorder.runs == []


def test_the_stream_helper_is_routed() -> None:
    """`client.chat.completions.stream(...)` works as it does with a named model."""
    made = routed(stream("Hel", "lo"), policy=TWO)
    with typed(made.client).stream(**AUTO) as events:
        assert events.get_final_completion().choices[0].message.content == "Hello"
    assert made.asked == ["fast"]


def test_responses_are_routed() -> None:
    """The responses API as well."""
    body = {
        "id": "r1", "object": "response", "created_at": 1, "model": "m", "status": "completed", "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1,
        "tool_choice": "auto", "tools": [], "top_p": 1,
        "output": [{"id": "o", "type": "message", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}],
    }  # fmt: skip
    made = routed(Reply(body=body), policy=TWO)
    assert made.client.responses.create(model="auto", input="Say hi.").output_text == "Hi"
    assert made.canned.bodies == [{"model": "fast", "input": "Say hi."}]


def test_asynchronous_clients_are_routed() -> None:
    """Whole answers and streams, awaited; an error has the other candidate take over."""

    async def go() -> None:
        made = routed(error(503), chat("Hi."), stream("a", "b", usage=False), policy=TWO, asynchronous=True)
        answer = await made.client.chat.completions.create(**AUTO)
        assert answer.choices[0].message.content == "Hi."
        assert made.told == [("fast", "primary", 0, "error"), ("deep", "fallback", 1, "success")]
        chunks = await made.client.chat.completions.create(**AUTO, stream=True)
        assert [chunk.choices[0].delta.content async for chunk in chunks] == ["", "a", "b", None]
        assert [run.calls for run in made.recorder.runs] == [2]

    asyncio.run(go())


def test_copied_clients_are_routed() -> None:
    """`with_options` keeps what the client knows."""
    made = routed(chat(), policy=TWO)
    made.client.with_options(timeout=5).chat.completions.create(**AUTO)
    assert made.asked == ["fast"]


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_another_candidate_takes_over_after_an_error(status: int) -> None:
    """After the client's own retries; both calls are one run, charged to the first candidate."""
    made = routed(error(status), error(status), chat("Hi."), policy=TWO, max_retries=1)
    answer = made.client.chat.completions.create(**AUTO)
    assert answer.choices[0].message.content == "Hi."
    assert made.asked == ["fast", "fast", "deep"]
    assert made.told == [("fast", "primary", 0, "error"), ("deep", "fallback", 1, "success")]
    assert made.recorder.calls[1].grade == "observational"
    (run,) = made.recorder.runs
    assert (run.candidate, run.arm, run.calls, run.success) == ("fast", "primary", 2, True)
    assert [call.context.run_id for call in made.recorder.calls] == [run.run_id] * 2
    assert len(run.run_id) == 16


def test_a_lost_connection_has_another_candidate_take_over() -> None:
    """Timeouts and broken connections are errors too."""
    lost = Reply(error=lambda request: httpx.ConnectError("refused", request=request))
    made = routed(lost, chat("Hi."), policy=TWO)
    assert made.client.chat.completions.create(**AUTO).choices[0].message.content == "Hi."
    assert made.asked == ["fast", "deep"]


@pytest.mark.parametrize("status", [400, 401, 403, 413, 422])
def test_the_fault_of_the_request_is_not_carried_to_another_candidate(status: int) -> None:
    """What is wrong with the request or its key would be wrong there as well: the application gets the error."""
    made = routed(error(status), chat(), policy=TWO)
    with pytest.raises(openai.APIStatusError) as caught:
        made.client.chat.completions.create(**AUTO)
    assert caught.value.status_code == status
    assert made.asked == ["fast"]


def test_a_model_that_is_not_there_is_passed_over() -> None:
    """404 says that the candidate is gone, which another candidate is not."""
    made = routed(error(404), chat("Hi."), policy=TWO)
    assert made.client.chat.completions.create(**AUTO).choices[0].message.content == "Hi."
    assert made.told == [("fast", "primary", 0, "rejected"), ("deep", "fallback", 1, "success")]


def test_a_key_that_is_refused_is_refused_at_its_own_upstream_only() -> None:
    """401 has a candidate of another upstream take over."""
    other, canned = sync_client(chat("Hi."))
    models = {"there": ModelSpec(name="there", model="m", upstream="up")}
    made = routed(error(401), policy=policy("fast", "deep", "there", models=models), upstreams={"up": other})
    assert made.client.chat.completions.create(**AUTO).choices[0].message.content == "Hi."
    assert (made.asked, [body["model"] for body in canned.bodies]) == (["fast"], ["m"])


def test_the_first_error_comes_out_when_nobody_answers() -> None:
    """The application gets the error of the candidate that the route names, as it would have without the others."""
    made = routed(error(503), error(429), error(500), chat(), policy=policy("a", "b", "c", "d"))
    with pytest.raises(openai.InternalServerError) as caught:
        made.client.chat.completions.create(**AUTO)
    assert caught.value.status_code == 503
    assert made.asked == ["a", "b", "c"]  # three models at most, by default
    assert [run.success for run in made.recorder.runs] == [False]


def test_interrupts_are_passed_on_at_once() -> None:
    """KeyboardInterrupt asks nobody else."""

    def interrupt(_: Any) -> Exception:
        raise KeyboardInterrupt

    made = routed(Reply(error=interrupt), chat(), policy=TWO)
    with pytest.raises(KeyboardInterrupt):
        made.client.chat.completions.create(**AUTO)
    assert made.told == [("fast", "primary", 0, "cancelled")]


def test_a_stream_that_breaks_before_its_first_content_is_asked_of_another() -> None:
    """The application sees the second stream alone; after the first content nothing is asked again."""
    broken = Reply(events=[], drop=True, done=False)
    made = routed(broken, stream("Hi", usage=False), policy=TWO)
    chunks = list(made.client.chat.completions.create(**AUTO, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hi", None]
    assert made.asked == ["fast", "deep"]
    late = stream("Hi", usage=False)
    late.drop, late.done = True, False
    made = routed(late, stream("no"), policy=TWO)
    seen = made.client.chat.completions.create(**AUTO, stream=True)
    with pytest.raises((httpx.ReadError, openai.APIConnectionError)):
        list(seen)
    assert made.asked == ["fast"]


def test_a_stream_that_nobody_can_give_raises_where_it_is_read() -> None:
    """As the bare client does: the request returns, reading raises."""
    broken = Reply(events=[], drop=True, done=False)
    made = routed(broken, policy=policy("only", "other"))
    seen = made.client.chat.completions.create(**AUTO, stream=True)
    with pytest.raises((httpx.ReadError, openai.APIConnectionError)):
        list(seen)
    assert made.asked == ["only", "other"]


def test_a_stream_left_unread_is_cancelled() -> None:
    """Nobody reads on: the call ends."""
    made = routed(stream("a", "b", "c", usage=False), policy=TWO)
    seen = made.client.chat.completions.create(**AUTO, stream=True)
    del seen
    gc.collect()  # the client's stream refers to itself
    assert [call.outcome for call in made.recorder.calls] == ["cancelled"]


@pytest.mark.parametrize("method", ["settled", "draw"])
def test_router_failures_ask_the_default_model(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A fault in the router is told, and the application gets an answer of the default model."""
    monkeypatch.delenv("TIERWISE_RAISE")
    routes = table(primary="fast", propensities={"fast": 0.5, "deep": 0.5})
    made = routed(chat("Hi."), policy=policy("fast", "deep", default_model="safe"), routes=routes)

    def broken(*_: object) -> None:
        raise ValueError("broken")

    hook = made.client.__dict__["_tierwise"]
    monkeypatch.setattr(type(hook.wiring.router), method, broken)
    assert made.client.chat.completions.create(**AUTO).choices[0].message.content == "Hi."
    assert made.asked == ["safe"]
    assert made.told == [("safe", "pinned", 0, "success")]
    assert [where for where, _ in made.recorder.errors] == ["router"]


def test_task_policies_of_unnamed_tasks_hold() -> None:
    """`"*"` is every task's policy that has none of its own."""
    made = routed(chat(), policy=Policy(default=task_policy("w", task="*")), task="whatever")
    made.client.chat.completions.create(**AUTO)
    assert made.told == [("w", "primary", 0, "success")]

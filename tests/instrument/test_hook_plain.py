"""Plain calls, sync and async: the caller gets what the bare client gives, the recorder gets one call."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai
import pydantic
import pytest

import tierwise
from support.canned import ASK, Reply, async_client, chat, httpx, stream, sync_client, typed
from tierwise.core.cost import flat_rates
from tierwise.core.errors import ConfigError
from tierwise.testing import FixedPrices, chat_body, instrument_in_memory


def test_one_plain_call_is_recorded_with_its_numbers() -> None:
    """Model, tokens, finish reason, outcome and duration of a plain call are recorded, and the span ends once."""
    client, _ = sync_client(chat("Hi there."))
    recorder = instrument_in_memory(client, task="greeting")
    reply = client.chat.completions.create(**ASK, temperature=0, max_tokens=50)
    (call,) = recorder.calls
    assert reply.choices[0].message.content == "Hi there."
    assert (call.task, call.outcome, call.request.model, call.answer.model) == (
        "greeting", "success", "gpt-5-mini", "gpt-5-mini-2025-08-07",
    )  # fmt: skip
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.output_tokens) == (12, 5)
    assert call.answer.finish_reasons == ("stop",)
    assert (call.request.temperature, call.request.max_tokens, call.request.provider) == (0.0, 50, "openai")
    assert call.duration_s > 0
    assert call.answer.output_chars == len("Hi there.")
    assert [span.ended for span in recorder.spans] == [1]
    assert recorder.active == 0


def test_async_call_is_recorded_alike() -> None:
    """An async call gives the same record."""
    client, _ = async_client(chat("Hi there."))
    recorder = instrument_in_memory(client)

    async def go() -> None:
        reply = await client.chat.completions.create(**ASK)
        assert reply.choices[0].message.content == "Hi there."

    asyncio.run(go())
    (call,) = recorder.calls
    assert (call.task, call.outcome) == ("unassigned", "success")
    assert recorder.active == 0


def test_client_keeps_its_identity_and_type() -> None:
    """`instrument` returns the same object, `isinstance` holds, resources made before are observed."""
    client, _ = sync_client(chat())
    completions = client.chat.completions
    recorder = instrument_in_memory(client)
    assert isinstance(client, openai.OpenAI)
    assert type(client).__name__ == "OpenAI"
    completions.create(**ASK)
    assert len(recorder.calls) == 1


def test_uninstrument_undoes_everything() -> None:
    """After `uninstrument` the class is the client's own, nothing of ours is left, and nothing is recorded."""
    client, _ = sync_client(chat())
    before = dict(client.__dict__)
    recorder = instrument_in_memory(client)
    tierwise.uninstrument(client)
    assert type(client) is openai.OpenAI
    assert client.__dict__.keys() == before.keys()
    client.chat.completions.create(**ASK)
    assert recorder.calls == []


def test_instrumenting_twice_is_one_span() -> None:
    """Instrumenting again replaces the wiring: one call, one record, and one `uninstrument` undoes it."""
    client, _ = sync_client(chat())
    first = instrument_in_memory(client)
    second = instrument_in_memory(client)
    client.chat.completions.create(**ASK)
    assert (len(first.calls), len(second.calls)) == (0, 1)
    tierwise.uninstrument(client)
    assert type(client) is openai.OpenAI


@pytest.mark.parametrize("name", ["copy", "with_options"])
def test_copies_are_observed_once(name: str) -> None:
    """`copy` and its class alias `with_options` give clients that are observed, once a call."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client, task="copied")
    copied = getattr(client, name)(timeout=5)
    assert isinstance(copied, openai.OpenAI)
    copied.chat.completions.create(**ASK)
    copied.with_options(max_retries=1).chat.completions.create(**ASK)
    assert [call.task for call in recorder.calls] == ["copied", "copied"]


def test_copy_to_another_host_has_that_hosts_provider() -> None:
    """A copy with another base URL is recorded with the provider of that URL."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    client.with_options(base_url="https://api.groq.com/openai/v1").chat.completions.create(**ASK)
    assert recorder.calls[0].request.provider == "groq"


def test_a_client_of_another_shape_is_refused_with_words() -> None:
    """Something that is no client raises a ConfigError that says what to pass."""
    with pytest.raises(ConfigError, match="pass an OpenAI client"):
        instrument_in_memory(object())


def test_requests_that_are_not_inference_pass_untouched() -> None:
    """Listing models makes no span."""
    client, _ = sync_client(Reply(body={"object": "list", "data": []}))
    recorder = instrument_in_memory(client)
    client.models.list()
    assert recorder.spans == []


def test_extra_body_model_wins() -> None:
    """The model in `extra_body` is the one that is sent, so it is the one recorded."""
    client, canned = sync_client(chat())
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK, extra_body={"model": "other"})
    assert canned.bodies[0]["model"] == recorder.calls[0].request.model == "other"


def test_sentinels_are_not_values() -> None:
    """The sentinels NotGiven and Omit, and None, are no values: they are left out of the record."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    omit = getattr(openai, "omit", openai.NOT_GIVEN)  # before openai 1.109 there is only the latter
    client.chat.completions.create(**ASK, temperature=None, max_tokens=omit, seed=openai.NOT_GIVEN)
    request = recorder.calls[0].request
    assert (request.temperature, request.max_tokens, request.seed) == (None, None, None)


def test_arguments_of_the_caller_are_never_changed() -> None:
    """Request dictionaries handed in are the same afterwards, stream options included."""
    client, _ = sync_client(stream("a"))
    instrument_in_memory(client)
    options = {"include_obfuscation": False}
    extra = {"x": 1}
    for _chunk in client.chat.completions.create(**ASK, stream=True, stream_options=options, extra_body=extra):
        pass
    assert (options, extra) == ({"include_obfuscation": False}, {"x": 1})


def test_raw_response_is_recorded_without_being_parsed() -> None:
    """`with_raw_response` gives the caller an unparsed response; usage is recorded all the same."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    raw = client.chat.completions.with_raw_response.create(**ASK)
    (call,) = recorder.calls
    assert raw._parsed_by_type == {}
    assert call.usage is not None
    assert call.usage.input_tokens == 12
    assert raw.parse().choices[0].message.content == "Hello."
    assert len(recorder.calls) == 1


def test_streaming_response_is_lazy_and_recorded_at_its_end() -> None:
    """`with_streaming_response` reads nothing early; the call ends when the body was read."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert recorder.calls == []
        assert not response.http_response.is_stream_consumed
        assert response.parse().choices[0].message.content == "Hello."
    (call,) = recorder.calls
    assert call.outcome == "success"
    assert call.usage is not None


def test_streaming_response_read_as_bytes_is_recorded() -> None:
    """Bytes read by the application itself carry the usage too."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert json.loads(b"".join(response.iter_bytes()))["id"] == "chatcmpl-1"
    assert recorder.calls[0].usage is not None


def test_streaming_response_never_read_is_cancelled() -> None:
    """A body that the application never reads is a cancelled call."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    with client.chat.completions.with_streaming_response.create(**ASK):
        pass
    assert [call.outcome for call in recorder.calls] == ["cancelled"]


def test_async_streaming_response_has_its_data() -> None:
    """open-telemetry/opentelemetry-python-genai#624, Arize-ai/openinference#1134: the async form has its data."""
    client, _ = async_client(chat())
    recorder = instrument_in_memory(client)

    async def go() -> None:
        async with client.chat.completions.with_streaming_response.create(**ASK) as response:
            assert recorder.calls == []
            parsed = await response.parse()
            assert parsed.choices[0].message.content == "Hello."

    asyncio.run(go())
    (call,) = recorder.calls
    assert call.usage is not None
    assert call.outcome == "success"


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_parse_expects_json_and_is_judged() -> None:
    """`.parse()` returns the parsed object, and the call is judged as JSON with its schema."""
    client, _ = sync_client(chat('{"name": "Ada", "age": 36}'))
    recorder = instrument_in_memory(client)
    reply = typed(client).parse(**ASK, response_format=Person)
    assert reply.choices[0].message.parsed == Person(name="Ada", age=36)
    assert (recorder.calls[0].json_form, recorder.calls[0].outcome) == ("plain", "success")


def test_parse_cut_by_length_keeps_usage_and_cost() -> None:
    """openai/openai-python#1700: a parse that fails was billed; usage and cost are recorded, the error is the caller's."""
    client, _ = sync_client(chat('{"name": "A', finish_reason="length"))
    rates = flat_rates(source="override", input=1.0, output=2.0)
    recorder = instrument_in_memory(client, prices=FixedPrices(rates))
    with pytest.raises(openai.LengthFinishReasonError):
        typed(client).parse(**ASK, response_format=Person)
    (call,) = recorder.calls
    assert (call.outcome, call.error_type) == ("truncated", "LengthFinishReasonError")
    assert call.usage is not None
    assert call.usage.output_tokens == 5
    assert call.cost is not None
    assert call.cost.amount_usd == pytest.approx((12 * 1.0 + 5 * 2.0) / 1e6)


def test_parse_refused_by_validation_is_a_mismatch() -> None:
    """A completion that pydantic refuses is `json_mismatch`, with the exception's name as error type."""
    client, _ = sync_client(chat('{"name": "Ada"}'))
    recorder = instrument_in_memory(client)
    with pytest.raises(pydantic.ValidationError):
        typed(client).parse(**ASK, response_format=Person)
    assert (recorder.calls[0].outcome, recorder.calls[0].error_type) == ("json_mismatch", "ValidationError")


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(body={"error": {"message": "overloaded", "code": "overloaded"}}), "error"),
        (Reply(body=chat_body() | {"choices": None}), "empty"),
        (Reply(body="<html>busy</html>", headers={"content-type": "text/html"}), "error"),
        (chat(""), "empty"),
        (chat("", finish_reason="length"), "truncated"),
        (chat(None, message={"refusal": "No."}), "refused"),
        (chat("x", finish_reason="content_filter"), "filtered"),
    ],
    ids=["error-body", "choices-null", "html", "empty", "cut-and-empty", "refusal", "filter"],
)
def test_http_200_is_not_success(reply: Reply, outcome: str) -> None:
    """HTTP 200 with nothing usable gets its own outcome."""
    client, _ = sync_client(reply)
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK)
    assert [call.outcome for call in recorder.calls] == [outcome]


def test_several_choices_count_by_the_worst() -> None:
    """With `n=2` the worse choice decides, and both finish reasons are recorded."""
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"},
        {"index": 1, "message": {"role": "assistant", "content": "cut"}, "finish_reason": "length"},
    ]
    client, _ = sync_client(Reply(body=chat_body() | {"choices": choices}))
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK, n=2)
    (call,) = recorder.calls
    assert (call.outcome, call.answer.finish_reasons, call.request.choice_count) == ("truncated", ("stop", "length"), 2)


def test_tool_arguments_are_checked_against_the_tools_schema() -> None:
    """Arguments that are no JSON, or break the tool's schema, are an outcome of their own."""
    tool = {
        "type": "function",
        "function": {
            "name": "lookup",
            "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
        },
    }

    def outcome(arguments: str) -> str:
        call = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": arguments}}
        client, _ = sync_client(chat(None, finish_reason="tool_calls", message={"tool_calls": [call]}))
        recorder = instrument_in_memory(client)
        client.chat.completions.create(**ASK, tools=[tool])
        return recorder.calls[0].outcome

    assert outcome('{"id": 7}') == "success"
    assert outcome('{"id": "seven"}') == "tool_arguments_invalid"
    assert outcome('{"id": 7') == "tool_arguments_invalid"


def test_status_errors_reach_the_caller_as_they_are() -> None:
    """The caller's exception is the client's own; 4xx of the caller's making is `rejected`, the rest `error`."""
    for status, kind, outcome in ((404, openai.NotFoundError, "rejected"), (500, openai.InternalServerError, "error")):
        client, _ = sync_client(Reply(status=status, body={"error": {"message": "no"}}))
        recorder = instrument_in_memory(client)
        with pytest.raises(kind):
            client.chat.completions.create(**ASK)
        (call,) = recorder.calls
        assert (call.outcome, call.error_type) == (outcome, kind.__name__)
        assert (call.retries, [t.status for t in call.failed_tries]) == (0, [status])


def test_retries_are_counted_with_status_and_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arize-ai/openinference#3664: each failed try has its status and its measured backoff, apart from the last try."""
    slept: list[float] = []
    monkeypatch.setattr("openai._base_client.time.sleep", slept.append)
    client, _ = sync_client(
        Reply(status=429, body={"error": {}}, headers={"retry-after": "0.5"}),
        Reply(status=503, body={"error": {}}),
        chat(),
        max_retries=3,
    )
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK)
    (call,) = recorder.calls
    assert (call.outcome, call.retries) == ("success", 2)
    assert [failed.status for failed in call.failed_tries] == [429, 503]
    assert len(slept) == 2
    assert call.last_try_s is not None
    assert call.last_try_s <= call.duration_s
    assert call.backoff_s == pytest.approx(sum(failed.backoff_s for failed in call.failed_tries))


def test_timeouts_are_tries_with_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that timed out is recorded by exception, since no response came."""
    monkeypatch.setattr("openai._base_client.time.sleep", lambda seconds: None)
    timeout = Reply(error=lambda request: httpx.ReadTimeout("slow", request=request))
    client, _ = sync_client(timeout, chat(), max_retries=1)
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK)
    assert [(t.status, t.error_type) for t in recorder.calls[0].failed_tries] == [(None, "ReadTimeout")]


def test_caller_supplied_retry_header_is_not_believed() -> None:
    """The retry count is ours, not that of a header which callers can set."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK, extra_headers={"x-stainless-retry-count": "77"})
    assert recorder.calls[0].retries == 0


def test_cancelled_async_call_is_recorded_as_cancelled() -> None:
    """An asyncio cancellation is the application's doing: counted apart, and raised as it is."""
    client, _ = async_client(chat())
    recorder = instrument_in_memory(client)

    async def go() -> None:
        async def hang(request: Any) -> Any:
            await asyncio.sleep(60)
            raise AssertionError

        client._client._transport = httpx.MockTransport(hang)
        running = asyncio.create_task(client.chat.completions.create(**ASK))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(go())
    assert [(call.outcome, call.error_type) for call in recorder.calls] == [("cancelled", None)]


def test_concurrent_async_calls_keep_apart() -> None:
    """Tries and tasks of 50 concurrent calls never mix."""
    client, _ = async_client(chat())
    recorder = instrument_in_memory(client)

    async def one(number: int) -> None:
        async with tierwise.task(f"task-{number}"):
            await client.chat.completions.create(**ASK, seed=number)

    async def go() -> None:
        await asyncio.gather(*(one(number) for number in range(50)))

    asyncio.run(go())
    assert {(call.task, call.request.seed) for call in recorder.calls} == {(f"task-{n}", n) for n in range(50)}


def test_provider_reported_cost_wins() -> None:
    """open-telemetry/semantic-conventions-genai#443: OpenRouter's `usage.cost` is the cost, its source is the provider."""
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17, "cost": 0.0123}
    client, _ = sync_client(Reply(body=chat_body() | {"usage": usage}), base_url="https://openrouter.ai/api/v1")
    recorder = instrument_in_memory(client, prices=FixedPrices(flat_rates(source="catalogue", input=1.0, output=1.0)))
    client.chat.completions.create(**ASK)
    cost = recorder.calls[0].cost
    assert cost is not None
    assert (cost.amount_usd, cost.source) == (0.0123, "provider")


def test_gateway_cost_header_is_read() -> None:
    """LiteLLM states its cost in a response header."""
    reply = chat()
    reply.headers["x-litellm-response-cost"] = "0.004"
    client, _ = sync_client(reply, base_url="http://localhost:4000/v1")
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK)
    cost = recorder.calls[0].cost
    assert cost is not None
    assert (cost.amount_usd, cost.source) == (0.004, "provider")


def test_without_usage_nothing_is_invented() -> None:
    """No usage means no tokens and no cost."""
    client, _ = sync_client(Reply(body=chat_body() | {"usage": None}))
    recorder = instrument_in_memory(client, prices=FixedPrices(flat_rates(source="catalogue", input=1.0, output=1.0)))
    client.chat.completions.create(**ASK)
    assert (recorder.calls[0].usage, recorder.calls[0].cost) == (None, None)


def test_faults_inside_tierwise_never_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in our own reading is counted; the answer comes as if we were not there."""
    client, _ = sync_client(chat("fine"))
    recorder = instrument_in_memory(client)
    monkeypatch.setattr(sys.modules["tierwise.instrument.judging"], "judge", lambda *a, **k: 1 / 0)
    assert client.chat.completions.create(**ASK).choices[0].message.content == "fine"
    assert [where for where, _ in recorder.errors] == ["answered"]


def test_a_check_decides_and_its_fault_does_not() -> None:
    """A registered check makes `check_failed`; one that raises is counted and changes nothing."""
    from tierwise.instrument.checks import forget_checks

    @tierwise.check("shout")
    def upper(text: str) -> bool:
        return text.isupper()

    @tierwise.check("fragile")
    def broken(text: str) -> bool:
        raise RuntimeError("boom")

    client, _ = sync_client(chat("quiet"))
    recorder = instrument_in_memory(client)
    with tierwise.task("shout"):
        client.chat.completions.create(**ASK)
    with tierwise.task("fragile"):
        client.chat.completions.create(**ASK)
    forget_checks()
    assert [call.outcome for call in recorder.calls] == ["check_failed", "success"]
    assert [where for where, _ in recorder.errors] == ["check"]


def test_calls_of_one_run_id_are_one_run() -> None:
    """A `run_id` joins the calls of its block: places count up, the run ends with the block and carries their cost."""
    client, _ = sync_client(chat("", finish_reason="length"), chat("done"))
    recorder = instrument_in_memory(client, prices=FixedPrices(flat_rates(source="override", input=1.0, output=1.0)))
    with tierwise.task("work", run_id="r-1"):
        client.chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
        assert recorder.runs == []
    (run,) = recorder.runs
    assert [call.rung for call in recorder.calls] == [0, 1]
    assert (run.run_id, run.calls, run.success, run.outcome) == ("r-1", 2, True, "success")
    assert run.cost_usd == pytest.approx(2 * 17 / 1e6)


def test_a_failed_call_belongs_to_the_epoch_last_seen() -> None:
    """An error names no response model; it must not open an epoch of its own."""
    client, _ = sync_client(chat(), Reply(status=500, body={"error": {}}))
    recorder = instrument_in_memory(client)
    client.chat.completions.create(**ASK)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**ASK)
    assert len({call.epoch for call in recorder.calls}) == 1


def test_a_failed_call_of_another_name_for_the_same_model_belongs_to_its_epoch() -> None:
    """An alias and the model behind it are two candidates of equal epochs: an error of either stays in its own."""
    failure = Reply(status=500, body={"error": {"message": "overloaded"}})
    client, _ = sync_client(chat(), chat(), failure)
    recorder = instrument_in_memory(client)
    for model in ("gpt-5-mini", "gpt-5-mini-2025-08-07"):
        client.chat.completions.create(**{**ASK, "model": model})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**{**ASK, "model": "gpt-5-mini-2025-08-07"})
    assert len({call.epoch for call in recorder.calls}) == 1

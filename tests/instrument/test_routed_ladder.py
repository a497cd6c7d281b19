"""The ladder of a routed run: escalation, clean-up, confidence, limits; review; and what is recorded of all of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest
from pydantic import BaseModel, ValidationError

import tierwise
from support.canned import Reply, chat, httpx, stream, typed
from support.routing import AUTO, MESSAGES, policy, routed, table
from tierwise.core.checks import min_confidence
from tierwise.core.cost import flat_rates
from tierwise.core.policy import Condition, Ladder, Review
from tierwise.core.route import Canary
from tierwise.instrument.checks import check, forget_checks
from tierwise.testing import FixedPrices

JSON = {"response_format": {"type": "json_object"}}
FENCED = '```json\n{"a": 1}\n```'
CLIMB = Ladder(escalate_on=("json_fenced", "json_invalid", "truncated", "empty", "check_failed", "json_mismatch"))
PRICES = FixedPrices(fixed=flat_rates(input=10, output=10))  # 170 micro-USD a canned answer


class Out(BaseModel):
    """A parsed type."""

    a: int


def content(answer: Any) -> Any:
    """The text of an answer."""
    return answer.choices[0].message.content


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (chat(FENCED), "json_fenced"),
        (chat("no JSON"), "json_invalid"),
        (chat("", finish_reason="stop"), "empty"),
        (chat('{"a":', finish_reason="length"), "truncated"),
    ],
)
def test_a_bad_answer_climbs_to_the_next_rung(first: Reply, outcome: str) -> None:
    """The caller gets the answer of the next candidate; both calls are one run, charged to the first."""
    made = routed(first, chat('{"a": 1}'), policy=policy("fast", "deep", ladder=CLIMB), prices=PRICES)
    assert content(made.client.chat.completions.create(**AUTO, **JSON)) == '{"a": 1}'
    assert made.told == [("fast", "primary", 0, outcome), ("deep", "primary", 1, "success")]
    (run,) = made.recorder.runs
    assert (run.candidate, run.calls, run.success, run.outcome) == ("fast", 2, True, "success")
    assert run.cost_usd == pytest.approx(340e-6)
    (span,) = made.recorder.run_spans
    assert (span.run, span.ended) == (run, 1)
    assert [call.context.run_id for call in made.recorder.calls] == [run.run_id] * 2


def test_rungs_follow_the_route() -> None:
    """The ladder of the table comes before the policy's order; a run that starts higher climbs from there."""
    routes = table(primary="a", ladder=("a", "c", "b"), canary=Canary(candidate="c", share=1.0))
    made = routed(chat(""), policy=policy("a", "b", "c", ladder=CLIMB), routes=routes)
    made.client.chat.completions.create(**AUTO)
    assert made.asked == ["c", "b"]
    assert [call.arm for call in made.recorder.calls] == ["canary", "canary"]


def test_the_last_answer_is_handed_on_when_nobody_does_better() -> None:
    """At most `max_rungs` models, then the caller gets the last response, whatever it is."""
    ladder = Ladder(escalate_on=("json_invalid",), max_rungs=2)
    made = routed(chat("one"), chat("two"), chat("{}"), policy=policy("a", "b", "c", ladder=ladder))
    assert content(made.client.chat.completions.create(**AUTO, **JSON)) == "two"
    assert made.asked == ["a", "b"]
    assert [run.success for run in made.recorder.runs] == [False]


def test_an_answer_is_kept_when_the_next_rung_fails() -> None:
    """An error further up never takes away what there is already."""
    broken = Reply(status=500, body={"error": {"message": "no"}})
    made = routed(chat("not JSON"), broken, policy=policy("a", "b", ladder=CLIMB))
    assert content(made.client.chat.completions.create(**AUTO, **JSON)) == "not JSON"
    assert [call.outcome for call in made.recorder.calls] == ["json_invalid", "error"]


def test_refusals_do_not_climb_by_default() -> None:
    """What one model declined for safety goes to another only when the policy says so."""
    refused = chat(None, message={"refusal": "I cannot."})
    made = routed(refused, chat("Sure."), policy=policy("a", "b", ladder=CLIMB))
    made.client.chat.completions.create(**AUTO)
    assert made.asked == ["a"]
    made = routed(refused, chat("Sure."), policy=policy("a", "b", ladder=Ladder(escalate_on=("refused",))))
    assert content(made.client.chat.completions.create(**AUTO)) == "Sure."


# -- low confidence --------------------------------------------------------------------------------------------------


def test_a_failed_check_and_a_low_score_climb() -> None:
    """`check_failed` as an outcome, `min_check_score` for checks that pass."""

    @check("t", threshold=0.2)
    def length(text: str) -> float:
        return min(len(text) / 10, 1.0)

    try:
        for ladder, asked in ((CLIMB, ["a"]), (Ladder(min_check_score=0.9), ["a", "b"])):
            made = routed(chat("12345"), chat("1234567890"), policy=policy("a", "b", ladder=ladder))
            made.client.chat.completions.create(**AUTO)
            assert made.asked == asked
        made = routed(chat("1"), chat("1234567890"), policy=policy("a", "b", ladder=CLIMB))
        assert content(made.client.chat.completions.create(**AUTO)) == "1234567890"
        assert made.told[0] == ("a", "primary", 0, "check_failed")
    finally:
        forget_checks("t")


def test_the_built_in_confidence_check_climbs() -> None:
    """`min_confidence` as a check is an outcome like any other."""
    check("t", threshold=0.7)(min_confidence(field="confidence"))
    try:
        made = routed(chat('{"confidence": 0.4}'), chat('{"confidence": 0.9}'), policy=policy("a", "b", ladder=CLIMB))
        assert content(made.client.chat.completions.create(**AUTO, **JSON)) == '{"confidence": 0.9}'
    finally:
        forget_checks("t")


@pytest.mark.parametrize(
    ("first", "asked"),
    [('{"meta": {"sure": 0.9}}', ["a"]), ('{"meta": {"sure": 0.3}}', ["a", "b"]), ("{}", ["a", "b"])],
)
def test_a_stated_confidence_decides(first: str, asked: list[str]) -> None:
    """A field of the answer below the limit, or not there, climbs."""
    ladder = Ladder(confidence_field="meta.sure", min_confidence=0.7)
    made = routed(chat(first), chat('{"meta": {"sure": 1}}'), policy=policy("a", "b", ladder=ladder))
    made.client.chat.completions.create(**AUTO)
    assert made.asked == asked


@pytest.mark.parametrize(("logprob", "asked"), [(-0.1, ["a"]), (-2.0, ["a", "b"]), (None, ["a"])])
def test_the_probability_of_the_tokens_decides(logprob: float | None, asked: list[str]) -> None:
    """A mean log probability below the limit climbs; without log probabilities nothing does."""
    first = chat("Hi")
    if logprob is not None:
        tokens = [{"token": "Hi", "logprob": logprob, "bytes": None, "top_logprobs": []}]
        first.body["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
    made = routed(first, chat("Ho"), policy=policy("a", "b", ladder=Ladder(min_mean_logprob=-0.5)))
    made.client.chat.completions.create(**AUTO, logprobs=True)
    assert made.asked == asked


# -- clean-up --------------------------------------------------------------------------------------------------------

CLEANING = Ladder(escalate_on=("json_fenced", "json_invalid"), cleanup=("json_fenced",))


def test_one_fence_is_taken_off_in_place_of_another_call() -> None:
    """The same type with the clean text and a private mark; the run is a success, its call stays what it was."""
    made = routed(chat(FENCED), policy=policy("a", "b", ladder=CLEANING))
    answer = made.client.chat.completions.create(**AUTO, **JSON)
    assert type(answer) is openai.types.chat.ChatCompletion
    assert content(answer) == '{"a": 1}'
    assert answer._tierwise_cleaned is True  # type: ignore[attr-defined]
    plain = openai.types.chat.ChatCompletion.model_validate({**chat(FENCED).body, "choices": answer.choices})
    assert answer.model_dump() == plain.model_dump()
    assert answer.model_dump_json() == plain.model_dump_json()
    assert made.asked == ["a"]
    assert made.told == [("a", "primary", 0, "json_fenced")]
    (run,) = made.recorder.runs
    assert (run.success, run.cleaned, run.outcome) == (True, True, "json_fenced")


def test_clean_up_alone_needs_no_ladder() -> None:
    """`cleanup` without `escalate_on` cleans and asks nobody else."""
    made = routed(chat(FENCED), policy=policy("a", "b", ladder=Ladder(cleanup=("json_fenced",))))
    assert content(made.client.chat.completions.create(**AUTO, **JSON)) == '{"a": 1}'


def test_a_parsed_answer_is_cleaned_before_it_is_parsed() -> None:
    """`.parse()` would raise for the fence; it gets the parsed type."""
    made = routed(chat(FENCED), policy=policy("a", "b", ladder=CLEANING))
    answer = typed(made.client).parse(**AUTO, response_format=Out)
    assert answer.choices[0].message.parsed == Out(a=1)
    assert type(answer).__name__.startswith("ParsedChatCompletion")
    assert made.asked == ["a"]
    made = routed(chat(FENCED), policy=policy("a", ladder=Ladder()))
    with pytest.raises(ValidationError):
        typed(made.client).parse(**AUTO, response_format=Out)


def test_a_parsed_answer_climbs_where_it_cannot_be_cleaned() -> None:
    """What `.parse()` raised for one candidate is not raised when the next one holds the type."""
    made = routed(chat('{"b": 1}'), chat('{"a": 2}'), policy=policy("a", "b", ladder=CLIMB))
    answer = typed(made.client).parse(**AUTO, response_format=Out)
    assert answer.choices[0].message.parsed == Out(a=2)


def test_a_raw_response_parses_to_the_clean_text() -> None:
    """`.parse()` gives the clean text, the bytes stay what the server sent."""
    made = routed(chat(FENCED), policy=policy("a", "b", ladder=CLEANING))
    raw = made.client.chat.completions.with_raw_response.create(**AUTO, **JSON)
    assert content(raw.parse()) == '{"a": 1}'
    assert "```json" in raw.text


def test_asynchronous_answers_climb_and_are_cleaned() -> None:
    """The same ladder, awaited."""

    async def go() -> None:
        made = routed(chat("no"), chat(FENCED), policy=policy("a", "b", ladder=CLEANING), asynchronous=True)
        assert content(await made.client.chat.completions.create(**AUTO, **JSON)) == '{"a": 1}'
        assert made.told == [("a", "primary", 0, "json_invalid"), ("b", "primary", 1, "json_fenced")]
        assert [(run.success, run.cleaned) for run in made.recorder.runs] == [(True, True)]

    asyncio.run(go())


# -- streams ---------------------------------------------------------------------------------------------------------


def test_an_empty_stream_climbs_before_anything_is_seen() -> None:
    """A stream that ends without content is asked of the next rung; the application sees that one alone."""
    made = routed(stream(), stream("Hi", usage=False), policy=policy("a", "b", ladder=CLIMB))
    chunks = list(made.client.chat.completions.create(**AUTO, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hi", None]
    assert made.told == [("a", "primary", 0, "empty"), ("b", "primary", 1, "success")]


def test_a_stream_with_content_is_not_asked_again() -> None:
    """What the application may have seen already stays: a bad end is recorded, nothing more."""
    made = routed(stream("not JSON", usage=False), policy=policy("a", "b", ladder=CLIMB))
    chunks = list(made.client.chat.completions.create(**AUTO, **JSON, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "not JSON"
    assert made.told == [("a", "primary", 0, "json_invalid")]


def test_an_asynchronous_empty_stream_climbs() -> None:
    """The same, awaited; left early it is closed at once."""

    async def go() -> None:
        made = routed(
            stream(), stream("Hi", "there", usage=False), policy=policy("a", "b", ladder=CLIMB), asynchronous=True
        )
        seen = await made.client.chat.completions.create(**AUTO, stream=True)
        async for chunk in seen:
            assert chunk.choices[0].delta.content in ("", "Hi")
            if chunk.choices[0].delta.content:
                break
        await seen.close()
        assert [call.outcome for call in made.recorder.calls] == ["empty", "cancelled"]
        assert [run.calls for run in made.recorder.runs] == [2]

    asyncio.run(go())


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_budget_ends_the_run() -> None:
    """What the run has cost already decides; a call of unknown cost ends it as well."""
    for budget, asked in ((100e-6, ["a"]), (200e-6, ["a", "b"]), (1.0, ["a", "b", "c"])):
        ladder = Ladder(escalate_on=("empty",), budget_usd=budget)
        made = routed(chat(""), policy=policy("a", "b", "c", ladder=ladder), prices=PRICES)
        made.client.chat.completions.create(**AUTO)
        assert made.asked == asked
    ladder = Ladder(escalate_on=("empty",), budget_usd=1.0)
    made = routed(chat(""), policy=policy("a", "b", ladder=ladder))
    made.client.chat.completions.create(**AUTO)
    assert made.asked == ["a"]


def test_a_deadline_ends_the_run() -> None:
    """After the deadline nobody else is asked, and what is asked before has what is left of it, without retries."""

    def slow(request: Any) -> Exception:
        time.sleep(0.03)
        return httpx.ReadTimeout("slow", request=request)  # type: ignore[no-any-return]

    ladder = Ladder(escalate_on=("empty",), deadline_s=0.02)
    made = routed(Reply(error=slow), chat("Hi"), policy=policy("a", "b", ladder=ladder))
    with pytest.raises(openai.APIConnectionError):
        made.client.chat.completions.create(**AUTO)
    assert made.asked == ["a"]
    ladder = Ladder(escalate_on=("empty",), deadline_s=30)
    broken = Reply(status=500, body={"error": {"message": "no"}})
    made = routed(chat(""), broken, chat("Hi"), policy=policy("a", "b", ladder=ladder), max_retries=2)
    assert content(made.client.chat.completions.create(**AUTO)) == ""
    assert made.asked == ["a", "b"]


# -- runs of the application's -----------------------------------------------------------------------------------------


def test_a_run_of_the_applications_own_goes_on() -> None:
    """Inside `task(run_id=...)` the calls join that run, which ends with its block."""
    made = routed(chat(""), chat("one"), chat("two"), policy=policy("a", "b", ladder=CLIMB))
    with tierwise.task("t", run_id="mine"):
        made.client.chat.completions.create(**AUTO)
        assert made.recorder.runs == []
        made.client.chat.completions.create(**AUTO)
    (run,) = made.recorder.runs
    assert (run.run_id, run.calls, run.success, run.candidate) == ("mine", 3, True, "a")
    assert [call.rung for call in made.recorder.calls] == [0, 1, 2]
    assert made.recorder.run_spans == []


# -- review ----------------------------------------------------------------------------------------------------------

REVIEW = Review(model="strong", draft="cheap")


def test_high_risk_is_drafted_and_improved() -> None:
    """The draft goes to the stronger model with an instruction; the application gets the improvement."""
    made = routed(chat("Draft."), chat("Better."), policy=policy("deep", risk="high", review=REVIEW), prices=PRICES)
    assert content(made.client.chat.completions.create(**AUTO)) == "Better."
    draft, improved = made.canned.bodies
    assert draft == {"model": "cheap", "messages": MESSAGES}
    assert improved["model"] == "strong"
    assert improved["messages"][:-1] == [*MESSAGES, {"role": "assistant", "content": "Draft."}]
    assert improved["messages"][-1]["role"] == "user"
    assert made.told == [("cheap", "pinned", 0, "success"), ("strong", "pinned", 1, "success")]
    (run,) = made.recorder.runs
    assert (run.candidate, run.calls, run.grade) == ("cheap", 2, "observational")
    assert run.cost_usd == pytest.approx(340e-6)
    assert len(made.recorder.run_spans) == 1


def test_review_is_for_high_risk_or_where_a_condition_says_so() -> None:
    """Other calls of the task take its route."""
    conditions = (Condition(labels={"public": "yes"}, review=True),)
    made = routed(chat("x"), policy=policy("deep", "b", review=REVIEW, conditions=conditions))
    create = made.client.chat.completions.create
    create(**AUTO)
    assert made.asked == ["deep"]
    with tierwise.task("t", risk="high"):
        create(**AUTO)
    with tierwise.task("t", labels={"public": "yes"}):
        create(**AUTO)
    assert made.asked == ["deep", "cheap", "strong", "cheap", "strong"]


def test_a_review_streams_its_improvement() -> None:
    """The draft is asked for as a whole, the improvement streams."""
    made = routed(chat("Draft."), stream("Bet", "ter", usage=False), policy=policy("d", risk="high", review=REVIEW))
    chunks = list(made.client.chat.completions.create(**AUTO, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Better"
    assert [body.get("stream") for body in made.canned.bodies] == [None, True]


def test_a_review_survives_its_failures() -> None:
    """Without a draft the stronger model answers by itself; without an improvement the draft is what there is."""
    broken = Reply(status=500, body={"error": {"message": "no"}})
    made = routed(broken, chat("Strong."), policy=policy("d", risk="high", review=REVIEW))
    assert content(made.client.chat.completions.create(**AUTO)) == "Strong."
    assert made.canned.bodies[1]["messages"] == MESSAGES
    made = routed(chat("Draft."), broken, policy=policy("d", risk="high", review=REVIEW, ladder=Ladder(max_rungs=1)))
    assert content(made.client.chat.completions.create(**AUTO)) == "Draft."
    made = routed(chat('{"a": 1}'), chat('{"a": 2}'), policy=policy("d", risk="high", review=REVIEW))
    parsed = typed(made.client).parse(**AUTO, response_format=Out)
    assert parsed.choices[0].message.parsed == Out(a=2)
    raw = made.client.chat.completions.with_raw_response.create(**AUTO)
    assert content(raw.parse()) == '{"a": 2}'


def test_a_review_of_the_responses_api() -> None:
    """The draft goes behind the input."""

    def body(text: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"id": "o", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        return {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [item]}

    made = routed(
        Reply(body=body("Draft.")), Reply(body=body("Better.")), policy=policy("d", risk="high", review=REVIEW)
    )
    assert made.client.responses.create(model="auto", input="Go.").output_text == "Better."
    sent = made.canned.bodies[1]["input"]
    assert sent[:2] == [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Draft."}]

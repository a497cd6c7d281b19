"""The simulated gateway over real HTTP, through a bare openai client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core.checks import make_check
from tierwise.instrument.parsing import compile_schema, parse_json
from tierwise.surfaces.bench.suite import load_suite
from tierwise.surfaces.demo.gateway import Gateway, make_reply
from tierwise.surfaces.demo.models import LATENCY_SCALE, PROFILES, fault_for, latency_for

SUITE = load_suite("developer")
PROFILE = {profile.name: profile for profile in PROFILES}
GEMINI, HAIKU, SONNET = PROFILE
CLAUDES = (HAIKU, SONNET)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(seed=5, scale=1000) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key="any") as made:
        yield made


def say(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


def bodies(task: Any, **more: Any) -> dict[str, Any]:
    return {"messages": task.messages(0), "max_tokens": 2048, **more}


def test_lists_its_models(client: openai.OpenAI) -> None:
    """The three published models are listed."""
    assert [model.id for model in client.models.list()] == [GEMINI, HAIKU, SONNET]


@pytest.mark.parametrize("model", list(PROFILE))
def test_answer_has_consistent_usage(client: openai.OpenAI, model: str) -> None:
    """Tokens follow the characters, four to a token, and hidden reasoning is part of the output."""
    answer = client.chat.completions.create(model=model, messages=SUITE.tasks[0].messages(0))  # type: ignore[arg-type]
    usage, text = answer.usage, answer.choices[0].message.content
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert text
    hidden = usage.completion_tokens_details.reasoning_tokens
    assert usage.completion_tokens - (hidden or 0) == -(-len(text) // 4)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.choices[0].finish_reason == "stop"


def test_stream_says_what_a_plain_answer_says(gateway: Gateway) -> None:
    """Chunks add up to the text of the plain answer of a gateway with the same seed, usage comes last and once."""
    prompt = SUITE.tasks[1].messages(0)
    with Gateway(seed=5, scale=1000) as other, openai.OpenAI(base_url=other.base_url, api_key="any") as plain_client:
        plain = plain_client.chat.completions.create(model=SONNET, messages=prompt)  # type: ignore[arg-type]
    with Gateway(seed=5, scale=1000) as other, openai.OpenAI(base_url=other.base_url, api_key="any") as streaming:
        chunks = list(
            streaming.chat.completions.create(
                model=SONNET,
                messages=prompt,  # type: ignore[arg-type]
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert len(chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert [chunk.usage for chunk in chunks if chunk.usage is not None] == [plain.usage]
    assert chunks[-1].choices == []


def test_stream_without_usage_has_none(client: openai.OpenAI) -> None:
    """No usage chunk is sent unless it was asked for."""
    chunks = list(client.chat.completions.create(model=HAIKU, messages=say("Say hello."), stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_small_budget_leaves_gemini_empty(client: openai.OpenAI) -> None:
    """Hidden reasoning eats a budget of 64 tokens: HTTP 200, finish reason length, empty text; not so for the others."""
    found = {
        model: client.chat.completions.create(model=model, messages=say("Say hello in one sentence."), max_tokens=64)
        for model in PROFILE
    }
    assert (found[GEMINI].choices[0].finish_reason, found[GEMINI].choices[0].message.content) == ("length", "")
    for model in CLAUDES:
        assert found[model].choices[0].finish_reason == "stop"
        assert found[model].choices[0].message.content


@given(limit=st.integers(1, 400), count=st.integers(0, 50), model=st.sampled_from(list(PROFILE)))
def test_no_limit_is_ever_exceeded(limit: int, count: int, model: str) -> None:
    """Output tokens stay within max_tokens, and exactly the answers that were cut say so."""
    task = SUITE.tasks[0]
    reply = make_reply(PROFILE[model], bodies(task, max_tokens=limit), seed=1, count=count, scale=1)
    assert reply.completion_tokens <= limit
    whole = make_reply(PROFILE[model], bodies(task, max_tokens=100_000), seed=1, count=count, scale=1)
    assert whole.finish_reason == "stop"
    if reply.finish_reason == "length":
        assert reply.completion_tokens == limit


@pytest.mark.parametrize("model", CLAUDES)
def test_claude_fences_json_unless_in_json_mode(client: openai.OpenAI, model: str) -> None:
    """The two Claude models wrap JSON in one Markdown fence; with `response_format` they do not."""
    prompt = SUITE.tasks[4].messages(0)
    fenced = client.chat.completions.create(model=model, messages=prompt).choices[0].message.content  # type: ignore[arg-type]
    assert fenced is not None
    assert fenced.startswith("```json\n")
    assert fenced.endswith("\n```")
    plain = client.chat.completions.create(
        model=model,
        messages=prompt,  # type: ignore[arg-type]
        response_format={"type": "json_object"},
    )
    assert isinstance(json.loads(plain.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("model", list(PROFILE))
@pytest.mark.parametrize("task", SUITE.tasks, ids=lambda task: task.name)
def test_every_task_is_answered_rightly(task: Any, model: str) -> None:
    """All answers pass the suite's checks (the JSON once unfenced), in different words, near the model's mean size."""
    replies = [make_reply(PROFILE[model], bodies(task), seed=9, count=count, scale=1) for count in range(60)]
    texts = [reply.text for reply in replies]
    assert len(set(texts)) > 15
    for text in texts:
        for check in task.checks:
            result = check.run(text, parse_json)
            assert result is not None
            assert result.passed, text
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert fmean(map(len, texts)) == pytest.approx(PROFILE[model].chars[task.name], rel=0.08)
    if task.schema is not None:
        holds = compile_schema(task.schema)
        bodies_ = [text.removeprefix("```json\n").removesuffix("\n```") for text in texts]
        assert all(holds(parse_json(body)) for body in bodies_)
        assert all((body != text) == (model in CLAUDES) for body, text in zip(bodies_, texts, strict=True))


def test_corrected_function_passes_the_tests_of_the_suite() -> None:
    """The code in the bug-fix answers passes the suite's own code check."""
    task = next(task for task in SUITE.tasks if task.name == "bug-fix")
    check = make_check(task.code_checks[0].function)
    result = check.run(make_reply(PROFILE[HAIKU], bodies(task), seed=2, count=3, scale=1).text, parse_json)
    assert result is not None
    assert result.passed


@pytest.mark.parametrize(
    ("model", "latency_s", "fastest_s", "slowest_s", "chars"),
    [(GEMINI, 5.65, 3.14, 9.48, 562), (HAIKU, 9.13, 2.95, 19.76, 818), (SONNET, 10.47, 3.52, 23.31, 649)],
)
def test_models_behave_as_published(
    model: str, latency_s: float, fastest_s: float, slowest_s: float, chars: int
) -> None:
    """Mean latency, its range, and the mean output over the five tasks are the published ones."""
    profile = PROFILE[model]
    latencies = [latency_for(1, profile, task.name, count) for task in SUITE.tasks for count in range(40)]
    assert fmean(latencies) == pytest.approx(latency_s, rel=0.03)
    assert fastest_s <= min(latencies) <= max(latencies) <= slowest_s
    sizes = [
        len(make_reply(profile, bodies(task), seed=1, count=count, scale=1).text)
        for task in SUITE.tasks
        for count in range(40)
    ]
    assert fmean(sizes) == pytest.approx(chars, rel=0.03)


def test_answers_do_not_depend_on_the_order_of_arrival() -> None:
    """Two gateways with one seed say the same to each prompt, whatever was asked in between."""
    said: list[list[str | None]] = []
    for order in ((GEMINI, HAIKU, SONNET), (SONNET, GEMINI, HAIKU)):
        with Gateway(seed=8, scale=1000) as running, openai.OpenAI(base_url=running.base_url, api_key="any") as client:
            found = {
                (model, prompt): client.chat.completions.create(model=model, messages=say(prompt))
                .choices[0]
                .message.content
                for model in order
                for prompt in ("Say hello in one sentence.", "What else?")
            }
        said.append([found[key] for key in sorted(found)])
    assert said[0] == said[1]


def test_passing_faults_are_rare_and_never_two_in_a_row() -> None:
    """About 2 % of the requests get 429 or 503, and the next request with that prompt is answered."""
    faults = [fault_for(4, model, "prompt", count) for model in PROFILE for count in range(3000)]
    assert 0.01 < sum(fault is not None for fault in faults) / len(faults) < 0.03
    assert {fault.status for fault in faults if fault is not None} == {429, 503}
    assert not any(one is not None and two is not None for one, two in pairwise(faults[:3000]))


def test_the_client_retries_a_fault_after_the_stated_wait() -> None:
    """A 429 or 503 carries Retry-After; without retries the caller sees it, with them the answer."""
    prompt = "Say hello in one sentence."
    seed = next(seed for seed in range(1000) if fault_for(seed, GEMINI, f"None\x1e{prompt}", 0) is not None)
    with (
        Gateway(seed=seed) as running,
        openai.OpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model=GEMINI, messages=say(prompt))
    assert caught.value.status_code in (429, 503)
    assert caught.value.response.headers["retry-after"] == "1"
    assert float(caught.value.response.headers["retry-after-ms"]) == round(1000 / LATENCY_SCALE)
    with Gateway(seed=seed, scale=1000) as running, openai.OpenAI(base_url=running.base_url, api_key="any") as client:
        raw = client.chat.completions.with_raw_response.create(model=GEMINI, messages=say(prompt))
        assert raw.retries_taken == 1
        assert running.requests == 2


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "gpt-nowhere"}, openai.NotFoundError, "gpt-nowhere"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"n": 2}, openai.BadRequestError, "one choice"),
    ],
)
def test_refuses_bad_requests(client: openai.OpenAI, change: dict[str, Any], error: type[Exception], said: str) -> None:
    """Unknown models and bad parameters get OpenAI's status and error body."""
    request: dict[str, Any] = {"model": GEMINI, "messages": say("Say hello."), **change}
    with pytest.raises(error, match=said):
        client.chat.completions.create(**request)


def test_refuses_requests_without_a_key(gateway: Gateway) -> None:
    """A missing key is HTTP 401 with OpenAI's error body, for the models as for completions."""
    with httpx2.Client(base_url=gateway.base_url) as nobody:
        for response in (nobody.get("/models"), nobody.post("/chat/completions", json={})):
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"


def test_refuses_what_is_not_json(gateway: Gateway) -> None:
    """A body that is not JSON is HTTP 400, not a fault of the server."""
    with httpx2.Client(base_url=gateway.base_url, headers={"Authorization": "Bearer any"}) as client:
        for content in (b"{", b"[]", b"\xff", b'{"messages": []}'):
            assert client.post("/chat/completions", content=content).status_code == 400


def test_base_url_only_while_running() -> None:
    """A gateway that is not running has no URL."""
    with pytest.raises(RuntimeError, match="not running"):
        _ = Gateway().base_url

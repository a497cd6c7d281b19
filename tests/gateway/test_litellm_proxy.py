"""Instrumentation and bench against the LiteLLM proxy: a server that nobody here wrote, over real HTTP.

The proxy runs in an environment of its own, answers with its own mock responses, and listens on loopback only.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import tierwise
from support.litellm_proxy import Proxy, Recorded, serving

pytestmark = pytest.mark.gateway

TICKET = json.dumps(
    {
        "title": "Checkout times out",
        "severity": "high",
        "component": "payments",
        "affected_users": 340,
        "summary": "Card.",
    }
)
MODELS: dict[str, dict[str, Any]] = {
    "plain-model": {"mock_response": TICKET, "input_cost_per_token": 3e-7, "output_cost_per_token": 2.5e-6},
    "fencing-model": {
        "mock_response": f"```json\n{TICKET}\n```",
        "input_cost_per_token": 3e-6,
        "output_cost_per_token": 1.5e-5,
    },
    "model-without-price": {"mock_response": "Hello."},
    "limited-model": {"mock_response": "litellm.RateLimitError"},
    "broken-model": {"mock_response": "litellm.InternalServerError"},
    "short-model": {"mock_response": "litellm.ContextWindowExceededError"},
}
ASK: list[Any] = [{"role": "user", "content": "Turn the ticket into JSON."}]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A LiteLLM proxy, ended with the module."""
    with serving(tmp_path_factory.mktemp("litellm"), MODELS) as made:
        yield made


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    """Providers and a store of this test alone."""
    made = Recorded(tmp_path)
    yield made
    tierwise.shutdown()
    made.tracer_provider.shutdown()
    made.meter_provider.shutdown()


def _client(proxy: Proxy, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=proxy.base_url, api_key=proxy.key, **({"max_retries": 0} | options))


def test_plain_call_carries_the_cost_that_the_proxy_reports(proxy: Proxy, recorded: Recorded) -> None:
    """Span and row hold the answer's model, tokens and outcome, and the proxy's cost header as the cost."""
    with recorded.instrument(_client(proxy)) as client, tierwise.task("strict-json", expects="json"):
        raw = client.chat.completions.with_raw_response.create(model="plain-model", messages=ASK, temperature=0)
    answer = raw.parse()
    span, row = recorded.only()
    assert (row.task, row.outcome, row.json_form, row.finish_reasons) == ("strict-json", "success", "plain", ("stop",))
    assert (row.response_model, row.response_id) == (answer.model, answer.id)
    assert (row.input_tokens, row.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    expected = answer.usage.prompt_tokens * 3e-7 + answer.usage.completion_tokens * 2.5e-6
    assert float(raw.headers["x-litellm-response-cost"]) == pytest.approx(expected, rel=1e-9)
    assert row.cost_usd == pytest.approx(expected, rel=1e-9)
    assert row.cost_source == "provider"
    assert span["tierwise.cost.amount"] == row.cost_usd
    assert span["gen_ai.usage.input_tokens"] == row.input_tokens
    assert span["server.address"] == "127.0.0.1"
    assert span["tierwise.task"] == "strict-json"


def test_fenced_json_is_told_from_valid_json(proxy: Proxy, recorded: Recorded) -> None:
    """HTTP 200, finish reason `stop`, and still no success: the JSON came inside a Markdown fence."""
    with recorded.instrument(_client(proxy), task="strict-json") as client:
        client.chat.completions.create(model="fencing-model", messages=ASK, response_format={"type": "json_object"})
    span, row = recorded.only()
    assert (row.outcome, row.json_form, row.finish_reasons) == ("json_fenced", "fenced", ("stop",))
    assert span["tierwise.json.valid"] is False


def test_stream_gives_the_same_chunks_and_its_usage(proxy: Proxy, recorded: Recorded) -> None:
    """With `stream_usage=True` tokens and cost of a stream are recorded; the caller's text is whole and in order."""
    with recorded.instrument(_client(proxy), task="summary", stream_usage=True) as client:
        chunks = list(client.chat.completions.create(model="plain-model", messages=ASK, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TICKET
    _, row = recorded.only()
    assert (row.stream, row.outcome, row.finish_reasons) == (True, "success", ("stop",))
    assert row.input_tokens is not None
    assert row.output_tokens is not None
    assert row.cost_usd == pytest.approx(row.input_tokens * 3e-7 + row.output_tokens * 2.5e-6, rel=1e-6)
    assert row.cost_source == "provider"
    assert row.time_to_first_chunk_s is not None
    assert 0 < row.time_to_first_chunk_s <= row.duration_s


def test_stream_of_an_unknown_host_is_not_asked_for_usage(proxy: Proxy, recorded: Recorded) -> None:
    """By default a host that tierwise does not know gets the caller's request unchanged: no tokens, no cost, no guess."""
    with recorded.instrument(_client(proxy)) as client:
        chunks = list(client.chat.completions.create(model="plain-model", messages=ASK, stream=True))
    _, row = recorded.only()
    assert all(chunk.usage is None for chunk in chunks)
    assert (row.outcome, row.input_tokens, row.output_tokens, row.cost_usd) == ("success", None, None, None)


def test_stream_left_early_is_cancelled_once(proxy: Proxy, recorded: Recorded) -> None:
    """An application that stops reading ends one span, outcome `cancelled`."""
    with recorded.instrument(_client(proxy)) as client:
        stream = client.chat.completions.create(model="plain-model", messages=ASK, stream=True)
        next(iter(stream))
        stream.close()
    _, row = recorded.only()
    assert row.outcome == "cancelled"


def test_rate_limit_is_an_error_with_its_tries(proxy: Proxy, recorded: Recorded) -> None:
    """A 429 that outlives the client's retries: the caller's exception, one call, each failed try, no cost invented."""
    with recorded.instrument(_client(proxy, max_retries=1)) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="limited-model", messages=ASK)
    span, row = recorded.only()
    assert (row.outcome, row.retries) == ("error", 1)
    assert [attempt.status for attempt in row.failed_tries][:1] == [429]
    assert row.backoff_s > 0
    assert not row.cost_usd
    assert span["tierwise.retries"] == 1
    assert span["error.type"] == row.error_type


def test_server_error_and_wrong_use_are_told_apart(proxy: Proxy, recorded: Recorded) -> None:
    """A 500 counts against the model; an unknown model, a prompt too long and a wrong key are the caller's fault."""
    with recorded.instrument(_client(proxy)) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="broken-model", messages=ASK)
        for model in ("no-such-model", "short-model"):
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model=model, messages=ASK)
        with pytest.raises(openai.APIStatusError):
            client.with_options(api_key="sk-wrong").chat.completions.create(model="plain-model", messages=ASK)
    assert [row.outcome for row in recorded.rows()] == ["error", "rejected", "rejected", "rejected"]


def test_a_model_without_price_has_no_cost(proxy: Proxy, recorded: Recorded) -> None:
    """Where the proxy reports no cost and no catalogue knows the model, cost is absent, not 0."""
    with recorded.instrument(_client(proxy)) as client:
        client.chat.completions.create(model="model-without-price", messages=ASK)
    span, row = recorded.only()
    assert (row.outcome, row.cost_usd, row.cost_source) == ("success", None, None)
    assert "tierwise.cost.amount" not in span


def test_async_calls_at_once_are_all_there_and_all_agree(proxy: Proxy, recorded: Recorded) -> None:
    """Forty calls, twenty at a time, half of them streamed: spans, metrics and store agree on calls, tokens and cost."""

    async def go() -> None:
        limit = asyncio.Semaphore(20)
        client = recorded.instrument(
            openai.AsyncOpenAI(base_url=proxy.base_url, api_key=proxy.key, max_retries=0), stream_usage=True
        )

        async def ask(number: int) -> None:
            async with limit:
                with tierwise.task(f"task-{number % 4}"):
                    reply = await client.chat.completions.create(
                        model="plain-model", messages=ASK, stream=number % 2 == 0, timeout=60
                    )
                    if number % 2 == 0:
                        async for _ in reply:
                            pass

        async with client:
            await asyncio.gather(*(ask(number) for number in range(40)))

    asyncio.run(go())
    rows, spans, sums = recorded.rows(), recorded.spans(), recorded.sums()
    assert (len(rows), len(spans), sums["tierwise.calls"]) == (40, 40, 40)
    assert {row.outcome for row in rows} == {"success"}
    assert {row.task for row in rows} == {"task-0", "task-1", "task-2", "task-3"}
    tokens = sum((row.input_tokens or 0) + (row.output_tokens or 0) for row in rows)
    assert tokens > 0
    assert sums["gen_ai.client.token.usage.sum"] == tokens
    attributes: list[dict[str, Any]] = [dict(span.attributes or {}) for span in spans]
    assert sum(held["gen_ai.usage.input_tokens"] + held["gen_ai.usage.output_tokens"] for held in attributes) == tokens
    cost = sum(row.cost_usd or 0.0 for row in rows)
    assert sums["tierwise.call.cost"] == pytest.approx(cost, rel=1e-9)
    assert sum(held["tierwise.cost.amount"] for held in attributes) == pytest.approx(cost, rel=1e-9)


def test_keys_are_nowhere_in_what_is_recorded(proxy: Proxy, recorded: Recorded) -> None:
    """The key of the proxy stands neither in a span nor in the bytes of the store, not even after an error."""
    with recorded.instrument(_client(proxy)) as client:
        client.chat.completions.create(model="plain-model", messages=ASK)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="no-such-model", messages=ASK)
    assert len(recorded.rows()) == 2
    assert all(proxy.key not in span.to_json() for span in recorded.spans())
    for path in recorded.store.parent.glob("tierwise.db*"):
        assert proxy.key.encode() not in path.read_bytes()


def test_bench_measures_the_proxy(proxy: Proxy, tmp_path: Path) -> None:
    """`tierwise bench --json` with the built-in suite: runs, costs and failures are what the proxy's mocks give."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TIERWISE_"))}
    environment |= {"OPENAI_API_KEY": proxy.key, "TIERWISE_STORE": str(tmp_path / "bench.db")}
    command = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "bench", "--base-url", proxy.base_url]
    command += ["--models", "plain-model,fencing-model", "--runs", "2", "--json"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    plain, fencing = result["models"]["plain-model"], result["models"]["fencing-model"]
    assert (plain["runs"], fencing["runs"]) == (10, 10)
    assert (plain["json_valid_rate"], fencing["json_valid_rate"]) == (1.0, 0.0)
    assert (plain["non_stop_finish_reasons"], plain["retries"]) in ((0, 0), ({}, 0))
    assert 0 < plain["cost_usd"] < fencing["cost_usd"]
    assert result["tasks"]["strict-json"] == {"plain-model": "pass", "fencing-model": "fail"}
    assert proxy.key not in done.stdout + done.stderr
    with tierwise.open_store(tmp_path / "bench.db") as store:
        rows = [row for row in store.calls() if row.round >= 0 and "max_tokens" not in row.labels]
    assert len(rows) == 20
    assert {row.grade for row in rows} == {"randomised"}
    assert {row.outcome for row in rows if row.task == "strict-json"} == {"success", "json_fenced"}
    assert sum(row.cost_usd or 0 for row in rows if row.candidate == "plain-model") == pytest.approx(plain["cost_usd"])


def test_bench_says_what_is_wrong_with_the_server(proxy: Proxy, tmp_path: Path) -> None:
    """An unknown model at a real gateway: exit 2 and a message that names it, no traceback."""
    environment = os.environ | {"OPENAI_API_KEY": proxy.key, "TIERWISE_STORE": str(tmp_path / "bench.db")}
    command = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "bench", "--base-url", proxy.base_url]
    command += ["--models", "no-such-model", "--runs", "1"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "no-such-model" in done.stderr
    assert "Traceback" not in done.stderr

"""The ladder of a routed run through the LiteLLM proxy, whose mocks answer with fences, truncations and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import tierwise
from support.litellm_proxy import Proxy, Recorded, serving
from tierwise.core.policy import Ladder, Policy, TaskPolicy
from tierwise.evidence.rows import CallRow

pytestmark = pytest.mark.gateway

TICKET = json.dumps({"title": "Checkout times out", "severity": "high"})
FENCED = f"```json\n{TICKET}\n```"


def _mock(answer: Any, price: float = 1e-6) -> dict[str, Any]:
    return {"mock_response": answer, "input_cost_per_token": price, "output_cost_per_token": 5 * price}


def _completion(content: str, finish_reason: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}
    return {
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}],
        "model": "cut-model",
        "usage": usage,
    }


MOCKS = {
    "fencing-model": _mock(FENCED),
    "cut-model": _mock(_completion(TICKET[:20], "length"), 2e-6),
    "plain-model": _mock(TICKET, 3e-6),
    "limited-model": _mock("litellm.RateLimitError"),
    "broken-model": _mock("litellm.InternalServerError"),
    "breaking-model": _mock("Exception: mock_streaming_error"),
}
ASK: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Turn the ticket into JSON."}]}
JSON_MODE: dict[str, Any] = ASK | {"response_format": {"type": "json_object"}}
CLIMB = Ladder(escalate_on=("json_fenced", "json_invalid", "truncated", "empty"))
TASK = "strict-json"


class Ticket(BaseModel):
    """What the application wants to have."""

    title: str
    severity: str


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A LiteLLM proxy, ended with the module."""
    with serving(tmp_path_factory.mktemp("litellm"), MOCKS) as made:
        yield made


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """Providers, a store and a place for routes of this test alone."""
    monkeypatch.setenv("TIERWISE_ROUTES", str(tmp_path / "routes.json"))
    made = Recorded(tmp_path)
    yield made
    tierwise.shutdown()
    made.tracer_provider.shutdown()
    made.meter_provider.shutdown()


class Application:
    """A client of either kind whose calls are routed among some candidates; every call is awaited where it has to be."""

    def __init__(self, proxy: Proxy, recorded: Recorded, kind: str, *candidates: str, **policy: Any) -> None:
        self._kind, self._recorded = kind, recorded
        self._given: dict[str, Any] = {"base_url": proxy.base_url, "api_key": proxy.key, "max_retries": 0}
        self._policy = Policy(tasks={TASK: TaskPolicy(task=TASK, candidates=candidates, **policy)})

    def ask(self, method: str = "create", **arguments: Any) -> Any:
        """What the client gives; of a stream its chunks."""
        if self._kind == "sync":
            with self._instrumented(openai.OpenAI(**self._given)) as client:
                found = getattr(client.chat.completions, method)(**arguments)
                return list(found) if arguments.get("stream") else found
        return asyncio.run(self._ask(method, arguments))

    async def _ask(self, method: str, arguments: dict[str, Any]) -> Any:
        async with self._instrumented(openai.AsyncOpenAI(**self._given)) as client:
            found = await getattr(client.chat.completions, method)(**arguments)
            return [chunk async for chunk in found] if arguments.get("stream") else found

    def _instrumented(self, client: Any) -> Any:
        return self._recorded.instrument(client, task=TASK, config=self._policy, stream_usage=True)


def _told(rows: list[CallRow]) -> list[tuple[str, str, int, str]]:
    return [(row.candidate, row.arm, row.rung, row.outcome) for row in rows]


def _text(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which client asks."""
    return str(request.param)


def test_fences_and_truncations_climb_to_an_answer_that_will_do(proxy: Proxy, recorded: Recorded, kind: str) -> None:
    """Each rung is a call with the proxy's own cost; all of them are one run, charged to its first candidate."""
    application = Application(proxy, recorded, kind, "fencing-model", "cut-model", "plain-model", ladder=CLIMB)
    answer = application.ask(**JSON_MODE)
    assert answer.choices[0].message.content == TICKET
    rows = recorded.rows()
    assert _told(rows) == [
        ("fencing-model", "primary", 0, "json_fenced"),
        ("cut-model", "primary", 1, "truncated"),
        ("plain-model", "primary", 2, "success"),
    ]
    assert {row.cost_source for row in rows} == {"provider"}
    with tierwise.open_store(recorded.store) as store:
        (run,) = store.runs()
        evidence = [one for one in store.evidence() if one.key.rung == 0]
    assert (run.calls, run.success, run.candidate, run.cleaned) == (3, True, "fencing-model", False)
    assert run.cost_usd == pytest.approx(sum(row.cost_usd or 0 for row in rows), rel=1e-9)
    assert {row.run_id for row in rows} == {run.run_id}
    assert [(one.key.candidate, one.evidence.n, one.evidence.successes) for one in evidence] == [
        ("fencing-model", 1, 1)
    ]
    above = [span for span in recorded.spans() if span.name == f"run {TASK}"]
    assert len(above) == 1
    below = [span for span in recorded.spans() if span.parent and span.parent.span_id == above[0].context.span_id]
    assert len(below) == 3


def test_a_fence_is_taken_off_instead_of_another_call(proxy: Proxy, recorded: Recorded, kind: str) -> None:
    """Local clean-up comes before the next rung: the same response, without the fence, and one call only."""
    ladder = Ladder(escalate_on=("json_fenced",), cleanup=("json_fenced",))
    application = Application(proxy, recorded, kind, "fencing-model", "plain-model", ladder=ladder)
    answer = application.ask(**JSON_MODE)
    assert type(answer) is openai.types.chat.ChatCompletion
    assert answer.choices[0].message.content == TICKET
    assert _told(recorded.rows()) == [("fencing-model", "primary", 0, "json_fenced")]
    with tierwise.open_store(recorded.store) as store:
        (run,) = store.runs()
    assert (run.success, run.cleaned, run.outcome) == (True, True, "json_fenced")


@pytest.mark.parametrize("cleanup", [(), ("json_fenced",)])
def test_parsed_answers_climb_and_are_cleaned_alike(
    proxy: Proxy, recorded: Recorded, kind: str, cleanup: tuple[str, ...]
) -> None:
    """`.parse()` of a fenced answer raises in the client itself; here it gives the object, cleaned or of the next rung."""
    ladder = Ladder(escalate_on=("json_fenced", "json_invalid", "json_mismatch"), cleanup=cleanup)
    application = Application(proxy, recorded, kind, "fencing-model", "plain-model", ladder=ladder)
    answer = application.ask("parse", **ASK, response_format=Ticket)
    assert answer.choices[0].message.parsed == Ticket(title="Checkout times out", severity="high")
    assert [row.candidate for row in recorded.rows()] == ["fencing-model", "plain-model"][: 1 if cleanup else 2]


def test_errors_go_to_the_fallback(proxy: Proxy, recorded: Recorded, kind: str) -> None:
    """A 429 and a 500 of the proxy: the next candidate takes over, whole and streamed."""
    application = Application(proxy, recorded, kind, "limited-model", "broken-model", "plain-model")
    assert application.ask(**JSON_MODE).choices[0].message.content == TICKET
    assert _text(application.ask(**JSON_MODE, stream=True)) == TICKET
    told = [
        ("limited-model", "primary", 0, "error"),
        ("broken-model", "fallback", 1, "error"),
        ("plain-model", "fallback", 2, "success"),
    ]
    assert _told(recorded.rows()) == told * 2


def test_a_stream_that_has_begun_is_the_applications(proxy: Proxy, recorded: Recorded, kind: str) -> None:
    """What a stream turns out to be after its first content, a fence here, changes nothing for its reader."""
    application = Application(proxy, recorded, kind, "fencing-model", "plain-model", ladder=CLIMB)
    assert _text(application.ask(**JSON_MODE, stream=True)) == FENCED
    assert _told(recorded.rows()) == [("fencing-model", "primary", 0, "json_fenced")]


def test_a_stream_that_breaks_at_its_beginning_is_begun_anew(proxy: Proxy, recorded: Recorded, kind: str) -> None:
    """An error of the stream before any content: the application sees the next candidate's stream, and only that."""
    application = Application(proxy, recorded, kind, "breaking-model", "plain-model")
    assert _text(application.ask(**JSON_MODE, stream=True)) == TICKET
    assert _told(recorded.rows()) == [
        ("breaking-model", "primary", 0, "error"),
        ("plain-model", "fallback", 1, "success"),
    ]

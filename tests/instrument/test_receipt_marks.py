"""Responses carry their receipt in one private attribute: everything else about them stays as the bare client's."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import tierwise
from support.canned import ASK, Canned, Reply, async_client, chat, stream, sync_client, typed
from support.ducks import Completions, Duck, observe
from support.routing import AUTO, JSON_CLIMB, policy, routed
from tierwise.core.cost import RateBand, Rates
from tierwise.core.errors import ConfigError, ReceiptError
from tierwise.core.evidence import key_of, key_of_run
from tierwise.core.receipt import Receipt, read_receipt, unit_of_run
from tierwise.testing import FixedPrices, MemoryRecorder, chat_body, instrument_in_memory

RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini-2025", "status": "completed",
    "output": [{"type": "message", "id": "m", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": "Hi.", "annotations": []}]}],
    "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5, "input_tokens_details": {"cached_tokens": 0},
              "output_tokens_details": {"reasoning_tokens": 0}},
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
}  # fmt: skip
RATES = Rates(source="catalogue", bands=(RateBand(input=1.0, output=2.0),), identity="00112233")
PRICES = FixedPrices(fixed=RATES)


class Said(BaseModel):
    """What the parsed answers hold."""

    word: str


class Late(MemoryRecorder):
    """Keeps calls that are to be priced later as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def finish(self, span: Any, call: Any, *, price_later: Any = None, content: Any = None) -> None:
        self.waiting.append((call, price_later))


def made(*replies: Reply, **options: Any) -> tuple[Any, MemoryRecorder]:
    """An instrumented client on canned replies."""
    client, _ = sync_client(*replies)
    return client, instrument_in_memory(client, task="summary", prices=PRICES, **options)


def read(text: str) -> Receipt:
    """The receipt in a text, as another process reads it."""
    import time

    return read_receipt(text, now_s=time.time())


def test_the_receipt_of_a_response_names_its_call() -> None:
    """Key, success, cost and response id of the receipt are those of the recorded call."""
    client, recorder = made(chat())
    receipt = read(tierwise.receipt(client.chat.completions.create(**ASK)))
    (call,) = recorder.calls
    assert receipt.key == key_of(call)
    assert (receipt.started_at_ns, receipt.response_id) == (call.started_at_ns, "chatcmpl-1")
    assert call.cost is not None
    assert (receipt.succeeded, receipt.cost_usd) == (True, call.cost.amount_usd)


def test_dumps_equality_and_representation_are_the_bare_clients() -> None:
    """A marked response equals a bare one both ways and dumps, prints, iterates and validates like it."""
    bare = sync_client(chat())[0].chat.completions.create(**ASK)
    client, _ = made(chat())
    response = client.chat.completions.create(**ASK)
    assert tierwise.receipt(response)
    assert response == bare
    assert bare == response
    assert response.model_dump() == bare.model_dump()
    assert response.model_dump_json() == bare.model_dump_json()
    assert response.to_dict() == bare.to_dict()
    assert repr(response) == repr(bare)
    assert dict(response) == dict(bare)
    assert response.model_fields_set == bare.model_fields_set
    assert response.model_extra == bare.model_extra
    assert type(response).model_validate(response.model_dump()) == bare
    other = sync_client(Reply(body=chat_body("Another.")))[0].chat.completions.create(**ASK)
    assert response != other


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: one.model_copy(deep=True)])
def test_copies_keep_the_receipt(copied: Any) -> None:
    """A copy, shallow or deep, equals its original and has the same receipt."""
    client, _ = made(chat())
    response = client.chat.completions.create(**ASK)
    again = copied(response)
    assert again == response
    assert tierwise.receipt(again) == tierwise.receipt(response)


def test_pickled_it_needs_no_tierwise() -> None:
    """A pickled response loads where tierwise is not there, equals its original and still has its receipt here."""
    client, _ = made(chat())
    response = client.chat.completions.create(**ASK)
    data = pickle.dumps(response)
    again = pickle.loads(data)  # noqa: S301 - our own
    assert again == response
    assert tierwise.receipt(again) == tierwise.receipt(response)
    code = (
        "import sys; sys.modules['tierwise'] = None; import pickle;"
        "one = pickle.loads(sys.stdin.buffer.read()); print(one.id, len(one.__dict__['_tierwise_receipt']) > 50)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.split() == [b"chatcmpl-1", b"True"]


def test_pickling_never_fails_for_want_of_a_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a useless key a response can be pickled all the same; only asking for its receipt fails."""
    monkeypatch.setenv("TIERWISE_RECEIPT_KEY", "short")
    client, _ = made(chat())
    response = client.chat.completions.create(**ASK)
    again = pickle.loads(pickle.dumps(response))  # noqa: S301 - our own
    assert again == response
    with pytest.raises(ConfigError, match="TIERWISE_RECEIPT_KEY"):
        tierwise.receipt(response)
    with pytest.raises(ReceiptError):
        tierwise.receipt(again)


def test_a_streams_receipt_is_there_at_its_end() -> None:
    """Before the last chunk there is none, and it says so; afterwards it is the call's."""
    client, recorder = made(stream("Hel", "lo."), stream_usage=True)
    answer = client.chat.completions.create(**ASK, stream=True)
    next(iter(answer))
    with pytest.raises(ReceiptError, match="end"):
        tierwise.receipt(answer)
    list(answer)
    assert read(tierwise.receipt(answer)).key == key_of(recorder.calls[0])


def test_a_stream_left_early_has_one_too() -> None:
    """A cancelled call can be judged: its receipt is no success."""
    client, recorder = made(stream("Hel", "lo."))
    with client.chat.completions.create(**ASK, stream=True) as answer:
        next(iter(answer))
    assert recorder.calls[0].outcome == "cancelled"
    assert not read(tierwise.receipt(answer)).succeeded


def test_the_stream_helper_has_its_streams() -> None:
    """`.stream()` gives the receipt of the stream inside it."""
    client, recorder = made(stream("Hel", "lo."))
    with typed(client).stream(**ASK) as answer:
        answer.get_final_completion()
    assert read(tierwise.receipt(answer)).key == key_of(recorder.calls[0])


def test_parsed_and_raw_responses_have_one() -> None:
    """`.parse()`, raw responses and streamed raw ones carry the receipt of their call."""
    body = Reply(body=chat_body('{"word": "hi"}'))
    client, recorder = made(body)
    parsed = typed(client).parse(**ASK, response_format=Said)
    raw = client.chat.completions.with_raw_response.create(**ASK)
    with client.chat.completions.with_streaming_response.create(**ASK) as streamed:
        with pytest.raises(ReceiptError, match="end"):
            tierwise.receipt(streamed)
        streamed.read()
    found = [read(tierwise.receipt(one)).started_at_ns for one in (parsed, raw, streamed)]
    assert found == [call.started_at_ns for call in recorder.calls]
    assert parsed == typed(sync_client(body)[0]).parse(**ASK, response_format=Said)


def test_the_responses_api_and_embeddings_have_one() -> None:
    """Every API of the client whose calls are recorded gives receipts."""
    vectors = {"object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
               "usage": {"prompt_tokens": 1, "total_tokens": 1}}  # fmt: skip
    client, recorder = made(Reply(body=RESPONSE), Reply(body=vectors))
    answer = client.responses.create(model="gpt-5-mini", input="Hi.")
    vector = client.embeddings.create(model="e", input="x")
    found = [read(tierwise.receipt(one)).key for one in (answer, vector)]
    assert found == [key_of(call) for call in recorder.calls]
    assert answer == sync_client(Reply(body=RESPONSE))[0].responses.create(model="gpt-5-mini", input="Hi.")


def test_async_responses_and_streams_have_one() -> None:
    """The async client's responses, parsed ones and streams carry receipts as well."""

    async def run() -> None:
        client, _ = async_client(chat(), stream("a", "b"), Reply(body=chat_body('{"word": "hi"}')))
        recorder = instrument_in_memory(client, task="summary", prices=PRICES)
        response = await client.chat.completions.create(**ASK)
        answer = await client.chat.completions.create(**ASK, stream=True)
        async for _ in answer:
            pass
        parsed = await typed(client).parse(**ASK, response_format=Said)
        found = [read(tierwise.receipt(one)).started_at_ns for one in (response, answer, parsed)]
        assert found == [call.started_at_ns for call in recorder.calls]
        await client.close()

    anyio.run(run)


def test_a_run_is_one_thing_whichever_of_its_calls_is_judged() -> None:
    """Receipts of two calls of one run name the run; taken inside the block they are open, after it settled."""
    client, recorder = made(chat(), chat())
    with tierwise.task("summary", run_id="r-1"):
        first = client.chat.completions.create(**ASK)
        inside = read(tierwise.receipt(first))
        second = client.chat.completions.create(**ASK)
    (run,) = recorder.runs
    after = [read(tierwise.receipt(one)) for one in (first, second)]
    assert {one.unit for one in (inside, *after)} == {unit_of_run("summary", "r-1", run.started_at_ns)}
    assert {one.key for one in after} == {key_of_run(run)}
    assert (inside.settled, [one.settled for one in after]) == (False, [True, True])
    assert after[0].cost_usd == run.cost_usd


def test_a_routed_run_is_judged_as_a_whole() -> None:
    """The answer of an escalated run carries the run's receipt: first candidate, cost of all calls, final success."""
    found = routed(
        chat("No JSON."),
        chat('{"a": 1}'),
        policy=policy("fast", "deep", expects="json", ladder=JSON_CLIMB),
        prices=PRICES,
    )
    receipt = read(tierwise.receipt(found.client.chat.completions.create(**AUTO)))
    (run,) = found.recorder.runs
    assert receipt.key == key_of_run(run)
    assert (receipt.candidate, receipt.succeeded, receipt.settled, receipt.cost_usd) == (
        "fast",
        True,
        True,
        run.cost_usd,
    )


def test_an_answer_cleaned_in_place_keeps_its_receipt() -> None:
    """What clean-up hands out in the place of a fenced answer, parsed again included, carries the receipt."""
    from tierwise.core.policy import Ladder

    ladder = Ladder(cleanup=("json_fenced",), escalate_on=("json_fenced",))
    fenced = chat('```json\n{"word": "hi"}\n```')
    found = routed(fenced, policy=policy("fast", "deep", expects="json", ladder=ladder), prices=PRICES)
    response = typed(found.client).parse(**AUTO, response_format=Said)
    assert response.choices[0].message.parsed == Said(word="hi")
    assert read(tierwise.receipt(response)).candidate == "fast"


class Plain:
    """A response of no particular make, which compares by all that it holds."""

    def __init__(self, body: Any) -> None:
        self.choices, self.model, self.usage, self.id = body.choices, body.model, body.usage, body.id

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def test_clients_of_another_make_give_receipts() -> None:
    """The response of a client that is observed by its methods stays as it is, and has a receipt as long as it lives."""
    completions = Completions()
    bare = completions.body = Plain(completions.body)
    client, recorder = observe(Duck(completions), task="duck")
    response = client.chat.completions.create(**ASK)
    assert response is bare
    assert list(vars(response)) == ["choices", "model", "usage", "id"]
    assert read(tierwise.receipt(response)).key == key_of(recorder.calls[0])


def test_streams_of_another_make_give_receipts() -> None:
    """A stand-in for somebody's generator has the receipt of its call once it has been read."""
    client, recorder = observe(Duck(Completions()), task="duck")
    answer = client.chat.completions.create(**ASK, stream=True)
    list(answer)
    assert read(tierwise.receipt(answer)).key == key_of(recorder.calls[0])


def test_what_has_no_receipt_says_so() -> None:
    """A response of a bare client, a text, `None`: a `ReceiptError` says what to pass."""
    bare = sync_client(chat())[0].chat.completions.create(**ASK)
    for one in (bare, "Hello.", None, {"id": "x"}):
        with pytest.raises(ReceiptError, match="instrument"):
            tierwise.receipt(one)


def test_uninstrumented_again_responses_are_bare() -> None:
    """After `uninstrument` nothing of ours is on a response."""
    client, _ = sync_client(chat())
    instrument_in_memory(client)
    tierwise.uninstrument(client)
    assert "_tierwise_receipt" not in vars(client.chat.completions.create(**ASK))


def test_a_call_that_ended_before_prices_were_there_is_priced_for_its_receipt() -> None:
    """The epoch depends on the price: the receipt waits for it, so that the verdict lands in the call's own bucket."""
    prices, late = FixedPrices(fixed=None, ready=False), Late()
    client, _ = sync_client(chat())
    instrument_in_memory(client, task="summary", prices=prices, recorder=late)
    response = client.chat.completions.create(**ASK)
    prices.fixed, prices.ready = RATES, True
    receipt = read(tierwise.receipt(response))
    ((call, price),) = late.waiting
    assert receipt.key == key_of(price(call)) != key_of(call)
    assert receipt.cost_usd is not None


def test_canned_sees_the_same_requests() -> None:
    """Nothing about receipts goes over the wire."""
    bare, sent = sync_client(chat())
    bare.chat.completions.create(**ASK)
    client, marked = sync_client(chat())
    assert isinstance(marked, Canned)
    instrument_in_memory(client)
    tierwise.receipt(client.chat.completions.create(**ASK))
    assert sent.bodies == marked.bodies

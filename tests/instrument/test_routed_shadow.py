"""Shadows: a challenger gets the prompt as well, in the background, within bounds, and its answer is never used."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import tierwise
from support.canned import Reply, chat, stream, sync_client
from support.routing import AUTO, MESSAGES, Routed, policy, routed, table
from tierwise import runtime
from tierwise.core.cost import flat_rates
from tierwise.core.pairs import PairSums
from tierwise.core.policy import Ladder
from tierwise.evidence.sqlite import SqliteStore
from tierwise.instrument.shadow import WAITING
from tierwise.testing import FixedPrices

PRICES = FixedPrices(fixed=flat_rates(input=10, output=10))  # 170 micro-USD a canned answer
ALL = policy("fast", "deep", shadow=1.0)


def settle(made: Routed) -> None:
    """Wait for the shadows of a client."""
    assert made.client.__dict__["_tierwise"].wiring.shadows.wait(10)


def test_a_challenger_is_asked_in_the_shadow() -> None:
    """The same prompt without stream, a call of the arm `shadow`, no run, and the pair with what the caller got."""
    made = routed(chat("Hi."), chat("Ho."), policy=ALL, prices=PRICES)
    answer = made.client.chat.completions.create(**AUTO, temperature=0.5)
    assert answer.choices[0].message.content == "Hi."
    settle(made)
    assert made.canned.bodies[1] == {"model": "deep", "messages": MESSAGES, "temperature": 0.5}
    first, shadow = made.recorder.calls
    assert (shadow.candidate, shadow.arm, shadow.rung, shadow.grade) == ("deep", "shadow", 0, "observational")
    assert (shadow.context.run_id, shadow.propensity) == (None, None)
    assert shadow.pair is not None
    assert shadow.pair.candidate == first.candidate == "fast"
    sums = PairSums(**dict(zip(PairSums.__dataclass_fields__, shadow.pair.sums, strict=True)))
    assert (sums.both, sums.n, sums.priced) == (1, 1, 1)
    assert [sums.cost_i, sums.cost_c] == pytest.approx([170e-6, 170e-6])
    assert made.recorder.runs == []


def test_a_stream_has_its_shadow_when_it_has_ended() -> None:
    """Nothing is asked while the application reads."""
    made = routed(stream("Hi", usage=False), chat("Ho."), policy=ALL, prices=PRICES)
    chunks = iter(made.client.chat.completions.create(**AUTO, stream=True))
    next(chunks)
    time.sleep(0.02)
    assert made.asked == ["fast"]
    list(chunks)
    settle(made)
    assert made.asked == ["fast", "deep"]
    assert made.recorder.calls[1].pair is not None
    assert "stream" not in made.canned.bodies[1]


def test_pairs_are_in_the_evidence_of_the_challenger(tmp_path: Path) -> None:
    """The store holds the sums under the challenger's key, by the incumbent's name, added up over calls."""
    client, _ = sync_client(chat("Hi."))
    tierwise.instrument(client, config=ALL, store=tmp_path / "x.db")
    client.__dict__["_tierwise"].wiring.wait_for_prices()  # before, nothing is shadowed
    with tierwise.task("t"):
        for _ in range(3):
            client.chat.completions.create(**AUTO)
    assert runtime._shadows.wait(10)
    assert tierwise.force_flush()
    with SqliteStore.open(tmp_path / "x.db", read_only=True) as store:
        (row,) = [row for row in store.evidence() if row.key.arm == "shadow"]
        assert row.key.candidate == "deep"
        assert row.evidence.pairs["fast"][0] == 3.0
    tierwise.shutdown()


def test_a_slow_or_broken_challenger_is_not_noticed() -> None:
    """The caller has its answer long before; what goes wrong in the shadow is recorded there alone."""
    going = threading.Event()

    def waits(_: Any) -> Exception:
        going.wait(5)
        return RuntimeError("broken")

    made = routed(chat("Hi."), Reply(error=waits), policy=ALL, prices=PRICES)
    started = time.monotonic()
    made.client.chat.completions.create(**AUTO)
    assert time.monotonic() - started < 4
    assert len(made.recorder.calls) == 1
    going.set()
    settle(made)
    assert made.told == [("fast", "primary", 0, "success"), ("deep", "shadow", 0, "error")]


def test_shadows_are_bounded() -> None:
    """Beyond so many that wait the others are left out and counted; nobody waits for room."""
    going = threading.Event()

    def waits(_: Any) -> Exception:
        going.wait(20)
        return RuntimeError("broken")

    replies = [chat("Hi.")]
    made = routed(*replies, policy=ALL, prices=PRICES)
    bare_next = made.canned._next

    def answer(request: Any) -> Any:
        if b'"deep"' in request.content:
            waits(request)
        return bare_next(request)

    made.canned._next = answer  # type: ignore[method-assign]
    for _ in range(WAITING + 20):
        made.client.chat.completions.create(**AUTO)
    shadows = made.client.__dict__["_tierwise"].wiring.shadows
    assert shadows.dropped >= 10
    going.set()
    settle(made)
    assert sum(call.arm == "shadow" for call in made.recorder.calls) + shadows.dropped == WAITING + 20


def test_asynchronous_shadows_are_tasks_of_the_same_loop() -> None:
    """They run beside the application and are waited for by nobody."""

    async def go() -> None:
        made = routed(chat("Hi."), policy=ALL, prices=PRICES, asynchronous=True)
        await made.client.chat.completions.create(**AUTO)
        assert made.asked == ["fast"]
        for _ in range(100):
            await asyncio.sleep(0.001)
            if len(made.recorder.calls) == 2:
                break
        assert made.told[1] == ("deep", "shadow", 0, "success")

    asyncio.run(go())


def test_a_budget_ends_the_shadows_of_the_day() -> None:
    """What shadows have cost decides; a new day begins at nothing, and an unknown cost ends it at once."""
    made = routed(
        chat("Hi."), policy=policy("fast", "deep", shadow=1.0, shadow_budget_usd_per_day=300e-6), prices=PRICES
    )
    shadows = made.client.__dict__["_tierwise"].wiring.shadows
    now = [1e9]
    shadows._clock = lambda: now[0]
    for _ in range(6):
        made.client.chat.completions.create(**AUTO)
        settle(made)
    assert made.asked.count("deep") == 2
    now[0] += 86_400
    made.client.chat.completions.create(**AUTO)
    settle(made)
    assert made.asked.count("deep") == 3
    made = routed(chat("Hi."), policy=policy("fast", "deep", shadow=1.0, shadow_budget_usd_per_day=1.0))
    for _ in range(4):
        made.client.chat.completions.create(**AUTO)
        settle(made)
    assert made.asked.count("deep") == 1


def test_who_has_no_shadow() -> None:
    """High risk, calls kept out of routing, explicit models, conditions: nobody else sees their prompts."""
    made = routed(chat("Hi."), policy=ALL, prices=PRICES)
    create = made.client.chat.completions.create
    with tierwise.task("t", risk="high"):
        create(**AUTO)
    with tierwise.task("t", route=False):
        create(**AUTO)
    create(model="fast", messages=MESSAGES)
    settle(made)
    assert made.asked == ["fast"] * 3


def test_the_share_of_shadows_is_the_policys() -> None:
    """About so many of the runs, drawn apart from the arm; a candidate that exploring gave up is left alone."""
    routes = table(primary="fast", dropped={"bad": "e"})
    made = routed(chat("Hi."), policy=policy("fast", "deep", "bad", shadow=0.3), prices=PRICES, routes=routes)
    for _ in range(200):
        made.client.chat.completions.create(**AUTO)
        settle(made)
    assert 30 < made.asked.count("deep") < 95
    assert "bad" not in made.asked


def test_the_first_call_of_a_run_is_the_one_that_is_compared() -> None:
    """What the ladder made of it later is no part of the pair."""
    made = routed(
        chat(""), chat("Hi."), policy=policy("a", "b", shadow=1.0, ladder=Ladder(escalate_on=("empty",))), prices=PRICES
    )
    made.client.chat.completions.create(**AUTO)
    settle(made)
    (shadow,) = [call for call in made.recorder.calls if call.arm == "shadow"]  # before or after the ladder's next rung
    assert shadow.pair is not None
    assert shadow.pair.sums[:4] == (0.0, 0.0, 1.0, 0.0)  # only the challenger succeeded

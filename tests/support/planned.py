"""A store in which one model clearly beats another on one task, and little is known about a second task."""

from __future__ import annotations

import time
from pathlib import Path

from tierwise.core.call import Answer, Call, Request, TaskContext, Usage
from tierwise.core.cost import Cost
from tierwise.evidence.sqlite import SqliteStore

HOURS = 20
RUNS = 20


def fill(path: Path) -> None:
    """`cheap` succeeds at a tenth of the price of `dear` on strict-json: 20 randomised runs each in 20 past hours."""
    hour = int(time.time()) // 3600 * 3600
    calls = [
        _call(task="strict-json", model=model, at=hour - 3600 * (1 + back) + 60 * i, cost=cost, good=bool(i % lost))
        for back in range(HOURS)
        for i in range(RUNS)
        for model, cost, lost in (("dear", 0.01 + 0.0001 * (i % 5), 10), ("cheap", 0.001 + 0.00001 * (i % 5), 20))
    ]
    calls.append(_call(task="rare", model="dear", at=hour - 3600, cost=0.01, good=True))
    calls.append(_call(task="unassigned", model="dear", at=hour - 3600, cost=0.01, good=True))
    with SqliteStore.open(path) as store:
        store.write(calls)
        store.flush()


def _call(*, task: str, model: str, at: int, cost: float, good: bool) -> Call:
    return Call(
        request=Request(operation="chat", provider="openai", model=model),
        context=TaskContext(name=task, randomised=True),
        answer=Answer(model=model, finish_reasons=("stop",), output_chars=10),
        outcome="success" if good else "json_fenced",
        candidate=model,
        epoch="e1",
        started_at_ns=at * 10**9,
        duration_s=1.0,
        usage=Usage(input_tokens=10, output_tokens=10),
        cost=Cost(amount_usd=cost, source="catalogue"),
    )

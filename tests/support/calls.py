"""Finished calls made by hand, for stores and telemetry."""

from __future__ import annotations

from typing import Any

from tierwise.core.call import Answer, Call, Request, TaskContext, Usage
from tierwise.core.cost import Cost

START_NS = 1_790_000_000_000_000_000


def make_call(task: str = "summary", **changes: Any) -> Call:
    """One call; keywords replace fields of the call, its request (`model`), its context or its answer."""
    context = TaskContext(
        name=task,
        run_id=changes.pop("run_id", None),
        session=changes.pop("session", ""),
        round=changes.pop("round", -1),
        randomised=changes.pop("randomised", False),
    )
    model = changes.pop("model", "gpt-5-mini")
    fields: dict[str, Any] = {
        "request": Request(
            operation="chat", api_type="chat_completions", provider="openai", model=model, max_tokens=64
        ),
        "context": context,
        "answer": Answer(id="r-1", model=model + "-2025", finish_reasons=("stop",), output_chars=42),
        "outcome": "success",
        "candidate": model,
        "epoch": "00ff00ff",
        "started_at_ns": START_NS,
        "duration_s": 1.25,
        "usage": Usage(input_tokens=100, output_tokens=50, cache_read_tokens=10),
        "cost": Cost(amount_usd=0.001, source="catalogue"),
    }
    return Call(**(fields | changes))

"""Recommendations for tests of the report, made by hand so that each test says what it needs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

from tierwise.core.call import Call
from tierwise.core.recommendation import CandidateReport, GuardrailState, Interval, Reason, Recommendation, Verdict
from tierwise.evidence import CallRow, SqliteStore

NOW = 1_795_000_000
SONNET, HAIKU, GEMINI = "claude-sonnet-4-5", "claude-haiku-4-5", "gemini-3.5-flash"


def candidate(
    name: str,
    *,
    role: str = "challenger",
    n: int = 40,
    successes: int = 40,
    cost: float | None = 0.001,
    **changes: object,
) -> CandidateReport:
    """A candidate with one guardrail that holds and is not proven."""
    rate = successes / n if n else None
    limit = GuardrailState(
        metric="json_valid_rate",
        op=">=",
        limit=0.99,
        tested_at=0.99,
        estimate=rate,
        low=0.86,
        high=1.0,
        state="holding",
        runs_to_prove=944,
    )
    fields: dict[str, object] = {
        "candidate": name,
        "role": role,
        "epoch": "e1",
        "grade": "randomised",
        "n": n,
        "buckets": n,
        "successes": successes,
        "success_rate": rate,
        "success_rate_interval": Interval(low=0.8, high=1.0),
        "cost_per_success_usd": cost if successes else None,
        "cost_per_success_interval_usd": Interval(low=cost and cost * 0.9, high=cost and cost * 1.1),
        "cost_per_call_usd": cost,
        "latency_p50_s": 0.05,
        "latency_p50_interval_s": Interval(low=0.05, high=0.1),
        "latency_p95_s": 0.15,
        "latency_p95_interval_s": Interval(low=0.1, high=None),
        "json_valid_rate": rate,
        "objective": cost,
        "gain": 0.9 if role == "challenger" else None,
        "gain_interval": Interval(low=0.8, high=0.95),
        "success_difference": 0.0,
        "success_difference_interval": Interval(low=-0.03, high=0.03),
        "compared_runs": n,
        "guardrails": (limit,),
        "runs_needed": 0,
    }
    return CandidateReport(**{**fields, **changes})  # type: ignore[arg-type]


def recommendation(task: str = "strict-json", verdict: Verdict = "PROMOTE", **changes: object) -> Recommendation:
    """A change from sonnet to gemini with a fallback, unless `changes` say otherwise."""
    fields: dict[str, object] = {
        "task": task,
        "verdict": verdict,
        "current": SONNET,
        "primary": GEMINI if verdict == "PROMOTE" else SONNET,
        "challenger": GEMINI if verdict in ("PROMOTE", "TRIAL") else None,
        "fallbacks": (HAIKU,),
        "ladder": (),
        "grade": "randomised",
        "reasons": (Reason(code="gain", text=f"{GEMINI} costs 90% less per success than {SONNET}."),),
        "candidates": (candidate(SONNET, role="incumbent", cost=0.012), candidate(GEMINI)),
        "saving_per_1000_runs_usd": 11.0,
        "saving_per_month_usd": None,
        "runs_needed": 0,
        "confidence": 0.95,
        "at": NOW,
        "input_hash": "9f2c1d7a0b",
    }
    return Recommendation(**{**fields, **changes})  # type: ignore[arg-type]


def call(**changes: object) -> Call:
    """A successful call of sonnet for the task `summary`; `changes` are fields of the stored row."""
    return call_row(**changes).to_call()


def call_row(**changes: object) -> CallRow:
    """A stored row of a successful call of sonnet for the task `summary`, unless `changes` say otherwise."""
    empty = {field.name: None for field in fields(CallRow)}
    known: dict[str, object] = {
        "id": 0,
        "task": "summary",
        "candidate": SONNET,
        "epoch": "e1",
        "arm": "pinned",
        "rung": 0,
        "grade": "randomised",
        "outcome": "success",
        "provider": "openai",
        "operation": "chat",
        "request_model": changes.get("candidate", SONNET),
        "started_at_ns": NOW * 10**9,
        "duration_s": 1.0,
        "stream": False,
        "expects_json": False,
        "chunks": 0,
        "retries": 0,
        "backoff_s": 0.0,
        "output_chars": 100,
        "input_tokens": 100,
        "output_tokens": 50,
        "cost_usd": 0.001,
        "cost_source": "catalogue",
        "session": "",
        "round": -1,
        "trace_id": "",
        "span_id": "",
        "finish_reasons": ("stop",),
        "checks": (),
        "failed_tries": (),
        "labels": {},
    }
    return CallRow(**{**empty, **known, **changes})  # type: ignore[arg-type]


def call_rows(
    *,
    tasks: tuple[str, ...] = ("summary", "constraint", "sort-bug", "token-cost", "strict-json"),
    models: tuple[str, ...] = (SONNET, HAIKU, GEMINI),
    **changes: object,
) -> list[CallRow]:
    """The published comparison: every task twice on every model, strict JSON fenced by the two Claude models."""
    rows = []
    for number, (task, model) in enumerate(product(tasks, models)):
        json = {"json_form": None}
        if task == "strict-json":
            json = {"json_form": "fenced", "outcome": "json_fenced"} if "claude" in model else {"json_form": "plain"}
        for turn in (0, 1):
            at = (NOW + 60 * turn + number) * 10**9
            rows.append(call_row(**{"task": task, "candidate": model, "started_at_ns": at, **json, **changes}))
    return rows


def store_with(path: Path, calls: Iterable[Call]) -> Path:
    """A store file that holds the calls."""
    with SqliteStore.open(path, clock=lambda: NOW) as store:
        store.write(list(calls))
    return path


def rounds(number: int, *, tasks: tuple[str, ...] = ("summary", "strict-json")) -> list[Call]:
    """Bench rounds: every task on every model once a round, costs and latencies alike but for a ripple, ending just now."""
    prices = {SONNET: 0.012, HAIKU: 0.004, GEMINI: 0.001}
    now = int(time.time()) - 60 * number
    return [
        row.to_call()
        for turn in range(number)
        for task in tasks
        for row in call_rows(
            tasks=(task,),
            session="s1",
            round=turn,
            started_at_ns=(now + 60 * turn) * 10**9,
            duration_s=0.1 + 0.001 * (turn % 7),
        )[::2]
        for row in [replace(row, cost_usd=prices[row.candidate] * (1 + 0.02 * (turn % 5)))]
    ]

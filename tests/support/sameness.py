"""Whether two sources hold the same evidence, and traffic that has everything evidence can hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from support.calls import make_call
from tierwise.core.call import Call, CheckResult, Run, Usage
from tierwise.core.columns import TaskEvidence
from tierwise.core.cost import Cost

FLOATS = ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
OUTCOMES = ("success",) * 14 + ("truncated", "json_invalid", "rejected", "cancelled", "error", "success")


def mixed_calls(rng: random.Random, task: str, started_s: float, number: int, *, models: tuple[str, ...]) -> list[Call]:
    """Calls with every outcome, kind of token, arm, grade and lack that evidence knows."""
    made = []
    for place in range(number):
        outcome = rng.choice(OUTCOMES)
        counted = outcome not in ("rejected", "cancelled")
        more: dict[str, Any] = {"time_to_first_chunk_s": rng.random() * 3} if counted and rng.random() < 0.5 else {}
        if counted and rng.random() < 0.5:
            more["checks"] = (CheckResult(name="bullets", score=rng.random(), passed=True),)
        made.append(
            make_call(
                task,
                model=rng.choice(models),
                outcome=outcome,
                epoch="e1" if rng.random() < 0.95 else "e2",
                arm=rng.choice(("pinned", "primary")),
                started_at_ns=int((started_s + place) * 1e9),
                duration_s=rng.choice((0.05, 0.3, 1.0, 1.2, 2.7, 130.0, rng.lognormvariate(0, 1))),
                cost=None if rng.random() < 0.1 else Cost(amount_usd=rng.random() * 0.01, source="catalogue"),
                usage=None
                if not counted or rng.random() < 0.1
                else Usage(input_tokens=rng.randint(1, 9000), output_tokens=rng.randint(1, 900), reasoning_tokens=3),
                json_form={"success": "plain", "json_invalid": "invalid"}.get(outcome) if rng.random() < 0.8 else None,
                retries=rng.choice((0, 0, 0, 1, 3)),
                run_id="run" if rng.random() < 0.1 else None,
                rung=rng.choice((0,) * 9 + (1,)),
                **more,
            )
        )  # fmt: skip
    return made


def mixed_runs(rng: random.Random, task: str, started_s: float, number: int, *, models: tuple[str, ...]) -> list[Run]:
    """Finished runs of several calls."""
    return [
        Run(
            run_id=f"r{place}",
            task=task,
            candidate=rng.choice(models),
            epoch="e1",
            arm="primary",
            grade="randomised",
            started_at_ns=int((started_s + place) * 1e9),
            duration_s=2.0,
            calls=rng.choice((1, 2)),
            success=(won := rng.random() < 0.8),
            outcome="success" if won else "truncated",
            cost_usd=None if rng.random() < 0.2 else rng.random() * 0.02,
        )
        for place in range(number)
    ]


def differences(one: TaskEvidence, other: TaskEvidence) -> list[str]:
    """Where two pieces of evidence differ: counts at all, sums by more than 1e-9 of their size."""
    if set(one.series) != set(other.series):
        return [f"series {sorted(set(one.series) ^ set(other.series))}"]
    found = []
    for identity, series in one.series.items():
        twin = other.series[identity]
        if series.slots != twin.slots:
            found.append(f"{identity}: hours {series.slots} and {twin.slots}")
            continue
        for name in sorted({*series.names, *twin.names}):
            left, right = series.column(name), twin.column(name)
            for a, b in zip(left, right, strict=True):
                if a != b and (name not in FLOATS or abs(a - b) > 1e-9 * max(abs(a), abs(b))):
                    found.append(f"{identity}: {name} {left} and {right}")
                    break
    return found


def by_task(evidence: Any) -> Mapping[str, TaskEvidence]:
    """Evidence by task."""
    return {one.task: one for one in evidence}

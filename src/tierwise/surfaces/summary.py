"""The comparison table in numbers: calls → one summary per model, and which task each model passes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tierwise.evidence import CallRow

NOT_COUNTED: Final = frozenset({"cancelled", "rejected"})
NORMAL_ENDINGS: Final = frozenset({"stop", "tool_calls", "function_call"})
"""Finish reasons with which an answer is complete; every other one counts as non-stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """One model's (candidate's) runs in numbers: seconds, characters, USD, fractions in [0, 1].

    A number is `None` where nothing can be said: no run, no JSON expected, no price known, no success.
    """

    model: str
    runs: int
    successes: int
    latency_mean_s: float | None
    latency_median_s: float | None
    latency_p95_s: float | None
    latency_min_s: float | None
    latency_max_s: float | None
    task_score: float | None
    """Successes divided by runs."""
    output_chars_mean: float | None
    non_stop_finish_reasons: int
    """First attempts that ended with a finish reason such as `length` or `content_filter`."""
    json_valid_rate: float | None
    """Plain JSON divided by runs where JSON was expected."""
    retries: int
    cost_usd: float | None
    """Sum over the runs with a known price."""
    cost_per_success_usd: float | None
    unpriced: int = 0
    """Runs whose cost is not known; outside both cost figures."""
    without_price: int = 0
    """Those of them with token counts: their model has no known price."""
    without_tokens: int = 0
    """Those of them that were answered without token counts, such as streams without usage."""
    not_counted: int = 0
    """Calls outside the runs: cancelled by the application, or rejected as the caller's fault."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    finish_reasons: Mapping[str, int] = field(default_factory=dict)
    """First attempts by finish reason, normal endings included."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain JSON values, under the field names."""
        return {
            "runs": self.runs,
            "successes": self.successes,
            "latency_mean_s": self.latency_mean_s,
            "latency_median_s": self.latency_median_s,
            "latency_p95_s": self.latency_p95_s,
            "latency_min_s": self.latency_min_s,
            "latency_max_s": self.latency_max_s,
            "task_score": self.task_score,
            "output_chars_mean": self.output_chars_mean,
            "non_stop_finish_reasons": self.non_stop_finish_reasons,
            "json_valid_rate": self.json_valid_rate,
            "retries": self.retries,
            "cost_usd": self.cost_usd,
            "cost_per_success_usd": self.cost_per_success_usd,
            "unpriced": self.unpriced,
            "without_price": self.without_price,
            "without_tokens": self.without_tokens,
            "not_counted": self.not_counted,
            "outcomes": dict(self.outcomes),
            "finish_reasons": dict(self.finish_reasons),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run, charged to its first call: the call, whether the run succeeded, and the cost of all its calls (USD)."""

    first: CallRow
    success: bool
    cost_usd: float | None
    retries: int


def quantile(values: Sequence[float], tau: float) -> float | None:
    """The sample quantile at `tau` in [0, 1], interpolated linearly (Hyndman and Fan's type 7); `None` for no values."""
    if not values:
        return None
    ordered = sorted(values)
    place = tau * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def runs_of(calls: Iterable[CallRow]) -> list[RunRow]:
    """Calls as runs in order of their start: each call its own, except that calls with one task and run id are one.

    Calls that were cancelled or rejected say nothing about a model and are left out.
    """
    groups: dict[object, list[CallRow]] = {}
    for number, call in enumerate(calls):
        if call.outcome in NOT_COUNTED:
            continue
        groups.setdefault((call.task, call.run_id) if call.run_id else number, []).append(call)
    rows = [_run(members) for members in groups.values()]
    return sorted(rows, key=lambda row: row.first.started_at_ns)


def _run(members: list[CallRow]) -> RunRow:
    members = sorted(members, key=lambda call: (call.rung, call.started_at_ns))
    costs = [call.cost_usd for call in members]
    known = [cost for cost in costs if cost is not None]
    return RunRow(
        first=members[0],
        success=members[-1].outcome == "success",
        cost_usd=math.fsum(known) if len(known) == len(costs) else None,
        retries=sum(call.retries for call in members),
    )


def summarise(calls: Iterable[CallRow]) -> dict[str, ModelSummary]:
    """One summary per candidate, in the order in which the candidates first appear.

    Latency, output size, finish reasons and JSON validity are those of each run's first call; cost and success are the
    run's.
    """
    calls = list(calls)
    left_out = Counter(call.candidate for call in calls if call.outcome in NOT_COUNTED)
    by_model: dict[str, list[RunRow]] = {call.candidate: [] for call in calls}
    for run in runs_of(calls):
        by_model[run.first.candidate].append(run)
    return {model: summary_of(model, runs, not_counted=left_out[model]) for model, runs in by_model.items()}


def summary_of(model: str, runs: Sequence[RunRow], *, not_counted: int = 0) -> ModelSummary:
    """Summarise the runs of one model; no runs give zeros for the counts and `None` for the rest."""
    first = [run.first for run in runs]
    latencies = [call.duration_s for call in first]
    reasons = [tuple(call.finish_reasons) for call in first]
    forms = [call.json_form for call in first if call.json_form is not None]
    successes = sum(run.success for run in runs)
    priced = [(run.cost_usd, run.success) for run in runs if run.cost_usd is not None]
    cost = math.fsum(amount for amount, _ in priced) if priced else None
    paid = sum(success for _, success in priced)
    unpriced = [run.first for run in runs if run.cost_usd is None]
    counted = sum(call.input_tokens is not None or call.output_tokens is not None for call in unpriced)
    unanswered = sum(call.outcome == "error" for call in unpriced if call.input_tokens is call.output_tokens is None)
    return ModelSummary(
        model=model,
        runs=len(runs),
        successes=successes,
        latency_mean_s=_mean(latencies),
        latency_median_s=quantile(latencies, 0.5),
        latency_p95_s=quantile(latencies, 0.95),
        latency_min_s=min(latencies, default=None),
        latency_max_s=max(latencies, default=None),
        task_score=successes / len(runs) if runs else None,
        output_chars_mean=_mean([float(call.output_chars) for call in first]),
        non_stop_finish_reasons=sum(any(reason not in NORMAL_ENDINGS for reason in each) for each in reasons),
        json_valid_rate=forms.count("plain") / len(forms) if forms else None,
        retries=sum(run.retries for run in runs),
        cost_usd=cost,
        cost_per_success_usd=cost / paid if cost is not None and paid else None,
        unpriced=len(unpriced),
        without_price=counted,
        without_tokens=len(unpriced) - counted - unanswered,
        not_counted=not_counted,
        outcomes=dict(Counter(call.outcome for call in first)),
        finish_reasons=dict(Counter(reason for each in reasons for reason in each)),
    )


def pass_table(calls: Iterable[CallRow]) -> dict[str, dict[str, str]]:
    """Task → model → `pass` (every run succeeded), `fail` (none did) or `mixed 3/5` (successes / runs)."""
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for run in runs_of(calls):
        cell = counts[run.first.task][run.first.candidate]
        cell[0] += run.success
        cell[1] += 1
    return {
        task: {model: _verdict(successes, runs) for model, (successes, runs) in models.items()}
        for task, models in counts.items()
    }


def _verdict(successes: int, runs: int) -> str:
    if successes == runs:
        return "pass"
    return "fail" if successes == 0 else f"mixed {successes}/{runs}"


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None

"""Recommendations: what a decision says, its numbers and reasons, and their canonical JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from math import isfinite
from typing import Final, Literal

from tierwise.core.call import Grade
from tierwise.core.records import dataclass
from tierwise.core.route import Route

Verdict = Literal["KEEP", "PROMOTE", "TRIAL", "INSUFFICIENT", "HOLD", "ROLLBACK"]
Action = Literal["none", "pin", "promote", "trial", "stage", "rollback", "traffic"]
GuardrailStatus = Literal["refuted", "proven", "holding", "failing", "unknown"]

VERDICTS: Final[tuple[Verdict, ...]] = ("KEEP", "PROMOTE", "TRIAL", "INSUFFICIENT", "HOLD", "ROLLBACK")
"""`ROLLBACK` belongs to canaries: no decision over plain routes returns it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why: a stable code for programs and a sentence with numbers for people."""

    code: str
    text: str
    candidate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Bounds that hold at every look with the error probability they were made for; `None`: unbounded or unknown."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailState:
    """One limit of one candidate: `metric op limit`, the estimate with its bounds, and what can be said.

    `refuted`: the bounds exclude the limit. `proven`: they lie inside it. `holding` / `failing`: open, the estimate
    meets / misses it. `unknown`: nothing was recorded that the metric could be read from. `tested_at` is the limit that
    was tested, for latencies the next lower histogram edge. `runs_to_prove`: further runs, if the estimate stays.
    """

    metric: str
    op: Literal[">=", "<="]
    limit: float
    tested_at: float | None
    estimate: float | None
    low: float | None
    high: float | None
    state: GuardrailStatus
    runs_to_prove: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateReport:
    """One candidate in numbers. Costs in USD per run, latencies in seconds, rates in [0, 1], gains as a share of the
    incumbent's objective (for `success_rate` in points); `None` where there is nothing to say."""

    candidate: str
    role: Literal["incumbent", "challenger"]
    epoch: str | None
    grade: Grade | None
    n: int
    buckets: int
    successes: int
    success_rate: float | None
    success_rate_interval: Interval
    cost_per_success_usd: float | None
    cost_per_success_interval_usd: Interval
    cost_per_call_usd: float | None
    latency_p50_s: float | None
    latency_p50_interval_s: Interval
    latency_p95_s: float | None
    latency_p95_interval_s: Interval
    json_valid_rate: float | None
    objective: float | None
    gain: float | None
    gain_interval: Interval
    success_difference: float | None
    success_difference_interval: Interval
    compared_runs: int
    """Runs of this candidate in the buckets that it shares with the incumbent: what the comparison rests on."""
    guardrails: tuple[GuardrailState, ...]
    runs_needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploring:
    """What giving `share` of the runs to other candidates would cost and could save, USD per 1,000 runs of the task.

    Cost: the expected growth of the bill, below 0 where the others are cheaper. Saving: the most that knowing the best
    would save, cost and failures at `value_of_success_usd` each.
    """

    share: float
    cost_per_1000_runs_usd: float
    saving_per_1000_runs_usd: float
    value_of_success_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to do with one task, and why.

    `primary` is the candidate the task should use after the verdict: it differs from `current` with `PROMOTE` alone.
    `challenger` is the candidate that a `PROMOTE`, `TRIAL` or withheld change (`HOLD`) is about. Savings are the
    difference of the mean cost per run between current and challenger, in USD; per month at the live volume of the
    window, `None` without live traffic. `at` is in Unix seconds.
    """

    task: str
    verdict: Verdict
    current: str | None
    primary: str | None
    challenger: str | None
    fallbacks: tuple[str, ...]
    ladder: tuple[str, ...]
    grade: Grade | None
    reasons: tuple[Reason, ...]
    candidates: tuple[CandidateReport, ...]
    saving_per_1000_runs_usd: float | None
    saving_per_month_usd: float | None
    runs_needed: int
    confidence: float
    at: int
    input_hash: str
    traffic: Mapping[str, float] = field(default_factory=dict)
    """Propensity of each candidate on rung 0 for what comes; sums to 1."""
    action: Action = "none"
    """What applying the decision automatically does to the route."""
    exploring: Exploring | None = None
    """Of a task that does not explore and still could learn something."""
    after: Route | None = None
    """The route when the decision is applied automatically; the present one where `action` is `none`."""

    def to_json(self) -> dict[str, object]:
        """A JSON document: floats at 10 significant digits, `null` for what is infinite or unknown."""
        document = json_value(self)
        assert isinstance(document, dict)  # noqa: S101 - a dataclass becomes an object
        return document

    def canonical_bytes(self) -> bytes:
        """The same bytes for the same recommendation: sorted keys, no spaces, ASCII."""
        return canonical_json(self)


def json_value(value: object) -> object:
    """A JSON-ready copy of nested dataclasses, mappings and sequences.

    Raises:
        TypeError: a value of another type.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.10g}") if isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_value(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [json_value(item) for item in value]
    raise TypeError(f"no canonical JSON for {type(value).__name__}")


def canonical_json(value: object) -> bytes:
    """Canonical JSON of `json_value(value)`: sorted keys, no spaces, ASCII, no NaN.

    Raises:
        TypeError: a value that JSON does not know.
    """
    return json.dumps(json_value(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")

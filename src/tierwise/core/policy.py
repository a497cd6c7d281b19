"""What a team wants, as plain values: objective, guardrail metrics, task policies. The YAML side is in config/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final, Literal

from tierwise.core.call import Risk
from tierwise.core.records import dataclass

ObjectiveKind = Literal["cost_per_success", "latency_p50", "latency_p95", "success_rate", "loss"]
METRICS: Final[tuple[str, ...]] = (
    "success_rate", "json_valid_rate", "json_fenced_rate", "format_rate", "truncation_rate", "empty_rate", "error_rate",
    "refusal_rate", "retry_rate", "escalation_rate", "acceptance_rate", "check_score", "latency_p50", "latency_p95",
    "latency_p99", "ttft_p50", "ttft_p95", "cost_per_call", "cost_per_success", "output_tokens",
)  # fmt: skip
"""Metrics that a guardrail may name; rates and scores in [0, 1], latencies in seconds, costs in USD."""

WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimised (or, for `success_rate`, maximised). `value_of_success_usd` belongs to `loss` alone."""

    kind: ObjectiveKind = "cost_per_success"
    value_of_success_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailMetric:
    """A limit that a candidate must hold: `metric op limit`, in the metric's own unit."""

    metric: str
    op: Literal[">=", "<="]
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How one run escalates: after which outcomes or at what low confidence, what local clean-up is allowed, how far."""

    escalate_on: tuple[str, ...] = ()
    cleanup: tuple[str, ...] = ()
    max_rungs: int = 3
    budget_usd: float | None = None
    deadline_s: float | None = None
    min_check_score: float | None = None
    """A successful answer escalates when one of its checks scores below this."""
    confidence_field: str | None = None
    """Where in a JSON answer the model states its confidence, dots between the steps."""
    min_confidence: float | None = None
    """A successful answer escalates when that field is below this, or is not there."""
    min_mean_logprob: float | None = None
    """A successful answer escalates when the mean log probability of its tokens is below this, where it is known."""

    @property
    def acts(self) -> bool:
        """Whether anything but an error makes a run go on, or its answer be cleaned."""
        least = (self.min_check_score, self.min_confidence, self.min_mean_logprob)
        return bool(self.escalate_on or self.cleanup) or any(limit is not None for limit in least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Draft by one model, improvement by a stronger one."""

    model: str
    draft: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Which candidates take the runs that it matches; all that it names must hold, nothing named always holds."""

    candidates: tuple[str, ...] = ()
    """Best-liked first; empty: the task's own."""
    risk: tuple[Risk, ...] = ()
    """One of these."""
    min_input_tokens: int | None = None
    max_input_tokens: int | None = None
    """Limits of the estimated input, both included."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of `tierwise.task(labels=...)` with these values."""
    tools: bool | None = None
    """Whether the request offers tools."""
    review: bool | None = None
    """Whether the task's review applies; `None`: as the risk says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPolicy:
    """One task's policy with defaults applied and tiers expanded into candidates, best-liked first.

    `tiers` keeps the tier name of each candidate (`""` when it was named directly). Fractions are in [0, 1], times in
    seconds. `confidence` is 1 - alpha.
    """

    task: str
    candidates: tuple[str, ...]
    tiers: tuple[str, ...] = ()
    objective: Objective = field(default_factory=Objective)
    guardrails: tuple[GuardrailMetric, ...] = ()
    confidence: float = 0.95
    min_improvement: float = 0.05
    margin: float = 0.05
    min_runs: int = 30
    min_buckets: int = 10
    cooldown_s: float = 12 * 3600.0
    apply: Literal["recommend", "auto"] = "recommend"
    explore: float | Literal["adaptive"] = 0.0
    explore_budget_usd_per_day: float | None = None
    shadow: float = 0.0
    """Share of the runs whose prompt a challenger gets as well, in the background, as a pair."""
    shadow_budget_usd_per_day: float | None = None
    value_of_success_usd: float | None = None
    """V of the traffic split: what a success is worth; `None`: the cost per success of the next rung."""
    maturity_s: float = 0.0
    """Buckets younger than this are not used yet: feedback on them may still come."""
    risk: Risk | None = None
    require_proof: bool = False
    expects: Literal["json", "text"] | None = None
    schema: Mapping[str, object] | None = None
    check_threshold: float = 1.0
    ladder: Ladder = field(default_factory=Ladder)
    review: Review | None = None
    conditions: tuple[Condition, ...] = ()
    """In order; the first that matches decides instead of the route."""
    route: bool = True
    """False: `model="auto"` takes the first candidate, and nothing is drawn, escalated or shadowed."""
    raise_max_tokens: bool = False
    """A token limit of the caller's that would cut what the task usually needs is raised."""

    @property
    def needs_proof(self) -> bool:
        """High risk or an explicit demand: guardrails must be proven, not only hold."""
        return self.require_proof or self.risk == "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A named candidate: upstream, model and parameters behind the name; a bare model name stands for itself."""

    name: str
    model: str
    upstream: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    base_url: str | None = None
    """Another address than the instrumented client's, for servers that speak the same API."""
    api_key_env: str | None = None
    """The environment variable with the key for `base_url`; the client's own key is never sent there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The whole policy: tiers, named models, price overrides (USD per million tokens by kind), task policies."""

    tasks: Mapping[str, TaskPolicy] = field(default_factory=dict)
    default: TaskPolicy | None = None
    """The policy of `"*"`: tasks nobody named."""
    tiers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    path: str | None = None
    default_model: str | None = None
    """What `model="auto"` means where no task, route or candidate says more, and when routing fails."""

    @property
    def first_candidates(self) -> tuple[str, ...]:
        """Every candidate of every task, best-liked first, those of `"*"` before the others."""
        tasks = (self.default, *self.tasks.values())
        return tuple(dict.fromkeys(name for task in tasks if task is not None for name in task.candidates))

    def for_task(self, task: str) -> TaskPolicy | None:
        """The policy of a task, else that of `"*"`, else `None`."""
        return self.tasks.get(task, self.default)

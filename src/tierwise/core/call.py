"""What one call is: the request as read, the task around it, the answer's numbers, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final, Literal

from tierwise.core.cost import Cost
from tierwise.core.records import dataclass, maker, quick

Arm = Literal["primary", "canary", "explore", "shadow", "fallback", "pinned"]
Grade = Literal["randomised", "observational"]
Risk = Literal["low", "normal", "high"]

UNASSIGNED: Final = "unassigned"


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call as the provider reported them. `None` means not reported; nothing is ever guessed.

    `input_tokens` includes cached tokens, `output_tokens` includes reasoning tokens, as in the GenAI conventions.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    provider_cost_usd: float | None = None
    reasoning_apart: bool = False
    """The provider counts reasoning beside the output, not as a part of it: its total says so."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One failed HTTP request inside a call: its HTTP status or exception name, and the wait that followed."""

    number: int
    status: int | None = None
    error_type: str | None = None
    backoff_s: float = 0.0
    ended_at_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """What the application said about the work around a call (`tierwise.task(...)`)."""

    name: str = UNASSIGNED
    risk: Risk | None = None
    expects: Literal["json", "text"] | None = None
    schema: Mapping[str, object] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    prompt_version: str | None = None
    run_id: str | None = None
    randomised: bool = False
    route: bool = True
    session: str = ""
    """Bench session this call belongs to; its rounds are buckets of their own."""
    round: int = -1


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One API request as read before it is sent; parameters that were not given are `None`."""

    operation: str
    """GenAI operation name: `chat`, `text_completion` or `embeddings`."""
    api_type: str | None = None
    """`chat_completions` or `responses` for OpenAI's two chat APIs."""
    provider: str
    model: str
    server_address: str | None = None
    server_port: int | None = None
    stream: bool = False
    expects_json: bool = False
    """The request itself asks for JSON (`response_format`, `text.format`, a parsed type)."""
    output_type: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    choice_count: int | None = None
    stop_sequences: tuple[str, ...] | None = None
    reasoning_level: str | None = None
    previous_response_id: str | None = None
    conversation_id: str | None = None
    service_tier: str | None = None
    dimensions: int | None = None
    encoding_formats: tuple[str, ...] | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the response said about itself, content left out."""

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    service_tier: str | None = None
    system_fingerprint: str | None = None
    output_chars: int = 0
    """Characters of text in the answer, all choices together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Prompts and answers of one call as JSON texts, read only when the application asked for content to be recorded."""

    input_messages: str | None = None
    output_messages: str | None = None
    system_instructions: str | None = None
    tool_definitions: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check's score in [0, 1] for one call, and whether it reached its threshold."""

    name: str
    score: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What a shadow call says beside the call whose prompt it shared: that call's candidate, and the pair's sums.

    `sums` are those of `core.pairs.PairSums`, in the order of its fields.
    """

    candidate: str
    sums: tuple[float, ...]


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One finished call, ready to be recorded. Durations are seconds, money is USD, times are Unix nanoseconds."""

    request: Request
    context: TaskContext
    answer: Answer
    outcome: str
    """One of `tierwise.core.outcome.OUTCOMES`."""
    candidate: str
    """The request model, or the named candidate of the policy that was called."""
    epoch: str
    """Short hash of response model, rates, the candidate's parameters and the prompt version; see `epoch_of`."""
    started_at_ns: int
    duration_s: float
    error_type: str | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    json_form: str | None = None
    """`plain`, `fenced`, `embedded`, `mismatch`, `invalid`; `None` where no JSON was expected or none could be judged."""
    expects_json: bool = False
    """JSON was expected, whoever said so: the request, the task or its policy."""
    checks: tuple[CheckResult, ...] = ()
    advice: str | None = None
    retries: int = 0
    backoff_s: float = 0.0
    last_try_s: float | None = None
    failed_tries: tuple[Try, ...] = ()
    time_to_first_chunk_s: float | None = None
    time_per_output_chunk_s: float | None = None
    chunks: int = 0
    arm: Arm = "pinned"
    rung: int = 0
    """Place in the run: 0 for the first call; later calls of a run with a `run_id` count up."""
    route_version: int | None = None
    propensity: float | None = None
    trace_id: int = 0
    span_id: int = 0
    pair: Pair | None = None
    """Of a shadow call."""

    @property
    def task(self) -> str:
        """The task's name."""
        return self.context.name

    @property
    def grade(self) -> Grade:
        """`randomised` when the arm was drawn at random (by the router or as the application declares)."""
        return (
            "randomised" if self.context.randomised or self.arm in ("primary", "canary", "explore") else "observational"
        )

    @property
    def counted(self) -> bool:
        """Whether the call is inside n: `cancelled` and `rejected` say nothing about the model."""
        return self.outcome not in ("cancelled", "rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run of several calls (given a `run_id`, or routed), charged to its first call's candidate."""

    run_id: str
    task: str
    candidate: str
    epoch: str
    arm: Arm
    grade: Grade
    started_at_ns: int
    duration_s: float
    calls: int
    success: bool
    outcome: str
    """The last call's outcome."""
    cost_usd: float | None
    """Cost of all its calls; `None` when one of them has no price."""
    provider: str = ""
    cleaned: bool = False
    session: str = ""
    round: int = -1


# What is made on every call; see `records.maker`.
make_usage: Final = maker(Usage)
make_context: Final = maker(TaskContext)
make_request: Final = maker(Request)
make_answer: Final = maker(Answer)
make_call: Final = maker(Call)

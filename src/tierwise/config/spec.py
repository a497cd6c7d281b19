"""The shape of tierwise.yaml as pydantic models; the same models make the JSON Schema for editors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from tierwise.config import units
from tierwise.core.outcome import OUTCOMES
from tierwise.core.policy import METRICS

PRICE_KINDS: Final = ("input", "output", "cache_read", "cache_write", "reasoning", "input_audio", "output_audio")
OBJECTIVES: Final = ("cost_per_success", "latency_p50", "latency_p95", "success_rate", "loss")

_SHARE_SCHEMA: Final = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "pattern": r"^\s*(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?|\.[0-9]+)\s*%\s*$"},
    ],
    "examples": ["5%", 0.05],
}
_DURATION_SCHEMA: Final = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*(ms|s|m|min|h|d|w)\s*$"},
    ],
    "examples": ["12h", "30m", "500ms"],
}
_LIMIT_SCHEMA: Final = {
    "type": "string",
    "pattern": r"^\s*(>=|<=|≥|≤)\s*\$?\s*[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?\s*(%|ms|s|min|m|h|USD)?\s*$",
    "examples": [">= 0.95", "<= 10s", "<= 1%"],
}
_GUARDRAILS_SCHEMA: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        metric: {"anyOf": [_LIMIT_SCHEMA, {"type": "array", "items": _LIMIT_SCHEMA, "minItems": 1}]}
        for metric in METRICS
    },
}


_TOKENS_SCHEMA: Final = {
    "anyOf": [
        {"type": "string", "pattern": r"^\s*(>=|<=|≥|≤)\s*[0-9]+\s*$", "examples": [">= 20000"]},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
    ]
}
_RISKS: Final = ("low", "normal", "high")
_RISK_SCHEMA: Final = WithJsonSchema(
    {"anyOf": [{"enum": list(_RISKS)}, {"type": "array", "items": {"enum": list(_RISKS)}, "minItems": 1}]}
)


def _limits(value: object) -> tuple[units.Limit, ...]:
    return tuple(units.limit(item) for item in value) if isinstance(value, list) else (units.limit(value),)


def _objective(value: object) -> object:
    """Both forms as one: a name, or `{loss: {value_of_success: 0.02}}`."""
    if isinstance(value, str):
        if value not in OBJECTIVES:
            raise ValueError(_choices(value, OBJECTIVES))
        return {"kind": value}
    if isinstance(value, dict) and list(value) == ["loss"]:
        inner = value["loss"]
        return {"kind": "loss", **inner} if isinstance(inner, dict) else {"kind": "loss", "value_of_success": inner}
    raise ValueError("write a name such as cost_per_success, or {loss: {value_of_success: 0.02}}")


def _choices(value: str, allowed: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(value, allowed, n=1)
    return f"unknown {value!r}; " + (f"did you mean {close[0]!r}?" if close else "use one of " + ", ".join(allowed))


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _outcome(value: object) -> str:
    allowed = tuple(name for name in OUTCOMES if name not in ("cancelled", "rejected", "success"))
    if not isinstance(value, str):
        raise TypeError("an outcome is a name such as json_invalid")
    if value in OUTCOMES and value not in allowed:
        raise ValueError(f"a run cannot escalate on {value!r}; use some of " + ", ".join(allowed))
    if value not in allowed:
        raise ValueError("outcome: " + _choices(value, allowed))
    return value


def _text_or_mapping(value: object) -> object:
    if not isinstance(value, (str, dict)):
        raise ValueError("give a JSON Schema, or the path of a .json file that holds one")  # noqa: TRY004
    return value


def _checked(check: Callable[[Any], object]) -> BeforeValidator:
    """A validator whose type errors read like its value errors."""

    def run(value: Any) -> object:
        try:
            return check(value)
        except TypeError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(run)


Share = Annotated[float, _checked(units.share), WithJsonSchema(_SHARE_SCHEMA)]
Duration = Annotated[float, _checked(units.duration_s), WithJsonSchema(_DURATION_SCHEMA)]
Explore = Annotated[
    Any, _checked(units.explore), WithJsonSchema({"anyOf": [{"const": "adaptive"}, *_SHARE_SCHEMA["anyOf"]]})
]
Guardrails = Annotated[
    dict[str, Annotated[Any, _checked(_limits)]],
    WithJsonSchema(_GUARDRAILS_SCHEMA),
]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Names = Annotated[list[Name], Field(min_length=1, max_length=50)]
Outcome = Annotated[
    str,
    _checked(_outcome),
    WithJsonSchema({"enum": [name for name in OUTCOMES if name not in ("cancelled", "rejected", "success")]}),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Spec(BaseModel):
    """Base of every part: unknown keys are errors, values are never coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class ObjectiveSpec(Spec):
    """What is minimised (or maximised) for a task."""

    kind: Literal["cost_per_success", "latency_p50", "latency_p95", "success_rate", "loss"]
    value_of_success: Positive | None = None
    """What one success is worth, USD; only for `loss`."""


_LOSS: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["loss"],
    "properties": {
        "loss": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"value_of_success": {"type": "number", "exclusiveMinimum": 0}},
        }
    },
}
ObjectiveField = Annotated[
    ObjectiveSpec, _checked(_objective), WithJsonSchema({"anyOf": [{"enum": list(OBJECTIVES)}, _LOSS]})
]


class LowConfidenceSpec(Spec):
    """When a successful answer escalates all the same."""

    check_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """One of the task's checks scores below this."""
    field: Name | None = None
    """The field of a JSON answer that holds the model's confidence, dots between the steps: `meta.confidence`."""
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    """That field is below this, or is not there."""
    mean_logprob: Annotated[float, Field(le=0, allow_inf_nan=False)] | None = None
    """The mean log probability of the answer's tokens is below this, where the answer has log probabilities."""


class LadderSpec(Spec):
    """How one run escalates to its next rung."""

    escalate_on: list[Outcome] = []
    """Outcomes after which the run moves to its next rung."""
    cleanup: list[Literal["json_fenced"]] = []
    """Local clean-up tried first: `json_fenced` strips one Markdown code fence."""
    max_rungs: Annotated[int, Field(ge=1, le=10)] = 3
    """At most this many models in one run."""
    budget_usd: Positive | None = None
    """Stop escalating when the run has cost this much, USD."""
    deadline: Duration | None = None
    """Stop escalating when the run has taken this long."""
    low_confidence: LowConfidenceSpec | None = None
    """Escalate successful answers of low confidence as well."""


class ReviewSpec(Spec):
    """Draft by one model, improvement by a stronger one."""

    model: Name
    """The stronger model, which improves the draft."""
    draft: Name
    """The cheaper model, which writes the draft."""


class WhenSpec(Spec):
    """What a condition asks of a run; all of it must hold."""

    risk: (
        Annotated[list[Literal["low", "normal", "high"]], _checked(_listed), Field(min_length=1), _RISK_SCHEMA] | None
    ) = None
    """`high`, or a list of risks: of the call, else of its task."""
    input_tokens: Annotated[Any, _checked(_limits), WithJsonSchema(_TOKENS_SCHEMA)] | None = None
    """Limits of the estimated input, such as `">= 20000"`."""
    labels: dict[Name, Annotated[str, Field(max_length=200)]] = {}
    """Labels that the call's task has, with these values."""
    tools: bool | None = None
    """Whether the request offers tools."""


class ConditionSpec(Spec):
    """Candidates of their own for the runs that a condition matches."""

    when: WhenSpec
    """What must hold."""
    candidates: Names | None = None
    """Tiers, named models or model names, best-liked first; default the task's own."""
    review: bool | None = None
    """Whether the task's review applies; by default it does for runs of high risk."""


class Common(Spec):
    """What `defaults` and a task may both set."""

    objective: ObjectiveField | None = None
    """What is minimised; default cost_per_success."""
    guardrails: Guardrails | None = None
    """Limits that a candidate must hold, by metric; a task's own win over those in `defaults`."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """1 - alpha of every test; default 0.95, and 0.99 with `apply: auto`."""
    min_improvement: Share | None = None
    """The smallest gain in the objective worth a change; default 5%."""
    margin: Share | None = None
    """Success may be at most this much worse than the incumbent's; default 5%, and no limit with the objective `loss`,
    which says itself what a success is worth."""
    min_runs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Runs per candidate below which asymptotic tests say nothing; default 30."""
    min_buckets: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Hours (or bench rounds) per candidate below which asymptotic tests say nothing; default 10."""
    cooldown: Duration | None = None
    """No further change for this long after one; default 12h."""
    apply: Literal["recommend", "auto"] | None = None
    """`recommend` changes nothing by itself, `auto` does."""
    explore: Explore | None = None
    """Share of the traffic for challengers (0% to 100%), or `adaptive`; default 0%."""
    explore_budget_usd_per_day: Positive | None = None
    """What exploring may cost more than the primary, USD a day."""
    value_of_success: Positive | None = None
    """What a successful run is worth, USD: weighs cost against success where traffic is split; default the cost per
    success of the next candidate."""
    shadow: Share | None = None
    """Share of the runs whose prompt a challenger gets as well, in the background, to be compared in pairs."""
    shadow_budget_usd_per_day: Positive | None = None
    """What shadow runs may cost, USD a day."""
    maturity: Duration | None = None
    """How long after its end an hour counts: as long as feedback on its runs may still come; default 0s."""
    require_proof: bool | None = None
    """Guardrails must be proven, not only hold."""
    check_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Score from which a check counts as passed; default 1."""
    ladder: LadderSpec | None = None
    """How one run escalates."""
    conditions: Annotated[list[ConditionSpec], Field(min_length=1, max_length=50)] | None = None
    """In order, the first that matches: which candidates take these runs instead of the route's."""
    raise_max_tokens: bool | None = None
    """Raise a request's token limit that would cut what the task usually needs; default false: a warning only."""


class Defaults(Common):
    """Settings of every task that does not set them itself."""

    model: Name | None = None
    """What `model="auto"` means where no task says more, and when routing fails; default the first candidate."""


class TaskSpec(Common):
    """The policy of one task."""

    candidates: Names | None = None
    """Tiers, named models or model names, best-liked first; default those of "*"."""
    risk: Literal["low", "normal", "high"] | None = None
    """`high` is never explored and demands proven guardrails."""
    expects: Literal["json", "text"] | None = None
    """What a good answer is, where the request itself does not say."""
    json_schema: Annotated[
        Any, _checked(_text_or_mapping), WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]})
    ] = Field(default=None, alias="schema")
    """A JSON Schema that answers must hold, or the path of a file that holds one; implies `expects: json`."""
    review: ReviewSpec | None = None
    """Draft by one model, improvement by a stronger one: for runs of high risk, or where a condition says so."""
    route: bool | None = None
    """`false`: `model="auto"` takes the first candidate, and nothing is drawn, escalated or shadowed; default true."""


class ModelEntry(Spec):
    """A named candidate."""

    model: Name | None = None
    """The model's name at its upstream; default the entry's own name."""
    upstream: Name | None = None
    """Name of a client given as `instrument(client, upstreams={...})`; default the instrumented client."""
    params: dict[str, Any] = {}
    """Request parameters that belong to this candidate; they win over the caller's, and null takes one away."""
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2000)] | None = None
    """The address of another server that speaks the same API."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)] | None = None
    """The environment variable with the key for `base_url`; the client's own key is never sent there."""


Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PriceEntry(Spec):
    """What a model's tokens cost, USD per million tokens."""

    input: Price | None = None
    output: Price | None = None
    cache_read: Price | None = None
    cache_write: Price | None = None
    reasoning: Price | None = None
    input_audio: Price | None = None
    output_audio: Price | None = None


class PolicySpec(Spec):
    """The whole of tierwise.yaml."""

    tiers: dict[Name, Names] = {}
    """Named, ordered lists of candidates: `fast: [model-a, model-b]`."""
    models: dict[Name, ModelEntry] = {}
    """Named candidates, where a bare model name is not enough."""
    prices: dict[Name, PriceEntry] = {}
    """Price overrides by model, USD per million tokens."""
    defaults: Defaults = Defaults()
    """Settings of every task that does not set them itself."""
    tasks: dict[Name, TaskSpec] = {}
    """Policies by task name; "*" is for tasks nobody named."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of tierwise.yaml."""
    schema = PolicySpec.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tierwise.yaml"
    return schema

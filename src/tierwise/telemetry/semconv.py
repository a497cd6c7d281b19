"""Every attribute, metric and event name that tierwise emits, each once, with units, descriptions and boundaries."""

from __future__ import annotations

from typing import Final, Literal

from tierwise.core.evidence import LATENCY_EDGES_S
from tierwise.core.records import dataclass

SCOPE: Final = "tierwise"
"""Instrumentation scope of all spans, metrics and log records."""

# --- GenAI conventions: attributes -----------------------------------------------------------------------------------
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
OUTPUT_TYPE: Final = "gen_ai.output.type"
PROMPT_VERSION: Final = "gen_ai.prompt.version"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105
TOKEN_TYPE_INPUT: Final = "input"  # noqa: S105
TOKEN_TYPE_OUTPUT: Final = "output"  # noqa: S105

REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
REQUEST_PREVIOUS_RESPONSE_ID: Final = "gen_ai.request.previous_response.id"
REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"
EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"

RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"

USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_INPUT_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
USAGE_AUDIO_INPUT_TOKENS: Final = "gen_ai.usage.audio.input_tokens"
USAGE_AUDIO_OUTPUT_TOKENS: Final = "gen_ai.usage.audio.output_tokens"

OPENAI_API_TYPE: Final = "openai.api.type"
OPENAI_REQUEST_SERVICE_TIER: Final = "openai.request.service_tier"
OPENAI_RESPONSE_SERVICE_TIER: Final = "openai.response.service_tier"
OPENAI_RESPONSE_SYSTEM_FINGERPRINT: Final = "openai.response.system_fingerprint"

ERROR_TYPE: Final = "error.type"
ERROR_TYPE_OTHER: Final = "_OTHER"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"

OPERATION_EMBEDDINGS: Final = "embeddings"

# --- GenAI conventions: events ---------------------------------------------------------------------------------------
EVENT_OPERATION_DETAILS: Final = "gen_ai.client.inference.operation.details"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
EVENT_EVALUATION_RESULT: Final = "gen_ai.evaluation.result"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE_VALUE: Final = "gen_ai.evaluation.score.value"
EVALUATION_SCORE_LABEL: Final = "gen_ai.evaluation.score.label"
EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"
EVALUATION_FEEDBACK: Final = "tierwise.feedback"
"""Evaluation name of an application's verdict on a call; checks use their own names."""
SCORE_LABEL_FAIL: Final = "fail"
SCORE_LABEL_ACCEPTED: Final = "accepted"
SCORE_LABEL_REJECTED: Final = "rejected"

# --- Ours: attributes ------------------------------------------------------------------------------------------------
TASK: Final = "tierwise.task"
RISK: Final = "tierwise.risk"
OUTCOME: Final = "tierwise.outcome"
ADVICE: Final = "tierwise.advice"
JSON_VALID: Final = "tierwise.json.valid"
JSON_FORM: Final = "tierwise.json.form"
COST_AMOUNT: Final = "tierwise.cost.amount"
COST_CURRENCY: Final = "tierwise.cost.currency"
COST_SOURCE: Final = "tierwise.cost.source"
CURRENCY_USD: Final = "USD"
RETRIES: Final = "tierwise.retries"
RETRY_BACKOFF: Final = "tierwise.retry.backoff"
TRY_DURATION: Final = "tierwise.try.duration"
TRY_NUMBER: Final = "tierwise.try.number"
ARM: Final = "tierwise.arm"
RUNG: Final = "tierwise.rung"
RUN_ID: Final = "tierwise.run.id"
ROUTE_VERSION: Final = "tierwise.route.version"
PROPENSITY: Final = "tierwise.propensity"
CANDIDATE: Final = "tierwise.candidate"
EPOCH: Final = "tierwise.epoch"
GRADE: Final = "tierwise.grade"
RUN_MEMBER: Final = "tierwise.run.member"
"""True on the counters of calls that belong to a run with a `run_id`; their run is counted by `tierwise.run.*`."""
RUN_SUCCESS: Final = "tierwise.run.success"
RUN_CLEANED: Final = "tierwise.run.cleaned"
RUN_LENGTH: Final = "tierwise.run.length"
"""Calls of a run, on its span."""
FEATURE_FLAG_KEY: Final = "feature_flag.key"
FEATURE_FLAG_PROVIDER: Final = "feature_flag.provider.name"
FEATURE_FLAG_VARIANT: Final = "feature_flag.result.variant"
FEATURE_FLAG_REASON: Final = "feature_flag.result.reason"
FEATURE_FLAG_VERSION: Final = "feature_flag.version"
FEATURE_FLAG_CONTEXT: Final = "feature_flag.context.id"
FLAG_PROVIDER: Final = "tierwise-routes"
FLAG_SPLIT: Final = "split"
FLAG_STATIC: Final = "static"
FLAG_MATCH: Final = "targeting_match"
FLAG_ERROR: Final = "error"
CHECK_NAME: Final = "tierwise.check.name"
FEEDBACK_ACCEPTED: Final = "tierwise.feedback.accepted"
TOKEN_KIND: Final = "tierwise.token.kind"  # noqa: S105
ROUTE_ROLE: Final = "tierwise.route.role"
VERDICT: Final = "tierwise.decision.verdict"
CHALLENGER: Final = "tierwise.decision.challenger"
LOOK_RESULT: Final = "tierwise.watch.result"
LOOK_OK: Final = "ok"
LOOK_FAILED: Final = "failed"
WHERE: Final = "tierwise.where"
EVENT_TRY: Final = "tierwise.try"

OTHER: Final = "other"
"""What a task (and, further on, everything else) is called once the series limit is reached."""

# --- Metrics ---------------------------------------------------------------------------------------------------------
DURATION_EDGES_S: Final = tuple(0.01 * 2**n for n in range(14))
"""0.01 · 2ⁿ seconds, to 81.92, as the conventions advise."""
TOKEN_EDGES: Final = tuple(float(4**n) for n in range(14))
"""4ⁿ tokens, to 67,108,864, as the conventions advise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: kind, name, unit (UCUM), description and, for histograms, the advised upper edges."""

    kind: Literal["histogram", "counter", "gauge"]
    name: str
    unit: str
    description: str
    edges: tuple[float, ...] = ()


def _seconds(name: str, description: str, edges: tuple[float, ...] = DURATION_EDGES_S) -> Metric:
    return Metric(kind="histogram", name=name, unit="s", description=description, edges=edges)


def _tokens(name: str, description: str) -> Metric:
    return Metric(kind="histogram", name=name, unit="{token}", description=description, edges=TOKEN_EDGES)


def _count(name: str, unit: str, description: str) -> Metric:
    return Metric(kind="counter", name=name, unit=unit, description=description)


def _gauge(name: str, unit: str, description: str) -> Metric:
    return Metric(kind="gauge", name=name, unit=unit, description=description)


OPERATION_DURATION: Final = _seconds("gen_ai.client.operation.duration", "GenAI operation duration.")
TOKEN_USAGE: Final = _tokens("gen_ai.client.token.usage", "Number of input and output tokens used.")
OPERATION_TIME_TO_FIRST_CHUNK: Final = _seconds(
    "gen_ai.client.operation.time_to_first_chunk", "Time from the request to the first chunk of the response."
)
OPERATION_TIME_PER_OUTPUT_CHUNK: Final = _seconds(
    "gen_ai.client.operation.time_per_output_chunk", "Mean time between output chunks after the first one."
)
INFERENCE_DURATION: Final = _seconds("gen_ai.client.inference.duration", "GenAI inference duration.")
INFERENCE_TIME_TO_FIRST_CHUNK: Final = _seconds(
    "gen_ai.client.inference.time_to_first_chunk", "Time from the request to the first chunk of the response."
)
INFERENCE_TIME_PER_OUTPUT_CHUNK: Final = _seconds(
    "gen_ai.client.inference.time_per_output_chunk", "Mean time between output chunks after the first one."
)
INFERENCE_INPUT_TOKENS: Final = _tokens("gen_ai.client.inference.operation.input_tokens", "Input tokens of a call.")
INFERENCE_OUTPUT_TOKENS: Final = _tokens("gen_ai.client.inference.operation.output_tokens", "Output tokens of a call.")
INFERENCE_USAGE: Final = {
    "input": _count("gen_ai.client.inference.usage.input_tokens", "{token}", "Input tokens used."),
    "output": _count("gen_ai.client.inference.usage.output_tokens", "{token}", "Output tokens used."),
    "cache_read": _count(
        "gen_ai.client.inference.usage.cache_read.input_tokens", "{token}", "Input tokens read from a cache."
    ),
    "cache_write": _count(
        "gen_ai.client.inference.usage.cache_write.input_tokens", "{token}", "Input tokens written to a cache."
    ),
    "reasoning": _count(
        "gen_ai.client.inference.usage.reasoning.output_tokens", "{token}", "Output tokens spent on reasoning."
    ),
}

CALL_DURATION: Final = _seconds(
    "tierwise.call.duration", "Duration of a call as the application waited for it.", LATENCY_EDGES_S
)
CALL_TIME_TO_FIRST_CHUNK: Final = _seconds(
    "tierwise.call.time_to_first_chunk", "Time from the request to the first chunk of a streamed call.", LATENCY_EDGES_S
)
CALLS: Final = _count("tierwise.calls", "{call}", "Finished calls.")
CALL_PRICED: Final = _count("tierwise.call.priced", "{call}", "Finished calls whose cost is known.")
CALL_COST: Final = _count("tierwise.call.cost", "{USD}", "Cost of calls.")
CALL_COST_SQUARED: Final = _count("tierwise.call.cost.squared", "{USD2}", "Sum of the squared costs of calls.")
CALL_RETRIES: Final = _count("tierwise.call.retries", "{retry}", "Retries made by the client inside calls.")
CALL_RETRIED: Final = _count("tierwise.call.retried", "{call}", "Calls with at least one retry.")
CALL_TOKENS: Final = _count(
    "tierwise.call.tokens", "{token}", "Tokens of calls by kind, as the provider reported them."
)
CHECK_SCORE: Final = _count("tierwise.check.score", "1", "Sum of check scores, each in [0, 1].")
CHECK_COUNT: Final = _count("tierwise.check.count", "{check}", "Checks made on calls.")
FEEDBACK: Final = _count("tierwise.feedback", "{call}", "Verdicts of the application on calls.")
RUN_COUNT: Final = _count("tierwise.run.count", "{run}", "Finished runs of calls that share a run id.")
RUN_CALLS: Final = _count("tierwise.run.calls", "{call}", "Calls made by finished runs.")
RUN_ESCALATED: Final = _count("tierwise.run.escalated", "{run}", "Finished runs of more than one call.")
RUN_PRICED: Final = _count("tierwise.run.priced", "{run}", "Finished runs whose cost is known.")
RUN_COST: Final = _count("tierwise.run.cost", "{USD}", "Cost of finished runs, all their calls together.")
RUN_COST_SQUARED: Final = _count("tierwise.run.cost.squared", "{USD2}", "Sum of the squared costs of finished runs.")
RUN_DURATION: Final = _count("tierwise.run.duration", "s", "Sum of the durations of finished runs.")
ROUTE_INFO: Final = _gauge("tierwise.route.info", "1", "1 for every model that a route names.")
ROUTE_SHARE: Final = _gauge(
    "tierwise.route.share", "1", "Share of a task's traffic that a candidate gets, as the route says, in [0, 1]."
)
DECISION_INFO: Final = _gauge("tierwise.decision.info", "1", "1 for the verdict of each task's last decision.")
DECISION_TIME: Final = _gauge("tierwise.decision.time", "s", "When a task was decided last, Unix seconds.")
DECISION_SAVING: Final = _gauge(
    "tierwise.decision.saving.per_1000_runs",
    "{USD}",
    "What the recommended change would save per 1,000 runs; 0 for none.",
)
DECISION_SAVING_MONTH: Final = _gauge(
    "tierwise.decision.saving.per_month", "{USD}", "What it would save in a month at the observed volume, where known."
)
DECISION_RUNS_NEEDED: Final = _gauge(
    "tierwise.decision.runs_needed", "{run}", "Further runs that a decision is expected to take; 0 for none."
)
WATCH_LOOKS: Final = _count("tierwise.watch.looks", "{look}", "Looks of `tierwise watch`, by result.")
INTERNAL_ERRORS: Final = _count("tierwise.internal.errors", "{error}", "Faults inside tierwise, by place.")
INTERNAL_DROPPED: Final = _count("tierwise.internal.dropped", "{item}", "What tierwise had to leave out, by place.")

DROPPED_STORE: Final = "store"
DROPPED_CARDINALITY: Final = "cardinality"
DROPPED_PRICE: Final = "price"

ATTRIBUTES: Final = frozenset(
    value for name, value in globals().copy().items() if name.isupper() and isinstance(value, str) and "." in value
) - {EVENT_EVALUATION_RESULT, EVENT_OPERATION_DETAILS, EVENT_TRY, EVALUATION_FEEDBACK}
"""Every attribute name above, for dashboards and collector configurations to be checked against."""

METRICS: Final = {
    value.name: value for value in (*globals().copy().values(), *INFERENCE_USAGE.values()) if isinstance(value, Metric)
}
"""Every metric above by name."""

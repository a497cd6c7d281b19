"""The attributes, events and status of a call's span, and the log records of failed checks."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, set_span_in_context
from opentelemetry.util.types import AnyValue

from tierwise.core.call import Arm, Call, Content, Request, Run, TaskContext, Usage
from tierwise.telemetry import semconv as sc
from tierwise.telemetry.metrics import error_type_of
from tierwise.telemetry.quick import set_clean_attributes
from tierwise.telemetry.series import COUNT_LIMIT, clean

Attributes = dict[str, AnyValue]

CAPTURE_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_INTEGER_LIMIT: Final = 2**63
_TEXT_LIMIT: Final = 4096
_LIST_LIMIT: Final = 128
_EMPTY: Final = Context()
_STOP: Final = ("stop",)


def text(value: str) -> str:
    """A string that every exporter can encode: no lone surrogates, at most 4,096 characters."""
    if len(value) <= _TEXT_LIMIT and value.isascii():
        return value
    return value[:_TEXT_LIMIT].encode("utf-8", "replace").decode("utf-8")


def texts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Each of at most 128 strings as `text` gives it."""
    return tuple(map(text, values[:_LIST_LIMIT]))


def _integer(attributes: Attributes, name: str, value: int | None) -> None:
    if value is not None and -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        attributes[name] = int(value)


# Models, tasks and ids are short already (256 characters at most): only what is not ASCII needs another look.


def start_attributes(request: Request, context: TaskContext) -> Attributes:
    """What a sampler may decide by, in the conventions' exact types; the SDK pays for each attribute that a span starts with."""
    attributes: Attributes = {
        sc.OPERATION_NAME: request.operation,
        sc.PROVIDER_NAME: request.provider,
        sc.REQUEST_MODEL: request.model if request.model.isascii() else text(request.model),
        sc.TASK: context.name if context.name.isascii() else text(context.name),
    }
    if request.server_address is not None:
        attributes[sc.SERVER_ADDRESS] = request.server_address
        if request.server_port is not None:
            attributes[sc.SERVER_PORT] = request.server_port
    return attributes


def request_attributes(request: Request, context: TaskContext) -> Attributes:
    """Everything else known before the request is sent."""
    attributes: Attributes = {}
    _set_request(attributes, request, context)
    return attributes


def _set_request(attributes: Attributes, request: Request, context: TaskContext) -> None:
    if request.api_type is not None:
        attributes[sc.OPENAI_API_TYPE] = request.api_type
    if request.stream:
        attributes[sc.REQUEST_STREAM] = True
    _set_parameters(attributes, request)
    if context.risk is not None:
        attributes[sc.RISK] = context.risk
    if context.prompt_version is not None:
        attributes[sc.PROMPT_VERSION] = text(context.prompt_version)


def _set_parameters(attributes: Attributes, request: Request) -> None:  # noqa: PLR0912
    # On the path of every call: plain tests cost a quarter of a loop over field names.
    if request.temperature is not None:
        attributes[sc.REQUEST_TEMPERATURE] = float(request.temperature)
    if request.max_tokens is not None:
        _integer(attributes, sc.REQUEST_MAX_TOKENS, request.max_tokens)
    if request.top_p is not None:
        attributes[sc.REQUEST_TOP_P] = float(request.top_p)
    if request.frequency_penalty is not None:
        attributes[sc.REQUEST_FREQUENCY_PENALTY] = float(request.frequency_penalty)
    if request.presence_penalty is not None:
        attributes[sc.REQUEST_PRESENCE_PENALTY] = float(request.presence_penalty)
    if request.output_type is not None:
        attributes[sc.OUTPUT_TYPE] = text(request.output_type)
    if request.reasoning_level is not None:
        attributes[sc.REQUEST_REASONING_LEVEL] = text(request.reasoning_level)
    if request.previous_response_id is not None:
        attributes[sc.REQUEST_PREVIOUS_RESPONSE_ID] = text(request.previous_response_id)
    if request.conversation_id is not None:
        attributes[sc.CONVERSATION_ID] = text(request.conversation_id)
    if request.service_tier is not None:
        attributes[sc.OPENAI_REQUEST_SERVICE_TIER] = text(request.service_tier)
    if request.seed is not None:
        _integer(attributes, sc.REQUEST_SEED, request.seed)
    if request.choice_count is not None and request.choice_count != 1:
        _integer(attributes, sc.REQUEST_CHOICE_COUNT, request.choice_count)
    if request.stop_sequences:
        attributes[sc.REQUEST_STOP_SEQUENCES] = texts(request.stop_sequences)
    if request.dimensions is not None:
        _integer(attributes, sc.EMBEDDINGS_DIMENSION_COUNT, request.dimensions)
    if request.encoding_formats:
        attributes[sc.REQUEST_ENCODING_FORMATS] = texts(request.encoding_formats)


def call_attributes(call: Call) -> Attributes:
    """Everything known at the end of a call, in one dictionary."""
    answer = call.answer
    attributes: Attributes = {
        sc.OUTCOME: call.outcome,
        sc.EPOCH: call.epoch,
    }
    if call.arm != "pinned":
        attributes[sc.ARM] = call.arm
    if call.rung or call.context.run_id is not None:
        attributes[sc.RUNG] = call.rung
    if answer.id is not None:
        attributes[sc.RESPONSE_ID] = answer.id if answer.id.isascii() else text(answer.id)
    if answer.model is not None:
        attributes[sc.RESPONSE_MODEL] = answer.model if answer.model.isascii() else text(answer.model)
    if answer.finish_reasons:
        reasons = answer.finish_reasons
        attributes[sc.RESPONSE_FINISH_REASONS] = reasons if reasons == _STOP else texts(reasons)
    if call.usage is not None:
        _set_tokens(attributes, call.usage)
    if call.cost is not None:
        attributes[sc.COST_AMOUNT] = call.cost.amount_usd
        attributes[sc.COST_CURRENCY] = sc.CURRENCY_USD
        attributes[sc.COST_SOURCE] = call.cost.source
    if call.json_form is not None:
        attributes[sc.JSON_VALID] = call.json_form == "plain"
        attributes[sc.JSON_FORM] = call.json_form
    if call.last_try_s is not None:
        attributes[sc.TRY_DURATION] = call.last_try_s
    if call.time_to_first_chunk_s is not None:
        attributes[sc.RESPONSE_TIME_TO_FIRST_CHUNK] = float(call.time_to_first_chunk_s)
    if answer.service_tier is not None:
        attributes[sc.OPENAI_RESPONSE_SERVICE_TIER] = text(answer.service_tier)
    if answer.system_fingerprint is not None:
        attributes[sc.OPENAI_RESPONSE_SYSTEM_FINGERPRINT] = text(answer.system_fingerprint)
    _set_rest(attributes, call)
    return attributes


def all_attributes(call: Call) -> Attributes:
    """Everything but what the span started with."""
    attributes = call_attributes(call)
    _set_request(attributes, call.request, call.context)
    return attributes


def _set_rest(attributes: Attributes, call: Call) -> None:
    if call.retries:
        attributes[sc.RETRIES] = call.retries
        attributes[sc.RETRY_BACKOFF] = float(call.backoff_s)
    if call.advice is not None:
        attributes[sc.ADVICE] = text(call.advice)
    if call.candidate != call.request.model:
        attributes[sc.CANDIDATE] = text(call.candidate)
    if call.context.run_id is not None:
        attributes[sc.RUN_ID] = text(call.context.run_id)
        if call.rung == 0 and call.route_version is not None:
            attributes[sc.FEATURE_FLAG_CONTEXT] = text(call.context.run_id)
    if call.route_version is not None:
        if call.rung == 0:
            attributes.update(_flag(call.context.name, call.candidate, call.arm, call.route_version, call.propensity))
        else:
            attributes[sc.ROUTE_VERSION] = call.route_version
    if call.propensity is not None:
        attributes[sc.PROPENSITY] = float(call.propensity)


@lru_cache(maxsize=1024)
def _flag(task: str, candidate: str, arm: Arm, version: int, propensity: float | None) -> Attributes:
    """A route is a feature flag: its task the key, the candidate the variant. The same for all calls of an arm."""
    if arm == "fallback":
        reason = sc.FLAG_ERROR
    elif arm == "pinned":
        reason = sc.FLAG_MATCH
    else:
        reason = sc.FLAG_STATIC if propensity in (None, 1.0) else sc.FLAG_SPLIT
    return {
        sc.ROUTE_VERSION: version,
        sc.FEATURE_FLAG_KEY: text(task),
        sc.FEATURE_FLAG_PROVIDER: sc.FLAG_PROVIDER,
        sc.FEATURE_FLAG_VARIANT: text(candidate),
        sc.FEATURE_FLAG_REASON: reason,
        sc.FEATURE_FLAG_VERSION: str(version),
    }


def run_start_attributes(context: TaskContext) -> dict[str, str]:
    """What a run's span starts with."""
    attributes = {sc.TASK: text(context.name)}
    if context.run_id is not None:
        attributes[sc.RUN_ID] = text(context.run_id)
    if context.risk is not None:
        attributes[sc.RISK] = context.risk
    return attributes


def end_run_span(span: Span, run: Run | None) -> None:
    """Set what a run became and end its span at the run's own end."""
    try:
        if run is not None and span.is_recording():
            attributes: Attributes = {
                sc.OUTCOME: run.outcome,
                sc.RUN_SUCCESS: run.success,
                sc.RUN_LENGTH: run.calls,
                sc.CANDIDATE: text(run.candidate),
                sc.ARM: run.arm,
            }
            if run.cleaned:
                attributes[sc.RUN_CLEANED] = True
            if run.cost_usd is not None:
                attributes |= {sc.COST_AMOUNT: run.cost_usd, sc.COST_CURRENCY: sc.CURRENCY_USD}
            span.set_attributes(attributes)
            if run.outcome == "error":
                span.set_status(StatusCode.ERROR)
    finally:
        span.end(None if run is None else run.started_at_ns + max(0, int(run.duration_s * 1e9)))


def _set_tokens(attributes: Attributes, usage: Usage) -> None:
    """Counts as reported; a zero among the details says nothing, and every attribute costs."""
    if usage.input_tokens is not None:
        _count(attributes, sc.USAGE_INPUT_TOKENS, usage.input_tokens)
    if usage.output_tokens is not None:
        _count(attributes, sc.USAGE_OUTPUT_TOKENS, usage.output_tokens)
    if usage.cache_read_tokens:
        _count(attributes, sc.USAGE_CACHE_READ_INPUT_TOKENS, usage.cache_read_tokens)
    if usage.cache_write_tokens:
        _count(attributes, sc.USAGE_CACHE_WRITE_INPUT_TOKENS, usage.cache_write_tokens)
    if usage.reasoning_tokens:
        _count(attributes, sc.USAGE_REASONING_OUTPUT_TOKENS, usage.reasoning_tokens)
    if usage.input_audio_tokens:
        _count(attributes, sc.USAGE_AUDIO_INPUT_TOKENS, usage.input_audio_tokens)
    if usage.output_audio_tokens:
        _count(attributes, sc.USAGE_AUDIO_OUTPUT_TOKENS, usage.output_audio_tokens)


def _count(attributes: Attributes, name: str, value: int) -> None:
    if 0 <= value < COUNT_LIMIT:
        attributes[name] = value


def capture_mode() -> tuple[bool, bool]:
    """(on spans, as events): whether the standard variable asks for content; neither by default."""
    mode = os.environ.get(CAPTURE_VARIABLE, "").strip().lower()
    both = mode == "span_and_event"
    return both or mode in ("span_only", "true"), both or mode == "event_only"


def content_attributes(content: Content) -> dict[str, str]:
    """Prompts and answers as JSON texts under the conventions' names."""
    pairs = (
        (sc.INPUT_MESSAGES, content.input_messages),
        (sc.OUTPUT_MESSAGES, content.output_messages),
        (sc.SYSTEM_INSTRUCTIONS, content.system_instructions),
        (sc.TOOL_DEFINITIONS, content.tool_definitions),
    )
    return {name: value.encode("utf-8", "replace").decode("utf-8") for name, value in pairs if value is not None}


def emit_content(logger: Logger, call: Call, span: Span, content: Content) -> None:
    """One operation-details event with the content, in the context of the call's span."""
    attributes = start_attributes(call.request, call.context) | all_attributes(call)
    logger.emit(
        LogRecord(
            timestamp=call.started_at_ns + max(0, int(call.duration_s * 1e9)),
            context=set_span_in_context(span, _EMPTY),
            severity_number=SeverityNumber.INFO,
            event_name=sc.EVENT_OPERATION_DETAILS,
            attributes=attributes | content_attributes(content),
        )
    )


def end_span(span: Span, call: Call, content: Content | None = None) -> None:
    """Set what the call became and end its span at the call's own end; a span that does not record is only ended."""
    ended_at_ns = call.started_at_ns + max(0, int(call.duration_s * 1e9))
    try:
        if span.is_recording():
            attributes = all_attributes(call)
            error_type = error_type_of(call)
            if error_type is not None:
                attributes[sc.ERROR_TYPE] = error_type
            if content is not None:
                attributes.update(content_attributes(content))
            set_clean_attributes(span, attributes)
            if error_type is not None:
                span.set_status(StatusCode.ERROR)
            if call.failed_tries:
                _add_tries(span, call)
    finally:
        span.end(ended_at_ns)


def _add_tries(span: Span, call: Call) -> None:
    for failed in call.failed_tries:
        attributes: dict[str, str | int | float] = {
            sc.TRY_NUMBER: failed.number,
            sc.RETRY_BACKOFF: float(failed.backoff_s),
        }
        if failed.status is not None:
            attributes[sc.HTTP_RESPONSE_STATUS_CODE] = failed.status
        if failed.error_type is not None:
            attributes[sc.ERROR_TYPE] = text(failed.error_type)
        span.add_event(sc.EVENT_TRY, attributes, timestamp=failed.ended_at_ns or None)


def emit_failed_checks(logger: Logger, call: Call, span: Span) -> None:
    """One evaluation event per failed check, in the context of the call's span."""
    for check in call.checks:
        if not check.passed:
            emit_evaluation(
                logger,
                name=check.name,
                score=float(check.score),
                label=sc.SCORE_LABEL_FAIL,
                response_id=call.answer.id,
                context=set_span_in_context(span, _EMPTY),
                timestamp_ns=call.started_at_ns + max(0, int(call.duration_s * 1e9)),
            )


def emit_evaluation(
    logger: Logger,
    *,
    name: str,
    score: float | None,
    label: str | None,
    response_id: str | None,
    context: Context,
    timestamp_ns: int | None = None,
    explanation: str | None = None,
) -> None:
    """Emit one `gen_ai.evaluation.result` log record."""
    attributes: dict[str, str | float] = {sc.EVALUATION_NAME: clean(name)}
    if score is not None:
        attributes[sc.EVALUATION_SCORE_VALUE] = score
    if label is not None:
        attributes[sc.EVALUATION_SCORE_LABEL] = label
    if explanation is not None:
        attributes[sc.EVALUATION_EXPLANATION] = text(explanation)
    if response_id is not None:
        attributes[sc.RESPONSE_ID] = text(response_id)
    logger.emit(
        LogRecord(
            timestamp=timestamp_ns,
            context=context,
            severity_number=SeverityNumber.INFO,
            event_name=sc.EVENT_EVALUATION_RESULT,
            attributes=attributes,
        )
    )

"""Writes both Collector configurations from their template and `semconv.py`; `--check` says whether they are current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jinja2

from tierwise.core import outcome
from tierwise.telemetry import semconv as sc

HERE = Path(__file__).resolve().parent
FORMS = {
    "config.yaml": "The Collector for tierwise, simple form: queues in memory.",
    "config-durable.yaml": "The Collector for tierwise, durable form: queues on disk.",
}

_CALL = 'span.attributes["tierwise.derive.call"] == true'
_FOREIGN = f'instrumentation_scope.name != "{sc.SCOPE}" and resource.attributes["tierwise.derive"] != "false"'
_GENAI = (
    '(span.attributes["gen_ai.operation.name"] != nil or span.attributes["gen_ai.system"] != nil'
    ' or span.attributes["gen_ai.provider.name"] != nil or span.attributes["openinference.span.kind"] != nil'
    ' or span.attributes["llm.request.type"] != nil)'
)
_OPERATIONS = (
    ("openinference.span.kind", "LLM", "chat"),
    ("openinference.span.kind", "EMBEDDING", "embeddings"),
    ("llm.request.type", "chat", "chat"),
    ("llm.request.type", "completion", "text_completion"),
    ("llm.request.type", "embedding", "embeddings"),
)
_CALL_OPERATIONS = ("chat", "text_completion", "generate_content", "embeddings", "responses")
_FIRST_OF = (
    (sc.REQUEST_MODEL, ("llm.request.model", "embedding.model_name")),
    (sc.RESPONSE_MODEL, ("llm.response.model",)),
    (sc.PROVIDER_NAME, ("gen_ai.system", "llm.provider", "llm.system", sc.SERVER_ADDRESS)),
    (sc.USAGE_INPUT_TOKENS, ("gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt")),
    (
        sc.USAGE_OUTPUT_TOKENS,
        ("gen_ai.usage.completion_tokens", "llm.usage.completion_tokens", "llm.token_count.completion"),
    ),
    (
        sc.USAGE_CACHE_READ_INPUT_TOKENS,
        ("gen_ai.usage.cache_read_input_tokens", "llm.token_count.prompt_details.cache_read"),
    ),
    (
        sc.USAGE_CACHE_WRITE_INPUT_TOKENS,
        (
            "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens",
            "llm.token_count.prompt_details.cache_write",
        ),
    ),
    (
        sc.USAGE_REASONING_OUTPUT_TOKENS,
        (
            "gen_ai.usage.reasoning_tokens", "llm.usage.reasoning_tokens",
            "llm.token_count.completion_details.reasoning",
        ),
    ),
)  # fmt: skip
_TOKENS = {
    "input": sc.USAGE_INPUT_TOKENS,
    "output": sc.USAGE_OUTPUT_TOKENS,
    "cache_read": sc.USAGE_CACHE_READ_INPUT_TOKENS,
    "cache_write": sc.USAGE_CACHE_WRITE_INPUT_TOKENS,
    "reasoning": sc.USAGE_REASONING_OUTPUT_TOKENS,
}
_COSTS = ("gen_ai.usage.cost", "operation.cost", "llm.cost.total", "gen_ai.usage.total_cost")
_REASONS = (
    "llm.finish_reason", "llm.response.finish_reason", "gen_ai.completion.0.finish_reason",
    "llm.completions.0.finish_reason",
)  # fmt: skip
_TASKS = (
    'resource.attributes["tierwise.task"]', 'span.attributes["gen_ai.prompt.name"]',
    'span.attributes["gen_ai.agent.name"]', 'resource.attributes["service.name"]',
)  # fmt: skip
_CONTENT = (
    r"^(gen_ai\\.(input|output)\\.messages|gen_ai\\.system_instructions|gen_ai\\.tool\\.(definitions|call\\..*)"
    r"|gen_ai\\.(prompt|completion)(\\..*)?|gen_ai\\.content\\..*|llm\\.(input|output)_messages.*"
    r"|llm\\.(prompts|completions|prompt_template|tools)(\\..*)?|(input|output)\\.value|traceloop\\.entity\\.(input|output)"
    r"|request_data|response_data|all_messages_events|events|prompt|completion|final_result"
    r"|embedding\\.embeddings.*|retrieval\\.documents.*|exception\\.(message|stacktrace)|gen_ai\\.usage\\.raw)$"
)
_REJECTED = "BadRequest|Authentication|PermissionDenied|NotFound|UnprocessableEntity"
_SUMS = (
    (sc.CALLS, "1", ""),
    (sc.CALL_PRICED, "1", "cost"),
    (sc.CALL_COST, "Double({cost})", "cost"),
    (sc.CALL_COST_SQUARED, "Double({cost}) * Double({cost})", "cost"),
)
_HISTOGRAM_LABELS = (sc.TASK, sc.CANDIDATE, sc.EPOCH, sc.ARM, sc.RUNG, sc.GRADE, sc.OUTCOME)
_LABELS = (*_HISTOGRAM_LABELS, sc.PROVIDER_NAME)


def _outcomes() -> list[tuple[str, str]]:
    """(outcome, condition in OTTL), mildest first: a later one that holds takes its place."""
    reasons: dict[str, list[str]] = {}
    for reason, found in outcome._OUTCOME_OF_REASON.items():
        reasons.setdefault(found, []).append(reason)
    failed = f'(span.status.code == STATUS_CODE_ERROR or span.attributes["{sc.ERROR_TYPE}"] != nil)'
    error_type = f'span.attributes["{sc.ERROR_TYPE}"]'
    statuses = "|".join(str(status) for status in sorted(outcome._REJECTED_STATUS))
    conditions = {
        name: [rf'IsMatch(span.attributes["tierwise.derive.reasons"], "[\".](?:{"|".join(words)})\\s*[\":]")']
        for name, words in reasons.items()
    }
    # An error of the client's parser after an answer that was cut or filtered is judged by the answer.
    judged = "LengthFinishReason|ContentFilterFinishReason"
    conditions["empty"] = [f'span.attributes["{sc.USAGE_OUTPUT_TOKENS}"] == 0 and {_not_embeddings()}']
    conditions["truncated"].append(f'IsMatch({error_type}, "LengthFinishReason")')
    conditions["filtered"].append(f'IsMatch({error_type}, "ContentFilterFinishReason")')
    conditions["error"].append(f'{failed} and not IsMatch({error_type}, "{judged}")')
    conditions["rejected"] = [
        f'{failed} and (IsMatch({error_type}, "({_REJECTED})(Error|Exception)?$") or IsMatch({error_type}, "^({statuses})$")'
        f' or IsMatch(String(span.attributes["{sc.HTTP_RESPONSE_STATUS_CODE}"]), "^({statuses})$"))'
    ]
    conditions["cancelled"].append(
        f'{failed} and IsMatch({error_type}, "(CancelledError|GeneratorExit|KeyboardInterrupt)$")'
    )
    return [(name, " or ".join(conditions[name])) for name in reversed(outcome.OUTCOMES) if name in conditions]


def _not_embeddings() -> str:
    return f'span.attributes["{sc.OPERATION_NAME}"] != "{sc.OPERATION_EMBEDDINGS}"'


def _attribute(key: str, rest: str = "") -> str:
    return f"          - {{key: {key}{rest}}}"


def _metric(metric: sc.Metric, labels: list[str], condition: str, value: list[str]) -> str:
    quoted = condition.replace("'", "''")
    return "\n".join((
        f"      - name: {metric.name}",
        f"        description: {metric.description}",
        f'        unit: "{metric.unit}"',
        "        include_resource_attributes:",
        _attribute("service.name", ", default_value: unknown"),
        _attribute("service.namespace", ", optional: true"),
        _attribute("deployment.environment.name", ", optional: true"),
        f"        conditions: ['{quoted}']",
        "        attributes:",
        *labels,
        *value,
    ))  # fmt: skip


def _sum(value: str) -> list[str]:
    return [f"        sum: {{value: '{value}', monotonic: true}}"]


def _histogram(metric: sc.Metric, value: str) -> list[str]:
    edges = ", ".join(f"{edge:g}" for edge in metric.edges)
    return [
        "        histogram:",
        f"          buckets: [{edges}]",
        '          count: "1"',
        f"          value: '{value}'",
    ]


def _metrics() -> str:
    cost = f'span.attributes["{sc.COST_AMOUNT}"]'
    labels = [*(_attribute(key) for key in _LABELS), _attribute(sc.RESPONSE_MODEL, ", optional: true")]
    made = [
        _metric(metric, labels, f"{_CALL} and {cost} != nil" if needs else _CALL, _sum(value.format(cost=cost)))
        for metric, value, needs in _SUMS
    ]
    for kind, name in _TOKENS.items():
        count = f'span.attributes["{name}"]'
        condition = f"{_CALL} and {count} >= 0" + (f" and {_not_embeddings()}" if kind == "output" else "")
        kinds = [*labels, _attribute(sc.TOKEN_KIND, f", default_value: {kind}")]
        made.append(_metric(sc.CALL_TOKENS, kinds, condition, _sum(f"Int({count})")))
    few = [_attribute(key) for key in _HISTOGRAM_LABELS]
    duration = 'Double(span.attributes["tierwise.derive.duration"])'
    made.append(_metric(sc.CALL_DURATION, few, _CALL, _histogram(sc.CALL_DURATION, duration)))
    first = f'span.attributes["{sc.RESPONSE_TIME_TO_FIRST_CHUNK}"]'
    metric = sc.CALL_TIME_TO_FIRST_CHUNK
    made.append(_metric(metric, few, f"{_CALL} and {first} != nil", _histogram(metric, f"Double({first})")))
    return "\n".join(made) + "\n"


def text(file: str) -> str:
    """The configuration of this name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # noqa: S701 - YAML, and nothing comes from outside
    )  # fmt: skip
    return environment.get_template("config.yaml.j2").render(
        file=file, title=FORMS[file], durable="durable" in file, sc=sc, foreign=_FOREIGN, genai=_GENAI,
        operations=_OPERATIONS, first_of=_FIRST_OF, counts=tuple(_TOKENS.values()), costs=_COSTS, reasons=_REASONS,
        tasks=_TASKS, call_operations="|".join(_CALL_OPERATIONS), outcomes=_outcomes(),
        bounded=(sc.TASK, sc.CANDIDATE, sc.RESPONSE_MODEL, sc.PROVIDER_NAME), content=_CONTENT, metrics=_metrics(),
        failures=", ".join(name for name in outcome.OUTCOMES if name != "success"),
    )  # fmt: skip


def main() -> int:
    """Write both, or compare them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is not current")
    check = parser.parse_args().check
    stale = []
    for file in FORMS:
        path = HERE / file
        if check:
            stale += [file] if not path.exists() or path.read_text("utf-8") != text(file) else []
        else:
            path.write_text(text(file), "utf-8")
    if stale:
        sys.stderr.write(f"not current: {', '.join(stale)}; run: uv run python collector/make_config.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

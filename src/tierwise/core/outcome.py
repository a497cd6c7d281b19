"""How a call ended: one outcome, and the form of its JSON. Pure functions over what the dialects read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tierwise.core.jsonform import ABSENT, MAX_JSON_CHARS, JsonForm, JsonReading, parse_or_absent, read_json
from tierwise.core.records import dataclass, maker, quick

if TYPE_CHECKING:
    from tierwise.core.call import CheckResult
    from tierwise.core.checks import Check
    from tierwise.core.ports import IsJson, ParseJson, SchemaCheck

OUTCOMES: Final[tuple[str, ...]] = (
    "cancelled", "rejected", "error", "filtered", "refused", "truncated", "empty", "json_fenced", "json_mismatch",
    "json_invalid", "tool_arguments_invalid", "check_failed", "success",
)  # fmt: skip
"""Every outcome in order of precedence: with several choices, or several reasons, the first that matches wins."""

JSON_FORMS: Final[tuple[str, ...]] = ("plain", "fenced", "embedded", "mismatch", "invalid")

_RANK: Final[Mapping[str, int]] = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}
_REJECTED_STATUS: Final = frozenset({400, 401, 403, 404, 413, 422})
# The chat API's words, and those that servers with the same API pass through from their own.
_OUTCOME_OF_REASON: Final[Mapping[str, str]] = {
    "cancelled": "cancelled",
    "error": "error",
    "insufficient_system_resource": "error",
    "network_error": "error",
    "content_filter": "filtered",
    "safety": "filtered",
    "recitation": "filtered",
    "blocklist": "filtered",
    "prohibited_content": "filtered",
    "spii": "filtered",
    "image_safety": "filtered",
    "image_recitation": "filtered",
    "image_prohibited_content": "filtered",
    "content_filtered": "filtered",
    "guardrail_intervened": "filtered",
    "sensitive": "filtered",
    "refusal": "refused",
    "length": "truncated",
    "max_tokens": "truncated",
    "max_output_tokens": "truncated",
    "model_length": "truncated",
    "model_context_window_exceeded": "truncated",
    "incomplete": "truncated",
    "function_call_filter": "tool_arguments_invalid",
    "malformed_function_call": "tool_arguments_invalid",
    "malformed_tool_use": "tool_arguments_invalid",
}
_OUTCOME_OF_FORM: Final[Mapping[str, str]] = {
    "fenced": "json_fenced",
    "mismatch": "json_mismatch",
    "embedded": "json_invalid",
    "invalid": "json_invalid",
}
# Worst first, in the order of the outcomes the forms lead to.
_FORM_RANK: Final[Mapping[str, int]] = {"fenced": 0, "mismatch": 1, "invalid": 2, "embedded": 3, "plain": 4}


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call of a choice; `arguments` is the text the model wrote, `None` for tools that take none."""

    name: str
    arguments: str | None
    json: bool = True
    """False for custom (free text) tools, whose input is not JSON."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One choice as read from the response; `finish_reason` in the chat API's words."""

    text: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    has_audio: bool = False
    has_other_output: bool = False
    """Usable output that is neither text, tool call nor audio (images, built-in tool results)."""
    mean_logprob: float | None = None
    """Mean log probability of the answer's tokens, where the response has log probabilities."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What an answer is measured by; all of it optional. `tools` maps a tool's name to the check of its arguments."""

    expects_json: bool = False
    schema: SchemaCheck | None = None
    tools: Mapping[str, SchemaCheck] | None = None
    checks: tuple[Check, ...] = ()
    max_tokens: int | None = None
    """The token limit that the request set, for the advice on truncated answers."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How an answer is classified. With several choices the worst counts, for each field on its own."""

    outcome: str
    json_form: JsonForm | None = None
    json_value: object = ABSENT
    """The first choice's JSON value, `ABSENT` where there is none or nobody asked for more than its validity."""
    checks: tuple[CheckResult, ...] = ()
    advice: str | None = None
    faults: tuple[BaseException, ...] = ()
    """What checks, schemas or the parser raised; such checks are skipped, the caller counts the faults."""


make_choice: Final = maker(Choice)
make_expectation: Final = maker(Expectation)
_make_judgement: Final = maker(Judgement)
NO_EXPECTATION: Final = Expectation()
SUCCESS: Final = Judgement(outcome="success")
_PLAIN_SUCCESS: Final = Judgement(outcome="success", json_form="plain")


def outcome_of_error(status: int | None, cancelled: bool) -> str:
    """The outcome of a call that raised: `cancelled`, `rejected` (the caller's fault) or `error`."""
    if cancelled:
        return "cancelled"
    return "rejected" if status in _REJECTED_STATUS else "error"


def judge(
    choices: Sequence[Choice],
    expectation: Expectation = NO_EXPECTATION,
    *,
    parse_json: ParseJson,
    is_json: IsJson | None = None,
) -> Judgement:
    """Classify the answer of a call that returned; an error body is the caller's to classify.

    Never raises for anything a model can write, and takes bounded time; JSON is parsed once. Checks run wherever there
    is text, whatever the outcome, so that their scores do not depend on it. A choice that calls tools is a step on the
    way, not the final answer: its text gets no JSON form and no checks, its arguments are judged.
    """
    if len(choices) == 1 and not expectation.checks:
        choice = choices[0]
        text = choice.text
        if (
            text
            and not choice.tool_calls
            and choice.refusal is None
            and choice.finish_reason in ("stop", None)
            and not text.isspace()
        ):
            if not expectation.expects_json:
                return SUCCESS
            if expectation.schema is None and is_json is not None and len(text) <= MAX_JSON_CHARS and is_json(text):
                return _PLAIN_SUCCESS
    if not choices:
        return Judgement(outcome="empty")
    faults: list[BaseException] = []
    outcome = "success"
    form: JsonForm | None = None
    first_value: object = ABSENT
    results: dict[str, CheckResult] = {}
    for index, choice in enumerate(choices):
        text = choice.text or ""
        has_text = bool(text) and not text.isspace()
        is_answer = has_text and not choice.tool_calls
        reading = _reading(text, expectation, parse_json, faults) if is_answer and expectation.expects_json else None
        if reading is not None:
            if form is None or _FORM_RANK[reading.form] < _FORM_RANK[form]:
                form = reading.form
            if index == 0:
                first_value = reading.value
        passed = True
        if is_answer and expectation.checks:
            passed = _run_checks(choice, text, reading, expectation, parse_json, results, faults)
        found = _outcome(choice, has_text, reading, expectation, parse_json, passed, faults)
        if _RANK[found] < _RANK[outcome]:
            outcome = found
    return _make_judgement(
        outcome=outcome,
        json_form=form,
        json_value=first_value,
        checks=tuple(results.values()),
        advice=_advice(choices, expectation.max_tokens) if outcome == "truncated" else None,
        faults=tuple(faults),
    )


def _outcome(  # noqa: PLR0911 - one return for each outcome, in order
    choice: Choice,
    has_text: bool,
    reading: JsonReading | None,
    expectation: Expectation,
    parse_json: ParseJson,
    checks_passed: bool,
    faults: list[BaseException],
) -> str:
    """One choice's outcome, the first that matches in the order of `OUTCOMES`."""
    by_reason = _outcome_of_reason(choice.finish_reason) if choice.finish_reason else None
    if by_reason in ("cancelled", "error", "filtered"):
        return by_reason
    if choice.refusal:
        return "refused"
    if by_reason in ("refused", "truncated"):
        return by_reason
    if not (has_text or choice.tool_calls or choice.has_audio or choice.has_other_output):
        return "empty"
    if reading is not None and reading.form != "plain":
        return _OUTCOME_OF_FORM[reading.form]
    if by_reason is not None:
        return by_reason
    if not all(_arguments_hold(call, expectation.tools, parse_json, faults) for call in choice.tool_calls):
        return "tool_arguments_invalid"
    return "success" if checks_passed else "check_failed"


def _outcome_of_reason(reason: str) -> str | None:
    # Gemini's compatible endpoint says which filter it was: "content_filter: RECITATION".
    return _OUTCOME_OF_REASON.get(reason.partition(":")[0].strip().lower())


def _reading(text: str, expectation: Expectation, parse_json: ParseJson, faults: list[BaseException]) -> JsonReading:
    try:
        return read_json(text, schema=expectation.schema, parse_json=parse_json)
    except Exception as error:  # noqa: BLE001 - a parser or schema handed in broke its promise; the call must not
        faults.append(error)
        return JsonReading(form="invalid")


def _arguments_hold(
    call: ToolCall, tools: Mapping[str, SchemaCheck] | None, parse_json: ParseJson, faults: list[BaseException]
) -> bool:
    if not call.json or call.arguments is None:
        return True
    try:
        value = parse_or_absent(call.arguments, parse_json)
        if value is ABSENT:
            return False
        holds = None if tools is None else tools.get(call.name)
        return holds is None or holds(value)
    except Exception as error:  # noqa: BLE001 - a parser or schema handed in broke its promise; the call must not
        faults.append(error)
        return False


def _run_checks(
    choice: Choice,
    text: str,
    reading: JsonReading | None,
    expectation: Expectation,
    parse_json: ParseJson,
    results: dict[str, CheckResult],
    faults: list[BaseException],
) -> bool:
    """Run every check on one choice, keep the lowest score of each; whether all of them passed."""
    value = ABSENT if reading is None else reading.value
    passed = True
    for check in expectation.checks:
        try:
            result = check.run(text, parse_json, value=value, mean_logprob=choice.mean_logprob)
        except Exception as error:  # noqa: BLE001 - an application's check must never fail its call
            faults.append(error)
            continue
        if result is None:
            continue
        passed = passed and result.passed
        known = results.get(check.name)
        if known is None or result.score < known.score:
            results[check.name] = result
    return passed


def _advice(choices: Sequence[Choice], max_tokens: int | None) -> str:
    where = "" if any(choice.text for choice in choices) else " before any text"
    if max_tokens is None:
        return f"the model's own token limit cut the answer{where}; ask for less, or use a model with a larger limit"
    return f"max_tokens={max_tokens} cut the answer{where}; raise it or omit it"

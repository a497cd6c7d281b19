"""Outcomes: one table row for each, their precedence, several choices, advice, faults of checks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core.checks import Check
from tierwise.core.outcome import (
    OUTCOMES,
    SUCCESS,
    Choice,
    Expectation,
    ToolCall,
    judge,
    outcome_of_error,
)
from tierwise.instrument.parsing import parse_json

NEEDS_A = Expectation(expects_json=True, schema=lambda value: isinstance(value, dict) and "a" in value)
NO = Expectation(checks=(Check(name="never", function=lambda text: False),))
TOOLS = Expectation(tools={"search": lambda value: isinstance(value, dict) and "q" in value})
FENCED = '```json\n{"a": 1}\n```'


def said(text: str | None, reason: str | None = "stop", **more: Any) -> Choice:
    return Choice(text=text, finish_reason=reason, **more)


@pytest.mark.parametrize(
    ("choice", "expectation", "outcome", "form"),
    [
        (said("hello"), Expectation(), "success", None),
        (said("hello", None), Expectation(), "success", None),
        (said("hello", "something_new"), Expectation(), "success", None),
        (said("half", "error"), Expectation(), "error", None),
        (said("half", "insufficient_system_resource"), Expectation(), "error", None),
        (said("half", "content_filter: RECITATION"), Expectation(), "filtered", None),
        (said("", "content_filter: PROHIBITED_CONTENT"), NEEDS_A, "filtered", None),
        (said("half", "SAFETY"), Expectation(), "filtered", None),
        (said("half", "RECITATION"), Expectation(), "filtered", None),
        (said("hel", "model_length"), Expectation(), "truncated", None),
        (said("hello", ":"), Expectation(), "success", None),
        (said("half", "IMAGE_SAFETY"), Expectation(), "filtered", None),
        (said("half", "guardrail_intervened"), Expectation(), "filtered", None),
        (said("half", "sensitive"), Expectation(), "filtered", None),
        (said("half", "network_error"), Expectation(), "error", None),
        (
            said("call f", "function_call_filter: MALFORMED_FUNCTION_CALL"),
            Expectation(),
            "tool_arguments_invalid",
            None,
        ),
        (said(None, "function_call_filter: MALFORMED_FUNCTION_CALL"), Expectation(), "empty", None),
        (said("not JSON", "malformed_function_call"), NEEDS_A, "json_invalid", "invalid"),
        (said("x", "content_filter"), Expectation(), "filtered", None),
        (said(None, "content_filter"), NEEDS_A, "filtered", None),
        (said(None, refusal="I cannot"), NEEDS_A, "refused", None),
        (said("x", "refusal"), Expectation(), "refused", None),
        (said("hel", "length"), Expectation(), "truncated", None),
        (said("hel", "max_tokens"), Expectation(), "truncated", None),
        (said("hel", "MAX_TOKENS"), Expectation(), "truncated", None),
        (said("hel", "max_output_tokens"), Expectation(), "truncated", None),
        (said("hel", "incomplete"), Expectation(), "truncated", None),
        (said("", "length"), NEEDS_A, "truncated", None),
        (said('{"a": [1', "length"), NEEDS_A, "truncated", "invalid"),
        (said(None), Expectation(), "empty", None),
        (said(""), NEEDS_A, "empty", None),
        (said(" \n\t"), Expectation(), "empty", None),
        (said(None, has_audio=True), Expectation(), "success", None),
        (said(None, has_other_output=True), Expectation(), "success", None),
        (said('{"a": 1}'), NEEDS_A, "success", "plain"),
        (said(FENCED), NEEDS_A, "json_fenced", "fenced"),
        (said('{"b": 1}'), NEEDS_A, "json_mismatch", "mismatch"),
        (said('```json\n{"b": 1}\n```'), NEEDS_A, "json_mismatch", "mismatch"),
        (said('Here: {"a": 1}'), NEEDS_A, "json_invalid", "embedded"),
        (said("no idea"), NEEDS_A, "json_invalid", "invalid"),
        (said("null"), Expectation(expects_json=True), "success", "plain"),
        (said(None, "tool_calls", tool_calls=(ToolCall(name="search", arguments='{"q": 1}'),)), TOOLS, "success", None),
        (said(None, "tool_calls", tool_calls=(ToolCall(name="f", arguments=None),)), NEEDS_A, "success", None),
        (
            said(None, "tool_calls", tool_calls=(ToolCall(name="search", arguments="{}"),)),
            TOOLS,
            "tool_arguments_invalid",
            None,
        ),
        (
            said(None, "tool_calls", tool_calls=(ToolCall(name="f", arguments='{"q": '),)),
            TOOLS,
            "tool_arguments_invalid",
            None,
        ),
        (said("hi", "stop", tool_calls=(ToolCall(name="f", arguments=""),)), TOOLS, "tool_arguments_invalid", None),
        (said(None, "stop", tool_calls=(ToolCall(name="f", arguments="ls -l", json=False),)), TOOLS, "success", None),
        (said("hello"), NO, "check_failed", None),
    ],
)
def test_every_outcome(choice: Choice, expectation: Expectation, outcome: str, form: str | None) -> None:
    """Each kind of answer gets its outcome, and a JSON form only where JSON was expected and there is text."""
    judged = judge([choice], expectation, parse_json=parse_json)
    assert (judged.outcome, judged.json_form) == (outcome, form)


@pytest.mark.parametrize(
    ("status", "cancelled", "outcome"),
    [
        *((status, False, "rejected") for status in (400, 401, 403, 404, 413, 422)),
        *((status, False, "error") for status in (None, 402, 408, 409, 429, 500, 503, 529)),
        (400, True, "cancelled"),
        (None, True, "cancelled"),
    ],
)
def test_outcomes_of_errors(status: int | None, cancelled: bool, outcome: str) -> None:
    """The caller's faults and cancellations are told apart from the model's errors."""
    assert outcome_of_error(status, cancelled) == outcome


def test_no_choices_is_empty() -> None:
    """An answer with `choices` empty or null holds nothing usable."""
    assert judge([], parse_json=parse_json).outcome == "empty"


def test_earlier_outcomes_win_inside_one_choice() -> None:
    """Filtered beats refused beats truncated beats everything about the content."""
    worst = said(FENCED, "content_filter", refusal="no", tool_calls=(ToolCall(name="f", arguments="{"),))
    expectation = replace(NEEDS_A, checks=NO.checks)
    choices = (
        worst,
        replace(worst, finish_reason="length"),
        replace(worst, finish_reason="length", refusal=None),
        replace(worst, finish_reason="stop", refusal=None, tool_calls=()),
        replace(worst, finish_reason="stop", refusal=None),
        replace(worst, finish_reason="stop", refusal=None, text='{"a": 1}'),
        replace(worst, finish_reason="stop", refusal=None, text='{"a": 1}', tool_calls=()),
    )
    seen = [judge([choice], expectation, parse_json=parse_json).outcome for choice in choices]
    assert seen == [
        "filtered", "refused", "truncated", "json_fenced", "tool_arguments_invalid", "tool_arguments_invalid",
        "check_failed",
    ]  # fmt: skip


_ONE_OF_EACH = {
    "error": said("x", "error"),
    "filtered": said("x", "content_filter"),
    "refused": said(None, refusal="no"),
    "truncated": said("{", "length"),
    "empty": said(None),
    "json_fenced": said(FENCED),
    "json_mismatch": said("{}"),
    "json_invalid": said("prose"),
    "tool_arguments_invalid": said('{"a": 1}', tool_calls=(ToolCall(name="f", arguments="{"),)),
    "success": said('{"a": 1}'),
}


@given(st.lists(st.sampled_from(sorted(_ONE_OF_EACH)), min_size=1, max_size=5))
def test_the_worst_choice_counts(names: list[str]) -> None:
    """With several choices the outcome is the earliest of theirs, in any order."""
    judged = judge([_ONE_OF_EACH[name] for name in names], NEEDS_A, parse_json=parse_json)
    assert judged.outcome == min(names, key=OUTCOMES.index)


def test_one_choice_that_is_not_plain_spoils_the_form() -> None:
    """The recorded form is plain only when every choice's is; the value handed on is the first choice's."""
    judged = judge([said('{"a": 1}'), said(FENCED), said("prose")], NEEDS_A, parse_json=parse_json)
    assert (judged.json_form, judged.json_value) == ("fenced", {"a": 1})


@pytest.mark.parametrize(
    ("text", "limit", "advice"),
    [
        ("hel", 64, "max_tokens=64 cut the answer; raise it or omit it"),
        ("", 64, "max_tokens=64 cut the answer before any text; raise it or omit it"),
        ("hel", None, "the model's own token limit cut the answer; ask for less, or use a model with a larger limit"),
    ],
)
def test_truncation_names_the_limit(text: str, limit: int | None, advice: str) -> None:
    """A truncated answer says which limit cut it and what to do."""
    judged = judge([said(text, "length")], Expectation(max_tokens=limit), parse_json=parse_json)
    assert (judged.outcome, judged.advice) == ("truncated", advice)


def test_a_plain_answer_makes_nothing_new() -> None:
    """The usual answer costs no allocation: one shared judgement."""
    assert judge([said("hello")], Expectation(max_tokens=9), parse_json=parse_json) is SUCCESS


def test_checks_are_scored_and_faults_handed_back() -> None:
    """A check that raises is skipped and reported; the others count; the lowest score of a name is kept."""

    def broken(text: str) -> bool:
        raise RuntimeError("oops")

    checks = (
        Check(name="broken", function=broken),
        Check(name="odd", function=lambda text: 7.0),
        Check(name="share", function=lambda text: len(text) / 10, threshold=0.3),
        Check(name="silent", function=lambda text: None),
    )
    judged = judge([said("12345"), said("123")], Expectation(checks=checks), parse_json=parse_json)
    assert judged.outcome == "success"
    assert [(result.name, result.score, result.passed) for result in judged.checks] == [("share", 0.3, True)]
    assert sorted(type(fault).__name__ for fault in judged.faults) == [
        "RuntimeError",
        "RuntimeError",
        "ValueError",
        "ValueError",
    ]


def test_an_interrupt_inside_a_check_comes_through() -> None:
    """Ctrl-C is the application's, not a fault of the check."""

    def interrupted(text: str) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge([said("x")], Expectation(checks=(Check(name="c", function=interrupted),)), parse_json=parse_json)


def test_json_is_parsed_once() -> None:
    """Schema and value checks get the value that the classification parsed, also the one inside a fence."""
    parsed: list[str] = []
    seen: list[object] = []

    def counting(text: str) -> object:
        parsed.append(text)
        return parse_json(text)

    def note(value: object) -> bool:
        seen.append(value)
        return True

    expectation = Expectation(
        expects_json=True,
        schema=note,
        checks=(Check(name="one", function=note, on="value"), Check(name="two", function=note, on="value")),
    )
    judge([said('{"a": 1}')], expectation, parse_json=counting)
    assert parsed == ['{"a": 1}']
    assert seen == [{"a": 1}] * 3
    judge([said(FENCED)], expectation, parse_json=counting)
    assert seen == [{"a": 1}] * 6


def test_a_broken_schema_check_is_a_fault_not_an_exception() -> None:
    """Even a schema check that breaks its promise cannot fail the call."""

    def broken(value: object) -> bool:
        raise RuntimeError("schema")

    judged = judge([said("{}")], Expectation(expects_json=True, schema=broken), parse_json=parse_json)
    assert judged.outcome == "json_invalid"
    assert judged.faults


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [('{"q": 1}', "success"), ("{", "tool_arguments_invalid"), ("[]", "tool_arguments_invalid")],
)
def test_a_turn_that_calls_tools_is_not_the_final_answer(arguments: str, outcome: str) -> None:
    """Text beside a tool call has no JSON form and meets no checks; only the arguments are judged."""
    choice = said("Let me look.", "tool_calls", tool_calls=(ToolCall(name="search", arguments=arguments),))
    judged = judge([choice], replace(NEEDS_A, tools=TOOLS.tools, checks=NO.checks), parse_json=parse_json)
    assert (judged.outcome, judged.json_form, judged.checks) == (outcome, None, ())


def test_another_choice_beside_a_tool_call_is_judged() -> None:
    """With several choices, the one without tool calls is an answer like any other."""
    calls = said("Let me look.", "tool_calls", tool_calls=(ToolCall(name="search", arguments='{"q": 1}'),))
    judged = judge([calls, said(FENCED)], replace(NEEDS_A, tools=TOOLS.tools), parse_json=parse_json)
    assert (judged.outcome, judged.json_form) == ("json_fenced", "fenced")


def test_broken_tool_schemas_are_faults_not_exceptions() -> None:
    """A tool's schema check or a parser that breaks its promise costs the arguments, never the call."""

    def broken(value: object) -> bool:
        raise RuntimeError("schema")

    choice = said(None, "tool_calls", tool_calls=(ToolCall(name="search", arguments="{}"),))
    by_schema = judge([choice], Expectation(tools={"search": broken}), parse_json=parse_json)
    by_parser = judge([choice], parse_json=broken)
    assert by_schema.outcome == by_parser.outcome == "tool_arguments_invalid"
    assert [str(fault) for fault in (*by_schema.faults, *by_parser.faults)] == ["schema", "schema"]


any_text = st.one_of(
    st.none(),
    st.text(st.characters(codec=None)),
    st.text(alphabet='{}[]",:`~\n\\ 019.eE-+truefalsn\ud800\x00', max_size=200),
)


@given(
    st.lists(
        st.builds(
            Choice,
            text=any_text,
            refusal=any_text,
            finish_reason=st.one_of(any_text, st.sampled_from(["stop", "length", "content_filter", "tool_calls"])),
            tool_calls=st.lists(
                st.builds(ToolCall, name=st.text(max_size=5), arguments=any_text, json=st.booleans()), max_size=2
            ).map(tuple),
            has_audio=st.booleans(),
        ),
        max_size=3,
    ),
    st.booleans(),
)
def test_judge_never_raises(choices: list[Choice], expects_json: bool) -> None:
    """Whatever a model writes, surrogates and NUL included, gets an outcome."""
    judged = judge(choices, Expectation(expects_json=expects_json, checks=NO.checks), parse_json=parse_json)
    assert judged.outcome in OUTCOMES
    assert expects_json or judged.json_form is None
    assert not judged.faults


def test_a_judgement_of_json_survives_serialisation() -> None:
    """The value handed on is plain data."""
    judged = judge([said('{"a": [1, 2.5, null, true, "x"]}')], NEEDS_A, parse_json=parse_json)
    assert json.loads(json.dumps(judged.json_value)) == {"a": [1, 2.5, None, True, "x"]}

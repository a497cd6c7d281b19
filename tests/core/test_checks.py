"""Built-in checks and the running of a check."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core import checks
from tierwise.core.checks import (
    Check,
    CheckFunction,
    bullets,
    contains,
    equals_number,
    final_number,
    json_schema,
    make_check,
    markdown_table,
    max_chars,
    min_confidence,
    regex,
)
from tierwise.instrument.parsing import compile_schema, parse_json

TABLE = "Prices:\n\n| Model | Cost |\n|:---|---:|\n| a | 1 |\n| b \\| c | 2 |\n\nDone."


@pytest.mark.parametrize(
    ("check", "text", "score"),
    [
        (bullets(2), "- a\n- b", 1),
        (bullets(2), "Summary:\n\n* a\n  - nested\n* b\n", 1),
        (bullets(2), "1. a\n2) b", 1),
        (bullets(2), "• a\n• b", 1),
        (bullets(2), "- a\n- b\n- c", 0),
        (bullets(2), "- a\n---\n- - -\n**bold**\n-", 0),
        (bullets(1), "```\n- in code\n```\n- a", 1),
        (bullets(0), "no list", 1),
        (bullets(1), "- a\r\n- - -\r\n- \r\n", 1),
        (bullets(1), "2026. a year is not an item\n- a", 1),
        (markdown_table(), TABLE, 1),
        (markdown_table(columns=2), TABLE, 1),
        (markdown_table(columns=3), TABLE, 0),
        (markdown_table(columns=["model", "COST"]), TABLE, 1),
        (markdown_table(columns=["model", "price"]), TABLE, 0),
        (markdown_table(columns=2, min_rows=3), TABLE, 0),
        (markdown_table(), "a | b\n--- | ---\n1 | 2", 1),
        (markdown_table(), "| a | b |\n|---|---|\n| 1 |", 0),
        (markdown_table(), "| a | b |\n| 1 | 2 |", 0),
        (markdown_table(), "no table", 0),
        (markdown_table(), "| a | b |\n|---|---|\n| 1 |\n\n| c | d |\n|---|---|\n| 3 | 4 |", 1),
        (markdown_table(columns=2), "| a |\n|---|\n| 1 |\n\n| c | d |\n|---|---|\n| 3 | 4 |", 1),
        (markdown_table(columns=["c", "d"]), "| a | b |\n|---|---|\n\n| c | d |\n|---|---|\n| 3 | 4 |", 1),
        (markdown_table(min_rows=0), "| a | b |\n|---|---|", 1),
        (markdown_table(), "|---|---|\n| 1 | 2 |", 0),
        (contains("reverse=True"), "sorted(x, reverse=True)", 1),
        (contains("Reverse"), "reverse", 0),
        (contains("Reverse", ignore_case=True), "reverse", 1),
        (contains(["a", "b", "c", "z"]), "abc", 0.75),
        (regex(r"\b6\s+minutes\b"), "It takes 6  minutes.", 1),
        (regex(r"^x"), "ax", 0),
        (regex(r"^begin"), "begin" + " " * 100_000, 1),
        (regex(r"end$"), " " * 100_000 + "end", 1),
        (regex(r"^end"), " " * 100_000 + "end", 0),
        (regex(r"a$"), "a" * 100_000 + "b", 0),
        (regex(r"a+$"), "a" * 100_000 + "b", 0),
        (regex(r"a+$"), "a" * 8_191 + "\n" + "b" * 100_000, 0),
        (regex(r"(?m)a+$"), "a" * 8_000 + "\n" + "b" * 100_000, 1),
        (regex(r"a+"), "a" * 10_000 + "b" * 100_000, 1),
        (regex(r"(?s)^begin.*"), "begin" + " " * 100_000, 1),
        (regex(r"(?i)(?s)^(b)egin.*"), "BEGIN" + " " * 100_000, 1),
        (regex(re.compile("beg # first\n in # second", re.VERBOSE)), "begin" + " " * 100_000, 1),
        (regex(re.compile("# case\n(?i)begin", re.VERBOSE)), "BEGIN" + " " * 100_000, 1),
        (regex(r"x|begin"), "begin" + " " * 100_000, 1),
        (max_chars(3), "abc", 1),
        (max_chars(3), "abcd", 0),
        (equals_number(6), "It takes 6 minutes.", 1),
        (equals_number(6), "**6 minutes**", 1),
        (equals_number(9.9), "Total: $9.90", 1),
        (equals_number(1234.5), "1,234.5", 1),
        (equals_number(1234567), "about 1,234,567 people", 1),
        (equals_number(-3), "minus: -3", 1),
        (equals_number(-3), "typographic −3", 1),
        (equals_number(6), "between 5-6", 1),
        (equals_number(6), "gpt-5 says: 6", 1),
        (equals_number(0.5), "p = .5", 1),
        (equals_number(1500), "1.5e3", 1),
        (equals_number(6), "6, or 7", 0),
        (equals_number(6), "six", 0),
        (equals_number(6), "6, or 1e999", 0),
        (equals_number(10, tolerance=0.5), "10.4", 1),
        (equals_number(10, tolerance=0.5), "10.6", 0),
    ],
)
def test_built_in_checks_of_text(check: CheckFunction, text: str, score: float) -> None:
    """Each built-in check of text scores as it says."""
    result = make_check(check).run(text, parse_json)
    assert result is not None
    assert result.score == score
    assert result.passed is (score == 1)


@pytest.mark.parametrize(
    ("check", "threshold", "text", "score", "passed"),
    [
        (min_confidence(field="confidence"), 0.8, '{"confidence": 0.9}', 0.9, True),
        (min_confidence(field="confidence"), 0.8, '{"confidence": 0.7}', 0.7, False),
        (min_confidence(field="meta.sure"), 0.5, '{"meta": {"sure": 1}}', 1.0, True),
        (min_confidence(field="confidence"), 0.5, '{"confidence": "high"}', 0.0, False),
        (min_confidence(field="confidence"), 0.5, '{"confidence": true}', 0.0, False),
        (min_confidence(field="confidence"), 0.5, '{"confidence": 95}', 0.0, False),
        (min_confidence(field="confidence"), 0.5, "[1]", 0.0, False),
        (min_confidence(field="confidence"), 0.5, "not JSON", 0.0, False),
        (json_schema({"required": ["a"]}, compile_schema=compile_schema), 1.0, '{"a": 1}', 1.0, True),
        (json_schema({"required": ["a"]}, compile_schema=compile_schema), 1.0, "{}", 0.0, False),
        (json_schema(lambda value: value == 3), 1.0, "3", 1.0, True),
    ],
)
def test_built_in_checks_of_values(
    check: CheckFunction, threshold: float, text: str, score: float, passed: bool
) -> None:
    """Checks of the JSON value parse the text themselves when they were not given the value."""
    made = make_check(check, threshold=threshold)
    result = made.run(text, parse_json)
    assert result is not None
    assert (made.on, result.score, result.passed) == ("value", score, passed)


def test_log_probabilities_decide_only_where_there_are_some() -> None:
    """Without log probabilities the check does not apply."""
    check = make_check(min_confidence(logprob=-0.5))
    verdicts = [check.run("x", parse_json, mean_logprob=mean) for mean in (-0.1, -0.9, None)]
    assert [verdict and verdict.passed for verdict in verdicts] == [True, False, None]


def test_a_null_value_is_a_value() -> None:
    """JSON's null is handed to the check like any other value."""
    seen: list[object] = []

    def note(value: object) -> bool:
        seen.append(value)
        return True

    check = Check(name="n", function=note, on="value")
    assert check.run("null", parse_json) == check.run("ignored", parse_json, value=None)
    assert seen == [None, None]


@pytest.mark.parametrize("result", [1.5, -0.1, math.nan, math.inf, 10**400])
def test_scores_outside_the_range_are_refused(result: float) -> None:
    """A score is in [0, 1] or it is a mistake, which names the check."""
    with pytest.raises(ValueError, match="'odd' returned"):
        Check(name="odd", function=lambda text: result).run("x", parse_json)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: contains([]), "at least one"),
        (lambda: regex("("), "not a regular expression"),
        (lambda: json_schema({}), "compile_schema"),
        (min_confidence, "either field= or logprob="),
        (lambda: min_confidence(field="a", logprob=-1.0), "either field= or logprob="),
        (lambda: min_confidence(field=""), "names no field"),
        (lambda: min_confidence(field="a..b"), "names no field"),
        (lambda: min_confidence(logprob=0.5), "0 or below"),
        (lambda: min_confidence(logprob=math.nan), "0 or below"),
        (lambda: bullets(-1), "0 or more"),
        (lambda: max_chars(-1), "0 or more"),
        (lambda: markdown_table(columns=0), "1 or more"),
        (lambda: markdown_table(columns=[]), "1 or more"),
        (lambda: markdown_table(min_rows=-1), "0 or more"),
        (lambda: equals_number(math.nan), "finite"),
        (lambda: equals_number(1, tolerance=-1), "tolerance"),
        (lambda: make_check(max_chars(1), threshold=1.5), "outside"),
        (lambda: make_check(max_chars(1), threshold=math.nan), "outside"),
        (lambda: make_check(max_chars(1), on="image"), "unknown"),  # type: ignore[arg-type]
    ],
)
def test_wrong_checks_are_refused_when_made(build: Any, message: str) -> None:
    """What is wrong with a check is said when it is made, not at a call."""
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("result", ["0.5", b"1", [1], object()])
def test_results_that_are_no_scores_are_refused(result: Any) -> None:
    """A text is no score, even one that spells a number."""
    with pytest.raises(TypeError, match="'odd' returned"):
        Check(name="odd", function=lambda text: result).run("x", parse_json)


def test_scores_of_other_number_types_are_read() -> None:
    """Whatever converts to a float counts as a score."""
    result = Check(name="half", function=lambda text: Fraction(1, 2), threshold=0.5).run("x", parse_json)  # type: ignore[arg-type,return-value]
    assert result is not None
    assert (result.score, result.passed) == (0.5, True)


def test_names_and_subjects_come_with_the_function() -> None:
    """A check is named after its function unless it is given a name."""

    def brief(text: str) -> bool:
        return len(text) < 10

    assert make_check(brief).name == "brief"
    assert make_check(brief, name="short").name == "short"
    assert make_check(bullets(5)).name == "bullets(5)"
    assert make_check(brief, on="value").on == "value"


@given(st.floats(-1e9, 1e9, allow_nan=False).map(lambda number: round(number, 3)))
def test_the_final_number_is_found_in_prose(number: float) -> None:
    """A number at the end of a sentence is read back, with thousands grouped or not."""
    assert final_number(f"After 3 steps the answer is {number!r} units.") == number
    assert final_number(f"After 3 steps the answer is ${number:,.3f}") == number


@given(st.text(st.characters(codec=None), max_size=300))
def test_built_in_checks_never_raise(text: str) -> None:
    """Any text, surrogates included, gets a score."""
    for check in (bullets(3), markdown_table(columns=2), contains("x"), regex("x"), max_chars(9), equals_number(1)):
        result = make_check(check).run(text, parse_json)
        assert result is not None
        assert 0 <= result.score <= 1


@pytest.mark.parametrize(
    "text",
    [
        "1," * 500_000,
        "1" * 2_000_000 + "x",
        "1,111" * 400_000,
        "-" * 2_000_000,
        "|" * 2_000_000,
        "- a\n" * 300_000,
        "-|-\n" * 200_000 + "a|b|c",
    ],
    ids=lambda text: ascii(text[:8]),
)
def test_hostile_text_is_bounded_in_checks(text: str) -> None:
    """Megabytes made for backtracking are cut to size; the checks still answer."""
    for check in (bullets(3), markdown_table(columns=2), equals_number(1), regex("[0-9]+$")):
        assert make_check(check).run(text, parse_json) is not None


def test_each_row_of_a_table_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that all look like the line below a header cost no more than other rows."""
    read = 0

    class Counted(list[list[str]]):
        def __getitem__(self, index: Any) -> Any:
            nonlocal read
            read += 1
            return super().__getitem__(index)

    lines = Counted([["-", "-"]] * 1_000 + [["a", "b", "c"]])
    monkeypatch.setattr(checks, "_table_lines", lambda text: lines)
    result = make_check(markdown_table(columns=2)).run("x", parse_json)
    assert result is not None
    assert not result.passed
    assert 0 < read < 10 * len(lines)

"""Numbers and names as the report writes them."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.surfaces.report import text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0.0, "$0.00"),
        (1234.5, "$1,234.50"),
        (0.00042, "$0.00042"),
        (-3.2, "−$3.20"),
        (math.inf, "∞"),
        (-1e-12, "$0.00000000"),
    ],
)
def test_money(value: float | None, words: str) -> None:
    """Amounts show at least two significant digits, unknown ones a dash."""
    assert text.money(value) == words


def test_money_of_a_column_has_one_number_of_decimals() -> None:
    """The decimals of a column are those that its smallest amount needs."""
    assert text.money_decimals([0.012, None, 0.0009, 0.0, math.inf]) == 5
    assert text.money(0.012, decimals=5) == "$0.01200"


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "100\u00a0%"), (0.975, "97.5\u00a0%"), (0.0, "0\u00a0%"), (1 / 3, "33.3\u00a0%"), (None, "–")],
)
def test_percent(value: float | None, words: str) -> None:
    """Fractions become percentages, whole ones without decimals."""
    assert text.percent(value) == words


def test_times() -> None:
    """Windows say a shared day once, impossible times are a dash."""
    assert text.utc(0) == "1 January 1970, 00:00 UTC"
    assert text.window(0, 3600) == "1 January 1970, 00:00 to 01:00 UTC"
    assert text.window(0, 90_000) == "1 January 1970, 00:00 UTC to 2 January 1970, 01:00 UTC"
    assert text.utc(1e30) == "–"


def test_lists_and_plurals() -> None:
    """Long lists end in a number."""
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b", "c"]) == "a, b and c"
    assert text.listed("abcdef") == "a, b, c and 3 others"
    assert text.listed([]) == ""
    assert (text.plural(1, "run"), text.plural(2000, "run")) == ("1 run", "2,000 runs")


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=400))
def test_clean_text_is_bounded_and_has_nothing_that_controls(words: str) -> None:
    """Whatever comes in, what goes out can be encoded, has no control characters, and is at most as long as allowed."""
    cleaned = text.clean(words)
    cleaned.encode("utf-8")
    assert len(cleaned) <= text.LONGEST_NAME
    assert not any(unicodedata.category(c) in ("Cc", "Cs") or c in "\u202e\u2066\u200e" for c in cleaned)

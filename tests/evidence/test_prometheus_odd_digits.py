"""Digits that are no numbers, from a Prometheus server or what stands before it."""

from __future__ import annotations

import pytest

from tierwise.evidence.prometheus_http import retry_after


@pytest.mark.parametrize(("value", "expected"), [("²", None), ("①", None), ("", None), ("7", 7.0), (" 7 ", 7.0)])
def test_a_wish_to_wait_is_a_number_or_none(value: str, expected: float | None) -> None:
    """A `Retry-After` whose digits make no number is as good as none, not a fault."""
    assert retry_after(value) == expected

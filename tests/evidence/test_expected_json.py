"""The stored flag says whether JSON was expected, whoever expected it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.calls import make_call
from tierwise.evidence import SqliteStore


@pytest.mark.parametrize(("by_request", "expected"), [(False, False), (False, True), (True, True), (True, False)])
def test_expected_json_is_stored_whoever_expected_it(tmp_path: Path, by_request: bool, expected: bool) -> None:
    """A call of a task that expects JSON is stored so, even when its request did not ask for it."""
    call = make_call(expects_json=expected)
    call = replace(call, request=replace(call.request, expects_json=by_request))
    with SqliteStore.open(tmp_path / "tierwise.db") as store:
        store.write([call])
        (row,) = store.calls()
    assert row.expects_json is (by_request or expected)
    assert row.to_call().expects_json is (by_request or expected)

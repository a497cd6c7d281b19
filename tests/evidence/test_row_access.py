"""Rows as they are read out of the store: once through, and what is said where a data frame cannot be made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.calls import START_NS, make_call
from tierwise.core.call import CheckResult, Try
from tierwise.evidence import Rows, SqliteStore, to_pandas


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with three calls, the last with everything that is kept as a list."""
    store = tmp_path / "t.db"
    whole = make_call(
        started_at_ns=START_NS + 2,
        checks=(CheckResult(name="short", score=1.0, passed=True),),
        failed_tries=(Try(number=1, status=429, backoff_s=0.5, ended_at_ns=7),),
    )
    with SqliteStore.open(store) as opened:
        opened.write([make_call(started_at_ns=START_NS + number) for number in range(2)] + [whole])
    return store


def test_rows_are_gone_through_once(path: Path) -> None:
    """Rows come one by one, in order of time, and what was taken does not come again."""
    with SqliteStore.open(path, read_only=True) as store:
        rows = store.calls()
        assert isinstance(rows, Rows)
        assert next(rows).started_at_ns == START_NS
        assert [row.started_at_ns - START_NS for row in rows] == [1, 2]
        assert list(rows) == []


def test_lists_of_a_row_are_values(path: Path) -> None:
    """Checks and failed tries come back as they were recorded, from a row that is equal to itself read again."""
    with SqliteStore.open(path, read_only=True) as store:
        *_, row = store.calls()
        assert row.checks == (CheckResult(name="short", score=1.0, passed=True),)
        assert row.failed_tries == (Try(number=1, status=429, backoff_s=0.5, ended_at_ns=7),)
        assert row == list(store.calls())[2]
        assert hash(row.checks)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_without_its_library_says_what_to_install(
    path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a library that is not there names it and the command that installs it."""
    monkeypatch.setitem(sys.modules, library, None)  # type: ignore[arg-type]
    with (
        SqliteStore.open(path, read_only=True) as store,
        pytest.raises(ImportError, match=f"pip install {library}") as caught,
    ):
        getattr(store.calls(), f"to_{library}")()
    assert caught.value.name == library


def test_a_library_that_is_broken_is_not_called_missing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed pandas that lacks something itself fails with its own words."""
    (tmp_path / "pandas.py").write_text("import numpy_is_not_here\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    with pytest.raises(ImportError, match="numpy_is_not_here"):
        to_pandas([])

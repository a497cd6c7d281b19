"""Whether a store can be made or written in a place."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from tierwise.evidence.files import place_problem


def test_a_place_that_takes_a_store(tmp_path: Path) -> None:
    """Nothing is in the way of a new or an existing file, and looking leaves nothing behind."""
    assert place_problem(tmp_path / "new" / "folder" / "t.db") is None
    (tmp_path / "t.db").write_bytes(b"x")
    assert place_problem(tmp_path / "t.db") is None
    assert [path.name for path in tmp_path.iterdir()] == ["t.db"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    """A folder in its place and a file where a folder should be are told with their path."""
    (tmp_path / "file").touch()
    assert place_problem(tmp_path) == f"{tmp_path} is a folder, not a file"
    assert place_problem(tmp_path / "file" / "deep" / "t.db") == f"{tmp_path / 'file'} is not a folder"


def test_rights_alone_do_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount is found although its rights allow writing: a file is tried in the nearest folder that exists."""

    def read_only(dir: Path) -> NoReturn:  # noqa: A002
        assert dir == tmp_path
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir / "tmpx"))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    expected = f"{tmp_path} cannot be written (Read-only file system)"
    assert place_problem(tmp_path / "no" / "such" / "t.db") == expected
    (tmp_path / "t.db").touch()
    assert place_problem(tmp_path / "t.db") == expected

"""Files are their owner's alone whatever the umask, and no link that somebody laid is followed to another file."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.calls import make_call
from support.commands import tierwise as command
from support.report_data import GEMINI, SONNET, rounds, store_with
from tierwise.config import read_settings
from tierwise.config.discovery import _state_folder
from tierwise.core.errors import RouteError
from tierwise.core.route import Route, RouteTable
from tierwise.evidence import SqliteStore
from tierwise.routing import locked, replace_file, write_table

TABLE = RouteTable(routes={"strict-json": Route(task="strict-json", primary=SONNET)})
POLICY = f"tasks:\n  strict-json: {{candidates: [{SONNET}, {GEMINI}]}}\n"


@pytest.fixture
def open_to_all() -> Iterator[None]:
    """A process whose new files everybody may write: umask 000."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    """The rights of a file, its type left out."""
    return stat.S_IMODE(path.lstat().st_mode)


def open_files(folder: Path) -> dict[str, str]:
    """What in a folder and below it others may read, write or enter, with its mode."""
    return {str(one.relative_to(folder)): oct(mode(one)) for one in folder.rglob("*") if mode(one) & 0o077}


@pytest.mark.usefixtures("open_to_all")
def test_everything_that_is_made_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store with its write-ahead log, routes, audit log, locks, memory, report and exports, and every folder above them."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "a" / "b" / ".tierwise"
    monkeypatch.setenv("TIERWISE_STORE", str(made / "tierwise.db"))
    monkeypatch.setenv("TIERWISE_ROUTES", str(tmp_path / "c" / ".tierwise" / "routes.json"))
    store_with(made / "tierwise.db", [*rounds(40)])
    (tmp_path / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
    (tmp_path / "tierwise.yaml").chmod(0o600)
    write_table(read_settings().routes_path, TABLE, expected_version=0)
    with SqliteStore.open(made / "tierwise.db") as store:
        store.write([make_call()])
        assert (made / "tierwise.db-wal").exists()
        for arguments in (
            ["promote", "strict-json", GEMINI, "--yes"],
            ["report", "-o", "out/report.html"],
            ["export", "--format", "json", "-o", "routes-export.json"],
            ["watch", "--once"],
        ):
            result = command(*arguments)
            assert result.exit_code in (0, 1), result.output
        expected = {
            "tierwise.db",
            "tierwise.db-wal",
            "tierwise.db-shm",
            "routes.json",
            "routes.json.lock",
            "audit.jsonl",
        }
        expected |= {"audit.jsonl.lock", "report.html", "routes-export.json"}
        assert expected <= {one.name for one in tmp_path.rglob("*")}
        found = open_files(tmp_path)
    found.pop("out", None)  # a folder that was asked for by name, made as any program would
    assert found == {}


def test_a_file_that_is_replaced_becomes_private(tmp_path: Path) -> None:
    """The route file and a report that others could read before are the owner's alone after the next change."""
    path = tmp_path / "routes.json"
    path.write_bytes(b"{}")
    path.chmod(0o666)
    replace_file(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


def test_a_store_that_was_opened_to_others_stays_so(tmp_path: Path) -> None:
    """Rights that the owner gave the store are his decision; its write-ahead log has the same ones."""
    path = tmp_path / "tierwise.db"
    with SqliteStore.open(path) as store:
        store.write([make_call()])
    path.chmod(0o640)
    with SqliteStore.open(path) as store:
        store.write([make_call()])
        assert (mode(path), mode(tmp_path / "tierwise.db-wal")) == (0o640, 0o640)


def test_links_in_place_of_the_file_are_replaced(tmp_path: Path) -> None:
    """A route file that is a link to another file is replaced itself; the other file stays as it is."""
    victim, path = tmp_path / "victim", tmp_path / "routes.json"
    victim.write_text("mine", encoding="utf-8")
    path.symlink_to(victim)
    replace_file(path, b"new")
    assert (victim.read_text(encoding="utf-8"), path.read_bytes(), path.is_symlink()) == ("mine", b"new", False)


def test_links_in_place_of_the_temporary_file_are_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even who guesses the temporary file's name cannot have it written through a link."""
    victim = tmp_path / "victim"
    victim.write_text("mine", encoding="utf-8")
    names = iter(["guessed", "another"])
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: names)
    planted = tmp_path / ".routes.json.guessed.tmp"
    planted.symlink_to(victim)
    replace_file(tmp_path / "routes.json", b"new")
    assert victim.read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "routes.json").read_bytes() == b"new"
    assert next(names, None) is None, "the first name was tried and passed by"


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    """A lock file that is a link makes no file elsewhere; the error names it."""
    (tmp_path / "routes.json.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RouteError, match=r"routes\.json\.lock: cannot be made"), locked(tmp_path / "routes.json"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_in_place_of_gitignore_makes_no_file(tmp_path: Path) -> None:
    """The store's folder ignores itself in git without writing through a link."""
    folder = tmp_path / ".tierwise"
    folder.mkdir()
    (folder / ".gitignore").symlink_to(tmp_path / "elsewhere")
    SqliteStore.open(folder / "tierwise.db").close()
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_home_the_folder_cannot_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can make the folder first among the temporary files; within a process it is one and the same."""

    def nobody() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nobody)
    folder = _state_folder({"TMPDIR": "/tmp"})  # noqa: S108
    assert folder == _state_folder({"TMPDIR": "/tmp"})  # noqa: S108
    assert str(os.getpid()) not in folder.parts[2].split("-")
    assert len(folder.parts[2]) == len("tierwise-") + 16

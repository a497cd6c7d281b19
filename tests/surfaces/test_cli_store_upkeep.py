"""`tierwise store` in detail: dry runs, damage, locks; and the document that promises what the file holds."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.calls import make_call
from support.commands import tierwise
from tierwise.core.call import Run
from tierwise.evidence import SqliteStore
from tierwise.surfaces.cli.store import expect_pruned, size

DOCUMENT = Path(__file__).parents[2] / "docs" / "store.md"
DAY_NS = 86_400 * 10**9


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with 30 calls of today and one run; 60 more calls are 40 days old."""
    now, file = time.time_ns(), tmp_path / "t.db"
    with SqliteStore.open(file) as store:
        store.write([make_call(started_at_ns=now - n * 10**9, run_id="r") for n in range(30)])
        store.write([make_call("old", started_at_ns=now - 40 * DAY_NS + n) for n in range(60)])
        store.write([_run(now)])
    return file


def _run(at_ns: int) -> Run:
    return Run(
        run_id="r", task="summary", candidate="gpt-5-mini", epoch="00ff00ff", arm="pinned", grade="observational",
        started_at_ns=at_ns - 29 * 10**9, duration_s=30.0, calls=30, success=True, outcome="success", cost_usd=0.03,
    )  # fmt: skip


def _calls(path: Path) -> int:
    with SqliteStore.open(path, read_only=True) as store:
        return store.call_count()


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as opened:
        yield opened


# --- path ----------------------------------------------------------------------------------------------------------


def test_path_is_printed_before_the_store_exists(tmp_path: Path) -> None:
    """The path is one line on stdout, creates nothing, and --json says whether it exists."""
    result = tierwise("store", "path", "--store", "new.db")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'new.db'}\n")
    document = json.loads(tierwise("store", "path", "--store", "new.db", "--json").stdout)
    assert document == {"path": str(tmp_path / "new.db"), "exists": False}
    assert list(tmp_path.iterdir()) == []


def test_path_follows_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIERWISE_STORE names the store; `off` is an error for people and null for programs."""
    monkeypatch.setenv("TIERWISE_STORE", str(path))
    assert tierwise("store", "path").stdout.strip() == str(path)
    assert json.loads(tierwise("store", "path", "--json").stdout)["exists"] is True
    monkeypatch.setenv("TIERWISE_STORE", "off")
    assert tierwise("store", "path").exit_code == 2
    assert json.loads(tierwise("store", "path", "--json").stdout) == {"path": None, "exists": False}


# --- status --------------------------------------------------------------------------------------------------------


def test_status_shows_health(path: Path) -> None:
    """Counts, times, sizes and integrity stand in a table, and in JSON under names with units."""
    with SqliteStore.open(path) as store:
        store.count("dropped", 7)
    shown = tierwise("store", "status", "--store", str(path))
    assert shown.exit_code == 0
    lines = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in shown.stdout.strip().splitlines())
    assert (lines["calls"], lines["runs of several calls"], lines["lost rows"]) == ("90", "1", "7")
    assert lines["integrity"] == "ok"
    document = json.loads(tierwise("store", "status", "--store", str(path), "--json").stdout)
    assert (document["calls"], document["runs"], document["dropped"], document["intact"]) == (90, 1, 7, True)
    assert document["size_bytes"] == path.stat().st_size
    assert document["newest_ns"] - document["oldest_ns"] == pytest.approx(40 * DAY_NS)


def test_status_of_an_empty_store(path: Path, tmp_path: Path) -> None:
    """A store without calls is sound and says so."""
    SqliteStore.open(tmp_path / "empty.db").close()
    result = tierwise("store", "status", "--store", "empty.db", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["calls"], document["oldest_ns"], document["intact"]) == (0, None, True)
    assert re.search(r"from +–", tierwise("store", "status", "--store", "empty.db").stdout)


@pytest.mark.parametrize("command", ["status", "prune", "vacuum"])
@pytest.mark.parametrize("place", ["missing.db", "garbage.db", "foreign.db", "folder", "garbage.db/below.db", "off"])
def test_what_is_no_store_is_said(command: str, place: str, tmp_path: Path) -> None:
    """A missing, damaged or foreign file, a folder and a store that is off: exit 2, one message, nothing made."""
    (tmp_path / "garbage.db").write_bytes(b"not a database, and long enough to be looked at by SQLite " * 40)
    with closing(sqlite3.connect(tmp_path / "foreign.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    result = tierwise("store", command, "--store", place)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: " in result.stderr.lower()
    assert sorted(tmp_path.iterdir()) == before


def test_status_of_a_damaged_store(path: Path, connection: sqlite3.Connection) -> None:
    """A file whose index contradicts its table is damaged: status names it and exits 1."""
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'runs_by_time') "
        "WHERE name = 'evidence_by_hour'"
    )
    connection.commit()
    connection.close()
    result = tierwise("store", "status", "--store", str(path), "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["intact"]) == (1, False)
    assert document["problem"] in result.stderr
    assert "copy the file away" in result.stderr


# --- prune, vacuum -------------------------------------------------------------------------------------------------


def test_prune_dry_run_says_exactly_what_prune_does(path: Path) -> None:
    """Old rows are counted without a change, then deleted; their evidence stays."""
    before = path.read_bytes()
    expected = json.loads(tierwise("store", "prune", "--dry-run", "--json", "--store", str(path)).stdout)
    assert expected == {"dry_run": True, "rows": 60, "too_old": 60, "estimated": False}
    assert "60 rows would be deleted" in tierwise("store", "prune", "--dry-run", "--store", str(path)).stdout
    assert (path.read_bytes(), _calls(path)) == (before, 90)
    done = tierwise("store", "prune", "--json", "--store", str(path))
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"dry_run": False, "deleted": 60})
    assert "0 rows deleted" in tierwise("store", "prune", "--store", str(path)).stdout
    with SqliteStore.open(path, read_only=True) as store:
        assert (store.call_count(), store.tasks(), store.health().pruned) == (30, ["old", "summary"], 60)


def test_a_file_beyond_the_size_limit_is_estimated(path: Path) -> None:
    """Beyond the size limit the oldest rows go whatever their age, and the number is called an estimate."""
    expected = expect_pruned(path, max_bytes=8192)
    assert expected.estimated
    assert 60 < expected.rows <= 91
    assert expect_pruned(path, now_s=0.0, max_bytes=1 << 40).rows == 0


def test_vacuum_frees_what_the_dry_run_says(tmp_path: Path) -> None:
    """Free pages are counted without a change; afterwards the file is smaller by at least that and holds the same rows."""
    file = tmp_path / "v.db"
    with SqliteStore.open(file) as store:
        store.write([make_call(started_at_ns=time.time_ns() + n) for n in range(400)])
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DELETE FROM calls WHERE id % 8")
        connection.commit()
    before = file.read_bytes()
    expected = json.loads(tierwise("store", "vacuum", "--dry-run", "--json", "--store", str(file)).stdout)
    assert expected["size_bytes"] == len(before)
    assert "would be freed" in tierwise("store", "vacuum", "--dry-run", "--store", str(file)).stdout
    assert file.read_bytes() == before
    done = json.loads(tierwise("store", "vacuum", "--json", "--store", str(file)).stdout)
    assert done["before_bytes"] == len(before)
    assert done["after_bytes"] == file.stat().st_size < len(before) - expected["free_bytes"] + 1
    assert _calls(file) == 50
    assert "→" in tierwise("store", "vacuum", "--store", str(file)).stdout


def test_prune_waits_for_nobody_for_ever(
    path: Path, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that another process holds is an error that says so, and nothing is deleted."""
    monkeypatch.setattr("tierwise.evidence.sqlite._BUSY_MS", 50)
    connection.execute("BEGIN IMMEDIATE")
    result = tierwise("store", "prune", "--store", str(path))
    connection.rollback()
    assert result.exit_code == 2
    assert "locked by another process" in result.stderr
    assert _calls(path) == 90


def test_sizes_are_written_for_people() -> None:
    """Bytes have binary units."""
    assert [size(number) for number in (0, 1023, 1024, 5 << 20, 3 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 TiB",
    ]  # fmt: skip


# --- docs/store.md -------------------------------------------------------------------------------------------------


def _sections() -> dict[str, str]:
    """The text about each table."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


def test_every_table_and_column_is_documented(connection: sqlite3.Connection) -> None:
    """docs/store.md has a section for each table and names every column in it; a listed column exists."""
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert sorted(_sections()) == sorted(tables)
    for table, text in _sections().items():
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        assert columns <= set(re.findall(r"`(\w+)`", text)), table
        listed = " ".join(re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE))
        assert set(re.findall(r"`(\w+)`", listed)) <= columns, table


def test_the_documented_queries_run(connection: sqlite3.Connection) -> None:
    """Every SQL example of docs/store.md runs on a real store and finds rows."""
    blocks = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    queries = [query for block in blocks for query in block.split(";\n") if query.strip()]
    assert len(queries) >= 5
    for query in queries:
        assert connection.execute(query).fetchall(), query


def test_the_documented_facts_hold(path: Path, connection: sqlite3.Connection) -> None:
    """Schema version, application id, journal mode and rights are those of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    version, owner = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id"))
    assert f"`PRAGMA user_version`, now {version}." in text
    assert f"`PRAGMA application_id` {owner} " in text
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert path.stat().st_mode & 0o777 == 0o600

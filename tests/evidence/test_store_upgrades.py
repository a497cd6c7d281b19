"""Stores and route files of every earlier version: opened, migrated, read, planned from; interrupted; refused when newer."""

from __future__ import annotations

import json
import runpy
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tierwise
from support.canned import ASK, chat, sync_client
from support.earlier import CALLS, FIXTURES, SCHEMAS, make_store, sums, version_of
from tierwise.advisor.plan import plan
from tierwise.core.errors import RouteError, StoreError
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.route import Route
from tierwise.evidence import SqliteStore, schema
from tierwise.routing import RouteWatcher, read_table, update_table

TESTS = Path(__file__).parents[1]
NOW = 1_790_000_000 + 3 * 86_400
POLICY = Policy(tasks={"strict-json": TaskPolicy(task="strict-json", candidates=("dear", "cheap"))})


def _opened(path: Path) -> SqliteStore:
    """For writing, when the calls in it were three days old: none is too old to be kept."""
    return SqliteStore.open(path, clock=lambda: NOW)


def _decided(path: Path, routes: Path) -> dict[str, Any]:
    with SqliteStore.open(path, read_only=True) as store:
        return plan(store.evidence_by_task(), POLICY, read_table(routes), NOW).to_json()


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of today with what the earlier ones hold."""
    path = tmp_path_factory.mktemp("today") / "s.db"
    with _opened(path) as store:
        for batch in runpy.run_path(str(FIXTURES / "make_store.py"))["batches"]():
            store.write(batch)
    return path


def test_there_is_a_store_of_every_schema() -> None:
    """Whoever adds a schema adds a store that the code before it has written."""
    assert SCHEMAS[-1] == schema.VERSION
    for version in SCHEMAS:
        text = (FIXTURES / f"store-schema-{version}.sql").read_text(encoding="utf-8")
        assert f"PRAGMA user_version = {version};" in text


@pytest.mark.parametrize("routes", ["routes-first.json", "routes-drift.json"])
@pytest.mark.parametrize("version", SCHEMAS)
def test_every_earlier_store_is_migrated_read_and_planned_from(
    version: int, routes: str, today: Path, tmp_path: Path
) -> None:
    """All rows and sums are there, the integrity check passes, the decision is today's, and writing goes on."""
    path = make_store(tmp_path / "s.db", version)
    if version < schema.VERSION:
        with pytest.raises(StoreError, match="run the application once to migrate it"):
            SqliteStore.open(path, read_only=True)
    with _opened(path) as store:
        kept, rolled = sums(store)
        health = store.health()
        assert (health.schema_version, health.intact, health.dropped) == (schema.VERSION, True, 3)
        assert (store.call_count(), len(list(store.runs()))) == (CALLS, 1)
        assert kept == rolled
        rows = list(store.calls())
        assert {row.task for row in rows} == {"strict-json", "summary", "bug-fix"}
        assert {(row.session, row.round) for row in rows if row.task == "summary"} == {("s-1", n) for n in range(4)}
    found = _decided(path, FIXTURES / routes)
    assert found == _decided(today, FIXTURES / routes)
    assert [item["task"] for item in found["recommendations"]] == ["bug-fix", "strict-json", "summary"]
    with _opened(path) as store:
        store.write([rows[0].to_call()])
        store.pack()
        kept, rolled = sums(store)
        assert {key: one.n for key, one in kept.items()} == {key: one.n for key, one in rolled.items()}
        assert store.call_count() == CALLS + 1
    assert version_of(path) == schema.VERSION


def _shape(path: Path) -> list[tuple[str, str, str]]:
    connection = sqlite3.connect(path)
    names = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2")
    found = [
        (kind, name, repr(sorted(row[1:] for row in connection.execute(f"PRAGMA table_xinfo({name})"))))
        for kind, name in names.fetchall()
    ]
    connection.close()
    return found


@pytest.mark.parametrize("version", SCHEMAS)
def test_a_migrated_store_has_the_shape_of_a_new_one(version: int, tmp_path: Path) -> None:
    """Tables, columns with their types and defaults, indexes and triggers are those of a store made today."""
    SqliteStore.open(make_store(tmp_path / "old.db", version)).close()
    SqliteStore.open(tmp_path / "new.db").close()
    assert _shape(tmp_path / "old.db") == _shape(tmp_path / "new.db")


@pytest.mark.parametrize("version", [1, 3])
def test_a_migration_that_is_killed_is_as_if_it_had_not_begun(version: int, tmp_path: Path) -> None:
    """SIGKILL before each of its statements leaves the old store whole; the next opening migrates it."""
    done = subprocess.run(
        [sys.executable, "-m", "support.earlier", str(tmp_path), str(version)],
        cwd=TESTS, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= sum(map(len, schema.MIGRATIONS[version:]))


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Reading and writing say which versions met and what to do; not a byte of the file changes."""
    path = make_store(tmp_path / "s.db", schema.VERSION)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.execute("ALTER TABLE calls ADD COLUMN later TEXT")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    words = f"schema version {schema.VERSION + 1}, this tierwise knows up to {schema.VERSION}; upgrade tierwise or use"
    for read_only in (True, False):
        with pytest.raises(StoreError, match=words):
            SqliteStore.open(path, read_only=read_only)
    assert path.read_bytes() == before


def test_an_application_meets_a_store_of_a_newer_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At its default place calls go on without it and the log says why; one that was named raises, then or later."""
    (tmp_path / "tierwise.yaml").touch()
    (tmp_path / ".tierwise").mkdir()
    path = make_store(tmp_path / ".tierwise" / "tierwise.db", schema.VERSION)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    monkeypatch.chdir(tmp_path)
    client, _ = sync_client(chat())
    tierwise.instrument(client)
    try:
        assert client.chat.completions.create(**ASK).choices[0].message.content == "Hello."
        assert "recording without a store" in caplog.text
        assert "upgrade tierwise" in caplog.text
        with pytest.raises(StoreError, match="upgrade tierwise"):
            tierwise.instrument(client, store=path)
    finally:
        tierwise.shutdown()
    assert version_of(path) == schema.VERSION + 1


@pytest.mark.parametrize("routes", ["routes-first.json", "routes-drift.json"])
def test_an_earlier_route_file_is_followed_and_changed(routes: str, tmp_path: Path) -> None:
    """Its routes are in force as they were, and the next change keeps them."""
    path = tmp_path / "routes.json"
    shutil.copy(FIXTURES / routes, path)
    table = RouteWatcher(path).current()
    assert (table.version, set(table.routes)) == (7, {"strict-json", "summary"})
    old = table.routes["strict-json"]
    assert (old.primary, old.ladder, old.propensities) == ("dear", ("cheap", "dear"), {"dear": 0.75, "cheap": 0.25})
    assert old.canary is not None
    assert (old.canary.candidate, old.canary.share, old.canary.stage) == ("cheap", 0.25, 1)
    changed = update_table(
        path,
        lambda given: type(given)(
            version=given.version, routes={**given.routes, "new": Route(task="new", primary="a")}
        ),
    )
    assert changed.version == 8
    assert read_table(path).routes == {**table.routes, "new": Route(task="new", primary="a")}


@pytest.mark.parametrize("newer", ["another format", "one more field"])
def test_a_route_file_of_a_newer_version_is_refused_and_left_alone(newer: str, tmp_path: Path) -> None:
    """A change is refused with a word to update, the file stays as it is, and routes in force stay in force."""
    path = tmp_path / "routes.json"
    shutil.copy(FIXTURES / "routes-drift.json", path)
    watcher = RouteWatcher(path, interval_s=0)
    in_force = watcher.current()
    document = json.loads(path.read_text(encoding="utf-8"))
    if newer == "another format":
        document["format"] = "tierwise-routes/2"
    else:
        document["routes"]["summary"]["later"] = 1
    path.write_text(json.dumps(document), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(RouteError, match="update tierwise"):
        update_table(path, lambda table: table)
    assert path.read_bytes() == before
    assert watcher.current() == in_force
    assert watcher.problem is not None
    assert "update tierwise" in watcher.problem

"""The route file: round trips, hostile content, compare-and-swap, locks, rights, and the watcher."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core.errors import RouteError
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import RouteWatcher, locked, read_table, table_from_json, table_to_json, update_table, write_table

NAMES = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=30)
TIMES = st.integers(min_value=0, max_value=1 << 39)
SHARES = st.floats(min_value=0, max_value=1)
CANARIES = st.builds(Canary, candidate=NAMES, share=SHARES, stage=st.integers(0, 5), started_at=TIMES)


@st.composite
def tables(draw: st.DrawFn) -> RouteTable:
    """Any valid table."""
    some = st.lists(NAMES, max_size=4, unique=True).map(tuple)
    routes = {
        task: Route(
            task=task,
            primary=draw(NAMES),
            fallbacks=draw(some),
            ladder=draw(some),
            canary=draw(st.none() | CANARIES),
            since=draw(TIMES),
            cooldown_until=draw(TIMES),
            backoff=draw(st.dictionaries(NAMES, TIMES, max_size=3)),
            propensities=draw(st.dictionaries(NAMES, SHARES, max_size=3)),
            epochs=draw(st.dictionaries(NAMES, NAMES, max_size=3)),
            drifted=draw(st.dictionaries(NAMES, TIMES, max_size=3)),
            primary_drifted_at=draw(TIMES),
            dropped=draw(st.dictionaries(NAMES, NAMES | st.just(""), max_size=3)),
            failed=draw(st.dictionaries(NAMES, NAMES | st.just(""), max_size=3)),
        )
        for task in draw(st.lists(NAMES, max_size=3, unique=True))
    }
    return RouteTable(version=draw(TIMES), updated_at=draw(TIMES), routes=routes)


def table(primary: str = "m", task: str = "t") -> RouteTable:
    """A table with one route."""
    return RouteTable(routes={task: Route(task=task, primary=primary)})


@given(tables())
def test_tables_survive_the_round_trip(value: RouteTable) -> None:
    """A table read back is the table written."""
    assert table_from_json(table_to_json(value), where="x") == value


def test_an_older_file_without_the_newer_fields_is_read() -> None:
    """What an older version wrote has no drift, no dropped and no failed candidates."""
    document = json.loads(table_to_json(table()))
    for name in ("drifted", "primary_drifted_at", "dropped", "failed"):
        del document["routes"]["t"][name]
    assert table_from_json(json.dumps(document), where="x") == table()


FIELDS = st.sampled_from(["format", "version", "routes", "t", "primary", "canary", "share"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4)))
def test_hostile_documents_are_route_errors(value: object) -> None:
    """Any other JSON is a RouteError, never another exception."""
    with pytest.raises(RouteError, match=r"^x: "):
        table_from_json(json.dumps(value), where="x")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"primary": None}, "routes['t'].primary must be text"),
        ({"primary": "a\x1b[31m"}, "routes['t'].primary holds control characters"),
        ({"primary": "\ud800"}, "routes['t'].primary holds control characters"),
        ({"fallbacks": ["a", "a"]}, "routes['t'].fallbacks names something twice"),
        ({"fallbacks": "ab"}, "routes['t'].fallbacks must be a list"),
        ({"canary": {"candidate": "a", "share": 2}}, "routes['t'].canary.share must be between 0 and 1"),
        ({"canary": {"candidate": "a", "share": 0.5, "x": 1}}, "routes['t'].canary.x is unknown"),
        ({"since": -1}, "routes['t'].since must be a whole number"),
        ({"since": 10**30}, "routes['t'].since must be a whole number"),
        ({"since": True}, "routes['t'].since must be a whole number"),
        ({"backoff": {"m": 1.5}}, "routes['t'].backoff['m'] must be a whole number"),
        ({"drifted": {"m": -1}}, "routes['t'].drifted['m'] must be a whole number"),
        ({"drifted": {"m\n": 1}}, "routes['t'].drifted holds control characters"),
        ({"drifted": [1]}, "routes['t'].drifted must be an object"),
        ({"primary_drifted_at": "x"}, "routes['t'].primary_drifted_at must be a whole number"),
        ({"dropped": {"m": 3}}, "routes['t'].dropped['m'] must be text"),
        ({"failed": {"m": "x" * 201}}, "routes['t'].failed['m'] must be text"),
        ({"failed": {str(i): "" for i in range(51)}}, "routes['t'].failed has more than 50 entries"),
        ({"propensities": {"m": 1.5}}, "routes['t'].propensities['m'] must be between 0 and 1"),
        ({"fallback": []}, "routes['t'].fallback is unknown; known are primary, fallbacks"),
    ],
)
def test_wrong_content_says_where(change: dict[str, object], expected: str) -> None:
    """A wrong value in a route is named by its path."""
    document = json.loads(table_to_json(table()))
    document["routes"]["t"].update(change)
    with pytest.raises(RouteError) as caught:
        table_from_json(json.dumps(document), where="r.json")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "NaN", '{"format": "tierwise-routes/1", "version": NaN}', '{"a": 1, "a": 2}']
)
def test_texts_that_are_not_tables_are_route_errors(text: str) -> None:
    """Torn, deep, constant and doubled documents are refused."""
    with pytest.raises(RouteError, match="not a route table"):
        table_from_json(text, where="x")


def test_a_newer_format_asks_for_an_update() -> None:
    """A table of another format is refused with the way out."""
    text = table_to_json(table()).replace("tierwise-routes/1", "tierwise-routes/2")
    with pytest.raises(RouteError, match="update tierwise"):
        table_from_json(text, where="x")


def test_no_file_is_the_empty_table(tmp_path: Path) -> None:
    """Without a file there are no routes at version 0."""
    assert read_table(tmp_path / "routes.json") == RouteTable()


def test_files_that_are_too_large_or_not_text_are_refused(tmp_path: Path) -> None:
    """A file over the limit or in another encoding is refused before it is parsed."""
    path = tmp_path / "routes.json"
    with path.open("wb") as file:
        file.truncate((8 << 20) + 1)
    with pytest.raises(RouteError, match="larger than 8 MiB"):
        read_table(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RouteError, match="not UTF-8"):
        read_table(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    """Opening a pipe would wait for ever; the error says what to do."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(RouteError, match="is no regular file, so not a route table; name another"):
            read_table(path)


def test_files_belong_to_the_owner_alone_and_git_ignores_the_folder(tmp_path: Path) -> None:
    """Route file 0600, folder 0700 with a .gitignore of its own; no temporary file stays."""
    path = tmp_path / ".tierwise" / "routes.json"
    old = os.umask(0)
    try:
        write_table(path, table(), expected_version=0)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (path.parent / ".gitignore").read_text() == "*\n"
    assert sorted(item.name for item in path.parent.iterdir()) == [".gitignore", "routes.json", "routes.json.lock"]


def test_compare_and_swap_refuses_a_changed_table(tmp_path: Path) -> None:
    """A table made from an old version is not written over a newer one."""
    path = tmp_path / "routes.json"
    assert write_table(path, table("a"), expected_version=0).version == 1
    with pytest.raises(RouteError, match="is at version 1, not 0"):
        write_table(path, table("b"), expected_version=0)
    assert read_table(path).routes["t"].primary == "a"


def test_same_routes_write_nothing(tmp_path: Path) -> None:
    """A change that changes nothing keeps version and file."""
    path = tmp_path / "routes.json"
    write_table(path, table("a"), expected_version=0)
    before = path.stat().st_ino
    assert update_table(path, lambda old: replace(old, updated_at=9)).version == 1
    assert path.stat().st_ino == before


def test_a_change_that_cannot_be_audited_is_not_made(tmp_path: Path) -> None:
    """An exception before the write leaves the old table."""
    path = tmp_path / "routes.json"

    def refuse(old: RouteTable, new: RouteTable) -> None:
        assert (old.version, new.version) == (0, 1)
        raise RouteError("full")

    with pytest.raises(RouteError, match="full"):
        update_table(path, lambda _: table(), before_write=refuse)
    assert read_table(path) == RouteTable()


def test_an_invalid_table_is_never_written(tmp_path: Path) -> None:
    """A table that could not be read back is refused."""
    with pytest.raises(RouteError, match="the new table"):
        write_table(tmp_path / "routes.json", table("bad\x00name"), expected_version=0)
    assert not (tmp_path / "routes.json").exists()


def test_a_failed_replace_keeps_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error leaves the old content and no temporary file."""
    path = tmp_path / "routes.json"
    write_table(path, table("a"), expected_version=0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RouteError, match="No space left"):
        write_table(path, table("b"), expected_version=1)
    assert read_table(path).routes["t"].primary == "a"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["routes.json", "routes.json.lock"]


GROW = """
import sys
from dataclasses import replace
from pathlib import Path
from tierwise.core.route import Route
from tierwise.routing import update_table
for i in range(int(sys.argv[3])):
    name = f"{sys.argv[2]}-{i}"
    update_table(
        Path(sys.argv[1]),
        lambda old: replace(old, routes={**old.routes, name: Route(task=name, primary="m")}),
        timeout_s=60,
    )
"""


def grow(path: Path, task: str, times: int) -> None:
    """Add routes one by one from another process."""
    subprocess.run([sys.executable, "-c", GROW, str(path), task, str(times)], check=True)


def test_changes_of_several_processes_and_threads_are_all_there(tmp_path: Path) -> None:
    """No update is lost: the version counts every one."""
    path = tmp_path / "routes.json"
    others = [threading.Thread(target=grow, args=(path, f"p{i}", 10)) for i in range(2)]
    threads = [threading.Thread(target=add, args=(path, f"t{i}", 10)) for i in range(2)]
    for worker in (*others, *threads):
        worker.start()
    for worker in (*others, *threads):
        worker.join()
    final = read_table(path)
    assert (final.version, len(final.routes)) == (40, 40)


def add(path: Path, task: str, times: int) -> None:
    """Add routes one by one from this process."""
    for i in range(times):
        route = Route(task=f"{task}-{i}", primary="m")
        update_table(
            path, lambda old, route=route: replace(old, routes={**old.routes, route.task: route}), timeout_s=60
        )


def test_a_held_lock_ends_in_a_clear_error(tmp_path: Path) -> None:
    """Waiting for a lock has an end, and the error names the lock."""
    path = tmp_path / "routes.json"
    with locked(path), pytest.raises(RouteError, match=r"routes\.json\.lock: held by another process"):
        write_table(path, table(), expected_version=0, timeout_s=0.05)
    assert write_table(path, table(), expected_version=0, timeout_s=0.05).version == 1


def test_watcher_follows_changes_and_keeps_the_last_good_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """New content is taken, broken or missing content is logged once and changes nothing, repair is taken again."""
    path = tmp_path / "routes.json"
    watcher = RouteWatcher(path, interval_s=0)
    assert watcher.current() == RouteTable()
    assert watcher.problem is None
    write_table(path, table("a"), expected_version=0)
    assert watcher.current().routes["t"].primary == "a"
    good = path.read_text()
    with caplog.at_level(logging.WARNING, "tierwise"):
        path.write_text("{ torn")
        for _ in range(3):
            assert watcher.current().routes["t"].primary == "a"
        assert watcher.problem is not None
        assert len(caplog.records) == 1
        path.unlink()
        for _ in range(3):
            assert watcher.current().routes["t"].primary == "a"
        assert len(caplog.records) == 2
    path.write_text(good.replace('"a"', '"b"'))
    assert watcher.current().routes["t"].primary == "b"
    assert watcher.problem is None


def test_watcher_looks_only_after_its_interval(tmp_path: Path) -> None:
    """Between two looks the table in memory is served."""
    path = tmp_path / "routes.json"
    now = [0.0]
    watcher = RouteWatcher(path, interval_s=1.0, clock=lambda: now[0])
    watcher.current()
    write_table(path, table("a"), expected_version=0)
    assert watcher.current().version == 0
    now[0] = 1.0
    assert watcher.current().version == 1


def test_watcher_never_raises(tmp_path: Path) -> None:
    """A path that cannot be a file is a problem, not an exception."""
    watcher = RouteWatcher(tmp_path, interval_s=0)
    assert watcher.current() == RouteTable()
    assert watcher.problem is not None

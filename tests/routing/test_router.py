"""The router over a live route file: reloads while many threads draw, and files that are broken, hostile or gone."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from tierwise.core.call import TaskContext
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.route import Draw, Route, RouteTable
from tierwise.routing import Router, RouteWatcher, read_table, table_to_json, write_table

CONTEXT = TaskContext(name="t")
POLICY = Policy(tasks={"t": TaskPolicy(task="t", candidates=("m0", "n0"))})


def whole(version: int) -> RouteTable:
    """A table whose every part names its version: a mixture of two would show."""
    name = f"m{version}"
    route = Route(
        task="t",
        primary=name,
        fallbacks=(f"n{version}",),
        ladder=(name, f"n{version}"),
        propensities={name: 0.5, f"n{version}": 0.5},
    )
    return RouteTable(version=version, routes={"t": route})


def test_sixteen_threads_never_see_a_torn_route(tmp_path: Path) -> None:
    """While the file is replaced again and again each draw is of one version, in candidate, rungs and version alike."""
    path = tmp_path / "routes.json"
    write_table(path, whole(1), expected_version=0)
    watcher = RouteWatcher(path, interval_s=0)
    watcher.current()  # as `instrument()` does, before any call
    router = Router(Policy(), watcher.current)
    stop, wrong, seen = threading.Event(), [], set()

    def draws(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            draw = router.draw(CONTEXT, {}, f"{number}-{count}")
            if draw is None or not consistent(draw):
                wrong.append(draw)
            else:
                seen.add(draw.version)
            if count % 20 == 0:
                time.sleep(0.001)  # the writer has its turn

    threads = [threading.Thread(target=draws, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for version in range(1, 20):
        write_table(path, whole(version + 1), expected_version=version)
        time.sleep(0.005)
    deadline = time.monotonic() + 20
    while 20 not in seen and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 20 in seen
    assert len(seen) > 3


def consistent(draw: Draw) -> bool:
    """Whether all of a draw is of one version."""
    names = {draw.candidate, *draw.fallbacks, *draw.rungs}
    return {name[1:] for name in names} == {str(draw.version)}


HOSTILE = {
    "broken": "{ torn",
    "empty": "",
    "binary": "\x00\xff",
    "another document": "[1, 2, 3]",
    "deep": "[" * 100_000,
    "wrong types": table_to_json(whole(3)).replace('"m3"', "3"),
    "huge number": table_to_json(whole(3)).replace("0.5", "1e999"),
    "control characters": table_to_json(whole(3)).replace("m3", "m\\u0000"),
    "another format": table_to_json(whole(3)).replace("tierwise-routes/1", "tierwise-routes/2"),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "deleted", "a folder", "unreadable size"])
def test_a_bad_file_changes_nothing_but_the_log(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last good routes stay in force and one warning says why; a good file is taken again."""
    path = tmp_path / "routes.json"
    write_table(path, whole(1), expected_version=0)
    router = Router(POLICY, RouteWatcher(path, interval_s=0).current)
    before = router.draw(CONTEXT, {}, "r")
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "unreadable size":
        with path.open("wb") as file:
            file.truncate(9 << 20)
    elif kind != "deleted":
        path.write_text(HOSTILE[kind])
    with caplog.at_level(logging.WARNING, "tierwise"):
        for _ in range(5):
            assert router.draw(CONTEXT, {}, "r") == before
            time.sleep(0.01)  # a large file is looked at by another thread
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    write_table(path, whole(1), expected_version=0)
    assert router.draw(CONTEXT, {}, "r") == before


def test_a_file_that_comes_later_is_followed(tmp_path: Path) -> None:
    """Without a file the policy decides, from its first version on the table does."""
    path = tmp_path / "routes.json"
    router = Router(POLICY, RouteWatcher(path, interval_s=0).current)
    first = router.draw(CONTEXT, {}, "r")
    assert first is not None
    assert (first.candidate, first.version) == ("m0", 0)
    write_table(path, whole(5), expected_version=0)
    later = router.draw(CONTEXT, {}, "r")
    assert later is not None
    assert later.version == read_table(path).version == 1
    assert later.candidate in ("m5", "n5")


def test_a_large_table_is_read_by_a_thread_of_its_own(tmp_path: Path) -> None:
    """A call that meets a new large file goes on with the table there was."""
    path = tmp_path / "routes.json"
    write_table(path, whole(1), expected_version=0)
    watcher = RouteWatcher(path, interval_s=0)
    assert watcher.current().version == 1
    many = {f"task-{n}": Route(task=f"task-{n}", primary="m") for n in range(2_000)}
    write_table(path, RouteTable(routes=many), expected_version=1)
    assert path.stat().st_size > 64 << 10
    deadline = time.monotonic() + 20
    while watcher.current().version == 1 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(watcher.current().routes) == 2_000


def test_a_forked_child_follows_the_file(tmp_path: Path) -> None:
    """A child that was forked while its parent held the watcher's lock still reads new tables."""
    path = tmp_path / "routes.json"
    write_table(path, whole(1), expected_version=0)
    watcher = RouteWatcher(path, interval_s=0)
    watcher.current()
    watcher._lock.acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        write_table(path, whole(2), expected_version=1)
        os.write(write, json.dumps(watcher.current().version).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"2"
    os.close(read)
    watcher._lock.release()


def test_tasks_without_bound_do_not_fill_the_memory() -> None:
    """Names beyond the limit are worked out each time and not kept."""
    table = RouteTable()
    router = Router(Policy(default_model="m"), lambda: table)
    for number in range(5_000):
        assert router.draw(TaskContext(name=f"t{number}"), {}, "r") is not None
    assert len(router._known[1]) == 4_096


def test_what_is_configured() -> None:
    """A policy with tasks or a default model, or a table with routes."""
    assert not Router(Policy(), RouteTable).configured
    assert Router(Policy(default_model="m"), RouteTable).configured
    assert Router(POLICY, RouteTable).configured
    assert Router(Policy(), lambda: whole(1)).configured

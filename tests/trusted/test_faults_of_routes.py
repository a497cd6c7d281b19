"""The route file fails in every way that files do: routed calls go on by the last good routes, nothing is left half written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tierwise
from support.io_rig import Rig
from tierwise.core.errors import RouteError
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.route import Route, RouteTable
from tierwise.evidence import SqliteStore
from tierwise.routing import read_table, update_table

pytestmark = pytest.mark.faults

TESTS = Path(__file__).parents[1]
POLICY = Policy(
    tasks={"faults": TaskPolicy(task="faults", candidates=("other", "answers"))},
    default_model="other",
)


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A route file by which the task's primary is `answers`."""
    monkeypatch.delenv("TIERWISE_RAISE", raising=False)
    path = tmp_path / "routes.json"
    monkeypatch.setenv("TIERWISE_ROUTES", str(path))
    update_table(path, one_more)
    return path


@pytest.fixture
def rig(url: str, tmp_path: Path, routes: Path) -> Iterator[Rig]:
    """Clients of which the instrumented one asks for `auto`."""
    made = Rig(url, tmp_path / "s.db", config=POLICY)
    made.asked = "auto"
    yield made
    made.close()


def one_more(table: RouteTable) -> RouteTable:
    """The table with the task's `since` one higher."""
    route = table.routes.get("faults", Route(task="faults", primary="answers"))
    return replace(table, routes={"faults": replace(route, since=route.since + 1)})


def _answers(rig: Rig) -> tuple[Any, Any]:
    ask: Any = {"messages": [{"role": "user", "content": "Say hello."}]}
    bare = rig.bare.chat.completions.create(model="answers", **ask)
    seen = rig.seen.chat.completions.create(model="auto", **ask)
    rig.calls += 1
    return (type(bare), bare.model_dump()), (type(seen), seen.model_dump())


def _gone(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _bytes(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 500)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    os.symlink(path, path)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("fault", [_gone, _empty, _half, _bytes, _folder, _loop, _pipe])
def test_a_route_file_that_fails(
    rig: Rig, routes: Path, tmp_path: Path, fault: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Routed calls go on by the last good routes, all of them stored; the log says once what is wrong."""
    fault(routes)
    time.sleep(0.3)
    rig.attack(f"route file: {fault.__name__.strip('_')}", calls=150)
    bare, seen = _answers(rig)
    assert seen == bare
    assert len([one for one in caplog.records if "the last good routes stay in force" in one.getMessage()]) == 1
    assert tierwise.force_flush(10)
    with SqliteStore.open(tmp_path / "s.db", read_only=True) as store:
        assert store.call_count() == rig.calls
        assert {row.candidate for row in store.calls() if row.route_version is not None} == {"answers"}


def test_a_slow_folder(rig: Rig, routes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the route file takes two seconds: one call waits for the first of them, no later one does."""
    looks: list[float] = []
    bare_stat = os.stat

    def slow(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path) == str(routes):
            looks.append(time.monotonic())
            time.sleep(2)
        return bare_stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", slow)
    time.sleep(0.3)
    rig.call(1)
    assert len(looks) == 1
    time.sleep(0.3)
    rig.attack("each look at the route file takes 2 s", calls=300)
    assert len(looks) > 1


# -- writing -------------------------------------------------------------------------------------------------------


def test_no_room_for_a_new_table(rig: Rig, routes: Path) -> None:
    """A change for which there is no room is refused with its reason; the old table is in force, no part is left."""
    before = routes.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(RouteError, match=r"routes\.json: cannot be written: File too large"):
            update_table(routes, one_more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert routes.read_bytes() == before
    assert list(routes.parent.glob(".routes.json.*")) == []
    bare, seen = _answers(rig)
    assert seen == bare


CRASH = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from tierwise.routing import files, update_table

def one_more(table):
    return replace(table, routes={task: replace(route, since=route.since + 1) for task, route in table.routes.items()})

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(*{"write": (os, "fsync"), "replace": (os, "replace"), "after": (files, "sync_folder")}[sys.argv[2]], killed)
update_table(Path(sys.argv[1]), one_more)
"""


def _killed_while_writing(routes: Path, at: str) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, str(routes), at], cwd=TESTS, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("at", ["write", "replace", "after"])
def test_a_writer_killed_in_the_middle(rig: Rig, routes: Path, at: str) -> None:
    """SIGKILL within the replacement leaves the old table or the new one; the next writer goes on at once."""
    old = read_table(routes)
    _killed_while_writing(routes, at)
    assert read_table(routes).version == old.version + (at == "after")
    assert len(list(routes.parent.glob(".routes.json.*.tmp"))) == (at != "after")
    rig.attack(f"writer of routes killed at {at}", calls=50)
    bare, seen = _answers(rig)
    assert seen == bare
    assert update_table(routes, one_more).version == old.version + 1 + (at == "after")


def test_what_killed_writers_left_is_removed(routes: Path) -> None:
    """The next writer removes parts that are older than ten minutes, and neither newer ones nor files of others."""
    _killed_while_writing(routes, "replace")
    (old,) = routes.parent.glob(".routes.json.*.tmp")
    os.utime(old, (time.time() - 700, time.time() - 700))
    _killed_while_writing(routes, "replace")
    (fresh,) = set(routes.parent.glob(".routes.json.*.tmp")) - {old}
    others = [routes.parent / name for name in (".routes.json.bak", "routes.json.x.tmp", ".other.json.x.tmp")]
    for other in others:
        other.write_text("kept", encoding="utf-8")
        os.utime(other, (0, 0))
    update_table(routes, one_more)
    assert not old.exists()
    assert fresh.exists()
    assert all(other.read_text(encoding="utf-8") == "kept" for other in others)

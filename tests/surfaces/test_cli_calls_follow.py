"""`tierwise calls --follow`: the latest calls, then each new one, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import tierwise
from support.report_data import GEMINI, NOW, call, store_with
from tierwise.core.call import Call
from tierwise.evidence import SqliteStore
from tierwise.surfaces.cli import follow

Steps = list[Callable[[], object]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with three calls of `old`."""
    return store_with(tmp_path / "t.db", [one(second, task="old") for second in range(3)])


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What happens between looks, one after another; then somebody presses Ctrl-C."""
    left: Steps = []

    def sleep(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    monkeypatch.setattr(follow, "time", types.SimpleNamespace(sleep=sleep))
    return left


def one(second: int, **changes: object) -> Call:
    """A call that started at a second."""
    return call(started_at_ns=(NOW + second) * 10**9, **changes)


def write(path: Path, *calls: Call) -> Callable[[], None]:
    """A step: these calls are recorded."""

    def step() -> None:
        with SqliteStore.open(path) as store:
            store.write(calls)

    return step


def test_new_calls_follow_the_latest(path: Path, steps: Steps) -> None:
    """The latest come first, then each call in the order of recording, whenever it started; Ctrl-C is a fine end."""
    steps += [write(path, one(9, task="new-1")), lambda: None, write(path, one(1, task="new-2"), one(10, task="new-3"))]
    done = tierwise("calls", "--follow", "--limit", "2", "--store", str(path))
    assert done.exit_code == 0
    head, *lines = done.stdout.splitlines()
    assert head.split()[:3] == ["Started", "(UTC)", "Task"]
    assert [line.split()[2] for line in lines] == ["old", "old", "new-1", "new-2", "new-3"]
    assert "stopped" in done.stderr


def test_filters_hold_for_new_calls_too(path: Path, steps: Steps) -> None:
    """Task, model and outcome choose among what comes; advice is said once."""
    cut = {"outcome": "truncated", "advice": "raise max_tokens"}
    steps += [
        write(path, one(9, task="a"), one(9, task="a", candidate=GEMINI, **cut)),
        write(path, one(9, task="a", **cut)),
    ]
    done = tierwise("calls", "-f", "--outcome", "truncated", "--task", "a", "--store", str(path))
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr.count("raise max_tokens") == 1


@pytest.mark.parametrize("form", ["--nl", "--json"])
def test_json_is_a_document_a_line(path: Path, steps: Steps, form: str) -> None:
    """Followed calls are one JSON document a line in either form."""
    steps.append(write(path, one(5, task="new")))
    done = tierwise("calls", "--follow", form, "--store", str(path))
    assert [json.loads(line)["task"] for line in done.stdout.splitlines()] == ["old"] * 3 + ["new"]


def test_it_waits_for_a_store(tmp_path: Path, steps: Steps) -> None:
    """Before the first call there is no file: it waits and says for which."""
    path = tmp_path / "later.db"
    steps += [lambda: None, write(path, one(1, task="first"))]
    done = tierwise("calls", "--follow", "--store", str(path))
    assert done.exit_code == 0
    assert f"{path} does not exist yet" in done.stderr
    assert done.stdout.splitlines()[-1].split()[2] == "first"


def test_a_new_file_in_its_place_is_followed(path: Path, steps: Steps) -> None:
    """A store that is moved away and made again is followed from its beginning."""
    steps += [
        lambda: path.rename(path.with_name("away.db")),
        lambda: path.write_bytes(b""),
        path.unlink,
        write(path, one(1, task="fresh")),
    ]
    done = tierwise("calls", "--follow", "--store", str(path))
    assert done.exit_code == 0
    assert [line.split()[2] for line in done.stdout.splitlines()[1:]] == ["old", "old", "old", "fresh"]


def test_what_stays_broken_is_an_error(path: Path, steps: Steps, tmp_path: Path) -> None:
    """A file that is no store is said at once, one that stays unreadable after a while; neither is waited for for ever."""
    steps += [path.unlink, *([lambda: path.write_bytes(b"")] * 20)]
    done = tierwise("calls", "--follow", "--store", str(path))
    assert done.exit_code == 2
    assert "the store cannot be read" in done.stderr
    (tmp_path / "no.db").write_bytes(b"no store at all" * 100)
    assert tierwise("calls", "--follow", "--store", str(tmp_path / "no.db")).exit_code == 2
    assert tierwise("calls", "--follow", "--store", "off").exit_code == 2


def test_names_cannot_drive_the_terminal(path: Path, steps: Steps) -> None:
    """Control characters of names are shown, and lines stay lines."""
    steps.append(write(path, one(5, task="\x1b[31mred\nline")))
    done = tierwise("calls", "--follow", "--store", str(path))
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 5


def test_a_real_process_prints_at_once_and_ends_with_ctrl_c(path: Path) -> None:
    """A line reaches a pipe as soon as its call is recorded; SIGINT ends the process with exit code 0."""
    program = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "calls", "--follow", "--nl", "--store", str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["task"] for _ in range(3)] == ["old"] * 3
        write(path, one(7, task="new"))()
        assert json.loads(process.stdout.readline())["task"] == "new"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "stopped\n")

"""`tierwise status`."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import pytest

from support.commands import tierwise
from support.report_data import GEMINI, SONNET, call, candidate, rounds, store_with
from tierwise.core.recommendation import Interval
from tierwise.evidence import SqliteStore
from tierwise.surfaces.cli.status import success_words


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forty bench rounds of two tasks, sonnet with ten rounds more than the others, which makes it the current model."""
    monkeypatch.chdir(tmp_path)
    return str(store_with(tmp_path / "t.db", [c for c in rounds(40) if c.candidate == SONNET or c.context.round >= 10]))


def test_one_line_a_task(store: str) -> None:
    """Each task shows route, runs, cost per 1,000 calls, p95, success with its interval, and verdict."""
    result = tierwise("status", "--store", store)
    assert result.exit_code == 0, result.stderr
    head, *lines = result.stdout.strip().splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["Task", "Route", "n", "$/1k calls", "p95", "Success", "Verdict"]
    assert [line.split()[0] for line in lines] == ["strict-json", "summary"]
    assert re.search(r"0\.00 \(0\.00 to 0\.\d\d, n=40\)", lines[0])
    assert re.search(r"1\.00 \(0\.\d\d to 1\.00, n=40\)", lines[1])
    assert all("$12.48" in line for line in lines)


def test_json_has_the_same_numbers(store: str) -> None:
    """--json carries the table's numbers as numbers, under names with units."""
    document = json.loads(tierwise("status", "--store", store, "--json").stdout)
    task = document["tasks"][0]
    assert (task["task"], task["route"], task["n"], task["success_rate"]) == ("strict-json", SONNET, 40, 0.0)
    assert task["cost_per_1000_calls_usd"] == pytest.approx(12.48)
    assert task["cost_per_success_usd"] is None
    assert task["verdict"] in ("PROMOTE", "TRIAL", "HOLD", "KEEP", "INSUFFICIENT")
    assert task["primary"] == (GEMINI if task["verdict"] == "PROMOTE" else SONNET)


def test_losses_are_a_note(store: str) -> None:
    """Calls that were made and not stored are in no figure: a note says how many, with --json too."""
    assert "not stored" not in tierwise("status", "--store", store).stderr
    with SqliteStore.open(Path(store)) as opened:
        opened.count("dropped", 1)
    assert "note: 1 call was made but not stored, so it is in none" in tierwise("status", "--store", store).stderr
    with SqliteStore.open(Path(store)) as opened:
        opened.count("dropped", 1_999)
    told = (
        "2,000 calls were made but not stored, so they are in none of these figures; `tierwise doctor` says what to do"
    )
    assert told in json.loads(tierwise("status", "--store", store, "--json").stdout)["notes"]


def test_calls_without_a_task_are_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traffic that belongs to no task is no error: status says how to name it."""
    monkeypatch.chdir(tmp_path)
    store = store_with(tmp_path / "t.db", [call(task="unassigned")])
    result = tierwise("status", "--store", str(store), "--since", "all")
    assert result.exit_code == 0
    assert "no task has a name yet" in result.stderr


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.914, 1.0, "1.00 (0.91 to 1.00, n=40)"),
        (0.823, None, "1.00 (0.82 to 1.00, n=40)"),
        (None, 1.0, "1.00 (0.00 to 1.00, n=40)"),
        (0.5, 0.501, "1.00 (0.50 to 0.51, n=40)"),
        (-0.1, 1.2, "1.00 (0.00 to 1.00, n=40)"),
    ],
)
def test_success_is_written_with_its_interval(low: float | None, high: float | None, words: str) -> None:
    """The interval is a range inside [0, 1], rounded outwards."""
    assert success_words(candidate(SONNET, success_rate_interval=Interval(low=low, high=high))) == words


def test_success_without_runs_claims_nothing() -> None:
    """No run, no number."""
    assert success_words(candidate(SONNET, n=0, successes=0)) == "–"
    assert success_words(None) == "–"


def test_the_probe_is_no_task_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bench asks to find the token budget is in no line; an application's own task of such a name is."""
    monkeypatch.chdir(tmp_path)
    probes = [call(task="token-budget-hello", session="bench-1", round=0), call(task="token-budget-own")]
    store = store_with(tmp_path / "t.db", [*rounds(12), *probes])
    document = json.loads(tierwise("status", "--store", str(store), "--since", "all", "--json").stdout)
    assert [task["task"] for task in document["tasks"]] == ["strict-json", "summary", "token-budget-own"]


def test_calls_of_this_hour_are_shown_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded a moment ago is in the numbers, though the verdict waits for the hour to end."""
    monkeypatch.chdir(tmp_path)
    store = store_with(tmp_path / "t.db", [call(task="fresh", started_at_ns=time.time_ns()) for _ in range(3)])
    (task,) = json.loads(tierwise("status", "--store", str(store), "--json").stdout)["tasks"]
    assert (task["task"], task["n"], task["success_rate"]) == ("fresh", 3, 1.0)


@pytest.mark.parametrize("command", ["status", "plan", "calls", "report"])
def test_a_store_that_cannot_be_made_is_said(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be recorded, the place and the way out are named instead of "no calls recorded yet"."""

    def refuse(**_: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "x"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    store = tmp_path / "no" / "t.db"
    monkeypatch.setenv("TIERWISE_STORE", str(store))
    result = tierwise(command)
    assert result.exit_code == 2
    assert f"nothing can be recorded in {store}: {tmp_path} cannot be written (Read-only file system)" in result.stderr
    assert "set TIERWISE_STORE to a path that can be written" in result.stderr
    assert "no calls recorded yet" not in result.stderr


def test_a_place_below_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that can never be a store is told by status before anything else is read there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "file" / "t.db"))
    assert f"{tmp_path / 'file'} is not a folder; make it writable" in tierwise("status").stderr


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(store in the user's state folder with a call, the project's store): a tierwise.yaml was added after the call."""
    state, project = tmp_path / "state", tmp_path / "project"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    (state / "tierwise").mkdir(parents=True)
    project.mkdir()
    monkeypatch.chdir(project)
    before = store_with(state / "tierwise" / "tierwise.db", [call()])
    (project / "tierwise.yaml").write_text("tasks: {}\n")
    return before, project / ".tierwise" / "tierwise.db"


@pytest.mark.parametrize("command", ["status", "plan", "calls", "report", "doctor"])
@pytest.mark.parametrize("made", [False, True])
def test_calls_recorded_before_the_policy_file_are_found(
    command: str, made: bool, moved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project's store that is missing or empty points to the store in use before, with both paths and the way out."""
    before, now = moved
    if made:
        SqliteStore.open(now).close()
    result = tierwise(command)
    text = " ".join(result.output.split())
    assert result.exit_code == (0 if command == "doctor" else 2)
    assert str(now) in text
    assert f"1 call is in {before}, the default place where there is no tierwise.yaml" in text
    assert f"set TIERWISE_STORE={before}" in text
    monkeypatch.setenv("TIERWISE_STORE", str(before))
    assert tierwise("calls").exit_code == 0


def test_a_project_with_calls_of_its_own_is_left_alone(moved: tuple[Path, Path]) -> None:
    """Once the project has calls, other stores are not mentioned, not even where the window is empty."""
    before, now = moved
    with SqliteStore.open(now) as store:
        store.write([call()])
    assert str(before) not in tierwise("status", "--since", "1h").output
    assert str(before) not in tierwise("doctor").output

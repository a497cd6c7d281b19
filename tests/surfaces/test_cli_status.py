"""`tierwise status`."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from support.commands import tierwise
from support.report_data import GEMINI, SONNET, call, candidate, rounds, store_with
from tierwise.core.recommendation import Interval
from tierwise.surfaces.cli.status import success_words


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forty bench rounds of two tasks, sonnet with a round more than the others, which makes it the current model."""
    monkeypatch.chdir(tmp_path)
    return str(store_with(tmp_path / "t.db", [c for c in rounds(40) if c.candidate == SONNET or c.context.round]))


def test_one_line_a_task(store: str) -> None:
    """Each task shows route, runs, cost per 1,000 calls, p95, success with its interval, and verdict."""
    result = tierwise("status", "--store", store)
    assert result.exit_code == 0, result.stderr
    head, *lines = result.stdout.strip().splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["Task", "Route", "n", "$/1k calls", "p95", "Success", "Verdict"]
    assert [line.split()[0] for line in lines] == ["strict-json", "summary"]
    assert re.search(r"0\.00 ± 0\.\d\d \(n=40\)", lines[0])
    assert re.search(r"1\.00 ± 0\.\d\d \(n=40\)", lines[1])
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


def test_calls_without_a_task_are_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traffic that belongs to no task is no error: status says how to name it."""
    monkeypatch.chdir(tmp_path)
    store = store_with(tmp_path / "t.db", [call(task="unassigned")])
    result = tierwise("status", "--store", str(store), "--since", "all")
    assert result.exit_code == 0
    assert "no task has a name yet" in result.stderr


def test_success_is_written_with_its_wider_side() -> None:
    """The interval is lopsided near 0 and 1; the wider side is shown, and nothing is claimed without runs."""
    assert success_words(candidate(SONNET, success_rate_interval=Interval(low=0.91, high=1.0))) == "1.00 ± 0.09 (n=40)"
    assert success_words(candidate(SONNET, n=0, successes=0)) == "–"
    assert success_words(None) == "–"


def test_calls_of_this_hour_are_shown_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded a moment ago is in the numbers, though the verdict waits for the hour to end."""
    monkeypatch.chdir(tmp_path)
    store = store_with(tmp_path / "t.db", [call(task="fresh", started_at_ns=time.time_ns()) for _ in range(3)])
    (task,) = json.loads(tierwise("status", "--store", str(store), "--json").stdout)["tasks"]
    assert (task["task"], task["n"], task["success_rate"]) == ("fresh", 3, 1.0)

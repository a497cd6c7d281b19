"""SIGKILL at random moments: several processes on one store and one route file lose what was not yet written, no more."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tierwise.evidence import SqliteStore
from tierwise.evidence.rollup import sum_up
from tierwise.routing import read_table

TESTS = Path(__file__).parents[1]
ROUNDS = 200
LONGEST_S = 3.0
"""A row waits for a second at most; the rest is for a machine that has other things to do."""


@pytest.mark.faults
def test_two_hundred_kills_lose_the_last_interval_alone(tmp_path: Path) -> None:
    """After each kill the file is sound and keeps what it held; what is missing is the end of the killed one's calls."""
    done = subprocess.run(
        [sys.executable, "-m", "support.load", str(tmp_path), str(ROUNDS), "7"],
        cwd=TESTS, capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    print(seen)
    assert seen["kills"] >= ROUNDS
    assert seen["missing"] < seen["calls"]
    assert (seen["lost_committed"], seen["not_a_tail"]) == (0, 0)
    assert seen["oldest_missing_s"] < LONGEST_S
    changes = read_table(tmp_path / "routes.json").routes["busy"].since
    assert seen["route_changes"] <= changes <= seen["route_changes"] + seen["kills"] * 2
    with SqliteStore.open(tmp_path / "s.db") as store:
        assert store.health().intact
        rolled = sum_up((row.to_call() for row in store.calls()), store.runs())
        assert {row.key: row.evidence.n for row in store.evidence()} == {key: one.n for key, one in rolled.items()}
    connection = sqlite3.connect(tmp_path / "s.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()

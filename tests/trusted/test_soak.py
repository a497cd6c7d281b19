"""The soak in a small size: threads, asyncio and processes at once, every call accounted for, memory and descriptors flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
BEYOND = 25_000
QUEUE = 16_384


@pytest.mark.faults
def test_a_load_from_threads_asyncio_and_processes_is_accounted_for() -> None:
    """At a modest rate no call is lost; beyond it what is dropped is counted exactly; memory and descriptors stay flat."""
    done = subprocess.run(
        [sys.executable, str(SOAK), "--minutes", "0.35", "--rate", "60", "--http-rate", "30", "--beyond", str(BEYOND), "--json"],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    seen = json.loads(done.stdout)
    print(seen)
    load, account = seen["load"], seen["load"]["account"]
    assert (load["failed"], load["last_error"], load["warnings"]) == (0, "", [])
    assert account["made"] == account["rows"] == account["in_evidence"] > 300
    assert account["dropped"] == account["dropped_by_metric"] == 0
    assert load["threads"]["bare"]["calls"] > 10
    for process in load["processes"]:
        assert process["memory_mb"]["most"] - process["memory_mb"]["least"] < 40
        assert process["descriptors"]["most"] - process["descriptors"]["least"] < 40
        assert process["threads"]["most"] <= 30
    for name in ("beyond", "locked"):
        account = seen[name]["account"]
        assert account["made"] == BEYOND == account["rows"] + account["dropped"]
        assert account["dropped"] == account["dropped_by_metric"]
        assert account["intact"]
    assert seen["locked"]["account"]["rows"] >= QUEUE
    assert seen["locked"]["account"]["dropped"] > 0

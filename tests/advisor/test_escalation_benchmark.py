"""What a ladder was foretold to save is what it saves: real HTTP, real escalation, read back from the store."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RATES = {"low": 0.6, "middle": 0.75, "strong": 0.95}
COSTS = {"low": 0.0003, "middle": 0.001, "strong": 0.008}


def test_three_rungs_save_what_was_foretold(tmp_path: Path) -> None:
    """Three rungs, signals that miss a third of the failures, feedback on what they miss: to the cent, and as foretold."""
    rng = random.Random(4)  # noqa: S311 - repeatable, not secret
    rows = [
        f"task-{task},{prompt},{model},{int(rng.random() < rate)},{COSTS[model] * (1 + prompt % 7):.7f}"
        for task in range(2)
        for prompt in range(72)
        for model, rate in RATES.items()
    ]
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("\n".join(["task,prompt_id,model,success,cost_usd", *rows]) + "\n", encoding="utf-8")
    command = [
        sys.executable, str(ROOT / "benchmarks" / "escalation.py"), "--outcomes", str(outcomes), "--json",
        "--ladder", "low,middle,strong", "--detection", "0.67",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["largest_difference_from_paper"] < 1e-6
    assert [case["runs"] for case in found["cases"]] == [36, 36]
    assert found["requests"]["low"] == 72
    assert found["requests"]["strong"] > 72
    for case in found["cases"]:
        assert 0 < case["escalated"]["observed"] < 0.6
        assert [name for name in ("saving", "success_rate", "cost_usd", "escalated") if not case[name]["inside"]] == []

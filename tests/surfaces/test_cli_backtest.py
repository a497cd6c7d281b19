"""`tierwise backtest`: the command line around replays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tierwise.surfaces.cli.group import cli


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    """A small file of recorded outcomes."""
    path = tmp_path / "outcomes.csv"
    rows = [
        f"summary,{prompt},{model},{int(prompt % 10 < good)},{cost}"
        for prompt in range(50)
        for model, good, cost in (("dear", 9, 0.004), ("cheap", 9, 0.001))
    ]
    path.write_text("task,prompt_id,model,success,cost_usd\n" + "\n".join(rows) + "\n")
    return path


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    found = CliRunner().invoke(cli, ["backtest", *arguments], env={"NO_COLOR": "1"})
    return found.exit_code, found.stdout, found.stderr


def test_the_document_has_every_figure(outcomes: Path) -> None:
    """Totals and tasks carry regret, success, cost, changes, the final route, and what fixed models would have done."""
    code, text, _ = run("--outcomes", str(outcomes), "--steps", "40", "--json", "--jobs", "1", "--start", "dear")
    found = json.loads(text)
    assert code == 0
    fields = {"regret_per_1000_usd", "success_rate", "cost_per_1000_usd", "route_changes", "wrong_changes"}
    assert fields <= set(found["total"])
    assert fields | {"final_route", "oracle", "always_best", "always_cheapest"} <= set(found["tasks"]["summary"])
    assert found["tasks"]["summary"]["oracle"]["model"] == "cheap"


def test_people_get_tables(outcomes: Path) -> None:
    """Regret and routes are readable, and say what they are compared with."""
    code, text, _ = run("--outcomes", str(outcomes), "--steps", "5", "--seeds", "1-2", "--jobs", "1")
    assert code == 0
    assert "Regret / 1,000" in text
    assert "best model of each task" in text
    assert "over 2 seeds" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--explore", "150%"), "explore"),
        (("--seeds", "6-1"), "1-6"),
        (("--start", "nobody"), "no task has this model"),
        (("--task", "absent"), "no task in"),
        (("--policy-kind", "magic"), "magic"),
        (("--value-of-success", "nan"), "an amount in USD"),
    ],
)
def test_wrong_use_is_explained(outcomes: Path, arguments: tuple[str, str], said: str) -> None:
    """Exit code 2 and what to write instead."""
    code, _, text = run("--outcomes", str(outcomes), "--steps", "2", "--jobs", "1", *arguments)
    assert code == 2
    assert said in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No traceback for a file that is not there."""
    code, _, text = run("--outcomes", str(tmp_path / "none.csv"))
    assert code == 2
    assert "none.csv: cannot be read" in text


def test_a_policy_file_is_used(outcomes: Path, tmp_path: Path) -> None:
    """Its candidates, objective and guardrails are those of the replay."""
    policy = tmp_path / "tierwise.yaml"
    policy.write_text("tasks:\n  summary: {candidates: [dear], apply: auto}\n")
    code, text, _ = run(
        "--outcomes", str(outcomes), "--policy", str(policy), "--steps", "30", "--json", "--start", "dear"
    )
    assert code == 0
    assert json.loads(text)["tasks"]["summary"]["final_route"] == "dear"


def test_remarks_are_told_and_in_the_document(tmp_path: Path) -> None:
    """A file with one model is replayed, and it is said that there was nothing to decide."""
    path = tmp_path / "one.csv"
    path.write_text("task,prompt_id,model,success,cost_usd\nt,1,m,1,0.1\n")
    code, text, told = run("--outcomes", str(path), "--steps", "2", "--jobs", "1", "--json")
    assert code == 0
    assert json.loads(text)["remarks"] == ["1 task with one model only, where there is nothing to decide (t)"]
    assert "one model only" in told

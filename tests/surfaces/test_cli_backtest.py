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
        (("--runs", "100"), "go with --ladder"),
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


def test_a_ladder_is_foretold(outcomes: Path) -> None:
    """Without a replay: what the ladder comes to in so many runs, for people and as a document."""
    code, text, _ = run("--outcomes", str(outcomes), "--ladder", "cheap,dear", "--runs", "1000", "--detection", "90%")
    assert code == 0
    assert "cheap → dear, in 1,000 runs of each task; saving in cost per success against dear alone" in text
    code, text, _ = run("--outcomes", str(outcomes), "--ladder", "cheap,dear", "--json")
    found = json.loads(text)["ladders"]["summary"]
    # 45 of 50 succeed at once; the others pay both, and the dear model fails at them too.
    assert (found["success_rate"]["point"], found["escalated"]["point"]) == pytest.approx((0.9, 0.1))
    assert found["saving"]["point"] == pytest.approx(1 - 0.0014 / 0.004)
    assert found["saving"]["low"] < found["saving"]["point"] < found["saving"]["high"]


def test_tasks_without_the_models_of_a_ladder_are_left_out(outcomes: Path) -> None:
    """They are told on stderr; where none is left, that is the error."""
    with outcomes.open("a") as file:
        file.writelines(f"other,{prompt},cheap,1,0.001\n" for prompt in range(40))
    code, text, told = run("--outcomes", str(outcomes), "--ladder", "cheap,dear", "--json")
    assert code == 0
    assert list(json.loads(text)["ladders"]) == ["summary"]
    assert "left out: other: dear was not recorded" in told
    code, _, told = run("--outcomes", str(outcomes), "--ladder", "cheap,nobody")
    assert code == 2
    assert "nobody was not recorded" in told
    for option in ("--detection", "--false-alarms"):
        code, _, told = run("--outcomes", str(outcomes), "--ladder", "cheap,dear", option, "120%")
        assert code == 2
        assert "write a share such as 90%" in told

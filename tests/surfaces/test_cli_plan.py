"""`tierwise plan` and `tierwise explain` over a real store."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.calls import make_call
from support.planned import HOURS, RUNS, fill
from tierwise.evidence.sqlite import SqliteStore
from tierwise.surfaces.cli.group import cli


def invoke(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner(env={"COLUMNS": "250"}).invoke(cli, list(arguments))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy and a store in which `cheap` clearly beats `dear` on one task, and little on another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text(
        "tasks: {strict-json: {candidates: [dear, cheap], min_runs: 20}, rare: {candidates: [dear, cheap]}}\n"
    )
    fill(tmp_path / ".tierwise" / "tierwise.db")
    return tmp_path


def test_plan_shows_tasks_and_reasons(project: Path) -> None:
    """The table has one row a task with current and recommended model; reasons follow in words."""
    done = invoke("plan")
    assert done.exit_code == 0
    assert "dear → cheap" in done.stdout
    assert "PROMOTE" in done.stdout
    assert "INSUFFICIENT" in done.stdout
    assert "strict-json  PROMOTE  (randomised evidence, confidence 0.95)" in done.stdout
    assert "  · " in done.stdout
    assert "tierwise apply --dry-run" in done.stderr
    assert not (project / ".tierwise" / "routes.json").exists()


def test_plan_json_is_one_document(project: Path) -> None:
    """`--json` prints recommendations, coverage and notes, and nothing else on stdout."""
    document = json.loads(invoke("plan", "--json").stdout)
    verdicts = {item["task"]: item["verdict"] for item in document["recommendations"]}
    assert verdicts == {"rare": "INSUFFICIENT", "strict-json": "PROMOTE"}
    promoted = next(item for item in document["recommendations"] if item["task"] == "strict-json")
    assert (promoted["current"], promoted["primary"], promoted["grade"]) == ("dear", "cheap", "randomised")
    assert document["coverage"]["runs"] == 2 * HOURS * RUNS + 2
    assert any("runs outside any task: 1" in note for note in document["notes"])


def test_plan_check_exits_1_on_a_finding(project: Path) -> None:
    """`--check` is for CI: 1 when a route should change, 0 when there is nothing to do."""
    done = invoke("plan", "--check")
    assert done.exit_code == 1
    assert "strict-json: PROMOTE" in done.stderr
    assert invoke("plan", "--check", "--task", "rare").exit_code == 0


def test_plan_of_one_task_and_of_an_unknown_one(project: Path) -> None:
    """`--task` narrows the plan; an unknown name lists the known ones."""
    assert "strict-json" not in invoke("plan", "--task", "rare").stdout
    done = invoke("plan", "--task", "rear")
    assert done.exit_code == 2
    assert "known tasks: rare, strict-json" in done.stderr


@pytest.mark.parametrize("command", ["plan", "explain", "apply"])
def test_a_task_is_named_by_place_or_option(project: Path, command: str) -> None:
    """`plan TASK`, `plan --task TASK` and so on are the same."""
    more = ["--dry-run"] if command == "apply" else []
    first, second = (
        json.loads(invoke(command, *form, *more, "--json").stdout) for form in (["rare"], ["--task", "rare"])
    )
    for document in (first, second):
        document.pop("at", None)
        for item in document.get("recommendations", [document]):
            item.pop("at", None)
            item.pop("input_hash", None)
    assert first == second
    assert "strict-json" not in json.dumps(first)


def test_explain_wants_exactly_one_task(project: Path) -> None:
    """None or two tasks are wrong use."""
    for names in ([], ["rare", "strict-json"]):
        done = invoke("explain", *names)
        assert done.exit_code == 2
        assert "name one task" in done.stderr


def test_the_saving_has_its_unit(project: Path) -> None:
    """Twenty hours are no month: the saving is per 1,000 runs, in plan and explain."""
    shown = invoke("plan").stdout
    assert "Saving/month" not in shown
    assert "$9.18 / 1,000 runs" in shown
    explained = invoke("explain", "strict-json").stdout
    assert "$9.18 per 1,000 runs" in explained
    assert "month" not in explained


def test_a_ladder_is_no_change(project: Path) -> None:
    """Rungs are read one after the other; arrows are kept for what changes."""
    assert "ladder     cheap, then dear" in invoke("explain", "strict-json").stdout
    assert "ladder: – → cheap, then dear" in invoke("apply", "strict-json", "--dry-run").stdout


def test_plan_counts_the_runs_of_the_open_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after the first calls the plan says that they are there and when they count."""
    monkeypatch.chdir(tmp_path)
    now = time.time_ns()
    with SqliteStore.open(tmp_path / "t.db") as store:
        store.write([make_call(started_at_ns=now) for _ in range(3)])
        store.flush()
    done = invoke("plan", "--task", "summary", "--store", "t.db", "--since", "5m")
    assert "3 runs of summary in the hour still open: verdicts count closed hours" in done.stdout
    assert "no recorded runs yet" not in done.stdout


def test_plan_without_a_policy_compares_what_was_seen(project: Path) -> None:
    """Without tierwise.yaml every seen task is decided over its models with the defaults."""
    (project / "tierwise.yaml").unlink()
    document = json.loads(invoke("plan", "--json", "--store", ".tierwise/tierwise.db").stdout)
    assert {report["candidate"] for report in document["recommendations"][-1]["candidates"]} == {"dear", "cheap"}


def test_explain_shows_everything(project: Path) -> None:
    """The whole decision: candidates with intervals, guardrails with states, reasons, inputs."""
    (project / "tierwise.yaml").write_text(
        "tasks: {strict-json: {candidates: [dear, cheap], guardrails: {success_rate: '>= 0.8', latency_p95: '<= 11s'}}}\n"
    )
    done = invoke("explain", "strict-json")
    assert done.exit_code == 0
    for text in ("incumbent", "challenger", "success_rate >= 0.8", "tested at 10", "inputs", "dear → cheap", "["):
        assert text in done.stdout
    assert "warning:" in done.stderr
    document = json.loads(invoke("explain", "strict-json", "--json").stdout)
    assert document["candidates"][0]["guardrails"][0]["metric"] == "success_rate"


@pytest.mark.parametrize("command", [["plan"], ["explain", "t"], ["apply"]])
def test_a_missing_store_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Before the first call there is a clear message and exit 2, and nothing is created."""
    monkeypatch.chdir(tmp_path)
    done = invoke(*command)
    assert done.exit_code == 2
    assert "no calls recorded yet" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_window_a_folder_and_off_are_told_apart(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way of having no evidence has its own message."""
    assert "for this window" in invoke("plan", "--since", "1s").stderr
    assert "is a folder" in invoke("plan", "--store", ".").stderr or "Error" in invoke("plan", "--store", ".").stderr
    monkeypatch.setenv("TIERWISE_STORE", "off")
    assert "the store is off" in invoke("plan").stderr


def test_a_store_that_is_no_database_is_a_clear_error(project: Path) -> None:
    """A file of another kind is refused without a traceback."""
    (project / "x.db").write_bytes(b"not a database, far from it" * 100)
    done = invoke("plan", "--store", "x.db")
    assert done.exit_code == 2
    assert "x.db" in done.stderr


def test_a_broken_policy_or_route_file_stops_the_plan(project: Path) -> None:
    """All errors of the policy, or the place in the route file, exit 2."""
    (project / "tierwise.yaml").write_text("tiers: 3\ntask: 4\n")
    done = invoke("plan")
    assert done.exit_code == 2
    assert "tierwise.yaml:1:8: tiers" in done.stderr
    assert "tierwise.yaml:2:1: task: unknown key" in done.stderr
    (project / "tierwise.yaml").write_text("tasks: {}\n")
    (project / ".tierwise" / "routes.json").write_text("{")
    done = invoke("plan")
    assert done.exit_code == 2
    assert "routes.json: not a route table" in done.stderr

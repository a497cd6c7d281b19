"""`tierwise promote`, `abort`, `rollback --task`, and what `explain` and `history` say about canaries and traffic."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from support.commands import tierwise
from support.planned import fill
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import read_table, write_table


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The route file of a project in which `cheap` has a canary on strict-json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    (tmp_path / "tierwise.yaml").write_text(
        "tasks: {strict-json: {candidates: [dear, cheap, rare-one], apply: auto, explore: 10%}}\n"
    )
    fill(tmp_path / ".tierwise" / "tierwise.db")
    hour = int(time.time()) // 3600 * 3600
    path = tmp_path / ".tierwise" / "routes.json"
    route = Route(
        task="strict-json",
        primary="dear",
        canary=Canary(candidate="cheap", share=0.25, started_at=hour),
        since=hour,
        cooldown_until=hour + 90_000,
        backoff={"rare-one": hour + 90_000},
        propensities={"dear": 0.75, "cheap": 0.25},
        epochs={"dear": "e0"},
        drifted={"dear": hour - 3600 * 50},
        failed={"rare-one": "e"},
    )
    write_table(path, RouteTable(routes={"strict-json": route}), expected_version=0)
    return path


def route(path: Path) -> Route:
    """The route in force."""
    return read_table(path).routes["strict-json"]


def test_promote_finishes_a_canary(routes: Path) -> None:
    """Without a model the canary's candidate gets all the traffic; who and why are in the log."""
    shown = tierwise("promote", "strict-json", "--dry-run")
    assert shown.exit_code == 0
    assert "primary: dear → cheap" in shown.stdout
    assert read_table(routes).version == 1
    done = tierwise("promote", "strict-json", "--yes", "--by", "ann", "--note", "enough seen", "--json")
    document = json.loads(done.stdout)
    assert (document["version"], document["dry_run"], document["changes"][0]["action"]) == (2, False, "promote")
    assert (route(routes).primary, route(routes).canary, route(routes).fallbacks[0]) == ("cheap", None, "dear")
    entry = json.loads(tierwise("history", "--json").stdout)["entries"][0]
    assert (entry["by"], entry["note"], entry["automatic"]) == ("ann", "enough seen", False)


def test_promote_says_what_speaks_against_it(routes: Path) -> None:
    """A candidate without runs, or one that breaks a limit, is promoted only by who insists, and is told so."""
    done = tierwise("promote", "strict-json", "rare-one", "--dry-run")
    assert "against it: rare-one has no runs of this task" in done.stderr
    (routes.parent.parent / "tierwise.yaml").write_text(
        "tasks: {strict-json: {candidates: [dear, cheap], guardrails: {success_rate: '>= 0.999'}}}\n"
    )
    done = tierwise("promote", "strict-json", "--dry-run", "--json")
    assert any("cheap breaks success rate ≥ 99.9 %" in text for text in json.loads(done.stdout)["against"])


def test_promote_needs_a_yes_and_a_known_name(routes: Path) -> None:
    """Nobody can answer without a terminal; a slip of the pen lists the known names."""
    done = tierwise("promote", "strict-json")
    assert (done.exit_code, "--yes" in done.stderr) == (2, True)
    done = tierwise("promote", "strict-json", "chaep", "--yes")
    assert done.exit_code == 2
    assert "chaep is no candidate of it; known are dear, cheap, rare-one" in done.stderr
    done = tierwise("promote", "rare", "--yes")
    assert done.exit_code == 2
    assert "name the candidate: `tierwise promote rare MODEL`" in done.stderr
    assert read_table(routes).version == 1


def test_promote_without_evidence_is_still_a_persons_right(routes: Path) -> None:
    """With no store it is said that nothing is known, and done."""
    for path in routes.parent.glob("tierwise.db*"):
        path.unlink()
    done = tierwise("promote", "strict-json", "--yes")
    assert done.exit_code == 0, done.output
    assert "against it: the evidence could not be read" in done.stderr
    assert route(routes).primary == "cheap"


def test_abort_ends_the_canary(routes: Path) -> None:
    """The challenger is barred until it is another one; again there is nothing to abort; rollback undoes nothing."""
    done = tierwise("abort", "strict-json", "--yes", "--note", "wrong region")
    assert done.exit_code == 0, done.output
    assert "canary: cheap at 25 % → –" in done.stdout
    assert (route(routes).canary, route(routes).failed["cheap"]) == (None, "e1")
    assert route(routes).backoff["cheap"] > time.time() + 11 * 3600
    again = tierwise("abort", "strict-json", "--yes")
    assert (again.exit_code, "no canary runs" in again.stderr) == (2, True)


def test_abort_for_a_while(routes: Path) -> None:
    """`--for` lets the challenger come back after that time."""
    document = json.loads(tierwise("abort", "strict-json", "--for", "2h", "--yes", "--json").stdout)
    after = document["changes"][0]["after"]
    assert "cheap" not in after["failed"]
    assert after["backoff"]["cheap"] == pytest.approx(time.time() + 7200, abs=60)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["strict-json"], 0),
        (["--task", "strict-json"], 0),
        (["strict-json", "--task", "strict-json"], 0),
        (["strict-json", "--task", "rare"], 2),
        ([], 2),
    ],
)
def test_rollback_takes_the_task_by_place_or_option(routes: Path, arguments: list[str], code: int) -> None:
    """Both forms are the same; two different tasks or none are wrong use."""
    tierwise("promote", "strict-json", "--yes")
    done = tierwise("rollback", *arguments, "--yes")
    assert done.exit_code == code
    if code == 0:
        assert (route(routes).primary, route(routes).canary) == ("dear", None)
    else:
        assert "name one task" in done.stderr


def explain(routes: Path) -> Result:
    """The explanation of the task."""
    done = tierwise("explain", "strict-json")
    assert done.exit_code == 0, done.output
    return done


def test_explain_says_what_the_route_remembers(routes: Path) -> None:
    """Canary and stage, traffic, cool-down, back-off, what is barred, drift and epochs stand there in words."""
    text = explain(routes).stdout
    for said in (
        "canary     cheap with 25 %, stage 1 of 2 since",
        "next 50 %, after a full hour and 8 runs of each",
        "cool-down  nothing is changed again before",
        "back-off   rare-one is left alone until",
        "barred     rare-one: its canary ended; until its model, price, parameters or prompt version change",
        "drift      dear drifted: only what it did from",
        "dear e1",
        "dear is another one than when the route was made (e0)",
        "cheap: 25.0 %",
        "`tierwise promote strict-json` puts cheap in place at once",
        "objective cost per success",
        "changes by itself (apply: auto)",
        "Runs needed: further runs",
    ):
        assert said in text
    document = json.loads(tierwise("explain", "strict-json", "--json").stdout)
    assert document["route"]["canary"]["candidate"] == "cheap"
    assert any("tierwise abort" in text for text in document["what_would_change"])


def test_explain_says_what_would_change_the_verdict(routes: Path) -> None:
    """Too little evidence: how many runs, and what that number is."""
    (routes.parent.parent / "tierwise.yaml").write_text("tasks: {rare: {candidates: [dear, cheap]}}\n")
    text = tierwise("explain", "rare").stdout
    assert "INSUFFICIENT" in text
    assert "what would change this" in text
    assert "more runs of each candidate concerned, if its rates stay what they are" in text


def test_history_keeps_traffic_to_those_who_ask(routes: Path) -> None:
    """Hourly splits are left out, `--traffic` shows them with their shares."""
    from tierwise.advisor import Plan, apply_automatically
    from tierwise.core.policy import Policy, TaskPolicy
    from tierwise.core.recommendation import Recommendation

    audit = routes.with_name("audit.jsonl")
    shares = ({"dear": 0.7, "cheap": 0.3}, {"dear": 0.6, "cheap": 0.4})
    for number, split in enumerate(shares):
        item = Recommendation(
            task="strict-json", verdict="KEEP", current="dear", primary="dear", challenger=None, fallbacks=(), ladder=(),
            grade=None, reasons=(), candidates=(), saving_per_1000_runs_usd=None, saving_per_month_usd=None, runs_needed=0,
            confidence=0.95, at=1, input_hash="h", action="traffic", after=replace(route(routes), propensities=split),
        )  # fmt: skip
        policy = Policy(tasks={"strict-json": TaskPolicy(task="strict-json", candidates=("dear",), apply="auto")})
        made = Plan(at=number + 1, table_version=number + 1, recommendations=(item,))
        apply_automatically(
            lambda made=made, policy=policy: (made, policy), routes_path=routes, audit_path=audit, by="w"
        )  # type: ignore[misc]
    assert [entry["action"] for entry in json.loads(tierwise("history", "--json").stdout)["entries"]] == ["traffic"]
    text = tierwise("history", "strict-json", "--traffic").stdout
    assert "strict-json: cheap 40.0 %, dear 60.0 %" in text
    assert len(json.loads(tierwise("history", "--traffic", "--json").stdout)["entries"]) == 2

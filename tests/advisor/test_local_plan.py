"""`tierwise.plan`: the plan of a project as values, the same as the command's."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tierwise
from support.report_data import GEMINI, SONNET, call_row, rounds, store_with
from tierwise.core.route import Route, RouteTable
from tierwise.routing import write_table
from tierwise.surfaces.cli.group import cli

POLICY = f"tasks:\n  '*': {{candidates: [{SONNET}, {GEMINI}], guardrails: {{json_valid_rate: '>= 0.9'}}}}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a policy, a route and 40 bench rounds, and the working folder in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
    store = store_with(tmp_path / ".tierwise" / "tierwise.db", rounds(40))
    table = RouteTable(version=1, updated_at=1, routes={"strict-json": Route(task="strict-json", primary=SONNET)})
    write_table(store.with_name("routes.json"), table, expected_version=0)
    return tmp_path


def test_it_is_the_plan_of_the_command(project: Path) -> None:
    """Found in the same places, decided alike: policy, route file, store."""
    made = tierwise.plan(since_s=None)
    printed = CliRunner().invoke(cli, ["plan", "--json", "--since", "all"])
    assert printed.exit_code == 0
    assert _decisions(made.to_json()) == _decisions(json.loads(printed.stdout))
    found = made.of("strict-json")
    assert found is not None
    assert (found.verdict, found.current, found.primary) == ("PROMOTE", SONNET, GEMINI)


def _decisions(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """What was decided, as a reader of JSON has it, without the second in which it was."""
    made = json.loads(json.dumps(plan["recommendations"]))
    return [{name: value for name, value in item.items() if name not in ("at", "input_hash")} for item in made]


def test_tasks_window_and_paths_can_be_named(project: Path, tmp_path: Path) -> None:
    """Some tasks, another store, another policy, the last hours only."""
    assert [item.task for item in tierwise.plan(["summary"]).recommendations] == ["summary"]
    now = int(time.time())
    other = store_with(
        tmp_path / "other.db",
        [
            call_row(task=name, started_at_ns=(now - age) * 10**9).to_call()
            for name, age in (("new", 60), ("old", 9 * 86_400))
        ],
    )
    policy = tmp_path / "other.yaml"
    policy.write_text("tasks: {}\n", encoding="utf-8")
    made = tierwise.plan(store=other, config=policy, since_s=86_400)
    assert [item.task for item in made.recommendations] == ["new"]


def test_what_is_wrong_is_said(project: Path, tmp_path: Path) -> None:
    """An unknown task, an empty store, a broken policy: each is an error of its own kind."""
    with pytest.raises(tierwise.EvidenceError, match="no task 'nope'"):
        tierwise.plan(["nope"])
    with pytest.raises(tierwise.StoreError, match="since_s=None"):
        tierwise.plan(store=store_with(tmp_path / "empty.db", []))
    with pytest.raises(tierwise.StoreError, match=r"missing\.db"):
        tierwise.plan(store=tmp_path / "missing.db")
    (tmp_path / "tierwise.yaml").write_text("tasks: {a: {candidates: 3}}\n", encoding="utf-8")
    with pytest.raises(tierwise.ConfigError, match=r"tierwise\.yaml:1"):
        tierwise.plan()

"""`tierwise apply`, `rollback` and `history` over a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.planned import fill
from tierwise.routing import read_table
from tierwise.surfaces.cli.group import cli


def invoke(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner(env={"COLUMNS": "250"}).invoke(cli, list(arguments))


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The route file of a project whose evidence promotes `cheap` on strict-json."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text("tasks: {strict-json: {candidates: [dear, cheap]}}\n")
    fill(tmp_path / ".tierwise" / "tierwise.db")
    return tmp_path / ".tierwise" / "routes.json"


def test_dry_run_shows_and_changes_nothing(routes: Path) -> None:
    """The change is shown as old → new, and no file appears."""
    done = invoke("apply", "--dry-run")
    assert done.exit_code == 0
    assert "~ strict-json  promote" in done.stdout
    assert "primary: – → cheap" in done.stdout
    assert "nothing was changed" in done.stderr
    assert not routes.exists()
    assert json.loads(invoke("apply", "--dry-run", "--json").stdout)["changed"] is False
    assert not routes.exists()


def test_apply_says_where_applications_read_when_a_store_is_named(routes: Path, tmp_path: Path) -> None:
    """Routes lie beside the store: elsewhere a note names the usual route file, in the usual folder there is none."""
    fill(tmp_path / "bench.db")
    done = invoke("apply", "--dry-run", "--store", str(tmp_path / "bench.db"))
    assert (
        f"note: routes beside this store are written; applications with the default store read {routes}" in done.stderr
    )
    (tmp_path / "bench.db").rename(routes.with_name("bench.db"))
    assert "note: routes" not in invoke("apply", "--dry-run", "--store", str(routes.with_name("bench.db"))).stderr


def test_apply_needs_a_yes_without_a_terminal(routes: Path) -> None:
    """Nobody can answer, so nothing happens and the message says --yes."""
    done = invoke("apply")
    assert done.exit_code == 2
    assert "--yes" in done.stderr
    assert not routes.exists()


def test_apply_writes_route_and_log(routes: Path) -> None:
    """The route is written, who did it is logged, and doing it again changes nothing."""
    done = invoke("apply", "strict-json", "--yes", "--by", "ci", "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["changed"], document["version"]) == (0, True, 1)
    assert read_table(routes).routes["strict-json"].primary == "cheap"
    assert read_table(routes).routes["strict-json"].fallbacks[0] == "dear"
    assert invoke("apply", "strict-json", "--yes").exit_code == 0
    assert read_table(routes).version == 1
    entries = json.loads(invoke("history", "--json").stdout)["entries"]
    assert (entries[-1]["by"], entries[-1]["action"], entries[-1]["in_force_once"]) == ("ci", "promote", True)
    assert entries[-1]["reasons"][0]["text"]


def test_rollback_goes_back_and_history_tells(routes: Path) -> None:
    """Rollback undoes the change with a note; history lists both, newest first; nothing more to undo exits 2."""
    invoke("apply", "--yes")
    assert "cheap → –" in invoke("rollback", "strict-json", "--dry-run").stdout
    assert read_table(routes).version == 1
    done = invoke("rollback", "strict-json", "--yes", "--note", "customers complain")
    assert done.exit_code == 0
    assert "strict-json" not in read_table(routes).routes
    lines = invoke("history", "strict-json").stdout.splitlines()
    assert "rollback" in lines[1]
    assert "customers complain" in lines[1]
    assert "promote" in lines[2]
    again = invoke("rollback", "strict-json", "--yes")
    assert again.exit_code == 2
    assert "nothing to go back to" in again.stderr


def test_history_of_tasks_named_by_place_or_option(routes: Path) -> None:
    """`history TASK` and `history --task TASK` show the same; applying again without news adds nothing."""
    invoke("apply", "--yes")
    invoke("apply", "--yes")
    forms = (["strict-json"], ["--task", "strict-json"], ["rare", "--task", "strict-json"])
    one, other, both = (json.loads(invoke("history", *form, "--json").stdout)["entries"] for form in forms)
    assert one == other
    assert [entry["action"] for entry in one] == ["none", "promote"]
    assert {entry["task"] for entry in both} == {"rare", "strict-json"}
    invoke("apply", "--yes")
    assert json.loads(invoke("history", "--task", "strict-json", "--json").stdout)["entries"] == one


def test_history_before_any_decision(routes: Path) -> None:
    """An empty history says how to make one and exits 0."""
    done = invoke("history")
    assert done.exit_code == 0
    assert "no decisions yet" in done.stderr
    assert json.loads(invoke("history", "--json").stdout)["entries"] == []


def test_history_shows_a_torn_line_as_a_warning(routes: Path) -> None:
    """A log that ends in the middle of a line is still read."""
    invoke("apply", "--yes")
    with (routes.parent / "audit.jsonl").open("a") as file:
        file.write('{"at"')
    done = invoke("history")
    assert done.exit_code == 0
    assert "promote" in done.stdout
    assert "unfinished" in done.stderr


def test_apply_of_an_unknown_task_lists_the_known(routes: Path) -> None:
    """A typo changes nothing."""
    done = invoke("apply", "strict-jsn", "--yes")
    assert done.exit_code == 2
    assert "known tasks: rare, strict-json" in done.stderr
    assert not routes.exists()

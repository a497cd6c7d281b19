"""`tierwise validate` and `tierwise schema`."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
from click.testing import CliRunner

from tierwise.surfaces.cli.group import cli


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_validate_reports_every_file(tmp_path: Path) -> None:
    """All errors of all files are on stdout as file:line:column, and the exit code is 2."""
    (tmp_path / "a.yaml").write_text("tiers: 3\ntask: {}\n")
    (tmp_path / "b.yaml").write_text("tasks: {t: {candidates: [m]}}\n")
    done = CliRunner().invoke(cli, ["validate", "a.yaml", "b.yaml", "c.yaml"])
    assert done.exit_code == 2
    assert done.stdout.splitlines() == [
        "a.yaml:1:8: tiers: needs a mapping, key: value",
        "a.yaml:2:1: task: unknown key; did you mean 'tasks'?",
        "c.yaml: cannot be read: No such file or directory; check the path and its rights",
    ]
    assert done.stderr.splitlines() == ["b.yaml: valid, 1 task(s)"]


def test_validate_passes_with_warnings(tmp_path: Path) -> None:
    """Warnings are shown and exit 0; the file in force is the default."""
    (tmp_path / "tierwise.yaml").write_text("tasks: {t: {candidates: [m], guardrails: {latency_p95: '<= 11s'}}}\n")
    done = CliRunner().invoke(cli, ["validate"])
    assert done.exit_code == 0
    assert "tierwise.yaml:1:56: warning: tasks.t.guardrails.latency_p95: 11 s is not an edge" in done.stdout
    assert "valid, 1 task(s), 1 warning(s)" in done.stderr


def test_validate_takes_the_policy_as_other_commands_do(tmp_path: Path) -> None:
    """`--config FILE` names a file like the argument does, and both may be given."""
    (tmp_path / "a.yaml").write_text("tasks: {t: {candidates: [m]}}\n")
    (tmp_path / "b.yaml").write_text("tiers: 3\n")
    assert CliRunner().invoke(cli, ["validate", "--config", "a.yaml"]).exit_code == 0
    done = CliRunner().invoke(cli, ["validate", "a.yaml", "--config", "b.yaml"])
    assert done.exit_code == 2
    assert "b.yaml:1:8" in done.stdout
    assert "a.yaml: valid" in done.stderr


def test_validate_json(tmp_path: Path) -> None:
    """`--json` gives every finding with its place."""
    (tmp_path / "a.yaml").write_text("tiers: 3\n")
    done = CliRunner().invoke(cli, ["validate", "--json", "a.yaml"])
    (document,) = json.loads(done.stdout)
    assert (done.exit_code, document["valid"], document["errors"][0]["line"], document["errors"][0]["column"]) == (
        2,
        False,
        1,
        8,
    )
    assert document["warnings"] == []


def test_validate_without_a_file_says_so() -> None:
    """Nothing to validate is wrong use."""
    done = CliRunner().invoke(cli, ["validate"])
    assert done.exit_code == 2
    assert "no tierwise.yaml here or above" in done.stderr


def test_schema_is_a_valid_json_schema() -> None:
    """The printed schema is itself valid, and accepts a small policy."""
    done = CliRunner().invoke(cli, ["schema"])
    assert done.exit_code == 0
    schema = json.loads(done.stdout)
    jsonschema_rs.meta.validate(schema)
    assert jsonschema_rs.is_valid(schema, {"tasks": {"t": {"candidates": ["m"], "explore": "adaptive"}}})
    assert not jsonschema_rs.is_valid(schema, {"task": {}})

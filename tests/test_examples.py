"""The examples: their commands exist, workflows hold their schema, shell steps and the batch job run."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import check_jsonschema
import click
import jsonschema_rs
import pytest
from ruamel.yaml import YAML

import tierwise
from support.planned import fill
from tierwise.config import check_policy
from tierwise.surfaces.cli.group import cli
from tierwise.surfaces.demo.gateway import Gateway

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.y*ml") if path.name != "tierwise.yaml")
WORKFLOWS = [path for path in EXAMPLES if path.name.startswith("github-")]
PROGRAMS = sorted(FOLDER.glob("*.py"))


def load(path: Path) -> Any:
    """The document, read by a safe YAML 1.2 parser that refuses duplicate keys."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def commands(value: Any) -> Iterator[list[str]]:
    """Every tierwise command in a document: `run:` lines and container commands."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "run":
                for line in str(item).splitlines():
                    yield shlex.split(line.partition(" | ")[0], comments=True)
            elif key == "command" and isinstance(item, list):
                yield [str(word) for word in item]
            else:
                yield from commands(item)
    elif isinstance(value, list):
        for item in value:
            yield from commands(item)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_every_tierwise_command_in_an_example_is_accepted(path: Path) -> None:
    """The command line parses each of them, options and values included, without running it."""
    found = [words for words in commands(load(path)) if words[:1] == ["tierwise"]]
    assert found
    for words in found:
        command = cli.get_command(click.Context(cli), words[1])
        assert command is not None, words
        context = command.make_context(words[1], words[2:])
        assert context.params["as_json"] in (True, False) or words[1] in ("report", "validate")


def test_the_cron_job_is_one() -> None:
    """Kind, schedule, and a pod that runs as nobody in particular on a read-only root."""
    job = load(next(path for path in EXAMPLES if "kubernetes" in path.name))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert len(job["spec"]["schedule"].split()) == 5
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    names = {variable["name"] for variable in container["env"]}
    assert {"TIERWISE_STORE", "TIERWISE_CONFIG", "TIERWISE_WEBHOOK"} <= names
    assert "webhook" not in " ".join(str(v.get("value", "")) for v in container["env"])


def test_the_workflow_is_one() -> None:
    """Each job has a runner and steps, each step runs or uses something, and secrets come from secrets."""
    workflow = load(FOLDER / "github-actions.yml")
    assert set(workflow["on"]) == {"pull_request", "schedule", "workflow_dispatch"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    assert workflow["jobs"]["look"]["env"]["TIERWISE_WEBHOOK"] == "${{ secrets.TIERWISE_WEBHOOK }}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_a_workflow_holds_its_schema(path: Path) -> None:
    """GitHub's own schema of workflows, as check-jsonschema ships it."""
    found = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "github-workflows.json"
    schema = json.loads(found.read_text(encoding="utf-8"))
    jsonschema_rs.validator_for(schema).validate(load(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A stand-in for GitHub's runner: a folder, an environment, and programs that write down how they were called."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One step, in the shell that the workflow names."""
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder, env={**self.environment, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """How the stand-ins were called."""
        log = self.folder / "called.txt"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """With a copy of a store in its place."""
    programs, data = tmp_path / "bin", tmp_path / "data"
    programs.mkdir()
    for name in ("gh", "pip"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> called.txt\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    data.mkdir()
    fill(data / "tierwise.db")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "fetch-store.sh").write_text('#!/bin/sh\ntest -s "$1"\n', encoding="utf-8")
    (tmp_path / "scripts" / "fetch-store.sh").chmod(0o755)
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    return Runner(
        folder=tmp_path,
        environment={**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")},
    )


def test_the_weekly_workflow_comments(runner: Runner) -> None:
    """Its steps, run one after another, write the recommendation and hand it to gh, for an issue and a pull request."""
    job = load(FOLDER / "github-weekly.yml")["jobs"]["recommend"]
    given = {"ISSUE": "7", "PULL_REQUEST": "12", "GH_TOKEN": "none", "GH_REPO": "o/r"}
    for step in job["steps"]:
        if "run" in step:
            done = runner.run(step["run"], **job["env"], **given)
            assert done.returncode == 0, (step, done.stderr)
    assert runner.calls() == [
        "pip install tierwise[cli]",
        "gh issue comment 7 --body-file comment.md",
        "gh pr comment 12 --body-file comment.md --edit-last --create-if-none",
    ]
    comment = (runner.folder / "comment.md").read_text(encoding="utf-8")
    title, *rest = comment.splitlines()
    assert title.startswith("### Which model for which task: 2")
    assert any(line.startswith("    strict-json ") for line in rest)
    assert "`tierwise apply TASK`" in comment
    assert (runner.folder / "summary.md").read_text(encoding="utf-8") == comment


def test_the_weekly_workflow_stops_without_a_store(runner: Runner) -> None:
    """No comment is made of nothing: the step fails where there is no recommendation."""
    job = load(FOLDER / "github-weekly.yml")["jobs"]["recommend"]
    step = next(step for step in job["steps"] if step.get("name") == "Write the comment")
    done = runner.run(step["run"], **{**job["env"], "TIERWISE_STORE": "data/none.db"})
    assert done.returncode != 0
    assert "none.db does not exist" in done.stderr


def test_the_programs_policy_names_their_tasks() -> None:
    """tierwise.yaml beside the programs is valid and has every task that they name."""
    found = check_policy(str(FOLDER / "tierwise.yaml"))
    assert (found.errors, found.warnings) == ((), ())
    assert found.policy is not None
    named: set[str] = set()
    for path in PROGRAMS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("task", "check")
            ):
                named.add(ast.literal_eval(node.args[0]))
    assert named == set(found.policy.tasks)


def test_the_batch_job_runs(tmp_path: Path) -> None:
    """Every ticket gets its line in order; the calls are recorded, routed by the policy and judged."""
    (tmp_path / "tierwise.yaml").write_bytes((FOLDER / "tierwise.yaml").read_bytes())
    tickets = [{"id": str(number), "text": "The checkout times out."} for number in range(12)]
    source, target = tmp_path / "tickets.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps(ticket) + "\n" for ticket in tickets), encoding="utf-8")
    with Gateway(scale=1000.0) as gateway:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(FOLDER / "batch_job.py"), str(source), str(target)],
            cwd=tmp_path, env={**os.environ, "OPENAI_BASE_URL": gateway.base_url, "OPENAI_API_KEY": "none"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("12 tickets, 0 failed")
    answers = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in answers] == [ticket["id"] for ticket in tickets]
    with tierwise.open_store(tmp_path / ".tierwise" / "tierwise.db") as store:
        rows = list(store.calls())
    assert [(row.task, row.candidate, row.outcome) for row in rows] == [("ticket", "gemini-3.5-flash", "success")] * 12
    assert all(row.checks and row.labels == {"batch": "nightly"} for row in rows)

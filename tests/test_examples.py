"""The Kubernetes and GitHub Actions examples: they parse, and every tierwise command and option in them exists."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from tierwise.surfaces.cli.group import cli

EXAMPLES = sorted((Path(__file__).parent.parent / "docs" / "examples").glob("*.y*ml"))


def load(path: Path) -> Any:
    """The document, read by a safe YAML 1.2 parser that refuses duplicate keys."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def commands(value: Any) -> Iterator[list[str]]:
    """Every tierwise command in a document: `run:` lines and container commands."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "run":
                yield from (shlex.split(line, comments=True) for line in str(item).splitlines())
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
    workflow = load(next(path for path in EXAMPLES if "github" in path.name))
    assert set(workflow["on"]) == {"pull_request", "schedule", "workflow_dispatch"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    assert workflow["jobs"]["look"]["env"]["TIERWISE_WEBHOOK"] == "${{ secrets.TIERWISE_WEBHOOK }}"

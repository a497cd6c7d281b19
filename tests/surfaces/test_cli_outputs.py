"""What `--json` prints holds to the JSON Schema that the reference documents, for every command that has it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import pytest

from support.commands import tierwise
from support.outputs import holds
from support.planned import fill
from support.report_data import call, store_with
from tierwise.core.receipt import receipt_of, write_receipt
from tierwise.surfaces.cli.group import COMMANDS, cli
from tierwise.surfaces.cli.outputs import OUTPUTS, schema_of
from tierwise.surfaces.cli.outputs.parts import CALL, CANDIDATE, GUARDRAIL, RECOMMENDATION

POLICY = """
tasks:
  strict-json:
    candidates: [dear, cheap]
    guardrails: {success_rate: ">= 0.5", latency_p95: "<= 10s"}
    apply: auto
  rare: {candidates: [dear, cheap]}
prices:
  dear: {input: 1, output: 2}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy, a store that speaks for a change, and recorded outcomes."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tierwise.yaml").write_text(POLICY)
    fill(folder / ".tierwise" / "tierwise.db")
    rows = [
        f"summary,{prompt},{model},{int(prompt % 10 < good)},{cost}"
        for prompt in range(50)
        for model, good, cost in (("dear", 9, 0.004), ("cheap", 9, 0.001))
    ]
    (folder / "outcomes.csv").write_text("task,prompt_id,model,success,cost_usd\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")


def printed(command: str, *arguments: str, exit_code: int = 0) -> Any:
    """What the command prints with --json, which must hold to its schema."""
    result = tierwise(*command.split(), *arguments, "--json")
    assert result.exit_code == exit_code, result.output
    documents = [json.loads(line) for line in result.stdout.splitlines()] if OUTPUTS[command].lines else []
    document = documents[0] if documents else json.loads(result.stdout)
    holds(command, document)
    return document


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand by its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_json_output_has_a_schema() -> None:
    """The table names the commands with --json, no more and no fewer, in the order of the help."""
    with_json = [name for name, one in commands(cli) if any("--json" in option.opts for option in one.params)]
    assert list(OUTPUTS) == with_json
    assert {name.split()[0] for name in OUTPUTS} <= set(COMMANDS)


@pytest.mark.parametrize("command", OUTPUTS)
def test_schemas_are_schemas_and_notice_new_fields(command: str) -> None:
    """Each schema is valid draft 2020-12, complete in itself, and closed at the top and in every record."""
    schema = schema_of(command)
    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.validator_for(schema)
    assert json.loads(tierwise("schema", "--output", command).stdout) == schema
    top = [schema, *schema.get("anyOf", ())]
    records = [one.get("items", one) for one in top if one.get("type") in ("object", "array")]
    shared = [schema["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in records]
    assert shared
    assert all(one["additionalProperties"] is False for one in shared)


def test_a_command_without_a_document_is_said() -> None:
    """An unknown name for --output gets the list of those that exist."""
    result = tierwise("schema", "--output", "sing")
    assert result.exit_code == 2
    assert "'sing'" in result.stderr
    assert "prices compare" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("calls", "--limit", "30"), ("plan",), ("explain", "strict-json"), ("explain", "rare"), ("history",),
        ("report", "-o", "page.html"), ("validate",), ("store path",), ("store status",), ("store prune", "--dry-run"),
        ("store vacuum", "--dry-run"), ("collector init", "--dry-run"), ("prices",), ("prices search", "claude", "haiku"),
        ("prices reprice", "--dry-run"), ("prices compare", "dear", "claude-sonnet-4-5"),
        ("prices catalogue",), ("doctor",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_only_reads(arguments: tuple[str, ...]) -> None:
    """The document of each command that changes nothing holds to its schema, and says something."""
    assert printed(*arguments)


def test_a_rich_recommendation_fills_the_shared_records() -> None:
    """The plan that is checked has candidates, guardrails, reasons and bounds, so that their schemas are put to use."""
    made = {item["task"]: item for item in printed("plan")["recommendations"]}
    item = made["strict-json"]
    assert set(item) == set(RECOMMENDATION["properties"])
    assert item["after"]["propensities"]
    assert set(item["candidates"][0]) == set(CANDIDATE["properties"])
    assert set(item["candidates"][0]["guardrails"][0]) == set(GUARDRAIL["properties"])
    assert {one["exploring"] is None for one in made.values()} == {True, False}
    assert set(printed("calls", "--limit", "1")[0]) == set(CALL["properties"])


def test_routes_from_the_first_change_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document about a change holds to its schema, and so does the history with all kinds of entries."""
    monkeypatch.setenv("TIERWISE_ROUTES", str(tmp_path / "routes.json"))
    assert printed("apply", "--dry-run")["dry_run"]
    changes = {one["task"]: one for one in printed("watch", "--once", "--by", "ci")["changes"]}
    assert changes["strict-json"]["after"]["canary"], changes
    assert printed("history")["entries"][0]["in_force_once"]
    assert printed("abort", "strict-json", "--yes", "--note", "not yet")["changes"][0]["action"] == "abort"
    assert printed("promote", "strict-json", "cheap", "--yes")["changes"][0]["after"]["primary"] == "cheap"
    assert printed("promote", "rare", "cheap", "--dry-run")["against"]
    assert printed("rollback", "strict-json", "--yes")["changes"][0]["action"] == "rollback"
    assert printed("apply", "--yes")["changes"]
    entries = printed("history", "--traffic")["entries"]
    assert {"trial", "abort", "promote", "rollback"} <= {entry["action"] for entry in entries}
    assert printed("explain", "strict-json")["route"]["primary"]
    assert printed("watch", "--once", "--no-apply", "--exit-zero")["tasks"] == 2


def test_splits_of_the_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of the audit log that stands for many tasks holds to its schema too."""
    monkeypatch.setenv("TIERWISE_ROUTES", str(tmp_path / "routes.json"))
    entry = {
        "action": "traffic", "at": 1_800_000_000, "by": "watch", "automatic": True, "version": 1, "change": "c1",
        "tasks": {"strict-json": {"hash": "h", "set": {"propensities": {"dear": 0.9, "cheap": 0.1}}}},
    }  # fmt: skip
    (tmp_path / "audit.jsonl").write_text(json.dumps(entry, separators=(",", ":")) + "\n")
    assert printed("history", "--traffic")["entries"][0]["tasks"]


def test_what_changes_files_and_stores(tmp_path: Path) -> None:
    """The documents of upkeep, of repricing and of the Collector's files hold to their schemas."""
    store = str(
        store_with(tmp_path / "t.db", [call(task="summary", candidate="dear", cost_usd=None, cost_source=None)])
    )
    assert printed("prices reprice", "--store", store)["dry_run"] is False
    assert printed("store prune", "--store", store)["dry_run"] is False
    assert printed("store vacuum", "--store", store)["after_bytes"] > 0
    assert printed("collector init", "--dir", str(tmp_path / "c"))["written"]
    assert printed("collector check", str(tmp_path / "c" / "config.yaml"))["errors"] == []
    (tmp_path / "broken.yaml").write_text("tasks: {a: {candidates: 7}}\nnonsense: 1\n")
    assert printed("validate", str(tmp_path / "broken.yaml"), exit_code=2)[0]["errors"]
    assert printed("doctor", "--config", str(tmp_path / "none.yaml"), exit_code=1)["store"] is None


def test_a_verdict(tmp_path: Path) -> None:
    """What `tierwise feedback` prints holds to its schema."""
    one = call(started_at_ns=time.time_ns())
    store = str(store_with(tmp_path / "t.db", [one]))
    found = printed("feedback", write_receipt(receipt_of(one)), "--reject", "--score", "0.2", "--store", store)
    assert found["feedback"]["accepted"] is False


@pytest.mark.parametrize("seeds", ["1", "1-2"])
def test_backtests(seeds: str) -> None:
    """One seed and several give documents of one schema."""
    found = printed("backtest", "--outcomes", "outcomes.csv", "--steps", "5", "--jobs", "1", "--seeds", seeds)
    assert found["tasks"]["summary"]["oracle"]["model"] == "cheap"


def test_a_foretold_ladder() -> None:
    """With `--ladder` the document is the other form of the schema."""
    found = printed("backtest", "--outcomes", "outcomes.csv", "--ladder", "cheap,dear", "--runs", "40")
    assert set(found["ladders"]["summary"]["saving"]) == {"point", "low", "high"}

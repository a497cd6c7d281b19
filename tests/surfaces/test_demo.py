"""`tierwise demo`: the whole line on simulated models, and what its decisions follow from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from support.outputs import holds
from support.report_data import recommendation
from tierwise.advisor.plan import plan
from tierwise.config import check_text, load_policy
from tierwise.core.call import Answer, Call, Request, TaskContext, Usage
from tierwise.core.cost import cost_of, flat_rates
from tierwise.core.errors import ConfigError, StoreError
from tierwise.core.evidence import EvidenceBuilder, EvidenceRow, Key, key_of
from tierwise.core.outcome import Choice, Expectation, judge
from tierwise.core.recommendation import Reason, Recommendation
from tierwise.evidence import SqliteStore
from tierwise.instrument.parsing import compile_schema, parse_json
from tierwise.surfaces.bench.suite import load_suite
from tierwise.surfaces.cli.demo import program, shown_reasons
from tierwise.surfaces.cli.group import cli
from tierwise.surfaces.demo.gateway import make_reply
from tierwise.surfaces.demo.models import LATENCY_SCALE, PROFILES
from tierwise.surfaces.demo.story import Demo, Places, demo_policy_text, find_places, policy_lines, usual_routes

GEMINI, HAIKU, SONNET = (profile.name for profile in PROFILES)
TASKS = ["summary", "reasoning", "bug-fix", "token-cost", "strict-json"]
MODEL_FIELDS = {
    "runs", "latency_mean_s", "latency_median_s", "latency_p95_s", "latency_min_s", "latency_max_s", "task_score",
    "output_chars_mean", "non_stop_finish_reasons", "json_valid_rate", "retries", "cost_usd", "cost_per_success_usd",
}  # fmt: skip
RATES = {
    GEMINI: flat_rates(input=1.5, output=9.0),
    HAIKU: flat_rates(input=1.0, output=5.0),
    SONNET: flat_rates(input=3.0, output=15.0),
}
ROUNDS = 6


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, dict[str, Any], str]]:
    """Two demos at once, each in a folder of its own, with one seed: (folder, document, narration)."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TIERWISE_", "OTEL_", "OPENAI_")) and name != "COLUMNS"
    }
    # A collector that the environment asks for must not get simulated calls, and there is none at this address.
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    command = [
        sys.executable,
        "-m",
        "tierwise.surfaces.cli.entry",
        "demo",
        "--json",
        "--seed",
        "7",
        "--rounds",
        str(ROUNDS),
    ]
    started = []
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        started.append(
            (folder, subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=-1, stderr=-1))
        )
    found = []
    for folder, process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        holds("demo", document := json.loads(out))
        found.append((folder, document, err))
    return found


def test_document_has_every_field(runs: list[tuple[Path, dict[str, Any], str]]) -> None:
    """One JSON document on stdout with models, tasks, recommendations, token budget, store and report."""
    folder, found, _ = runs[0]
    assert {"models", "tasks", "recommendations", "token_budget", "store", "report"} <= set(found)
    assert found["simulated"] is True
    assert list(found["models"]) == [GEMINI, HAIKU, SONNET]
    assert list(found["tasks"]) == TASKS
    for summary in found["models"].values():
        assert set(summary) >= MODEL_FIELDS
        assert summary["runs"] == ROUNDS * len(TASKS)
        assert summary["latency_min_s"] <= summary["latency_median_s"] <= summary["latency_max_s"]
        assert summary["published_scale"]["latency_mean_s"] == pytest.approx(summary["latency_mean_s"] * LATENCY_SCALE)
        assert summary["cost_per_success_usd"] > 0
    assert [one["task"] for one in found["recommendations"]] == TASKS
    for one in found["recommendations"]:
        assert {"task", "verdict", "current", "primary", "fallbacks", "grade", "reasons"} <= set(one)
        assert one["current"] == SONNET
        assert one["reasons"]
    assert Path(found["store"]).is_relative_to(folder)
    assert Path(found["report"]).is_relative_to(folder)


def test_two_runs_are_not_enough(runs: list[tuple[Path, dict[str, Any], str]]) -> None:
    """After the published comparison every task lacks runs, and the document says how many."""
    first = runs[0][1]["first_look"]
    assert first["rounds"] == 2
    assert {summary["runs"] for summary in first["models"].values()} == {10}
    assert {one["verdict"] for one in first["recommendations"]} == {"INSUFFICIENT"}
    assert all(one["runs_needed"] > 0 for one in first["recommendations"])


def test_strict_json_moves_to_gemini(runs: list[tuple[Path, dict[str, Any], str]]) -> None:
    """The Claude models fail strict JSON by fences alone; the recommendation is gemini-3.5-flash with a fallback."""
    found = runs[0][1]
    assert found["tasks"]["strict-json"] == {GEMINI: "pass", HAIKU: "fail", SONNET: "fail"}
    assert all(found["tasks"][task][model] == "pass" for task in TASKS[:4] for model in found["models"])
    (one,) = [one for one in found["recommendations"] if one["task"] == "strict-json"]
    assert (one["verdict"], one["primary"]) == ("PROMOTE", GEMINI)
    assert one["fallbacks"]
    with SqliteStore.open(found["store"], read_only=True) as store:
        outcomes = {(call.candidate, call.outcome, call.json_form) for call in store.calls(task="strict-json")}
    assert outcomes == {
        (GEMINI, "success", "plain"),
        (HAIKU, "json_fenced", "fenced"),
        (SONNET, "json_fenced", "fenced"),
    }


def test_token_budget_is_told_apart_from_the_tasks(runs: list[tuple[Path, dict[str, Any], str]]) -> None:
    """The probe stands in `token_budget` alone: gemini is cut at 64 tokens before any text, with advice."""
    budget = runs[0][1]["token_budget"]
    assert budget["max_tokens"] == [64, 2048, None]
    assert len(budget["results"]) == 18
    cut = [(one["model"], one["max_tokens"], one["finish_reason"], one["output_chars"]) for one in budget["results"]
           if one["outcome"] == "truncated"]  # fmt: skip
    assert cut == [(GEMINI, 64, "length", 0)] * 2
    assert "Raise it to 2048 or omit it." in budget["advice"][0]


def test_one_seed_gives_the_same_decisions(runs: list[tuple[Path, dict[str, Any], str]]) -> None:
    """Two demos with one seed agree on tasks, outcomes, tokens, cost and every decision."""
    (_, one, _), (_, two, _) = runs
    decisions = [
        [
            (rec["task"], rec["verdict"], rec["current"], rec["primary"], rec["fallbacks"])
            for rec in found["recommendations"]
        ]
        for found in (one, two)
    ]
    assert decisions[0] == decisions[1]
    assert one["tasks"] == two["tasks"]
    for model in one["models"]:
        for name in ("runs", "task_score", "output_chars_mean", "retries", "outcomes"):
            assert one["models"][model][name] == two["models"][model][name]
        assert one["models"][model]["cost_usd"] == pytest.approx(two["models"][model]["cost_usd"])


def test_every_screen_says_simulated(runs: list[tuple[Path, dict[str, Any], str]]) -> None:
    """Narration goes to stderr and says simulated on every line that shows results; so does the report."""
    _, found, narration = runs[0]
    assert narration.splitlines()
    assert all("simulated" in line for line in narration.splitlines())
    assert "simulated" in Path(found["report"]).read_text("utf-8").lower()


def test_own_folder_can_be_explored(runs: list[tuple[Path, dict[str, Any], str]]) -> None:
    """Policy and routes lie beside the store, private and ignored by git, so that `tierwise plan` says the same."""
    folder, found, _ = runs[0]
    own = folder / ".tierwise" / "demo"
    assert (folder / ".tierwise" / ".gitignore").read_text() == "*\n"
    assert load_policy(own / "tierwise.yaml").tasks.keys() == set(TASKS)
    assert all(path.stat().st_mode & 0o077 == 0 for path in own.iterdir())
    arguments = ["plan", "--json", "--store", found["store"], "--config", str(own / "tierwise.yaml")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert {
        one["task"]: one["verdict"] for one in json.loads(result.stdout)["recommendations"] if one["task"] in TASKS
    } == {one["task"]: one["verdict"] for one in found["recommendations"]}


def test_human_output_shows_both_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --json both looks are printed as tables with figures as measured and at the published scale."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "real.db"))
    result = CliRunner().invoke(cli, ["demo", "--rounds", "3"])
    assert result.exit_code == 0, result.output
    for text in (
        "Comparison after 2 published rounds (simulated", "Comparison after 3 rounds (simulated", "Avg output size",
        "Non-stop finish reasons", "Cost per success", "Token budget (simulated)", "Advice: gemini-3.5-flash",
        "fail (json_fenced)", "INSUFFICIENT", "per model", "(12 s at the published scale)", "report.html",
    ):  # fmt: skip
        assert text in result.stdout
    assert not (tmp_path / "real.db").exists()
    own = tmp_path / "demo"
    assert all(result.output.count(str(own / name)) == 1 for name in ("tierwise.db", "report.html"))
    assert "explain strict-json --store demo/tierwise.db --config demo/tierwise.yaml" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "1"], "1 is not in the range"),
        (["--report", "no/such/folder/r.html"], "its folder is missing"),
        (["--store", "plain.txt"], "plain.txt"),
        (["--until", "never"], "never"),
    ],
)
def test_wrong_use_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """Bad options and unusable files end with exit code 2 and one message before anything runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.txt").write_text("not a database, but a text that is long enough to be read as one")
    result = CliRunner().invoke(cli, ["demo", *arguments])
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_goes_on_until_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `until_decided` rounds stop as soon as every task has a verdict, well before the last one."""
    seen: list[int] = []

    def decided_after_four(demo: Demo) -> Any:
        seen.append(demo.rounds)
        return SimpleNamespace(decided=demo.rounds >= 4)

    monkeypatch.setattr(Demo, "look", decided_after_four)
    places = Places(store=tmp_path / "demo.db", report=tmp_path / "r.html")
    with Demo(places, seed=1) as demo:
        demo.go_on(40, until_decided=True)
        assert demo.rounds == 4
    assert seen == [2, 4]
    with SqliteStore.open(places.store, read_only=True) as store:
        assert {call.round for call in store.calls()} == {0, 1, 2, 3}
        assert store.call_count() == 4 * 15


# --- places and policy ----------------------------------------------------------------------------------------------


def test_never_mixes_with_real_calls(tmp_path: Path) -> None:
    """A store that holds calls of another kind is refused; one of a demo, or a new file, is taken."""
    path = tmp_path / "mine.db"
    assert find_places(store=str(path), report=None) == Places(store=path, report=tmp_path / "mine-report.html")
    path.touch()
    assert find_places(store=str(path), report=None).store == path
    with SqliteStore.open(path) as store:
        store.write(list(simulated_calls(1, 1))[:1])
    assert find_places(store=str(path), report=None).store == path
    with SqliteStore.open(path) as store:
        real = next(simulated_calls(1, 1, session=""))
        store.write([real])
    with pytest.raises(StoreError, match="not simulated"):
        find_places(store=str(path), report=None)


def test_falls_back_to_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the current folder cannot take files, a temporary one does."""
    (tmp_path / ".tierwise").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    places = find_places(store=None, report=None)
    assert places.store.parent.name.startswith("tierwise-demo-")
    assert places.store.parent.is_dir()


def test_works_beside_the_store_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TIERWISE_STORE set, the demo has a folder of its own beside that store; with `off` it is where it always is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "data" / "calls.db"))
    folder = tmp_path / "data" / "demo"
    assert find_places(store=None, report=None) == Places(
        store=folder / "tierwise.db",
        report=folder / "report.html",
        policy=folder / "tierwise.yaml",
        routes=folder / "routes.json",
    )
    assert not (tmp_path / ".tierwise").exists()
    monkeypatch.setenv("TIERWISE_STORE", "off")
    assert find_places(store=None, report=None).store == tmp_path / ".tierwise" / "demo" / "tierwise.db"


def test_never_takes_a_users_store_for_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of real calls that lies where the demo's own would be is refused."""
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "calls.db"))
    (tmp_path / "demo").mkdir()
    with SqliteStore.open(tmp_path / "demo" / "tierwise.db") as store:
        store.write([next(simulated_calls(1, 1, session=""))])
    with pytest.raises(StoreError, match="not simulated"):
        find_places(store=None, report=None)


def test_hints_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands to go on with begin as the user's shell needs them."""
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert program() == "tierwise"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert program() == "uv run tierwise"
    monkeypatch.setattr("shutil.which", lambda name: f"/venv/bin/{name}")
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")  # uv puts the environment on the path of this process alone
    assert program() == "uv run tierwise"


def test_says_why_a_cheaper_model_is_not_the_one() -> None:
    """The reasons shown for a change include the limit that a third candidate misses."""
    texts = [
        ("incumbent_refuted", SONNET), ("replaces_refuted", GEMINI), ("gain_shown", HAIKU), ("guardrail_failing", HAIKU),
        ("guardrail_holding", GEMINI),
    ]  # fmt: skip
    reasons = tuple(Reason(code=code, text=code, candidate=candidate) for code, candidate in texts)
    moved = recommendation("summary", "PROMOTE", current=SONNET, primary=GEMINI, reasons=reasons)
    assert [one.code for one in shown_reasons(moved)] == ["incumbent_refuted", "replaces_refuted", "guardrail_failing"]
    kept = recommendation("summary", "KEEP", reasons=reasons)
    assert len(shown_reasons(kept)) == 2


def test_report_folder_is_checked_first(tmp_path: Path) -> None:
    """A report that could not be written is refused before the demo runs."""
    with pytest.raises(ConfigError, match="--report"):
        find_places(store=None, report=str(tmp_path / "no" / "r.html"))


def test_policy_limits_are_scaled_onto_histogram_edges() -> None:
    """The simulated limits are the published ones over the scale, without a warning that another edge is tested."""
    findings = check_text(demo_policy_text())
    assert findings.errors == ()
    assert findings.warnings == ()
    assert findings.policy is not None
    limits = {
        one.limit for task in findings.policy.tasks.values() for one in task.guardrails if one.metric == "latency_p95"
    }
    assert limits == {12 / LATENCY_SCALE}
    assert all("12 s at the published scale" in line for line in policy_lines(findings.policy))


# --- decisions follow from measurement ------------------------------------------------------------------------------


@cache
def evidence(seed: int, rounds: int) -> tuple[EvidenceRow, ...]:
    """The evidence of a demo, from the models themselves: no HTTP, so no noise."""
    builders: dict[Key, EvidenceBuilder] = {}
    for call in simulated_calls(seed, rounds):
        builders.setdefault(key_of(call), EvidenceBuilder()).add_call(call)
    return tuple(EvidenceRow(key=key, evidence=builder.build()) for key, builder in builders.items())


def simulated_calls(seed: int, rounds: int, session: str = "demo-x") -> Iterator[Call]:
    for task in load_suite("developer").tasks:
        schema = compile_schema(task.schema) if task.schema is not None else None
        expectation = Expectation(expects_json=task.expects == "json", schema=schema, checks=task.checks)
        for profile in PROFILES:
            for number in range(rounds):
                body = {"messages": task.messages(number), "max_tokens": 2048}
                reply = make_reply(profile, body, seed=seed, count=number, scale=LATENCY_SCALE)
                choice = Choice(text=reply.text, finish_reason=reply.finish_reason)
                judged = judge([choice], expectation, parse_json=parse_json)
                usage = Usage(input_tokens=reply.prompt_tokens, output_tokens=reply.completion_tokens)
                yield Call(
                    request=Request(operation="chat", provider="simulated", model=profile.name),
                    context=TaskContext(name=task.name, session=session, round=number, randomised=True),
                    answer=Answer(model=profile.name, output_chars=len(reply.text)),
                    outcome=judged.outcome,
                    candidate=profile.name,
                    epoch="e",
                    started_at_ns=1_700_000_000 * 10**9,
                    duration_s=reply.latency_s,
                    usage=usage,
                    cost=cost_of(usage, RATES[profile.name]),
                    json_form=judged.json_form,
                )


def decided(seed: int, rounds: int, **changes: str) -> dict[str, Recommendation]:
    """The route map of a demo under its policy with words replaced."""
    text = demo_policy_text()
    for old, new in changes.items():
        text = text.replace({"limit": '"<= 0.5s"', "objective": "cost_per_success"}[old], new)
    policy = check_text(text).policy
    made = plan(evidence(seed, rounds), policy, usual_routes(load_suite("developer")), 1_700_010_000, tasks=TASKS)
    return {one.task: one for one in made.recommendations}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_forty_rounds_decide_every_task(seed: int) -> None:
    """Under a p95 limit of 12 s the usual model is refuted and every task moves to the fast one, with a fallback."""
    for one in decided(seed, 40).values():
        assert (one.verdict, one.current, one.primary) == ("PROMOTE", SONNET, GEMINI)
        assert one.fallbacks
        assert one.grade == "randomised"


def test_the_exact_test_decides_strict_json_early() -> None:
    """Six rounds separate plain from fenced JSON, while the other tasks still lack runs."""
    found = decided(1, 6)
    assert found["strict-json"].verdict == "PROMOTE"
    assert {found[task].verdict for task in TASKS[:4]} == {"INSUFFICIENT"}


def test_another_limit_gives_another_map() -> None:
    """Without the latency limit the cheapest model is tried on the text tasks; strict JSON stays with gemini."""
    found = decided(1, 40, limit='"<= 5s"')
    assert {(found[task].verdict, found[task].challenger) for task in TASKS[:4]} == {("TRIAL", HAIKU)}
    assert (found["strict-json"].verdict, found["strict-json"].primary) == ("PROMOTE", GEMINI)


def test_a_limit_nobody_holds_moves_nothing() -> None:
    """Under a p95 limit of 4.8 s no model is left to move to, so the text tasks stay where they are."""
    found = decided(1, 40, limit='"<= 0.2s"')
    assert all(one.primary == SONNET for one in found.values())
    assert {one.verdict for one in found.values()} == {"HOLD"}


def test_another_objective_gives_another_map() -> None:
    """Where only latency counts and no limit is set, cost moves nothing any more."""
    found = decided(1, 40, limit='"<= 5s"', objective="latency_p95")
    assert HAIKU not in {one.challenger for one in found.values()}
    assert found["summary"].verdict != decided(1, 40, limit='"<= 5s"')["summary"].verdict

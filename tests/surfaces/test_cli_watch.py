"""`tierwise watch` over a real store: one look, many looks, webhook, metrics, signals and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from support.commands import tierwise
from support.planned import fill
from support.webhook import Hook, webhook
from tierwise.routing import read_table

POLICY = """
tasks:
  strict-json: {candidates: [dear, cheap], apply: %s}
  rare: {candidates: [dear, cheap]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose evidence speaks for `cheap` on strict-json, which may change by itself."""
    monkeypatch.chdir(tmp_path)
    for name in ("TIERWISE_WEBHOOK", "TIERWISE_WEBHOOK_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tierwise.yaml").write_text(POLICY % "auto")
    fill(tmp_path / ".tierwise" / "tierwise.db")
    return tmp_path


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A server that takes webhooks."""
    with webhook() as made:
        yield made


def routes(project: Path) -> Path:
    """The route file."""
    return project / ".tierwise" / "routes.json"


def test_once_changes_what_may_change_and_says_so_in_one_line(project: Path) -> None:
    """The canary of `apply: auto` starts, one line tells it, the log has it, and doing it again changes nothing."""
    done = tierwise("watch", "--once", "--by", "cron")
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert "2 task(s): " in line
    assert "routes at version 1" in line
    assert "strict-json: trial none → dear + cheap 25 %" in line
    assert "strict-json: trial, by itself: no route → dear with cheap 25 % as a canary" in done.stderr
    route = read_table(routes(project)).routes["strict-json"]
    assert route.canary is not None
    assert route.canary.candidate == "cheap"
    entries = json.loads(tierwise("history", "--json").stdout)["entries"]
    assert [(e["by"], e["automatic"]) for e in entries if e["action"] == "trial"] == [("cron", True)]
    again = tierwise("watch", "--once")
    assert again.exit_code == 0
    assert "0 new" in again.stdout
    assert read_table(routes(project)).version == 1


@pytest.mark.parametrize(("mode", "flags"), [("recommend", []), ("auto", ["--no-apply"])])
def test_what_is_left_to_people_is_a_finding(project: Path, mode: str, flags: list[str]) -> None:
    """Without leave to change it the route stays, and the exit code is 1, or 0 when asked for."""
    (project / "tierwise.yaml").write_text(POLICY % mode)
    done = tierwise("watch", "--once", *flags)
    assert done.exit_code == 1
    assert "1 finding(s): strict-json: PROMOTE" in done.stderr
    assert not routes(project).exists()
    assert tierwise("watch", "--once", "--exit-zero", *flags).exit_code == 0


def test_json_is_one_document_a_line(project: Path) -> None:
    """`--json` prints the look as JSON: verdicts, changes with routes, news, findings, errors."""
    done = tierwise("watch", "--once", "--json")
    (line,) = done.stdout.splitlines()
    look = json.loads(line)
    assert look["verdicts"] == {"INSUFFICIENT": 1, "PROMOTE": 1}
    assert (look["version"], look["tasks"], look["errors"], look["findings"]) == (1, 2, [], [])
    assert look["changes"][0]["after"]["canary"]["candidate"] == "cheap"
    assert [(news["task"], news["kind"]) for news in look["news"]] == [("strict-json", "route")]


def test_only_named_tasks_are_looked_at(project: Path) -> None:
    """`watch TASK` leaves the others alone."""
    assert json.loads(tierwise("watch", "rare", "--once", "--json").stdout)["tasks"] == 1
    assert not routes(project).exists()


def test_news_go_to_the_webhook_once(project: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look is told, the second has nothing new; the address may come from the environment."""
    monkeypatch.setenv("TIERWISE_WEBHOOK", hook.url)
    monkeypatch.setenv("TIERWISE_WEBHOOK_TOKEN", "tok")
    assert tierwise("watch", "--once").exit_code == 0
    assert tierwise("watch", "--once").exit_code == 0
    assert hook.news() == [[("strict-json", "route")]]
    assert hook.headers[0]["authorization"] == "Bearer tok"


def test_slack_gets_its_own_form(project: Path, hook: Hook) -> None:
    """`--webhook-format slack` sends text and blocks."""
    assert tierwise("watch", "--once", "--webhook", hook.url, "--webhook-format", "slack").exit_code == 0
    (document,) = hook.documents()
    assert document["text"] == "tierwise: 1 news about strict-json"
    assert document["blocks"][1]["text"]["text"].startswith("→ *strict-json*  trial, by itself")


def test_a_webhook_that_is_down_is_said_without_its_secret(project: Path, hook: Hook) -> None:
    """The change is made, exit 2, the address's path is nowhere; the news come with the next look."""
    hook.answer(400)
    done = tierwise("watch", "--once", "--webhook", hook.url)
    assert done.exit_code == 2
    assert "did not take the news: HTTP 400" in done.stderr
    assert "SECRET" not in done.output + (project / ".tierwise" / "watch.json").read_text()
    assert read_table(routes(project)).version == 1
    hook.answer(200)
    assert tierwise("watch", "--once", "--webhook", hook.url).exit_code == 0
    assert hook.news() == [[("strict-json", "route")]] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--webhook", "ftp://x/SECRET"], "not of the form https://HOST/PATH"),
        (["--every", "0s"], "--every wants"),
        (["--every", "all"], "--every wants"),
        (["--webhook-format", "teams"], "webhook-format"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_use_is_exit_2_and_no_look(project: Path, arguments: list[str], said: str) -> None:
    """Wrong arguments end before the first look."""
    done = tierwise("watch", "--once", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "SECRET" not in done.output
    assert not routes(project).exists()


@pytest.mark.parametrize("broken", ["policy", "routes", "store", "nothing"])
def test_a_look_that_fails_is_exit_2_with_its_reason(project: Path, hook: Hook, broken: str) -> None:
    """A broken policy, route file or store, or no store: said, told once, exit 2."""
    path, text, said = {
        "policy": (project / "tierwise.yaml", "tasks: 3\n", "tierwise.yaml:1:8"),
        "routes": (routes(project), "{", "not a route table"),
        "store": (project / ".tierwise" / "tierwise.db", "x" * 5000, "tierwise.db"),
        "nothing": (project / ".tierwise" / "tierwise.db", "", "no calls recorded yet"),
    }[broken]
    path.unlink(missing_ok=True)
    for extra in (project / ".tierwise").glob("tierwise.db-*"):
        extra.unlink()
    if text:
        path.write_text(text)
    for _ in range(2):
        done = tierwise("watch", "--once", "--webhook", hook.url)
        assert done.exit_code == 2
        assert said in done.stderr
        assert "the look failed" in done.stdout
    assert hook.news() == [[("", "trouble")]]


def test_metrics_are_sent_where_the_variables_say(project: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Route, decision and saving arrive over OTLP before the command ends."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", hook.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    assert tierwise("watch", "--once").exit_code == 0
    names = {
        metric.name
        for body in hook.bodies
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {"tierwise.route.info", "tierwise.decision.time", "tierwise.decision.saving.per_1000_runs"} <= names
    assert "tierwise.watch.looks" in names


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    """The watch as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tierwise.surfaces.cli.entry", "watch", "--json", *arguments],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watch_cleanly(project: Path, kind: signal.Signals) -> None:
    """It looks at once, sleeps, and a signal in its sleep ends it with exit 0."""
    process = start(project)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["version"] == 1
    process.send_signal(kind)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, ""), err
    assert "stopped" in err


def test_the_watch_survives_a_locked_route_file_and_a_broken_policy(project: Path) -> None:
    """Looks fail and say why, and when all is well again the change is made, in the same process."""
    (project / "tierwise.yaml").write_text("tasks: 3\n")
    process = start(project, "--every", "1s")
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        assert "tierwise.yaml:1:8" in first["errors"][0]
        (project / "tierwise.yaml").write_text(POLICY % "auto")
        deadline = time.monotonic() + 30
        look = first
        while look["errors"] and time.monotonic() < deadline:
            look = json.loads(process.stdout.readline())
        assert (look["version"], look["errors"]) == (1, [])
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "look(s) had errors" in err


def test_a_store_under_an_exclusive_lock_is_an_error_of_the_look(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that holds the whole database costs this look, with a message."""
    monkeypatch.setattr("tierwise.evidence.sqlite._BUSY_MS", 200)
    holder = sqlite3.connect(project / ".tierwise" / "tierwise.db", isolation_level=None)
    try:
        holder.execute("pragma locking_mode = exclusive")
        holder.execute("pragma journal_mode = delete")
        holder.execute("begin exclusive")
        done = tierwise("watch", "--once")
    finally:
        holder.close()
    assert done.exit_code == 2
    assert "locked" in done.stderr

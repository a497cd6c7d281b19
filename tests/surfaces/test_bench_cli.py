"""`tierwise bench` over real HTTP against the simulated gateway, which knows nothing of tierwise."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import tierwise
from support.outputs import holds
from support.report_data import call
from tierwise.core.call import UNASSIGNED
from tierwise.evidence import SqliteStore
from tierwise.instrument.checks import checks_for
from tierwise.surfaces.cli.group import cli
from tierwise.surfaces.demo.gateway import Gateway
from tierwise.testing import chat_body

MODELS = "gemini-3.5-flash,claude-sonnet-4-5"
TASKS = ["summary", "reasoning", "bug-fix", "token-cost", "strict-json"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(seed=11, scale=1000) as running:
        yield running


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def bench(*arguments: str) -> Result:
    """Run `tierwise bench` with a store in the current folder."""
    return CliRunner().invoke(cli, ["bench", "--store", "calls.db", *arguments], catch_exceptions=True)


def test_json_document_counts_every_call_once(gateway: Gateway) -> None:
    """Runs, tasks, cost and the probe of a session are in the document as it is documented, every call in the store once."""
    before = gateway.requests
    result = bench("--models", MODELS, "--base-url", gateway.base_url, "--runs", "3", "--json", "--concurrency", "8")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    holds("bench", found)
    assert list(found["models"]) == MODELS.split(",")
    assert {one["runs"] for one in found["models"].values()} == {15}
    assert list(found["tasks"]) == TASKS
    assert found["tasks"]["strict-json"] == {"gemini-3.5-flash": "pass", "claude-sonnet-4-5": "fail"}
    assert found["models"]["claude-sonnet-4-5"]["outcomes"] == {"success": 12, "json_fenced": 3}
    assert found["models"]["gemini-3.5-flash"]["cost_usd"] > 0
    finding = found["token_budget"]["findings"]
    assert [(one["model"], one["max_tokens"], one["empty"]) for one in finding] == [("gemini-3.5-flash", 64, 2)]
    assert "2048" in finding[0]["advice"]
    with tierwise.open_store("calls.db") as store:
        calls = list(store.calls(session=found["session"]))
    assert len(calls) == 2 * (3 * 5 + 6)
    retried = sum(call.retries for call in calls)
    preflight = 2
    assert gateway.requests - before == len(calls) + retried + preflight
    assert {call.round for call in calls if call.task in TASKS} == {0, 1, 2}
    assert {(call.temperature, call.max_tokens) for call in calls if call.task in TASKS} == {(0.0, 2048)}
    assert UNASSIGNED not in {call.task for call in calls}


def test_rounds_are_randomised_buckets_of_their_own(gateway: Gateway) -> None:
    """Each round of a session is evidence of its own, with grade randomised, once for each task and model."""
    result = bench(
        "--models", MODELS, "--base-url", gateway.base_url, "--runs", "2", "--task", "summary", "--no-probe", "--json"
    )
    session = json.loads(result.stdout)["session"]
    with SqliteStore.open("calls.db", read_only=True) as store:
        rows = store.evidence()
    assert sorted((row.key.candidate, row.key.round, row.evidence.n) for row in rows) == [
        ("claude-sonnet-4-5", 0, 1),
        ("claude-sonnet-4-5", 1, 1),
        ("gemini-3.5-flash", 0, 1),
        ("gemini-3.5-flash", 1, 1),
    ]
    assert {(row.key.session, row.key.grade) for row in rows} == {(session, "randomised")}


@pytest.mark.parametrize("columns", ["200", "80"])
def test_tables_show_every_column(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """The comparison has every figure, on a wide terminal as on a narrow one; failures name their outcome."""
    monkeypatch.setenv("COLUMNS", columns)
    result = bench("--models", MODELS, "--base-url", gateway.base_url, "--runs", "1")
    assert result.exit_code == 0, result.output
    for text in (
        "Runs", "Avg", "Median", "p95", "Fastest", "Slowest", "Task score", "Avg output size",
        "Non-stop finish reasons", "JSON validity", "Retries", "Cost", "Cost per success", "fail (json_fenced)",
        "length, empty", "Advice: gemini-3.5-flash: max_tokens=64",
    ):  # fmt: skip
        assert text in result.stdout
    tables = [line for line in result.stdout.splitlines() if not line.startswith("Advice")]
    assert max(map(len, tables)) <= int(columns)


def test_session_and_store_are_narrated_apart_from_the_data(gateway: Gateway) -> None:
    """Data goes to stdout; where it was recorded, and that code checks were left out, goes to stderr."""
    result = bench("--models", MODELS, "--base-url", gateway.base_url, "--runs", "1", "--json", "--no-probe")
    holds("bench", found := json.loads(result.stdout))
    assert found["token_budget"] is None
    assert "calls.db as session bench-" in result.stderr
    assert "see `tierwise plan --store calls.db`" in result.stderr
    assert "--allow-code" in result.stderr


@contextmanager
def breaking_server() -> Iterator[str]:
    """Every second answer is JSON that is cut in the middle."""
    asked = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            data = json.dumps(chat_body("ok", model=body["model"])).encode()
            data = data[:40] if next(asked) % 2 else data
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_answers_that_are_no_json_do_not_stop_a_session() -> None:
    """A body that the client cannot read is a failed call like any other: the session goes on, and says so."""
    with breaking_server() as url:
        result = bench("--models", "m1", "--base-url", url, "--runs", "2", "--task", "summary", "--no-probe", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["models"]["m1"]["outcomes"]["error"] == 1
    assert "m1: some calls failed, the last with JSONDecodeError" in result.stderr
    with SqliteStore.open("calls.db", read_only=True) as store:
        assert store.call_count() == 2


def test_code_checks_run_when_allowed(gateway: Gateway) -> None:
    """With --allow-code the suite's python_tests judge the answers; the checks are forgotten afterwards."""
    result = bench(
        "--models", "claude-haiku-4-5", "--base-url", gateway.base_url, "--runs", "1", "--task", "bug-fix",
        "--no-probe", "--json", "--allow-code",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    with SqliteStore.open("calls.db", read_only=True) as store:
        (call,) = store.calls()
    assert {(check.name, check.passed) for check in call.checks} == {("contains", True), ("python_tests", True)}
    assert checks_for("bug-fix") == ()


def test_a_suite_of_ones_own(gateway: Gateway, tmp_path: Path) -> None:
    """A suite from a file runs, and parameters can be left out with `none`."""
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntasks:\n  greeting:\n    prompt: Say hello in one sentence.\n    checks:\n      - contains: Hello\n"
    )
    result = bench(
        "--suite", "mine.yaml", "--models", "gemini-3.5-flash", "--base-url", gateway.base_url, "--json",
        "--max-tokens", "none", "--temperature", "none",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["tasks"] == {"greeting": {"gemini-3.5-flash": "pass"}}
    with SqliteStore.open("calls.db", read_only=True) as store:
        assert {(call.max_tokens, call.temperature) for call in store.calls()} == {(None, None)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "gemini-3.5-flash,gpt-nowhere"], "does not know model 'gpt-nowhere' (HTTP 404)"),
        (["--models", "gemini-3.5-flash", "--max-tokens", "0"], "0 is not in the range"),
        (["--models", " , "], "names no model"),
        (["--models", "gemini-3.5-flash", "--base-url", "http://127.0.0.1:9/v1"], "cannot reach http://127.0.0.1:9/v1"),
        (["--models", "gemini-3.5-flash", "--base-url", "localhost"], "is not a URL"),
        (["--models", "gemini-3.5-flash", "--base-url", "http://x:y/v1"], "is not a URL"),
        (["--models", "gemini-3.5-flash", "--suite", "nope"], "no suite 'nope'"),
        (["--models", "gemini-3.5-flash", "--task", "nope"], "has no task 'nope'"),
        (["--models", "gemini-3.5-flash", "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        (["--models", "gemini-3.5-flash", "--store", "off"], "needs a store"),
        (["--models", "gemini-3.5-flash", "--store", "missing/folder.file/x.db/y.db"], "store"),
        (["--models", "gemini-3.5-flash", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_use_is_one_clear_message(gateway: Gateway, tmp_path: Path, arguments: list[str], said: str) -> None:
    """Bad input ends with exit code 2 and a message, never with a traceback or the key."""
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "folder.file").write_text("")
    url = [] if "--base-url" in arguments else ["--base-url", gateway.base_url]
    result = bench(*url, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output
    assert "sk-planted-key" not in result.output
    assert result.stdout == ""


def test_names_shared_with_live_tasks_are_warned_of(gateway: Gateway) -> None:
    """Before anything runs: tasks that have live calls in this store are named, with the consequence and a way out."""
    with SqliteStore.open("calls.db") as store:
        store.write([call(task="summary", session="", round=-1), call(task="reasoning", session="bench-1", round=0)])
    arguments = ("--models", "gemini-3.5-flash", "--base-url", gateway.base_url, "--runs", "1", "--no-probe", "--json")
    result = bench(*arguments)
    assert result.exit_code == 0
    first = result.stderr.splitlines()[0]
    assert first.startswith(
        f"warning: {Path.cwd() / 'calls.db'} holds live calls of summary; the suite 'developer' uses"
    )
    assert "randomised" in first
    assert "--store" in first
    assert "warning: " not in bench(*arguments, "--store", "other.db").stderr
    assert "warning: " not in bench(*arguments, "--task", "reasoning").stderr


def test_a_refused_key_is_said(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses the key is named, with the variable that holds the key."""
    monkeypatch.setattr("tierwise.surfaces.demo.gateway._unauthorised", _refuse)
    result = bench("--models", "gemini-3.5-flash", "--base-url", gateway.base_url)
    assert result.exit_code == 2
    assert "refuses the key in OPENAI_API_KEY (HTTP 401): no such key" in result.output


def _refuse(request: object) -> object:
    from tierwise.surfaces.demo.gateway import _error

    return _error(401, "no such key")


def test_passing_faults_in_the_first_request_do_not_stop_a_bench(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate limits are measured, not fatal; when nothing at all is answered the command says so."""
    from tierwise.surfaces.demo.models import Fault

    monkeypatch.setattr("tierwise.surfaces.demo.gateway.fault_for", lambda *_: Fault(status=503, retry_after_s=0.001))
    started = time.monotonic()
    result = bench("--models", "gemini-3.5-flash", "--base-url", gateway.base_url, "--task", "summary", "--no-probe")
    assert result.exit_code == 2
    assert "answered no call of gemini-3.5-flash" in result.output
    assert time.monotonic() - started < 60
    with SqliteStore.open("calls.db", read_only=True) as store:
        assert {(call.outcome, call.retries) for call in store.calls()} == {("error", 2)}

"""`tierwise doctor`: each thing that can be wrong is a finding that says what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.calls import make_call
from support.commands import tierwise
from support.report_data import call
from tierwise.evidence import SqliteStore

POLICY = "tasks: {summary: {candidates: [gpt-5-mini]}}\n"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
NOBODY = 65534


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "t.db"))


def record(*calls: Any, file: str = "t.db") -> Path:
    """A store with these calls, or one call of `summary` just now."""
    path = Path.cwd() / file
    with SqliteStore.open(path) as store:
        store.write(calls or [make_call(started_at_ns=time.time_ns())])
    return path


def doctor() -> tuple[int, dict[str, Any]]:
    """Exit code and document of `tierwise doctor --json`; the code always agrees with the findings."""
    result = tierwise("doctor", "--json")
    document = json.loads(result.stdout)
    found = any(point["level"] == "finding" for point in document["points"])
    assert (result.exit_code, document["ok"]) == ((1, False) if found else (0, True))
    return result.exit_code, document


def points(about: str, level: str | None = None) -> list[str]:
    """What doctor says about one thing, with what to do about it."""
    _, document = doctor()
    return [
        f"{point['text']}; {point['todo']}"
        for point in document["points"]
        if point["about"] == about and level in (None, point["level"])
    ]


def test_a_sound_installation_has_no_finding(tmp_path: Path) -> None:
    """Policy, store and prices in order: exit 0, versions and health are told, no file is changed."""
    (tmp_path / "tierwise.yaml").write_text(POLICY)
    record()
    before = (tmp_path / "t.db").read_bytes()
    code, document = doctor()
    assert code == 0
    assert {"tierwise", "python", "openai", "opentelemetry-sdk", "genai-prices"} <= document["versions"].keys()
    assert document["store"]["calls"] == 1
    assert {point["level"] for point in document["points"]} == {"ok", "note"}
    assert (tmp_path / "t.db").read_bytes() == before
    assert not (tmp_path / "routes.json").exists()


def test_people_read_a_table() -> None:
    """Without --json the points are a table on stdout and the sum is on stderr."""
    record(make_call(cost=None, started_at_ns=time.time_ns()))
    result = tierwise("doctor")
    assert result.exit_code == 1
    assert "openai 3." in result.stdout
    assert "finding  prices" in result.stdout
    assert result.stderr == "1 finding(s)\n"


# --- policy, tasks, routes ------------------------------------------------------------------------------------------


def test_a_broken_policy_is_a_finding(tmp_path: Path) -> None:
    """Every error has its place, and so has what to do."""
    (tmp_path / "tierwise.yaml").write_text("tiers: 3\ntask: {}\n")
    found = points("config", "finding")
    assert len(found) == 2
    assert "tierwise.yaml:1:8: " in found[0]
    assert "tierwise validate" in found[1]


def test_a_policy_that_was_named_and_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing policy file is a finding, not a failure of doctor."""
    monkeypatch.setenv("TIERWISE_CONFIG", str(tmp_path / "no.yaml"))
    (text,) = points("config", "finding")
    assert "no.yaml: does not exist" in text


def test_policy_warnings_and_a_missing_policy_are_notes(tmp_path: Path) -> None:
    """What a policy can be doubted for is told without a finding; so is having none."""
    assert "no tierwise.yaml here or above" in points("config", "note")[0]
    (tmp_path / "tierwise.yaml").write_text(
        "tasks: {summary: {candidates: [gpt-5-mini], guardrails: {latency_p95: '<= 11s'}}}\n"
    )
    assert "11 s is not an edge" in points("config", "note")[0]
    assert "valid, 1 task(s)" in points("config", "ok")[0]


def test_tasks_that_the_policy_does_not_name(tmp_path: Path) -> None:
    """Recorded tasks outside the policy are a finding, with `"*"` a note; calls without a task are a note."""
    now = time.time_ns()
    record(*[make_call(name, started_at_ns=now) for name in ("summary", "sumary", "unassigned")])
    (tmp_path / "tierwise.yaml").write_text(POLICY)
    (text,) = points("tasks", "finding")
    assert "1 task(s)" in text
    assert "sumary" in text
    assert "add them under tasks:" in text
    assert "tierwise.task(" in points("tasks", "note")[0]
    (tmp_path / "tierwise.yaml").write_text('tasks: {summary: {candidates: [a]}, "*": {candidates: [a]}}\n')
    assert points("tasks", "finding") == []
    assert any("sumary" in text for text in points("tasks", "note"))


def test_the_probe_is_no_task_that_a_policy_should_name(tmp_path: Path) -> None:
    """Tasks of bench's token-budget probe are not told as tasks outside the policy."""
    (tmp_path / "tierwise.yaml").write_text(POLICY)
    now = time.time_ns()
    record(make_call("summary", started_at_ns=now), call(task="token-budget-json", session="bench-1", round=0))
    assert points("tasks") == []


def test_the_route_file_is_read(tmp_path: Path) -> None:
    """A route file is told with its version; one that cannot be read is a finding."""
    assert "not there yet" in points("routes", "ok")[0]
    file = tmp_path / "routes.json"
    file.write_text('{"format": "tierwise-routes/1", "version": 3, "updated_at": 1, "routes": {}}')
    assert "version 3, 0 task(s)" in points("routes", "ok")[0]
    file.write_text('{"format": ')
    (text,) = points("routes", "finding")
    assert "routes.json" in text
    assert "restore a copy" in text


def test_routes_to_models_that_the_policy_does_not_name(tmp_path: Path) -> None:
    """A route or canary beyond the candidates of its task is a note; a task without a policy may go anywhere."""
    (tmp_path / "tierwise.yaml").write_text("tasks:\n  a: {candidates: [x, y]}\n  b: {candidates: [x, y]}\n")
    routes = {
        "a": {"primary": "gone"},
        "b": {"primary": "x", "canary": {"candidate": "new", "share": 0.25}},
        "c": {"primary": "anything"},
    }
    document = {"format": "tierwise-routes/1", "version": 3, "updated_at": 1, "routes": routes}
    (tmp_path / "routes.json").write_text(json.dumps(document))
    (text,) = points("routes", "note")
    assert "a to gone, b to new;" in text
    assert "`tierwise promote TASK MODEL`" in text
    (tmp_path / "tierwise.yaml").write_text("tasks:\n  a: {candidates: [gone]}\n  b: {candidates: [x, new]}\n")
    assert points("routes", "note") == []


def test_the_catalogue_of_prices_is_told(tmp_path: Path) -> None:
    """Which prices are installed, and how current they are."""
    assert "newest dated change of a price 20" in points("prices", "ok")[-1]


# --- the store -----------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_yet_or_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No store yet, and none wanted, are notes; an empty store is sound."""
    assert "not there yet" in points("store", "note")[0]
    assert not (tmp_path / "t.db").exists()
    SqliteStore.open(tmp_path / "t.db").close()
    assert "0 calls" in points("store", "ok")[0]
    assert points("clock") == []
    monkeypatch.setenv("TIERWISE_STORE", "off")
    assert "nothing is recorded" in points("store", "note")[0]


def test_a_place_where_no_store_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path below a file can never become a store."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "file" / "t.db"))
    (text,) = points("store", "finding")
    assert "set TIERWISE_STORE" in text
    assert f"{tmp_path / 'file' / 't.db'}: cannot be made: {tmp_path / 'file'} is not a folder" in text
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path))
    assert "is a folder, not a store" in points("store", "finding")[0]


@pytest.mark.parametrize("there", [False, True])
def test_a_place_that_only_looks_writable(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount is a finding although the rights say nothing against it, with and without a store in it."""
    if there:
        record()

    def refuse(**_: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "x"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    (text,) = points("store", "finding")
    assert f"{tmp_path} cannot be written (Read-only file system)" in text
    assert "set TIERWISE_STORE" in text


def test_damaged_files_are_findings(tmp_path: Path) -> None:
    """Garbage, somebody else's database, a newer schema and a broken page are findings that say what to do."""
    file = tmp_path / "t.db"
    file.write_bytes(b"not a database, and long enough to be looked at by SQLite " * 40)
    assert "name another file" in points("store", "finding")[0]
    file.unlink()
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE theirs (x)")
    assert "another program" in points("store", "finding")[0]
    file.unlink()
    record(*[make_call(started_at_ns=time.time_ns()) for _ in range(200)])
    data = bytearray(file.read_bytes())
    data[8192:40960] = b"\xff" * (40960 - 8192)
    file.write_bytes(data)
    (text,) = points("store", "finding")
    assert "damaged" in text
    file.unlink()
    record()
    with closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 99")
    assert "upgrade tierwise" in points("store", "finding")[0]


@pytest.fixture
def foreign_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store whose file this user may read and not write; root becomes nobody for the test."""
    folder = Path(tempfile.mkdtemp(prefix="tierwise-test-"))
    with SqliteStore.open(folder / "t.db") as store:
        store.write([make_call(started_at_ns=time.time_ns())])
    (folder / "t.db").chmod(0o444)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TIERWISE_STORE", str(folder / "t.db"))
    doctor()  # everything is imported while this user may still read it
    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_store_that_cannot_be_written(foreign_folder: Path) -> None:
    """A file without write permission is readable, and a finding, since calls would be lost."""
    found = points("store", "finding")
    assert any(f"{foreign_folder / 't.db'} cannot be written; check the owner" in text for text in found)
    result = tierwise("store", "prune")
    assert result.exit_code == 2
    assert "error: " in result.stderr


def test_losses_pruned_rows_and_missing_prices() -> None:
    """Lost calls and models without a price are findings; pruned rows are told."""
    now = time.time_ns()
    path = record(*[make_call(model=f"m{n}", cost=None, started_at_ns=now) for n in range(7)])
    with SqliteStore.open(path) as store:
        store.count("dropped", 3)
        store.count("pruned", 1200)
    assert points("losses", "finding")[0].startswith("3 calls were made but not stored")
    assert "1,200 rows pruned" in points("retention", "ok")[0]
    (text,) = points("prices", "finding")
    assert "no cost for 7 calls: openai/m0-2025 (1), " in text
    assert "and 2 more; state them under prices:" in text


def test_answers_without_token_counts_are_told() -> None:
    """Streams without usage have no cost: a note says of which model, how many and what to do; errors are none of them."""
    now = time.time_ns()
    streams = [call(candidate="s1", started_at_ns=now, input_tokens=None, output_tokens=None, cost_usd=None)] * 3
    failed = call(
        candidate="s2", outcome="error", started_at_ns=now, input_tokens=None, output_tokens=None, cost_usd=None
    )
    record(*streams, failed, call(started_at_ns=now))
    (text,) = points("tokens", "note")
    assert "3 answered runs of the last 30 days have no token counts, so no cost: s1 (3); streams need" in text
    assert "stream_usage=True" in text


def test_a_call_in_the_future_is_a_finding() -> None:
    """A newest call two hours ahead means a wrong clock; half a minute does not."""
    record(make_call(started_at_ns=time.time_ns() + 30 * 10**9))
    assert points("clock", "finding") == []
    record(make_call(started_at_ns=time.time_ns() + 7200 * 10**9))
    (text,) = points("clock", "finding")
    assert "2.0 h in the future" in text
    assert "NTP" in text


# --- export --------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def test_without_variables_nothing_is_tried() -> None:
    """No OTEL_* variable: a note, since the application may set providers of its own."""
    assert "no OTEL_* variable is set" in points("export", "note")[0]


def test_an_endpoint_that_listens_gets_no_data(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listening endpoint is fine; the connection is closed without a byte, and no secret is shown."""
    port = listener.getsockname()[1]
    monkeypatch.setenv(ENDPOINT, f"http://user:planted@127.0.0.1:{port}/path?planted")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=planted")
    result = tierwise("doctor", "--json")
    assert result.exit_code == 0
    assert f"traces and metrics and logs go to 127.0.0.1:{port}, which accepts connections" in result.stdout
    assert "planted" not in result.output
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(5)
        assert connection.recv(1) == b""


def test_an_endpoint_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is a finding; each signal's own endpoint and the default ones count."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://127.0.0.1:{port}/v1/metrics")
    (text,) = points("export", "finding")
    assert f"metrics go to 127.0.0.1:{port}, which cannot be reached" in text
    assert "start the receiver" in text
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert points("export", "finding") == []
    assert "through a proxy" in points("export", "note")[0]


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({ENDPOINT: "collector:4318"}, "no address that traces can be sent to; write http://HOST:4318"),
        ({ENDPOINT: "http://[bad"}, "no address that traces can be sent to"),
        ({ENDPOINT: "http://x:99999"}, "no address that traces can be sent to"),
        ({"OTEL_METRICS_EXPORTER": "pigeon"}, "asks for pigeon, which is not installed; install its package"),
        ({ENDPOINT: "http://h:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}, "is not supported"),
        ({ENDPOINT: f"http://{'a' * 70}.invalid:4318"}, "cannot be reached: "),
    ],
)
def test_settings_that_cannot_work(variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, exporters and protocols that do not exist are findings."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert any(text in found for found in points("export", "finding"))


def test_grpc_takes_a_bare_address(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gRPC an endpoint may have no scheme, or be a local socket, which is not tried."""
    port = listener.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv(ENDPOINT, f"127.0.0.1:{port}")
    assert any(f"127.0.0.1:{port}, which accepts" in text for text in points("export", "ok"))
    monkeypatch.setenv(ENDPOINT, "unix:///run/collector.sock")
    assert "local socket" in points("export", "note")[0]


def test_export_that_is_off_or_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other exporters are told; a disabled SDK exports nothing, so no endpoint is tried."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert "traces go to console; " in points("export", "ok")
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert points("export", "finding") == []
    assert "nothing is exported" in points("export", "note")[0]

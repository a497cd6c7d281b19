"""`tierwise store` and `tierwise doctor`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.calls import START_NS, make_call
from support.commands import tierwise
from tierwise.evidence import SqliteStore


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the working directory, without OpenTelemetry's variables."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text("tasks:\n  summary: {candidates: [gpt-5-mini]}\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """The project's store with two priced calls."""
    path = folder / ".tierwise" / "tierwise.db"
    with SqliteStore.open(path) as opened:
        opened.write([make_call(), make_call(started_at_ns=START_NS + 1)])
    return path


def test_path_names_the_file_before_it_exists(folder: Path) -> None:
    """The path alone stands on stdout, for use in a shell."""
    assert tierwise("store", "path").stdout == f"{folder / '.tierwise' / 'tierwise.db'}\n"
    assert json.loads(tierwise("store", "path", "--store", "x.db", "--json").stdout) == {
        "path": str(folder / "x.db"),
        "exists": False,
    }
    off = tierwise("store", "path", "--store", "off")
    assert off.exit_code == 2
    assert "off" in off.stderr


def test_status_shows_what_is_there(store: Path) -> None:
    """Counts, size and integrity, as a table and as JSON."""
    result = tierwise("store", "status")
    assert result.exit_code == 0, result.stderr
    assert "integrity" in result.stdout
    found = json.loads(tierwise("store", "status", "--json").stdout)
    assert (found["calls"], found["intact"], found["dropped"], found["path"]) == (2, True, 0, str(store))
    assert found["size_bytes"] >= found["wal_bytes"] >= 0


@pytest.mark.parametrize("name", ["status", "prune", "vacuum"])
def test_a_missing_store_is_wrong_use(folder: Path, name: str) -> None:
    """Without a store the commands say how to get one, exit 2, and make none."""
    result = tierwise("store", name)
    assert result.exit_code == 2
    assert "no calls recorded yet" in result.stderr
    assert not (folder / ".tierwise").exists()


def test_prune_deletes_old_rows_and_keeps_the_evidence(store: Path) -> None:
    """Rows of 2020 are beyond any retention; their evidence stays."""
    with SqliteStore.open(store) as opened:
        opened.write([make_call(started_at_ns=1_590_000_000 * 10**9)])
        kept = len(opened.evidence())
    assert json.loads(tierwise("store", "prune", "--json").stdout)["deleted"] >= 1
    with SqliteStore.open(store, read_only=True) as opened:
        assert len(opened.evidence()) == kept
    result = tierwise("store", "vacuum")
    assert result.exit_code == 0, result.stderr


def test_doctor_finds_nothing_on_a_sound_machine(store: Path) -> None:
    """Exit 0 with versions, the policy and the store."""
    result = tierwise("doctor")
    assert result.exit_code == 0, result.output
    assert "nothing found" in result.stderr
    found = json.loads(tierwise("doctor", "--json").stdout)
    assert found["ok"] is True
    assert found["versions"].keys() >= {"tierwise", "python", "sqlite", "openai"}
    assert found["store"]["calls"] == 2


def test_doctor_without_a_store_is_no_finding(folder: Path) -> None:
    """A project in which nothing was recorded yet is fine; nothing is created by looking."""
    result = tierwise("doctor")
    assert result.exit_code == 0, result.output
    assert "not there yet" in result.stdout
    assert not (folder / ".tierwise").exists()


def test_doctor_names_losses_and_unpriced_models(store: Path) -> None:
    """Lost rows and calls without a price are findings: exit 1."""
    with SqliteStore.open(store) as opened:
        opened.write([make_call(model="house-model", cost=None)])
        opened.count("dropped", 7)
    result = tierwise("doctor", "--json")
    assert result.exit_code == 1
    findings = {one["about"]: one["text"] for one in json.loads(result.stdout)["points"] if one["level"] == "finding"}
    assert findings.keys() == {"losses", "prices"}
    assert "7 calls" in findings["losses"]
    assert "house-model" in findings["prices"]


def test_doctor_names_a_broken_policy_with_its_place(folder: Path) -> None:
    """Errors of the policy file are findings with file, line and column."""
    (folder / "tierwise.yaml").write_text("tasks:\n  summary: {candidate: [x]}\n", encoding="utf-8")
    result = tierwise("doctor")
    assert result.exit_code == 1
    assert "tierwise.yaml:2:" in result.stdout
    missing = tierwise("doctor", "--config", str(folder / "none.yaml"))
    assert missing.exit_code == 1
    assert "does not exist" in missing.stdout


@pytest.mark.parametrize("kind", ["damaged", "unmakable", "routes"])
def test_doctor_names_files_that_cannot_be_used(store: Path, folder: Path, kind: str) -> None:
    """A damaged store, a path that cannot be made and a broken route file are findings."""
    path = store
    if kind == "damaged":
        path.write_bytes(b"no database" * 1000)
    elif kind == "unmakable":
        (folder / "file").write_text("x")
        path = folder / "file" / "tierwise.db"
    else:
        (store.parent / "routes.json").write_text("{", encoding="utf-8")
    result = tierwise("doctor", "--store", str(path), "--json")
    assert result.exit_code == 1
    found = {one["about"] for one in json.loads(result.stdout)["points"] if one["level"] == "finding"}
    assert ("routes" if kind == "routes" else "store") in found


@pytest.mark.parametrize(
    "endpoint", ["http://user:planted-secret@127.0.0.1:9/x?key=planted-secret", "https://[planted-secret"]
)
def test_doctor_never_shows_secrets_of_the_export(store: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Credentials in endpoints and headers stay out of what is printed, also where they make no sense."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=planted-secret")
    for arguments in (("doctor",), ("doctor", "--json")):
        assert "planted-secret" not in tierwise(*arguments).output

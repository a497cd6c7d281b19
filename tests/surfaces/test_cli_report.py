"""`tierwise report`."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.commands import tierwise
from support.report_data import GEMINI, HAIKU, SONNET, rounds, store_with
from tierwise.core.columns import TaskEvidence
from tierwise.evidence import SqliteStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forty bench rounds of two tasks on three models; the working folder is empty but for the store."""
    monkeypatch.chdir(tmp_path)
    return str(store_with(tmp_path / "t.db", rounds(40)))


def test_writes_a_private_page_and_prints_its_path(store: str, tmp_path: Path) -> None:
    """The path goes to stdout, the page holds the decided tasks and every model, and only its owner reads it."""
    result = tierwise("report", "--store", store, "-o", "out/page.html", "--title", "Ours <now>")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "out/page.html\n"
    page = tmp_path / "out" / "page.html"
    html = page.read_text(encoding="utf-8")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "<title>Ours &lt;now&gt;</title>" in html
    for words in ("strict-json", "summary", SONNET, HAIKU, GEMINI, "t.db"):
        assert words in html
    assert "Simulated.</strong>" not in html


def test_default_name_and_simulated(store: str, tmp_path: Path) -> None:
    """Without -o the page is report.html here; --simulated says so on it."""
    assert tierwise("report", "--store", store, "--simulated").exit_code == 0
    assert "<strong>Simulated.</strong>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_json_is_what_the_page_was_made_from(store: str) -> None:
    """--json prints path, models, tasks and recommendations, and nothing else on stdout."""
    document = json.loads(tierwise("report", "--store", store, "--json").stdout)
    assert document["report"] == "report.html"
    assert document["models"][GEMINI]["runs"] == 80
    assert document["models"][SONNET]["task_score"] == 0.5
    assert document["tasks"]["strict-json"] == {SONNET: "fail", HAIKU: "fail", GEMINI: "pass"}
    assert [item["task"] for item in document["recommendations"]] == ["strict-json", "summary"]


def test_unwritable_place_is_said(store: str, tmp_path: Path) -> None:
    """A place that cannot be written gives a message with the path and exit code 2."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    result = tierwise("report", "--store", store, "-o", "file/report.html")
    assert result.exit_code == 2
    assert "file" in result.stderr


def test_each_task_is_read_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan and sums come from one reading of the evidence: on a large store it costs more than all the rest."""
    read: list[str] = []

    def counting(
        self: SqliteStore, since: int | None = None, until: int | None = None, tasks: Sequence[str] | None = None
    ) -> Iterator[TaskEvidence]:
        for one in real(self, since, until, tasks):
            read.append(one.task)
            yield one

    real = SqliteStore.evidence_by_task
    monkeypatch.setattr(SqliteStore, "evidence_by_task", counting)
    assert tierwise("report", "--store", store).exit_code == 0
    assert sorted(read) == ["strict-json", "summary"]

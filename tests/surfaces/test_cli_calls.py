"""`tierwise calls`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import tierwise
from support.report_data import GEMINI, NOW, SONNET, call, store_with


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Thirty calls, a second apart; every third one is gemini's, truncated, with advice."""
    calls = [
        call(started_at_ns=(NOW + n) * 10**9)
        if n % 3
        else call(
            started_at_ns=(NOW + n) * 10**9,
            task="hello",
            candidate=GEMINI,
            outcome="truncated",
            finish_reasons=("length",),
            advice="raise max_tokens: 64 is too small",
        )
        for n in range(30)
    ]
    return str(store_with(tmp_path / "t.db", calls))


def test_lists_the_latest_twenty_newest_last(store: str) -> None:
    """Without options the latest twenty calls are shown in order of time, with each piece of advice once."""
    result = tierwise("calls", "--store", store)
    assert result.exit_code == 0
    lines = result.stdout.strip().splitlines()
    assert len(lines) == 21
    assert SONNET in lines[-1]
    assert result.stderr.count("raise max_tokens") == 1


def test_filters_and_limit(store: str) -> None:
    """Task, model and outcome narrow the list; limit 0 means all."""
    assert len(json.loads(tierwise("calls", "--store", store, "--json", "--limit", "0").stdout)) == 30
    assert len(json.loads(tierwise("calls", "--store", store, "--json", "--task", "hello").stdout)) == 10
    rows = json.loads(tierwise("calls", "--store", store, "--json", "--outcome", "truncated", "--limit", "3").stdout)
    assert [row["candidate"] for row in rows] == [GEMINI] * 3
    assert rows[-1]["started_at_ns"] == (NOW + 27) * 10**9
    assert (
        json.loads(tierwise("calls", "--store", store, "--json", "--model", SONNET, "--limit", "1").stdout)[0][
            "cost_usd"
        ]
        == 0.001
    )


def test_one_document_a_line(store: str) -> None:
    """--nl prints each call as a JSON document on its own line."""
    lines = tierwise("calls", "--store", store, "--nl", "--limit", "5").stdout.splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["summary", "summary", "hello", "summary", "summary"]


def test_since_keeps_recent_calls(store: str, tmp_path: Path) -> None:
    """--since counts back from now, so that calls of the far future stay and old ones go."""
    old = str(store_with(tmp_path / "old.db", [call(started_at_ns=10**18)]))
    result = tierwise("calls", "--store", old, "--since", "1h", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert len(json.loads(tierwise("calls", "--store", old, "--json").stdout)) == 1


def test_nothing_matches_is_fine_and_said(store: str) -> None:
    """A filter without a match is no error: the list is empty and stderr says so."""
    result = tierwise("calls", "--store", store, "--task", "nowhere")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no recorded call matches" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--outcome", "brilliant"], "brilliant"),
        (["--json", "--nl"], "exclude each other"),
        (["--since", "soon"], "not a duration"),
        (["--limit", "-1"], "-1"),
    ],
)
def test_wrong_use_is_exit_code_2(store: str, arguments: list[str], words: str) -> None:
    """Unknown outcomes, contradictory forms and impossible values are refused with what is wrong."""
    result = tierwise("calls", "--store", store, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    """Control characters and markup in names are shown, not obeyed."""
    store = store_with(tmp_path / "t.db", [call(task="\x1b[31mred[bold]\u202e", candidate="<b>" + "m" * 300)])
    result = tierwise("calls", "--store", str(store))
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert "[bold]" in result.stdout.replace("\n", "")


@pytest.mark.parametrize("command", ["calls", "status", "report"])
def test_empty_missing_and_broken_stores_are_said(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is missing, empty, damaged, a folder or off gives a clear message and exit code 2, no traceback."""
    monkeypatch.chdir(tmp_path)
    empty, damaged = store_with(tmp_path / "empty.db", []), tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database at all, but long enough to be looked at" * 50)
    for path, words in [
        (str(empty), "no calls recorded yet"),
        (str(tmp_path / "missing.db"), "no calls recorded yet"),
        (str(damaged), "damaged"),
        (str(tmp_path), "is a directory"),
        ("off", "the store is off"),
    ]:
        result = tierwise(command, "--store", path)
        assert result.exit_code == 2, path
        assert words in result.stderr, (path, result.stderr)
        assert result.stdout == ""
    assert not (tmp_path / "missing.db").exists()
    assert not (tmp_path / "report.html").exists()

"""Values that no column holds: they are kept as text, or one row goes alone and is counted."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import tierwise
from support.calls import make_call
from support.canned import ASK, chat, sync_client
from tierwise.core.call import CheckResult
from tierwise.core.errors import ConfigError, UnfitRowError
from tierwise.core.policy import Policy
from tierwise.evidence import SqliteStore
from tierwise.telemetry import open_telemetry

ODD: tuple[dict[str, Any], ...] = (
    {"run_id": object()},  # no type of SQLite's
    {"outcome": None, "duration_s": float("nan")},  # NULL where there must be none
    {"checks": (CheckResult(name="c", score=object(), passed=True),)},  # type: ignore[arg-type]  # no JSON
)


def test_ids_versions_and_labels_of_other_types_are_kept_as_text(tmp_path: Path) -> None:
    """A UUID for a run, a number for a version: the call is stored, and so is everything around it."""
    client, _ = sync_client(chat())
    tierwise.instrument(client, store=tmp_path / "t.db", config=Policy())
    run, tenant = uuid.uuid4(), uuid.uuid4()
    options: dict[str, Any] = {
        "run_id": run,
        "prompt_version": 3,
        "labels": MappingProxyType({"tenant": tenant, 7: 1.5}),
    }
    try:
        client.chat.completions.create(**ASK)
        with tierwise.task("odd", **options):
            client.chat.completions.create(**ASK)
        assert tierwise.force_flush(5.0)
        with SqliteStore.open(tmp_path / "t.db", read_only=True) as store:
            _, odd = store.calls()
            (known,) = store.runs()
    finally:
        tierwise.shutdown()
    assert (odd.run_id, odd.prompt_version, odd.labels) == (str(run), "3", {"tenant": str(tenant), "7": "1.5"})
    assert known.run_id == str(run)


def test_labels_that_are_no_mapping_are_refused_at_once() -> None:
    """What cannot be labels is an error where it is written, not later."""
    with pytest.raises(ConfigError, match="labels must be a mapping"):
        tierwise.task("t", labels=["tenant"])  # type: ignore[call-overload]


@pytest.mark.parametrize("odd", ODD, ids=("type", "null", "json"))
def test_a_row_that_no_column_holds_is_told_and_nothing_of_its_batch_is_in(tmp_path: Path, odd: dict[str, Any]) -> None:
    """Such a fault is another than that of the file: to try again is of no use."""
    with SqliteStore.open(tmp_path / "t.db") as store:
        with pytest.raises(UnfitRowError, match="a row cannot be stored"):
            store.write([make_call(), make_call(**odd)])
        assert (store.call_count(), store.evidence()) == (0, [])
        store.write([make_call()])
        assert store.call_count() == 1


@pytest.mark.parametrize("place", [0, 1, 700, 1_399])
def test_a_row_that_no_column_holds_goes_alone(tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours are stored, in order and each once; it is counted as dropped."""
    monkeypatch.delenv("TIERWISE_RAISE")
    calls = [make_call(duration_s=float(number)) for number in range(1_400)]
    calls[place] = make_call(run_id=object())
    with SqliteStore.open(tmp_path / "t.db") as store:
        telemetry = open_telemetry(sinks=[store])
        recorder = telemetry.recorder
        for call in calls:
            recorder.finish(recorder.start(call.request, call.context, call.started_at_ns), call)
        try:
            assert telemetry.worker.flush(10.0)
            assert [row.duration_s for row in store.calls()] == [float(n) for n in range(1_400) if n != place]
            assert sum(row.evidence.n for row in store.evidence()) == 1_399
            assert store.health().dropped == 1
        finally:
            telemetry.shutdown()

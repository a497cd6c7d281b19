"""Receipts and feedback through the public surface: instrumented client, store, metrics, events, other processes, command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tierwise
from support.canned import ASK, chat, sync_client
from support.commands import tierwise as command
from tierwise import runtime
from tierwise.core.evidence import Evidence
from tierwise.evidence.sqlite import SqliteStore

KEY = "k" * 32


class Rig:
    """An instrumented client and everything that hears of its calls."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "t.db"
        self.spans, self.logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        self.reader = InMemoryMetricReader()
        tracer_provider, logger_provider = TracerProvider(), LoggerProvider()
        tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        client, _ = sync_client(chat())
        self.client = tierwise.instrument(
            client, task="summary", store=self.path, tracer_provider=tracer_provider, logger_provider=logger_provider,
            meter_provider=MeterProvider([self.reader]),
        )  # fmt: skip

    def ask(self) -> Any:
        """One answer."""
        return self.client.chat.completions.create(**ASK)

    def evidence(self) -> Evidence:
        """The one row of evidence in the store."""
        assert tierwise.force_flush()
        with SqliteStore.open(self.path, read_only=True) as store:
            (row,) = store.evidence()
            return row.evidence

    def counted(self) -> dict[bool, int]:
        """The counter `tierwise.feedback` by accepted."""
        data: Any = self.reader.get_metrics_data()
        return {
            point.attributes["tierwise.feedback.accepted"]: point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "tierwise.feedback"
            for point in metric.data.data_points
        }

    def events(self) -> list[Any]:
        """The evaluation events."""
        assert tierwise.force_flush()
        return [log.log_record for log in self.logs.get_finished_logs()]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A client with a store, spans, metrics and events of its own."""
    runtime.shutdown()
    yield Rig(tmp_path)
    runtime.shutdown()


def test_feedback_reaches_evidence_counter_and_event(rig: Rig) -> None:
    """A rejection counts in the store and in the metric, and is an evaluation event in its call's span."""
    response = rig.ask()
    tierwise.feedback(tierwise.receipt(response), accepted=False, comment="wrong total")
    found = rig.evidence()
    assert (found.n, found.successes, found.rejected) == (1, 0, 1)
    assert rig.counted() == {False: 1}
    (event,) = rig.events()
    assert event.event_name == "gen_ai.evaluation.result"
    assert dict(event.attributes) == {
        "gen_ai.evaluation.name": "tierwise.feedback", "gen_ai.evaluation.score.value": 0.0,
        "gen_ai.evaluation.score.label": "rejected", "gen_ai.evaluation.explanation": "wrong total",
        "gen_ai.response.id": "chatcmpl-1",
    }  # fmt: skip
    (span,) = rig.spans.get_finished_spans()
    assert span.context is not None
    assert (event.trace_id, event.span_id) == (span.context.trace_id, span.context.span_id)


def test_the_acceptance_rate_follows(rig: Rig) -> None:
    """Accepted and rejected, of which a guardrail on acceptance_rate takes the share, count judged answers only."""
    for accepted in (True, True, True, False):
        tierwise.feedback(rig.ask(), accepted=accepted)
    rig.ask()
    found = rig.evidence()
    assert (found.n, found.accepted, found.rejected) == (5, 3, 1)
    assert found.accepted / (found.accepted + found.rejected) == 0.75


def test_the_same_verdict_is_counted_once_and_a_changed_one_again(rig: Rig) -> None:
    """Replaying a receipt does not move the counter further than once a verdict."""
    receipt = tierwise.receipt(rig.ask())
    for accepted in (True, True, False, True, False):
        tierwise.feedback(receipt, accepted=accepted)
    found = rig.evidence()
    assert (found.accepted, found.rejected, found.successes) == (0, 1, 0)
    assert rig.counted() == {True: 1, False: 1}


def test_a_score_alone_is_an_event_and_no_count(rig: Rig) -> None:
    """Without accepted there is no label and nothing is counted; the store keeps the score."""
    response = rig.ask()
    tierwise.feedback(response, score=0.7)
    (event,) = rig.events()
    assert event.attributes["gen_ai.evaluation.score.value"] == 0.7
    assert "gen_ai.evaluation.score.label" not in event.attributes
    assert rig.counted() == {}
    with SqliteStore.open(rig.path, read_only=True) as store:
        assert [(row.accepted, row.score) for row in store.feedback()] == [(None, 0.7)]


def test_a_run_of_several_calls_is_judged_inside_its_block(rig: Rig) -> None:
    """Feedback on the first of two calls, before the run has ended, takes the run's success away in the end."""
    with tierwise.task("summary", run_id="r-1"):
        first = rig.ask()
        tierwise.feedback(first, accepted=False)
        assert tierwise.force_flush()
        rig.ask()
    assert tierwise.force_flush()
    with SqliteStore.open(rig.path, read_only=True) as store:
        (row,) = [row for row in store.evidence() if row.key.rung == 0]
        assert (row.evidence.n, row.evidence.successes, row.evidence.rejected) == (1, 0, 1)
        assert next(store.feedback()).settled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "says nothing"), ({"accepted": 1}, "True or False"), ({"score": 1.5}, "0 to 1"), ({"score": True}, "0 to 1"),
        ({"score": float("nan")}, "0 to 1"), ({"comment": 3}, "text"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_config_errors(rig: Rig, options: dict[str, Any], message: str) -> None:
    """Arguments that say nothing, or nothing sensible, are refused before anything is recorded."""
    response = rig.ask()
    with pytest.raises(tierwise.ConfigError, match=message):
        tierwise.feedback(response, **options)
    assert rig.evidence().rejected == 0


def test_another_process_needs_the_receipt_alone(rig: Rig) -> None:
    """A process that never saw the call, and has no store yet, counts the verdict under the call's key."""
    receipt = tierwise.receipt(rig.ask())
    assert tierwise.force_flush()
    code = "import sys, tierwise; tierwise.feedback(sys.argv[1], accepted=False, store=sys.argv[2])"
    for place in (rig.path, rig.path.with_name("elsewhere.db")):
        subprocess.run(
            [sys.executable, "-c", code, receipt, str(place)], check=True, env={**os.environ, "TIERWISE_STORE": "off"}
        )
    assert rig.evidence().rejected == 1
    with (
        SqliteStore.open(rig.path, read_only=True) as here,
        SqliteStore.open(rig.path.with_name("elsewhere.db"), read_only=True) as there,
    ):
        assert [row.key for row in there.evidence()] == [row.key for row in here.evidence()]


def test_feedback_waits_for_no_locked_store(rig: Rig) -> None:
    """While another process holds the store, giving a verdict takes no longer, and it is there afterwards."""
    import sqlite3

    response = rig.ask()
    assert tierwise.force_flush()
    other = sqlite3.connect(rig.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    tierwise.feedback(response, accepted=False)
    waited = time.monotonic() - started
    other.execute("ROLLBACK")
    other.close()
    assert waited < 2.0  # a locked store is waited for five seconds
    assert rig.evidence().rejected == 1


def test_with_a_key_only_its_receipts_are_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIERWISE_RECEIPT_KEY signs receipts and refuses the others; the response itself needs no signature."""
    response = rig.ask()
    unsigned = tierwise.receipt(response)
    monkeypatch.setenv("TIERWISE_RECEIPT_KEY", KEY)
    signed = tierwise.receipt(response)
    with pytest.raises(tierwise.ReceiptError, match="not signed"):
        tierwise.feedback(unsigned, accepted=False)
    with pytest.raises(tierwise.ReceiptError, match="signature"):
        tierwise.feedback(signed[:-1] + ("A" if signed[-1] != "A" else "Q"), accepted=False)
    tierwise.feedback(signed, accepted=True)
    tierwise.feedback(response, score=1)
    found = rig.evidence()
    assert (found.accepted, found.rejected) == (1, 0)
    assert KEY not in rig.path.read_bytes().decode("latin-1")


def test_the_command_records_a_verdict(rig: Rig) -> None:
    """`tierwise feedback` says what it recorded; again it changes nothing; --json prints the row."""
    receipt = tierwise.receipt(rig.ask())
    assert tierwise.force_flush()
    result = command("feedback", receipt, "--reject", "--score", "0.2", "--store", str(rig.path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("summary, gpt-5-mini, ")
    assert result.stdout.strip().endswith("rejected, score 0.2")
    again = command("feedback", receipt, "--reject", "--comment", "wrong", "--json", "--store", str(rig.path))
    row = json.loads(again.stdout)["feedback"]
    assert (row["accepted"], row["score"], row["comment"], row["settled"]) == (False, 0.2, "wrong", True)
    with SqliteStore.open(rig.path, read_only=True) as store:
        (found,) = store.evidence()
        assert (found.evidence.rejected, found.evidence.successes) == (1, 0)


def test_the_command_refuses_what_is_wrong(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict, no receipt, a forged one, no store: exit code 2 and a message."""
    receipt = tierwise.receipt(rig.ask())
    store = ("--store", str(rig.path))
    assert command("feedback", receipt, *store).exit_code == 2
    assert "no receipt" in command("feedback", "abc", "--accept", *store).stderr
    assert command("feedback", receipt, "--accept", "--store", "off").exit_code == 2
    assert command("feedback", receipt, "--score", "3", *store).exit_code == 2
    monkeypatch.setenv("TIERWISE_RECEIPT_KEY", KEY)
    result = command("feedback", receipt, "--accept", *store)
    assert (result.exit_code, "not signed" in result.stderr) == (2, True)


def test_the_command_says_when_the_store_is_new(rig: Rig, tmp_path: Path) -> None:
    """A verdict in a store that was not there counts there, and the command says that the call is elsewhere."""
    receipt = tierwise.receipt(rig.ask())
    result = command("feedback", receipt, "--accept", "--store", str(tmp_path / "new.db"))
    assert result.exit_code == 0
    assert "is new" in result.stderr

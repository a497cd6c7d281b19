"""Secrets in every place that an application or a provider may have one are in nothing that tierwise writes, sends or shows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

import tierwise
from support.commands import tierwise as command
from support.live_pages import live_pages
from support.planted import COMMENT, MARK, Server, async_calls, client_options, provider, secret, sync_calls, traces_of

pytestmark = pytest.mark.faults

POLICY = """
models:
  first: {{model: fails, base_url: "http://127.0.0.1:{port}/v1", api_key_env: PLANTED_KEY}}
  second: {{model: plain, base_url: "http://127.0.0.1:{port}/v1", api_key_env: PLANTED_KEY}}
prices:
  plain: {{input: 1, output: 2}}
tasks:
  routed: {{candidates: [first, second]}}
  checked: {{candidates: [plain], expects: json}}
  "*": {{candidates: [plain, fences]}}
"""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What the calls left: texts and bytes by the place where they were found."""

    folder: Path
    store: Path
    sent: list[bytes]
    logs: str
    shown: str


class _Lines(logging.Handler):
    """Every line of tierwise's and OpenTelemetry's loggers, with its arguments and tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{self.format(record)} {record.__dict__!r}")


def raises(text: str) -> bool:
    """A check that fails with a secret in its message."""
    raise ValueError(secret("CheckFault"))


def environment(folder: Path) -> dict[str, str]:
    """Where things are, and a secret in every variable that holds one."""
    return {
        "TIERWISE_STORE": str(folder / "tierwise.db"),
        "TIERWISE_ROUTES": str(folder / "routes.json"),
        "TIERWISE_RECEIPT_KEY": secret("ReceiptKey0123456789"),
        "TIERWISE_SERVE_TOKEN": secret("ServeToken0123456789"),
        "TIERWISE_WEBHOOK": f"http://127.0.0.1:9/{secret('Webhook')}",
        "TIERWISE_WEBHOOK_TOKEN": secret("WebhookToken"),
        "PLANTED_KEY": secret("PolicyKey"),
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={secret('OtlpHeader')}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{secret('OtlpUser')}:{secret('OtlpPassword')}@127.0.0.1:9/?k={secret('OtlpQuery')}",
    }


@pytest.fixture(autouse=True)
def _environment(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(left.folder).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """Every form of call, made with secrets everywhere and contents not asked for, over real HTTP and real OTLP."""
    folder = tmp_path_factory.mktemp("planted")
    lines = _Lines()
    watched = [logging.getLogger(name) for name in ("tierwise", "opentelemetry")]
    levels = [one.level for one in watched]
    with (
        pytest.MonkeyPatch.context() as patch,
        Server(provider).running() as model,
        Server(lambda path, data: (200, "application/x-protobuf", b"")).running() as collector,
    ):
        for one in watched:
            one.addHandler(lines)
            one.setLevel(logging.DEBUG)
        patch.chdir(folder)
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        patch.setenv("TIERWISE_RAISE", "")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
        patch.setenv("OTEL_LOGS_EXPORTER", "otlp")
        patch.delenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", raising=False)
        (folder / "tierwise.yaml").write_text(POLICY.format(port=model.port), encoding="utf-8")
        try:
            yield _left(folder, model, collector, lines)
        finally:
            tierwise.shutdown()
            for one, level in zip(watched, levels, strict=True):
                one.removeHandler(lines)
                one.setLevel(level)


def _left(folder: Path, model: Server, collector: Server, lines: _Lines) -> Left:
    shown: list[str] = []
    tierwise.check("checked")(raises)
    options = client_options(model.port)
    with openai.OpenAI(**options) as client:
        shown.append(repr(tierwise.instrument(client)))
        made = sync_calls(client)
        async_calls(options, tierwise.instrument)
        with openai.OpenAI(**client_options(model.port, in_address=True)) as another:
            shown.append(repr(tierwise.instrument(another)))
            made += sync_calls(another, every_form=False)
        receipts = [receipt for one in made if (receipt := _receipt(one))]
        tierwise.feedback(receipts[0], accepted=False, comment=COMMENT)
        shown += [*receipts, repr(tierwise.task("t", labels={"a": "b"}))]
    tierwise.force_flush()
    with tierwise.open_store(folder / "tierwise.db") as store:
        shown += [repr(store), *map(repr, store.calls()), *map(repr, store.runs())]
        calls = store.call_count()
    tierwise.shutdown()
    assert calls > 25
    assert all(secret("OtlpHeader") in head for head in collector.heads), "the export itself has its header"
    asked = b"\n".join(model.bodies).decode() + "\n".join(model.heads) + "\n".join(model.paths)
    for place in (
        "Prompt",
        "Header",
        "Query",
        "Key",
        "PolicyKey",
        "DefaultHeader",
        "AddressQuery",
        "Body",
        "Metadata",
    ):
        assert secret(place) in asked, f"{place} was never sent: the test plants nothing there"
    return Left(
        folder=folder,
        store=folder / "tierwise.db",
        sent=collector.bodies,
        logs="\n".join(lines.lines),
        shown="\n".join(shown),
    )


def _receipt(made: Any) -> str | None:
    try:
        return tierwise.receipt(made)
    except tierwise.TierwiseError:
        return None


def test_files_hold_no_secret(left: Left) -> None:
    """Store, write-ahead log, route file, audit log and whatever else lies beside them."""
    assert command("promote", "routed", "second", "--yes").exit_code == 0
    found = {
        str(file.relative_to(left.folder)): traces_of(MARK, file.read_bytes())
        for file in left.folder.rglob("*")
        if file.is_file()
    }
    assert {"tierwise.db", "routes.json", "audit.jsonl"} <= set(found)
    assert {name: traces for name, traces in found.items() if traces} == {}


def test_exported_bytes_hold_no_secret(left: Left) -> None:
    """Spans, metrics and events as they leave the process; a comment is in the event of its feedback alone."""
    assert len(left.sent) >= 3
    assert [trace for data in left.sent for trace in traces_of(MARK, data)] == []
    with_comment = [data for data in left.sent if traces_of(COMMENT, data)]
    assert all(b"gen_ai.evaluation.result" in data for data in with_comment)


def test_logs_hold_no_secret(left: Left) -> None:
    """All levels of tierwise's and OpenTelemetry's loggers, with arguments and tracebacks."""
    for mark in (MARK, COMMENT):
        assert traces_of(mark, left.logs.encode()) == []


def test_public_objects_show_no_secret(left: Left) -> None:
    """The repr of a client, of tasks, receipts, a store and its rows."""
    assert traces_of(MARK, left.shown.encode()) == []
    assert traces_of(COMMENT, left.shown.encode()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["calls", "--json"], ["calls"], ["doctor", "--json"], ["doctor"], ["status", "--json"], ["status"], ["plan", "--json"],
        ["explain", "routed", "--json"], ["explain", "routed"], ["export", "--format", "json"], ["export", "--format", "litellm"],
        ["export", "--format", "flagd"], ["history", "--json"], ["prices", "missing", "--json"], ["validate", "--json"],
        ["store", "path"], ["report", "--json"], ["feedback", "tw1.x", "--accept"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_commands_show_no_secret(left: Left, arguments: list[str]) -> None:
    """What a command prints, on either stream."""
    result = command(*arguments)
    assert "No such command" not in result.output
    for mark in (MARK, COMMENT):
        assert traces_of(mark, result.output.encode()) == []


def test_report_holds_no_secret(left: Left) -> None:
    """The report's file."""
    path = left.folder / "report.html"
    assert command("report", "-o", str(path)).exit_code == 0
    for mark in (MARK, COMMENT):
        assert traces_of(mark, path.read_bytes()) == []


def test_live_pages_show_no_secret(left: Left) -> None:
    """The report, every task, the calls and each call with all its ids."""
    with tierwise.open_store(left.store) as store:
        rows = [(row.started_at_ns, row.id) for row in store.calls()]
    with live_pages(left.store) as pages:
        targets = ["/", "/task?name=routed", "/task?name=unassigned", "/calls", "/state", "/nope"]
        answers = [pages.ask(target) for target in [*targets, *(f"/call?at={at}&id={number}" for at, number in rows)]]
    assert sum(answer.status == 200 for answer in answers) >= len(rows) + 4
    for answer in answers:
        for mark in (MARK, COMMENT):
            assert traces_of(mark, (answer.text + json.dumps(dict(answer.headers))).encode()) == []


def test_a_trace_is_found_where_there_is_one() -> None:
    """The search itself: plain, in capitals, in UTF-16, in base64."""
    import base64

    for data in (
        MARK.encode(),
        MARK.upper().encode(),
        MARK.encode("utf-16-le"),
        base64.b64encode(f"ab{MARK}cde".encode()),
    ):
        assert traces_of(MARK, b"xx" + data + b"yy")
    assert traces_of(MARK, b"nothing of the kind") == []

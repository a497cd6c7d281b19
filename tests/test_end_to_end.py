"""The whole line over real HTTP: client → span, metrics and store, which agree exactly; threads, processes, asyncio."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tierwise
from support.calls import make_call
from support.canned import ASK, Reply, chat, stream, sync_client
from support.local_server import local_server
from tierwise.core.errors import ConfigError, StoreError
from tierwise.core.policy import Policy
from tierwise.evidence import SqliteStore
from tierwise.telemetry import open_telemetry
from tierwise.testing import chat_body

PRICES = Policy(prices={"gpt-5-mini": {"input": 0.25, "output": 2.0, "cache_read": 0.025}})


class Rig:
    """Real SDK providers in memory, and a store in a folder of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def instrument(self, client: Any, **options: Any) -> Any:
        options = {"store": self.path, "config": PRICES} | options
        return tierwise.instrument(
            client, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    def sums(self) -> dict[str, dict[tuple[Any, ...], float]]:
        """Values of tierwise's counters by (task, outcome, token kind)."""
        found: dict[str, dict[tuple[Any, ...], float]] = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    values = found.setdefault(metric.name, Counter())
                    for point in metric.data.data_points:
                        attributes = point.attributes or {}
                        key = tuple(attributes.get(f"tierwise.{name}") for name in ("task", "outcome", "token.kind"))
                        values[key] += getattr(point, "value", None) or getattr(point, "count", 0)
        return found


@pytest.fixture
def rig(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Rig(tmp_path / "tierwise.db")
    yield made
    tierwise.shutdown()
    made.meter_provider.shutdown()
    made.tracer_provider.shutdown()


def test_spans_metrics_and_store_agree(rig: Rig) -> None:
    """The very first call included: calls and tokens agree exactly, cost within 1e-9, over spans, metrics and rows.

    open-telemetry/semantic-conventions#2312: cost is a metric and an attribute, by the same figures.
    """
    usage = {
        "prompt_tokens": 900,
        "completion_tokens": 77,
        "total_tokens": 977,
        "prompt_tokens_details": {"cached_tokens": 300},
    }
    replies = [
        chat("Hi."),
        Reply(body=chat_body('```json\n{"a": 1}\n```') | {"usage": usage}),
        stream("a", "b"),
        Reply(status=400, body={"error": {"message": "no"}}),
        chat("", finish_reason="length"),
        Reply(body=chat_body() | {"usage": None}),
    ]
    client, _ = sync_client(*replies)
    client = rig.instrument(client, task="greeting")
    client.chat.completions.create(**ASK)
    with tierwise.task("strict-json", expects="json"):
        client.chat.completions.create(**ASK)
    for _chunk in client.chat.completions.create(**ASK, stream=True):
        pass
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASK)
    client.chat.completions.create(**ASK, max_tokens=4)
    client.chat.completions.create(**ASK)

    sums = rig.sums()  # no flush before: a collection contains every finished call
    assert tierwise.force_flush()
    rows = list(tierwise.open_store(rig.path).calls())
    spans = [dict(span.attributes or {}) for span in rig.spans.get_finished_spans()]
    by_outcome = Counter((row.task, row.outcome) for row in rows)
    assert by_outcome == {
        ("greeting", "success"): 3, ("strict-json", "json_fenced"): 1, ("greeting", "rejected"): 1, ("greeting", "truncated"): 1,
    }  # fmt: skip
    assert by_outcome == Counter((span["tierwise.task"], span["tierwise.outcome"]) for span in spans)
    assert by_outcome == {key[:2]: value for key, value in sums["tierwise.calls"].items()}

    for kind, column, attribute in (
        ("input", "input_tokens", "gen_ai.usage.input_tokens"),
        ("output", "output_tokens", "gen_ai.usage.output_tokens"),
        ("cache_read", "cache_read_tokens", "gen_ai.usage.cache_read.input_tokens"),
    ):
        stored = sum(getattr(row, column) or 0 for row in rows)
        assert stored == sum(span.get(attribute, 0) for span in spans) > 0
        assert stored == sum(value for key, value in sums["tierwise.call.tokens"].items() if key[2] == kind)
    cost = sum(row.cost_usd or 0.0 for row in rows)
    assert cost == pytest.approx(
        (4 - 1) * (12 * 0.25 + 5 * 2.0) / 1e6 + (600 * 0.25 + 300 * 0.025 + 77 * 2.0) / 1e6, rel=1e-9
    )
    assert cost == pytest.approx(sum(span.get("tierwise.cost.amount", 0.0) for span in spans), rel=1e-9)
    assert cost == pytest.approx(sum(sums["tierwise.call.cost"].values()), rel=1e-9)


def test_store_alone_records_without_any_provider(tmp_path: Path) -> None:
    """Without OpenTelemetry providers the store records everything all the same."""
    client, _ = sync_client(chat())
    tierwise.instrument(client, store=tmp_path / "s.db", config=PRICES)
    client.chat.completions.create(**ASK)
    tierwise.shutdown()
    (row,) = tierwise.open_store(tmp_path / "s.db").calls()
    assert (row.outcome, row.cost_source, row.trace_id) == ("success", "override", "")


def test_sampling_off_leaves_metrics_and_store_complete(rig: Rig) -> None:
    """Spans that are not sampled change nothing for metrics and store."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    rig.tracer_provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    client, _ = sync_client(chat())
    rig.instrument(client).chat.completions.create(**ASK)
    assert sum(rig.sums()["tierwise.calls"].values()) == 1
    tierwise.force_flush()
    assert tierwise.open_store(rig.path).call_count() == 1
    assert rig.spans.get_finished_spans() == ()


@pytest.mark.parametrize("asked", ["", "span_only"])
def test_content_is_recorded_only_when_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """Prompts and answers are on the span with the standard variable and nowhere without it; never in the store."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", asked)
    client, _ = sync_client(chat("a secret answer"))
    rig.instrument(client).chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": "my secret"}]
    )
    tierwise.shutdown()
    (span,) = rig.spans.get_finished_spans()
    recorded = json.dumps(dict(span.attributes or {}), default=str)
    assert ("my secret" in recorded and "a secret answer" in recorded) is bool(asked)
    stored = b"".join(file.read_bytes() for file in rig.path.parent.iterdir() if file.name.startswith(rig.path.name))
    assert b"secret" not in stored


def test_keys_and_headers_are_nowhere(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A planted API key and header are in no span, no row, no log line."""
    client, _ = sync_client(Reply(status=401, body={"error": {"message": "bad key sk-PLANTED"}}), chat())
    rig.instrument(client)
    for headers in ({"x-secret": "PLANTED-HEADER"}, {"authorization": "Bearer sk-PLANTED"}):
        try:
            client.chat.completions.create(**ASK, extra_headers=headers)
        except openai.AuthenticationError:
            continue
    tierwise.shutdown()
    seen = " ".join(span.to_json() for span in rig.spans.get_finished_spans()) + caplog.text
    stored = b"".join(file.read_bytes() for file in rig.path.parent.iterdir())
    assert "PLANTED" not in seen
    assert b"PLANTED" not in stored


_PROCESS = """
    import sys, threading
    from openai import OpenAI
    import tierwise
    base_url, store, name = sys.argv[1:]
    client = tierwise.instrument(OpenAI(base_url=base_url, api_key="x", max_retries=5), store=store)
    def work(thread):
        with tierwise.task(f"{name}-{thread}"):
            for number in range(8):
                client.chat.completions.create(model="gpt-5-mini", seed=number, messages=[{"role": "user", "content": "hi"}])
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
"""


def test_four_processes_sixteen_threads_and_asyncio_into_one_store(tmp_path: Path) -> None:
    """4 processes of 4 threads that simply end, 16 threads and 200 concurrent async calls here: every call is there once."""
    path = tmp_path / "one.db"
    with local_server() as base_url:
        processes = [
            subprocess.Popen([sys.executable, "-c", textwrap.dedent(_PROCESS), base_url, str(path), f"p{n}"])
            for n in range(4)
        ]
        client = tierwise.instrument(openai.OpenAI(base_url=base_url, api_key="x", max_retries=5), store=path)

        def work(thread: int) -> None:
            with tierwise.task(f"thread-{thread}"):
                for _ in range(10):
                    client.chat.completions.create(**ASK)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for one in threads:
            one.start()

        async def many() -> None:
            async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=5, timeout=60) as own:
                tierwise.instrument(own, store=path)

                async def one(number: int) -> None:
                    async with tierwise.task(f"async-{number}"):
                        await own.chat.completions.create(**ASK)

                await asyncio.gather(*(one(number) for number in range(200)))

        asyncio.run(many())
        for thread in threads:
            thread.join()
        for process in processes:
            assert process.wait(60) == 0
        client.close()
    tierwise.shutdown()
    with SqliteStore.open(path) as store:
        counts = Counter(row.task for row in store.calls(outcome="success"))
        evidence = Counter[str]()
        for row in store.evidence():
            evidence[row.key.task] += row.evidence.n
    expected = (
        {f"p{p}-{t}": 8 for p in range(4) for t in range(4)}
        | {f"thread-{t}": 10 for t in range(16)}
        | {f"async-{n}": 1 for n in range(200)}
    )
    assert counts == expected
    assert evidence == expected


def test_one_line_in_a_bare_script_leaves_a_store_beside_the_project(tmp_path: Path) -> None:
    """Nothing configured: a script with the one line ends, and `.tierwise/tierwise.db` holds its call."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'app'\n")
    script = """
        import sys
        from openai import OpenAI
        import tierwise
        client = tierwise.instrument(OpenAI(base_url=sys.argv[1], api_key="x"))
        client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}])
    """
    with local_server() as base_url:
        subprocess.run([sys.executable, "-c", textwrap.dedent(script), base_url], cwd=tmp_path, check=True, timeout=60)
    with SqliteStore.open(tmp_path / ".tierwise" / "tierwise.db", read_only=True) as store:
        assert [row.outcome for row in store.calls()] == ["success"]


def test_broken_configuration_raises_at_instrument(tmp_path: Path) -> None:
    """A broken policy and an unusable store raise where they are given, with the place in the message."""
    broken = tmp_path / "tierwise.yaml"
    broken.write_text("tasks:\n  x: {candidatez: [a]}\n")
    client, _ = sync_client(chat())
    with pytest.raises(ConfigError, match=r"tierwise\.yaml:2:7"):
        tierwise.instrument(client, config=broken, store="off")
    with pytest.raises(StoreError):
        tierwise.instrument(client, store=tmp_path)
    assert type(client) is openai.OpenAI


def test_a_default_place_that_cannot_be_written_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody named a store and none can be made, calls go on and one warning says so."""
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".tierwise").write_text("a file in the way")
    (tmp_path / "state").write_text("another")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    client, _ = sync_client(chat())
    tierwise.instrument(client).chat.completions.create(**ASK)
    tierwise.shutdown()
    assert caplog.text.count("recording without a store") == 1


def test_store_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`TIERWISE_STORE=off` leaves no file."""
    monkeypatch.setenv("TIERWISE_STORE", "off")
    monkeypatch.chdir(tmp_path)
    client, _ = sync_client(chat())
    tierwise.instrument(client).chat.completions.create(**ASK)
    tierwise.shutdown()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="off"):
        tierwise.open_store()


def test_rows_lost_on_the_way_are_shown_by_the_store(tmp_path: Path) -> None:
    """Rows that found no room are counted in the store's health, where `tierwise doctor` looks."""
    store = SqliteStore.open(tmp_path / "s.db")
    telemetry = open_telemetry(sinks=[store], capacity=1)
    with telemetry.metrics.lock:  # nothing can be drained meanwhile: the second and third find no room
        for _ in range(3):
            call = make_call()
            telemetry.recorder.finish(telemetry.recorder.start(call.request, call.context, call.started_at_ns), call)
    telemetry.shutdown()
    with SqliteStore.open(tmp_path / "s.db") as reader:
        assert reader.call_count() + reader.health().dropped == 3

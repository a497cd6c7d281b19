"""How each candidate is switched on, in the environment where it is installed, and how its recordings are seen.

Everybody gets what they document as the usual set-up: their own defaults (content capture as it comes), an exporter or
transport that discards in place of the network. Nothing here is imported before it is needed.
"""

from __future__ import annotations

import importlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import MODEL, POLICY, PROMPT_TOKENS, make_metric_exporter, make_providers, make_span_exporter

UNREACHABLE = "http://127.0.0.1:9"
INPUT_KEYS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "langfuse.observation.usage_details",
)


@dataclass(slots=True)
class Seen:
    """What arrived at the discarding exporter: all spans, and those that carry the call's input tokens."""

    examine: bool
    spans: int = 0
    with_usage: int = 0

    def span(self, attributes: Mapping[str, Any] | None) -> None:
        """Count one span by its attributes."""
        self.spans += 1
        if self.examine and attributes:
            self.with_usage += any(has_prompt_tokens(attributes.get(key)) for key in INPUT_KEYS)


@dataclass(slots=True)
class Setting:
    """What an adapter is given: the clients, a folder of its own, and the providers (made on first use)."""

    folder: Path
    sync_client: Any
    async_client: Any
    seen: Seen
    providers: tuple[Any, Any] | None = None

    def tracer_and_meter(self) -> tuple[Any, Any]:
        """The OpenTelemetry providers, also set as the global ones."""
        if self.providers is None:
            from opentelemetry import metrics, trace

            self.providers = make_providers(self.span_exporter(), make_metric_exporter())
            trace.set_tracer_provider(self.providers[0])
            metrics.set_meter_provider(self.providers[1])
        return self.providers

    def span_exporter(self) -> Any:
        """An exporter that discards, and counts in `seen`."""
        return make_span_exporter(lambda span: self.seen.span(span.attributes))


@dataclass(slots=True)
class Active:
    """A candidate that is switched on."""

    flush: Callable[[], object] = lambda: None
    per_call: Callable[[], AbstractContextManager[object]] = nullcontext
    per_concurrent_call: Callable[[], AbstractContextManager[object]] = nullcontext
    settle: Callable[[Callable[[], object]], object] = lambda call: None
    clients: tuple[Any, Any] | None = None
    checks: Callable[[int], str | None] = field(default=lambda made: None)


def has_prompt_tokens(value: object) -> bool:
    """Whether an attribute's value holds the number of prompt tokens of our replies."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            return False
        return isinstance(parsed, dict) and PROMPT_TOKENS in parsed.values()
    return value == PROMPT_TOKENS


def flush_providers(setting: Setting) -> Callable[[], None]:
    """A function that flushes the OpenTelemetry providers."""
    tracer_provider, meter_provider = setting.tracer_and_meter()

    def flush() -> None:
        tracer_provider.force_flush()
        meter_provider.force_flush()

    return flush


# --- the yardsticks and tierwise ---------------------------------------------------------------------------------


def bare(setting: Setting) -> Active:
    """Nothing at all."""
    return Active()


def floor(setting: Setting) -> Active:
    """The hand-written span and histograms of floor.py."""
    importlib.import_module("floor").install(*setting.tracer_and_meter())
    return Active(flush=flush_providers(setting))


def tierwise(setting: Setting) -> Active:
    """As a user has it: a task, a policy file, a priced model, the store on."""
    policy, store = setting.folder / "tierwise.yaml", setting.folder / "tierwise.db"
    policy.write_text(POLICY, encoding="utf-8")
    return start_tierwise(setting, config=str(policy), store=str(store), task="summary")


def tierwise_spans_only(setting: Setting) -> Active:
    """Only what the peers do: spans and metrics (with cost), no task, no policy, no store."""
    return start_tierwise(setting, config=None, store="off", task=None)


def start_tierwise(setting: Setting, *, config: str | None, store: str, task: str | None) -> Active:
    """Instrument both clients with tierwise."""
    module = importlib.import_module("tierwise")
    tracer_provider, meter_provider = setting.tracer_and_meter()
    given: dict[str, Any] = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
    given |= {"config": config, "store": store}
    clients = (module.instrument(setting.sync_client, **given), module.instrument(setting.async_client, **given))
    flush_otel = flush_providers(setting)

    def flush() -> None:
        module.force_flush()
        flush_otel()

    def settle(call: Callable[[], object]) -> None:
        if store == "off":
            time.sleep(5)
            return
        for _ in range(200):
            call()
            module.force_flush()
            if priced_rows(store)[1]:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{MODEL} has no price after 200 calls: is it in the catalogue?")

    def checks(made: int) -> str | None:
        if store == "off":
            return None
        rows = priced_rows(store)[0]
        return None if rows == made else f"{rows} rows in the store for {made} calls"

    per_call = (lambda: module.task(task)) if task else nullcontext
    return Active(
        flush=flush, per_call=per_call, per_concurrent_call=per_call, settle=settle, clients=clients, checks=checks
    )


def priced_rows(store: str) -> tuple[int, bool]:
    """How many calls the store holds, and whether the last one has a cost."""
    connection = sqlite3.connect(store)
    try:
        rows = connection.execute("SELECT count(*) FROM calls").fetchone()[0]
        last = connection.execute("SELECT cost_usd FROM calls ORDER BY rowid DESC LIMIT 1").fetchone()
        return rows, last is not None and last[0] is not None
    finally:
        connection.close()


# --- peers on OpenTelemetry --------------------------------------------------------------------------------------


def instrumentor(module: str) -> Callable[[Setting], Active]:
    """The adapter of a package with an `OpenAIInstrumentor`."""

    def activate(setting: Setting) -> Active:
        tracer_provider, meter_provider = setting.tracer_and_meter()
        instance = importlib.import_module(module).OpenAIInstrumentor()
        instance.instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
        return Active(flush=flush_providers(setting))

    return activate


def logfire(setting: Setting) -> Active:
    """`logfire.configure` with a processor of ours and no sending, `instrument_openai` for both clients."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    module = importlib.import_module("logfire")
    processor = BatchSpanProcessor(setting.span_exporter(), max_queue_size=8192)
    module.configure(
        send_to_logfire=False, console=False, additional_span_processors=[processor], inspect_arguments=False
    )
    module.instrument_openai(setting.sync_client)
    module.instrument_openai(setting.async_client)
    return Active(flush=module.force_flush)


def langfuse(setting: Setting) -> Active:
    """Langfuse's own client with an exporter of ours; importing its openai module patches openai."""
    module = importlib.import_module("langfuse")
    client = module.Langfuse(
        public_key="pk-none", secret_key="sk-none", base_url=UNREACHABLE, span_exporter=setting.span_exporter()
    )
    importlib.import_module("langfuse.openai")
    return Active(flush=client.flush)


def openlit(setting: Setting) -> Active:
    """`openlit.init` on our providers, the price list from a file, HTTP client instrumentations off."""
    from opentelemetry import _logs
    from opentelemetry.sdk._logs import LoggerProvider

    flush = flush_providers(setting)
    _logs.set_logger_provider(LoggerProvider())
    prices = setting.folder / "prices.json"
    rates = {"promptPrice": 0.00015, "completionPrice": 0.0006}
    prices.write_text(json.dumps({"chat": {MODEL: rates, f"{MODEL}-2024-07-18": rates}}), encoding="utf-8")
    http = ["httpx", "requests", "urllib", "urllib3", "aiohttp-client"]
    importlib.import_module("openlit").init(pricing_json=str(prices), disabled_instrumentors=http)
    return Active(flush=flush)


# --- peers with machinery of their own ---------------------------------------------------------------------------


class _DiscardingExporter:
    """Stands in for ddtrace's native exporter: takes the encoded traces, counts what is in them and drops them."""

    def __init__(self, genuine: Any, seen: Seen) -> None:
        self._genuine, self._seen = genuine, seen

    def send(self, payload: bytes) -> str:
        """Spans and numbers are found by their MessagePack form: a short string, then the value."""
        self._seen.spans += payload.count(b"\xa7span_id\xcf")
        if self._seen.examine:
            self._seen.with_usage += payload.count(b"\xacinput_tokens" + bytes([PROMPT_TOKENS]))
        return "{}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._genuine, name)


def ddtrace(setting: Setting) -> Active:
    """`patch(openai=True)` with LLM Observability, which rides on the traces; what would go to the agent is dropped."""
    off = ("DD_REMOTE_CONFIGURATION_ENABLED", "DD_INSTRUMENTATION_TELEMETRY_ENABLED", "DD_CRASHTRACKING_ENABLED")
    os.environ.update(dict.fromkeys(off, "false"))
    os.environ.update({"DD_TRACE_STARTUP_LOGS": "false", "DD_TRACE_AGENT_URL": UNREACHABLE})
    module, llmobs = importlib.import_module("ddtrace"), importlib.import_module("ddtrace.llmobs").LLMObs
    module.patch(openai=True)
    llmobs.enable(ml_app="benchmark", agentless_enabled=False)
    writer = importlib.import_module("ddtrace.trace").tracer._span_aggregator.writer
    writer._exporter = _DiscardingExporter(writer._exporter, setting.seen)

    def flush() -> None:
        writer.flush_queue()
        llmobs.flush()

    # the constructors are wrapped: clients made before have no instrumentation
    from openai import AsyncOpenAI, OpenAI

    sync_client = OpenAI(api_key="sk-none", http_client=setting.sync_client._client)
    async_client = AsyncOpenAI(api_key="sk-none", http_client=setting.async_client._client)
    return Active(flush=flush, clients=(sync_client, async_client))


def sentry(setting: Setting) -> Active:
    """`sentry_sdk.init` with tracing on; a transport that discards.

    Concurrent calls get an isolation scope each, as requests to a web application have; in one scope all but one of them
    lose their usage.
    """
    module = importlib.import_module("sentry_sdk")
    transport = importlib.import_module("sentry_sdk.transport")

    class Discard(transport.Transport):  # type: ignore[misc, name-defined]
        def capture_envelope(self, envelope: Any) -> None:
            event = envelope.get_transaction_event()
            if event is None:
                return
            setting.seen.span(event["contexts"]["trace"].get("data"))
            for child in event.get("spans", ()):
                setting.seen.span(child.get("data"))

    module.init(dsn="http://none@127.0.0.1:9/1", transport=Discard, traces_sample_rate=1.0)

    @contextmanager
    def scope() -> Iterator[None]:
        with module.isolation_scope():
            yield

    return Active(flush=module.flush, per_concurrent_call=scope)


ADAPTERS: dict[str, Callable[[Setting], Active]] = {
    "bare": bare,
    "floor": floor,
    "tierwise": tierwise,
    "tierwise-spans": tierwise_spans_only,
    "openai-v2": instrumentor("opentelemetry.instrumentation.openai_v2"),
    "genai-openai": instrumentor("opentelemetry.instrumentation.genai.openai"),
    "openllmetry": instrumentor("opentelemetry.instrumentation.openai"),
    "openinference": instrumentor("openinference.instrumentation.openai"),
    "logfire": logfire,
    "langfuse": langfuse,
    "ddtrace": ddtrace,
    "sentry": sentry,
    "openlit": openlit,
}

"""Beside others on the same client: GenAI instrumentations, Logfire, Sentry, httpx's instrumentation, sampling off."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import openai
import pydantic
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased

from compat.model_server import CITY, ModelServer
from compat.watching import Watching
from tierwise.core.policy import Policy

# Warnings while the packages are imported and used are their own.
pytestmark = [pytest.mark.vendors, pytest.mark.filterwarnings("ignore")]

ASK: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Say hello."}]}
OUTCOMES = ["success", "success", "success", "success", "success", "cancelled", "rejected"]
"""Of the calls of `_use`, in their order."""
WITH_USAGE = 5


class City(pydantic.BaseModel):
    """What is asked for."""

    city: str
    celsius: int


class Neighbour(Protocol):
    """Another package that instruments openai's clients."""

    per_client: bool
    """It instruments the one client that it is given, not the classes."""

    def instrument(self, client: Any, watching: Watching) -> None:
        """Instrument what is there (or this client), on its own in-memory exporters or those of the test."""

    def seen(self, watching: Watching) -> int:
        """The calls that it recorded."""


class GenAi:
    """An instrumentation with OpenTelemetry's interface, which patches openai's classes."""

    per_client = False

    def __init__(self, module: str) -> None:
        self.instrumentor = importlib.import_module(module).OpenAIInstrumentor()

    def instrument(self, client: Any, watching: Watching) -> None:
        self.instrumentor.instrument(
            tracer_provider=watching.tracer_provider, meter_provider=watching.meter_provider, skip_dep_check=True
        )

    def seen(self, watching: Watching) -> int:
        return len(watching.spans(None)) - len(watching.spans())

    def close(self) -> None:
        self.instrumentor.uninstrument()


class Logfire:
    """Logfire with providers of its own: on one client, or on openai's classes."""

    def __init__(self, *, classes: bool) -> None:
        logfire = importlib.import_module("logfire")
        self.per_client = not classes
        self.exporter = InMemorySpanExporter()
        self.logfire = logfire.configure(
            local=True, send_to_logfire=False, console=False, metrics=False,
            additional_span_processors=[SimpleSpanProcessor(self.exporter)],
        )  # fmt: skip
        self.undo = ExitStack()

    def instrument(self, client: Any, watching: Watching) -> None:
        self.undo.enter_context(self.logfire.instrument_openai(*((client,) if self.per_client else ())))

    def seen(self, watching: Watching) -> int:
        names = [(span.name, (span.attributes or {}).get("logfire.span_type")) for span in self._spans()]
        return len([name for name, kind in names if "Chat Completion" in name and kind == "span"])

    def _spans(self) -> Any:
        return self.exporter.get_finished_spans()

    def close(self) -> None:
        self.undo.close()
        self.logfire.shutdown(flush=False)


class Sentry:
    """Sentry with its OpenAI integration alone, which patches openai's classes."""

    per_client = False

    def __init__(self) -> None:
        self.sdk = importlib.import_module("sentry_sdk")
        self.envelopes: list[Any] = []
        envelopes = self.envelopes

        class Kept(self.sdk.transport.Transport):  # type: ignore[misc,name-defined]
            def capture_envelope(self, envelope: Any) -> None:
                envelopes.append(envelope)

        self.transport = Kept
        self.span = ExitStack()

    def instrument(self, client: Any, watching: Watching) -> None:
        integration = importlib.import_module("sentry_sdk.integrations.openai").OpenAIIntegration
        self.sdk.integrations._processed_integrations.discard(integration.identifier)
        self.sdk.init(
            dsn="http://key@127.0.0.1/1", transport=self.transport, traces_sample_rate=1.0, default_integrations=False,
            auto_enabling_integrations=False, integrations=[integration()],
        )  # fmt: skip
        self.span.enter_context(self.sdk.start_transaction(name="all"))

    def seen(self, watching: Watching) -> int:
        self.span.close()
        self.sdk.flush()
        items = [item.payload.json for envelope in self.envelopes for item in envelope.items if item.type == "span"]
        return len([span for item in items for span in item["items"] if span["name"].startswith("chat ")])

    def close(self) -> None:
        self.span.close()
        self.sdk.get_client().close()
        self.sdk.get_global_scope().set_client(None)


NEIGHBOURS: dict[str, Callable[[], Any]] = {
    "openai_v2": lambda: GenAi("opentelemetry.instrumentation.openai_v2"),
    "genai_openai": lambda: GenAi("opentelemetry.instrumentation.genai.openai"),
    "openllmetry": lambda: GenAi("opentelemetry.instrumentation.openai"),
    "logfire_client": lambda: Logfire(classes=False),
    "logfire_classes": lambda: Logfire(classes=True),
    "sentry": Sentry,
}


@pytest.fixture
def clean_classes() -> Iterator[Callable[[], None]]:
    """openai's classes as they were, afterwards and whenever it is called: some instrumentations leave their patches."""
    from openai import resources

    classes: list[Any] = [openai.OpenAI, openai.AsyncOpenAI]
    for name in ("completions", "chat.completions.completions", "responses.responses", "embeddings"):
        module = importlib.import_module(f"{resources.__name__}.{name}")
        classes += [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    before = [(one, dict(vars(one))) for one in classes]

    def restore() -> None:
        for one, attributes in before:
            for name in set(vars(one)) | set(attributes):
                if name not in attributes:
                    delattr(one, name)
                elif vars(one).get(name) is not attributes[name]:
                    setattr(one, name, attributes[name])

    yield restore
    restore()


@pytest.fixture(params=list(NEIGHBOURS))
def make_neighbour(request: pytest.FixtureRequest, clean_classes: Callable[[], None]) -> Iterator[Callable[[], Any]]:
    """Makes one neighbour after the other; those before, and their patches, are undone first."""
    made: list[Any] = []

    def close() -> None:
        while made:
            made.pop().close()
        clean_classes()

    def make() -> Any:
        close()
        made.append(NEIGHBOURS[request.param]())
        return made[-1]

    yield make
    close()


def _plain(value: Any) -> tuple[str, Any]:
    """Class name and values."""
    return type(value).__name__, value.model_dump() if hasattr(value, "model_dump") else value


def _use(client: Any, models: ModelServer) -> list[Any]:
    """Calls of all kinds, and what the caller sees of each."""
    chat = client.chat.completions
    models.faults[:] = [429]
    seen: list[Any] = [_plain(chat.create(**ASK))]
    stream = chat.create(**ASK, stream=True)
    seen += [isinstance(stream, openai.Stream), [_plain(chunk) for chunk in stream]]
    raw = chat.with_raw_response.create(**ASK)
    seen += [raw.status_code, _plain(raw.parse())]
    parsed = chat.parse(**ASK, response_format=City)
    seen += [_plain(parsed), parsed.choices[0].message.parsed == City(**CITY)]
    seen.append([_plain(chunk) for chunk in chat.create(**ASK, stream=True, stream_options={"include_usage": True})])
    with chat.create(**ASK, stream=True) as left:
        seen.append(_plain(next(iter(left))))
    models.faults[:] = [400]
    try:
        chat.create(**ASK)
    except openai.BadRequestError as error:
        seen.append((type(error), error.status_code, error.__cause__ is None))
    return seen


async def _ause(client: Any, models: ModelServer) -> list[Any]:
    """The same, asynchronous."""
    chat = client.chat.completions
    models.faults[:] = [429]
    seen: list[Any] = [_plain(await chat.create(**ASK))]
    stream = await chat.create(**ASK, stream=True)
    seen += [isinstance(stream, openai.AsyncStream), [_plain(chunk) async for chunk in stream]]
    raw = await chat.with_raw_response.create(**ASK)
    seen += [raw.status_code, _plain(raw.parse())]
    parsed = await chat.parse(**ASK, response_format=City)
    seen += [_plain(parsed), parsed.choices[0].message.parsed == City(**CITY)]
    again = await chat.create(**ASK, stream=True, stream_options={"include_usage": True})
    seen.append([_plain(chunk) async for chunk in again])
    async with await chat.create(**ASK, stream=True) as left:
        async for chunk in left:
            seen.append(_plain(chunk))
            break
    models.faults[:] = [400]
    try:
        await chat.create(**ASK)
    except openai.BadRequestError as error:
        seen.append((type(error), error.status_code, error.__cause__ is None))
    await client.close()
    return seen


@pytest.fixture
def use(request: pytest.FixtureRequest, models: ModelServer) -> tuple[Callable[[], Any], Callable[[Any], list[Any]]]:
    """Makes a client, and uses it."""
    options: dict[str, Any] = {"base_url": models.url, "api_key": "none", "max_retries": 1}
    if request.param == "sync":
        return lambda: openai.OpenAI(**options), lambda client: _use(client, models)
    return lambda: openai.AsyncOpenAI(**options), lambda client: asyncio.run(_ause(client, models))


def _observe_both(
    neighbour: Any, watching: Watching, make_client: Callable[[], Any], *, one_client: bool, first: bool
) -> Any:
    """A client that both observe, tierwise first or second, itself or as one of those made later."""

    def ours(client: Any) -> None:
        watching.instrument(client, stream_usage=True)

    def theirs(client: Any) -> None:
        neighbour.instrument(client, watching)

    if one_client:
        client = make_client()
        for observe in (ours, theirs) if first else (theirs, ours):
            observe(client)
        return client
    if neighbour.per_client:
        ours(None)
        client = make_client()
        theirs(client)
        return client
    for observe in (ours, theirs) if first else (theirs, ours):
        observe(None)
    return make_client()


@pytest.mark.parametrize(
    ("use", "way"), [("sync", "client"), ("sync", "global"), ("async", "client")], indirect=["use"]
)
@pytest.mark.parametrize("order", ["tierwise first", "tierwise second"])
def test_another_instrumentation(
    make_neighbour: Callable[[], Any],
    watching: Watching,
    use: tuple[Callable[[], Any], Callable[[Any], list[Any]]],
    order: str,
    way: str,
) -> None:
    """In both orders the caller sees what the neighbour alone shows; each records every call, tierwise tokens once."""
    make_client, use_client = use
    alone: Neighbour = make_neighbour()
    bare = make_client()
    alone.instrument(bare, watching)
    expected = use_client(bare)
    gc.collect()  # some neighbours do not close a stream that was left: it ends when it is collected
    seen_alone = alone.seen(watching)
    assert seen_alone > 0
    assert not watching.path.exists()
    watching.exporter.clear()

    beside: Neighbour = make_neighbour()
    first = order == "tierwise first"
    client = _observe_both(beside, watching, make_client, one_client=way == "client", first=first)
    assert use_client(client) == expected
    gc.collect()
    rows = watching.rows()
    assert sorted(row.outcome for row in rows) == sorted(OUTCOMES)
    assert sorted(row.retries for row in rows) == [0, 0, 0, 0, 0, 0, 1]
    assert [row.input_tokens for row in rows if row.input_tokens is not None] == [12] * WITH_USAGE
    assert len(watching.spans()) == len(OUTCOMES)
    watching.check_metrics(len(OUTCOMES), with_usage=WITH_USAGE)
    assert beside.seen(watching) == seen_alone


LOGFIRE = """
import logfire, openai, os, tierwise
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
def theirs():
    logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[SimpleSpanProcessor(exporter)])
def ours():
    tierwise.instrument(client, store=os.environ["STORE"])
client = openai.OpenAI(base_url=os.environ["SERVER"], api_key="none")
for step in {steps}:
    step()
logfire.instrument_openai(suppress_other_instrumentation=False)
client.chat.completions.create(model="m", messages=[{{"role": "user", "content": "hi"}}])
tierwise.force_flush()
print(sorted(s.instrumentation_scope.name for s in exporter.get_finished_spans() if s.attributes.get(
    "logfire.span_type") != "pending_span"))
"""


@pytest.mark.parametrize("steps", ["(theirs, ours)", "(ours, theirs)"])
def test_logfires_global_providers(models: ModelServer, watching: Watching, steps: str) -> None:
    """A program whose global providers are Logfire's, set before or after: tierwise's spans go there, its call is stored."""
    importlib.import_module("logfire")
    _run(LOGFIRE.format(steps=steps), models, watching, "['logfire.openai', 'tierwise']\n")
    assert [(row.outcome, row.input_tokens) for row in watching.rows()] == [("success", 12)]


def _run(code: str, models: ModelServer, watching: Watching, output: str) -> None:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LOGFIRE_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], cwd=watching.path.parent,
        env=base | {"SERVER": models.url, "STORE": str(watching.path)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, output), done.stderr


# -- httpx's instrumentation -------------------------------------------------------------------------------------------


@pytest.fixture
def http_spans(watching: Watching) -> Iterator[None]:
    """httpx's and httpx2's instrumentations."""
    module = importlib.import_module("opentelemetry.instrumentation.httpx")
    both = [module.HTTPXClientInstrumentor(), module.HTTPX2ClientInstrumentor()]
    for one in both:
        one.instrument(tracer_provider=watching.tracer_provider)
    yield
    for one in both:
        one.uninstrument()


@pytest.mark.parametrize("way", ["client", "global"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_http_spans_are_children(
    http_spans: None, models: ModelServer, watching: Watching, way: str, kind: str
) -> None:
    """Each HTTP request, retries included, is a child of tierwise's span; the trace goes on to the server."""
    if way == "global":
        watching.instrument(stream_usage=True)
    options: dict[str, Any] = {"base_url": models.url, "api_key": "none", "max_retries": 2}
    client: Any = openai.OpenAI(**options) if kind == "sync" else openai.AsyncOpenAI(**options)
    if way == "client":
        watching.instrument(client, stream_usage=True)
    chat = client.chat.completions

    async def calls() -> None:
        models.faults[:] = [429, 503]
        await chat.create(**ASK)
        stream = await chat.create(**ASK, stream=True)
        assert len([chunk async for chunk in stream]) == 4
        await client.close()

    with watching.tracer_provider.get_tracer("app").start_as_current_span("app"):
        if kind == "async":
            asyncio.run(calls())
        else:
            models.faults[:] = [429, 503]
            chat.create(**ASK)
            assert len(list(chat.create(**ASK, stream=True))) == 4
    watching.check(2)
    plain, streamed = (span.context.span_id for span in watching.spans())
    requests = watching.spans("opentelemetry.instrumentation.httpx")
    assert [(span.parent.span_id, (span.attributes or {})["http.status_code"]) for span in requests if span.parent] == [
        (plain, 429), (plain, 503), (plain, 200), (streamed, 200),
    ]  # fmt: skip
    (app,) = watching.spans("app")
    assert {span.parent.span_id for span in watching.spans() if span.parent} == {app.context.span_id}
    sent = [headers["traceparent"].split("-")[1:3] for headers in models.headers]
    assert sent == [[f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"] for span in requests]


# -- sampling off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [ALWAYS_OFF, ParentBased(ALWAYS_OFF), ParentBased(TraceIdRatioBased(1.0))],
    ids=["always off", "parent-based, root off", "parent-based, parent off"],
)
def test_sampling_off(models: ModelServer, tmp_path: Path, sampler: Sampler) -> None:
    """No span is exported; metrics, the store and costs are complete, in streams and after retries too."""
    watching = Watching(tmp_path, sampler)
    client = openai.OpenAI(base_url=models.url, api_key="none", max_retries=1)
    watching.instrument(client, stream_usage=True, config=Policy(prices={"gpt-5-mini": {"input": 1.0, "output": 2.0}}))
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    try:
        with unsampled.get_tracer("app").start_as_current_span("app"):
            seen = _use(client, models)
        assert seen[1] is True
        assert watching.spans(None) == []
        rows = watching.rows()
        assert [row.outcome for row in rows] == OUTCOMES
        assert [row.retries for row in rows] == [1, 0, 0, 0, 0, 0, 0]
        priced = [row.cost_usd for row in rows if row.cost_usd is not None]
        assert priced == [pytest.approx(22e-6)] * WITH_USAGE
        watching.check_metrics(len(OUTCOMES), with_usage=WITH_USAGE)
        assert watching.sums("tierwise.call.cost") == {None: pytest.approx(22e-6 * WITH_USAGE)}
        assert watching.counts("gen_ai.client.operation.duration") == len(OUTCOMES)
    finally:
        client.close()
        watching.close()

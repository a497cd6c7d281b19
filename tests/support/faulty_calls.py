"""Calls of every kind, each made with a client that may be bare, instrumented, or instrumented with faults inside."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

import tierwise
from support.canned import ASK, Reply, async_client, chat, stream, sync_client
from support.ducks import AsyncCompletions, Completions, Duck, FreshDuck
from support.exchanges import Seen, _describe, _dump, exchange, names, perform
from support.faults import Faults, Injected, Place
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.instrument.checks import check, forget_checks
from tierwise.instrument.context import current_scope
from tierwise.instrument.observation import current
from tierwise.testing import FixedPrices

Prepare = Callable[[Any], Any]
_PRICES: Final = {"gpt-5-mini": {"input": 0.25, "output": 2.0}}
_ERROR: Final = {"error": {"message": "no", "type": "server_error", "code": None}}
_TOOL_CALL: Final = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
_TOOLS: Final = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of call; `make` returns what the application can tell of it, the same every time."""

    name: str
    make: Callable[[Prepare], Any]
    late_prices: bool = False


class Setting:
    """tierwise with everything on: spans, metrics, content, logs and a store; built again when its thread is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self._open()

    def _open(self) -> None:
        self._number += 1
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SpanProcessor())
        self.meter_provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.store = tierwise_store(self._folder / f"{self._number}.db")

    def instrument(self, target: Any, *, late_prices: bool = False) -> Any:
        """`tierwise.instrument` with all of it."""
        observed = tierwise.instrument(
            target,
            config=Policy(
                prices=_PRICES, tasks={"policy": TaskPolicy(task="policy", candidates=("gpt-5-mini",), expects="json")}
            ),
            store=self.store,
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            logger_provider=self.logger_provider,
            stream_usage=True,
        )
        hook = getattr(target, "__dict__", {}).get("_tierwise") if late_prices else None
        if hook is not None:
            hook.wiring = replace(hook.wiring, prices=FixedPrices(ready=False), wait_for_prices=None)
        return observed

    def renew(self) -> None:
        """Start over: a fault in the background may have ended its thread."""
        self.close()
        self._open()

    def close(self) -> None:
        """Stop tierwise and the providers."""
        tierwise.shutdown()
        for provider in (self.tracer_provider, self.meter_provider, self.logger_provider):
            provider.shutdown()  # type: ignore[no-untyped-call, unused-ignore]


def tierwise_store(path: Path) -> Any:
    """An open store at a path."""
    from tierwise.evidence.sqlite import SqliteStore

    return SqliteStore.open(path)


def kinds(*, every_exchange: bool) -> list[Kind]:
    """All kinds of calls: the recorded exchanges, sync and async, and those that no exchange has."""
    chosen = names() if every_exchange else [name for name in _SOME if name in names()]
    found = [
        Kind(name=f"{name} {'async' if asynchronous else 'sync'}", make=_exchange(name, asynchronous=asynchronous))
        for name in chosen
        for asynchronous in (False, True)
    ]
    return found + [Kind(name=make.__name__.strip("_"), make=make) for make in _OWN] + [
        Kind(name=f"{make.__name__.strip('_')} before prices", make=make, late_prices=True)
        for make in (_in_a_run, _read_to_the_end)
    ]  # fmt: skip


_SOME: Final = (
    "openai-chat-plain",
    "openai-429-then-success",
    "openai-500-exhausted",
    "openai-401",
    "openai-connection-lost-then-success",
    "openai-timeout",
    "openai-stream-usage-asked-by-tierwise",
    "openai-stream-left-early",
    "openai-stream-connection-reset",
    "openai-stream-error-event",
    "openai-stream-cut-without-end",
    "openai-stream-helper",
    "openai-stream-raw-response",
    "openai-stream-logprobs",
    "openai-stream-tool-arguments-in-pieces",
    "openai-stream-never-read",
    "openai-streaming-response",
    "openai-stream-raw-bytes-of-parts",
    "openai-parse-holds",
    "openai-parse-length",
    "openai-parse-breaks-type",
    "openai-tool-calls-parallel",
    "openai-logprobs",
    "openai-refusal",
    "openai-json-schema-holds",
    "openai-response-create",
    "openai-response-parse",
    "openai-response-stream",
    "openai-response-stream-helper",
    "openai-response-tool-calls",
    "openai-embeddings-dimensions-raw",
    "openai-embeddings-base64",
    "openai-completions-legacy",
    "openai-completions-legacy-stream",
    "azure-chat",
    "litellm-cost-header",
    "ollama-chat-fenced-json",
    "llamacpp-json-in-prose",
    "gateway-200-html",
    "openrouter-stream-usage-with-choices",
)


def _exchange(name: str, *, asynchronous: bool) -> Callable[[Prepare], Any]:
    def make(prepare: Prepare) -> Any:
        return _told(perform(exchange(name), prepare, asynchronous=asynchronous))

    return make


def _told(seen: Seen) -> dict[str, Any]:
    """What the application can tell; usage asked for is not, nor how long a jittered wait was."""
    requests = []
    for request in seen.requests:
        body = {name: value for name, value in request["body"].items() if name != "stream_options"}
        requests.append({**request, "body": body})
    return {
        "kind": seen.kind,
        "types": [f"{one.__module__}.{one.__qualname__}" for one in seen.types],
        "values": seen.values,
        "texts": seen.texts,
        "chunks": seen.chunks,
        "error": seen.error,
        "closed": seen.closed,
        "arguments kept": seen.arguments_kept,
        "requests": requests,
        "waits": len(seen.waits),
    }


# -- kinds that are no exchange ------------------------------------------------------------------------------------


def _shown(value: Any) -> Any:
    return f"{type(value).__module__}.{type(value).__qualname__}", _dump(value)


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return _describe(error)


def _read_to_the_end(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("Hel", "lo", usage=False)))
    with tierwise.task("text", labels={"a": "b"}, prompt_version="2"):
        return [_shown(chunk) for chunk in client.chat.completions.create(**ASK, stream=True)]


def _left_by_break(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", "c", usage=False)))
    made = client.chat.completions.create(**ASK, stream=True)
    first = []
    for chunk in made:
        first.append(_shown(chunk))
        if len(first) == 2:
            break
    rest = [_shown(chunk) for chunk in made]
    return first, rest, made.response.is_closed


def _left_by_with(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", "c", usage=False)))
    with client.chat.completions.create(**ASK, stream=True) as made:
        first = _shown(next(iter(made)))
    return first, made.response.is_closed


def _dropped_unread(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", "c", usage=False)))
    made = client.chat.completions.create(**ASK, stream=True)
    response = made.response
    del made
    return response.status_code


def _raw_bytes(prepare: Prepare) -> Any:
    client = prepare(_sync(stream("a", "b", usage=False), chat()))
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        pieces = list(response.http_response.iter_raw())
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        return pieces, b"".join(response.iter_bytes())


def _by_post(prepare: Prepare) -> Any:
    client = prepare(_sync(chat()))
    found = client.post("/chat/completions", body=ASK, cast_to=object), client.with_options(timeout=5).models
    return _shown(found[0])


def _decorated(prepare: Prepare) -> Any:
    client = prepare(_sync(chat("Hi"), stream("a", "b", usage=False)))

    @tierwise.task("decorated", risk="high")
    def plain() -> Any:
        return _shown(client.chat.completions.create(**ASK))

    @tierwise.task
    def pieces() -> Any:
        for chunk in client.chat.completions.create(**ASK, stream=True):
            yield _shown(chunk)

    return plain(), list(pieces())


def _async_decorated(prepare: Prepare) -> Any:
    async def go() -> Any:
        client = prepare(async_client(chat("Hi"), stream("a", "b", usage=False))[0])

        @tierwise.task("decorated", expects="text")
        async def plain() -> Any:
            return _shown(await client.chat.completions.create(**ASK))

        @tierwise.task("decorated", run_id="r")
        async def pieces() -> Any:
            async for chunk in await client.chat.completions.create(**ASK, stream=True):
                yield _shown(chunk)

        found = await plain(), [piece async for piece in pieces()]
        async with tierwise.task("entered"):
            left = [_shown(chunk) async for chunk in await client.chat.completions.create(**ASK, stream=True)]
        await client.close()
        return found, left

    return asyncio.run(go())


def _async_cancelled(prepare: Prepare) -> Any:
    async def go() -> Any:
        reply = Reply(status=500, body=_ERROR, headers={"retry-after": "60"})
        client = prepare(async_client(reply, max_retries=2)[0])
        try:
            await asyncio.wait_for(client.chat.completions.create(**ASK), 0.005)
        except TimeoutError as error:
            return type(error), str(error)
        finally:
            await client.close()

    return asyncio.run(go())


def _in_a_run(prepare: Prepare) -> Any:
    client = prepare(_sync(chat("Hi"), Reply(status=400, body=_ERROR), chat("[1]")))
    with tierwise.task("policy", run_id="one", schema={"type": "array"}):
        return [_tried(lambda: _shown(client.chat.completions.create(**ASK))) for _ in range(3)]


def _checked(prepare: Prepare) -> Any:
    client = prepare(_sync(chat('"HELLO"'), chat('"hello"')))
    with tierwise.task("checked", schema={"type": "string"}):
        return [_shown(client.chat.completions.create(**ASK)) for _ in range(2)]


def _with_tools(prepare: Prepare) -> Any:
    client = prepare(_sync(chat(None, message={"tool_calls": [_TOOL_CALL]}, finish_reason="tool_calls")))
    return _shown(
        client.chat.completions.create(**ASK, tools=_TOOLS, temperature=0.5, max_tokens=9, stop=["x"], seed=1)
    )


def _in_the_background(prepare: Prepare) -> Any:
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini", "output": [], "tools": []}
    head |= {"parallel_tool_calls": True, "tool_choice": "auto"}
    usage: dict[str, Any] = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    part = {"type": "output_text", "text": "Hi", "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    done = {**head, "status": "completed", "output": [message], "usage": usage}
    queued = {**head, "status": "queued"}
    failed = Reply(status=404, body=_ERROR)
    client = prepare(_sync(Reply(body=queued), Reply(body=queued), failed, Reply(body=done)))
    found = [_shown(client.responses.create(model="gpt-5-mini", input="Hi", background=True))]
    return found + [_tried(lambda: _shown(client.responses.retrieve("resp_1"))) for _ in range(3)]


def _duck(prepare: Prepare) -> Any:
    found: list[Any] = []
    for make in (lambda one: Duck(one, base_url="https://api.openai.com/v1"), FreshDuck):
        completions = Completions()
        client = prepare(make(completions))
        found.append(client.chat.completions.create([], model="m") is completions.body)
        chunks = list(client.chat.completions.create([], model="m", stream=True))
        found.append([chunk for chunk in chunks if chunk.choices] == completions.chunks[:-1])
        with_break = client.chat.completions.create([], model="m", stream=True)
        found.append(next(with_break) is completions.chunks[0])
        with_break.close()
        found.append((completions.closed, len(completions.seen)))
    client = prepare(Duck(Completions(error=KeyError("k"))))
    return found, _tried(lambda: client.chat.completions.create([])), _tried(
        lambda: list(client.chat.completions.create([], stream=True))
    )  # fmt: skip


def _duck_that_hides_usage(prepare: Prepare) -> Any:
    client = prepare(Duck(_AskedFor(Completions()), base_url="https://api.openai.com/v1"))
    return len(list(client.chat.completions.create([], model="m", stream=True)))


class _AskedFor:
    """Sends usage only when asked."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def create(self, messages: Any, model: str, *, stream: bool = False, stream_options: Any = None) -> Any:
        chunks = self._completions.chunks
        return iter(chunks if stream_options else chunks[:-1])


def _async_duck(prepare: Prepare) -> Any:
    async def go() -> Any:
        completions = AsyncCompletions()
        client = prepare(Duck(completions))
        found: list[Any] = [await client.chat.completions.create([]) is completions.body]
        chunks = [chunk async for chunk in await client.chat.completions.create([], stream=True)]
        found.append([chunk for chunk in chunks if chunk.choices] == completions.chunks[:-1])
        broken = prepare(Duck(AsyncCompletions(error=KeyError("k"))))
        try:
            await broken.chat.completions.create([])
        except KeyError as error:
            found.append(repr(error))
        function = prepare(_later)
        found.append(await function(messages=[], model="m"))
        found.append([chunk.object async for chunk in await function(messages=[], model="m", stream=True)])
        return found

    return asyncio.run(go())


def _later(messages: Any, model: str, stream: bool = False) -> Any:
    """A function that is not a coroutine function, but returns a coroutine."""
    return _answer(AsyncCompletions(), stream)


async def _answer(completions: AsyncCompletions, stream: bool) -> Any:
    await asyncio.sleep(0)
    return completions._achunks() if stream else completions.body


_OWN: Final = (
    _read_to_the_end,
    _left_by_break,
    _left_by_with,
    _dropped_unread,
    _raw_bytes,
    _by_post,
    _decorated,
    _async_decorated,
    _async_cancelled,
    _in_a_run,
    _checked,
    _with_tools,
    _in_the_background,
    _duck,
    _duck_that_hides_usage,
    _async_duck,
)


def _sync(*replies: Reply) -> Any:
    return sync_client(*replies)[0]


def bare(client: Any) -> Any:
    """No instrumentation."""
    return client


_HERE: Final = threading.main_thread().name
_FIRST_FAULTS: Final = (
    "instrument.hook.Hook.begin",
    "instrument.judging.judge_reading",
    "instrument.observation.Observation.may_ask_usage",
    "instrument.streams.observed_class",
    "instrument.streams.observe",
    "instrument.streams.attach",
    "instrument.streams.watch_response",
    "instrument.stainless._returned",
    "instrument.context._named",
    "instrument.context.Scope.__init__",
    "instrument.dialects.chat.ChatStream.see",
    "instrument.proxies._stand_in",
    "instrument.duckcalls._settle",
    "telemetry.recorder.TelemetryRecorder.start",
    "telemetry.spans.end_span",
    "telemetry.worker.Worker.put",
    "telemetry.metrics.MetricTable.record",
    "core.cost.cost_of",
)
_FLUSHED: Final = (
    "openai-chat-plain sync",
    "openai-429-then-success async",
    "in_a_run",
    "in_a_run before prices",
    "checked",
)
_AFTER_A_FAULT: Final = (
    "openai-chat-plain sync",
    "openai-stream-usage-asked-by-tierwise sync",
    "openai-stream-usage-asked-by-tierwise async",
    "in_a_run",
    "duck",
    "async_duck",
)


# -- with faults ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A function that is to raise, when, and what."""

    place: Place
    raises: Callable[[], bool]
    kind: type[Injected]


class Trials:
    """Calls with faults against calls of the bare client; `TIERWISE_RAISE` must not be set while they are made."""

    def __init__(self, folder: Path, *, every_exchange: bool) -> None:
        _register_checks()
        self.faults: Any = None
        self.kinds = kinds(every_exchange=every_exchange)
        self.expected = {kind.name: self._outcome(kind, bare) for kind in self.kinds}
        self.setting = Setting(folder)
        self.stray: list[str] = []
        self.different = [line for kind in self.kinds for line in self.differences(kind)]
        self.faults = Faults()  # by now everything that is made on first use is there
        self.run_by: dict[str, list[Kind]] = defaultdict(list)
        """Which kinds of calls run a function, by its name."""
        self.run_after: dict[str, list[tuple[Kind, Place]]] = defaultdict(list)
        """Which kinds of calls run a function only when another one raised."""
        self.in_background: set[str] = set()
        """Functions that only run on other threads than the application's."""
        self._watch()

    def _watch(self) -> None:
        """Find out which functions run while each kind of call is made, and which more where something failed."""
        threads: dict[str, set[str]] = defaultdict(set)
        self.setting.renew()  # its thread is to be watched from the start
        for kind in self.kinds:
            for name, ran_on in self._ran(kind).items():
                self.run_by[name].append(kind)
                threads[name] |= ran_on
        self.in_background = {name for name, ran_on in threads.items() if _HERE not in ran_on}
        by_name = {kind.name: kind for kind in self.kinds}
        for first in _FIRST_FAULTS:
            place = self.faults.injectable[f"tierwise.{first}"]
            for kind in (by_name[name] for name in _AFTER_A_FAULT):
                for name in self._ran(kind, place).keys() - self.run_by.keys():
                    self.run_after[name].append((kind, place))

    def _ran(self, kind: Kind, place: Place | None = None) -> dict[str, set[str]]:
        """The functions that run while a call is made, with the threads that ran them; one of them may have to raise."""
        seen: dict[str, set[str]] = defaultdict(set)

        def prepare(target: Any) -> Any:
            self._disarm()
            observed = self.setting.instrument(target, late_prices=kind.late_prices)
            if place is not None:
                self.faults.arm(place)
            self.faults.watch(seen)
            return observed

        self.faults.forget_cached()
        self._outcome(kind, prepare)
        if place is None and kind.name in _FLUSHED:
            flushed: dict[str, set[str]] = defaultdict(set)
            self.faults.watch(flushed)
            tierwise.force_flush()
            self.faults.watch(None)
            for name, ran_on in flushed.items():
                if ran_on - {_HERE}:  # the flush is ours, what it wakes is not
                    seen[name] |= ran_on - {_HERE}
        return seen

    def close(self) -> None:
        """Stop tierwise."""
        self.faults.disarm()
        self.setting.close()
        forget_checks()

    def differences(self, kind: Kind, *faults: Fault) -> list[str]:
        """Make one call of a kind with faults; what the application could tell it from a bare one by, in words."""
        in_background = any(fault.place.name in self.in_background for fault in faults)

        def prepare(target: Any) -> Any:
            self._disarm()
            observed = self.setting.instrument(target, late_prices=kind.late_prices)
            for fault in faults:
                self.faults.arm(fault.place, raises=fault.raises, kind=fault.kind)
            return observed

        try:
            with self._hearing():
                found = self._outcome(kind, prepare)
                if in_background:
                    for fault in faults:
                        self.faults.arm(fault.place, raises=fault.raises, kind=fault.kind)
                    with suppress(Injected):
                        tierwise.force_flush(0.2)
        finally:
            self._disarm()
        if in_background:
            self.setting.renew()
        told = [f"{kind.name}: {line}" for line in self.stray]
        self.stray.clear()
        expected = self.expected[kind.name]
        if found != expected:
            told.append(f"{kind.name}: {_difference(found, expected)}")
        where = ", ".join(f"{fault.place.name} ({fault.kind.__name__})" for fault in faults)
        return [f"with {where or 'no faults'}: {line}" for line in told]

    def _disarm(self) -> None:
        if self.faults is not None:
            self.faults.watch(None)
            self.faults.disarm()

    def _outcome(self, kind: Kind, prepare: Prepare) -> dict[str, Any]:
        """What the application gets, and what of ours is still there afterwards."""

        def make() -> dict[str, Any]:
            try:
                found = kind.make(prepare)
            except BaseException as error:
                end = traceback.extract_tb(error.__traceback__)[-2:]
                found = f"raised {error!r} at {[f'{Path(frame.filename).name}:{frame.lineno}' for frame in end]}"
            self._disarm()
            return {"found": found, "call": current.get(), "span": trace.get_current_span(), "task": current_scope()}

        return copy_context().run(make)

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        """Hear of exceptions that went nowhere: in finalizers they would be printed to the application's stderr."""

        def unraisable(args: Any) -> None:
            self.stray.append(f"unraisable {args.exc_value!r} in {args.object!r}")

        def in_thread(args: Any) -> None:
            if not isinstance(args.exc_value, Injected):
                self.stray.append(f"a thread ended with {args.exc_value!r}")

        before = sys.unraisablehook, threading.excepthook
        sys.unraisablehook, threading.excepthook = unraisable, in_thread
        try:
            yield
        finally:
            sys.unraisablehook, threading.excepthook = before


def _register_checks() -> None:
    @check("checked")
    def shouts(text: str) -> bool:
        return text.isupper()

    @check("checked", on="value")
    def fragile(value: object) -> bool:
        raise ValueError("not today")


def _difference(found: Any, expected: Any) -> str:
    """The first part that differs, shortened."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in expected:
            if found.get(name) != expected[name]:
                return f"{name}: {_difference(found.get(name), expected[name])}"
    if isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)) and len(found) == len(expected):
        for at, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:
                return f"[{at}] {_difference(one, other)}"
    return f"{repr(found)[:300]}, expected {repr(expected)[:300]}"

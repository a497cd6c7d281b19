"""The same calls through a bare and an instrumented client while something fails: what each brings and how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import openai
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import tierwise
from tierwise.evidence import SqliteStore

CALLS: Final = 500
NOT_WAITING_S: Final = 0.5
"""No call of an instrumented client may take this much longer at the 99th percentile: the faults take seconds."""
_ASK: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}]}
_PLAIN: Final = ("answers", "fails-500", "fails-429", "fails-400", "cuts", "breaks-off")
_STREAMED: Final = ("answers", "fails-429", "breaks-off")


@dataclass(frozen=True, kw_only=True)
class Added:
    """What instrumenting adds to a call, milliseconds: of `calls` alternated pairs."""

    calls: int
    median_ms: float
    p99_ms: float
    cpu_p99_ms: float
    """Of the caller's thread alone: what other processes on the machine do is not in it."""

    def __str__(self) -> str:
        wall = f"median {self.median_ms:+.2f} ms, p99 {self.p99_ms:+.2f} ms"
        return f"{self.calls} alternated calls, added: {wall}; CPU of the caller's thread p99 {self.cpu_p99_ms:+.2f} ms"


def _told(error: Exception) -> Any:
    return type(error).__qualname__, str(error), getattr(error, "status_code", None), getattr(error, "body", None)


def _value(value: Any) -> Any:
    return type(value).__qualname__, value.model_dump()


def series(client: openai.OpenAI) -> list[Any]:
    """What one client brings for every kind of call: values, chunks, and exceptions with their messages."""
    create = client.chat.completions.create
    raw = client.chat.completions.with_raw_response.create
    streaming = client.chat.completions.with_streaming_response.create
    found: list[Any] = []

    def one(name: str, model: str, call: Callable[[], Any]) -> None:
        chunks: list[Any] = []
        try:
            value = call()
            if isinstance(value, openai.Stream):
                chunks.extend(_value(chunk) for chunk in value)
            else:
                chunks.append(value)
        except openai.OpenAIError as error:
            chunks.append(_told(error))
        except Exception as error:  # what the HTTP client itself raises in the middle of a stream
            chunks.append(_told(error))
        found.append((name, model, chunks))

    def in_pieces(model: str) -> Any:
        with streaming(model=model, **_ASK) as response:
            return response.status_code, b"".join(response.iter_bytes())

    for model in _PLAIN:
        one("plain", model, lambda: _value(create(model=model, **_ASK)))  # noqa: B023
        one("raw", model, lambda: _value(raw(model=model, **_ASK).parse()))  # noqa: B023
    for model in _STREAMED:
        one("stream", model, lambda: create(model=model, stream=True, **_ASK))  # noqa: B023
    one("in pieces", "answers", lambda: in_pieces("answers"))
    return found


async def async_series(client: openai.AsyncOpenAI) -> list[Any]:
    """The same by an async client."""
    create = client.chat.completions.create
    raw = client.chat.completions.with_raw_response.create
    found: list[Any] = []
    for model in _PLAIN:
        for name, ask in (("plain", create), ("raw", raw)):
            try:
                answer: Any = await ask(model=model, **_ASK)
                found.append((name, model, _value(answer if name == "plain" else answer.parse())))
            except Exception as error:
                found.append((name, model, _told(error)))
    for model in _STREAMED:
        chunks: list[Any] = []
        try:
            async for chunk in await create(model=model, stream=True, **_ASK):
                chunks.append(_value(chunk))  # noqa: PERF401 - what came before an error counts
        except Exception as error:
            chunks.append(_told(error))
        found.append(("stream", model, chunks))
    return found


def _added_ms(bare: list[tuple[float, float]], seen: list[tuple[float, float]], which: int, quantile: float) -> float:
    one, other = (sorted(taken[which] for taken in side)[int(len(side) * quantile)] for side in (bare, seen))
    return (other - one) * 1e3


SERIES_CALLS: Final = 2 * (2 * len(_PLAIN) + len(_STREAMED)) + 1


class Rig:
    """A bare and an instrumented client of each kind on one server; `store` is a path, an open store or "off"."""

    def __init__(self, base_url: str, store: Path | SqliteStore | str, **options: Any) -> None:
        self.reader = InMemoryMetricReader()
        if not options.pop("own_providers", False):
            options.setdefault("meter_provider", MeterProvider([self.reader], shutdown_on_exit=False))
        self.calls, self._closed = 0, False
        self.asked = "answers"
        """The model that plain calls of the instrumented client name."""
        settings: dict[str, Any] = {"base_url": base_url, "api_key": "sk-none", "max_retries": 0}
        self.bare, self.bare_async = openai.OpenAI(**settings), openai.AsyncOpenAI(**settings)
        options = {"store": store, "task": "faults", **options}
        self.seen = tierwise.instrument(openai.OpenAI(**settings), **options)
        self.seen_async = tierwise.instrument(openai.AsyncOpenAI(**settings), **options)
        self._runner = asyncio.Runner()
        self.call(3)

    def call(self, number: int) -> None:
        """Plain calls by both clients."""
        self.pairs(number)

    def pairs(self, number: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Seconds, and seconds of CPU, of alternated calls: bare, instrumented."""
        taken: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
        creates = (
            partial(self.bare.chat.completions.create, model="answers"),
            partial(self.seen.chat.completions.create, model=self.asked),
        )
        for place in range(number):
            for which in (0, 1) if place % 2 else (1, 0):
                began, began_cpu = time.perf_counter(), time.thread_time()
                creates[which](**_ASK)
                taken[which].append((time.perf_counter() - began, time.thread_time() - began_cpu))
        self.calls += number
        return taken

    def attack(self, name: str, *, calls: int = CALLS) -> Added:
        """While the fault is on: every kind of call is the same through both, and none waits for the fault."""
        assert series(self.seen) == series(self.bare)
        assert self._runner.run(async_series(self.seen_async)) == self._runner.run(async_series(self.bare_async))
        self.calls += SERIES_CALLS
        bare, seen = self.pairs(calls)
        added = Added(
            calls=calls,
            median_ms=_added_ms(bare, seen, 0, 0.5),
            p99_ms=_added_ms(bare, seen, 0, 0.99),
            cpu_p99_ms=_added_ms(bare, seen, 1, 0.99),
        )
        print(f"\n[figures] {name}: {added}")
        assert added.p99_ms < NOT_WAITING_S * 1e3, f"{name}: {added}"
        return added

    def internal(self, name: str) -> int:
        """The counter `tierwise.internal.NAME`, all places together."""
        data = self.reader.get_metrics_data()
        if data is None:
            return 0
        return sum(
            int(point.value)  # type: ignore[union-attr]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"tierwise.internal.{name}"
            for point in metric.data.data_points
        )

    def close(self) -> None:
        """End tierwise, then the clients; a second time does nothing."""
        tierwise.shutdown()
        if self._closed:
            return
        self._closed = True
        self._runner.run(self.seen_async.close())
        self._runner.run(self.bare_async.close())
        self._runner.close()
        self.seen.close()
        self.bare.close()

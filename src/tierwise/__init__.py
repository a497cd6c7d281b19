"""tierwise: choose the language model of each task by measurement.

import tierwise
client = tierwise.instrument(OpenAI())
with tierwise.task("strict-json"):
    client.chat.completions.create(...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

import tierwise.instrument  # noqa: F401 - before the function of that name, which takes the package's place here
from tierwise.core.errors import ConfigError, EvidenceError, RouteError, StoreError, TierwiseError

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from tierwise.core.policy import Policy
    from tierwise.evidence.sqlite import SqliteStore
    from tierwise.instrument.checks import check as check
    from tierwise.instrument.context import task as task

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "EvidenceError",
    "RouteError",
    "StoreError",
    "TierwiseError",
    "check",
    "force_flush",
    "instrument",
    "open_store",
    "shutdown",
    "task",
    "uninstrument",
]

Client = TypeVar("Client")


@overload
def instrument(
    client: None = None,
    *,
    task: str | None = None,
    config: str | Path | Policy | None = None,
    store: str | Path | SqliteStore | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    stream_usage: bool | None = None,
) -> None: ...
@overload
def instrument(
    client: Client,
    *,
    task: str | None = None,
    config: str | Path | Policy | None = None,
    store: str | Path | SqliteStore | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    stream_usage: bool | None = None,
) -> Client: ...
def instrument(
    client: Client | None = None,
    *,
    task: str | None = None,
    config: str | Path | Policy | None = None,
    store: str | Path | SqliteStore | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    stream_usage: bool | None = None,
) -> Client | None:
    """Observe every call of an OpenAI-compatible client; returns the same object, so it fits on one line.

    Without a client every client of a known package (openai, groq, together, cerebras) that is made later is observed.
    The module `openai` itself stands for the client behind `openai.chat`. Other clients are observed by the methods they
    have (`.chat.completions.create` and its like), the module `litellm` by its functions; a function such as
    `litellm.completion` gives an observed function to call in its place.

    `task` names the work of calls outside any `tierwise.task(...)`. `config` is the path of a tierwise.yaml or a policy;
    without it `TIERWISE_CONFIG`, then the nearest tierwise.yaml upward is read. `store` is a path, an open store or
    `"off"`; without it `TIERWISE_STORE`, then `.tierwise/tierwise.db` beside the project is used. Providers override
    OpenTelemetry's global ones, which are used when the application set them and never replaced. `stream_usage` asks
    for token counts of streams always (`True`), never (`False`) or from hosts known to accept it (`None`).

    Instrumenting again replaces the settings and is still one span a call. Raises `ConfigError` for broken
    configuration or a client of another shape and `StoreError` for a store that was named and cannot be used; a call is
    never failed by tierwise.
    """
    from tierwise import runtime

    found: Client | None = runtime.instrument_clients(
        client,
        task=task,
        config=config,
        store=store,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        logger_provider=logger_provider,
        stream_usage=stream_usage,
    )
    return found


@overload
def uninstrument(client: None = None) -> None: ...
@overload
def uninstrument(client: Client) -> Client: ...
def uninstrument(client: Client | None = None) -> Client | None:
    """Undo `instrument` entirely: the client has its own class again and nothing of ours. Returns the same object.

    Without a client, clients made from now on are left alone; those made before stay observed.
    """
    from tierwise import runtime

    found: Client | None = runtime.uninstrument_clients(client)
    return found


def force_flush(timeout_s: float = 5.0) -> bool:
    """Write every finished call to the store and the exporters; false when that took longer than `timeout_s` seconds."""
    from tierwise import runtime

    return runtime.force_flush(timeout_s)


def shutdown() -> None:
    """Flush and stop the background work; clients instrumented before go on without being recorded."""
    from tierwise import runtime

    runtime.shutdown()


def open_store(path: str | Path | None = None) -> SqliteStore:
    """The embedded store, opened for reading: `tierwise.open_store().calls()`.

    `path` defaults to where `instrument()` writes. Raises `StoreError` when there is none.
    """
    from tierwise import runtime

    return runtime.open_store(path)


def __getattr__(name: str) -> object:
    # What the application calls first loads what it needs: `import tierwise` alone costs next to nothing.
    if name == "check":
        from tierwise.instrument.checks import check

        return check
    if name == "task":
        from tierwise.instrument.context import task

        return task
    raise AttributeError(f"module 'tierwise' has no attribute {name!r}")

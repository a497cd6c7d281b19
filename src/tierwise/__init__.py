"""tierwise: choose the language model of each task by measurement.

import tierwise
client = tierwise.instrument(OpenAI())
with tierwise.task("strict-json"):
    client.chat.completions.create(...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

import tierwise.instrument  # noqa: F401 - before the function of that name, which takes the package's place here
from tierwise.core.about import VERSION
from tierwise.core.errors import ConfigError, EvidenceError, ReceiptError, RouteError, StoreError, TierwiseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from tierwise.advisor import Plan
    from tierwise.core.policy import Policy
    from tierwise.evidence.sqlite import SqliteStore
    from tierwise.instrument.checks import check as check
    from tierwise.instrument.context import task as task

__version__ = VERSION
__all__ = [
    "ConfigError",
    "EvidenceError",
    "ReceiptError",
    "RouteError",
    "StoreError",
    "TierwiseError",
    "check",
    "feedback",
    "force_flush",
    "instrument",
    "open_store",
    "plan",
    "receipt",
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
    upstreams: Mapping[str, Any] | None = None,
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
    upstreams: Mapping[str, Any] | None = None,
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
    upstreams: Mapping[str, Any] | None = None,
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
    for token counts of streams always (`True`), never (`False`) or from hosts known to accept it (`None`). `upstreams`
    are further clients by name, for candidates of the policy's `models:` that name one: `{"groq": Groq()}`.

    With a policy or a route file, `model="auto"` asks for the route of the call's task.

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
        upstreams=upstreams,
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


def receipt(response: object) -> str:
    """A short text that stands for a call, to keep anywhere and give to `feedback` when the verdict on its answer is there.

    `response` is what an instrumented client returned: a response, a parsed one, a raw one, or a stream that has been read
    to its end. The text names task, model, time and cost of the call; it holds nothing of prompt or answer. With
    `TIERWISE_RECEIPT_KEY` set it is signed. It is taken for 90 days.

    Raises `ReceiptError` for anything else, or before a stream's end, and `ConfigError` for a key that is too short.
    """
    from tierwise.verdicts import receipt_text

    return receipt_text(response)


def feedback(
    receipt: object,
    *,
    accepted: bool | None = None,
    score: float | None = None,
    comment: str | None = None,
    store: str | Path | SqliteStore | None = None,
) -> None:
    """Tell what became of an answer: whether it was accepted, a score from 0 to 1, a comment, or several of these.

    `receipt` is the text from `receipt(...)`, in any process and up to 90 days later, or the response itself. A rejected
    answer was no success, whatever it looked like: it counts so in the hour of its call. The same verdict again changes
    nothing, another one takes its place, and on calls of one run it is one verdict. Nothing is written here and now: the
    verdict joins the queue of finished calls. `store` is where, as in `instrument`.

    Raises `ReceiptError` for a receipt that is none, forged or too old, `ConfigError` for wrong arguments or a store that
    cannot be found out, `StoreError` for one that was named and cannot be used.
    """
    from tierwise.verdicts import give_feedback

    give_feedback(receipt, accepted=accepted, score=score, comment=comment, store=store)


def force_flush(timeout_s: float = 5.0) -> bool:
    """Write every finished call to the store and the exporters; false when that took longer than `timeout_s` seconds."""
    from tierwise import runtime

    return runtime.force_flush(timeout_s)


def shutdown() -> None:
    """Flush and stop the background work; clients instrumented before go on without being recorded."""
    from tierwise import runtime

    runtime.shutdown()


def open_store(path: str | Path | None = None) -> SqliteStore:
    """The embedded store, opened for reading: `tierwise.open_store().calls()`, and `.calls().to_pandas()` for a data frame.

    `path` defaults to where `instrument()` writes. Raises `StoreError` when there is none.
    """
    from tierwise import runtime

    return runtime.open_store(path)


def plan(
    tasks: Sequence[str] | None = None,
    *,
    since_s: float | None = 30 * 86_400,
    config: str | Path | None = None,
    store: str | Path | None = None,
) -> Plan:
    """What `tierwise plan` recommends, as values: a route for each task (or those named), with reasons and numbers.

    Evidence is that of the last `since_s` seconds, by default 30 days; `None` is all of it. `config` and `store` are paths,
    found as `instrument` finds them when not given. Nothing is changed.

    Raises `ConfigError` for a broken policy, `StoreError` for a store that is missing or empty, `RouteError` for a broken
    route file and `EvidenceError` for a task that nobody knows.
    """
    from tierwise.advisor.local import local_plan

    return local_plan(tasks, since_s=since_s, config=config, store=store)


def __getattr__(name: str) -> object:
    # What the application calls first loads what it needs: `import tierwise` alone costs next to nothing.
    if name == "check":
        from tierwise.instrument.checks import check

        return check
    if name == "task":
        from tierwise.instrument.context import task

        return task
    raise AttributeError(f"module 'tierwise' has no attribute {name!r}")

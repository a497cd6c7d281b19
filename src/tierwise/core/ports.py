"""The Protocols through which outer layers hand their abilities to inner ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tierwise.core.call import Call, Content, Request, Run, TaskContext
from tierwise.core.cost import Rates
from tierwise.core.route import Draw

if TYPE_CHECKING:
    from tierwise.core.receipt import Verdict

ParseJson = Callable[[str], object]
"""Strict RFC 8259 parser: returns the value, raises `ValueError` for anything else (NaN, trailing text, depth over 200)."""

IsJson = Callable[[str], bool]
"""True only for a text that `ParseJson` parses; may be false for one that it does. Cheaper, since no value is made."""

SchemaCheck = Callable[[object], bool]
"""True when a parsed JSON value holds the schema; never raises."""

CompileSchema = Callable[[Mapping[str, object]], SchemaCheck]
"""Compiles a JSON Schema; raises `ValueError` naming what is wrong with it."""


class PriceBook(Protocol):
    """Looks up what a model's tokens cost."""

    @property
    def ready(self) -> bool:
        """False while the catalogue is still loading in the background."""
        ...

    def rates(
        self, *, provider: str, model: str, service_tier: str | None, response_model: str | None = None
    ) -> Rates | None:
        """The rates in force now, or `None` for a model without a known price (remembered, warned about once).

        An override for the request model wins, then one for the response model, then the catalogue's entry for the
        response model, then for the request model.
        """
        ...


class Router(Protocol):
    """Says where the runs of `model="auto"` go. May raise; the call then goes to the default model."""

    @property
    def configured(self) -> bool:
        """Whether there is anything to route by: else `auto` is a model's name as any other."""
        ...

    def settled(self, context: TaskContext) -> Draw | None:
        """What every run of a task starts with, where that depends on nothing else; else `None`, and `draw` says."""
        ...

    def draw(self, context: TaskContext, body: Mapping[str, Any], run_id: str) -> Draw | None:
        """What a run starts with, the same for the same run id and route table; `None` where nothing is known."""
        ...

    def challenger(self, draw: Draw, run_id: str) -> str | None:
        """The candidate that gets the run's prompt as well, in its shadow; `None` for most runs."""
        ...


class Sink(Protocol):
    """Receives finished calls, runs and verdicts in batches on the worker's thread."""

    def write(self, batch: Sequence[Call | Run | Verdict]) -> None:
        """Record a batch; may raise, the worker counts and logs it."""
        ...

    def flush(self) -> None:
        """Make everything written so far durable or exported."""
        ...

    def close(self) -> None:
        """Release resources; nothing is written afterwards."""
        ...


class Span(Protocol):
    """The part of an OpenTelemetry span that the hook needs; opaque to it otherwise."""

    def is_recording(self) -> bool: ...


class PriceLater(Protocol):
    """What prices a call that ended while the catalogue was still loading; exactly one of the two is called, once."""

    def __call__(self, call: Call) -> Call:
        """The priced call; may wait for the catalogue and may raise."""
        ...

    def skip(self, call: Call) -> None:
        """Nobody will price this call (the queue is full): it stays as it is."""
        ...


class Recorder(Protocol):
    """Turns a call into telemetry: `start` before the request, `finish` exactly once after it."""

    def start(self, request: Request, context: TaskContext, started_at_ns: int) -> Span:
        """Start a CLIENT span (a no-op span where nothing records)."""
        ...

    def activate(self, span: Span) -> object:
        """Make the span current on this thread or task; returns a token for `deactivate`."""
        ...

    def deactivate(self, token: object) -> None:
        """Undo `activate`; never raises."""
        ...

    def ids(self, span: Span) -> tuple[int, int]:
        """(trace id, span id), zeros when the span is not valid."""
        ...

    @property
    def captures_content(self) -> bool:
        """Whether the application asked for prompts and answers to be recorded (off by default)."""
        ...

    def finish(
        self,
        span: Span,
        call: Call,
        *,
        price_later: PriceLater | None = None,
        content: Content | None = None,
    ) -> None:
        """Set the remaining attributes, end the span and queue the call for metrics and store.

        With `price_later` (the catalogue is still loading) the worker prices the call, then ends the span with its
        true end time.
        """
        ...

    def finish_run(self, run: Run) -> None:
        """Queue a finished run of several calls."""
        ...

    def feedback(self, verdict: Verdict, *, counted: bool = True) -> None:
        """Queue a verdict on a call; `counted` is false for one that has been counted before."""
        ...

    def start_run(self, context: TaskContext, started_at_ns: int) -> Span:
        """Start the INTERNAL span of a run, the parent of its calls' spans."""
        ...

    def end_run(self, span: Span, run: Run | None) -> None:
        """End a run's span with what became of it; `None`: not one call was recorded."""
        ...

    def internal_error(self, where: str, error: BaseException) -> None:
        """Log once per place and count a fault inside tierwise; re-raises when TIERWISE_RAISE=1."""
        ...

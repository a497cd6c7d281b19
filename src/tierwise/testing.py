"""Public helpers for tests of applications that use tierwise: an in-memory recorder, fixed prices, canned answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from tierwise.core.call import Call, Content, Request, Run, TaskContext
from tierwise.core.cost import Rates
from tierwise.core.policy import Policy
from tierwise.core.ports import PriceLater
from tierwise.core.receipt import Verdict
from tierwise.core.records import dataclass
from tierwise.core.route import RouteTable


@dataclass(slots=True)
class MemorySpan:
    """A span that remembers its request and whether it was ended."""

    request: Request
    context: TaskContext
    ended: int = 0

    def is_recording(self) -> bool:
        """Always true."""
        return True


@dataclass(slots=True)
class MemoryRunSpan:
    """The span of a run, which remembers what became of it."""

    context: TaskContext
    run: Run | None = None
    ended: int = 0

    def is_recording(self) -> bool:
        """Always true."""
        return True


@dataclass(slots=True)
class MemoryRecorder:
    """Keeps finished calls in lists; implements `tierwise.core.ports.Recorder`."""

    calls: list[Call] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    spans: list[MemorySpan] = field(default_factory=list)
    run_spans: list[MemoryRunSpan] = field(default_factory=list)
    errors: list[tuple[str, BaseException]] = field(default_factory=list)
    active: int = 0
    captures_content: bool = False
    contents: list[Content | None] = field(default_factory=list)

    def start(self, request: Request, context: TaskContext, started_at_ns: int) -> MemorySpan:
        """Remember a new span."""
        span = MemorySpan(request, context)
        self.spans.append(span)
        return span

    def activate(self, span: object) -> object:
        """Count a span in."""
        self.active += 1
        return span

    def deactivate(self, token: object) -> None:
        """Count a span out."""
        self.active -= 1

    def ids(self, span: object) -> tuple[int, int]:
        """No ids: nothing is exported."""
        return (0, 0)

    def finish(
        self,
        span: Any,
        call: Call,
        *,
        price_later: PriceLater | None = None,
        content: Content | None = None,
    ) -> None:
        """Keep a finished call, priced, and its content when that was asked for."""
        span.ended += 1
        self.contents.append(content)
        self.calls.append(call if price_later is None else price_later(call))

    def finish_run(self, run: Run) -> None:
        """Keep a finished run."""
        self.runs.append(run)

    def feedback(self, verdict: Verdict, *, counted: bool = True) -> None:
        """Keep a verdict on a call."""
        self.verdicts.append(verdict)

    def start_run(self, context: TaskContext, started_at_ns: int) -> MemoryRunSpan:
        """Remember the span of a new run."""
        span = MemoryRunSpan(context)
        self.run_spans.append(span)
        return span

    def end_run(self, span: Any, run: Run | None) -> None:
        """Keep what became of a run on its span."""
        span.ended += 1
        span.run = run

    def internal_error(self, where: str, error: BaseException) -> None:
        """Keep a fault inside tierwise."""
        self.errors.append((where, error))


@dataclass(slots=True)
class FixedPrices:
    """A price book with the same rates for every model, or none."""

    fixed: Rates | None = None
    ready: bool = True

    def rates(
        self, *, provider: str, model: str, service_tier: str | None, response_model: str | None = None
    ) -> Rates | None:
        """The fixed rates."""
        return self.fixed


def instrument_in_memory(
    client: Any,
    *,
    task: str | None = None,
    policy: Policy | None = None,
    prices: FixedPrices | None = None,
    stream_usage: bool | None = None,
    recorder: MemoryRecorder | None = None,
    routes: RouteTable | None = None,
    upstreams: Mapping[str, Any] | None = None,
) -> MemoryRecorder:
    """Instrument a client so that its calls end in a `MemoryRecorder`: no store, no exporter, no background thread.

    `model="auto"` follows `routes`, else the order of the candidates in `policy`; shadows run in the background.
    """
    from tierwise.instrument import stainless
    from tierwise.instrument.checks import checks_for
    from tierwise.instrument.hook import Wiring
    from tierwise.instrument.parsing import compile_schema, is_json, parse_json
    from tierwise.routing import Router

    recorder = MemoryRecorder() if recorder is None else recorder
    known = policy or Policy()
    table = routes or RouteTable()
    wiring = Wiring(
        recorder=recorder,
        prices=prices or FixedPrices(),
        parse_json=parse_json,
        is_json=is_json,
        compile_schema=compile_schema,
        policy_for=known.for_task,
        checks_for=checks_for,
        candidate_params={name: spec.params for name, spec in known.models.items()},
        stream_usage=stream_usage,
        router=Router(known, lambda: table),
        models=known.models,
        upstreams=dict(upstreams or {}),
        default_model=known.default_model,
        first_candidates=known.first_candidates,
    )
    stainless.instrument(client, wiring, task)
    return recorder


def chat_body(content: str | None = "Hello.", **changes: object) -> dict[str, Any]:
    """A chat completion as a provider would send it; `changes` replace top-level fields, `message` the message's."""
    message = {"role": "assistant", "content": content}
    extra = changes.pop("message", None)
    if isinstance(extra, Mapping):
        message.update(extra)
    finish_reason = changes.pop("finish_reason", "stop")
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    } | changes


def chat_chunks(
    parts: Sequence[str], *, finish_reason: str | None = "stop", usage: bool = True
) -> list[dict[str, Any]]:
    """The chunks of a streamed chat completion: one per part, one with the finish reason, one with usage alone."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini-2025-08-07"}

    def chunk(delta: Mapping[str, object], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": dict(delta), "finish_reason": reason, "logprobs": None}]}

    chunks = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": part}) for part in parts)]
    if finish_reason is not None:
        chunks.append(chunk({}, finish_reason))
    if usage:
        counts = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
        chunks.append({**head, "choices": [], "usage": counts})
    return chunks

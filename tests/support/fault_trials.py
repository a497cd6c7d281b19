"""Calls with faults injected inside tierwise, compared with calls of the bare client."""

from __future__ import annotations

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
from support.call_kinds import Kind, Prepare, bare, kinds
from support.faults import Faults, Injected, Place
from tierwise.core.policy import Condition, Ladder, Policy, Review, TaskPolicy
from tierwise.instrument.background import open_responses
from tierwise.instrument.checks import check, forget_checks
from tierwise.instrument.context import current_scope
from tierwise.instrument.entering import current
from tierwise.testing import FixedPrices

_PRICES: Final = {"gpt-5-mini": {"input": 0.25, "output": 2.0}, "gpt-5": {"input": 1.25, "output": 10.0}}
_TWO: Final = ("gpt-5-mini", "gpt-5")
_CONDITIONS: Final = (Condition(candidates=("gpt-5",), min_input_tokens=100_000, tools=True),)
_LADDER: Final = Ladder(
    escalate_on=("json_invalid", "empty"), cleanup=("json_fenced",), confidence_field="a", min_confidence=0.5,
    min_mean_logprob=-9.0, min_check_score=0.1,
)  # fmt: skip
_REVIEW: Final = Review(model="gpt-5", draft="gpt-5-mini")


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
                prices=_PRICES,
                tasks={
                    "policy": TaskPolicy(task="policy", candidates=("gpt-5-mini",), expects="json"),
                    "routed": TaskPolicy(task="routed", candidates=_TWO, explore=0.0, conditions=_CONDITIONS),
                    "climbing": TaskPolicy(task="climbing", candidates=_TWO, ladder=_LADDER),
                    "reviewed": TaskPolicy(task="reviewed", candidates=_TWO, risk="high", review=_REVIEW),
                    "shadowed": TaskPolicy(task="shadowed", candidates=_TWO, shadow=1.0),
                },
                default_model="gpt-5-mini",
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
    "instrument.dialects.chatstream.ChatStream.see",
    "instrument.proxies._stand_in",
    "instrument.drawing.QuickRun.attempt",
    "instrument.drawing.routed_run",
    "instrument.ladder.RoutedRun.attempt",
    "routing.router.Router.draw",
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
    "routed",
    "routed_after_an_error",
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
        open_responses.give_up()
        if place is None and kind.name in _FLUSHED:
            flushed: dict[str, set[str]] = defaultdict(set)
            self.faults.watch(flushed)
            tierwise.force_flush()
            self.faults.watch(None)
            for name, ran_on in flushed.items():
                if ran_on - {_HERE, "tierwise-export"}:  # the flush is ours, what it wakes is not
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
            open_responses.give_up()
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

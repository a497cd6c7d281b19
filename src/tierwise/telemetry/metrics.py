"""Calls, runs and verdicts as metrics: SDK histograms for distributions, observable counters over our own sums."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics as metrics_api
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import INVALID_SPAN, Span, set_span_in_context

from tierwise.core.route import RouteTable
from tierwise.telemetry import semconv as sc
from tierwise.telemetry.quick import Record, recorder_of
from tierwise.telemetry.series import (
    SERIES_LIMIT,
    TOKEN_KINDS,
    Attributes,
    CallKey,
    CallRow,
    Cell,
    CheckRow,
    FeedbackKey,
    FeedbackRow,
    GenAiKey,
    GenAiRow,
    RunKey,
    RunRow,
    Series,
    call_key,
    clean,
    countable,
    fold_call,
    fold_check,
    fold_feedback,
    fold_gen_ai,
    fold_run,
    fold_token,
    gen_ai_key,
    run_key,
)  # fmt: skip

if TYPE_CHECKING:
    from tierwise.core.call import Call, Run, Usage

OPT_IN_VARIABLE: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
OPT_IN: Final = "gen_ai_latest_experimental"

# An empty context would make the SDK take whatever span is current on the collecting thread as exemplar.
_NO_EXEMPLAR: Final = set_span_in_context(INVALID_SPAN, Context())
_EMPTY: Final = Context()

# By identity: a provider need not be hashable (Logfire's is not).
_tables: dict[int, tuple[weakref.ref[MeterProvider], MetricTable]] = {}
_proxy_table: list[MetricTable] = []
_tables_lock = threading.Lock()


def metric_table(provider: MeterProvider, *, version: str = "", series_limit: int = SERIES_LIMIT) -> MetricTable:
    """The table of a meter provider, the same for every runtime that uses it: the SDK ignores a second registration
    of an instrument, and cumulative sums must outlive the runtime that counted them."""
    with _tables_lock:
        current = metrics_api.get_meter_provider()
        proxy = type(provider).__name__ == "_ProxyMeterProvider"
        if _proxy_table and (proxy or provider is current):
            return _proxy_table[0]
        known = _tables.get(id(provider))
        if known is not None and known[0]() is provider:
            return known[1]
        table = MetricTable(provider.get_meter(sc.SCOPE, version or None), series_limit=series_limit)
        place = id(provider)
        _tables[place] = (weakref.ref(provider, lambda _: _tables.pop(place, None)), table)
        if proxy:
            _proxy_table.append(table)
        return table


class _Instruments:
    """The SDK histograms in use, after the conventions' opt-in variable."""

    __slots__ = (
        "call_duration", "call_ttfc", "duration", "embeddings_duration", "input_tokens", "output_tokens",
        "per_chunk", "token_usage", "ttfc",
    )  # fmt: skip

    def __init__(self, meter: Meter, *, released: bool, latest: bool) -> None:
        def histograms(*wanted: tuple[bool, sc.Metric]) -> tuple[Record, ...]:
            return tuple(_histogram(meter, metric) for use, metric in wanted if use)

        operation_duration = _histogram(meter, sc.OPERATION_DURATION)
        self.embeddings_duration = (operation_duration,)
        self.duration = ((operation_duration,) if released else ()) + histograms((latest, sc.INFERENCE_DURATION))
        self.ttfc = histograms((released, sc.OPERATION_TIME_TO_FIRST_CHUNK), (latest, sc.INFERENCE_TIME_TO_FIRST_CHUNK))
        self.per_chunk = histograms(
            (released, sc.OPERATION_TIME_PER_OUTPUT_CHUNK), (latest, sc.INFERENCE_TIME_PER_OUTPUT_CHUNK)
        )
        self.token_usage = _histogram(meter, sc.TOKEN_USAGE) if released else None
        self.input_tokens = _histogram(meter, sc.INFERENCE_INPUT_TOKENS) if latest else None
        self.output_tokens = _histogram(meter, sc.INFERENCE_OUTPUT_TOKENS) if latest else None
        self.call_duration = _histogram(meter, sc.CALL_DURATION)
        self.call_ttfc = _histogram(meter, sc.CALL_TIME_TO_FIRST_CHUNK)


def _histogram(meter: Meter, metric: sc.Metric) -> Record:
    return recorder_of(
        meter.create_histogram(
            metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.edges
        )
    )


class MetricTable:
    """Records finished calls, runs and verdicts under one lock; a collection first drains what still waits.

    Everything that records holds `lock`. A collection's callbacks run before the SDK reads the histograms: each calls
    the registered drains, then takes the lock, so that a call which another thread is just recording is complete.
    """

    def __init__(self, meter: Meter, *, series_limit: int = SERIES_LIMIT) -> None:
        opted = {part.strip() for part in os.environ.get(OPT_IN_VARIABLE, "").split(",")}
        both = f"{OPT_IN}/dup" in opted
        self._latest = both or OPT_IN in opted
        self._limit = series_limit
        self._drains: tuple[Callable[[], None], ...] = ()
        self._routes: RouteTable | None = None
        self._noted: deque[tuple[str, str, int]] = deque()
        self.lock = threading.Lock()
        self._clear()
        self._register(meter)
        self._instruments = _Instruments(meter, released=both or not self._latest, latest=self._latest)

    def _clear(self) -> None:
        limit = self._limit
        self._calls: Series[CallKey, CallRow] = Series(limit=limit, make=CallRow, fold=fold_call, on_fold=self._folded)
        self._tokens: Series[tuple[CallKey, str], Cell] = Series(
            limit=limit, make=_token_cell, fold=fold_token, on_fold=self._folded
        )
        self._checks: Series[tuple[CallKey, str], CheckRow] = Series(
            limit=limit, make=CheckRow, fold=fold_check, on_fold=self._folded
        )
        self._runs: Series[RunKey, RunRow] = Series(limit=limit, make=RunRow, fold=fold_run, on_fold=self._folded)
        self._feedback: Series[FeedbackKey, FeedbackRow] = Series(
            limit=limit, make=FeedbackRow, fold=fold_feedback, on_fold=self._folded
        )
        # Two token types share one instrument, hence half the room.
        self._gen_ai: Series[GenAiKey, GenAiRow] = Series(
            limit=limit // 2, make=GenAiRow, fold=fold_gen_ai, on_fold=self._folded
        )
        self._usage: dict[tuple[GenAiKey, str], Cell] = {}
        self._internal: dict[str, Counter[str]] = {"errors": Counter(), "dropped": Counter()}

    # --- what others tell us -----------------------------------------------------------------------------------------

    def add_drain(self, drain: Callable[[], None]) -> None:
        """Have a collection call `drain` first; it must record what waits through this table."""
        self._drains = (*self._drains, drain)

    def remove_drain(self, drain: Callable[[], None]) -> None:
        """Undo `add_drain`."""
        self._drains = tuple(known for known in self._drains if known != drain)

    def after_fork_in_child(self) -> None:
        """Start from nothing with a lock of our own: the parent keeps what it counted."""
        self.lock = threading.Lock()
        self._noted.clear()
        self._clear()

    def set_routes(self, routes: RouteTable | None) -> None:
        """Show these routes as `tierwise.route.info`."""
        self._routes = routes

    def count_error(self, where: str) -> None:
        """Count a fault inside tierwise; takes no lock, so a finaliser may call it anywhere."""
        self._noted.append(("errors", where, 1))

    def count_dropped(self, where: str, number: int = 1) -> None:
        """Count what was left out; takes no lock."""
        self._noted.append(("dropped", where, number))

    def internal(self, kind: str) -> dict[str, int]:
        """Counts by place of `errors` or `dropped`."""
        with self.lock:
            self._take_notes()
            return dict(self._internal[kind])

    def _folded(self) -> None:
        self.count_dropped(sc.DROPPED_CARDINALITY)

    def _take_notes(self) -> None:
        while self._noted:
            kind, where, number = self._noted.popleft()
            self._internal[kind][where] += number

    # --- recording; callers hold the lock ----------------------------------------------------------------------------

    def record(self, call: Call, span: Span | None) -> None:
        """Record one finished call; `span` gives the exemplars of the durations. The caller holds `lock`."""
        key = call_key(call)
        row = self._calls.row(key)
        row.calls += 1
        cost = call.cost
        if cost is not None:
            row.priced += 1
            row.cost += cost.amount_usd
            row.cost_squared += cost.amount_usd * cost.amount_usd
        if call.retries:
            row.retries += call.retries
            row.retried += 1
        if call.checks:
            self._record_checks(key, call)
        error_type = error_type_of(call)
        gen_ai = gen_ai_key(call, error_type)
        names = self._gen_ai.row(gen_ai)
        context = _NO_EXEMPLAR if span is None else set_span_in_context(span, _EMPTY)
        instruments = self._instruments
        duration_s = max(call.duration_s, 0.0)
        embeddings = call.request.operation == sc.OPERATION_EMBEDDINGS
        for record in instruments.embeddings_duration if embeddings else instruments.duration:
            record(duration_s, names.duration_attributes, context)
        instruments.call_duration(duration_s, row.histogram_attributes, context)
        first_s = call.time_to_first_chunk_s
        if first_s is not None:
            self._record_stream(call, first_s, names, row, context)
        if call.usage is not None:
            self._record_usage(call.usage, key, row, gen_ai, names, embeddings)

    def _record_stream(self, call: Call, first_s: float, names: GenAiRow, row: CallRow, context: Context) -> None:
        for record in self._instruments.ttfc:
            record(first_s, names.attributes, context)
        self._instruments.call_ttfc(first_s, row.histogram_attributes, context)
        if call.time_per_output_chunk_s is not None:
            for record in self._instruments.per_chunk:
                record(call.time_per_output_chunk_s, names.attributes, context)

    def _record_usage(
        self, usage: Usage, key: CallKey, row: CallRow, gen_ai: GenAiKey, names: GenAiRow, embeddings: bool
    ) -> None:
        counts = (
            usage.input_tokens, None if embeddings else usage.output_tokens, usage.cache_read_tokens,
            usage.cache_write_tokens, usage.reasoning_tokens,
        )  # fmt: skip
        tokens = row.tokens
        for kind, reported in zip(TOKEN_KINDS, counts, strict=True):
            if reported is None or (count := countable(reported)) is None:
                continue
            cell = tokens.get(kind)
            if cell is None:
                cell = tokens[kind] = self._tokens.row((key, kind))
            cell.value = count if cell.value is None else cell.value + count
            if self._latest and not embeddings:
                self._add_usage(gen_ai, names, kind, count)
        self._record_token_histograms(countable(counts[0]), countable(counts[1]), names, embeddings)

    def _record_token_histograms(
        self, read: int | None, written: int | None, names: GenAiRow, embeddings: bool
    ) -> None:
        instruments = self._instruments
        usage = instruments.token_usage
        if usage is not None:
            if read is not None:
                usage(read, names.input_attributes, _NO_EXEMPLAR)
            if written is not None:
                usage(written, names.output_attributes, _NO_EXEMPLAR)
        if instruments.input_tokens is not None and instruments.output_tokens is not None and not embeddings:
            if read is not None:
                instruments.input_tokens(read, names.attributes, _NO_EXEMPLAR)
            if written is not None:
                instruments.output_tokens(written, names.attributes, _NO_EXEMPLAR)

    def _add_usage(self, gen_ai: GenAiKey, names: GenAiRow, kind: str, count: int) -> None:
        key: tuple[GenAiKey, str] = ((*gen_ai[:6], None), kind)
        if key not in self._usage and len(self._usage) >= self._limit:
            key = (fold_gen_ai(key[0], 1), kind)
            names = GenAiRow(key[0])
        cell = self._usage.get(key)
        if cell is None:
            cell = self._usage[key] = Cell(names.attributes)
        cell.value = count if cell.value is None else cell.value + count

    def _record_checks(self, key: CallKey, call: Call) -> None:
        # A check's sums need neither outcome nor JSON form: fewer series.
        first = (*key[:8], "", None, False)
        for result in call.checks:
            row = self._checks.row((first, clean(result.name)))
            row.count += 1
            row.score += result.score

    def record_run(self, run: Run) -> None:
        """Record one finished run. The caller holds `lock`."""
        row = self._runs.row(run_key(run))
        row.runs += 1
        row.calls += run.calls
        row.duration_s += max(run.duration_s, 0.0)
        if run.calls > 1:
            row.escalated += 1
        if run.cost_usd is not None:
            row.priced += 1
            row.cost += run.cost_usd
            row.cost_squared += run.cost_usd * run.cost_usd

    def record_feedback(self, key: FeedbackKey) -> None:
        """Record one verdict. The caller holds `lock`."""
        self._feedback.row(key).count += 1

    # --- collection --------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Record everything that waits in the registered queues."""
        for drain in self._drains:
            drain()

    def _register(self, meter: Meter) -> None:
        def counter(metric: sc.Metric, read: Callable[[], Iterable[tuple[float | int, Attributes]]]) -> None:
            def observe(_: CallbackOptions) -> Sequence[Observation]:
                self.drain()
                with self.lock:
                    return [Observation(value, attributes) for value, attributes in read()]

            meter.create_observable_counter(metric.name, [observe], metric.unit, metric.description)

        counter(sc.CALLS, lambda: ((row.calls, row.attributes) for row in self._calls.rows.values()))
        counter(sc.CALL_PRICED, lambda: ((row.priced, row.attributes) for row in self._calls.rows.values()))
        counter(sc.CALL_COST, lambda: ((r.cost, r.attributes) for r in self._calls.rows.values() if r.priced))
        counter(
            sc.CALL_COST_SQUARED,
            lambda: ((row.cost_squared, row.attributes) for row in self._calls.rows.values() if row.priced),
        )
        counter(sc.CALL_RETRIES, lambda: ((row.retries, row.attributes) for row in self._calls.rows.values()))
        counter(sc.CALL_RETRIED, lambda: ((row.retried, row.attributes) for row in self._calls.rows.values()))
        counter(sc.CALL_TOKENS, lambda: _cells(self._tokens.rows.values()))
        counter(sc.CHECK_SCORE, lambda: ((row.score, row.attributes) for row in self._checks.rows.values()))
        counter(sc.CHECK_COUNT, lambda: ((row.count, row.attributes) for row in self._checks.rows.values()))
        counter(sc.FEEDBACK, lambda: ((row.count, row.attributes) for row in self._feedback.rows.values()))
        counter(sc.RUN_COUNT, lambda: ((row.runs, row.attributes) for row in self._runs.rows.values()))
        counter(sc.RUN_CALLS, lambda: ((row.calls, row.attributes) for row in self._runs.rows.values()))
        counter(sc.RUN_ESCALATED, lambda: ((row.escalated, row.attributes) for row in self._runs.rows.values()))
        counter(sc.RUN_PRICED, lambda: ((row.priced, row.attributes) for row in self._runs.rows.values()))
        counter(sc.RUN_COST, lambda: ((r.cost, r.attributes) for r in self._runs.rows.values() if r.priced))
        counter(
            sc.RUN_COST_SQUARED,
            lambda: ((row.cost_squared, row.attributes) for row in self._runs.rows.values() if row.priced),
        )
        counter(sc.RUN_DURATION, lambda: ((row.duration_s, row.attributes) for row in self._runs.rows.values()))
        if self._latest:
            for kind, metric in sc.INFERENCE_USAGE.items():
                counter(metric, partial(self._used, kind))
        counter(sc.INTERNAL_ERRORS, lambda: self._internal_counts("errors"))
        counter(sc.INTERNAL_DROPPED, lambda: self._internal_counts("dropped"))
        info = sc.ROUTE_INFO
        meter.create_observable_gauge(info.name, [self._observe_routes], info.unit, info.description)

    def _used(self, kind: str) -> Iterable[tuple[float | int, Attributes]]:
        return _cells(cell for key, cell in self._usage.items() if key[1] == kind)

    def _internal_counts(self, kind: str) -> list[tuple[float | int, Attributes]]:
        self._take_notes()
        return [(number, {sc.WHERE: where}) for where, number in self._internal[kind].items()]

    def _observe_routes(self, _: CallbackOptions) -> Sequence[Observation]:
        routes = self._routes
        if routes is None:
            return []
        seen = []
        for task, route in list(routes.routes.items())[: self._limit // 8]:
            roles = [("primary", route.primary), *(("fallback", model) for model in route.fallbacks)]
            if route.canary is not None:
                roles.append(("canary", route.canary.candidate))
            seen += [
                Observation(
                    1,
                    {sc.TASK: clean(task), sc.ROUTE_ROLE: role, sc.CANDIDATE: clean(model), sc.ROUTE_VERSION: routes.version},
                )
                for role, model in roles[:8]
            ]  # fmt: skip
        return seen


def _token_cell(key: tuple[CallKey, str]) -> Cell:
    return Cell(CallRow(key[0]).attributes | {sc.TOKEN_KIND: key[1]})


def _cells(cells: Iterable[Cell]) -> Iterable[tuple[float | int, Attributes]]:
    return ((cell.value, cell.attributes) for cell in cells if cell.value is not None)


def error_type_of(call: Call) -> str | None:
    """`error.type` of a call: its own, or `_OTHER` for an error without a name; `None` for a call that did not fail."""
    if call.error_type is not None:
        return clean(call.error_type) or sc.ERROR_TYPE_OTHER
    return sc.ERROR_TYPE_OTHER if call.outcome in ("error", "rejected") else None

"""Metrics of routes and decisions, for the watch: who serves each task, what was decided last and what it would save."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from opentelemetry import _logs as logs_api
from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api
from opentelemetry.metrics import CallbackOptions, Observation

from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Route, RouteTable
from tierwise.telemetry import semconv as sc
from tierwise.telemetry.series import SERIES_LIMIT, clean
from tierwise.telemetry.setup import Providers, providers

_ROLES: Final = 8
"""Models of one task that the metrics name."""


class _Failures(logging.Handler):
    """Notices that an export failed: the SDK's `force_flush` succeeds all the same, and only its log says so."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen = False

    def emit(self, record: logging.LogRecord) -> None:
        """Remember that there was one."""
        del record
        self.seen = True


class RouteMetrics:
    """Gauges over the last look; each collection shows what `show` was given last.

    Attributes: the task, and on `tierwise.route.info` role, candidate and table version, on `tierwise.decision.info`
    verdict and challenger. An instrument stays under the SDK's limit of series: what is beyond it is left out, fallbacks
    first, then tasks by name.
    """

    def __init__(self, meter_provider: metrics_api.MeterProvider | None = None, *, version: str = "") -> None:
        """Use the given provider, else the application's global one, else one that the `OTEL_*` variables ask for.

        Raises `ConfigError` when the variables ask for something that does not exist.
        """
        self._providers: Providers = providers(
            trace_api.NoOpTracerProvider(), meter_provider, logs_api.NoOpLoggerProvider()
        )
        self._table = RouteTable()
        self._decided: tuple[Recommendation, ...] = ()
        meter = self._providers.meter_provider.get_meter(sc.SCOPE, version or None)
        for metric, read in (
            (sc.ROUTE_INFO, self._info),
            (sc.ROUTE_SHARE, self._share),
            (sc.DECISION_INFO, self._verdicts),
            (sc.DECISION_TIME, self._of(lambda item: item.at)),
            (sc.DECISION_SAVING, self._of(_saving)),
            (sc.DECISION_SAVING_MONTH, self._of(_saving_per_month)),
            (sc.DECISION_RUNS_NEEDED, self._of(lambda item: item.runs_needed)),
        ):
            meter.create_observable_gauge(metric.name, [self._bounded(read)], metric.unit, metric.description)
        looks = sc.WATCH_LOOKS
        self._looks = meter.create_counter(looks.name, looks.unit, looks.description)

    def show(self, recommendations: Sequence[Recommendation], table: RouteTable) -> None:
        """What a look decided and the routes in force after it."""
        self._decided, self._table = tuple(sorted(recommendations, key=lambda item: item.task)), table

    def count_look(self, *, ok: bool) -> None:
        """One more look; `ok` is false for one with an error."""
        self._looks.add(1, {sc.LOOK_RESULT: sc.LOOK_OK if ok else sc.LOOK_FAILED})

    def force_flush(self, timeout_s: float = 5.0) -> bool:
        """Collect and export now; true when everything went out within `timeout_s` seconds."""
        failures = _Failures()
        sdk = logging.getLogger("opentelemetry")
        sdk.addHandler(failures)
        try:
            return self._providers.force_flush(timeout_s) and not failures.seen
        finally:
            sdk.removeHandler(failures)

    def shutdown(self) -> None:
        """Shut down the provider if it was made here."""
        self._providers.shutdown()

    def _bounded(self, read: Callable[[], Iterator[Observation]]) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def observe(_: CallbackOptions) -> Sequence[Observation]:
            return [observation for observation, _ in zip(read(), range(SERIES_LIMIT), strict=False)]

        return observe

    def _info(self) -> Iterator[Observation]:
        named = (
            (place, task, role, model)
            for task, route in self._table.routes.items()
            for place, (role, model) in enumerate(_roles(route)[:_ROLES])
        )
        for _, task, role, model in sorted(named):
            yield Observation(
                1,
                {
                    sc.TASK: clean(task),
                    sc.ROUTE_ROLE: role,
                    sc.CANDIDATE: clean(model),
                    sc.ROUTE_VERSION: self._table.version,
                },
            )

    def _share(self) -> Iterator[Observation]:
        for task, route in sorted(self._table.routes.items()):
            shares = route.propensities or {route.primary: 1.0}
            for model, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))[:_ROLES]:
                yield Observation(share, {sc.TASK: clean(task), sc.CANDIDATE: clean(model)})

    def _verdicts(self) -> Iterator[Observation]:
        for item in self._decided:
            yield Observation(
                1,
                {
                    sc.TASK: clean(item.task),
                    sc.VERDICT: item.verdict,
                    sc.CHALLENGER: clean(item.challenger or ""),
                },
            )

    def _of(self, value: Callable[[Recommendation], float | None]) -> Callable[[], Iterator[Observation]]:
        def read() -> Iterator[Observation]:
            for item in self._decided:
                number = value(item)
                if number is not None:
                    yield Observation(number, {sc.TASK: clean(item.task)})

        return read


def _roles(route: Route) -> list[tuple[str, str]]:
    roles = [("primary", route.primary)]
    if route.canary is not None:
        roles.append(("canary", route.canary.candidate))
    return [*roles, *(("fallback", model) for model in route.fallbacks)]


def _saving(item: Recommendation) -> float | None:
    """A change that is not recommended saves nothing; one whose saving is not known says nothing."""
    return item.saving_per_1000_runs_usd if item.verdict in ("PROMOTE", "TRIAL") else 0.0


def _saving_per_month(item: Recommendation) -> float | None:
    return item.saving_per_month_usd if item.verdict in ("PROMOTE", "TRIAL") else 0.0

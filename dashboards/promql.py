"""PromQL that means the same in Prometheus and VictoriaMetrics, with native and with classic histograms.

Every expression reads counters through a range: pushed series are gone from instant queries five minutes after their last
sample. `RATE` is for points of a line, `RANGE` for one number over the time that the dashboard shows.
"""

from __future__ import annotations

from typing import Final

from dashboards import names as n
from tierwise.core.evidence import UNCOUNTED
from tierwise.telemetry import semconv as sc

RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
COUNTED: Final = f'{n.OUTCOME}!~"{"|".join(sorted(UNCOUNTED))}"'
SUCCESS: Final = f'{n.OUTCOME}="success"'
SERVED: Final = f'{n.ARM}!="shadow"'
"""Without the copies of prompts that a challenger gets beside the answer that was used."""
ALONE: Final = f'{n.MEMBER}!="true"'
"""Calls that are a run by themselves; the others' runs have counters of their own."""
PROCESS: Final = (f'{n.ENVIRONMENT}=~"$environment"', f'{n.SERVICE}=~"$service"')
WORK: Final = (*PROCESS, f'{n.TASK}=~"$task"')
CANDIDATE: Final = (*WORK, f'{n.MODEL}=~"$model"')
Z: Final = 1.96
"""Of the normal distribution, for intervals of 95 %."""


def series(metric: sc.Metric, *where: str, suffix: str = "") -> str:
    """A metric with matchers."""
    matchers = f"{{{', '.join(where)}}}" if where else ""
    return f"{n.metric(metric)}{suffix}{matchers}"


def gained(metric: sc.Metric, window: str, *where: str) -> str:
    """What each series of a counter gained within the window."""
    return f"increase({series(metric, *where)}[{window}])"


def total(expression: str, *by: str) -> str:
    """Sums by labels; one number without."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def counted(metric: sc.Metric, window: str, *where: str, by: tuple[str, ...] = ()) -> str:
    """What a counter gained, summed."""
    return total(gained(metric, window, *CANDIDATE, *where), *by)


def per_second(metric: sc.Metric, *where: str, by: tuple[str, ...] = (), base: tuple[str, ...] = CANDIDATE) -> str:
    """A counter's rate, summed."""
    return total(f"rate({series(metric, *base, *where)}[{RATE}])", *by)


def share(part: str, whole: str) -> str:
    """A part of a whole in [0, 1]: 0 where the part is missing, nothing where the whole is."""
    return f"({part} or {whole} * 0) / ({whole} > 0)"


# --- runs: calls that stand alone, and runs of several calls ---------------------------------------------------------


def _runs(call: sc.Metric, run: sc.Metric, window: str, by: tuple[str, ...], *, success: bool) -> str:
    calls = gained(call, window, *CANDIDATE, SUCCESS if success else COUNTED, ALONE, SERVED)
    several = gained(run, window, *CANDIDATE, f'{n.RUN_SUCCESS}="true"' if success else COUNTED, SERVED)
    return total(f"{calls} or {several}", *by)


def runs(window: str, *by: str) -> str:
    """Runs that say something about a model."""
    return _runs(sc.CALLS, sc.RUN_COUNT, window, by, success=False)


def successes(window: str, *by: str) -> str:
    """Runs that succeeded."""
    return _runs(sc.CALLS, sc.RUN_COUNT, window, by, success=True)


def success_rate(window: str, *by: str) -> str:
    """Successes among runs."""
    return share(successes(window, *by), runs(window, *by))


def wilson(part: str, whole: str, *, upper: bool) -> str:
    """One bound of the Wilson score interval (95 %) of `part` among `whole` (Wilson, JASA 22(158), 1927).

    For independent runs looked at once: `tierwise explain` has bounds that hold at every look and under correlated hours.
    """
    s, whole = f"({part} or {whole} * 0)", f"({whole} > 0)"
    square = Z * Z
    spread = f"{Z} * sqrt(clamp_min({s} * ({whole} - {s}) / {whole}, 0) + {square / 4:.4f})"
    return f"({s} + {square / 2:.4f} {'+' if upper else '-'} {spread}) / ({whole} + {square:.4f})"


def cost_of_runs(window: str, *by: str, success: bool = False) -> str:
    """USD of priced runs, or of those that succeeded."""
    return _runs(sc.CALL_COST, sc.RUN_COST, window, by, success=success)


def cost_per_success(window: str, *by: str) -> str:
    """USD of all priced runs, failed ones included, for each priced success."""
    won = _runs(sc.CALL_PRICED, sc.RUN_PRICED, window, by, success=True)
    return f"{cost_of_runs(window, *by)} / ({won} > 0)"


def cost_per_success_bound(window: str, *by: str, upper: bool) -> str:
    """One bound of the 95 % interval of the cost per success: a ratio of sums, by the delta method on its logarithm.

    Var(ln(ΣC/ΣS)) = ΣC²/(ΣC)² + 1/ΣS - 2 ΣCS/(ΣC ΣS) (Deng et al., KDD 2018); for independent runs, looked at once.
    """
    cost = cost_of_runs(window, *by)
    squared = _runs(sc.CALL_COST_SQUARED, sc.RUN_COST_SQUARED, window, by, success=False)
    won = f"({_runs(sc.CALL_PRICED, sc.RUN_PRICED, window, by, success=True)} > 0)"
    both = cost_of_runs(window, *by, success=True)
    variance = f"{squared} / ({cost} ^ 2) + 1 / {won} - 2 * {both} / ({cost} * {won})"
    return f"{cost} / {won} * exp({'' if upper else '-'}{Z} * sqrt(clamp_min({variance}, 0)))"


# --- distributions ---------------------------------------------------------------------------------------------------


def quantile(q: float, metric: sc.Metric, window: str, *where: str, by: tuple[str, ...] = ()) -> str:
    """A quantile of a histogram, whichever of the two kinds the server keeps."""

    def summed(suffix: str, *labels: str) -> str:
        return total(f"rate({series(metric, *CANDIDATE, COUNTED, SERVED, *where, suffix=suffix)}[{window}])", *labels)

    return f"histogram_quantile({q:g}, {summed('', *by)}) or histogram_quantile({q:g}, {summed('_bucket', *by, 'le')})"


# --- gauges ----------------------------------------------------------------------------------------------------------

TASKS: Final = (f'{n.TASK}=~"$task"',)
"""Routes and decisions come from `tierwise watch`, which is another service than those it decides for."""


def latest(metric: sc.Metric, *where: str, by: tuple[str, ...] = (n.TASK,)) -> str:
    """A gauge of routes or decisions as each task's was last told: a running watch says it at every export, one that is
    started once an hour every hour, one that was stopped longer ago."""
    told = [
        f"max by ({', '.join(by)}) (last_over_time({series(metric, *TASKS, *where)}[{w}]))"
        for w in ("5m", "75m", RANGE)
    ]
    return f" or on ({n.TASK}) ".join(told)


def as_told(metric: sc.Metric, *where: str, by: tuple[str, ...] = (n.TASK,)) -> str:
    """The same for the points of a line."""
    return f"max by ({', '.join(by)}) (last_over_time({series(metric, *TASKS, *where)}[{RATE}]))"


def first_told(metric: sc.Metric, *where: str, by: tuple[str, ...]) -> str:
    """There for five minutes from when a day has not said it: what an annotation marks."""
    labels = ", ".join(by)
    one = series(metric, *TASKS, *where)
    now = f"max by ({labels}) (last_over_time({one}[5m]))"
    return f"{now} unless max by ({labels}) (last_over_time({one}[1d] offset 5m))"

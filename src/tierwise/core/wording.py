"""Numbers and findings in words: the sentences of a recommendation's reasons."""

from __future__ import annotations

from datetime import datetime, timezone
from math import isfinite
from typing import Final

from tierwise.core.compare import Comparison
from tierwise.core.policy import TaskPolicy
from tierwise.core.recommendation import GuardrailState

_OBJECTIVES: Final = {
    "cost_per_success": "cost per success",
    "latency_p50": "median latency",
    "latency_p95": "p95 latency",
    "success_rate": "success rate",
    "loss": "loss (cost plus the value of lost successes)",
}


def percent(share: float) -> str:
    """0.1234 → `12.3 %`."""
    return f"{share * 100:.3g} %"


def usd(amount: float) -> str:
    """Dollars with three significant digits, never in scientific notation above a thousandth of a cent."""
    return f"${amount:.3g}" if 0 < abs(amount) < 1000 else f"${amount:,.0f}"


def runs(count: int) -> str:
    """`1 run`, `12 runs`, `1,200 runs`."""
    return f"{count:,} run" + ("" if count == 1 else "s")


def moment(seconds: int) -> str:
    """A Unix time as `2026-01-31 14:00 UTC`."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")  # noqa: UP017
    except (ValueError, OverflowError, OSError):
        return f"Unix time {seconds}"


def objective_name(policy: TaskPolicy) -> str:
    """The objective in words."""
    return _OBJECTIVES[policy.objective.kind]


def limit(state: GuardrailState) -> str:
    """`p95 latency ≤ 12 s` and the like."""
    sign = "≥" if state.op == ">=" else "≤"
    return f"{metric_name(state.metric)} {sign} {_amount(state.metric, state.limit)}"


def finding(state: GuardrailState) -> str:
    """What the evidence says about one limit, with estimate and bounds."""
    estimate = "no finite estimate" if state.estimate is None else f"measured {_amount(state.metric, state.estimate)}"
    if state.low is None and state.high is None:
        return f"{limit(state)}: {estimate}"
    low = "0" if state.low is None else _amount(state.metric, state.low)
    high = "unbounded" if state.high is None else _amount(state.metric, state.high)
    return f"{limit(state)}: {estimate}, bounds {low} to {high}"


def metric_name(metric: str) -> str:
    """`latency_p95` → `p95 latency`; other names with spaces."""
    if "_p" in metric and metric.rsplit("_p", maxsplit=1)[-1].isdigit():
        what, quantile = metric.split("_p")
        return f"p{quantile} {'time to first chunk' if what == 'ttft' else what}"
    return metric.replace("_", " ").replace("json", "JSON")


def gain_of(comparison: Comparison, policy: TaskPolicy) -> str:
    """The gain with its bounds."""
    gain = comparison.gain
    if gain.point is None or not isfinite(gain.point):
        return f"{objective_name(policy)} cannot be compared yet"
    unit = "points higher" if policy.objective.kind == "success_rate" else "lower"
    text = f"{objective_name(policy)} {percent(gain.point)} {unit}"
    if gain.point < 0:
        unit = "points lower" if policy.objective.kind == "success_rate" else "higher"
        text = f"{objective_name(policy)} {percent(-gain.point)} {unit}"
    if isfinite(gain.low) and isfinite(gain.high) and gain.low != gain.high:
        text += f" (a gain between {percent(gain.low)} and {percent(gain.high)})"
    return text


def difference_of(comparison: Comparison) -> str:
    """The difference in success with its bounds."""
    if comparison.difference is None:
        return "success cannot be compared yet"
    text = f"success differs by {comparison.difference * 100:+.3g} points"
    if comparison.enough:
        text += f" (between {comparison.difference_low * 100:+.3g} and {comparison.difference_high * 100:+.3g})"
    return text


def basis(comparison: Comparison) -> str:
    """How many runs and buckets a comparison rests on."""
    return (
        f"{runs(comparison.n_challenger)} against {comparison.n_incumbent:,} in {comparison.buckets} shared "
        f"bucket{'' if comparison.buckets == 1 else 's'}"
    )


def _amount(metric: str, value: float) -> str:
    if metric.startswith(("latency", "ttft")):
        return f"{value:.3g} s"
    if metric.startswith("cost"):
        return usd(value)
    return f"{value:,.0f}" if metric == "output_tokens" else percent(value)

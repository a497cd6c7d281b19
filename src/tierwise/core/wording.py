"""Numbers and findings in words: the sentences of a recommendation's reasons."""

from __future__ import annotations

from datetime import datetime, timezone
from math import floor, isfinite, log10
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


def number(value: float) -> str:
    """Three significant digits, whole above 100, never in scientific notation: `0.00123`, `12.3`, `1,234`."""
    if value == 0:
        return "0"
    decimals = min(max(2 - floor(log10(abs(value))), 0), 12)
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    """0.1234 → `12.3 %`."""
    return f"{number(share * 100)} %"


def usd(amount: float) -> str:
    """Dollars with three significant digits: `$0.0000123`, `$12.3`, `-$4`."""
    return f"{'-' if amount < 0 else ''}${number(abs(amount))}"


def runs(count: int) -> str:
    """`1 run`, `12 runs`, `1,200 runs`."""
    return f"{count:,} run" + ("" if count == 1 else "s")


def more_runs(count: int) -> str:
    """`1 more run`, `12 more runs`."""
    return f"{count:,} more run" + ("" if count == 1 else "s")


def buckets(count: int) -> str:
    """`hour`, `12 hours`: what follows `the last`."""
    return "hour" if count == 1 else f"{count:,} hours"


def drifted(metric: str, before: float, after: float) -> str:
    """What changed of a candidate: `its success rate went from 90 % to 50 %`."""
    if metric == "success_rate":
        return f"its success rate went from {percent(before)} to {percent(after)}"
    return f"its cost per run went from {usd(before)} to {usd(after)}"


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
    text = f"{limit(state)}: "
    text += "no finite estimate" if state.estimate is None else f"measured {_amount(state.metric, state.estimate)}"
    if bounds := _bounds(state):
        text += f" (bounds: {bounds})"
    if state.tested_at is not None and state.tested_at != state.limit:
        text += f", judged at {_amount(state.metric, state.tested_at)}, the nearest edge of the histogram"
    return text


def _bounds(state: GuardrailState) -> str:
    """A quantile lies above its lower bound, which is itself excluded; other bounds are plain ends of an interval."""
    low = None if state.low is None else _amount(state.metric, state.low)
    high = None if state.high is None else _amount(state.metric, state.high)
    if _is_time(state.metric):
        above = f"above {low}" if state.low else ""
        return ", ".join(part for part in (above, f"at most {high}" if high else "") if part)
    if low is None or high is None:
        return f"at least {low}" if low else f"at most {high}" if high else ""
    return f"{low} to {high}"


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
    bounded = isfinite(gain.low) and isfinite(gain.high) and gain.low != gain.high
    if policy.objective.kind == "success_rate":
        text = f"success rate {number(abs(gain.point) * 100)} points {'lower' if gain.point < 0 else 'higher'}"
        return f"{text} (between {_points(gain.low)} and {_points(gain.high)})" if bounded else text
    text = f"{objective_name(policy)} {percent(abs(gain.point))} {'higher' if gain.point < 0 else 'lower'}"
    return f"{text} (a gain between {percent(gain.low)} and {percent(gain.high)})" if bounded else text


def difference_of(comparison: Comparison) -> str:
    """The difference in success with its bounds."""
    if comparison.difference is None:
        return "success cannot be compared yet"
    text = f"success differs by {_points(comparison.difference)} points"
    if comparison.enough:
        text += f" (between {_points(comparison.difference_low)} and {_points(comparison.difference_high)})"
    return text


def basis(comparison: Comparison) -> str:
    """How many runs and buckets a comparison rests on."""
    pairs = f"{comparison.pairs:,} shadow pair{'' if comparison.pairs == 1 else 's'}" if comparison.pairs else ""
    if comparison.paired:
        return pairs
    return (
        f"{runs(comparison.n_challenger)} against {comparison.n_incumbent:,} in {comparison.buckets} shared "
        f"bucket{'' if comparison.buckets == 1 else 's'}"
    ) + (f" and {pairs}" if pairs else "")


def _points(difference: float) -> str:
    return f"{'+' if difference >= 0 else ''}{number(difference * 100)}"


def _is_time(metric: str) -> bool:
    return metric.startswith(("latency", "ttft"))


def _amount(metric: str, value: float) -> str:
    if _is_time(metric):
        return f"{number(value)} s"
    if metric.startswith("cost"):
        return usd(value)
    return f"{value:,.0f}" if metric == "output_tokens" else percent(value)

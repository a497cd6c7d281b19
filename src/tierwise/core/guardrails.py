"""Guardrail metrics: each limit of a candidate is refuted, proven, holding, failing or unknown.

Guardrails look at first attempts; costs and escalations at runs. Of the metrics in `policy.METRICS`:
`format_rate` is the share of first attempts in the asked-for form (no `json_*`, no `tool_arguments_invalid` outcome);
`truncation_rate`, `empty_rate`, `error_rate` and `refusal_rate` count outcomes; `json_valid_rate` and
`json_fenced_rate` are shares of the answers whose JSON was judged; `retry_rate` is the share of first attempts with at
least one retry; `acceptance_rate` comes from feedback; `cost_per_call` is the mean cost of a run; `output_tokens` and
`check_score` are means.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from math import inf, isfinite, log
from operator import mul, sub
from typing import Final

from tierwise.core.confseq import (
    asymptotic_half_width,
    cost_per_success_variance,
    log_ratio_bounds,
    quantile_estimate,
    quantile_interval,
    quantile_prior,
    rate_interval,
    rate_log_e,
    runs_until,
    smoothed_rate_variance,
)
from tierwise.core.evidence import LATENCY_EDGES_S
from tierwise.core.policy import GuardrailMetric
from tierwise.core.pool import (
    ATTEMPTS,
    COST,
    COST_SQ,
    COST_SUCCESS,
    FORMS,
    JUDGED_BY_USERS,
    PRICED,
    PRICED_SUCCESSES,
    RUNS,
    SUCCESSES,
    WELL_FORMED,
    Pool,
)
from tierwise.core.recommendation import GuardrailState, GuardrailStatus
from tierwise.core.records import dataclass
from tierwise.core.variance import bucket_variance, effective_share, robust_variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """What an asymptotic interval asks for."""

    runs: int
    buckets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanEstimate:
    """A mean or ratio with its per-unit variance; `logarithmic`: the variance is that of its logarithm."""

    value: float
    variance: float | None
    n: float
    logarithmic: bool = False

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Asymptotic confidence sequence at `alpha`."""
        if self.variance is None:
            return -inf, inf
        width = asymptotic_half_width(self.variance, self.n, alpha)
        if self.logarithmic:
            return log_ratio_bounds(log(self.value), width)
        return self.value - width, self.value + width


def judge(rule: GuardrailMetric, pool: Pool, *, alpha: float, minimum: Minimum) -> GuardrailState:
    """What a pool of evidence says about one limit, with error probability `alpha` over all looks.

    Rates, latencies and check scores are judged exactly (beta-binomial sequence, effective sample size under correlated
    buckets), means of costs and tokens by the asymptotic sequence once the minimum is reached.
    """
    metric = rule.metric
    if metric in _RATES:
        numerator, denominator = _RATES[metric]
        return _judge_rate(rule, pool, numerator, denominator, alpha)
    if metric == "success_rate":
        return _judge_rate(rule, pool, *_success_columns(pool), alpha)
    if metric == "check_score":
        return _judge_check_score(rule, pool, alpha)
    if metric in _QUANTILES:
        return _judge_quantile(rule, pool, alpha)
    estimate = mean_estimate(metric, pool)
    return _judge_mean(rule, estimate, pool, alpha, minimum) if estimate else _unknown(rule)


def combine(state: GuardrailState, observed: GuardrailState) -> GuardrailState:
    """Randomised evidence decides; observational evidence may refute as well, but never proves."""
    return observed if observed.state == "refuted" and state.state != "refuted" else state


def mean_estimate(metric: str, pool: Pool) -> MeanEstimate | None:
    """The estimate behind `cost_per_call`, `cost_per_success` or `output_tokens`; `None` without data.

    A cost per success without a success is infinite.
    """
    if metric == "output_tokens":
        n, total = pool.total(ATTEMPTS), pool.total("tokens.output")
        if n <= 0:
            return None
        totals, counts = _busy(pool.clusters("tokens.output"), pool.clusters(ATTEMPTS))
        return MeanEstimate(value=total / n, variance=bucket_variance(totals, counts), n=n)
    return _cost_estimate(metric, pool) if pool.total(PRICED) > 0 else None


def _cost_estimate(metric: str, pool: Pool) -> MeanEstimate:
    n, cost = pool.total(PRICED), pool.total(COST)
    if metric == "cost_per_call":
        mean = cost / n
        iid = max(pool.total(COST_SQ) / n - mean * mean, 0.0)
        totals, counts = _busy(pool.clusters(COST), pool.clusters(PRICED))
        return MeanEstimate(value=mean, variance=robust_variance(totals, counts, iid), n=n)
    successes = pool.total(PRICED_SUCCESSES)
    if successes <= 0:
        return MeanEstimate(value=inf, variance=None, n=n)
    if cost <= 0:
        return MeanEstimate(value=0.0, variance=None, n=n)
    return MeanEstimate(value=cost / successes, variance=log_cost_variance(pool), n=n, logarithmic=True)


def log_cost_variance(pool: Pool) -> float:
    """Per-run variance of ln(cost per success), robust against correlated buckets; needs a cost above 0."""
    if "log cost variance" not in pool.memo:
        pool.memo["log cost variance"] = _log_cost_variance(pool)
    variance: float = pool.memo["log cost variance"]
    return variance


def _log_cost_variance(pool: Pool) -> float:
    n, cost, successes = pool.total(PRICED), pool.total(COST), pool.total(PRICED_SUCCESSES)
    iid = cost_per_success_variance(
        n=n,
        successes=successes,
        cost_sum=cost,
        cost_sq_sum=pool.total(COST_SQ),
        cost_success_sum=pool.total(COST_SUCCESS),
    )
    mean, rate = cost / n, (successes + 2.0) / (n + 4.0)
    scaled = map(mul, pool.clusters(PRICED_SUCCESSES), repeat(mean / rate))
    totals, counts = _busy(list(map(sub, pool.clusters(COST), scaled)), pool.clusters(PRICED))
    return robust_variance(totals, counts, iid * mean * mean) / (mean * mean)


def success_share(pool: Pool) -> float:
    """Effective share of the runs for the success rate."""
    return _share(pool, SUCCESSES, RUNS)


def _success_columns(pool: Pool) -> tuple[str, str]:
    """What a success rate of first attempts is read from; of runs where no attempt was counted, or all are the same."""
    if pool.total(ATTEMPTS) <= 0:
        return SUCCESSES, RUNS
    same = pool.total(ATTEMPTS) == pool.total(RUNS) and pool.total("outcomes.success") == pool.total(SUCCESSES)
    return (SUCCESSES, RUNS) if same else ("outcomes.success", ATTEMPTS)


def _share(pool: Pool, numerator: str, denominator: str) -> float:
    key = ("share", numerator, denominator)
    if key not in pool.memo:
        n, hits = pool.total(denominator), max(pool.total(numerator), 0.0)
        totals, counts = _busy(pool.clusters(numerator), pool.clusters(denominator))
        pool.memo[key] = effective_share(totals, counts, smoothed_rate_variance(min(hits, n), n))
    share: float = pool.memo[key]
    return share


def quantile_of(
    metric: str, pool: Pool, alpha: float, at_s: float | None = None
) -> tuple[float | None, float | None, float | None, float]:
    """(estimate, low, high, effective share) of `latency_pXX` or `ttft_pXX` in seconds.

    The effective share is that of the rate "at or below the edge", at the limit `at_s` or else at the estimate.
    """
    which, tau = _QUANTILES[metric]
    counts = pool.histogram(which)
    estimate = quantile_estimate(counts, LATENCY_EDGES_S, tau)
    if estimate is None:
        return None, None, None, 1.0
    target = estimate if at_s is None else at_s
    index = min(bisect_left(LATENCY_EDGES_S, target), len(LATENCY_EDGES_S) - 1)
    share = _share_below(pool, which, index)
    low, high = quantile_interval(counts, LATENCY_EDGES_S, tau, alpha, effective=share)
    return estimate, low, high, share


def _judge_rate(rule: GuardrailMetric, pool: Pool, numerator: str, denominator: str, alpha: float) -> GuardrailState:
    n = pool.total(denominator)
    if n <= 0:
        return _unknown(rule)
    hits = min(max(pool.total(numerator), 0.0), n)
    share = _share(pool, numerator, denominator)
    low, high = rate_interval(hits * share, n * share, alpha)
    state, runs = _rate_state(hits, n, share, rule.limit, rule.op == ">=", alpha, (1.0, 1.0))
    return _state(rule, estimate=hits / n, low=low, high=high, state=state, runs=runs)


def _judge_check_score(rule: GuardrailMetric, pool: Pool, alpha: float) -> GuardrailState:
    """Scores lie in [0, 1]: the rate sequence holds for their mean. Several checks of a call count as one trial."""
    scored, total = pool.total("check_count"), pool.total("check_score_sum")
    if scored <= 0:
        return _unknown(rule)
    mean = min(max(total / scored, 0.0), 1.0)
    n = min(scored, pool.total(ATTEMPTS) or scored)
    totals, counts = _busy(pool.clusters("check_score_sum"), pool.clusters("check_count"))
    share = effective_share(totals, counts, smoothed_rate_variance(mean * scored, scored))
    low, high = rate_interval(mean * n * share, n * share, alpha)
    state, runs = _rate_state(mean * n, n, share, rule.limit, rule.op == ">=", alpha, (1.0, 1.0))
    return _state(rule, estimate=mean, low=low, high=high, state=state, runs=runs)


def _judge_quantile(rule: GuardrailMetric, pool: Pool, alpha: float) -> GuardrailState:
    """A limit p95 <= L is the statement F(L) >= 0.95 at the next lower edge (for >=, F(L) <= 0.95 at the next higher)."""
    which, tau = _QUANTILES[rule.metric]
    upper = rule.op == "<="
    index = bisect_right(LATENCY_EDGES_S, rule.limit) - 1 if upper else bisect_left(LATENCY_EDGES_S, rule.limit)
    if not 0 <= index < len(LATENCY_EDGES_S):
        return _unknown(rule)
    edge = LATENCY_EDGES_S[index]
    estimate, low, high, share = quantile_of(rule.metric, pool, alpha, edge)
    if estimate is None:
        return _unknown(rule)
    counts = pool.histogram(which)
    n, below = sum(counts), sum(counts[: index + 1])
    state, runs = _rate_state(below, n, share, tau, rule.op == "<=", alpha, quantile_prior(tau))
    return replace(_state(rule, estimate=estimate, low=low, high=high, state=state, runs=runs), tested_at=edge)


def _judge_mean(
    rule: GuardrailMetric, estimate: MeanEstimate, pool: Pool, alpha: float, minimum: Minimum
) -> GuardrailState:
    value, above = estimate.value, rule.op == ">="
    meets = value >= rule.limit if above else value <= rule.limit
    status: GuardrailStatus = "holding" if meets else "failing"
    if estimate.variance is None:
        return _state(rule, estimate=value, low=None, high=None, state=status, runs=None)

    def excludes(n: float) -> bool:
        low, high = replace(estimate, n=n).bounds(alpha)
        return low > rule.limit or high < rule.limit

    enough = estimate.n >= minimum.runs and pool.buckets >= minimum.buckets
    if enough and excludes(estimate.n):
        status = "proven" if meets else "refuted"
    low, high = estimate.bounds(alpha) if enough else (-inf, inf)
    runs = 0 if status == "proven" else None
    if status == "holding" and value != rule.limit:
        runs = _further(excludes, estimate.n, float(minimum.runs))
    return _state(rule, estimate=value, low=low, high=high, state=status, runs=runs)


def _rate_state(
    hits: float, n: float, share: float, limit: float, above: bool, alpha: float, prior: tuple[float, float]
) -> tuple[GuardrailStatus, int | None]:
    """The state of "rate >= limit" (or <=), and the further runs that would prove it at the present estimate."""
    a, b = prior
    rate = hits / n
    limit = min(max(limit, 0.0), 1.0)
    threshold = -log(alpha)

    def excludes(size: float) -> bool:
        trials = size * share
        return rate_log_e(min(rate * trials, trials), trials, limit, a=a, b=b) >= threshold

    meets = rate >= limit if above else rate <= limit
    if excludes(n) and rate != limit:
        return ("proven", 0) if meets else ("refuted", None)
    if not meets:
        return "failing", None
    return "holding", _further(excludes, n, 1.0) if rate != limit else None


def _further(decided: Callable[[float], bool], n: float, least: float) -> int | None:
    total = runs_until(decided, start=max(n, least))
    return None if total is None else max(total - int(n), 1)


def _share_below(pool: Pool, which: str, index: int) -> float:
    key = ("share below", which, index)
    if key not in pool.memo:
        totals, counts = _busy(pool.at_or_below(which, index), pool.at_or_below(which, -1))
        pool.memo[key] = effective_share(totals, counts, smoothed_rate_variance(sum(totals), sum(counts)))
    share: float = pool.memo[key]
    return share


def _busy(totals: list[float], counts: list[float]) -> tuple[list[float], list[float]]:
    """Buckets with at least one unit or a late correction."""
    if all(counts):
        return totals, counts
    kept = [(total, count) for total, count in zip(totals, counts, strict=True) if count or total]
    return [total for total, _ in kept], [count for _, count in kept]


def _unknown(rule: GuardrailMetric) -> GuardrailState:
    return _state(rule, estimate=None, low=None, high=None, state="unknown", runs=None)


def _state(
    rule: GuardrailMetric,
    *,
    estimate: float | None,
    low: float | None,
    high: float | None,
    state: GuardrailStatus,
    runs: int | None,
) -> GuardrailState:
    return GuardrailState(
        metric=rule.metric,
        op=rule.op,
        limit=rule.limit,
        tested_at=rule.limit if state != "unknown" else None,
        estimate=_finite(estimate),
        low=_finite(low),
        high=_finite(high),
        state=state,
        runs_to_prove=runs,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


_RATES: Final[dict[str, tuple[str, str]]] = {
    "json_valid_rate": ("json_forms.plain", FORMS),
    "json_fenced_rate": ("json_forms.fenced", FORMS),
    "format_rate": (WELL_FORMED, ATTEMPTS),
    "truncation_rate": ("outcomes.truncated", ATTEMPTS),
    "empty_rate": ("outcomes.empty", ATTEMPTS),
    "error_rate": ("outcomes.error", ATTEMPTS),
    "refusal_rate": ("outcomes.refused", ATTEMPTS),
    "retry_rate": ("retried", ATTEMPTS),
    "escalation_rate": ("escalated", RUNS),
    "acceptance_rate": ("accepted", JUDGED_BY_USERS),
}
_QUANTILES: Final[dict[str, tuple[str, float]]] = {
    "latency_p50": ("latency", 0.5),
    "latency_p95": ("latency", 0.95),
    "latency_p99": ("latency", 0.99),
    "ttft_p50": ("ttft", 0.5),
    "ttft_p95": ("ttft", 0.95),
}

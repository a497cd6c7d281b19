"""Every candidate in numbers: guardrail states, comparison with the incumbent, and the report of both."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from tierwise.core.call import Grade
from tierwise.core.compare import Comparison, compare, with_pairs
from tierwise.core.confseq import rate_interval
from tierwise.core.gains import objective_value
from tierwise.core.guardrails import (
    MeanEstimate,
    Minimum,
    combine,
    judge,
    mean_estimate,
    quantile_of,
    success_share,
)
from tierwise.core.policy import GuardrailMetric, TaskPolicy
from tierwise.core.pool import ATTEMPTS, COST, FORMS, PRICED, RUNS, SUCCESSES, TOKENS, Pool
from tierwise.core.recommendation import CandidateReport, GuardrailState, Interval
from tierwise.core.records import dataclass
from tierwise.core.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One candidate as the rules see it; `place` is its place in the policy, `objective` smaller is better."""

    name: str
    incumbent: bool
    place: int
    epoch: str | None
    grade: Grade | None
    pool: Pool
    n: int
    successes: int
    guardrails: tuple[GuardrailState, ...]
    comparison: Comparison | None
    objective: float | None
    runs_needed: int
    promising: bool
    alpha: float
    """Error probability of the intervals in the report: alpha over the number of candidates."""
    minimum: Minimum

    @property
    def refuted(self) -> bool:
        """Whether a guardrail is refuted."""
        return any(g.state == "refuted" for g in self.guardrails)

    @property
    def failing(self) -> bool:
        """Whether a guardrail is failing."""
        return any(g.state == "failing" for g in self.guardrails)

    @property
    def unpriced(self) -> bool:
        """Whether none of its runs has a known cost."""
        return self.pool.total(PRICED) <= 0

    @property
    def only_errors(self) -> bool:
        """Whether every one of its first attempts ended in an error: there is nothing to price."""
        return 0 < self.pool.total(ATTEMPTS) <= self.pool.total("outcomes.error")

    @property
    def without_tokens(self) -> bool:
        """Whether no answer of it said how many tokens it took."""
        return self.pool.total(TOKENS) <= 0

    @property
    def success_rate(self) -> float | None:
        """Share of runs that succeeded."""
        return self.successes / self.n if self.n else None

    @property
    def cost_per_run(self) -> float | None:
        """Mean cost of a priced run, USD."""
        priced = self.pool.total(PRICED)
        return self.pool.total(COST) / priced if priced > 0 else None


def assess(
    selection: Selection,
    policy: TaskPolicy,
    names: Sequence[str],
    current: str,
    grade: Grade | None,
    *,
    urgent: bool = False,
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The incumbent and its challengers, in the policy's order.

    `urgent`: the incumbent drifted, and its few hours since are compared with all that is known of the others, since
    these have hardly met in so short a time.
    """
    alpha = 1.0 - policy.confidence
    challengers = max(len(names) - 1, 1)
    alpha_guardrail = alpha / max(len(names) * len(policy.guardrails), 1)
    pools = {name: selection.pool(name, grade) for name in names}
    states = {
        name: tuple(_state(rule, selection, name, grade, alpha_guardrail, policy) for rule in policy.guardrails)
        for name in names
    }
    broken = any(g.state == "refuted" for g in states[current])
    found: dict[str, Candidate] = {}
    for place, name in enumerate(names):
        pool, guardrails, comparison = pools[name], states[name], None
        if name != current:
            concurrent = grade == "randomised" and not urgent
            begun = (
                pools[current].slots[0][0] if pools[current].slots else 0
            )  # pairs with what the incumbent was before
            pairs = selection.shadow[name].since(begun).pairs(current) if name in selection.shadow else []
            alone = grade != "randomised"
            own = alpha / challengers / (2 if pairs and not alone else 1)
            comparison = compare(pools[current], pool, policy, alpha=own, concurrent=concurrent)
            if pairs:
                comparison = with_pairs(comparison, pairs, policy, alpha=own, alone=alone)
        runs_needed = _runs_needed(comparison, pool, guardrails, policy)
        if broken and name != current:
            runs_needed = _replacement_needs(runs_needed, comparison, pool, guardrails, policy)
        found[name] = Candidate(
            name=name,
            incumbent=name == current,
            place=place,
            epoch=selection.epochs.get(name),
            grade=_grade_of(selection, name, grade),
            pool=pool,
            n=int(pool.total(RUNS)),
            successes=int(max(pool.total(SUCCESSES), 0)),
            guardrails=guardrails,
            comparison=comparison,
            objective=objective_value(pool, policy),
            runs_needed=runs_needed,
            promising=_promising(comparison, guardrails, policy),
            alpha=alpha / len(names),
            minimum=Minimum(runs=policy.min_runs, buckets=policy.min_buckets),
        )
    return found[current], tuple(candidate for name, candidate in found.items() if name != current)


def report(candidate: Candidate) -> CandidateReport:
    """The candidate's numbers as they are printed and stored."""
    pool, alpha, n = candidate.pool, candidate.alpha, candidate.n
    share = success_share(pool) if n else 1.0
    low, high = rate_interval(min(candidate.successes, n) * share, n * share, alpha)
    enough = n >= candidate.minimum.runs and pool.buckets >= candidate.minimum.buckets
    per_success = mean_estimate("cost_per_success", pool)
    p50, p50_low, p50_high, _ = quantile_of("latency_p50", pool, alpha)
    p95, p95_low, p95_high, _ = quantile_of("latency_p95", pool, alpha)
    forms = pool.total(FORMS)
    comparison = candidate.comparison
    compared = comparison is not None and comparison.enough
    return CandidateReport(
        candidate=candidate.name,
        role="incumbent" if candidate.incumbent else "challenger",
        epoch=candidate.epoch,
        grade=candidate.grade,
        n=n,
        buckets=pool.buckets,
        successes=candidate.successes,
        success_rate=candidate.success_rate,
        success_rate_interval=Interval(low=low, high=high) if n else Interval(),
        cost_per_success_usd=None if per_success is None else _finite(per_success.value),
        cost_per_success_interval_usd=_interval(per_success, alpha) if enough else Interval(),
        cost_per_call_usd=candidate.cost_per_run,
        latency_p50_s=_finite(p50),
        latency_p50_interval_s=Interval(low=p50_low, high=_finite(p50_high)),
        latency_p95_s=_finite(p95),
        latency_p95_interval_s=Interval(low=p95_low, high=_finite(p95_high)),
        json_valid_rate=pool.total("json_forms.plain") / forms if forms else None,
        objective=_objective(candidate),
        gain=None if comparison is None else _finite(comparison.gain.point),
        gain_interval=Interval()
        if comparison is None
        else Interval(low=_finite(comparison.gain.low), high=_finite(comparison.gain.high)),
        success_difference=None if comparison is None else comparison.difference,
        success_difference_interval=Interval(low=comparison.difference_low, high=comparison.difference_high)
        if compared and comparison is not None
        else Interval(),
        compared_runs=0 if comparison is None else comparison.n_challenger,
        guardrails=candidate.guardrails,
        runs_needed=candidate.runs_needed,
    )


def _replacement_needs(
    runs_needed: int,
    comparison: Comparison | None,
    pool: Pool,
    guardrails: Sequence[GuardrailState],
    policy: TaskPolicy,
) -> int:
    """Fewer runs than a comparison may suffice to take over from a refuted incumbent: the minimum, within the limits."""
    short = policy.min_runs - int(pool.total(RUNS))
    if short <= 0 or policy.needs_proof or any(g.state in ("refuted", "failing") for g in guardrails):
        return runs_needed
    if comparison is not None and (comparison.difference or 0.0) < -policy.margin:
        return runs_needed
    return min(runs_needed, short) if runs_needed else short


def _state(
    rule: GuardrailMetric, selection: Selection, name: str, grade: Grade | None, alpha: float, policy: TaskPolicy
) -> GuardrailState:
    """Randomised evidence where there is some, else what there is; with both, each gets half of alpha."""
    minimum = Minimum(runs=policy.min_runs, buckets=policy.min_buckets)
    random, other = selection.randomised.get(name), selection.observed.get(name)
    if random is None or other is None or grade != "randomised":
        return judge(rule, selection.pool(name, None), alpha=alpha, minimum=minimum)
    state = judge(rule, random, alpha=alpha / 2, minimum=minimum)
    return combine(state, judge(rule, other, alpha=alpha / 2, minimum=minimum))


def _runs_needed(
    comparison: Comparison | None, pool: Pool, guardrails: Sequence[GuardrailState], policy: TaskPolicy
) -> int:
    """Further runs of a challenger until it is decided; of an incumbent until it reaches the minimum."""
    n = int(pool.total(RUNS))
    short = max(policy.min_runs - n, 0)
    if comparison is None:
        return short
    smaller = max(min(comparison.n_challenger, comparison.n_incumbent), comparison.pairs)
    if smaller == 0:
        return policy.min_runs
    if comparison.shown and policy.needs_proof:
        return max((g.runs_to_prove or 0 for g in guardrails if g.state == "holding"), default=0)
    if comparison.runs_more is not None:
        return comparison.runs_more
    return max(policy.min_runs - smaller, 0)


def _promising(comparison: Comparison | None, guardrails: Sequence[GuardrailState], policy: TaskPolicy) -> bool:
    """Whether the estimates would let the challenger win if they stay."""
    if comparison is None or comparison.gain.point is None or comparison.difference is None:
        return False
    return (
        comparison.gain.point >= policy.min_improvement
        and comparison.difference >= -policy.margin
        and all(g.state in ("proven", "holding") for g in guardrails)
    )


def _grade_of(selection: Selection, name: str, grade: Grade | None) -> Grade | None:
    if grade == "randomised":
        return "randomised" if name in selection.randomised else None
    if name in selection.observed:
        return "observational"
    return "randomised" if name in selection.randomised else None


def _objective(candidate: Candidate) -> float | None:
    value = _finite(candidate.objective)
    return -value if value is not None and value < 0 else value


def _interval(estimate: MeanEstimate | None, alpha: float) -> Interval:
    if estimate is None or estimate.variance is None:
        return Interval()
    low, high = estimate.bounds(alpha)
    return Interval(low=_finite(low), high=_finite(high))


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None

"""How a task's traffic is split after a decision: exploring around the primary, from the candidates of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Final

from tierwise.core.assess import Candidate
from tierwise.core.compare import compare
from tierwise.core.gains import COST_KINDS
from tierwise.core.pool import COST, COST_SQ, COST_SUCCESS, PRICED, PRICED_SUCCESSES, RUNS, SUCCESSES, Pool
from tierwise.core.recommendation import Reason
from tierwise.core.rollout import Step
from tierwise.core.rungs import order_rungs, worth_its_cost
from tierwise.core.standing import Case, barred, order, without_cost
from tierwise.core.traffic import ArmSums, drop_alpha, dropped_now, split, within_budget

DAY_S: Final = 86_400


def dropped_arms(case: Case) -> dict[str, str]:
    """Challengers that exploring gives up, with their epochs: worse than the best by the sequence at .10/(K - 1), or
    unable to gain enough. What was dropped stays so until the primary changes or drifts, or its own epoch changes.

    Against a primary that breaks a guardrail nobody has to gain anything, and it is no measure for the others.
    """
    if case.policy.explore == 0:
        return {}
    forgotten = case.route is None or case.urgent or case.incumbent.refuted
    remembered = {} if forgotten or case.route is None else case.route.dropped
    everyone = (case.incumbent, *case.challengers)
    fit = [c for c in everyone if c.n >= max(case.policy.min_runs, 1) and not (c.refuted and c is case.incumbent)]
    best = min(fit, key=order, default=None)
    found = {}
    for one in case.challengers:
        epoch = one.epoch or ""
        if remembered.get(one.name) == epoch or _hopeless(case, one, best, len(everyone)):
            found[one.name] = epoch
    return found


def _hopeless(case: Case, one: Candidate, best: Candidate | None, arms: int) -> bool:
    own = one.comparison
    if own is None or not own.enough:
        return False
    against_best = None
    if best is not None and best is not one and best is not case.incumbent:
        concurrent = case.grade == "randomised"
        against = compare(best.pool, one.pool, case.policy, alpha=drop_alpha(arms), concurrent=concurrent)
        against_best = against.gain.high if against.enough else None
    return dropped_now(
        gain_high=inf if case.incumbent.refuted else own.gain.high,
        min_improvement=case.policy.min_improvement,
        against_best_high=against_best,
    )


def shares(case: Case, step: Step, dropped: Mapping[str, str], ladder: Sequence[str]) -> dict[str, float]:
    """Propensity of each candidate on rung 0 from now on; sums to 1."""
    policy, everyone = case.policy, (case.incumbent, *case.challengers)
    canary = None if step.canary is None else (step.canary.candidate, step.canary.share)
    if policy.risk == "high" or (policy.explore == 0 and canary is None):
        return {step.primary: 1.0}
    eligible = frozenset(
        c.name for c in everyone if c.name == step.primary or not (c.refuted or without_cost(case, c) is not None)
    )
    # A trace of the traffic, or nobody would notice that it is another model now.
    left_alone = {c.name for c in everyone if barred(case, c) is not None or (step.failed and c is step.challenger)}
    weights = split(
        tuple(sums_of(c.name, c.pool) for c in everyone),
        primary=step.primary,
        explore=policy.explore,
        value=value_of_success(case, everyone, ladder),
        dropped=(frozenset(dropped) | left_alone) - {step.primary},
        eligible=eligible,
        canary=canary,
        broken=case.incumbent.refuted and step.primary == case.incumbent.name,
    )
    return _affordable(case, step, everyone, weights)


def ladder_of(case: Case, primary: str, fallbacks: Sequence[str]) -> tuple[tuple[str, ...], tuple[Reason, ...]]:
    """Where a run goes on to, rung by rung, and why; as the fallbacks stand while nothing has escalated yet.

    With escalated attempts the rungs after the first go by success per cost on these; one that is shown to earn less than
    it costs, where the policy says what a success is worth, is left out.
    """
    size = max(case.policy.ladder.max_rungs, 1)
    later = {name: sums_of(name, pool) for name, pool in case.selection.escalated.items() if pool.total(RUNS) > 0}
    if not later:
        return (primary, *fallbacks)[:size], ()
    first = {c.name: sums_of(c.name, c.pool) for c in (case.incumbent, *case.challengers)}
    value = case.policy.value_of_success_usd or case.policy.objective.value_of_success_usd
    rungs, reasons = [], []
    for rung in order_rungs(later, first, fallbacks):
        if value is not None and rung.candidate in later:
            worth = worth_its_cost(later[rung.candidate], value)
            if worth.verdict == "not_worth":
                reasons.append(Reason(code="rung_not_worth", text=worth.reason, candidate=rung.candidate))
                continue
        rungs.append(rung.candidate)
        reasons.append(Reason(code="rung", text=rung.reason, candidate=rung.candidate))
    return (primary, *rungs)[:size], tuple(reasons)


def sums_of(name: str, pool: Pool) -> ArmSums:
    """What the split and the ladder read of a candidate."""
    return ArmSums(
        candidate=name,
        n=pool.total(RUNS),
        successes=pool.total(SUCCESSES),
        priced=pool.total(PRICED),
        priced_successes=pool.total(PRICED_SUCCESSES),
        cost_sum=pool.total(COST),
        cost_sq_sum=pool.total(COST_SQ),
        cost_success_sum=pool.total(COST_SUCCESS),
    )


def value_of_success(case: Case, everyone: Sequence[Candidate], ladder: Sequence[str]) -> float:
    """V, what a success is worth: as the policy says, else the cost per success of the next rung, else of the dearest."""
    stated = case.policy.value_of_success_usd or case.policy.objective.value_of_success_usd
    if stated is not None:
        return stated
    if case.policy.objective.kind not in COST_KINDS and not any(c.pool.total(COST) for c in everyone):
        return 1.0
    per_success = {
        c.name: c.pool.total(COST) / (max(c.pool.total(PRICED_SUCCESSES), 0) + 1)
        for c in everyone
        if c.pool.total(PRICED) > 0
    }
    following = [per_success[name] for name in ladder[1:2] if name in per_success]
    return (following or [max(per_success.values(), default=0.0)])[0] or 1.0


def _affordable(case: Case, step: Step, everyone: Sequence[Candidate], weights: dict[str, float]) -> dict[str, float]:
    budget = case.policy.explore_budget_usd_per_day
    span = case.selection.live_span_s
    if budget is None or span <= 0:
        return weights
    costs = {c.name: c.cost_per_run for c in everyone}
    return within_budget(
        weights,
        primary=step.primary,
        cost_per_run=costs,
        runs_per_day=case.selection.live_runs / max(span, 3600) * DAY_S,
        budget_usd_per_day=budget,
        canary=None if step.canary is None else step.canary.candidate,
    )

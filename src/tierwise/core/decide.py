"""The rules: evidence + policy + route + now → Recommendation. Pure: the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tierwise.core import wording
from tierwise.core.assess import Candidate, assess, report
from tierwise.core.call import Grade
from tierwise.core.columns import TaskEvidence
from tierwise.core.drift import find_drift
from tierwise.core.evidence import EvidenceRow
from tierwise.core.exploring import exploring
from tierwise.core.incumbent import DAY_S, find_incumbent, grade_of, notes, open_runs
from tierwise.core.inputs import hash_inputs
from tierwise.core.policy import WILDCARD, TaskPolicy
from tierwise.core.pool import COST, COST_SQ, PRICED, RUNS, SUCCESSES
from tierwise.core.recommendation import Reason, Recommendation
from tierwise.core.rollout import (
    DRIFT_MIN_BUCKETS,
    DRIFT_RUNS,
    Memory,
    advance,
    drifted_lately,
    next_route,
    remembers_more,
    stay,
)
from tierwise.core.route import Route
from tierwise.core.selection import Selection, select
from tierwise.core.shares import dropped_arms, ladder_of, shares
from tierwise.core.standing import Case, Ruling, Standing, about, order, replacement, standing, without_cost

MONTH_H: Final = 730
MONTH_RUNS: Final = 100
"""Live runs, over a day at least, below which a window is not multiplied up to a month."""

_UNDECIDED: Final = frozenset({"few_runs", "gain_open", "no_worthwhile_gain", "non_inferiority_open"})
"""What need not be shown of a candidate that takes over from one that breaks a guardrail."""


_COULD_LEARN: Final = frozenset({"KEEP", "TRIAL", "INSUFFICIENT"})


def decide(
    evidence: TaskEvidence | Sequence[EvidenceRow], policy: TaskPolicy, route: Route | None, now: int
) -> Recommendation:
    """Recommend a route for one task.

    Never raises over what the evidence holds: rows that cannot be believed are left out with a reason. With a policy
    for `"*"` the task is that of the route, else that of the rows. All bounds hold at every look with
    probability `policy.confidence` per task: challengers share alpha, and so do guardrails times candidates.

    Args:
        evidence: of the task in the window. Of plain rows the order does not matter, and rows of one key are summed.
        policy: the task's policy.
        route: the task's present route, `None` when it has none: then the current candidate is inferred and a reason
            says how (`incumbent.find_incumbent`).
        now: Unix seconds; hours that have not ended by then are left out.
    """
    known = (
        evidence if isinstance(evidence, TaskEvidence) else TaskEvidence.of(evidence, _task_of(evidence, policy, route))
    )
    since = dict(route.drifted) if route is not None else {}
    selection = select(known, now=now, maturity_s=policy.maturity_s, since=since)
    current, inferred = find_incumbent(selection, policy, route)
    names = tuple(dict.fromkeys((*policy.candidates, *((current,) if current is not None else ()))))
    input_hash = hash_inputs(known, policy, route, now)
    grade = None if current is None else grade_of(selection, names, current)
    if current is None:
        return _empty(known.task, policy, now, input_hash, notes(selection, policy, current, names, grade))
    drifts = _drifts(selection, names, grade)
    if drifts:
        since |= {name: start for name, (start, _) in drifts.items()}
        selection = select(known, now=now, maturity_s=policy.maturity_s, since=since)
    drifted_at = now if current in drifts else 0 if route is None else route.primary_drifted_at
    urgent = current in drifts or drifted_lately(route, now)
    gate = replace(
        policy, min_runs=min(policy.min_runs, DRIFT_RUNS), min_buckets=min(policy.min_buckets, DRIFT_MIN_BUCKETS)
    )
    incumbent, challengers = assess(selection, gate if urgent else policy, names, current, grade, urgent=urgent)
    case = Case(
        policy=gate if urgent else policy,
        route=route,
        now=now,
        selection=selection,
        grade=grade,
        incumbent=incumbent,
        challengers=challengers,
        open_runs=open_runs(selection, names, current) if selection.open_runs else {},
        urgent=urgent,
    )
    remarks = (
        *(reason for _, reason in drifts.values()),
        *((inferred,) if inferred else ()),
        *notes(selection, policy, current, names, grade),
    )
    memory = Memory(drifted=since, primary_drifted_at=drifted_at, dropped=dropped_arms(case))
    return _recommend(case, _rule(case), memory, remarks, input_hash)


def _drifts(selection: Selection, names: Sequence[str], grade: Grade | None) -> dict[str, tuple[int, Reason]]:
    """Candidates that are no longer what they were: from which hour on, and why."""
    found = {}
    for name in names:
        pool = selection.pool(name, grade)
        drift = find_drift(
            pool.series(RUNS),
            pool.series(SUCCESSES),
            pool.series(COST),
            cost_sq=pool.series(COST_SQ),
            priced=pool.series(PRICED),
        )
        if drift is None:
            continue
        start = pool.slots[-drift.buckets][0]
        text = (
            f"{name} is not what it was: {wording.drifted(drift.metric, drift.before, drift.after)} in the last "
            f"{wording.buckets(drift.buckets)}; only these count from now on."
        )
        found[name] = (start, Reason(code="drift", text=text, candidate=name))
    return found


def _rule(case: Case) -> Ruling:
    """In order: the gate, a refuted incumbent, a trial, what is missing, and else keep."""
    refuted = case.incumbent.refuted
    found = {c.name: standing(case, c) for c in case.challengers}
    reasons = tuple(reason for _, own in found.values() for reason in own)
    winner = min((c for c in case.challengers if found[c.name][0] == "wins"), key=order, default=None)
    tried = min((c for c in case.challengers if found[c.name][0] == "trial"), key=order, default=None)
    chosen = winner or tried
    standings = {name: where for name, (where, _) in found.items()}
    if refuted:
        alarm = _refuted_reason(case)
        successor = None if winner else replacement(case)
        if successor is not None:
            reasons = (alarm, *_taking_over(case, successor, reasons))
            return Ruling(verdict="PROMOTE", reasons=reasons, challenger=successor, at_once=True)
        if chosen is None:
            return _alert(case, standings, alarm, reasons)
        reasons = (alarm, *reasons)
    elif case.route is not None and case.now < case.route.cooldown_until and not case.urgent:
        reasons = (_cooldown_reason(case.route), *reasons)
        if chosen is not None:
            return Ruling(verdict="HOLD", reasons=reasons, challenger=chosen)
    if winner is not None:
        return Ruling(verdict="PROMOTE", reasons=reasons, challenger=winner, at_once=refuted)
    if tried is not None:
        return Ruling(verdict="TRIAL", reasons=reasons, challenger=tried, runs_needed=tried.runs_needed)
    return _stay(case, standings, reasons)


def _taking_over(case: Case, successor: Candidate, reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    """Why a successor replaces a refuted incumbent, without the reasons that speak of what this does not wait for."""
    shown = successor.comparison is not None and successor.comparison.shown
    text = (
        f"breaks no guardrail over {wording.runs(successor.n)} and its success is within "
        f"{wording.percent(case.policy.margin)} of {case.incumbent.name}'s or better: it takes over "
        + ("at once, without a trial." if shown else "even without a gain.")
    )
    kept = (
        reason
        for reason in reasons
        if reason.code != "non_inferiority_open"
        and not (reason.candidate == successor.name and reason.code in _UNDECIDED)
    )
    return (about(successor, "replaces_refuted", text), *kept)


def _alert(case: Case, standings: dict[str, Standing], alarm: Reason, reasons: tuple[Reason, ...]) -> Ruling:
    """A refuted incumbent that nobody may replace stays, and someone should look."""
    able = [c for c in case.challengers if standings[c.name] in ("needs", "open") and c.runs_needed > 0]
    best = min(able, key=lambda c: (c.failing, c.n == 0, c.runs_needed, order(c)), default=None)
    text = "breaks a guardrail and no other candidate may take over yet: it stays, someone should look."
    if best is not None:
        text += f" {best.name} is closest: about {wording.more_runs(best.runs_needed)} per candidate would tell."
    return Ruling(
        verdict="HOLD",
        reasons=(alarm, about(case.incumbent, "no_replacement", text), *reasons),
        runs_needed=0 if best is None else best.runs_needed,
    )


def _stay(case: Case, standings: dict[str, Standing], reasons: tuple[Reason, ...]) -> Ruling:
    """No challenger may take over from an incumbent that holds: keep, hold or insufficient."""
    incumbent = case.incumbent
    if not case.challengers:
        return Ruling(verdict="KEEP", reasons=(*reasons, _alone(incumbent)))
    costless = without_cost(case, incumbent)
    if costless is not None:
        text = f"{costless.text} Until then nothing can be compared with it by {wording.objective_name(case.policy)}."
        reason = Reason(code=costless.code, text=text, candidate=incumbent.name)
        return Ruling(verdict="HOLD", reasons=(reason, *reasons))
    lacking = [c for c in case.challengers if standings[c.name] == "needs"]
    if lacking:
        needed = max(c.runs_needed for c in lacking)
        soonest = min((c.runs_needed for c in lacking if c.promising and c.runs_needed > 0), default=needed)
        return Ruling(verdict="INSUFFICIENT", reasons=reasons, runs_needed=soonest)
    still_open = [c for c in case.challengers if standings[c.name] == "open"]
    if still_open:
        names = ", ".join(c.name for c in still_open)
        text = f"{incumbent.name} stays: no gain is shown for {names}, and none is excluded yet."
        return Ruling(
            verdict="KEEP",
            reasons=(Reason(code="keep_open", text=text), *reasons),
            runs_needed=max(c.runs_needed for c in still_open),
        )
    text = f"{incumbent.name} stays: no eligible candidate can be better by what the task asks for."
    return Ruling(verdict="KEEP", reasons=(Reason(code="keep_proven", text=text), *reasons))


def _alone(only: Candidate) -> Reason:
    text = "is the only candidate and nothing else was measured: it stays for want of another, not because it is good"
    if only.n > 0 and only.successes == 0:
        text += f"; it never succeeded in {wording.runs(only.n)}"
    return about(only, "only_candidate", f"{text}. Name other candidates and compare them with `tierwise bench`.")


def _refuted_reason(case: Case) -> Reason:
    broken = "; ".join(wording.finding(g) for g in case.incumbent.guardrails if g.state == "refuted")
    return about(case.incumbent, "incumbent_refuted", f"breaks {broken}.")


def _cooldown_reason(route: Route) -> Reason:
    text = f"The route changed recently: nothing is changed again before {wording.moment(route.cooldown_until)}."
    return Reason(code="cooldown", text=text)


def _task_of(rows: Sequence[EvidenceRow], policy: TaskPolicy, route: Route | None) -> str:
    if policy.task != WILDCARD:
        return policy.task
    return route.task if route is not None else min((row.key.task for row in rows), default=policy.task)


def _fallbacks(case: Case, primary: str) -> tuple[tuple[str, ...], tuple[Reason, ...]]:
    """Everyone else who breaks no guardrail, best first; nobody left: the least bad, since an empty list is an outage."""
    everyone = (case.incumbent, *case.challengers)
    others = sorted((c for c in everyone if c.name != primary), key=order)
    fine = [c for c in others if not c.refuted]
    if fine or not others:
        return tuple(c.name for c in fine), ()
    last = min(others, key=lambda c: (-(c.success_rate or 0.0), order(c)))
    text = "breaks a guardrail"
    if all(c.refuted for c in everyone):
        text += " like every candidate"
    elif len(others) > 1:
        text += f" like all but {primary}"
    else:
        text += " and there is no other candidate"
    text += ", but an answer of it is better than an outage: it is the fallback."
    return (last.name,), (about(last, "fallback_refuted", text),)


def _recommend(
    case: Case, ruling: Ruling, memory: Memory, remarks: tuple[Reason, ...], input_hash: str
) -> Recommendation:
    step = advance(case, ruling)
    automatic = case.automatic
    by_step = automatic or (case.route is not None and case.route.canary is not None)
    verdict = step.verdict if by_step else ruling.verdict
    challenger = step.challenger or ruling.challenger
    primary = case.incumbent.name
    if verdict == "PROMOTE" and challenger is not None:
        primary = challenger.name
    fallbacks, extra = _fallbacks(case, primary)
    ladder, rungs = ladder_of(case, primary, fallbacks)
    per_1000, per_month = _savings(case, challenger)
    infinite = tuple(
        about(c, "no_success", f"never succeeded in {wording.runs(c.n)}: its cost per success is infinite.")
        for c in (case.incumbent, *case.challengers)
        if c.n > 0 and c.successes == 0
    )
    taken = step if automatic else stay(case)
    behind, steps = fallbacks, ladder
    if taken.primary != primary:  # a canary comes first: the route keeps its primary
        behind, _ = _fallbacks(case, taken.primary)
        steps, _ = ladder_of(case, taken.primary, behind)
    traffic = shares(case, taken, memory.dropped, steps)
    after = next_route(case, taken, fallbacks=behind, ladder=steps, memory=memory, propensities=traffic)
    action = taken.action
    if action == "none" and remembers_more(case.route, after):
        action = "traffic"
    return Recommendation(
        task=case.selection.task,
        verdict=verdict,
        current=case.incumbent.name,
        primary=primary,
        challenger=None if challenger is None else challenger.name,
        fallbacks=fallbacks,
        ladder=ladder,
        grade=case.grade,
        reasons=(*(step.reasons if by_step else ()), *ruling.reasons, *infinite, *extra, *rungs, *remarks),
        candidates=tuple(report(c) for c in (case.incumbent, *case.challengers)),
        saving_per_1000_runs_usd=per_1000,
        saving_per_month_usd=per_month,
        runs_needed=ruling.runs_needed,
        confidence=case.policy.confidence,
        at=case.now,
        input_hash=input_hash,
        traffic=traffic,
        action=action,
        exploring=exploring(case, taken.primary, steps) if verdict in _COULD_LEARN else None,
        after=case.route if action == "none" else after,
    )


def _savings(case: Case, challenger: Candidate | None) -> tuple[float | None, float | None]:
    """USD per 1,000 runs, the difference of mean costs per run; and per month where a day of live traffic is known."""
    if challenger is None or challenger.cost_per_run is None or case.incumbent.cost_per_run is None:
        return None, None
    saving = case.incumbent.cost_per_run - challenger.cost_per_run
    runs, span_s = case.selection.live_runs, case.selection.live_span_s
    if runs < MONTH_RUNS or span_s < DAY_S:
        return saving * 1000, None
    return saving * 1000, saving * runs / (span_s / 3600) * MONTH_H


def _empty(task: str, policy: TaskPolicy, now: int, input_hash: str, remarks: tuple[Reason, ...]) -> Recommendation:
    return Recommendation(
        task=task, verdict="INSUFFICIENT", current=None, primary=None, challenger=None, fallbacks=(), ladder=(), grade=None,
        reasons=remarks, candidates=(), saving_per_1000_runs_usd=None, saving_per_month_usd=None,
        runs_needed=policy.min_runs, confidence=policy.confidence, at=now, input_hash=input_hash,
    )  # fmt: skip

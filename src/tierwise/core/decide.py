"""The rules: evidence + policy + route + now → Recommendation. Pure: the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tierwise.core import wording
from tierwise.core.assess import Candidate, assess, report
from tierwise.core.call import Grade
from tierwise.core.compare import COST_KINDS
from tierwise.core.evidence import EvidenceRow
from tierwise.core.policy import WILDCARD, TaskPolicy
from tierwise.core.pool import Selection, hash_inputs, select
from tierwise.core.recommendation import Reason, Recommendation, Verdict
from tierwise.core.route import Route

Standing = Literal["wins", "trial", "lost", "open", "needs", "barred"]
"""Of a challenger: may be promoted; may be tried; cannot win; measured but not decided; lacks runs; not eligible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One task as it stands."""

    policy: TaskPolicy
    route: Route | None
    now: int
    selection: Selection
    grade: Grade | None
    incumbent: Candidate
    challengers: tuple[Candidate, ...]

    @property
    def automatic(self) -> bool:
        return self.policy.apply == "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ruling:
    verdict: Verdict
    reasons: tuple[Reason, ...]
    challenger: Candidate | None = None
    runs_needed: int = 0


def decide(rows: Sequence[EvidenceRow], policy: TaskPolicy, route: Route | None, now: int) -> Recommendation:
    """Recommend a route for one task.

    Never raises over what the evidence holds: rows that cannot be believed are left out with a reason. With a policy
    for `"*"` the task is that of the route, else that of the rows. All bounds hold at every look with
    probability `policy.confidence` per task: challengers share alpha, and so do guardrails times candidates.

    Args:
        rows: evidence of the task in the window; order does not matter, rows of one key are summed.
        policy: the task's policy.
        route: the task's present route, `None` when it has none.
        now: Unix seconds; hours that have not ended by then are left out.
    """
    task = _task_of(rows, policy, route)
    selection = select(rows, task=task, now=now)
    current = _incumbent(selection, policy, route)
    names = tuple(dict.fromkeys((*policy.candidates, *((current,) if current is not None else ()))))
    input_hash = hash_inputs(rows, policy, route, now)
    notes = _notes(selection, policy, current)
    if current is None:
        return _empty(task, policy, now, input_hash, notes)
    grade = _grade(selection, names, current)
    incumbent, challengers = assess(selection, policy, names, current, grade)
    case = _Case(
        policy=policy,
        route=route,
        now=now,
        selection=selection,
        grade=grade,
        incumbent=incumbent,
        challengers=challengers,
    )
    ruling = _rule(case)
    return _recommend(case, ruling, notes, input_hash)


def _rule(case: _Case) -> _Ruling:
    """Points 3 to 5 in order: the gate, a refuted incumbent, a trial, what is missing, and else keep."""
    refuted = case.incumbent.refuted
    standings = {c.name: _standing(case, c) for c in case.challengers}
    reasons = tuple(reason for _, found in standings.values() for reason in found)
    best = {
        standing: min((c for c in case.challengers if standings[c.name][0] == standing), key=_order, default=None)
        for standing in ("wins", "trial")
    }
    alarm = (_refuted_reason(case),) if refuted else ()
    cooling = case.route is not None and case.now < case.route.cooldown_until
    pause = (_cooldown_reason(case.route),) if cooling and case.route is not None else ()
    chosen = best["wins"] or best["trial"]
    verdict: Verdict = "PROMOTE" if best["wins"] else "TRIAL"
    replacement = _replacement(case) if refuted and not best["wins"] else None
    if replacement is not None:
        text = (
            f"{replacement.name} breaks no guardrail over {wording.runs(replacement.n)} and its success is within "
            f"{wording.percent(case.policy.margin)} of {case.incumbent.name}'s or better: it takes over even without a gain."
        )
        moved = Reason(code="replaces_refuted", text=text, candidate=replacement.name)
        return _Ruling(verdict="PROMOTE", reasons=(*alarm, moved, *reasons), challenger=replacement)
    if chosen is not None and (refuted or not cooling):
        return _Ruling(verdict=verdict, reasons=(*alarm, *reasons), challenger=chosen)
    if chosen is not None:
        return _Ruling(verdict="HOLD", reasons=(*pause, *reasons), challenger=chosen)
    return _stay(case, {name: standing for name, (standing, _) in standings.items()}, (*alarm, *pause, *reasons))


def _stay(case: _Case, standings: dict[str, Standing], reasons: tuple[Reason, ...]) -> _Ruling:  # noqa: PLR0911 - a return a rule
    """No challenger may take over: insufficient, hold or keep."""
    lacking = [c for c in case.challengers if standings[c.name] == "needs"]
    needed = max((c.runs_needed for c in lacking), default=0)
    soonest = min((c.runs_needed for c in lacking if c.promising and c.runs_needed > 0), default=needed)
    if case.incumbent.refuted:
        hopeful = [c for c in lacking if c.n > 0 and not c.failing and c.runs_needed > 0]
        if hopeful:
            return _Ruling(verdict="INSUFFICIENT", reasons=reasons, runs_needed=min(c.runs_needed for c in hopeful))
        text = (
            f"{case.incumbent.name} breaks a guardrail and no other candidate is known to be better: "
            "it stays, someone should look."
        )
        alert = Reason(code="no_replacement", text=text, candidate=case.incumbent.name)
        return _Ruling(verdict="HOLD", reasons=(*reasons, alert), runs_needed=needed)
    if not case.challengers:
        text = f"{case.incumbent.name} is the only candidate: there is nothing to compare it with."
        return _Ruling(verdict="KEEP", reasons=(*reasons, Reason(code="only_candidate", text=text)))
    if case.policy.objective.kind in COST_KINDS and case.incumbent.unpriced and case.incumbent.n > 0:
        text = (
            f"{case.incumbent.name} has no known price, so nothing can be compared with it by "
            f"{wording.objective_name(case.policy)}: name its price under `prices:`."
        )
        return _Ruling(
            verdict="HOLD", reasons=(*reasons, Reason(code="unpriced", text=text, candidate=case.incumbent.name))
        )
    if lacking:
        return _Ruling(verdict="INSUFFICIENT", reasons=reasons, runs_needed=soonest)
    still_open = [c for c in case.challengers if standings[c.name] == "open"]
    if still_open:
        names = ", ".join(c.name for c in still_open)
        text = f"{case.incumbent.name} stays: no gain is shown for {names}, and none is excluded yet."
        return _Ruling(
            verdict="KEEP",
            reasons=(Reason(code="keep_open", text=text), *reasons),
            runs_needed=max(c.runs_needed for c in still_open),
        )
    text = f"{case.incumbent.name} stays: no eligible candidate can be better by what the task asks for."
    return _Ruling(verdict="KEEP", reasons=(Reason(code="keep_proven", text=text), *reasons))


def _standing(case: _Case, challenger: Candidate) -> tuple[Standing, list[Reason]]:  # noqa: PLR0911 - a return a rule
    """Where a challenger stands against the incumbent, with the reasons in words."""
    barred = _barred(case, challenger)
    if barred is not None:
        return "barred", [barred]
    states = [g for g in challenger.guardrails if g.state == "refuted"]
    if states:
        return "lost", [_of(challenger, "guardrail_refuted", f"breaks {wording.finding(g)}.") for g in states]
    comparison = challenger.comparison
    if comparison is None or comparison.n_challenger == 0 or comparison.n_incumbent == 0:
        return "needs", [_no_runs(case, challenger)]
    found = (
        f"{wording.gain_of(comparison, case.policy)}; {wording.difference_of(comparison)}; {wording.basis(comparison)}"
    )
    if comparison.inferior:
        text = f"succeeds less often by more than {wording.percent(case.policy.margin)}: {found}."
        return "lost", [_of(challenger, "success_worse", text)]
    if comparison.shown:
        return _shown(case, challenger, found)
    if not comparison.enough:
        return "needs", [_of(challenger, "few_runs", f"{_shortage(case, challenger)} So far: {found}.")]
    if comparison.gain.high < case.policy.min_improvement:
        text = f"cannot gain {wording.percent(case.policy.min_improvement)}: {found}."
        return "lost", [_of(challenger, "no_worthwhile_gain", text)]
    return "open", [_of(challenger, "gain_open", f"is not shown to be better: {found}.{_more(challenger)}")]


def _shown(case: _Case, challenger: Candidate, found: str) -> tuple[Standing, list[Reason]]:  # noqa: PLR0911 - a return a rule
    """A gain is shown: what else the gate asks for."""
    comparison, policy = challenger.comparison, case.policy
    assert comparison is not None and comparison.difference is not None  # noqa: S101, PT018
    how = "by the exact test of success rates, which needs no minimum" if comparison.exact else "at every look"
    gain = _of(challenger, "gain_shown", f"is better {how}: {found}.")
    failing = [g for g in challenger.guardrails if g.state == "failing"]
    unknown = [g for g in challenger.guardrails if g.state == "unknown"]
    open_limits = [g for g in challenger.guardrails if g.state == "holding"]
    if failing:
        limits = [
            _of(challenger, "guardrail_failing", f"misses {wording.finding(g)}; not yet refuted.") for g in failing
        ]
        return ("open" if comparison.enough else "needs"), [gain, *limits]
    if unknown:
        texts = [f"has nothing recorded to judge {wording.limit(g)} by: record it or drop the limit." for g in unknown]
        return "needs", [gain, *(_of(challenger, "guardrail_unknown", text) for text in texts)]
    held = [
        _of(challenger, "guardrail_holding", f"holds {wording.finding(g)}{_proof(g.runs_to_prove)}.")
        for g in open_limits
    ]
    if policy.needs_proof and open_limits:
        return "needs", [gain, *(replace(reason, code="proof_missing") for reason in held)]
    blocked = _grade_blocks(case, challenger)
    if blocked is not None:
        return "needs", [gain, blocked]
    observational = [_confounded(case, challenger)] if case.grade == "observational" else []
    if comparison.non_inferior:
        if case.automatic and case.grade == "randomised" and case.selection.single_session:
            text = "was measured in one bench session only: a canary on live traffic must confirm it."
            return "trial", [gain, _of(challenger, "one_session", text), *held]
        return "wins", [gain, *held, *observational]
    if comparison.difference < -policy.margin:
        text = f"succeeds less often by {wording.percent(-comparison.difference)}, the margin is {wording.percent(policy.margin)}."
        return "open", [gain, _of(challenger, "success_below_margin", text)]
    text = (
        f"may still succeed less often by more than {wording.percent(policy.margin)}: a trial on live traffic decides."
        f"{_more(challenger)}"
    )
    return "trial", [gain, _of(challenger, "non_inferiority_open", text), *held, *observational]


def _barred(case: _Case, challenger: Candidate) -> Reason | None:
    until = case.route.backoff.get(challenger.name, 0) if case.route is not None else 0
    if case.now < until:
        return _of(challenger, "backoff", f"failed a canary and is left alone until {wording.moment(until)}.")
    if case.policy.objective.kind in COST_KINDS and challenger.unpriced and challenger.n > 0:
        return _of(challenger, "unpriced", "has no known price and is never taken for cheap: name it under `prices:`.")
    return None


def _grade_blocks(case: _Case, challenger: Candidate) -> Reason | None:
    if case.grade != "observational" or not (case.automatic or case.policy.needs_proof):
        return None
    why = "`apply: auto` never acts" if case.automatic else "a task that demands proof is not changed"
    text = (
        f"was not compared at random: {why} on observational evidence. `tierwise bench` is the cheapest way to be sure."
    )
    return _of(challenger, "observational", text)


def _confounded(case: _Case, challenger: Candidate) -> Reason:
    text = (
        f"and {case.incumbent.name} were called by choice, not at random: the difference may come from which prompts, "
        "users or hours each one got. The cheapest way to be sure is `tierwise bench` with this task's prompts; "
        "else `explore: 5%` or shadow runs."
    )
    return _of(challenger, "observational", text)


def _replacement(case: _Case) -> Candidate | None:
    """Point 5: who may take over from a refuted incumbent without a gain."""
    if case.grade == "observational" and (case.automatic or case.policy.needs_proof):
        return None
    able = [c for c in case.challengers if _barred(case, c) is None and _may_replace(case, c)]
    return min(able, key=_order, default=None)


def _may_replace(case: _Case, challenger: Candidate) -> bool:
    fine = ("proven",) if case.policy.needs_proof else ("proven", "holding")
    comparison = challenger.comparison
    return (
        challenger.n >= max(case.policy.min_runs, 1)
        and all(g.state in fine for g in challenger.guardrails)
        and comparison is not None
        and comparison.difference is not None
        and not comparison.inferior
        and comparison.difference >= -case.policy.margin
    )


def _no_runs(case: _Case, challenger: Candidate) -> Reason:
    idle = case.incumbent if challenger.n > 0 and case.incumbent.n == 0 else challenger
    if challenger.n > 0 and case.incumbent.n > 0:
        text = (
            f"and {case.incumbent.name} share no closed bucket of comparable runs: measure both at once, "
            "with `tierwise bench` or `explore`."
        )
        return _of(challenger, "no_shared_buckets", text)
    text = f"{idle.name} has no {case.grade or 'recorded'} runs yet; {_shortage(case, challenger)}"
    return Reason(code="no_runs", text=text, candidate=challenger.name)


def _shortage(case: _Case, challenger: Candidate) -> str:
    policy = case.policy
    return (
        f"about {wording.runs(challenger.runs_needed)} more per candidate are needed (the minimum is "
        f"{wording.runs(policy.min_runs)} in {policy.min_buckets} buckets unless an exact test decides sooner)."
    )


def _more(candidate: Candidate) -> str:
    return f" About {wording.runs(candidate.runs_needed)} more would decide." if candidate.runs_needed else ""


def _proof(more: int | None) -> str:
    return "" if more is None else f"; {wording.runs(more)} more at this rate would prove it"


def _of(candidate: Candidate, code: str, text: str) -> Reason:
    return Reason(code=code, text=f"{candidate.name} {text}", candidate=candidate.name)


def _refuted_reason(case: _Case) -> Reason:
    broken = "; ".join(wording.finding(g) for g in case.incumbent.guardrails if g.state == "refuted")
    return _of(case.incumbent, "incumbent_refuted", f"breaks {broken}.")


def _cooldown_reason(route: Route) -> Reason:
    text = f"The route changed recently: nothing is changed again before {wording.moment(route.cooldown_until)}."
    return Reason(code="cooldown", text=text)


def _notes(selection: Selection, policy: TaskPolicy, current: str | None) -> tuple[Reason, ...]:
    """What a reader should know about the inputs, whatever the verdict."""
    notes: list[Reason] = []
    if not policy.candidates:
        text = f"The policy of {selection.task} names no candidates: add some to decide between."
        notes.append(Reason(code="no_candidates", text=text))
    elif current is not None and current not in policy.candidates:
        text = f"{current} serves {selection.task} but is not among its candidates."
        notes.append(Reason(code="incumbent_not_in_policy", text=text, candidate=current))
    if not any(selection.runs.values()):
        notes.append(Reason(code="no_evidence", text=f"No closed bucket holds a run of {selection.task} yet."))
    if selection.invalid:
        text = f"{selection.invalid} rows of evidence were left out: they hold NaN, negative or contradictory sums."
        notes.append(Reason(code="invalid_evidence", text=text))
    if selection.foreign:
        notes.append(Reason(code="other_task", text=f"{selection.foreign} rows of other tasks were left out."))
    if selection.open_runs:
        until = wording.moment(selection.open_until)
        text = f"{wording.runs(selection.open_runs)} of hours still open count when they have closed, at {until}."
        notes.append(Reason(code="open_hour", text=text))
    for name, left_out in sorted(selection.older.items()):
        text = f"{name} changed (price, model, parameters or prompt): {wording.runs(left_out)} of before are left out."
        notes.append(Reason(code="older_epoch", text=text, candidate=name))
    if policy.objective.kind == "loss" and policy.objective.value_of_success_usd is None:
        text = "The objective `loss` needs `value_of_success`, in USD: without it nothing can be compared."
        notes.append(Reason(code="objective_incomplete", text=text))
    return tuple(notes)


def _task_of(rows: Sequence[EvidenceRow], policy: TaskPolicy, route: Route | None) -> str:
    if policy.task != WILDCARD:
        return policy.task
    return route.task if route is not None else min((row.key.task for row in rows), default=policy.task)


def _incumbent(selection: Selection, policy: TaskPolicy, route: Route | None) -> str | None:
    if route is not None:
        return route.primary
    places = {name: place for place, name in enumerate(policy.candidates)}
    used = [name for name, count in selection.runs.items() if count > 0]
    if used:
        return min(used, key=lambda name: (-selection.runs[name], places.get(name, len(places)), name))
    return policy.candidates[0] if policy.candidates else None


def _grade(selection: Selection, names: Sequence[str], current: str) -> Grade | None:
    random = {name for name in names if selection.pool(name, "randomised").live_slots}
    if current in random and len(random) > 1:
        return "randomised"
    observed = {name for name in names if selection.pool(name, None).live_slots}
    if not observed:
        return None
    return "randomised" if observed <= random else "observational"


def _order(candidate: Candidate) -> tuple[bool, float, int]:
    """Known ones first by objective, then the policy's order."""
    value = candidate.objective
    return (value is None, 0.0 if value is None else value, candidate.place)


def _fallbacks(case: _Case, primary: str) -> tuple[tuple[str, ...], tuple[Reason, ...]]:
    """Everyone else who breaks no guardrail, best first; nobody left: the least bad, since an empty list is an outage."""
    others = sorted((c for c in (case.incumbent, *case.challengers) if c.name != primary), key=_order)
    fine = [c for c in others if not c.refuted]
    if fine or not others:
        return tuple(c.name for c in fine), ()
    last = min(others, key=lambda c: (-(c.success_rate or 0.0), _order(c)))
    text = "breaks a guardrail like every other candidate, but an answer of it is better than an outage: it is the fallback."
    return (last.name,), (_of(last, "fallback_refuted", text),)


def _recommend(case: _Case, ruling: _Ruling, notes: tuple[Reason, ...], input_hash: str) -> Recommendation:
    current = case.incumbent.name
    promoted = ruling.verdict == "PROMOTE" and ruling.challenger is not None
    primary = ruling.challenger.name if promoted and ruling.challenger is not None else current
    fallbacks, extra = _fallbacks(case, primary)
    per_1000, per_month = _savings(case, ruling.challenger)
    infinite = tuple(
        _of(c, "no_success", f"never succeeded in {wording.runs(c.n)}: its cost per success is infinite.")
        for c in (case.incumbent, *case.challengers)
        if c.n > 0 and c.successes == 0
    )
    return Recommendation(
        task=case.selection.task,
        verdict=ruling.verdict,
        current=current,
        primary=primary,
        challenger=None if ruling.challenger is None else ruling.challenger.name,
        fallbacks=fallbacks,
        ladder=(primary, *fallbacks)[: max(case.policy.ladder.max_rungs, 1)],
        grade=case.grade,
        reasons=(*ruling.reasons, *infinite, *extra, *notes),
        candidates=tuple(report(c) for c in (case.incumbent, *case.challengers)),
        saving_per_1000_runs_usd=per_1000,
        saving_per_month_usd=per_month,
        runs_needed=ruling.runs_needed,
        confidence=case.policy.confidence,
        at=case.now,
        input_hash=input_hash,
    )


def _savings(case: _Case, challenger: Candidate | None) -> tuple[float | None, float | None]:
    """USD per 1,000 runs and per month of 730 hours at the live volume: the difference of mean costs per run."""
    if challenger is None or challenger.cost_per_run is None or case.incumbent.cost_per_run is None:
        return None, None
    saving = case.incumbent.cost_per_run - challenger.cost_per_run
    volume = case.selection.runs_per_hour
    return saving * 1000, None if volume is None else saving * volume * 730


def _empty(task: str, policy: TaskPolicy, now: int, input_hash: str, notes: tuple[Reason, ...]) -> Recommendation:
    return Recommendation(
        task=task, verdict="INSUFFICIENT", current=None, primary=None, challenger=None, fallbacks=(), ladder=(), grade=None,
        reasons=notes, candidates=(), saving_per_1000_runs_usd=None, saving_per_month_usd=None,
        runs_needed=policy.min_runs, confidence=policy.confidence, at=now, input_hash=input_hash,
    )  # fmt: skip

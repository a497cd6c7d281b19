"""What applying a decision by itself does to a route: canary stages on fresh data, rollback, the next route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from tierwise.core import wording
from tierwise.core.assess import Candidate
from tierwise.core.confseq import rate_exceeds
from tierwise.core.evidence import HOUR_S
from tierwise.core.gains import gain_and_error
from tierwise.core.pool import RUNS, SUCCESSES, Pool
from tierwise.core.recommendation import Action, Reason, Verdict
from tierwise.core.records import dataclass
from tierwise.core.route import Canary, Route
from tierwise.core.standing import Case, Ruling, about, barred

STAGES: Final = (0.25, 0.5)
"""Shares of the traffic of a canary's stages; after the last one it is the primary."""
STAGE_RUNS: Final = 8
"""Fresh runs an arm below which a stage does not end."""
DRIFT_BUCKETS: Final = 24
"""For so many hours after its drift a primary is replaced by less evidence, without ramp or cool-down."""
DRIFT_RUNS: Final = 15
DRIFT_MIN_BUCKETS: Final = 2
LEAST_MOVE: Final = 0.005
BURN_BUCKETS: Final = (1, 3)
BURN_DROP: Final = 0.1
BURN_ALPHA: Final = 0.001
"""The outage rule: success of a canary's last one or three hours below its concurrent incumbent's by more than ten
points, by the exact test at this level each. A heuristic: it is asked anew every hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens to the label of a task. `primary` is the candidate that it names afterwards."""

    action: Action
    verdict: Verdict
    primary: str
    canary: Canary | None
    reasons: tuple[Reason, ...] = ()
    challenger: Candidate | None = None
    """The candidate that the step is about."""
    failed: bool = False
    """Whether the challenger's canary has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the next decision must know besides the route itself; see the fields of `Route`."""

    drifted: Mapping[str, int]
    primary_drifted_at: int
    dropped: Mapping[str, str]


def stay(case: Case) -> Step:
    """Nothing happens to the label."""
    route = case.route
    return Step(action="none", verdict="KEEP", primary=case.incumbent.name, canary=route.canary if route else None)


def drifted_lately(route: Route | None, now: int) -> bool:
    """Whether the primary drifted in the last 24 hours: the gate then asks for less and nothing is ramped."""
    return (
        route is not None
        and route.primary_drifted_at > 0
        and now - route.primary_drifted_at <= (DRIFT_BUCKETS + 1) * HOUR_S
    )


def advance(case: Case, ruling: Ruling) -> Step:
    """The next step of a task's route under `apply: auto`, pure: a canary first, else what the ruling says.

    Capped exploring goes 25 -> 50 -> 100 %; each stage needs at least one closed bucket and 8 fresh runs an arm whose gain
    is not below -2 standard errors against the concurrent incumbent. The label moves at once where traffic is split
    adaptively, where the incumbent breaks a guardrail, and for 24 hours after it drifted.
    """
    route = case.route
    if route is not None and route.canary is not None:
        return _canary(case, ruling, route, route.canary)
    current = case.incumbent.name
    stay = Step(action="none" if route is not None else "pin", verdict=ruling.verdict, primary=current, canary=None)
    challenger = ruling.challenger
    if challenger is None or ruling.verdict not in ("PROMOTE", "TRIAL"):
        return stay
    if case.policy.risk == "high":
        text = "is not put in place by itself: a task of high risk changes by hand (`tierwise apply`)."
        return replace(stay, reasons=(about(challenger, "high_risk_by_hand", text),))
    at_once = ruling.at_once or case.urgent or case.policy.explore == "adaptive"
    if ruling.verdict == "PROMOTE" and at_once:
        return Step(action="promote", verdict="PROMOTE", primary=challenger.name, canary=None, challenger=challenger)
    if case.policy.explore == "adaptive":  # the split tries it out already
        return replace(stay, verdict=ruling.verdict)
    canary = Canary(candidate=challenger.name, share=STAGES[0], stage=0, started_at=_next_hour(case.now))
    text = f"starts as a canary with {wording.percent(STAGES[0])} of the traffic."
    return Step(
        action="trial",
        verdict=ruling.verdict,
        primary=current,
        canary=canary,
        challenger=challenger,
        reasons=(about(challenger, "canary_started", text),),
    )


def _canary(case: Case, ruling: Ruling, route: Route, canary: Canary) -> Step:
    """One look at a running canary: back, on, or wait."""
    current = case.incumbent.name
    challenger = next((c for c in case.challengers if c.name == canary.candidate), None)
    if challenger is None:
        text = f"{canary.candidate} is no candidate of {route.task} any more: its canary ends."
        reason = Reason(code="canary_gone", text=text, candidate=canary.candidate)
        return Step(action="rollback", verdict="ROLLBACK", primary=current, canary=None, reasons=(reason,))
    wrong = _wrong(case, challenger, canary)
    if wrong is not None:
        return Step(
            action="rollback",
            verdict="ROLLBACK",
            primary=current,
            canary=None,
            reasons=(wrong,),
            challenger=challenger,
            failed=True,
        )
    if (ruling.at_once or case.urgent) and ruling.verdict == "PROMOTE" and ruling.challenger is not None:
        return Step(
            action="promote",
            verdict="PROMOTE",
            primary=ruling.challenger.name,
            canary=None,
            challenger=ruling.challenger,
        )
    return _stage(case, challenger, canary)


def _wrong(case: Case, challenger: Candidate, canary: Canary) -> Reason | None:
    """Why a canary must end at once, `None` when nothing speaks against it."""
    states = [g for g in challenger.guardrails if g.state == "refuted"]
    if states:
        return about(challenger, "canary_guardrail", f"breaks {wording.finding(states[0])} as a canary.")
    unfit = barred(case, challenger)
    if unfit is not None:
        return unfit
    if challenger.comparison is not None and challenger.comparison.inferior:
        text = f"succeeds less often than {case.incumbent.name} by more than {wording.percent(case.policy.margin)}."
        return about(challenger, "canary_worse", text)
    incumbent, fresh = _fresh(case, challenger, canary)
    for buckets in BURN_BUCKETS:
        slots = frozenset(fresh.slots[-buckets:])
        old, new = incumbent.within(slots), fresh.within(slots)
        n_old, n_new = old.total(RUNS), new.total(RUNS)
        good_old, good_new = (min(max(pool.total(SUCCESSES), 0.0), n) for pool, n in ((old, n_old), (new, n_new)))
        if n_old and n_new and rate_exceeds(good_old, n_old, good_new, n_new, BURN_DROP, BURN_ALPHA):
            hours = "the last hour" if buckets == 1 else f"the last {buckets} hours"
            text = (
                f"failed in {hours}: {good_new:.0f} of {wording.runs(int(n_new))} succeeded, "
                f"{good_old:.0f} of {n_old:.0f} of {case.incumbent.name}."
            )
            return about(challenger, "canary_outage", text)
    return None


def _stage(case: Case, challenger: Candidate, canary: Canary) -> Step:
    policy = case.policy
    incumbent, fresh = _fresh(case, challenger, canary)
    runs = int(min(incumbent.total(RUNS), fresh.total(RUNS)))
    share = wording.percent(canary.share)
    if runs < STAGE_RUNS:
        text = f"is a canary with {share} of the traffic: {wording.runs(runs)} an arm in this stage, it takes {STAGE_RUNS}."
        return _step(case, challenger, "canary_waits", text, canary=canary)
    point, error = gain_and_error(incumbent, fresh, policy)
    if point is None or point < -2 * error:
        text = f"is worse than {case.incumbent.name} on the {wording.runs(runs)} an arm of its stage at {share}: it goes back."
        return _step(case, challenger, "canary_worse", text, action="rollback", verdict="ROLLBACK", failed=True)
    comparison = challenger.comparison
    non_inferior = comparison is not None and comparison.non_inferior
    gain = None if comparison is None else comparison.gain
    sure = gain is not None and gain.point is not None and gain.point > 0 and gain.low > gain.point / 2
    last = canary.stage + 1 >= len(STAGES)
    if non_inferior and (last or sure):
        text = f"has held {share} of the traffic over {wording.runs(runs)} an arm: it takes over."
        return _step(case, challenger, "canary_passed", text, action="promote", verdict="PROMOTE")
    if last:
        text = f"holds {share} of the traffic; it takes over when its success is shown to be within the margin."
        return _step(case, challenger, "canary_open", text, canary=canary)
    stage = canary.stage + 1
    following = Canary(candidate=canary.candidate, share=STAGES[stage], stage=stage, started_at=_next_hour(case.now))
    text = f"held {share} of the traffic over {wording.runs(runs)} an arm: it goes on to {wording.percent(following.share)}."
    return _step(case, challenger, "canary_stage", text, action="stage", canary=following)


def _step(
    case: Case,
    challenger: Candidate,
    code: str,
    text: str,
    *,
    action: Action = "none",
    verdict: Verdict = "TRIAL",
    canary: Canary | None = None,
    failed: bool = False,
) -> Step:
    """A canary's next step with its one reason; a promotion makes it the primary."""
    return Step(
        action=action,
        verdict=verdict,
        primary=challenger.name if action == "promote" else case.incumbent.name,
        canary=canary,
        reasons=(about(challenger, code, text),),
        challenger=challenger,
        failed=failed,
    )


def _fresh(case: Case, challenger: Candidate, canary: Canary) -> tuple[Pool, Pool]:
    """Both arms since the stage began, in the buckets that they share."""
    old, new = case.incumbent.pool.since(canary.started_at), challenger.pool.since(canary.started_at)
    shared = old.live_slots & new.live_slots
    return old.within(shared), new.within(shared)


def next_route(
    case: Case,
    step: Step,
    *,
    fallbacks: Sequence[str],
    ladder: Sequence[str],
    memory: Memory,
    propensities: Mapping[str, float],
) -> Route:
    """The route after a step; what a decision must remember goes along."""
    route, now = case.route, case.now
    epochs = {c.name: c.epoch for c in (case.incumbent, *case.challengers) if c.epoch}
    if route is None:
        route = Route(task=case.selection.task, primary=case.incumbent.name, since=now, epochs=epochs)
    failed = dict(route.failed)
    cooldown, backoff = route.cooldown_until, {name: until for name, until in route.backoff.items() if until > now}
    if step.failed and step.challenger is not None:
        failed[step.challenger.name] = step.challenger.epoch or ""
    if step.action == "rollback":
        cooldown = now + int(case.policy.cooldown_s)
    moved = step.primary != route.primary
    if moved:
        cooldown = now + int(case.policy.cooldown_s)
    return Route(
        task=route.task,
        primary=step.primary,
        fallbacks=tuple(fallbacks) if moved or not route.fallbacks else route.fallbacks,
        ladder=tuple(ladder) if moved or not route.ladder or case.selection.escalated else route.ladder,
        canary=step.canary,
        since=now if moved else route.since,
        cooldown_until=cooldown,
        backoff=backoff,
        propensities=dict(propensities),
        epochs=epochs if moved else route.epochs,
        drifted=dict(memory.drifted),
        primary_drifted_at=0 if moved else memory.primary_drifted_at,
        dropped={} if moved else dict(memory.dropped),
        failed={name: epoch for name, epoch in failed.items() if epochs.get(name, "") == epoch},
    )


def remembers_more(before: Route | None, after: Route) -> bool:
    """Whether a route whose label stays must be written all the same: traffic moved by half a point, or memory grew."""
    if before is None:
        return False
    names = {*before.propensities, *after.propensities}
    moved = max(
        (abs(before.propensities.get(name, 0.0) - after.propensities.get(name, 0.0)) for name in names), default=0
    )
    return (
        moved > LEAST_MOVE
        or before.ladder != after.ladder
        or before.drifted != after.drifted
        or before.primary_drifted_at != after.primary_drifted_at
        or before.dropped != after.dropped
        or before.failed != after.failed
    )


def _next_hour(now: int) -> int:
    """The first hour that sees the new shares whole: what began before ran under the old ones."""
    return -(-now // HOUR_S) * HOUR_S

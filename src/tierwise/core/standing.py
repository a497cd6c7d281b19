"""Where each challenger stands against the incumbent: the gate of one comparison, with its reasons in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Literal

from tierwise.core import wording
from tierwise.core.assess import Candidate
from tierwise.core.call import Grade
from tierwise.core.gains import COST_KINDS
from tierwise.core.policy import TaskPolicy
from tierwise.core.recommendation import Reason, Verdict
from tierwise.core.records import dataclass
from tierwise.core.route import Route
from tierwise.core.selection import Selection

Standing = Literal["wins", "trial", "lost", "open", "needs", "barred"]
"""Of a challenger: may be promoted; may be tried; cannot win; measured but not decided; lacks runs; not eligible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One task as it stands."""

    policy: TaskPolicy
    route: Route | None
    now: int
    selection: Selection
    grade: Grade | None
    incumbent: Candidate
    challengers: tuple[Candidate, ...]
    open_runs: Mapping[str, int] = field(default_factory=dict)
    """Runs by candidate that will count when the hour that is still open has closed."""
    urgent: bool = False
    """The incumbent drifted lately: less evidence is asked for, and nothing waits."""

    @property
    def automatic(self) -> bool:
        """Whether the policy lets tierwise act by itself."""
        return self.policy.apply == "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the rules say of a case: the verdict, why, about whom, and the runs that are still missing."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    challenger: Candidate | None = None
    runs_needed: int = 0
    at_once: bool = False
    """The incumbent breaks a guardrail: nothing is tried out first."""


def standing(case: Case, challenger: Candidate) -> tuple[Standing, list[Reason]]:  # noqa: PLR0911 - a return a rule
    """Where a challenger stands against the incumbent, with the reasons in words."""
    unfit = barred(case, challenger)
    if unfit is not None:
        return "barred", [unfit]
    states = [g for g in challenger.guardrails if g.state == "refuted"]
    if states:
        return "lost", [about(challenger, "guardrail_refuted", f"breaks {wording.finding(g)}.") for g in states]
    comparison = challenger.comparison
    if comparison is None or (0 in (comparison.n_challenger, comparison.n_incumbent) and not comparison.pairs):
        return "needs", [_no_runs(case, challenger)]
    found = (
        f"{wording.gain_of(comparison, case.policy)}; {wording.difference_of(comparison)}; {wording.basis(comparison)}"
    )
    if comparison.inferior:
        text = f"succeeds less often by more than {wording.percent(case.policy.margin)}: {found}."
        return "lost", [about(challenger, "success_worse", text)]
    if comparison.shown:
        return _shown(case, challenger, found)
    if not comparison.enough:
        return "needs", [about(challenger, "few_runs", f"needs {_shortage(case, challenger)} So far: {found}.")]
    if comparison.gain.high < case.policy.min_improvement:
        text = f"cannot gain {wording.percent(case.policy.min_improvement)}: {found}."
        return "lost", [about(challenger, "no_worthwhile_gain", text)]
    return "open", [about(challenger, "gain_open", f"is not shown to be better: {found}.{_more(challenger)}")]


def _shown(case: Case, challenger: Candidate, found: str) -> tuple[Standing, list[Reason]]:  # noqa: PLR0911 - a return a rule
    """A gain is shown: what else the gate asks for."""
    comparison, policy = challenger.comparison, case.policy
    assert comparison is not None and comparison.difference is not None  # noqa: S101, PT018
    how = "by the exact test of success rates, which needs no minimum" if comparison.exact else "at every look"
    gain = about(challenger, "gain_shown", f"is better {how}: {found}.")
    failing = [g for g in challenger.guardrails if g.state == "failing"]
    unknown = [g for g in challenger.guardrails if g.state == "unknown"]
    open_limits = [g for g in challenger.guardrails if g.state == "holding"]
    if failing:
        limits = [
            about(challenger, "guardrail_failing", f"misses {wording.finding(g)}; not yet refuted.") for g in failing
        ]
        return ("open" if comparison.enough else "needs"), [gain, *limits]
    if unknown:
        texts = [f"has nothing recorded to judge {wording.limit(g)} by: record it or drop the limit." for g in unknown]
        return "needs", [gain, *(about(challenger, "guardrail_unknown", text) for text in texts)]
    held = [
        about(challenger, "guardrail_holding", f"holds {wording.finding(g)}{_proof(g.runs_to_prove)}.")
        for g in open_limits
    ]
    if policy.needs_proof and open_limits:
        return "needs", [gain, *(replace(reason, code="proof_missing") for reason in held)]
    blocked = _grade_blocks(case, challenger)
    if blocked is not None:
        return "needs", [gain, blocked]
    observational = [_confounded(case, challenger)] if case.grade == "observational" and not comparison.paired else []
    if comparison.non_inferior:
        if case.automatic and case.grade == "randomised" and case.selection.single_session:
            text = "was measured in one bench session only: a canary on live traffic must confirm it."
            return "trial", [gain, about(challenger, "one_session", text), *held]
        return "wins", [gain, *held, *observational]
    if comparison.difference < -policy.margin:
        text = f"succeeds less often by {wording.percent(-comparison.difference)}, the margin is {wording.percent(policy.margin)}."
        return "open", [gain, about(challenger, "success_below_margin", text)]
    text = (
        f"may still succeed less often by more than {wording.percent(policy.margin)}: a trial on live traffic decides."
        f"{_more(challenger)}"
    )
    return "trial", [gain, about(challenger, "non_inferiority_open", text), *held, *observational]


def barred(case: Case, challenger: Candidate) -> Reason | None:
    """Why a challenger is not eligible at all, `None` when it is."""
    if case.route is not None:
        until = case.route.backoff.get(challenger.name, 0)
        if case.now < until:
            return about(
                challenger, "backoff", f"failed or was taken back, and is left alone until {wording.moment(until)}."
            )
        if challenger.name in case.route.failed and case.route.failed[challenger.name] == (challenger.epoch or ""):
            text = "failed as a canary or was aborted, and has not changed since (model, price, parameters, prompt)."
            return about(challenger, "backoff", text)
    return without_cost(case, challenger)


def without_cost(case: Case, candidate: Candidate) -> Reason | None:
    """Why nothing can be said about a candidate's cost where the objective asks for it: the first thing to do about it."""
    if case.policy.objective.kind not in COST_KINDS or not candidate.unpriced or candidate.n == 0:
        return None
    if candidate.only_errors:
        text = f"answered none of its {wording.runs(candidate.n)}, all ended in errors: check its name, key and limits."
        return about(candidate, "only_errors", text)
    if candidate.without_tokens:
        text = (
            "has no token counts, so no known cost (streams without usage): pass `stream_usage=True` to "
            '`tierwise.instrument`, or `stream_options={"include_usage": True}` with each request.'
        )
        return about(candidate, "no_tokens", text)
    text = "has no known price and is never taken for cheap: name it under `prices:` (`tierwise prices missing`)."
    return about(candidate, "unpriced", text)


def _grade_blocks(case: Case, challenger: Candidate) -> Reason | None:
    paired = challenger.comparison is not None and challenger.comparison.paired
    if case.grade != "observational" or paired or not (case.automatic or case.policy.needs_proof):
        return None
    why = "`apply: auto` never acts" if case.automatic else "a task that demands proof is not changed"
    text = (
        f"was not compared at random: {why} on observational evidence. `tierwise bench` is the cheapest way to be sure."
    )
    return about(challenger, "observational", text)


def _confounded(case: Case, challenger: Candidate) -> Reason:
    text = (
        f"and {case.incumbent.name} were called by choice, not at random: the difference may come from which prompts, "
        "users or hours each one got. The cheapest way to be sure is `tierwise bench` with this task's prompts; "
        "else `explore: 5%` or shadow runs."
    )
    return about(challenger, "observational", text)


def replacement(case: Case) -> Candidate | None:
    """Who may take over from a refuted incumbent without a gain."""
    if case.grade == "observational" and (case.automatic or case.policy.needs_proof):
        return None
    able = [c for c in case.challengers if barred(case, c) is None and _may_replace(case, c)]
    return min(able, key=order, default=None)


def _may_replace(case: Case, challenger: Candidate) -> bool:
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


def _no_runs(case: Case, challenger: Candidate) -> Reason:
    idle = case.incumbent if challenger.n > 0 and case.incumbent.n == 0 else challenger
    if challenger.n > 0 and case.incumbent.n > 0:
        text = (
            f"and {case.incumbent.name} share no closed bucket of comparable runs: measure both at once, "
            "with `tierwise bench` or `explore`."
        )
        return about(challenger, "no_shared_buckets", text)
    waiting = case.open_runs.get(idle.name, 0)
    if waiting:
        has = f"{idle.name} has {wording.runs(waiting)} in the hour still open and none in a closed one"
    else:
        has = f"{idle.name} has no {case.grade or 'recorded'} runs yet"
    text = f"{has}; each candidate needs {_shortage(case, challenger)}"
    return Reason(code="no_runs", text=text, candidate=challenger.name)


def _shortage(case: Case, challenger: Candidate) -> str:
    policy, more = case.policy, challenger.runs_needed
    return (
        f"{f'about {wording.more_runs(more)}' if more else 'more runs'} (the minimum is {wording.runs(policy.min_runs)} "
        f"in {policy.min_buckets} buckets, unless an exact test decides sooner)."
    )


def _more(candidate: Candidate) -> str:
    return f" About {wording.more_runs(candidate.runs_needed)} would decide." if candidate.runs_needed else ""


def _proof(more: int | None) -> str:
    return "" if more is None else f"; {wording.more_runs(more)} at this rate would prove it"


def about(candidate: Candidate, code: str, text: str) -> Reason:
    """A reason whose sentence begins with the candidate's name."""
    return Reason(code=code, text=f"{candidate.name} {text}", candidate=candidate.name)


def order(candidate: Candidate) -> tuple[bool, float, int]:
    """Known ones first by objective, then the policy's order."""
    value = candidate.objective
    return (value is None, 0.0 if value is None else value, candidate.place)

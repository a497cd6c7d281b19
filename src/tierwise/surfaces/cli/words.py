"""A decision and its route in words: what `tierwise explain` says besides the reasons and the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tierwise.core import wording
from tierwise.core.policy import TaskPolicy
from tierwise.core.recommendation import GuardrailStatus, Recommendation
from tierwise.core.rollout import STAGE_RUNS, STAGES
from tierwise.core.route import Canary, Route
from tierwise.surfaces.cli.common import NOTHING, money, percent

Lines = list[tuple[str, str]]
"""A short name (or none) and what is said about it."""

STATES: Final[Mapping[GuardrailStatus, str]] = {
    "refuted": "the bounds exclude the limit",
    "failing": "open, the estimate misses it",
    "holding": "open, the estimate meets it",
    "proven": "the bounds lie inside it",
    "unknown": "nothing was recorded to judge it by",
}


def policy_line(policy: TaskPolicy) -> str:
    """The policy in one line."""
    parts = [
        f"objective {wording.objective_name(policy)}, candidates {', '.join(policy.candidates)}",
        f"confidence {wording.percent(policy.confidence)}, a gain of at least {wording.percent(policy.min_improvement)}, "
        f"success at most {wording.percent(policy.margin)} worse",
        "changes by itself (apply: auto)" if policy.apply == "auto" else "changed by people (apply: recommend)",
    ]
    if policy.explore == "adaptive":
        parts.append("explores adaptively")
    elif policy.explore > 0:
        parts.append(f"explores with {wording.percent(policy.explore)}")
    if policy.risk is not None:
        parts.append(f"{policy.risk} risk")
    return "; ".join(parts)


def route_lines(item: Recommendation, route: Route | None, version: int) -> Lines:
    """The assignment: what is and what is recommended, the canary with its stage, what waits and why."""
    current = item.current or NOTHING
    wanted = item.challenger if item.verdict in ("PROMOTE", "TRIAL") and item.challenger else item.primary
    arrow = current if wanted is None or wanted == current else f"{current} → {wanted}"
    lines = [("route", arrow)]
    if route is None:
        lines.append(("", "no route is written yet; the present model was inferred from the runs"))
    elif route.since:
        lines.append(("since", f"{wording.moment(route.since)}, in the table of version {version}"))
    lines.append(("fallbacks", ", ".join(item.fallbacks) or NOTHING))
    if item.ladder:
        lines.append(("ladder", ", then ".join(item.ladder)))
    if route is not None:
        lines += _remembered(route, item.at)
    lines += _epochs(item, route)
    return lines


def _remembered(route: Route, now: int) -> Iterable[tuple[str, str]]:
    if route.canary is not None:
        yield "canary", _canary(route.canary)
    if route.cooldown_until > now:
        yield "cool-down", f"nothing is changed again before {wording.moment(route.cooldown_until)}"
    for name, until in sorted(route.backoff.items()):
        if until > now:
            yield "back-off", f"{name} is left alone until {wording.moment(until)}"
    for name in sorted(route.failed):
        yield "barred", f"{name}: its canary ended; until its model, price, parameters or prompt version change"
    for name, start in sorted(route.drifted.items()):
        yield "drift", f"{name} drifted: only what it did from {wording.moment(start)} on counts"
    for name in sorted(route.dropped):
        yield "dropped", f"{name} is explored no more (a little is kept), it cannot gain enough or is worse"


def _canary(canary: Canary) -> str:
    stage = min(canary.stage, len(STAGES) - 1)
    text = f"{canary.candidate} with {wording.percent(canary.share)}, stage {stage + 1} of {len(STAGES)} since "
    text += f"{wording.moment(canary.started_at)}; next "
    text += wording.percent(STAGES[stage + 1]) if stage + 1 < len(STAGES) else "all of the traffic"
    return f"{text}, after a full hour and {STAGE_RUNS} runs of each that do not speak against it"


def _epochs(item: Recommendation, route: Route | None) -> Lines:
    known = [f"{one.candidate} {one.epoch}" for one in item.candidates if one.epoch]
    lines = (
        [("epochs", f"{', '.join(known)} (same model, price, parameters and prompt version since)")] if known else []
    )
    if route is not None:
        lines += [
            ("", f"{one.candidate} is another one than when the route was made ({route.epochs[one.candidate]})")
            for one in item.candidates
            if one.epoch and route.epochs.get(one.candidate, one.epoch) != one.epoch
        ]
    return lines


def traffic_lines(item: Recommendation, route: Route | None) -> Lines:
    """How first attempts are split, at present and after the decision; nothing where one candidate has all."""
    now = dict(route.propensities) if route is not None else {}
    then = dict(item.traffic)
    if max(now.values(), default=1.0) >= 1 and max(then.values(), default=1.0) >= 1:
        return []
    names = sorted({*now, *then}, key=lambda name: (-then.get(name, 0.0), name))
    lines = []
    for name in names:
        old, new = percent(now.get(name, 0.0)), percent(then.get(name, 0.0))
        lines.append(("", f"{name}: " + (new if old == new or not now else f"{old} at present, {new} from now on")))
    return lines


def saving_lines(item: Recommendation) -> Lines:
    """What the challenger would save."""
    if item.challenger is None or item.saving_per_1000_runs_usd is None:
        return []
    text = f"{money(item.saving_per_1000_runs_usd)} per 1,000 runs"
    if item.saving_per_month_usd is not None:
        text += f", {money(item.saving_per_month_usd)} per month at the window's volume"
    return [("", f"{text}, if {item.challenger} took the place of {item.current}")]


def exploring_text(item: Recommendation) -> str | None:
    """What `explore` would cost a task that does not explore, and the most that it could save."""
    found = item.exploring
    if found is None:
        return None
    extra = found.cost_per_1000_runs_usd
    bill = f"about {money(abs(extra))} {'more' if extra >= 0 else 'less'} per 1,000 runs while it lasts"
    return (
        f"`explore: {percent(found.share)}` would cost {bill}; knowing the best could save up to "
        f"{money(found.saving_per_1000_runs_usd)} per 1,000 runs (failures counted at {money(found.value_of_success_usd)})."
    )


def what_would_change(item: Recommendation, policy: TaskPolicy | None, route: Route | None) -> Lines:
    """What has to happen for another verdict, most direct first."""
    texts = list(_steps(item, policy, route)) + list(_proofs(item))
    if item.candidates:
        texts.append(
            "A new model version, price, parameter or prompt version of a candidate starts its evidence anew, and so does drift."
        )
    return [("", text) for text in texts]


def _steps(item: Recommendation, policy: TaskPolicy | None, route: Route | None) -> Iterable[str]:
    automatic = policy is not None and policy.apply == "auto"
    codes = {reason.code for reason in item.reasons}
    if item.verdict == "PROMOTE":
        yield "`tierwise watch` makes the change by itself." if automatic else "`tierwise apply` makes the change."
    if item.verdict == "TRIAL" and (route is None or route.canary is None):
        yield (
            "`tierwise watch` starts the canary by itself."
            if automatic
            else "`tierwise apply --trial` starts a canary."
        )
    if item.verdict == "TRIAL" and route is not None and route.canary is not None:
        name = route.canary.candidate
        yield f"The canary goes on with its stages; `tierwise promote {item.task}` puts {name} in place at once."
        yield f"`tierwise abort {item.task}` ends the canary."
    if item.verdict == "ROLLBACK":
        yield (
            "`tierwise watch` ends the canary by itself."
            if automatic
            else f"`tierwise abort {item.task}` ends the canary."
        )
    if "cooldown" in codes and route is not None:
        yield f"The end of the cool-down, {wording.moment(route.cooldown_until)}."
    if "no_replacement" in codes:
        yield (
            "A candidate that breaks no guardrail and succeeds as often, within the margin: name more candidates, or "
            "correct the limit."
        )
    if item.runs_needed:
        yield (
            f"About {wording.more_runs(item.runs_needed)} of each candidate concerned, if its rates stay what they are: an "
            "estimate, made anew at each look. `tierwise bench` makes them at once."
        )
    for reason in item.reasons:
        if reason.code == "backoff" and reason.candidate is not None:
            yield (
                f"{reason.candidate}: the end of its back-off, or another version of it; "
                f"`tierwise promote {item.task} {reason.candidate}` puts it in place all the same."
            )
    if "keep_proven" in codes and not codes & {"backoff", "cooldown"} and not item.runs_needed:
        yield "Nothing more of the same: the candidates are shown not to gain what the task asks for."


def _proofs(item: Recommendation) -> Iterable[str]:
    for report in item.candidates:
        for state in report.guardrails:
            if state.state == "holding" and state.runs_to_prove:
                yield (
                    f"{report.candidate}: {wording.limit(state)} would be proven by about "
                    f"{wording.more_runs(state.runs_to_prove)} like those before."
                )

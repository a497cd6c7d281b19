"""Which candidate a task uses now, which grade of evidence is compared, and what a reader should know about the inputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from tierwise.core import wording
from tierwise.core.call import Grade
from tierwise.core.evidence import HOUR_S
from tierwise.core.policy import TaskPolicy
from tierwise.core.recommendation import Reason
from tierwise.core.route import Route
from tierwise.core.selection import COMPARED_ARMS, OpenRuns, Selection

NEARLY: Final = 0.8
"""Models with at least this share of the runs of the most used one are tied with it."""
DAY_S: Final = 24 * HOUR_S


def find_incumbent(selection: Selection, policy: TaskPolicy, route: Route | None) -> tuple[str | None, Reason | None]:
    """The current candidate and, where no route names it, a reason that says where it comes from.

    Without a route it is the model with most runs in the window, else the policy's first candidate. So that it does not
    change with every hour of a split traffic, hours still open count as well, models with at least 80 % of the most runs
    are tied, and of these one seen a day earlier than the others wins, then the policy's order, then the name.
    """
    if route is not None:
        return route.primary, None
    usage, head = selection.usage, f"No route is written for {selection.task}:"
    if not usage:
        if not policy.candidates:
            return None, None
        text = f"{head} nothing says which model it uses now, {policy.candidates[0]} is the first candidate."
        return policy.candidates[0], Reason(code="incumbent_inferred", text=text, candidate=policy.candidates[0])
    places = {name: place for place, name in enumerate(policy.candidates)}
    most = max(runs for runs, _ in usage.values())
    tied = [name for name, (runs, _) in usage.items() if runs >= NEARLY * most]
    earliest = min(usage[name][1] for name in tied)
    name = min(tied, key=lambda one: (usage[one][1] >= earliest + DAY_S, places.get(one, len(places)), one))
    if len(tied) == 1:
        total = sum(runs for runs, _ in usage.values())
        if len(usage) == 1:
            how = f"the only one in the window ({wording.runs(total)})"
        else:
            how = f"the one used most in the window ({usage[name][0]:,} of {wording.runs(total)})"
        text = f"{head} the current model is taken to be {name}, {how}."
        return name, Reason(code="incumbent_inferred", text=text, candidate=name)
    counts = ", ".join(f"{one} {usage[one][0]:,}" for one in sorted(tied, key=lambda one: (-usage[one][0], one)))
    text = (
        f"{head} {name} is taken for the current model by a tie-break only, since none is used clearly most (runs: {counts}); "
        "one seen a day before the others counts, else the policy's first. A route (`tierwise apply`) settles it."
    )
    return name, Reason(code="incumbent_tie", text=text, candidate=name)


def grade_of(selection: Selection, names: Sequence[str], current: str, extra: Sequence[OpenRuns] = ()) -> Grade | None:
    """What is compared: randomised evidence where the incumbent and another have some, else all there is.

    `extra` rows count as if they were in the selection.
    """
    random = {row.candidate for row in extra if _compared(row)}
    random |= {name for name in names if (pool := selection.randomised.get(name)) is not None and pool.buckets}
    if current in random and len(random) > 1:
        return "randomised"
    observed = {row.candidate for row in extra}
    observed |= {name for name in names if (pool := selection.observed.get(name)) is not None and pool.buckets}
    if not observed | random:
        return None
    return "randomised" if observed <= random else "observational"


def open_runs(selection: Selection, names: Sequence[str], current: str) -> dict[str, int]:
    """Runs of hours still open that will count when these have closed, by candidate."""
    rows = [row for row in selection.open_runs if row.candidate in names and row.arm != "fallback" and row.n > 0]
    if grade_of(selection, names, current, rows) == "randomised":
        rows = [row for row in rows if _compared(row)]
    found: dict[str, int] = {}
    for row in rows:
        found[row.candidate] = found.get(row.candidate, 0) + row.n
    return found


def notes(
    selection: Selection, policy: TaskPolicy, current: str | None, names: Sequence[str], grade: Grade | None
) -> tuple[Reason, ...]:
    """What a reader should know about the inputs, whatever the verdict."""
    found: list[Reason] = []
    if not policy.candidates:
        text = f"The policy of {selection.task} names no candidates: add some to decide between."
        found.append(Reason(code="no_candidates", text=text))
    elif current is not None and current not in policy.candidates:
        text = f"{current} serves {selection.task} but is not among its candidates."
        found.append(Reason(code="incumbent_not_in_policy", text=text, candidate=current))
    found += _open_notes(selection, {} if current is None else open_runs(selection, names, current))
    if grade == "randomised":
        found += _left_out(selection, names)
    if selection.invalid:
        text = f"{selection.invalid} rows of evidence were left out: they hold NaN, negative or contradictory sums."
        found.append(Reason(code="invalid_evidence", text=text))
    if selection.foreign:
        found.append(Reason(code="other_task", text=f"{selection.foreign} rows of other tasks were left out."))
    for name, left_out in sorted(selection.older.items()):
        text = f"{name} changed (price, model, parameters or prompt): {wording.runs(left_out)} of before are left out."
        found.append(Reason(code="older_epoch", text=text, candidate=name))
    if policy.objective.kind == "loss" and policy.objective.value_of_success_usd is None:
        text = "The objective `loss` needs `value_of_success`, in USD: without it nothing can be compared."
        found.append(Reason(code="objective_incomplete", text=text))
    return tuple(found)


def _open_notes(selection: Selection, counted: dict[str, int]) -> list[Reason]:
    number, empty = sum(counted.values()), not any(selection.runs.values())
    if number:
        ends = max(row.bucket + HOUR_S for row in selection.open_runs if row.candidate in counted)
        text = (
            f"{wording.runs(number)} of {selection.task} in the hour still open: verdicts count closed hours, "
            f"these runs from {wording.moment(ends)} on."
        )
        return [Reason(code="open_hour", text=text)]
    return [Reason(code="no_evidence", text=f"No closed bucket holds a run of {selection.task} yet.")] if empty else []


def _left_out(selection: Selection, names: Collection[str]) -> list[Reason]:
    left_out = {name: runs for name, runs in selection.chosen.items() if runs and name in names}
    if not left_out:
        return []
    number = sum(left_out.values())
    text = (
        f"{number:,} observational run{'s are' if number > 1 else ' is'} left out of the comparison because randomised "
        f"ones exist ({', '.join(sorted(left_out))}); a guardrail can still be refuted by them."
    )
    if "" not in selection.sessions:
        text += (
            " All randomised runs come from `tierwise bench`: "
            "if its prompts are another kind of work, give its task another name."
        )
    return [Reason(code="observational_left_out", text=text)]


def _compared(row: OpenRuns) -> bool:
    return row.grade == "randomised" and row.arm in COMPARED_ARMS

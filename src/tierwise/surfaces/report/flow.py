"""How runs climb a task's ladder: what arrived on each rung, what succeeded there, what went on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tierwise.surfaces.report.sums import TaskSums
from tierwise.surfaces.report.text import clean, listed, percent, plural


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRung:
    """One rung: bars in percent of what arrived on rung 0, and the same in words."""

    number: int
    names: str
    arrived: float
    succeeded: float
    went_on: float
    ended: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The ladder of a task; `words` sums it up."""

    rungs: tuple[FlowRung, ...]
    words: str


def flow(sums: TaskSums) -> Flow | None:
    """The flow of a task's runs; `None` when none ever went beyond rung 0."""
    arrivals = [sum(rung.attempts.values()) for rung in sums.rungs]
    if len(arrivals) < 2 or not arrivals[0]:
        return None
    total = arrivals[0]
    rungs = []
    for number, rung in enumerate(sums.rungs):
        arrived, succeeded = arrivals[number], sum(rung.successes.values())
        following = arrivals[number + 1] if number + 1 < len(arrivals) else 0
        went_on = min(following, max(0, arrived - succeeded)) if number + 1 < len(arrivals) else 0
        ended = max(0, arrived - succeeded - went_on)
        words = [
            f"{arrived:,} arrived",
            f"{succeeded:,} succeeded ({percent(succeeded / arrived) if arrived else '–'})",
        ]
        words += [f"{went_on:,} went on"] if went_on else []
        words += [f"{ended:,} ended here otherwise"] if ended else []
        rungs.append(
            FlowRung(
                number=number + 1,
                names=_names(rung.attempts),
                arrived=_share(arrived, total),
                succeeded=_share(succeeded, total),
                went_on=_share(went_on, total),
                ended=_share(ended, total),
                words=", ".join(words),
            )
        )
    return Flow(rungs=tuple(rungs), words=_summary(rungs, arrivals))


def _summary(rungs: list[FlowRung], arrivals: list[int]) -> str:
    total = arrivals[0]
    return (
        f"{percent(arrivals[1] / total)} of {plural(total, 'first attempt')} went on to a second call; "
        f"{plural(len(rungs), 'rung')} in all."
    )


def _names(attempts: Mapping[str, int]) -> str:
    return listed([clean(name, longest=60) for name in attempts], longest=3) or "–"


def _share(part: int, whole: int) -> float:
    return round(100 * part / whole, 3)

"""What exploring would cost a task that does not explore, and what it could save: for a person who decides whether to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tierwise.core.recommendation import Exploring
from tierwise.core.shares import sums_of, value_of_success
from tierwise.core.standing import Case
from tierwise.core.traffic import SHRINK, believed, expected_least, split

SHARE: Final = 0.1
"""The cap that is reckoned with."""


def exploring(case: Case, primary: str, ladder: Sequence[str]) -> Exploring | None:
    """Cost and possible saving of giving a tenth of the traffic to the challengers; `None` where nothing is to be learnt.

    That is: the task explores already, is of high risk, has no challenger left that may get traffic, or no cost is known.
    The cost is the bill's expected growth, challengers' mean cost per run less the primary's. The saving is the value of
    perfect information (Raiffa and Schlaifer, 1961): the primary's expected loss less the expected least loss over all,
    L = cost + V (1 - success), for independent normal beliefs (`traffic.posterior`); it is what knowing the best would
    save, before anything is spent to learn it.
    """
    if case.policy.explore != 0 or case.policy.risk == "high":
        return None
    able = [
        c for c in (case.incumbent, *case.challengers)
        if c.name == primary or not (c.refuted or (c.comparison is not None and _lost(case, c.comparison.gain.high)))
    ]  # fmt: skip
    arms = tuple(sums_of(c.name, c.pool) for c in able)
    own = next((arm for arm in arms if arm.candidate == primary), None)
    if len(able) < 2 or own is None or own.priced <= 0:
        return None
    value = value_of_success(case, able, ladder)
    shares = split(arms, primary=primary, explore=SHARE, value=value)
    per_run = {c.name: c.cost_per_run for c in able}
    known = [cost for cost in per_run.values() if cost is not None]
    base = per_run[primary] or 0.0
    extra = sum(
        share * ((max(known) if (cost := per_run[name]) is None else cost) - base)
        for name, share in shares.items()
        if name != primary
    )
    beliefs = dict(zip([arm.candidate for arm in arms], believed(arms, value), strict=True))
    least = expected_least([(mean, deviation / SHRINK) for mean, deviation in beliefs.values()])
    return Exploring(
        share=1 - shares[primary],
        cost_per_1000_runs_usd=1000 * extra,
        saving_per_1000_runs_usd=1000 * max(beliefs[primary][0] - least, 0.0),
        value_of_success_usd=value,
    )


def _lost(case: Case, gain_high: float) -> bool:
    return gain_high < case.policy.min_improvement

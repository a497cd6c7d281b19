"""Which arm a run takes: `choose`, pure and repeatable, and the arms of a task, worked out once for each table."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b
from itertools import accumulate
from typing import Final

from tierwise.core.call import Arm, Risk
from tierwise.core.policy import Condition, TaskPolicy
from tierwise.core.records import dataclass
from tierwise.core.route import Draw, Route
from tierwise.routing.conditions import Facts, asks_for_tokens, first_match

_SCALE: Final = 1 << 64


def choose(
    task: str,
    route: Route | None,
    policy: TaskPolicy | None,
    *,
    run_id: str,
    version: int,
    facts: Facts | None = None,
    default_model: str | None = None,
) -> Draw | None:
    """What a run starts with: the same for the same arguments, so a retry of a run stays on its arm.

    In order: a policy with `route: false` takes its first candidate; the first condition that matches, its candidates;
    high risk, the primary; else the arm is drawn by a hash of run id, table version and task with the route's
    propensities. Without a route the first candidate of the policy stands for the primary, without candidates the
    default model; `None` where nothing at all is known.
    """
    arms = arms_of(task, route, policy, version=version, default_model=default_model)
    return None if arms is None else arms.draw(run_id, facts or Facts(labels={}))


def position(run_id: str, version: int, task: str) -> float:
    """Where a run stands in [0, 1): uniform over run ids, drawn anew with each version of the table."""
    text = f"{run_id}\x1f{version}\x1f{task}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest()) / _SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """The arms of one task under one table: everything about a draw but the run itself."""

    task: str
    version: int
    draws: tuple[Draw, ...]
    edges: tuple[float, ...] = ()
    """Where each draw but the last ends in [0, 1)."""
    risky: Draw | None = None
    """What a call of high risk takes: the primary, and nothing is drawn."""
    conditions: tuple[Condition, ...] = ()
    conditional: tuple[Draw, ...] = ()
    """What each condition leads to."""
    counts_tokens: bool = False
    """A condition looks at the size of the input."""
    settled: Draw | None = None
    """What every run of usual risk takes, where there is one arm and no condition."""

    def draw(self, run_id: str, facts: Facts) -> Draw:
        """What a run starts with."""
        if self.conditions:
            place = first_match(self.conditions, facts)
            if place is not None:
                return self.conditional[place]
        if facts.risk == "high" and self.risky is not None:
            return self.risky
        if not self.edges:
            return self.draws[0]
        return self.draws[bisect_right(self.edges, position(run_id, self.version, self.task))]


def arms_of(
    task: str, route: Route | None, policy: TaskPolicy | None, *, version: int, default_model: str | None = None
) -> Arms | None:
    """The arms of a task; `None` where neither route, policy nor default model name a candidate."""
    policy = policy or TaskPolicy(task=task, candidates=())
    candidates = policy.candidates or (() if default_model is None else (default_model,))
    if not policy.route and candidates:
        fixed = Draw(task=task, candidate=default_model or candidates[0], arm="pinned", version=version)
        return Arms(task=task, version=version, draws=(fixed,), settled=fixed)
    if route is None:
        if not candidates:
            return None
        route = Route(task=task, primary=candidates[0])
    making = _Making(task=task, route=route, policy=policy, version=version, candidates=candidates)
    shares = shares_of(route)
    own = (route.primary, *(name for name in candidates if name != route.primary))
    draws = tuple(making.drawn(name, share) for name, share in shares.items())
    return Arms(
        task=task,
        version=version,
        draws=draws,
        edges=tuple(accumulate(shares.values()))[:-1],
        risky=None if policy.risk == "high" else making.fixed(own, review=True),
        conditions=policy.conditions,
        conditional=tuple(
            making.fixed(one.candidates or own, review=one.review is True, risk=one.risk) for one in policy.conditions
        ),
        counts_tokens=asks_for_tokens(policy.conditions),
        settled=draws[0] if len(draws) == 1 and not policy.conditions else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """Makes the draws of one task. Where the route says nothing the policy's order does."""

    task: str
    route: Route
    policy: TaskPolicy
    version: int
    candidates: tuple[str, ...]

    def drawn(self, candidate: str, share: float) -> Draw:
        """An arm of the route."""
        route, policy = self.route, self.policy
        others = tuple(name for name in self.candidates if name != route.primary)
        ladder = route.ladder or (route.primary, *others)
        rungs = ladder[ladder.index(candidate) + 1 :] if candidate in ladder else ladder
        if policy.risk == "high":
            fixed = self.fixed((candidate, *rungs), review=True)
            return fixed if policy.review is not None else replace(fixed, arm=_arm(route, candidate), propensity=share)
        gone = {candidate, *route.dropped, *route.failed}
        return Draw(
            task=self.task,
            candidate=candidate,
            arm=_arm(route, candidate),
            propensity=share,
            version=self.version,
            fallbacks=self._without(candidate, (*(route.fallbacks or others), route.primary, *self.candidates)),
            rungs=self._without(candidate, rungs),
            ladder=policy.ladder,
            several=policy.ladder.acts,
            shadow=policy.shadow,
            shadow_budget_usd_per_day=policy.shadow_budget_usd_per_day,
            challengers=tuple(name for name in self.candidates if name not in gone),
            raise_max_tokens=policy.raise_max_tokens,
        )

    def fixed(self, names: tuple[str, ...], *, review: bool, risk: tuple[Risk, ...] = ()) -> Draw:
        """The first of some candidates, the others to go on to; nothing is drawn, so nothing is compared."""
        reviewed = review or "high" in risk
        return Draw(
            task=self.task,
            candidate=names[0],
            arm="pinned",
            version=self.version,
            fallbacks=self._without(names[0], (*names, *self.candidates)),
            rungs=self._without(names[0], names),
            ladder=self.policy.ladder,
            review=self.policy.review if reviewed else None,
            several=self.policy.ladder.acts or (reviewed and self.policy.review is not None),
            raise_max_tokens=self.policy.raise_max_tokens,
        )

    def _without(self, candidate: str, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in dict.fromkeys(names) if name != candidate)


def shares_of(route: Route) -> dict[str, float]:
    """The share of each candidate at rung 0, the primary first; adds up to 1 whatever the file says."""
    given = {name: share for name, share in route.propensities.items() if share > 0}
    canary = route.canary
    if canary is not None and canary.candidate not in given and canary.share > 0:
        given = {name: share * (1 - canary.share) for name, share in given.items()} | {canary.candidate: canary.share}
    rest = 1.0 - sum(share for name, share in given.items() if name != route.primary)
    if rest < 0:
        whole = sum(given.values())
        given = {name: share / whole for name, share in given.items()}
        rest = given.get(route.primary, 0.0)
    others = {name: share for name, share in given.items() if name != route.primary}
    return {route.primary: rest, **others} if rest > 0 or not others else others


def _arm(route: Route, candidate: str) -> Arm:
    if candidate == route.primary:
        return "primary"
    return "canary" if route.canary is not None and route.canary.candidate == candidate else "explore"


def challenger_of(draw: Draw, run_id: str) -> str | None:
    """Who gets a run's prompt as well, in its shadow; `None` for most runs. Drawn apart from the arm."""
    if not draw.challengers or draw.shadow <= 0:
        return None
    place = position(run_id, draw.version, f"{draw.task}\x1fshadow")
    if place >= draw.shadow:
        return None
    return draw.challengers[int(place / draw.shadow * len(draw.challengers))]

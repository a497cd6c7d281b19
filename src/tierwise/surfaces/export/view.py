"""What is exported: the routes in force and the policy, as one plain value that every format starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tierwise.core.policy import Condition, ModelSpec, Policy
from tierwise.core.records import dataclass
from tierwise.core.route import RouteTable
from tierwise.routing.arms import arms_of, shares_of

ANY: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRoute:
    """One task: who serves it, with which shares of its runs (they add up to 1), and who takes over."""

    task: str
    primary: str
    shares: Mapping[str, float]
    fallbacks: tuple[str, ...]
    rungs: tuple[str, ...]
    """Where a run escalates to, where the policy lets it."""
    escalate_on: tuple[str, ...]
    tier: str
    """The tier that the primary was named by; empty when by itself."""
    risk: str | None
    conditions: tuple[Condition, ...]
    conditional: tuple[str, ...]
    """Who takes the runs that each condition matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Everything that a format may need."""

    version: int
    updated_at: int
    tasks: tuple[TaskRoute, ...]
    """By name; `"*"`, tasks nobody named, last."""
    models: Mapping[str, ModelSpec]
    """What stands behind every candidate that is named anywhere."""
    tiers: Mapping[str, tuple[str, ...]]

    @property
    def candidates(self) -> tuple[str, ...]:
        """Every candidate that is named anywhere, by name."""
        return tuple(sorted(self.models))


def routes_of(policy: Policy, table: RouteTable) -> Routes:
    """The routes in force: of every task of the policy and of the table; without a route the policy's order holds."""
    names = sorted({*policy.tasks, *table.routes} - {ANY})
    found = [_task(name, policy, table) for name in (*names, ANY)]
    tasks = tuple(one for one in found if one is not None)
    named = {name for one in tasks for name in (*one.shares, *one.fallbacks, *one.rungs, *one.conditional)}
    named.update(name for tier in policy.tiers.values() for name in tier)
    return Routes(
        version=table.version,
        updated_at=table.updated_at,
        tasks=tasks,
        models={name: policy.models.get(name) or ModelSpec(name=name, model=name) for name in sorted(named)},
        tiers=dict(sorted(policy.tiers.items())),
    )


def _task(name: str, policy: Policy, table: RouteTable) -> TaskRoute | None:
    task_policy, route = policy.for_task(name), table.routes.get(name)
    arms = arms_of(name, route, task_policy, version=table.version, default_model=policy.default_model)
    if arms is None:
        return None
    draw = arms.draws[0]
    primary, shares = draw.candidate, {draw.candidate: 1.0}
    if route is not None and (task_policy is None or task_policy.route):
        primary = route.primary
        shares = {who: round(share, 9) for who, share in shares_of(route).items() if share > 0}
    own = next((one for one in arms.draws if one.candidate == primary), draw)
    tiers = dict(zip(task_policy.candidates, task_policy.tiers, strict=False)) if task_policy is not None else {}
    return TaskRoute(
        task=name,
        primary=primary,
        shares=shares,
        fallbacks=tuple(who for who in own.fallbacks if who != primary),
        rungs=own.rungs if own.ladder.escalate_on else (),
        escalate_on=own.ladder.escalate_on,
        tier=tiers.get(primary, ""),
        risk=None if task_policy is None else task_policy.risk,
        conditions=arms.conditions,
        conditional=tuple(one.candidate for one in arms.conditional),
    )

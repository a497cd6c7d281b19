"""Routes: which candidate a task uses, what stands behind it, and what a decision must remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from tierwise.core.call import Arm
from tierwise.core.policy import Ladder, Review
from tierwise.core.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A challenger on its way: its share of the traffic in [0, 1] and since when (Unix seconds)."""

    candidate: str
    share: float
    stage: int = 0
    started_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A task's assignment. Times are Unix seconds; `previous` is what `rollback` returns to."""

    task: str
    primary: str
    fallbacks: tuple[str, ...] = ()
    ladder: tuple[str, ...] = ()
    canary: Canary | None = None
    since: int = 0
    cooldown_until: int = 0
    backoff: Mapping[str, int] = field(default_factory=dict)
    """Failed challengers and the time until which each is left alone."""
    propensities: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[str, str] = field(default_factory=dict)
    drifted: Mapping[str, int] = field(default_factory=dict)
    """Candidates that drifted, and the start of the first bucket that counts since."""
    primary_drifted_at: int = 0
    """Start of the bucket in which the primary's drift was noticed; 0: never."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Candidates that exploring has given up, and the epoch of each when it did."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Challengers whose canary failed, and the epoch of each: barred while it is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """All routes with one version, which grows by one with every change (compare-and-swap in the route file)."""

    version: int = 0
    updated_at: int = 0
    routes: Mapping[str, Route] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What a run starts with at rung 0, and where it may go on to.

    `propensity` is the probability with which the arm was drawn; `None` where nothing was drawn (arm `pinned`).
    """

    task: str
    candidate: str
    arm: Arm
    propensity: float | None = None
    version: int = 0
    """Version of the route table."""
    fallbacks: tuple[str, ...] = ()
    """Candidates that take over after an error, in order."""
    rungs: tuple[str, ...] = ()
    """Candidates that a run escalates to, in order."""
    ladder: Ladder = field(default_factory=Ladder)
    review: Review | None = None
    shadow: float = 0.0
    """Share of the runs whose prompt a challenger gets as well."""
    shadow_budget_usd_per_day: float | None = None
    challengers: tuple[str, ...] = ()
    """Who may be asked in the shadow of this run."""
    several: bool = False
    """The run may have several calls, or its answer be cleaned, for other reasons than an error."""
    raise_max_tokens: bool = False
    """A token limit that would cut what the task usually needs may be raised."""

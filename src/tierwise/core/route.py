"""Routes: which candidate a task uses, what stands behind it, and what a decision must remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

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

"""Instrumented clients whose `model="auto"` is routed, over canned answers, recorded in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from support.canned import Canned, Reply, async_client, sync_client
from tierwise.core.policy import Ladder, Policy, TaskPolicy
from tierwise.core.route import Route, RouteTable
from tierwise.testing import FixedPrices, MemoryRecorder, instrument_in_memory

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Say hello."}]
AUTO: dict[str, Any] = {"model": "auto", "messages": MESSAGES}
JSON_CLIMB = Ladder(escalate_on=("json_fenced", "json_invalid", "truncated", "empty", "check_failed"))


@dataclass(frozen=True, kw_only=True)
class Routed:
    """An instrumented client, what it sent and what was recorded."""

    client: Any
    canned: Canned
    recorder: MemoryRecorder

    @property
    def asked(self) -> list[str]:
        """The models that were asked, in order."""
        return [body["model"] for body in self.canned.bodies]

    @property
    def told(self) -> list[tuple[str, str, int, str]]:
        """Candidate, arm, rung and outcome of each recorded call."""
        return [(call.candidate, call.arm, call.rung, call.outcome) for call in self.recorder.calls]


def task_policy(*candidates: str, task: str = "t", **changes: Any) -> TaskPolicy:
    """A task's policy with candidates and whatever else."""
    return TaskPolicy(task=task, candidates=candidates, **changes)


def policy(
    *candidates: str, models: Mapping[str, Any] | None = None, default_model: str | None = None, **changes: Any
) -> Policy:
    """A policy of one task `t`."""
    tasks = {"t": task_policy(*candidates, **changes)}
    return Policy(tasks=tasks, models=models or {}, default_model=default_model)


def table(version: int = 7, **route: Any) -> RouteTable:
    """A table with one route, of task `t`."""
    return RouteTable(version=version, routes={"t": Route(task="t", **route)})


def routed(
    *replies: Reply,
    policy: Policy,
    routes: RouteTable | None = None,
    asynchronous: bool = False,
    upstreams: Mapping[str, Any] | None = None,
    task: str | None = "t",
    prices: FixedPrices | None = None,
    max_retries: int = 0,
    stream_usage: bool | None = None,
) -> Routed:
    """A client that answers from the list, instrumented in memory."""
    made, canned = (async_client if asynchronous else sync_client)(*replies, max_retries=max_retries)
    recorder = instrument_in_memory(
        made, task=task, policy=policy, routes=routes, upstreams=upstreams, prices=prices, stream_usage=stream_usage
    )
    return Routed(client=made, canned=canned, recorder=recorder)

"""The router: the table in force, the policy and the facts of a call make the draw of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tierwise.core.call import TaskContext
from tierwise.core.policy import Policy
from tierwise.core.route import Draw, RouteTable
from tierwise.routing.arms import Arms, arms_of, challenger_of
from tierwise.routing.conditions import Facts, estimated_input_tokens, offers_tools

_MAX_TASKS: Final = 4096
_NO_FACTS: Final = Facts(labels={})


class Router:
    """Draws the runs of one policy. `table` gives the route table in force and must not raise."""

    __slots__ = ("_known", "_policy", "_set_up", "_table")

    def __init__(self, policy: Policy, table: Callable[[], RouteTable]) -> None:
        self._policy = policy
        self._table = table
        self._set_up = bool(policy.tasks or policy.default or policy.default_model)
        # Table and arms are exchanged together: no thread sees the arms of one table under another.
        self._known: tuple[RouteTable | None, dict[str, Arms | None]] = (None, {})

    @property
    def configured(self) -> bool:
        """Whether anything is known that a run could be sent to."""
        return self._set_up or bool(self._table().routes)

    def settled(self, context: TaskContext) -> Draw | None:
        """What every run of a task starts with, where there is one arm and nothing to look at in the call."""
        arms = self.arms(context.name)
        return None if arms is None or context.risk == "high" or not context.route else arms.settled

    def draw(self, context: TaskContext, body: Mapping[str, Any], run_id: str) -> Draw | None:
        """What a run starts with; `None` where nothing is known of its task."""
        arms = self.arms(context.name)
        if arms is None:
            return None
        if not context.route:
            return self._unrouted(arms)
        if arms.conditions:
            facts = Facts(
                risk=context.risk or self._risk(context.name),
                labels=context.labels,
                tools=offers_tools(body),
                input_tokens=estimated_input_tokens(body) if arms.counts_tokens else None,
            )
        elif context.risk == "high":
            facts = Facts(risk="high", labels=context.labels)
        else:
            facts = _NO_FACTS
        return arms.draw(run_id, facts)

    def challenger(self, draw: Draw, run_id: str) -> str | None:
        """Who gets the run's prompt as well, in its shadow."""
        return challenger_of(draw, run_id)

    def arms(self, task: str) -> Arms | None:
        """The arms of a task under the table in force."""
        table = self._table()
        known = self._known
        if known[0] is not table:
            known = self._known = (table, {})
        try:
            return known[1][task]
        except KeyError:
            policy = self._policy
            made = arms_of(
                task,
                table.routes.get(task),
                policy.for_task(task),
                version=table.version,
                default_model=policy.default_model,
            )
            if len(known[1]) < _MAX_TASKS:
                known[1][task] = made
            return made

    def _unrouted(self, arms: Arms) -> Draw:
        """A call that the application keeps out of routing: what the route names, and nothing is drawn."""
        first = self._policy.default_model or (arms.risky or arms.draws[0]).candidate
        return Draw(task=arms.task, candidate=first, arm="pinned", version=arms.version)

    def _risk(self, task: str) -> Any:
        policy = self._policy.for_task(task)
        return None if policy is None else policy.risk

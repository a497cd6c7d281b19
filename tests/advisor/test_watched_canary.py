"""A whole canary in real files: calls in a store, hourly looks of the watch, the route file and the audit log."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tierwise.advisor import Plan, plan, read_history
from tierwise.advisor.audit import routes_from_audit
from tierwise.advisor.watch import Watch
from tierwise.core.call import Answer, Call, Request, TaskContext, Usage
from tierwise.core.cost import Cost
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.evidence.sqlite import SqliteStore
from tierwise.routing import read_table

HOUR, START = 3600, 1_800_000_000
POLICY = Policy(
    tasks={
        "summary": TaskPolicy(
            task="summary", candidates=("dear", "cheap"), tiers=("", ""), apply="auto", confidence=0.99, explore=0.2
        )
    }
)
COSTS = {"dear": 0.003, "cheap": 0.001}


class Fleet:
    """An application that does what the route file says, and a watch that looks after every hour."""

    def __init__(self, folder: Path, rates: dict[str, float]) -> None:
        self.store, self.routes, self.audit = folder / "tierwise.db", folder / "routes.json", folder / "audit.jsonl"
        self.rates, self.random, self.now = dict(rates), random.Random(5), START  # noqa: S311
        self.watch = Watch(
            decide=self.decide,
            routes_path=self.routes,
            audit_path=self.audit,
            memory_path=folder / "watch.json",
            by="w",
        )

    def decide(self) -> tuple[Plan, Policy]:
        """What the store and the route file say now."""
        with SqliteStore.open(self.store, read_only=True) as store:
            return plan(store.evidence_by_task(), POLICY, read_table(self.routes), self.now), POLICY

    def hour(self) -> list[str]:
        """One hour of 40 calls by the route's shares, then a look; what was done by itself."""
        route = read_table(self.routes).routes.get("summary")
        shares = {"dear": 1.0} if route is None else dict(route.propensities)
        trial = None if route is None or route.canary is None else route.canary.candidate
        drawn = self.random.choices(list(shares), list(shares.values()), k=40)
        with SqliteStore.open(self.store) as store:
            store.write([self.call(model, model == trial, place) for place, model in enumerate(drawn)])
        self.now += HOUR
        look = self.watch.look(self.now)
        assert not look.errors
        return [change.action for change in look.made]

    def call(self, model: str, canary: bool, place: int) -> Call:
        """One answer."""
        good = self.random.random() < self.rates[model]
        return Call(
            request=Request(operation="chat", provider="openai", model=model),
            context=TaskContext(name="summary"),
            answer=Answer(model=model, finish_reasons=("stop",), output_chars=10),
            outcome="success" if good else "check_failed",
            candidate=model,
            epoch="e1",
            arm="canary" if canary else "primary" if model == "dear" else "explore",
            started_at_ns=(self.now + place) * 10**9,
            duration_s=1.0,
            usage=Usage(input_tokens=10, output_tokens=10),
            cost=Cost(amount_usd=COSTS[model] * (0.5 + self.random.random()), source="catalogue"),
        )

    def until(self, action: str, hours: int) -> list[str]:
        """Hours until something is done by itself; everything that was done."""
        done: list[str] = []
        for _ in range(hours):
            done += self.hour()
            if action in done:
                return done
        pytest.fail(f"no {action} within {hours} hours: {done}")


def test_a_cheaper_model_is_tried_staged_and_promoted_by_the_watch(tmp_path: Path) -> None:
    """From the first route to all of the traffic, an hour at a time, and the log rebuilds each table of the way."""
    fleet = Fleet(tmp_path, {"dear": 0.95, "cheap": 0.95})
    done = [action for action in fleet.until("promote", 150) if action != "traffic"]
    assert done[:2] == ["pin", "trial"]
    assert done[-1] == "promote"
    assert set(done) <= {"pin", "trial", "stage", "promote", "rollback"}
    table = read_table(fleet.routes)
    assert (table.routes["summary"].primary, table.routes["summary"].canary) == ("cheap", None)
    entries = read_history(fleet.audit).entries
    assert {entry.by for entry in entries} == {"w"}
    assert routes_from_audit(entries)[table.version] == table


def test_a_canary_that_breaks_down_is_rolled_back_by_the_watch(tmp_path: Path) -> None:
    """The cheap model fails once it is tried with more traffic: the dear one has it all again, but for a trace."""
    fleet = Fleet(tmp_path, {"dear": 0.95, "cheap": 0.95})
    fleet.until("trial", 150)
    fleet.rates["cheap"] = 0.1
    fleet.until("rollback", 6)
    route = read_table(fleet.routes).routes["summary"]
    assert (route.primary, route.canary) == ("dear", None)
    assert route.propensities["dear"] >= 0.99

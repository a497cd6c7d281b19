"""What decisions do by themselves: canary stages, rollback, drift, adaptive traffic, and what they must not touch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from core.synthetic import TASK, after, policy, row, runs
from tierwise.core.columns import TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.policy import GuardrailMetric, Objective, TaskPolicy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Canary, Route

Arm = tuple[float, float]
"""Success rate and mean cost in USD."""


class World:
    """Traffic that follows the route: each hour runs are split by the propensities, then the decision is applied."""

    def __init__(
        self, arms: Mapping[str, Arm], chosen: TaskPolicy, *, primary: str, runs_per_hour: int = 40, seed: int = 1
    ) -> None:
        self.arms = dict(arms)
        self.policy = chosen
        self.route = Route(task=TASK, primary=primary, propensities={primary: 1.0})
        self.evidence = TaskEvidence(TASK)
        self.hour = 0
        self.per_hour = runs_per_hour
        self.random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.epoch = "e1"

    def step(self) -> Recommendation:
        """One hour of traffic and the look after it."""
        shares = self.route.propensities
        drawn = self.random.choices(list(shares), list(shares.values()), k=self.per_hour)
        for name in sorted(set(drawn)):
            rate, cost = self.arms[name]
            n = drawn.count(name)
            good = sum(self.random.random() < rate for _ in range(n))
            canary = self.route.canary is not None and self.route.canary.candidate == name
            arm = "primary" if name == self.route.primary else "canary" if canary else "explore"
            one = row(name, runs(n, good, cost=cost), hour=self.hour, arm=arm, epoch=self.epoch)  # type: ignore[arg-type]
            self.evidence.append(one.key, one.evidence)
        self.hour += 1
        found = decide(self.evidence, self.policy, self.route, after(self.hour))
        self.route = found.after or self.route
        return found

    def until(self, done: Callable[[Recommendation], bool], limit: int = 300) -> list[Recommendation]:
        """Hours until something holds of a decision."""
        found = []
        for _ in range(limit):
            found.append(self.step())
            if done(found[-1]):
                return found
        raise AssertionError(f"not within {limit} hours: {found[-1].verdict} {found[-1].reasons}")


def auto(*candidates: str, **settings: object) -> TaskPolicy:
    """A policy that acts by itself."""
    chosen: TaskPolicy = policy(*candidates, **{"apply": "auto", "confidence": 0.99, "explore": 0.2} | settings)
    return chosen


def codes(found: Recommendation) -> set[str]:
    """The codes of its reasons."""
    return {reason.code for reason in found.reasons}


BETTER = {"dear": (0.9, 0.003), "cheap": (0.9, 0.001)}


def test_a_better_challenger_is_ramped_in_stages_and_becomes_the_primary() -> None:
    """25 %, 50 %, then all of it; the old primary is the first fallback and a cool-down begins."""
    world = World({"dear": (0.9, 0.003), "cheap": (0.9, 0.002)}, auto("dear", "cheap"), primary="dear")
    first = world.until(lambda found: found.action == "trial")[-1]
    assert world.route.canary == Canary(candidate="cheap", share=0.25, stage=0, started_at=after(world.hour))
    assert first.traffic == pytest.approx({"dear": 0.75, "cheap": 0.25})
    assert first.verdict in ("PROMOTE", "TRIAL")
    assert (world.route.primary, world.route.fallbacks, world.route.ladder) == ("dear", ("cheap",), ("dear", "cheap"))
    later = world.until(lambda found: found.action == "promote")
    assert later[-1].verdict == "PROMOTE"
    assert world.route.primary == "cheap"
    assert world.route.fallbacks == ("dear",)
    assert world.route.canary is None
    assert world.route.cooldown_until == after(world.hour) + 12 * 3600
    assert {"stage"} >= {found.action for found in later[:-1]} - {"none", "traffic"}


def test_a_stage_needs_fresh_runs_of_both_arms() -> None:
    """Hours from before the stage do not count for it, nor does a stage end on fewer than 8 runs an arm."""
    world = World(BETTER, auto("dear", "cheap"), primary="dear", runs_per_hour=20)
    world.until(lambda found: found.action == "trial")
    world.per_hour = 4
    waiting = world.step()
    assert waiting.action in ("none", "traffic")
    assert waiting.verdict == "TRIAL"
    assert "canary_waits" in codes(waiting)


def test_a_canary_that_breaks_down_goes_back_at_once_and_is_left_alone() -> None:
    """Its failures roll it back within hours; it stays out until it is another model."""
    world = World(BETTER, auto("dear", "cheap"), primary="dear")
    world.until(lambda found: found.action == "trial")
    world.arms["cheap"] = (0.1, 0.001)
    looks = world.until(lambda found: found.action == "rollback", limit=3)
    assert looks[-1].verdict == "ROLLBACK"
    assert world.route.primary == "dear"
    assert world.route.failed == {"cheap": "e1"}
    world.arms["cheap"] = (0.95, 0.001)
    world.route = replace(world.route, cooldown_until=0)
    for _ in range(20):
        found = world.step()
        assert world.route.canary is None
        assert "backoff" in codes(found)
    world.epoch = "e2"
    world.until(lambda found: found.action == "trial")


def test_a_refuted_guardrail_ends_a_canary() -> None:
    """A limit of the policy that the canary breaks sends it back whatever it costs."""
    limit = GuardrailMetric(metric="success_rate", op=">=", limit=0.85)
    world = World(BETTER, auto("dear", "cheap", guardrails=(limit,)), primary="dear")
    world.until(lambda found: found.action == "trial")
    world.arms["cheap"] = (0.6, 0.001)
    assert codes(world.until(lambda found: found.action == "rollback", limit=30)[-1]) & {
        "canary_guardrail",
        "canary_outage",
        "canary_worse",
    }


def test_adaptive_traffic_moves_the_label_at_once() -> None:
    """Where the split tries candidates out already, no canary is needed."""
    world = World(BETTER, auto("dear", "cheap", explore="adaptive"), primary="dear")
    looks = world.until(lambda found: found.action == "promote")
    assert all(found.after is None or found.after.canary is None for found in looks)
    assert world.route.primary == "cheap"
    assert looks[-2].traffic["cheap"] > 0.9  # the traffic was there long before the label
    assert looks[-2].traffic["dear"] >= 0.0499


def test_a_primary_that_silently_became_worse_is_replaced_within_hours() -> None:
    """Drift is told in words, only the last hours count, and neither ramp nor cool-down holds the move up."""
    arms = {"dear": (0.9, 0.003), "good": (0.9, 0.002)}
    loss = Objective(kind="loss", value_of_success_usd=0.02)
    world = World(arms, auto("good", "dear", explore=0.2, objective=loss, margin=1.0), primary="good")
    for _ in range(60):
        assert world.step().action in ("none", "traffic")
    world.route = replace(world.route, cooldown_until=after(1000))
    world.arms["good"] = (0.4, 0.002)
    looks = world.until(lambda found: found.action == "promote", limit=6)
    alarm = next(found for found in looks if "drift" in codes(found))
    assert "went from" in next(reason.text for reason in alarm.reasons if reason.code == "drift")
    assert alarm.after is not None
    assert alarm.after.drifted["good"] >= after(55)
    assert world.route.primary == "dear"


def test_nothing_happens_by_itself_where_a_person_decides() -> None:
    """With `apply: recommend` a verdict changes no label; exploring may move the traffic around it."""
    world = World(BETTER, replace(auto("dear", "cheap"), apply="recommend", confidence=0.95), primary="dear")
    looks = [world.step() for _ in range(60)]
    assert {found.action for found in looks} <= {"none", "traffic"}
    assert {found.verdict for found in looks} & {"TRIAL", "PROMOTE"}
    assert world.route.primary == "dear"
    assert world.route.canary is None


def test_high_risk_is_never_explored_and_never_changed_by_itself() -> None:
    """All traffic stays with the primary, whatever the evidence of a bench says."""
    chosen = auto("dear", "cheap", risk="high", explore="adaptive")
    rows = [row(name, runs(10, 10, cost=cost), hour=hour) for hour in range(60) for name, (_, cost) in BETTER.items()]
    found = decide(rows, chosen, Route(task=TASK, primary="dear"), after(60))
    assert found.traffic == {"dear": 1.0}
    assert found.action in ("none", "traffic")
    assert found.after is not None
    assert found.after.primary == "dear"


def test_without_a_route_the_present_model_is_written_down_first() -> None:
    """`auto` needs a route to remember anything: the first step pins what is used now."""
    rows = [row(name, runs(10, 9, cost=cost), hour=hour) for hour in range(3) for name, (_, cost) in BETTER.items()]
    found = decide(rows, auto("dear", "cheap"), None, after(3))
    assert found.action == "pin"
    assert found.after is not None
    assert found.after.primary == found.current
    assert sum(found.after.propensities.values()) == pytest.approx(1.0)


def test_a_canary_of_a_candidate_that_left_the_policy_ends() -> None:
    """A candidate that was taken out of the policy gets no more traffic."""
    route = Route(task=TASK, primary="dear", canary=Canary(candidate="gone", share=0.25, started_at=after(1)))
    rows = [row("dear", runs(10, 9), hour=hour) for hour in range(30)]
    found = decide(rows, auto("dear", "cheap"), route, after(30))
    assert found.action == "rollback"
    assert "canary_gone" in codes(found)
    assert found.after is not None
    assert found.after.canary is None


def test_what_is_dropped_from_exploring_comes_back_with_a_new_epoch() -> None:
    """A hopeless challenger keeps a trace of the traffic, until it is another model."""
    arms = {"dear": (0.9, 0.001), "bad": (0.5, 0.01), "other": (0.9, 0.001)}
    world = World(arms, auto("dear", "bad", "other", explore=0.5), primary="dear", runs_per_hour=60)
    world.until(lambda found: found.after is not None and "bad" in found.after.dropped)
    assert world.route.propensities["bad"] <= 0.002
    world.epoch = "e2"
    world.evidence.append(row("bad", runs(9, 9), hour=world.hour, epoch="e2").key, runs(9, 9))
    world.hour += 1
    found = decide(world.evidence, world.policy, world.route, after(world.hour))
    assert found.after is not None
    assert "bad" not in found.after.dropped
    assert found.after.propensities["bad"] > 0.002


def test_young_hours_wait_until_feedback_has_come() -> None:
    """With a maturity of a day only hours that ended a day ago count, and the plan says how many runs wait."""
    rows = [row("dear", runs(10, 9), hour=hour) for hour in range(30)]
    found = decide(rows, policy("dear", maturity_s=86_400.0), None, after(30))
    assert found.candidates[0].n == 60
    assert "open_hour" in codes(found)


def test_the_same_history_gives_the_same_bytes() -> None:
    """Replayed in another order of candidates the whole chain of routes and decisions is the same."""
    chains = []
    for _ in range(2):
        world = World(BETTER, auto("dear", "cheap"), primary="dear", seed=5)
        chains.append([world.step().canonical_bytes() for _ in range(40)])
    assert chains[0] == chains[1]


def test_the_ladder_goes_by_success_per_cost_on_escalated_traffic() -> None:
    """The candidate that shines on first attempts is not the one that solves what the primary could not."""
    names = {"first": (0.9, 0.001), "shiny": (0.95, 0.002), "solver": (0.85, 0.003)}
    rows = [
        row(name, runs(20, round(20 * rate), cost=cost), hour=h)
        for h in range(20)
        for name, (rate, cost) in names.items()
    ]
    plain = decide(rows, auto(*names), Route(task=TASK, primary="first"), after(20))
    assert plain.ladder[0] == "first"
    hard = [row("shiny", runs(10, 1, cost=0.002), hour=hour, rung=1) for hour in range(20)]
    hard += [row("solver", runs(10, 8, cost=0.003), hour=hour, rung=2) for hour in range(20)]
    found = decide(rows + hard, auto(*names), Route(task=TASK, primary="first"), after(20))
    assert found.ladder == (found.primary, "solver", "shiny")
    assert found.after is not None
    assert found.after.ladder == found.ladder
    assert "rung" in codes(found)
    valued = auto(*names, value_of_success_usd=0.004)
    told = decide(rows + hard, valued, Route(task=TASK, primary="first"), after(20))
    assert told.ladder == (told.primary, "solver")
    assert "rung_not_worth" in codes(told)

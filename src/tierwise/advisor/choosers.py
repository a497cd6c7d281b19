"""Ways to choose a model that a backtest compares: tierwise's own decisions, and what people do instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Final, Literal, Protocol

from tierwise.advisor.outcomes import Outcome
from tierwise.core.columns import TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.evidence import HOUR_S, LATENCY_EDGES_S, Evidence, Key, latency_index
from tierwise.core.policy import TaskPolicy
from tierwise.core.route import Route

PolicyKind = Literal["tierwise", "naive", "epsilon-greedy", "thompson", "static"]
KINDS: Final[tuple[PolicyKind, ...]] = ("tierwise", "naive", "epsilon-greedy", "thompson", "static")
FIRST_RUNS: Final = 10
EPSILON: Final = 0.1

Drawn = Mapping[str, list[Outcome]]
"""What was drawn in a step, by model."""


class Chooser(Protocol):
    """One way to choose; `leader` is the model that it would name."""

    leader: str

    def pick(self, u: float) -> str:
        """The model of one run, from a uniform number in [0, 1)."""

    def learn(self, step: int, drawn: Drawn) -> None:
        """See what a step's runs came to."""


class Static:
    """The start model, always."""

    def __init__(self, start: str) -> None:
        self.leader = start

    def pick(self, u: float) -> str:
        """The start model."""
        del u
        return self.leader

    def learn(self, step: int, drawn: Drawn) -> None:
        """Nothing is learned."""


class _Counting:
    """Counts of runs, successes and costs, and the point estimate of the loss."""

    def __init__(self, models: tuple[str, ...], start: str, value: float) -> None:
        self.models, self.leader, self.value = models, start, value
        self.sums = {model: [0, 0, 0.0] for model in models}

    def learn(self, step: int, drawn: Drawn) -> None:
        """Count, and name the model with the least mean loss of those seen."""
        del step
        for model, outcomes in drawn.items():
            sums = self.sums[model]
            sums[0] += len(outcomes)
            sums[1] += sum(one.success for one in outcomes)
            sums[2] += sum(one.cost_usd for one in outcomes)
        seen = [model for model in self.models if self.sums[model][0]]
        if seen:
            self.leader = min(seen, key=lambda model: (self._loss(model), model != self.leader))

    def _loss(self, model: str) -> float:
        n, successes, cost = self.sums[model]
        return cost / n + self.value * (1 - successes / n)


class Naive(_Counting):
    """Tries each model 10 times, then always the one whose mean loss is least: no uncertainty, no further trial."""

    def pick(self, u: float) -> str:
        """An untried model while there is one, else the leader."""
        short = [model for model in self.models if self.sums[model][0] < FIRST_RUNS]
        return short[int(u * len(short))] if short else self.leader


class EpsilonGreedy(_Counting):
    """A tenth of the runs to any model at random, the rest to the one whose mean loss is least."""

    def pick(self, u: float) -> str:
        """Any model below 10 %, else the leader."""
        return self.models[int(u / EPSILON * len(self.models))] if u < EPSILON else self.leader


class Thompson(_Counting):
    """Each run to the model with the least loss drawn from its posterior: Beta(s+1, n-s+1) for success, the mean cost
    so far (0 before the first run). Beliefs are renewed once a step, as everybody's."""

    def __init__(self, models: tuple[str, ...], start: str, value: float, seed: str) -> None:
        super().__init__(models, start, value)
        self._random = Random(seed)  # noqa: S311 - repeatable, not secret
        self._beliefs = self._posterior()

    def pick(self, u: float) -> str:
        """The model with the least drawn loss."""
        del u
        draw = self._random.betavariate
        return min(self._beliefs, key=lambda one: one[1] + self.value * (1 - draw(one[2], one[3])))[0]

    def learn(self, step: int, drawn: Drawn) -> None:
        """Renew the beliefs."""
        super().learn(step, drawn)
        self._beliefs = self._posterior()

    def _posterior(self) -> list[tuple[str, float, float, float]]:
        return [(model, cost / n if n else 0.0, s + 1, n - s + 1) for model, (n, s, cost) in self.sums.items()]


class Tierwise:
    """tierwise's own `decide` after each step; `apply_every` makes a person of it, who looks so seldom."""

    def __init__(self, policy: TaskPolicy, start: str, apply_every: int = 0) -> None:
        self.policy, self.leader, self.apply_every = policy, start, apply_every
        self.route = Route(task=policy.task, primary=start, propensities={start: 1.0})
        self.evidence = TaskEvidence(policy.task)

    def pick(self, u: float) -> str:
        """By the propensities of the last decision."""
        for model, share in self.route.propensities.items():
            u -= share
            if u < 0:
                return model
        return self.route.primary

    def learn(self, step: int, drawn: Drawn) -> None:
        """Put the step into the evidence of its hour, decide, and let the decision have its way."""
        route, canary = self.route, self.route.canary
        for model in sorted(drawn):
            arm = "primary" if model == route.primary else "explore"
            if canary is not None and canary.candidate == model:
                arm = "canary"
            key = Key(
                task=self.policy.task,
                candidate=model,
                epoch="recorded",
                arm=arm,  # type: ignore[arg-type]
                rung=0,
                grade="randomised",
                bucket=step * HOUR_S,
            )
            self.evidence.append(key, evidence_of(drawn[model]))
        now = (step + 1) * HOUR_S + int(self.policy.maturity_s)
        found = decide(self.evidence, self.policy, route, now)
        self.route = found.after or route
        if self.apply_every and (step + 1) % self.apply_every == 0 and found.verdict == "PROMOTE" and found.primary:
            self.route = replace(self.route, primary=found.primary, since=now, dropped={}, primary_drifted_at=0)
        self.leader = self.route.primary


def evidence_of(outcomes: list[Outcome]) -> Evidence:
    """The evidence of runs whose outcomes were recorded."""
    good = sum(one.success for one in outcomes)
    costs = [one.cost_usd for one in outcomes]
    latency = [0] * (len(LATENCY_EDGES_S) + 1)
    timed = [one.latency_s for one in outcomes if one.latency_s is not None]
    for seconds in timed:
        latency[latency_index(seconds)] += 1
    judged = [one.json_valid for one in outcomes if one.json_valid is not None]
    forms = {"plain": sum(judged), "invalid": len(judged) - sum(judged)}
    ends = {"success": good, "check_failed": len(outcomes) - good}
    tokens = sum(one.output_tokens or 0 for one in outcomes)
    return Evidence(
        n=len(outcomes),
        successes=good,
        priced=len(outcomes),
        priced_successes=good,
        cost_sum=sum(costs),
        cost_sq_sum=sum(cost * cost for cost in costs),
        cost_success_sum=sum(one.cost_usd for one in outcomes if one.success),
        outcomes={name: count for name, count in ends.items() if count},
        json_forms={name: count for name, count in forms.items() if count},
        tokens={"output": tokens} if tokens else {},
        latency=tuple(latency) if timed else (),
        latency_sum_s=sum(timed),
    )

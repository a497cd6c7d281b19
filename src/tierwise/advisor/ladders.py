"""What a ladder would come to on prompts like the recorded ones: success, cost and saving, each with a prediction interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import exp, inf, isfinite, log, sqrt
from statistics import NormalDist
from typing import Any, Final

from tierwise.advisor.outcomes import Outcome, TaskOutcomes
from tierwise.core.errors import EvidenceError

MIN_PROMPTS: Final = 30
"""Recorded prompts below which no interval is given."""
MIN_SUCCESSES: Final = 5
"""Successes, recorded and expected, below which a cost per success has no interval."""
PSEUDO: Final = 4.0
"""Pseudo-prompts at mean costs, spread over all combinations of who succeeds, so that clean sheets keep some variance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """How well the ladder's signals (`escalate_on`) tell failures. Drawn for each attempt, independently of the prompt."""

    detection: float = 1.0
    """Share of the failed attempts that escalate."""
    false_alarms: float = 0.0
    """Share of the successful attempts that escalate all the same."""

    def __post_init__(self) -> None:
        for name in ("detection", "false_alarms"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A figure and its interval; infinite bounds where there are too few prompts or successes, `None` where there is none."""

    point: float | None
    low: float = -inf
    high: float = inf

    def holds(self, observed: float | None) -> bool:
        """Whether an observed figure lies inside."""
        return observed is not None and self.low <= observed <= self.high

    def to_json(self) -> dict[str, float | None]:
        """Plain JSON values: an infinite bound is `null`."""
        low, high = (value if isfinite(value) else None for value in (self.low, self.high))
        return {"point": self.point, "low": low, "high": high}


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderForecast:
    """A ladder on one task, from `prompts` recorded ones, for a period of `runs` (`None`: for the long run).

    `success_rate` is of the answers that the caller gets, `escalated` the share of runs that took a second rung. `cost_usd`
    is of a run, all its attempts together; `saving` is 1 - cost per success over that of `against`, always asked alone.
    """

    task: str
    ladder: tuple[str, ...]
    against: str
    prompts: int
    runs: int | None
    success_rate: Predicted
    escalated: Predicted
    cost_usd: Predicted
    cost_per_success_usd: Predicted
    saving: Predicted

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ladder": list(self.ladder), "against": self.against, "prompts": self.prompts, "runs": self.runs,
            **{name: getattr(self, name).to_json() for name in FIGURES},
        }  # fmt: skip


FIGURES: Final = ("success_rate", "escalated", "cost_usd", "cost_per_success_usd", "saving")


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """A way in which a run can end: with what probability, at what cost (USD), and with which answer."""

    probability: float
    cost: float
    success: bool
    escalated: bool
    other_cost: float
    other_success: bool


_Prompt = tuple[float, tuple[_End, ...]]
"""A weight, and the ends of a run on this prompt."""
_Measure = Callable[[_End], float]


def forecast(
    task: TaskOutcomes,
    ladder: Sequence[str],
    *,
    against: str | None = None,
    runs: int | None = None,
    signals: Signals | None = None,
    confidence: float = 0.95,
) -> LadderForecast:
    """What a ladder would come to in `runs` runs on prompts like the recorded ones, against one model always asked alone.

    Each recorded prompt is taken through the ladder: attempts are paid until one does not escalate or the last rung has
    answered. Intervals are prediction intervals: with n prompts recorded, m runs to come, B the variance of what a prompt is
    expected to come to and T that of what a run comes to, predicted and observed mean differ with variance B/n + T/m. Without
    `runs` the second part is nought: a confidence interval. Cost and ratios: delta method on the logarithm, Student's t with
    n - 1 degrees of freedom, four pseudo-prompts in the variances. Rates: the score interval of the two samples taken
    together (Krishnamoorthy and Peng, J. Statist. Plann. Inference 141, 2011). Costs of a prompt's attempts, and whether they
    succeed, may depend on each other in any way: a prompt is the unit.

    What is assumed: the prompts to come are drawn like the recorded ones, and one run's prompt says nothing of the next one's;
    a model answers a prompt as it was recorded; the signals are as good as `signals` says. `against` and the ladder meet the
    same prompts. Each figure has an interval of its own, of this confidence.

    Args:
        task: the recorded outcomes.
        ladder: models, first rung first.
        against: the model that would be asked alone; `None`: the last rung.
        runs: how many the observed figures will rest on.
        signals: how well failures are told; `None`: all of them, and nothing else.
        confidence: of each interval, in (0, 1).

    Raises:
        ValueError: `runs` below 1, or `confidence` outside (0, 1).
        EvidenceError: a model was not recorded, or not on the same prompts; a ladder without a rung or with one twice.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if runs is not None and runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs}")
    other = against if against is not None else (ladder[-1] if ladder else "")
    models = _known(task, ladder, other)
    columns = [task.outcomes[name] for name in models]
    told = signals or Signals()

    def ends(row: Sequence[Outcome]) -> tuple[_End, ...]:
        by_name = dict(zip(models, row, strict=True))
        return tuple(_ends([by_name[name] for name in ladder], by_name[other], told))

    real: list[_Prompt] = [(1.0, ends(row)) for row in zip(*columns, strict=True)]
    costs = [task.cost_usd(name) for name in models]
    weight = PSEUDO / 2 ** len(models)
    made: list[_Prompt] = [
        (weight, ends([Outcome(success=won, cost_usd=cost) for won, cost in zip(combination, costs, strict=True)]))
        for combination in product((False, True), repeat=len(models))
    ]
    sums = _Sums(real, made, runs, confidence)
    return LadderForecast(
        task=task.task,
        ladder=tuple(ladder),
        against=other,
        prompts=len(real),
        runs=runs,
        success_rate=sums.rate(_success),
        escalated=sums.rate(_escalated),
        cost_usd=sums.ratio((_cost, 1)),
        cost_per_success_usd=sums.ratio((_cost, 1), (_success, -1)),
        saving=_turned(sums.ratio((_cost, 1), (_success, -1), (_other_cost, -1), (_other_success, 1))),
    )


def _known(task: TaskOutcomes, ladder: Sequence[str], other: str) -> tuple[str, ...]:
    """The models that are needed, each once."""
    if not ladder or len(set(ladder)) < len(ladder):
        raise EvidenceError(
            f"{task.task}: a ladder names at least one model, and each one once; got {', '.join(ladder)}"
        )
    models = tuple(dict.fromkeys((*ladder, other)))
    for name in models:
        if name not in task.outcomes:
            raise EvidenceError(f"{task.task}: {name} was not recorded; it has {', '.join(task.models)}")
    if len({len(task.outcomes[name]) for name in models}) > 1:
        raise EvidenceError(
            f"{task.task}: its models answered different prompts, so a ladder cannot be followed; record at least "
            "30 prompts with every model"
        )
    return models


def _ends(attempts: Sequence[Outcome], other: Outcome, signals: Signals) -> Iterable[_End]:
    left, cost = 1.0, 0.0
    for place, one in enumerate(attempts):
        cost += one.cost_usd
        last = place == len(attempts) - 1
        climbs = 0.0 if last else (signals.false_alarms if one.success else signals.detection)
        if left * (1 - climbs) > 0:
            yield _End(
                probability=left * (1 - climbs), cost=cost, success=one.success, escalated=place > 0,
                other_cost=other.cost_usd, other_success=other.success,
            )  # fmt: skip
        left *= climbs


def _success(end: _End) -> float:
    return end.success


def _escalated(end: _End) -> float:
    return end.escalated


def _cost(end: _End) -> float:
    return end.cost


def _other_cost(end: _End) -> float:
    return end.other_cost


def _other_success(end: _End) -> float:
    return end.other_success


def _turned(ratio: Predicted) -> Predicted:
    """A saving from a ratio of costs."""
    return Predicted(
        point=None if ratio.point is None else 1 - ratio.point,
        low=1 - ratio.high,
        high=1 - ratio.low if ratio.low > -inf else inf,
    )


class _Sums:
    """Means and variances over the recorded prompts, and the intervals that follow."""

    def __init__(self, real: Sequence[_Prompt], made: Sequence[_Prompt], runs: int | None, confidence: float) -> None:
        self._real, self._made, self._runs = real, made, runs
        self._n = len(real)
        self._z = NormalDist().inv_cdf((1 + confidence) / 2)

    def _mean(self, measure: _Measure) -> float:
        return sum(end.probability * measure(end) for _, ends in self._real for end in ends) / self._n

    def _variances(self, measure: _Measure, prompts: Sequence[_Prompt], centre: float) -> tuple[float, float]:
        """Variance of what a prompt is expected to come to, and of what a run comes to."""
        between = total = weights = 0.0
        for weight, ends in prompts:
            values = [(end.probability, measure(end) - centre) for end in ends]
            between += weight * sum(share * value for share, value in values) ** 2
            total += weight * sum(share * value * value for share, value in values)
            weights += weight
        return between / weights, total / weights

    def _per_run(self, total: float) -> float:
        return 0.0 if self._runs is None else total / self._runs

    def rate(self, measure: _Measure) -> Predicted:
        """A share of the runs: the score interval, the variance at the rate of both samples together."""
        mean, n = self._mean(measure), self._n
        if n < MIN_PROMPTS:
            return Predicted(point=mean, low=0.0, high=1.0)
        between, total = self._variances(measure, self._real, mean)
        known = between / total if total > 0 else 1.0
        weight = 1.0 if self._runs is None else self._runs / (n + self._runs)  # 1: Wilson's interval of the rate itself
        k = self._z**2 * (known / n + self._per_run(1.0))
        fixed = (1 - weight) * mean
        a, b, c = 1 + k * weight**2, -2 * mean - k * weight * (1 - 2 * fixed), mean**2 - k * fixed * (1 - fixed)
        root = sqrt(max(b * b - 4 * a * c, 0.0))
        return Predicted(point=mean, low=max((-b - root) / (2 * a), 0.0), high=min((-b + root) / (2 * a), 1.0))

    def ratio(self, *factors: tuple[_Measure, int]) -> Predicted:
        """A product of means to the power of 1 or -1: the delta method on its logarithm."""
        means = [self._mean(measure) for measure, _ in factors]
        if min(means) <= 0:
            return Predicted(point=None)
        theta = sum(power * log(mean) for mean, (_, power) in zip(means, factors, strict=True))
        rates = [
            mean for mean, (measure, _) in zip(means, factors, strict=True) if measure in (_success, _other_success)
        ]
        size = self._n if self._runs is None else min(self._n, self._runs)
        if self._n < MIN_PROMPTS or (rates and min(rates) * size < MIN_SUCCESSES):
            return Predicted(point=exp(theta))

        def influence(end: _End) -> float:
            return sum(power * measure(end) / mean for mean, (measure, power) in zip(means, factors, strict=True))

        between, total = self._variances(influence, (*self._real, *self._made), self._mean(influence))
        half = _student(self._z, self._n - 1) * sqrt(between / self._n + self._per_run(total))
        return Predicted(point=exp(theta), low=exp(theta - half), high=exp(theta + half))


def _student(z: float, degrees: int) -> float:
    """Student's t quantile from the normal one, by its expansion in 1 / degrees (Cornish and Fisher); within 0.1 % from 10 on."""
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)

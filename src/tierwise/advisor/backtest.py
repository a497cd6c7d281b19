"""Replaying recorded outcomes: each step draws runs, routes them by a policy, and lets it learn; what it cost against the best."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from math import isfinite
from random import Random
from typing import Any, Final, Literal

from tierwise.advisor.choosers import Chooser, EpsilonGreedy, Naive, PolicyKind, Static, Thompson, Tierwise
from tierwise.advisor.outcomes import Outcome, TaskOutcomes
from tierwise.core.errors import EvidenceError
from tierwise.core.policy import Objective, Policy, TaskPolicy

VALUE_OF_SUCCESS: Final = 0.02
VALUES_OF_SUCCESS: Final = {"llmrouter:": 0.001}
"""USD by the beginning of a task's name, where no value is given: the models of these recorded outcomes cost less."""
AUTO_CONFIDENCE: Final = 0.99
NAMED: Final = 3
"""Tasks that a remark names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a backtest is run with. `value_of_success` in USD; `None`: .02, less for tasks of cheap models."""

    kind: PolicyKind = "tierwise"
    steps: int = 300
    calls_per_step: int = 20
    explore: float | Literal["adaptive"] | None = None
    start: str = "best"
    value_of_success: float | None = None
    apply_every: int = 0
    policy: Policy | None = None

    def value_for(self, task: str) -> float:
        """What a success of a task is worth, USD."""
        if self.value_of_success is not None:
            return self.value_of_success
        return next((v for prefix, v in VALUES_OF_SUCCESS.items() if task.startswith(prefix)), VALUE_OF_SUCCESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a way to choose came to over `runs` runs. Regret: expected loss beyond the best fixed model's, USD."""

    runs: int = 0
    regret_usd: float = 0.0
    successes: float = 0.0
    cost_usd: float = 0.0
    route_changes: int = 0
    wrong_changes: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Figures)})

    def to_json(self) -> dict[str, Any]:
        """Rates and amounts per 1,000 runs."""
        n = max(self.runs, 1)
        return {
            "runs": self.runs,
            "regret_per_1000_usd": self.regret_usd / n * 1000,
            "success_rate": self.successes / n,
            "cost_per_1000_usd": self.cost_usd / n * 1000,
            "route_changes": self.route_changes,
            "wrong_changes": self.wrong_changes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One task with one seed; `fixed` is what single models would have come to, by `oracle`, `always_best`, `always_cheapest`."""

    task: str
    seed: int
    figures: Figures
    start: str
    final_route: str
    fixed: Mapping[str, tuple[str, Figures]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        named = {name: {"model": model, **_plain(figures)} for name, (model, figures) in self.fixed.items()}
        return {**self.figures.to_json(), "start": self.start, "final_route": self.final_route, **named}


def ready(tasks: Sequence[TaskOutcomes], settings: Settings) -> tuple[tuple[TaskOutcomes, ...], tuple[str, ...]]:
    """The tasks that can be replayed, and remarks: which are left out, and what their figures do not say.

    Raises:
        EvidenceError: no task is left, or the costs of one are too large to be added up.
    """
    found = []
    remarks: dict[str, list[str]] = {}
    for task in tasks:
        value = settings.value_for(task.task)
        if not all(isfinite(task.loss(model, value)) for model in task.models):
            raise EvidenceError(f"{task.task}: its costs are too large to be added up; cost_usd is in USD a run")
        own = settings.policy.for_task(task.task) if settings.policy is not None else None
        if own is not None and not set(own.candidates) & set(task.models):
            remarks.setdefault("left out, since the policy names none of the recorded models", []).append(task.task)
            continue
        found.append(task)
        for text in _caveats(task, own, settings, value):
            remarks.setdefault(text, []).append(task.task)
    if not found:
        raise EvidenceError("the policy names none of the recorded models of any task, so there is nothing to replay")
    return tuple(found), tuple(_remark(names, text) for text, names in remarks.items())


def _caveats(task: TaskOutcomes, own: TaskPolicy | None, settings: Settings, value: float) -> Iterable[str]:
    if len(task.models) == 1:
        yield "with one model only, where there is nothing to decide"
    if len({len(answers) for answers in task.outcomes.values()}) > 1:
        yield "whose models share too few prompts: each is drawn from, and judged on, its own"
    if task.unpaired:
        yield "with prompts that not every model answered, which are left out"
    if settings.policy is None or settings.kind != "tierwise":
        return
    if own is None:
        yield "not in the policy, replayed as without one"
        return
    if not set(own.candidates) <= set(task.models):
        yield "whose policy names models that were not recorded, which are left out"
    if not (own.explore if settings.explore is None else settings.explore) or own.risk == "high":
        yield "not explored, so nothing is learned of other models: see `explore` and --explore"
    if own.apply == "recommend" and not settings.apply_every:
        yield "with `apply: recommend` and nobody who applies: see --apply-every"
    stated = own.objective.value_of_success_usd or own.value_of_success_usd
    if stated is not None and stated != value:
        yield f"whose policy values a success at {stated:g} USD, while regret counts {value:g}: see --value-of-success"


def _remark(names: Sequence[str], text: str) -> str:
    shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"{len(names)} task{'s' if len(names) > 1 else ''} {text} ({shown})"


def backtest(
    tasks: Sequence[TaskOutcomes],
    settings: Settings,
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    done: Callable[[], None] = lambda: None,
) -> list[TaskResult]:
    """Every task with every seed, in order of seed and task; the same arguments give the same result.

    Each step is an hour: `calls_per_step` prompts of the task are drawn with replacement and routed by the policy's
    present split; then it sees what they came to. With one seed all policies meet the same prompts in the same order.

    Raises:
        EvidenceError: the start model is no candidate of any task.
    """
    starts = start_models(tasks, settings.start)
    work = [(task, settings, starts[task.task], seed) for seed in seeds for task in tasks]
    if jobs <= 1 or len(work) == 1:
        found = []
        for item in work:
            found.append(_one(item))
            done()
        return found
    results: dict[int, TaskResult] = {}
    with ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        futures = {pool.submit(_one, item): place for place, item in enumerate(work)}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                done()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all that is left
            raise
    return [results[place] for place in range(len(work))]


def start_models(tasks: Sequence[TaskOutcomes], start: str) -> dict[str, str]:
    """The model that each task starts with.

    `best`: the highest mean success over all tasks with the same candidates; `cheapest`: the least mean cost over them;
    `first`: the first by name; else a model's own name, for the tasks that have it (the others start with their best).

    Raises:
        EvidenceError: no task has that model.
    """
    if start not in ("best", "cheapest", "first") and not any(start in task.models for task in tasks):
        known = ", ".join(sorted({model for task in tasks for model in task.models}))
        raise EvidenceError(f"--start {start}: no task has this model; write best, cheapest, first or one of {known}")
    groups: dict[tuple[str, ...], list[TaskOutcomes]] = {}
    for task in tasks:
        groups.setdefault(task.models, []).append(task)
    found: dict[str, str] = {}
    for models, members in groups.items():
        best = max(models, key=lambda model: sum(task.success_rate(model) for task in members))
        cheapest = min(models, key=lambda model: sum(task.cost_usd(model) for task in members))
        chosen = {"best": best, "cheapest": cheapest, "first": models[0]}.get(start, start if start in models else best)
        found |= {task.task: chosen for task in members}
    return found


def task_policy(task: TaskOutcomes, settings: Settings) -> TaskPolicy:
    """The policy that `decide` gets: that of the file, or the loss with all models of the task, applied by itself."""
    value = settings.value_for(task.task)
    found = settings.policy.for_task(task.task) if settings.policy is not None else None
    if found is None:
        found = TaskPolicy(
            task=task.task,
            candidates=task.models,
            objective=Objective(kind="loss", value_of_success_usd=value),
            margin=1.0,
            confidence=AUTO_CONFIDENCE,
            apply="auto",
            explore="adaptive",
        )
    known = tuple(name for name in found.candidates if name in task.models) or task.models
    explore = found.explore if settings.explore is None else settings.explore
    apply: Literal["recommend", "auto"] = "recommend" if settings.apply_every else found.apply
    return replace(
        found,
        task=task.task,
        candidates=known,
        tiers=("",) * len(known),
        explore=explore,
        apply=apply,
        value_of_success_usd=found.value_of_success_usd or value,
    )


def _chooser(task: TaskOutcomes, settings: Settings, start: str, seed: int) -> Chooser:
    value = settings.value_for(task.task)
    if settings.kind == "tierwise":
        return Tierwise(task_policy(task, settings), start, settings.apply_every)
    if settings.kind == "naive":
        return Naive(task.models, start, value)
    if settings.kind == "epsilon-greedy":
        return EpsilonGreedy(task.models, start, value)
    if settings.kind == "thompson":
        return Thompson(task.models, start, value, f"thompson/{seed}/{task.task}")
    return Static(start)


def _one(item: tuple[TaskOutcomes, Settings, str, int]) -> TaskResult:
    task, settings, start, seed = item
    value = settings.value_for(task.task)
    losses = {model: task.loss(model, value) for model in task.models}
    least = min(losses.values())
    chooser = _chooser(task, settings, start, seed)
    threshold = task_policy(task, settings).min_improvement
    rng = Random(f"{seed}/{task.task}")  # noqa: S311 - repeatable, not secret
    regret = cost = 0.0
    successes = changes = wrong = 0
    for step in range(settings.steps):
        drawn: dict[str, list[Outcome]] = {}
        for _ in range(settings.calls_per_step):
            model = chooser.pick(rng.random())
            answers = task.outcomes[model]
            outcome = answers[int(rng.random() * len(answers))]
            drawn.setdefault(model, []).append(outcome)
            regret += losses[model] - least
            cost += outcome.cost_usd
            successes += outcome.success
        before = chooser.leader
        chooser.learn(step, drawn)
        if chooser.leader != before:
            changes += 1
            wrong += losses[chooser.leader] > losses[before] * (1 + threshold)
    runs = settings.steps * settings.calls_per_step
    figures = Figures(
        runs=runs, regret_usd=regret, successes=successes, cost_usd=cost, route_changes=changes, wrong_changes=wrong
    )
    return TaskResult(
        task=task.task,
        seed=seed,
        figures=figures,
        start=start,
        final_route=chooser.leader,
        fixed=_fixed(task, losses, runs),
    )


def _fixed(task: TaskOutcomes, losses: Mapping[str, float], runs: int) -> dict[str, tuple[str, Figures]]:
    """The model of least loss, of most success, and of least cost, each for all runs."""
    chosen = {
        "oracle": min(losses, key=lambda model: losses[model]),
        "always_best": max(task.models, key=lambda model: (task.success_rate(model), -task.cost_usd(model))),
        "always_cheapest": min(task.models, key=task.cost_usd),
    }
    least = min(losses.values())
    return {
        name: (
            model,
            Figures(
                runs=runs,
                regret_usd=(losses[model] - least) * runs,
                successes=task.success_rate(model) * runs,
                cost_usd=task.cost_usd(model) * runs,
            ),
        )
        for name, model in chosen.items()
    }


def summary(results: Sequence[TaskResult]) -> dict[str, Any]:
    """The document that `tierwise backtest --json` prints: the total over tasks, and each task, as means over the seeds."""
    seeds = sorted({one.seed for one in results})
    tasks = sorted({one.task for one in results})
    document: dict[str, Any] = {
        "total": _total(results, len(seeds)),
        "tasks": {task: _task_document([one for one in results if one.task == task]) for task in tasks},
    }
    if len(seeds) > 1:
        document["seeds"] = {str(seed): _total([one for one in results if one.seed == seed], 1) for seed in seeds}
    return document


def _total(results: Sequence[TaskResult], seeds: int) -> dict[str, Any]:
    whole = _sum(one.figures for one in results).to_json()
    for name in ("route_changes", "wrong_changes"):
        whole[name] = whole[name] / seeds if seeds > 1 else whole[name]
    histories = len(results)
    whole["tasks"] = histories // seeds
    whole["histories"] = histories
    whole["histories_with_a_wrong_change"] = sum(one.figures.wrong_changes > 0 for one in results)
    whole["route_changes_per_task"] = sum(one.figures.route_changes for one in results) / max(histories, 1)
    for name in ("oracle", "always_best", "always_cheapest"):
        whole[name] = _plain(_sum(one.fixed[name][1] for one in results))
    return whole


def _task_document(results: Sequence[TaskResult]) -> dict[str, Any]:
    if len(results) == 1:
        return results[0].to_json()
    document = _sum(one.figures for one in results).to_json()
    for name in ("route_changes", "wrong_changes"):
        document[name] /= len(results)
    final = [one.final_route for one in results]
    document["start"] = results[0].start
    document["final_route"] = max(sorted(set(final)), key=final.count)
    document["final_routes"] = {name: final.count(name) for name in sorted(set(final))}
    for name, (model, _) in results[0].fixed.items():
        document[name] = {"model": model, **_plain(_sum(one.fixed[name][1] for one in results))}
    return document


def _sum(figures: Iterable[Figures]) -> Figures:
    return sum(figures, Figures())


def _plain(figures: Figures) -> dict[str, Any]:
    document = figures.to_json()
    del document["route_changes"], document["wrong_changes"], document["runs"]
    return document

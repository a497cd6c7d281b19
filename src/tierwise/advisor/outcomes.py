"""Recorded outcomes to replay decisions on: what each model made of each prompt, read from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final

from tierwise.core.errors import EvidenceError

REQUIRED: Final = ("task", "prompt_id", "model", "success", "cost_usd")
OPTIONAL: Final = ("latency_s", "output_tokens", "json_valid", "time")
COMMON: Final = 30
"""Prompts answered by every model from which on the others are left out."""
_TRUE, _FALSE = frozenset({"1", "true", "yes", "1.0"}), frozenset({"0", "false", "no", "0.0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one model made of one prompt; `latency_s`, `output_tokens` and `json_valid` where they were recorded."""

    success: bool
    cost_usd: float
    latency_s: float | None = None
    output_tokens: int | None = None
    json_valid: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcomes:
    """One task: its models by name, and for each the outcomes in order of the prompts.

    A prompt stands at the same place for each model, so that they are compared on the same prompts; the `unpaired` ones,
    which some model did not answer, are left out. With fewer than 30 prompts that all answered, each has all of its own.
    """

    task: str
    models: tuple[str, ...]
    outcomes: Mapping[str, tuple[Outcome, ...]]
    unpaired: int = 0

    def success_rate(self, model: str) -> float:
        """Mean success of a model over its prompts."""
        found = self.outcomes[model]
        return sum(one.success for one in found) / len(found)

    def cost_usd(self, model: str) -> float:
        """Mean cost of a run, USD."""
        found = self.outcomes[model]
        return sum(one.cost_usd for one in found) / len(found)

    def loss(self, model: str, value: float) -> float:
        """Expected cost plus the value of a success times the probability of failure, USD."""
        return self.cost_usd(model) + value * (1 - self.success_rate(model))


def read_outcomes(path: Path) -> tuple[TaskOutcomes, ...]:
    """The tasks of a file, by name. Rows are taken in order of `time` where that column is there; see `unread_columns`.

    Raises:
        EvidenceError: `file:line` and what is wrong with it: a missing column, a success that is neither 0 nor 1, a cost
            that is absent, negative or no number, the same prompt and model twice, or no row at all.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _tasks(_rows(csv.DictReader(file), path), path)
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read: {error.strerror}; check the path and its rights") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise EvidenceError(f"{path}: is no CSV file in UTF-8: {error}") from None


def unread_columns(path: Path) -> tuple[str, ...]:
    """Columns of a readable file that mean nothing to `read_outcomes`: perhaps a name that is not quite right."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = csv.DictReader(file).fieldnames or []
    return tuple(name for name in names if name not in (*REQUIRED, *OPTIONAL))


_Row = tuple[str, str, str, Outcome, str]


def _rows(reader: csv.DictReader[str], path: Path) -> Iterable[_Row]:
    names = reader.fieldnames or []
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise EvidenceError(
            f"{path}:1: the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; a file has {', '.join(REQUIRED)} and may have {', '.join(OPTIONAL)}"
        )
    for row in reader:
        where = f"{path}:{reader.line_num}"
        task, prompt, model = (str(row.get(name) or "").strip() for name in ("task", "prompt_id", "model"))
        if not task or not prompt or not model:
            raise EvidenceError(f"{where}: task, prompt_id and model must be given")
        outcome = Outcome(
            success=_flag(row["success"], "success", where),
            cost_usd=_number(row["cost_usd"], "cost_usd", where),
            latency_s=_number(row["latency_s"], "latency_s", where) if row.get("latency_s") else None,
            output_tokens=int(_number(row["output_tokens"], "output_tokens", where))
            if row.get("output_tokens")
            else None,
            json_valid=_flag(row["json_valid"], "json_valid", where) if row.get("json_valid") else None,
        )
        yield task, prompt, model, outcome, f"{row.get('time') or ''}\0{where}"


def _tasks(rows: Iterable[_Row], path: Path) -> tuple[TaskOutcomes, ...]:
    by_task: dict[str, dict[str, dict[str, Outcome]]] = {}
    order: dict[tuple[str, str], str] = {}
    for task, prompt, model, outcome, moment in rows:
        answers = by_task.setdefault(task, {}).setdefault(prompt, {})
        if model in answers:
            where = moment.split("\0")[1]
            raise EvidenceError(
                f"{where}: {model} has answered prompt {prompt} of {task} before; each pair stands once"
            )
        answers[model] = outcome
        order.setdefault((task, prompt), moment.split("\0")[0])
    if not by_task:
        raise EvidenceError(f"{path}: holds no outcome")
    return tuple(_task(task, by_task[task], order) for task in sorted(by_task))


def _task(
    task: str, prompts: Mapping[str, Mapping[str, Outcome]], order: Mapping[tuple[str, str], str]
) -> TaskOutcomes:
    models = tuple(sorted({model for answers in prompts.values() for model in answers}))
    ordered = sorted(prompts, key=lambda prompt: order[(task, prompt)])
    whole = [prompt for prompt in ordered if len(prompts[prompt]) == len(models)]
    partial = [prompt for prompt in ordered if len(prompts[prompt]) < len(models)]
    drawn = whole if len(whole) >= COMMON else [*whole, *partial]
    return TaskOutcomes(
        task=task,
        models=models,
        outcomes={
            model: tuple(prompts[prompt][model] for prompt in drawn if model in prompts[prompt]) for model in models
        },
        unpaired=len(ordered) - len(drawn),
    )


def _flag(text: str | None, name: str, where: str) -> bool:
    value = (text or "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise EvidenceError(f"{where}: {name} must be 0 or 1, not {text!r}")


def _number(text: str | None, name: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < 0:
        raise EvidenceError(f"{where}: {name} must be a number of at least 0, not {text!r}")
    return value

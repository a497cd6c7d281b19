"""From the validated spec to `core.policy`: tiers expanded, defaults applied, and the errors no schema can see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

from tierwise.config import units
from tierwise.config.spec import Common, ConditionSpec, LadderSpec, LowConfidenceSpec, ModelEntry, PolicySpec, TaskSpec
from tierwise.config.yamlfile import Loc
from tierwise.core.errors import ConfigError
from tierwise.core.evidence import LATENCY_EDGES_S
from tierwise.core.policy import (
    METRICS,
    WILDCARD,
    Condition,
    GuardrailMetric,
    Ladder,
    ModelSpec,
    Objective,
    Policy,
    Review,
    TaskPolicy,
)
from tierwise.core.records import dataclass

AUTO_CONFIDENCE: Final = 0.99
"""Confidence of tasks with `apply: auto` that do not state one."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong at a path of the file; `at_key` points at the key instead of its value."""

    loc: Loc
    severity: Severity
    message: str
    at_key: bool = False


@dataclass(slots=True, kw_only=True)
class Compiler:
    """Turns one spec into a policy and collects every problem on the way."""

    spec: PolicySpec
    folder: Path
    problems: list[Problem] = field(default_factory=list)

    def run(self, path: str | None) -> Policy:
        """The policy; only to be used when no problem is an error."""
        for name in self.spec.tiers:
            self._check_tier(name)
        for name in self.spec.models:
            if name in self.spec.tiers:
                self._error(("models", name), f"{name!r} is both a tier and a model; rename one", at_key=True)
            self._check_model(name)
        if self.spec.defaults.model in self.spec.tiers:
            self._error(("defaults", "model"), f"{self.spec.defaults.model!r} is a tier; name one model")
        for name in self.spec.prices:
            self._check_prices(name)
        tasks = {name: self._task(name, task) for name, task in self.spec.tasks.items()}
        if not self.spec.tasks:
            self._warn(("tasks",), 'no tasks: add at least "*": {candidates: [...]}')
        default = tasks.pop(WILDCARD, None)
        return Policy(
            tasks=tasks,
            default=default,
            tiers={name: tuple(members) for name, members in self.spec.tiers.items()},
            models={name: _model(name, entry) for name, entry in self.spec.models.items()},
            prices={name: entry.model_dump(exclude_none=True) for name, entry in self.spec.prices.items()},
            path=path,
            default_model=self.spec.defaults.model,
        )

    # --- tiers, prices ---------------------------------------------------------------------------------------------

    def _check_tier(self, name: str) -> None:
        if name == WILDCARD:
            self._error(("tiers", name), '"*" is the task nobody named, not a tier', at_key=True)
        seen: dict[str, int] = {}
        for i, member in enumerate(self.spec.tiers[name]):
            if member in self.spec.tiers:
                self._error(("tiers", name, i), f"{member!r} is a tier; a tier lists models, write its models out")
            if member in seen:
                self._error(("tiers", name, i), f"{member!r} is in this tier twice; keep one")
            seen[member] = i

    def _check_model(self, name: str) -> None:
        entry = self.spec.models[name]
        if entry.base_url is not None and entry.upstream is not None:
            text = "upstream is a client of the application's, base_url makes one; keep one of the two"
            self._error(("models", name, "base_url"), text)
        if entry.api_key_env is not None and entry.base_url is None:
            self._error(("models", name, "api_key_env"), "belongs to a base_url; add one or drop it")
        for key in sorted({"model", "messages", "input", "stream"} & set(entry.params)):
            text = "is the caller's" if key != "model" else "stands beside params"
            self._error(("models", name, "params", key), f"{key} {text}; take it out of params", at_key=True)

    def _check_prices(self, name: str) -> None:
        given = self.spec.prices[name].model_dump(exclude_none=True)
        if not given:
            self._error(("prices", name), "no price given; write {input: 3, output: 15}, USD per million tokens")
        elif not any(given.values()):
            text = "every price is 0, which makes all costs and savings 0; give what a million tokens cost you to serve"
            self._error(("prices", name), text)
        elif "input" not in given or "output" not in given:
            missing = "output" if "input" in given else "input"
            self._warn(("prices", name), f"no {missing} price: the override is used for the kinds of token it names")
        if name in self.spec.tiers:
            self._error(("prices", name), f"{name!r} is a tier; prices belong to models", at_key=True)

    # --- tasks -----------------------------------------------------------------------------------------------------

    def _task(self, name: str, task: TaskSpec) -> TaskPolicy:
        loc: Loc = ("tasks", name)
        names, tiers = self._candidates(loc, task)
        apply = self._pick(task, "apply", "recommend")
        schema = self._schema(loc, task)
        expects = task.expects or ("json" if schema is not None else None)
        if schema is not None and task.expects == "text":
            self._error((*loc, "expects"), "expects: text contradicts schema; drop one of them")
        objective = self._pick(task, "objective", None)
        return TaskPolicy(
            task=name,
            candidates=names,
            tiers=tiers,
            objective=Objective(kind=objective.kind, value_of_success_usd=objective.value_of_success)
            if objective
            else Objective(),
            guardrails=self._guardrails(loc, task, expects),
            confidence=self._confidence(loc, task, apply),
            min_improvement=self._pick(task, "min_improvement", 0.05),
            margin=self._pick(task, "margin", 1.0 if objective is not None and objective.kind == "loss" else 0.05),
            min_runs=self._pick(task, "min_runs", 30),
            min_buckets=self._pick(task, "min_buckets", 10),
            cooldown_s=self._pick(task, "cooldown", 12 * 3600.0),
            apply=apply,
            explore=self._explore(loc, task),
            explore_budget_usd_per_day=self._pick(task, "explore_budget_usd_per_day", None),
            shadow=0.0 if task.risk == "high" else self._pick(task, "shadow", 0.0),
            shadow_budget_usd_per_day=self._pick(task, "shadow_budget_usd_per_day", None),
            value_of_success_usd=self._pick(task, "value_of_success", None),
            maturity_s=self._pick(task, "maturity", 0.0),
            risk=task.risk,
            require_proof=self._pick(task, "require_proof", False),
            expects=expects,
            schema=schema,
            check_threshold=self._pick(task, "check_threshold", 1.0),
            ladder=self._ladder(loc, task),
            review=self._review(loc, task),
            conditions=self._conditions(loc, task),
            route=task.route is not False,
            raise_max_tokens=self._pick(task, "raise_max_tokens", False),
        )

    def _pick(self, task: Common, name: str, default: Any) -> Any:
        own = getattr(task, name)
        if own is not None:
            return own
        shared = getattr(self.spec.defaults, name)
        return default if shared is None else shared

    def _candidates(self, loc: Loc, task: TaskSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
        given, at = task.candidates, (*loc, "candidates")
        wildcard = self.spec.tasks.get(WILDCARD)
        if given is None and wildcard is not None and wildcard.candidates is not None:
            given, at = wildcard.candidates, ("tasks", WILDCARD, "candidates")
        if given is None:
            hint = f" such as [{next(iter(self.spec.tiers), 'model-name')}]"
            self._error(loc, f'no candidates; add candidates: with tiers or models{hint}, or give them to "*"')
            return (), ()
        own = at[1] == loc[1]
        result: dict[str, str] = {}
        for i, name in enumerate(given):
            if name in given[:i] and own:
                self._error((*at, i), f"{name!r} is listed twice; keep one")
                continue
            if own:
                self._check_candidate((*at, i), name)
            tier = name if name in self.spec.tiers else ""
            for member in self.spec.tiers.get(name, [name]):
                if member in result and own and (result[member] or "") != tier:
                    source = f"tier {result[member]!r}" if result[member] else "the list itself"
                    self._warn((*at, i), f"{member!r} is already a candidate through {source}; its first place counts")
                result.setdefault(member, tier)
        return tuple(result), tuple(result.values())

    def _check_candidate(self, loc: Loc, name: str) -> None:
        if name in self.spec.tiers or name in self.spec.models:
            return
        close = get_close_matches(name, [*self.spec.tiers, *self.spec.models], n=1, cutoff=0.75)
        listed = any(name in members for members in self.spec.tiers.values())
        if close and not listed:
            text = (
                f"no tier or model entry is called {name!r}, so it is taken as a model name; did you mean {close[0]!r}?"
            )
            self._warn(loc, text)

    def _confidence(self, loc: Loc, task: TaskSpec, apply: str) -> float:
        stated: float | None = self._pick(task, "confidence", None)
        if stated is None:
            return AUTO_CONFIDENCE if apply == "auto" else 0.95
        if apply == "auto" and stated < AUTO_CONFIDENCE:
            text = f"apply: auto at confidence {stated:g}; {AUTO_CONFIDENCE:g} is advised where nobody looks first"
            self._warn((*loc, "confidence"), text)
        return stated

    def _explore(self, loc: Loc, task: TaskSpec) -> float | Literal["adaptive"]:
        wanted: float | Literal["adaptive"] = self._pick(task, "explore", 0.0)
        if task.risk != "high" or wanted == 0:
            return wanted
        if task.explore is not None:
            self._warn((*loc, "explore"), "a task of high risk is never explored; this is ignored")
        return 0.0

    def _schema(self, loc: Loc, task: TaskSpec) -> Mapping[str, object] | None:
        schema, at = task.json_schema, (*loc, "schema")
        if isinstance(schema, str):
            schema = self._schema_file(at, schema)
        if schema is None:
            return None
        import jsonschema_rs

        try:
            jsonschema_rs.validator_for(schema, retriever=_no_download)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            self._error(at, f"not a valid JSON Schema: {str(error).splitlines()[0]}")
        return dict(schema)

    def _schema_file(self, at: Loc, name: str) -> dict[str, object] | None:
        from tierwise.config.yamlfile import read_text

        path = self.folder / name
        try:
            value = json.loads(read_text(path))
        except ConfigError as error:
            self._error(at, f"schema file: {error}")
            return None
        except (ValueError, RecursionError) as error:
            self._error(at, f"schema file {path} is not JSON: {error}")
            return None
        if not isinstance(value, dict):
            self._error(at, f"schema file {path} does not hold a JSON object")
            return None
        return value

    # --- guardrails ------------------------------------------------------------------------------------------------

    def _guardrails(self, loc: Loc, task: TaskSpec, expects: str | None) -> tuple[GuardrailMetric, ...]:
        shared = self.spec.defaults.guardrails or {}
        own = task.guardrails or {}
        first_task = next(iter(self.spec.tasks.values()), None)
        result: list[GuardrailMetric] = []
        for metric in [*own, *(name for name in shared if name not in own)]:
            mine = metric in own
            at = (*loc, "guardrails", metric) if mine else ("defaults", "guardrails", metric)
            limits: tuple[units.Limit, ...] = own[metric] if mine else shared[metric]
            if mine or task is first_task:
                self._check_guardrail(at, metric, limits)
            if mine and metric in ("json_valid_rate", "json_fenced_rate") and expects != "json":
                text = f"{metric} counts only calls whose request asks for JSON; add expects: json if all should be"
                self._warn(at, text, at_key=True)
            result += [GuardrailMetric(metric=metric, op=bound.op, limit=bound.value) for bound in limits]
        return tuple(result)

    def _check_guardrail(self, at: Loc, metric: str, limits: tuple[units.Limit, ...]) -> None:
        if metric not in METRICS:
            close = get_close_matches(metric, METRICS, n=1)
            advice = f"did you mean {close[0]!r}?" if close else "use one of " + ", ".join(METRICS)
            self._error(at, f"unknown metric {metric!r}; {advice}", at_key=True)
            return
        misfits = [(i, text) for i, bound in enumerate(limits) if (text := units.fits(metric, bound)) is not None]
        for i, text in misfits:
            self._error((*at, i) if len(limits) > 1 else at, text)
        if misfits:
            return
        floors = [bound.value for bound in limits if bound.op == ">="]
        ceilings = [bound.value for bound in limits if bound.op == "<="]
        if floors and ceilings and max(floors) > min(ceilings):
            text = f"cannot be at least {max(floors):g} and at most {min(ceilings):g} at once; drop one"
            self._error(at, text)
        for i, bound in enumerate(limits):
            for text in _doubts(metric, bound):
                self._warn((*at, i) if len(limits) > 1 else at, text)

    # --- ladder, review --------------------------------------------------------------------------------------------

    def _ladder(self, loc: Loc, task: TaskSpec) -> Ladder:
        ladder: LadderSpec | None = self._pick(task, "ladder", None)
        if ladder is None:
            return Ladder()
        if task.ladder is not None:
            for place in ("escalate_on", "cleanup"):
                names: list[str] = list(getattr(ladder, place))
                for i, name in enumerate(names):
                    if name in names[:i]:
                        self._error((*loc, "ladder", place, i), f"{name!r} is listed twice; keep one")
            for name in {"refused", "filtered"} & set(ladder.escalate_on):
                at = (*loc, "ladder", "escalate_on", ladder.escalate_on.index(name))
                self._warn(at, f"{name!r} sends what one model declined for safety to another; be sure you want that")
            if ladder.max_rungs > 1 and not ladder.escalate_on and ladder.low_confidence is None:
                self._warn((*loc, "ladder"), "escalate_on is empty, so no run ever escalates")
        low = ladder.low_confidence or LowConfidenceSpec()
        if task.ladder is not None and (low.field is None) != (low.min_confidence is None):
            given, missing = ("field", "min_confidence") if low.field else ("min_confidence", "field")
            self._error((*loc, "ladder", "low_confidence", given), f"needs {missing} beside it")
        return Ladder(
            escalate_on=tuple(dict.fromkeys(ladder.escalate_on)),
            cleanup=tuple(dict.fromkeys(ladder.cleanup)),
            max_rungs=ladder.max_rungs,
            budget_usd=ladder.budget_usd,
            deadline_s=ladder.deadline,
            min_check_score=low.check_score,
            confidence_field=low.field,
            min_confidence=low.min_confidence,
            min_mean_logprob=low.mean_logprob,
        )

    def _review(self, loc: Loc, task: TaskSpec) -> Review | None:
        review = task.review
        if review is None:
            return None
        known = set(self._known_models())
        for place, name in (("model", review.model), ("draft", review.draft)):
            at = (*loc, "review", place)
            if name in self.spec.tiers:
                self._error(at, f"{name!r} is a tier; a review names one model")
            elif name not in known:
                close = get_close_matches(name, sorted(known), n=1)
                advice = f"did you mean {close[0]!r}?" if close else "put it in a tier, in models: or in candidates:"
                self._error(at, f"no tier, model entry or task names {name!r}; {advice}")
        if review.model == review.draft:
            self._error((*loc, "review"), "model and draft are the same; a review needs a stronger model")
        return Review(model=review.model, draft=review.draft)

    def _conditions(self, loc: Loc, task: TaskSpec) -> tuple[Condition, ...]:
        given: list[ConditionSpec] = self._pick(task, "conditions", None) or []
        own = task.conditions is not None
        shown = own or task is next(iter(self.spec.tasks.values()), None)  # those of `defaults` are looked at once
        at = (*loc, "conditions") if own else ("defaults", "conditions")
        return tuple(self._condition((*at, i), one, task, own=own, shown=shown) for i, one in enumerate(given))

    def _condition(self, at: Loc, one: ConditionSpec, task: TaskSpec, *, own: bool, shown: bool) -> Condition:
        names: dict[str, None] = {}
        for i, name in enumerate(one.candidates or []):
            if shown:
                self._check_candidate((*at, "candidates", i), name)
            names.update(dict.fromkeys(self.spec.tiers.get(name, [name])))
        low, high = self._token_limits((*at, "when", "input_tokens"), one.when.input_tokens or (), shown=shown)
        if shown and one.candidates is None and one.review is None:
            self._error(at, "changes nothing; add candidates: or review:")
        if own and one.review and task.review is None:
            self._error((*at, "review"), "the task has no review: to apply; add one")
        return Condition(
            candidates=tuple(names),
            risk=tuple(one.when.risk or ()),
            min_input_tokens=low,
            max_input_tokens=high,
            labels=dict(one.when.labels),
            tools=one.when.tools,
            review=one.review,
        )

    def _token_limits(self, at: Loc, limits: tuple[units.Limit, ...], *, shown: bool) -> tuple[int | None, int | None]:
        if shown and any(bound.unit or bound.value != int(bound.value) for bound in limits):
            self._error(at, "is a whole number of tokens; write a limit like '>= 20000'")
        low = max((int(bound.value) for bound in limits if bound.op == ">="), default=None)
        high = min((int(bound.value) for bound in limits if bound.op == "<="), default=None)
        if shown and low is not None and high is not None and low > high:
            self._error(at, f"cannot be at least {low} and at most {high} at once; drop one")
        return low, high

    def _known_models(self) -> Iterator[str]:
        yield from self.spec.models
        for members in self.spec.tiers.values():
            yield from members
        for task in self.spec.tasks.values():
            yield from task.candidates or []

    # --- problems --------------------------------------------------------------------------------------------------

    def _error(self, loc: Loc, message: str, *, at_key: bool = False) -> None:
        self.problems.append(Problem(loc=loc, severity="error", message=message, at_key=at_key))

    def _warn(self, loc: Loc, message: str, *, at_key: bool = False) -> None:
        self.problems.append(Problem(loc=loc, severity="warning", message=message, at_key=at_key))


def _model(name: str, entry: ModelEntry) -> ModelSpec:
    return ModelSpec(
        name=name,
        model=entry.model or name,
        upstream=entry.upstream,
        params=dict(entry.params),
        base_url=entry.base_url,
        api_key_env=entry.api_key_env,
    )


def _doubts(metric: str, bound: units.Limit) -> Iterator[str]:
    """Limits that are legal and probably not meant, or not tested as written."""
    if (bound.op == ">=") != (metric in units.HIGHER_IS_BETTER):
        better = "higher" if metric in units.HIGHER_IS_BETTER else "lower"
        other = ">=" if bound.op == "<=" else "<="
        yield f"{better} {metric} is better, so this limit stops good candidates; did you mean '{other}'?"
    if metric not in units.TIME_METRICS or bound.value in LATENCY_EDGES_S:
        return
    lower = [edge for edge in LATENCY_EDGES_S if edge < bound.value]
    if lower:
        yield f"{bound.value:g} s is not an edge of the latency histogram; tested at the next lower edge {lower[-1]:g} s"
    else:
        yield f"{bound.value:g} s is below the smallest edge of the latency histogram ({LATENCY_EDGES_S[0]:g} s)"


def _no_download(uri: str) -> Any:
    raise ValueError(f"{uri}: references to other documents are not followed; put the definition under $defs")

"""The token-budget finding: what each model answers under each limit, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tierwise.surfaces.bench.runner import PROBE_LABEL
from tierwise.surfaces.bench.suite import Probe

if TYPE_CHECKING:
    from tierwise.evidence import CallRow

LEFT_OUT: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One probe call: what came back under one limit (`None`: no limit was sent)."""

    model: str
    prompt: str
    max_tokens: int | None
    outcome: str
    finish_reason: str | None
    output_chars: int
    output_tokens: int | None
    reasoning_tokens: int | None
    advice: str | None

    @property
    def cut(self) -> bool:
        """Whether the limit cut the answer."""
        return self.outcome == "truncated"

    def to_json(self) -> dict[str, object]:
        """Plain JSON values under the field names."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "outcome": self.outcome,
            "finish_reason": self.finish_reason,
            "output_chars": self.output_chars,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A limit under which a model's answers are cut, and the advice."""

    model: str
    max_tokens: int
    answers: int
    cut: int
    empty: int
    needed_tokens: int | None
    """The most output tokens (hidden ones included) that an uncut answer of this model took."""
    advice: str

    def to_json(self) -> dict[str, object]:
        """Plain JSON values under the field names."""
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "finish_reason": "length",
            "answers": self.answers,
            "cut": self.cut,
            "empty": self.empty,
            "needed_tokens": self.needed_tokens,
            "advice": self.advice,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBudget:
    """The whole probe: its limits, prompts, results and findings."""

    max_tokens: tuple[int | None, ...]
    prompts: dict[str, str]
    results: tuple[ProbeResult, ...]
    findings: tuple[Finding, ...]

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, a sentence for each finding; one that says so where nothing was cut."""
        if self.findings:
            return tuple(finding.advice for finding in self.findings)
        return ("No answer was cut under any of these limits.",) if self.results else ()

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; a limit that was left out is `null`."""
        return {
            "max_tokens": list(self.max_tokens),
            "prompts": dict(self.prompts),
            "results": [result.to_json() for result in self.results],
            "findings": [finding.to_json() for finding in self.findings],
            "advice": list(self.advice),
        }


def token_budget(probe: Probe, calls: Iterable[CallRow], *, models: Sequence[str]) -> TokenBudget:
    """Read the probe's calls among a session's calls."""
    texts = {task.name: task.prompts[0] for task in probe.tasks}
    results = [_result(call, texts[call.task]) for call in calls if call.task in texts and PROBE_LABEL in call.labels]
    place = {model: index for index, model in enumerate(models)}
    prompts = list(texts.values())
    results.sort(
        key=lambda one: (
            place.get(one.model, len(place)),
            prompts.index(one.prompt),
            probe.max_tokens.index(one.max_tokens) if one.max_tokens in probe.max_tokens else 0,
        )
    )
    limits = [limit for limit in probe.max_tokens if limit is not None]
    found = (_finding(results, model, limit) for model in models for limit in limits)
    return TokenBudget(
        max_tokens=probe.max_tokens,
        prompts={task.name: task.prompts[0] for task in probe.tasks},
        results=tuple(results),
        findings=tuple(finding for finding in found if finding is not None),
    )


def _result(call: CallRow, prompt: str) -> ProbeResult:
    label = call.labels[PROBE_LABEL]
    return ProbeResult(
        model=call.candidate,
        prompt=prompt,
        max_tokens=None if label == LEFT_OUT else int(label),
        outcome=call.outcome,
        finish_reason=call.finish_reasons[0] if call.finish_reasons else None,
        output_chars=call.output_chars,
        output_tokens=call.output_tokens,
        reasoning_tokens=call.reasoning_tokens,
        advice=call.advice,
    )


def _finding(results: Iterable[ProbeResult], model: str, limit: int) -> Finding | None:
    mine = [result for result in results if result.model == model]
    under = [result for result in mine if result.max_tokens == limit]
    cut = [result for result in under if result.cut]
    if not cut:
        return None
    whole = [result for result in mine if result.finish_reason == "stop"]
    needed = max((result.output_tokens for result in whole if result.output_tokens is not None), default=None)
    hidden = max((result.reasoning_tokens for result in whole if result.reasoning_tokens is not None), default=0)
    empty = sum(result.output_chars == 0 for result in cut)
    roomy = sorted(
        {result.max_tokens for result in whole if result.max_tokens is not None and result.max_tokens > limit}
    )
    how = 'before any text (HTTP 200, content "")' if empty == len(cut) else "short"
    why = f": up to {hidden} hidden reasoning tokens count against the limit" if hidden else ""
    instead = f"raise it to {roomy[0]} or omit it" if roomy else "omit it"
    took = f"; whole answers took up to {needed} output tokens" if needed is not None else ""
    advice = (
        f"{model}: max_tokens={limit} cut {len(cut)} of {len(under)} answers {how}, finish reason length{why}{took}. "
        f"{instead[0].upper()}{instead[1:]}."
    )
    return Finding(
        model=model,
        max_tokens=limit,
        answers=len(under),
        cut=len(cut),
        empty=empty,
        needed_tokens=needed,
        advice=advice,
    )

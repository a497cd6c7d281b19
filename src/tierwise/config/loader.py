"""Reading tierwise.yaml: every error and warning at once with file:line:column, or the policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tierwise.config.yamlfile import Finding, Loc, Tree, parse, read_text
from tierwise.core.errors import ConfigError
from tierwise.core.policy import Policy
from tierwise.core.records import dataclass

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from tierwise.config.spec import PolicySpec

_SECTIONS: Final = ("tiers", "models", "prices", "defaults", "tasks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a policy file says and what is wrong with it; `policy` is `None` when there are errors."""

    path: str
    errors: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    policy: Policy | None = None


def load_policy(path: str | PathLike[str]) -> Policy:
    """The policy in a file.

    Raises:
        ConfigError: it cannot be read or is wrong; the message has one line for each error.
    """
    findings = check_policy(path)
    if findings.policy is None:
        raise ConfigError("\n".join(str(error) for error in findings.errors))
    return findings.policy


def check_policy(path: str | PathLike[str]) -> Findings:
    """Everything that is wrong or doubtful in a policy file, and the policy when nothing is wrong.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    file = Path(path)
    return check_text(read_text(file), name=str(path), folder=file.parent)


def check_text(text: str, *, name: str = "tierwise.yaml", folder: Path | None = None) -> Findings:
    """As `check_policy`, for a text; relative schema files are looked up in `folder`."""
    from tierwise.config.compile import Compiler

    tree = parse(text, name=name)
    found = list(tree.findings)
    if any(finding.severity == "error" for finding in found) and not tree.marks:
        return _findings(name, found, None)
    value = _normalised(tree.value)
    if not isinstance(value, dict):
        message = "a policy is a mapping with tiers:, tasks: and so on"
        return _findings(name, [*found, _finding(tree, name, (), "error", message)], None)
    spec, pruned, wrong = _validated(value)
    for loc, message, at_key in wrong:
        found.append(_finding(tree, name, loc, "error", message, at_key=at_key))
    compiler = Compiler(spec=spec, folder=folder or Path())
    policy = compiler.run(name)
    for problem in compiler.problems:
        loc = _original(problem.loc, pruned)
        if not _induced(loc, pruned) and not (pruned and loc == ("tasks",)):
            found.append(_finding(tree, name, loc, problem.severity, problem.message, at_key=problem.at_key))
    return _findings(name, found, policy)


def _findings(name: str, found: Iterable[Finding], policy: Policy | None) -> Findings:
    ordered = sorted(dict.fromkeys(found), key=lambda finding: (finding.line, finding.column))
    errors = tuple(finding for finding in ordered if finding.severity == "error")
    warnings = tuple(finding for finding in ordered if finding.severity == "warning")
    return Findings(path=name, errors=errors, warnings=warnings, policy=None if errors else policy)


def _finding(tree: Tree, name: str, loc: Loc, severity: Any, message: str, *, at_key: bool = False) -> Finding:
    mark = tree.mark(loc)
    line, column = (mark.key_line, mark.key_column) if at_key else (mark.line, mark.column)
    where = ".".join(str(part) for part in loc)
    return Finding(
        path=name, line=line, column=column, severity=severity, message=f"{where}: {message}" if where else message
    )


def _normalised(value: object) -> object:
    """A section or task that is there but empty is the same as one without settings."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        return value
    result = {key: item for key, item in value.items() if not (item is None and key in _SECTIONS)}
    if isinstance(tasks := result.get("tasks"), dict):
        result["tasks"] = {key: {} if item is None else item for key, item in tasks.items()}
    return result


# --- pydantic's errors in our words --------------------------------------------------------------------------------


def _validated(value: dict[str, Any]) -> tuple[PolicySpec, list[Loc], list[tuple[Loc, str, bool]]]:
    """Validate; take out what is wrong and go on, so that the rest is checked in the same pass."""
    from pydantic import ValidationError

    from tierwise.config.spec import PolicySpec

    wrong: list[tuple[Loc, str, bool]] = []
    pruned: list[Loc] = []
    while True:
        try:
            return PolicySpec.model_validate(value), pruned, wrong
        except ValidationError as error:
            details = error.errors(include_url=False)
        bad = []
        for detail in details:
            loc = tuple(part for part in detail["loc"] if part != "[key]")
            at_key = detail["type"] == "extra_forbidden" or "[key]" in detail["loc"]
            place = loc[:-1] if detail["type"] == "missing" else loc
            wrong.append((_original(place, pruned), _message(detail, loc), at_key))
            bad.append(_existing(value, loc))
        value = _without(value, set(bad))
        pruned += [_original(loc, pruned) for loc in bad]


def _existing(value: object, loc: Loc) -> Loc:
    """The longest prefix of `loc` that is there; at least one step, or the file itself would go."""
    for i, part in enumerate(loc):
        if isinstance(value, dict) and part in value:
            value = value[part]
            continue
        if not isinstance(value, list) or not isinstance(part, int) or part >= len(value):
            return loc[:i]
        value = value[part]
    return loc


def _without(value: Any, bad: set[Loc], at: Loc = ()) -> Any:
    if at in bad and not at:
        return {}
    if isinstance(value, dict):
        return {key: _without(item, bad, (*at, key)) for key, item in value.items() if (*at, key) not in bad}
    if isinstance(value, list):
        return [_without(item, bad, (*at, i)) for i, item in enumerate(value) if (*at, i) not in bad]
    return value


def _original(loc: Loc, pruned: list[Loc]) -> Loc:
    """The place in the file of a place in what is left after pruning: list items moved up."""
    gone = set(pruned)
    result: Loc = ()
    for part in loc:
        if isinstance(part, int):
            index, left = 0, part
            while (*result, index) in gone or left:
                left -= (*result, index) not in gone
                index += 1
            result = (*result, index)
        else:
            result = (*result, part)
    return result


def _induced(loc: Loc, pruned: list[Loc]) -> bool:
    """A problem of something from which a wrong part was taken out would say the same thing twice."""
    return any(part[: len(loc)] == loc or loc[: len(part)] == part for part in pruned)


_KINDS: Final[Mapping[str, str]] = {
    "string_type": "needs text; put it in quotes",
    "dict_type": "needs a mapping, key: value",
    "model_type": "needs a mapping, key: value",
    "list_type": "needs a list, [a, b]",
    "int_type": "needs a whole number",
    "int_from_float": "needs a whole number",
    "float_type": "needs a number",
    "bool_type": "needs true or false",
    "finite_number": "needs a finite number",
    "string_too_short": "is empty; give it a name",
    "string_too_long": "is longer than 200 characters",
    "string_pattern_mismatch": "holds control characters; use plain text",
    "too_short": "is empty; list at least one",
    "too_long": "has too many entries (at most 50)",
}


def _message(detail: ErrorDetails, loc: Loc) -> str:
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "extra_forbidden":
        allowed = _allowed_keys(loc)
        close = get_close_matches(str(loc[-1]), allowed, n=1)
        return "unknown key; " + (f"did you mean {close[0]!r}?" if close else "use one of " + ", ".join(allowed))
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        sign, bound = next((sign, context[sign]) for sign in words if sign in context)
        return f"must be {words[sign]} {bound:g}, not {detail['input']!r}"
    texts = {
        "missing": f"{str(loc[-1])!r} is missing; add it",
        "literal_error": f"{detail['input']!r} is not known; use {context.get('expected')}",
        "value_error": str(context.get("error")),
    }
    return texts.get(kind, detail["msg"])


def _allowed_keys(loc: Loc) -> list[str]:
    """The keys that may stand where `loc` ends, from the models themselves."""
    from tierwise.config import spec

    models: dict[str, type[spec.Spec]] = {
        "tasks": spec.TaskSpec, "models": spec.ModelEntry, "prices": spec.PriceEntry, "ladder": spec.LadderSpec,
        "review": spec.ReviewSpec, "defaults": spec.Defaults, "objective": spec.ObjectiveSpec,
        "low_confidence": spec.LowConfidenceSpec, "conditions": spec.ConditionSpec, "when": spec.WhenSpec,
    }  # fmt: skip
    model: type[spec.Spec] = spec.PolicySpec
    for part in loc[:-1]:
        model = models.get(str(part), model)
    return [info.alias or name for name, info in model.model_fields.items()]

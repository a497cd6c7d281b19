"""Suites: tasks with prompts and checks, and the token-budget probe, read from YAML with file:line:column for every error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from tierwise.config.names import PROBE_PREFIX
from tierwise.config.spec import Name, Spec
from tierwise.config.yamlfile import Finding, Loc, Tree, parse, read_text
from tierwise.core.checks import Check, make_check
from tierwise.core.errors import ConfigError
from tierwise.instrument.parsing import compile_schema
from tierwise.surfaces.bench.checks import CHECKS, RUNS_CODE, nearest

T = TypeVar("T")

BUILT_IN: Final = ("developer",)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteTask:
    """One task: its prompts in turn (round r asks prompt r modulo their number) and what a good answer is."""

    name: str
    prompts: tuple[str, ...]
    system: str | None = None
    expects: Literal["json", "text"] | None = None
    schema: Mapping[str, object] | None = None
    checks: tuple[Check, ...] = ()
    code_checks: tuple[Check, ...] = ()
    """Checks that run the answer's code: only with the user's consent."""

    def messages(self, round_number: int) -> list[dict[str, str]]:
        """The request's messages in a round: the same for every model, so that runs are paired by prompt."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompts[round_number % len(self.prompts)]}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Short prompts asked with several token limits; `None` leaves the limit out."""

    max_tokens: tuple[int | None, ...]
    tasks: tuple[SuiteTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named set of tasks, and the probe where there is one."""

    name: str
    tasks: tuple[SuiteTask, ...]
    probe: Probe | None = None

    def only(self, names: Sequence[str]) -> Suite:
        """The suite with the named tasks alone; all of them for no names.

        Raises:
            ConfigError: a name is not a task of the suite.
        """
        known = [task.name for task in self.tasks]
        for name in names:
            if name not in known:
                advice = nearest(name, known)
                raise ConfigError(f"suite {self.name!r} has no task {name!r}; {advice}")
        tasks = tuple(task for task in self.tasks if not names or task.name in names)
        return Suite(name=self.name, tasks=tasks, probe=self.probe)

    def without_probe(self) -> Suite:
        """The suite without its probe."""
        return Suite(name=self.name, tasks=self.tasks)


def load_suite(name: str) -> Suite:
    """A built-in suite by name, else the suite in a file.

    Raises:
        ConfigError: no such suite, or the file is wrong; the message has one line for each error.
    """
    if name in BUILT_IN:
        text = resources.files("tierwise.surfaces.bench").joinpath("suites", f"{name}.yaml").read_text("utf-8")
        return read_suite(text, where=f"{name}.yaml")
    path = Path(name).expanduser()
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"no suite {name!r}; give the path of a YAML file, or one of: {', '.join(BUILT_IN)}")
    return read_suite(read_text(path), where=str(path))


def read_suite(text: str, *, where: str) -> Suite:
    """The suite in a YAML text; `where` names it in errors.

    Raises:
        ConfigError: the text is wrong; the message has one line for each error.
    """
    tree = parse(text, name=where)
    findings = list(tree.findings)
    spec: SuiteSpec | None = None
    if not findings:
        try:
            spec = SuiteSpec.model_validate(tree.value if tree.value is not None else {})
        except ValidationError as error:
            findings += [_finding(tree, where, detail) for detail in error.errors(include_url=False)]
    if spec is not None:
        builder = _Builder(tree=tree, where=where, findings=findings)
        suite = builder.suite(spec)
        if not findings:
            return suite
    lines = dict.fromkeys(str(item) for item in sorted(findings, key=lambda item: (item.line, item.column)))
    raise ConfigError("\n".join(lines))


# --- the file's shape ------------------------------------------------------------------------------------------------

Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]
Limit = Annotated[int, Field(ge=1, le=10_000_000)]


class TaskSpec(Spec):
    """One task of a suite, or one prompt of the probe."""

    prompt: Text | Annotated[list[Text], Field(min_length=1)]
    system: Text | None = None
    expects: Literal["json", "text"] | None = None
    answer_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    checks: Annotated[list[dict[str, Any]], Field(max_length=50)] = Field(default_factory=list)


class ProbeSpec(Spec):
    """The token-budget probe."""

    max_tokens: Annotated[list[Limit | None], Field(min_length=1)]
    prompts: Annotated[dict[Name, TaskSpec], Field(min_length=1)]


class SuiteSpec(Spec):
    """A whole suite file."""

    name: Name
    description: str = ""
    tasks: Annotated[dict[Name, TaskSpec], Field(min_length=1)]
    probe: ProbeSpec | None = None


_ALLOWED: Final = {
    "task": ("prompt", "system", "expects", "schema", "checks"),
    "probe": ("max_tokens", "prompts"),
    "suite": ("name", "description", "tasks", "probe"),
}
_KINDS: Final = {
    "string_type": "needs text; put it in quotes",
    "dict_type": "needs a mapping, key: value",
    "model_type": "needs a mapping, key: value",
    "list_type": "needs a list",
    "int_type": "needs a whole number, or null to leave the limit out",
    "string_too_short": "is empty",
    "too_short": "is empty; list at least one",
    "greater_than_equal": "must be at least 1",
}


def _finding(tree: Tree, where: str, detail: Any) -> Finding:
    loc: Loc = tuple(part for part in detail["loc"] if part != "[key]")
    kind = detail["type"]
    message = _KINDS.get(kind, detail["msg"])
    if kind == "missing":
        loc, message = loc[:-1], f"{loc[-1]!r} is missing; add it"
    elif kind == "extra_forbidden":
        place = "suite" if len(loc) == 1 else "probe" if len(loc) == 2 and loc[0] == "probe" else "task"
        message = f"unknown key; {nearest(str(loc[-1]), _ALLOWED[place])}"
    elif kind == "literal_error":
        message = f"{detail['input']!r} is not known; use {detail['ctx']['expected']}"
    while loc and loc not in tree.marks:
        loc = loc[:-1]
    return _at(tree, where, loc, message, at_key=kind == "extra_forbidden")


def _at(tree: Tree, where: str, loc: Loc, message: str, *, at_key: bool = False) -> Finding:
    mark = tree.mark(loc)
    line, column = (mark.key_line, mark.key_column) if at_key else (mark.line, mark.column)
    path = ".".join(str(part) for part in loc)
    text = f"{path}: {message}" if path else message
    return Finding(path=where, line=line, column=column, severity="error", message=text)


# --- from the file's shape to a suite --------------------------------------------------------------------------------


class _Builder:
    """Compiles schemas and checks; what is wrong with them is added to the findings with its place."""

    def __init__(self, *, tree: Tree, where: str, findings: list[Finding]) -> None:
        self._tree, self._where, self._findings = tree, where, findings

    def suite(self, spec: SuiteSpec) -> Suite:
        tasks = tuple(self._task(name, task, ("tasks", name)) for name, task in spec.tasks.items())
        for name in spec.tasks:
            if name.startswith(PROBE_PREFIX):
                text = f"names that begin with {PROBE_PREFIX} are those of the probe's prompts; give the task another"
                self._error(("tasks", name), text, at_key=True)
        probe = None
        if spec.probe is not None:
            asked = spec.probe.prompts.items()
            probe = Probe(
                max_tokens=tuple(spec.probe.max_tokens),
                tasks=tuple(
                    self._task(f"{PROBE_PREFIX}{name}", task, ("probe", "prompts", name)) for name, task in asked
                ),
            )
        return Suite(name=spec.name, tasks=tasks, probe=probe)

    def _task(self, name: str, spec: TaskSpec, loc: Loc) -> SuiteTask:
        schema = spec.answer_schema
        if schema is not None:
            if spec.expects == "text":
                self._error((*loc, "expects"), "a schema is for JSON answers; write expects: json")
            self._try((*loc, "schema"), lambda: compile_schema(schema))
        plain: list[Check] = []
        code: list[Check] = []
        for index, entry in enumerate(spec.checks):
            check = self._check(entry, (*loc, "checks", index))
            if check is not None:
                (code if RUNS_CODE in entry else plain).append(check)
        for group in (plain, code):
            for index, check in enumerate(group):
                if check.name in [other.name for other in group[:index]]:
                    group[index] = Check(
                        name=f"{check.name} {index + 1}",
                        function=check.function,
                        on=check.on,
                        threshold=check.threshold,
                    )
        return SuiteTask(
            name=name,
            prompts=(spec.prompt,) if isinstance(spec.prompt, str) else tuple(spec.prompt),
            system=spec.system,
            expects=spec.expects or ("json" if schema is not None else None),
            schema=schema,
            checks=tuple(plain),
            code_checks=tuple(code),
        )

    def _check(self, entry: Mapping[str, Any], loc: Loc) -> Check | None:
        names = [name for name in entry if name != "threshold"]
        if len(names) != 1:
            self._error(loc, "a check is one name and its argument, such as `- bullets: 5`")
            return None
        name = names[0]
        make = CHECKS.get(name)
        if make is None:
            self._error(loc, f"unknown check {name!r}; {nearest(name, tuple(CHECKS))}", at_key=True)
            return None
        threshold = entry.get("threshold", 1.0)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            self._error((*loc, "threshold"), "needs a number between 0 and 1")
            return None
        return self._try((*loc, name), lambda: make_check(make(entry[name]), threshold=float(threshold)))

    def _try(self, loc: Loc, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except (ValueError, TypeError) as error:
            self._error(loc, str(error))
            return None

    def _error(self, loc: Loc, message: str, *, at_key: bool = False) -> None:
        self._findings.append(_at(self._tree, self._where, loc, message, at_key=at_key))


def iter_checks(suite: Suite, *, allow_code: bool) -> Iterator[tuple[str, Check]]:
    """Every check to register, with its task; those that run code only where that is allowed."""
    for task in (*suite.tasks, *(suite.probe.tasks if suite.probe is not None else ())):
        for check in (*task.checks, *(task.code_checks if allow_code else ())):
            yield task.name, check

"""The demo's story: simulated gateway → instrumented client → store → recommendations → report."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final

import tierwise
from tierwise.advisor.plan import plan
from tierwise.config import check_text
from tierwise.config.discovery import OFF
from tierwise.core.errors import ConfigError, StoreError
from tierwise.core.policy import Policy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Route, RouteTable
from tierwise.evidence import CallRow
from tierwise.evidence.files import place_problem
from tierwise.routing import owner_folder, write_table
from tierwise.routing.files import replace_file
from tierwise.surfaces.bench.budget import TokenBudget, token_budget
from tierwise.surfaces.bench.runner import Bench, Options, new_session
from tierwise.surfaces.bench.suite import Suite, load_suite
from tierwise.surfaces.bench.tables import models_of, tasks_of
from tierwise.surfaces.demo.gateway import Gateway
from tierwise.surfaces.demo.models import LATENCY_SCALE, PROFILES
from tierwise.surfaces.report import write_report
from tierwise.surfaces.summary import ModelSummary

USUAL_MODEL: Final = "claude-sonnet-4-5"
"""Where every task starts: a route by brand."""
MODELS: Final = tuple(profile.name for profile in PROFILES)
PUBLISHED_ROUNDS: Final = 2
CONCURRENCY: Final = 16
SESSION_KIND: Final = "demo"
_FOLDER: Final = Path(".tierwise", "demo")
_LIMIT: Final = re.compile(r"((?:latency|ttft)_p\d+: \"[<>]= *)([0-9.]+)s\"")
_STEP: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a demo keeps its things; policy and route file only in its own folder, for other commands to read."""

    store: Path
    report: Path
    policy: Path | None = None
    routes: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the evidence says after some rounds. Calls are those of the suite's tasks; the probe is apart."""

    rounds: int
    calls: tuple[CallRow, ...]
    models: Mapping[str, ModelSummary]
    tasks: Mapping[str, Mapping[str, str]]
    recommendations: tuple[Recommendation, ...]
    budget: TokenBudget

    @property
    def decided(self) -> bool:
        """Whether no task lacks runs for a verdict."""
        return all(one.verdict != "INSUFFICIENT" for one in self.recommendations)


def find_places(*, store: str | None, report: str | None) -> Places:
    """The demo's own store and report: as named, else in a folder `demo` beside the store that `TIERWISE_STORE` names, else
    in `.tierwise/demo` here, else in a folder for temporary files. The user's own store is never written.

    Raises:
        StoreError: the store holds calls that are not a demo's.
        ConfigError: the report's folder cannot be written to.
    """
    page = Path(report).expanduser().absolute() if report else None
    if page is not None and not os.access(page.parent, os.W_OK):
        raise ConfigError(f"{page}: its folder is missing or cannot be written to; choose another with --report")
    if store is not None:
        path = Path(store).expanduser().absolute()
        _only_demos(path)
        return Places(store=path, report=page or path.with_name(f"{path.stem}-report.html"))
    folder = _own_folder()
    _only_demos(folder / "tierwise.db")
    return Places(
        store=folder / "tierwise.db",
        report=page or folder / "report.html",
        policy=folder / "tierwise.yaml",
        routes=folder / "routes.json",
    )


def _own_folder() -> Path:
    named = os.environ.get("TIERWISE_STORE", "")
    try:
        if named and named.lower() != OFF:
            folder = Path(named).expanduser().absolute().parent / _FOLDER.name
        else:
            folder = Path.cwd() / _FOLDER
        owner_folder(folder.parent)
        owner_folder(folder)
        if place_problem(folder / "tierwise.db") is None:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="tierwise-demo-"))


def _only_demos(path: Path) -> None:
    from tierwise.evidence import SqliteStore

    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return
    with SqliteStore.open(path, read_only=True) as opened:
        foreign = next((row for row in opened.evidence() if not row.key.session.startswith(f"{SESSION_KIND}-")), None)
    if foreign is not None:
        raise StoreError(
            f"{path}: holds calls that are not simulated (task {foreign.key.task!r}); the demo does not mix with them, "
            "name a new file with --store"
        )


def demo_policy_text(scale: float = LATENCY_SCALE) -> str:
    """The demo's policy as YAML, its latency limits divided by the scale, with the published ones beside them."""
    text = resources.files("tierwise.surfaces.demo").joinpath("policy.yaml").read_text("utf-8")

    def divided(match: re.Match[str]) -> str:
        return f'{match[1]}{float(match[2]) / scale:g}s"  # {match[2]} s at the published scale, divided by {scale:g}'

    head = f"# Simulated: the latencies of these models are the published ones divided by {scale:g}.\n"
    return head + _LIMIT.sub(divided, text.split("\n", 1)[1])


def demo_policy(scale: float = LATENCY_SCALE) -> Policy:
    """The demo's policy at the simulated scale."""
    findings = check_text(demo_policy_text(scale), name="demo policy")
    if findings.policy is None:
        raise ConfigError("\n".join(str(error) for error in findings.errors))
    return findings.policy


def policy_lines(policy: Policy, scale: float = LATENCY_SCALE) -> list[str]:
    """What the policy asks for, in words; latency limits as tested here and at the published scale."""
    tasks: dict[str, list[str]] = {}
    for task_name, task in policy.tasks.items():
        limits = []
        for one in task.guardrails:
            timed = one.metric.startswith(("latency", "ttft"))
            text = f"{one.limit:g} s ({one.limit * scale:g} s at the published scale)" if timed else f"{one.limit:.0%}"
            name = one.metric.replace("_", " ").replace("json", "JSON")
            limits.append(f"{name} {'≥' if one.op == '>=' else '≤'} {text}")
        asked = "; ".join([f"best {task.objective.kind.replace('_', ' ')}", *limits])
        tasks.setdefault(asked, []).append(task_name)
    return [f"{', '.join(names)}: {asked}" for asked, names in tasks.items()]


def usual_routes(suite: Suite, *, now: int = 0) -> RouteTable:
    """The state before: every task on one model."""
    routes = {task.name: Route(task=task.name, primary=USUAL_MODEL, since=now) for task in suite.tasks}
    return RouteTable(version=0, updated_at=now, routes=routes)


class Demo:
    """One demo from start to end: `with Demo(places, seed=1) as demo: demo.compare(); demo.look(); demo.go_on(40)`."""

    def __init__(self, places: Places, *, seed: int, concurrency: int = CONCURRENCY) -> None:
        self.places, self.seed = places, seed
        self.suite = load_suite("developer")
        self.policy = demo_policy()
        self.table = usual_routes(self.suite, now=int(time.time()))
        self.session = new_session(SESSION_KIND)
        self.rounds = 0
        self._options = Options(models=MODELS, concurrency=concurrency, seed=seed)
        self._stack = ExitStack()
        self._bench: Bench | None = None

    def __enter__(self) -> Demo:
        from openai import OpenAI
        from opentelemetry.metrics import NoOpMeterProvider
        from opentelemetry.trace import NoOpTracerProvider

        with ExitStack() as stack:
            gateway = stack.enter_context(Gateway(seed=self.seed))
            client = stack.enter_context(OpenAI(base_url=gateway.base_url, api_key="simulated", max_retries=2))
            stack.callback(tierwise.shutdown)
            # Simulated calls must not reach the exporters that the environment may ask for.
            tierwise.instrument(
                client,
                config=self.policy,
                store=self.places.store,
                tracer_provider=NoOpTracerProvider(),
                meter_provider=NoOpMeterProvider(),
            )
            self._bench = stack.enter_context(Bench(client, self.suite, self._options, session=self.session))
            self._write_beside()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def compare(self, done: Callable[[], None] = lambda: None) -> None:
        """The published comparison: two rounds of the five tasks, and the token-budget probe."""
        bench = self._running()
        bench.probe(done=done)
        bench.run(range(PUBLISHED_ROUNDS), done=done)
        self.rounds = PUBLISHED_ROUNDS

    def go_on(self, rounds: int, done: Callable[[], None] = lambda: None, *, until_decided: bool = False) -> None:
        """Further interleaved rounds, up to `rounds` in all, or until every task has a verdict."""
        bench = self._running()
        while self.rounds < rounds:
            end = min(rounds, self.rounds + _STEP) if until_decided else rounds
            bench.run(range(self.rounds, end), done=done)
            self.rounds = end
            if until_decided and self.look().decided:
                return

    def calls_to_come(self, rounds: int) -> int:
        """How many calls of the five tasks are left until `rounds`."""
        return self._running().calls_of(max(0, rounds - self.rounds))

    def probe_calls(self) -> int:
        """How many calls the probe makes."""
        return self._running().probe_calls()

    def look(self) -> Look:
        """Read everything from the store and decide, as `tierwise plan` does."""
        with tierwise.open_store(self.places.store) as store:
            calls = tuple(store.calls(session=self.session))
            rows = [row for row in store.evidence() if row.key.session == self.session]
        names = [task.name for task in self.suite.tasks]
        made = plan(rows, self.policy, self.table, int(time.time()), tasks=names)
        probe = self.suite.probe
        assert probe is not None  # noqa: S101 - the built-in suite has one
        return Look(
            rounds=self.rounds,
            calls=tuple(call for call in calls if call.task in names),
            models=models_of(self.suite, calls, models=MODELS),
            tasks=tasks_of(self.suite, calls, models=MODELS),
            recommendations=made.recommendations,
            budget=token_budget(probe, calls, models=MODELS),
        )

    def report(self, look: Look) -> Path:
        """Write the HTML report of a look."""
        notes = [
            "Everything here is simulated: a gateway on this machine answered, and latencies are the published ones "
            f"divided by {LATENCY_SCALE}.",
            *(f"Policy of {line}." for line in policy_lines(self.policy)),
            f"{look.rounds} rounds; each round asked every task of every model once, in a random order (seed {self.seed}).",
            "Costs are the catalogue's prices for these models times the tokens that the gateway reported.",
            *look.budget.advice,
        ]
        return write_report(
            calls=look.calls,
            recommendations=look.recommendations,
            path=self.places.report,
            title="tierwise demo (simulated)",
            simulated=True,
            notes=notes,
            generated_at=int(time.time()),
            store=str(self.places.store),
            latency_scale=float(LATENCY_SCALE),
        )

    def _running(self) -> Bench:
        if self._bench is None:
            msg = "the demo is not running; use it in a with block"
            raise RuntimeError(msg)
        return self._bench

    def _write_beside(self) -> None:
        """Policy and route file in the demo's own folder, so that other commands can look at the store."""
        if self.places.policy is not None:
            replace_file(self.places.policy, demo_policy_text().encode())
        if self.places.routes is not None and not self.places.routes.exists():
            write_table(self.places.routes, self.table, expected_version=0)

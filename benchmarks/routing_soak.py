"""Routing as a whole: 20,000 runs of `model="auto"` while one model becomes worse and `apply: auto` moves the routes.

    uv run python benchmarks/routing_soak.py [--json] [--runs 20000] [--seed 1] [--threads 6]

Six tasks and three models over the demo's simulated gateway: real HTTP, passing faults, real clients, the real store,
the real route file, and a look of the very watch that `tierwise watch` runs after every hour. Only the clock is made: a
run moves it on, so that the runs spread over 240 hours. Half-way the cheapest model begins to fail in every task.
README.md in this folder has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai

HOURS = 240
TASKS = ("summary", "reasoning", "bug-fix", "token-cost", "ticket", "greeting")
MODELS = ("gemini-3.5-flash", "claude-haiku-4-5", "claude-sonnet-4-5")
PRICES = {MODELS[0]: (0.3, 2.5), MODELS[1]: (1.0, 5.0), MODELS[2]: (3.0, 15.0)}
RATES = {
    MODELS[0]: (0.95, 0.92, 0.94, 0.96, 0.93, 0.97),
    MODELS[1]: (0.96, 0.95, 0.95, 0.97, 0.95, 0.97),
    MODELS[2]: (0.98, 0.97, 0.98, 0.98, 0.97, 0.99),
}
"""True success rates by task, in the order of TASKS; half-way those of the first model fall to WORSE."""
WORSE = 0.35
FLOOR = 0.85
SPOILT = "I cannot tell."
DRIFT_HOURS = 24
"""The drift rule looks at the last 24 hours at most: by then a change of this size is to be known."""
POLICY = f"""
tiers:
  fast: [{MODELS[0]}]
  balanced: [{MODELS[1]}]
  deep: [{MODELS[2]}]
prices:
{chr(10).join(f"  {name}: {{input: {price[0]}, output: {price[1]}}}" for name, price in PRICES.items())}
defaults:
  apply: auto
  explore: adaptive
  value_of_success: 0.01
  guardrails: {{success_rate: ">= {FLOOR}"}}
tasks:
{chr(10).join(f"  {task}: {{candidates: [fast, balanced, deep]}}" for task in TASKS)}
"""
PROMPTS = {
    "summary": "Summarise this incident note in exactly five bullet points.",
    "reasoning": "Two workers share four jobs of some minutes each. How many minutes until each worker is done?",
    "bug-fix": "Find the bug: def top(scores): return sorted(scores)[:3]",
    "token-cost": "A service used 1,200,000 tokens at $3.00 per million. What did it cost?",
    "ticket": "Turn this support ticket into JSON.",
    "greeting": "Return only JSON with a greeting.",
}


class SimulatedClock:
    """What stands for the module `time` where calls are stamped: the hours are made, durations are real."""

    def __init__(self, start_s: int) -> None:
        self.now_ns = start_s * 10**9

    def time_ns(self) -> int:
        """Unix nanoseconds of the simulation."""
        return self.now_ns

    perf_counter = staticmethod(time.perf_counter)


@dataclass(kw_only=True)
class World:
    """What is true: how often each model succeeds at each task, now and to an oracle."""

    worse: bool = False
    costs: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    """Sum and number of the costs seen of a task and model: a cost does not depend on success here."""

    def rate(self, task: str, model: str, *, worse: bool) -> float:
        """Success probability."""
        return WORSE if worse and model == MODELS[0] else RATES[model][TASKS.index(task)]

    def cost(self, task: str, model: str) -> float | None:
        """Mean cost, USD."""
        total, number = self.costs[task, model]
        return total / number if number else None

    def best(self, task: str, *, worse: bool) -> str:
        """The model of least cost per success among those whose success holds the floor."""
        able = [model for model in MODELS if self.rate(task, model, worse=worse) >= FLOOR]
        return min(able, key=lambda model: (self.cost(task, model) or 1.0) / self.rate(task, model, worse=worse))


def spoiling(world: World, bare: Callable[..., str]) -> Callable[..., str]:
    """The gateway's answers, some of them useless: as often as the model's true rate says."""
    by_prompt = {prompt: task for task, prompt in PROMPTS.items()}

    def answer(profile: Any, prompt: str, draw: random.Random, *, json_mode: bool = False) -> str:
        text = bare(profile, prompt, draw, json_mode=json_mode)
        task = by_prompt.get(prompt)
        if task is None or draw.random() < world.rate(task, profile.name, worse=world.worse):
            return text
        return SPOILT

    return answer


@dataclass(kw_only=True)
class Run:
    """One run as the application sees it."""

    task: str
    success: bool
    hour: int


def make_runs(seed: int, runs: int) -> list[list[str]]:
    """The tasks of each hour's runs."""
    draw = random.Random(seed)
    names = [draw.choice(TASKS) for _ in range(runs)]
    edges = [runs * hour // HOURS for hour in range(HOURS + 1)]
    return [names[begin:end] for begin, end in pairwise(edges)]


class Soak:
    """The application, its store, its route file and the watch over them."""

    def __init__(self, folder: Path, *, seed: int, runs: int, threads: int) -> None:
        import tierwise
        from tierwise.config import load_policy
        from tierwise.core.checks import contains
        from tierwise.instrument import observation

        self.folder, self.threads, self.hours = folder, threads, make_runs(seed, runs)
        (folder / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
        os.environ["TIERWISE_ROUTES"] = str(folder / "routes.json")
        self.policy = load_policy(folder / "tierwise.yaml")
        self.start_s = (int(time.time()) // 3600 - HOURS - 2) * 3600
        self.clock = SimulatedClock(self.start_s)
        setattr(observation, "time", self.clock)  # noqa: B010
        self.world, self.runs, self.changes = World(), list[Run](), list[tuple[int, str, str, str]]()
        for task in TASKS:
            bad = contains(SPOILT)
            tierwise.check(task, name="useful")(lambda text, bad=bad: not bad(text))

    def go(self, seed: int, say: Callable[[str], object]) -> None:
        """All hours, one after the other; after each of them the watch has a look."""
        import tierwise
        from tierwise.surfaces.demo import answers, gateway

        setattr(gateway, "answer", spoiling(self.world, answers.answer))  # noqa: B010
        with gateway.Gateway(seed=seed, scale=1e6) as served, ThreadPoolExecutor(self.threads) as pool:
            client = openai.OpenAI(api_key="sk-simulated", base_url=served.base_url, max_retries=4)
            tierwise.instrument(client, config=self.folder / "tierwise.yaml", store=self.folder / "tierwise.db")
            watch = self._watch()
            for hour, names in enumerate(self.hours):
                self.world.worse = hour >= HOURS // 2
                list(pool.map(lambda item: self._run(client, *item), [(hour, *item) for item in enumerate(names)]))
                tierwise.force_flush(30)
                self._look(watch, hour)
                if hour % 20 == 19:
                    say(f"hour {hour + 1} of {HOURS}: {self._routes()}")
            tierwise.shutdown()
            client.close()

    def _run(self, client: Any, hour: int, place: int, task: str) -> None:
        import tierwise

        self.clock.now_ns = (self.start_s + hour * 3600 + 60 + place) * 10**9
        json_mode: dict[str, Any] = (
            {"response_format": {"type": "json_object"}} if task in ("ticket", "greeting") else {}
        )
        with tierwise.task(task):
            answer = client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": PROMPTS[task]}], **json_mode
            )
        self.runs.append(Run(task=task, success=answer.choices[0].message.content != SPOILT, hour=hour))

    def _watch(self) -> Any:
        from tierwise.advisor.plan import plan
        from tierwise.advisor.watch import Watch
        from tierwise.evidence import SqliteStore
        from tierwise.routing import read_table

        def decide() -> Any:
            with SqliteStore.open(self.folder / "tierwise.db", read_only=True) as store:
                made = plan(store.evidence_by_task(), self.policy, read_table(self.folder / "routes.json"), self._now())
            return made, self.policy

        return Watch(
            decide=decide,
            routes_path=self.folder / "routes.json",
            audit_path=self.folder / "audit.jsonl",
            memory_path=self.folder / "watch.json",
            by="soak",
        )

    def _now(self) -> int:
        return self.start_s + (self._hour + 1) * 3600 + 20

    def _look(self, watch: Any, hour: int) -> None:
        self._hour = hour
        look = watch.look(self._now())
        if look.errors:
            raise SystemExit(f"the watch had errors: {look.errors}")
        for change in look.made:
            before = change.before.primary if change.before is not None else ""
            if change.after is not None and before and change.after.primary != before:
                self.changes.append((hour, change.task, before, change.after.primary))
        if look.changes:
            time.sleep(0.3)  # the application looks at the route file four times a second

    def _routes(self) -> dict[str, str]:
        from tierwise.routing import read_table

        routes = read_table(self.folder / "routes.json").routes
        return {task: routes[task].primary for task in TASKS if task in routes}


def result_of(soak: Soak) -> dict[str, Any]:
    """The figures, from what the application saw and from the store."""
    from tierwise.evidence import SqliteStore

    world = soak.world
    with SqliteStore.open(soak.folder / "tierwise.db", read_only=True) as store:
        rows = list(store.evidence())
        calls = list(store.calls())
        several = list(store.runs())
    for call in calls:
        if call.cost_usd is not None:
            known = world.costs[call.task, call.candidate]
            known[0] += call.cost_usd
            known[1] += 1
    counted = sum(row.evidence.n for row in rows if row.key.rung == 0 and row.key.arm != "shadow")
    stated = sum(len(names) for names in soak.hours)
    half, last = HOURS // 2, HOURS - HOURS // 4
    before, after = (
        [run for run in soak.runs if low <= run.hour < high] for low, high in ((half // 2, half), (last, HOURS))
    )
    since_ns = (soak.start_s + last * 3600) * 10**9
    spent = sum(call.cost_usd or 0.0 for call in calls if call.started_at_ns >= since_ns)
    expected = sum(
        (world.cost(run.task, best) or 0.0) / world.rate(run.task, best, worse=True)
        for run in after
        for best in (world.best(run.task, worse=True),)
    ) / max(len(after), 1)
    recovered = recovered_after(soak.runs, half, share(before))
    return {
        "runs": stated,
        "lost": stated - counted,
        "answered": len(soak.runs),
        "runs_of_several_calls": len(several),
        "cost_per_success_vs_oracle": spent / max(sum(run.success for run in after), 1) / expected,
        "success_before": share(before),
        "success_at_the_end": share(after),
        "recovered_after_runs": recovered,
        "predicted_runs": DRIFT_HOURS * stated // HOURS,
        "mean_cost_usd": {model: round(mean_cost(world, model), 6) for model in MODELS},
        "changes": [{"hour": hour, "task": task, "from": old, "to": new} for hour, task, old, new in soak.changes],
        "wrong_changes": sum(wrong(world, *change) for change in soak.changes),
    }


def mean_cost(world: World, model: str) -> float:
    """Mean cost of a call of a model, USD."""
    known = [pair for (_, name), pair in world.costs.items() if name == model]
    return sum(total for total, _ in known) / max(sum(number for _, number in known), 1)


def share(runs: list[Run]) -> float:
    """Successes among runs."""
    return sum(run.success for run in runs) / max(len(runs), 1)


def recovered_after(runs: list[Run], half: int, level: float, window: int = 500) -> int | None:
    """Runs after the change until the success rate of the next 500 is back within three points of what it was."""
    ordered = [run.success for run in sorted(runs, key=lambda run: run.hour) if run.hour >= half]
    for place in range(0, len(ordered) - window, 10):
        if sum(ordered[place : place + window]) / window >= level - 0.03:
            return place
    return None


def wrong(world: World, hour: int, task: str, old: str, new: str) -> bool:
    """Whether a change of primary went to a model that is worse: below the floor, or dearer per success by 5 % or more."""
    worse = hour >= HOURS // 2
    rates = {model: world.rate(task, model, worse=worse) for model in (old, new)}
    if rates[new] < FLOOR:
        return True
    if rates[old] < FLOOR:
        return False
    prices = {model: (world.cost(task, model) or 0.0) / rates[model] for model in (old, new)}
    return prices[new] > 1.05 * prices[old]


def main() -> int:
    """Run the soak and print its figures; exit 1 when one of the promises is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="folder for store and routes")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder, seed=given.seed, runs=given.runs, threads=given.threads)
        soak.go(given.seed, lambda text: print(text, file=sys.stderr, flush=True))
        found = result_of(soak)
    found["seconds"] = round(time.monotonic() - started)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:28} {value}")
    recovered = found["recovered_after_runs"]
    kept = (
        found["lost"] == 0
        and found["wrong_changes"] == 0
        and found["cost_per_success_vs_oracle"] <= 1.10
        and recovered is not None
        and recovered <= found["predicted_runs"]
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

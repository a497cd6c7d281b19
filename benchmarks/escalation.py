"""Escalation: what a ladder was predicted to save on recorded outcomes, against what it then saves over real HTTP.

    uv run python benchmarks/escalation.py --outcomes FILE.csv [--json] [--tasks 20] [--prompts 150] [--splits 1]
        [--detection 1.0] [--assumed 1.0] [--paper 100]

The prompts of each task are split at random. From one half `tierwise.advisor.ladders.forecast` predicts what a ladder (the
cheapest model of the group of tasks, then the most successful one) comes to against the strong model alone, with 95 % prediction
intervals. The other half is then really asked: an instrumented client with `model="auto"`, a route file with that ladder, and a
local gateway that answers as recorded (a failure as prose, fenced, cut, empty or wrong JSON; costs as tokens times prices), and
each prompt once more with the strong model by name. What is observed is read back from the evidence in the store. With
`--detection` below 1 some failures look like successes; the application then rejects them by feedback.

Where `--assumed` differs from it, the prediction counts with signals that are not there: that it then fails shows that it can.

`--paper` repeats the prediction that many times on other splits without HTTP, to count how often the intervals hold.
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
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import comb, sqrt
from pathlib import Path
from typing import Any

from _replay import PLAUSIBLE, USD_PER_TOKEN, bodies_of, gateway, is_told

from tierwise.advisor.ladders import FIGURES, LadderForecast, Signals, forecast
from tierwise.advisor.outcomes import TaskOutcomes, read_outcomes

CONFIDENCE = 0.95
CLIMB = "[json_fenced, json_invalid, truncated, empty, check_failed]"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task in one split: the recorded half, the half to come, and what is predicted of it."""

    split: int
    predicted: LadderForecast
    test: TaskOutcomes

    @property
    def name(self) -> str:
        """The name of the task as the application says it."""
        return f"{self.test.task}/{self.split}"


def part(task: TaskOutcomes, places: Sequence[int]) -> TaskOutcomes:
    """A task with some of its prompts."""
    outcomes = {model: tuple(answers[place] for place in places) for model, answers in task.outcomes.items()}
    return TaskOutcomes(task=task.task, models=task.models, outcomes=outcomes)


def group(task: TaskOutcomes) -> str:
    """What stands before the first colon of a task's name."""
    return task.task.split(":", 1)[0]


def made_cases(
    tasks: Sequence[TaskOutcomes], *, split: int, prompts: int | None, signals: Signals, ladder: Sequence[str] | None
) -> list[Case]:
    """The split of every task. The ladder is chosen from the recorded halves of a whole group of tasks."""
    halves: dict[str, tuple[TaskOutcomes, TaskOutcomes]] = {}
    for task in tasks:
        draw = random.Random(f"{split}/{task.task}")
        places = list(range(len(task.outcomes[task.models[0]])))
        draw.shuffle(places)
        half = len(places) // 2
        halves[task.task] = part(task, places[:half]), part(task, places[half:][:prompts])
    found = []
    for name in sorted({group(task) for task in tasks}):
        mine = [halves[task.task] for task in tasks if group(task) == name]
        models = mine[0][0].models
        cheap = min(models, key=lambda model: sum(past.cost_usd(model) for past, _ in mine))
        strong = max(models, key=lambda model: sum(past.success_rate(model) for past, _ in mine))
        for past, test in mine:
            runs = len(test.outcomes[strong])
            predicted = forecast(past, ladder or (cheap, strong), runs=runs, signals=signals, confidence=CONFIDENCE)
            found.append(Case(split=split, predicted=predicted, test=test))
    return found


def figures(
    *, runs: int, successes: int, cost: float, escalated: int, alone_successes: int, alone_cost: float
) -> dict[str, float | None]:
    """What was observed, under the names of what was predicted."""
    each = cost / successes if successes else None
    other = alone_cost / alone_successes if alone_successes else None
    return {
        "success_rate": successes / runs,
        "escalated": escalated / runs,
        "cost_usd": cost / runs,
        "cost_per_success_usd": each,
        "saving": 1 - each / other if each is not None and other else None,
    }


def far(name: str, one: float | None, other: float | None) -> float:
    """How far two figures are from each other, as a share of the second; savings as what is still paid."""
    if one is None or other is None:
        return float(one is not other)
    if name == "saving":
        one, other = 1 - one, 1 - other
    return abs(one - other) / max(abs(other), 1e-12)


def judged(case: Case, observed: dict[str, float | None]) -> dict[str, Any]:
    """Predicted and observed beside each other; `inside` is `None` where there is no interval."""
    found: dict[str, Any] = {
        "task": case.test.task, "split": case.split, "prompts": case.predicted.prompts, "runs": case.predicted.runs,
        "ladder": list(case.predicted.ladder),
    }  # fmt: skip
    for name in FIGURES:
        made = getattr(case.predicted, name)
        inside = made.holds(observed[name]) if made.to_json()["low"] is not None else None
        found[name] = {"predicted": made.to_json(), "observed": observed[name], "inside": inside}
    return found


def on_paper(case: Case, detection: float) -> dict[str, float | None]:
    """What the other half comes to by adding up its recorded outcomes, as the ladder would have gone."""
    outcomes, rungs = case.test.outcomes, case.predicted.ladder
    runs = case.predicted.runs or 0
    successes = escalated = 0
    cost = 0.0
    for place in range(runs):
        for number, model in enumerate(rungs):
            one = outcomes[model][place]
            cost += one.cost_usd
            escalated += number == 1
            if one.success or number == len(rungs) - 1 or not is_told(case.name, model, place, detection):
                successes += one.success
                break
    alone = outcomes[case.predicted.against]
    return figures(
        runs=runs, successes=successes, cost=cost, escalated=escalated,
        alone_successes=sum(one.success for one in alone), alone_cost=sum(one.cost_usd for one in alone),
    )  # fmt: skip


# -- the application --------------------------------------------------------------------------------------------------


def policy_text(cases: Sequence[Case]) -> str:
    """The policy: prices that make tokens cost what was recorded, and a ladder for each task. JSON is YAML."""
    models = sorted({model for case in cases for model in (*case.predicted.ladder, case.predicted.against)})
    price = USD_PER_TOKEN * 1e6
    tasks = {
        case.name: {
            "candidates": list(dict.fromkeys((*case.predicted.ladder, case.predicted.against))),
            "expects": "json",
            "explore": 0,
            "ladder": {"escalate_on": CLIMB.strip("[]").split(", "), "max_rungs": len(case.predicted.ladder)},
        }
        for case in cases
    }
    return json.dumps({"prices": {model: {"input": price, "output": price} for model in models}, "tasks": tasks})


def write_routes(path: Path, cases: Sequence[Case]) -> None:
    """The route file: the first rung is the primary."""
    from tierwise.core.route import Route, RouteTable
    from tierwise.routing import write_table

    routes = {}
    for case in cases:
        ladder = case.predicted.ladder
        routes[case.name] = Route(task=case.name, primary=ladder[0], ladder=ladder, propensities={ladder[0]: 1.0})
    write_table(path, RouteTable(version=1, updated_at=int(time.time()), routes=routes), expected_version=0)


def ask(cases: Sequence[Case], folder: Path, *, detection: float, threads: int) -> Counter[str]:
    """Every prompt of the halves to come, once through the ladder and once with the strong model by name."""
    import openai

    import tierwise

    (folder / "tierwise.yaml").write_text(policy_text(cases), encoding="utf-8")
    write_routes(folder / "routes.json", cases)
    os.environ["TIERWISE_ROUTES"] = str(folder / "routes.json")
    for case in cases:
        tierwise.check(case.name, name="right")(lambda text: "wrong" not in text)
    models = sorted({model for case in cases for model in (*case.predicted.ladder, case.predicted.against)})
    bodies = bodies_of({case.name: case.test for case in cases}, models, detection)
    with gateway(bodies) as (url, asked), openai.OpenAI(api_key="sk-none", base_url=url) as client:
        tierwise.instrument(client, config=folder / "tierwise.yaml", store=folder / "tierwise.db")

        def run(item: tuple[Case, int, str]) -> None:
            case, place, model = item
            with tierwise.task(case.name):
                content = f"{case.name}/{place}"
                answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
            if answer.choices[0].message.content == PLAUSIBLE:
                tierwise.feedback(answer, accepted=False)

        work = [
            (case, place, model)
            for case in cases
            for place in range(case.predicted.runs or 0)
            for model in ("auto", case.predicted.against)
        ]
        try:
            with ThreadPoolExecutor(threads) as pool:
                for begin in range(0, len(work), 2000):
                    list(pool.map(run, work[begin : begin + 2000]))
                    tierwise.force_flush(60)
        finally:
            tierwise.shutdown()
    return asked


def observed_in(store_path: Path, cases: Sequence[Case]) -> list[dict[str, float | None]]:
    """What the store's evidence says of each case: runs by the ladder, and the strong model alone."""
    from tierwise.core.evidence import Evidence
    from tierwise.evidence import SqliteStore

    sums: dict[tuple[str, bool], Evidence] = {}
    with SqliteStore.open(store_path, read_only=True) as store:
        for row in store.evidence():
            if row.key.rung == 0:
                place = row.key.task, row.key.arm == "pinned"
                sums[place] = sums.get(place, Evidence()) + row.evidence
    found = []
    for case in cases:
        climbed, alone = sums[case.name, False], sums[case.name, True]
        if not climbed.n == climbed.priced == alone.n == alone.priced == case.predicted.runs:
            raise SystemExit(f"{case.name}: {climbed.n} and {alone.n} runs are stored, not {case.predicted.runs} each")
        found.append(
            figures(
                runs=climbed.n, successes=climbed.successes, cost=climbed.cost_sum, escalated=climbed.escalated,
                alone_successes=alone.successes, alone_cost=alone.cost_sum,
            )
        )  # fmt: skip
    return found


# -- how often the intervals hold -------------------------------------------------------------------------------------


def held(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each figure: how many intervals there are and how many hold, with the 95 % interval of the share (Wilson)."""
    found: dict[str, Any] = {}
    for name in FIGURES:
        known = [row[name]["inside"] for row in rows if row[name]["inside"] is not None]
        n, inside = len(known), sum(known)
        if n:
            middle, spread = (inside + 1.92) / (n + 3.84), 1.96 / (n + 3.84) * sqrt(inside * (n - inside) / n + 0.96)
            found[name] = {"intervals": n, "inside": inside, "share": inside / n, "low": middle - spread,
                           "high": min(middle + spread, 1.0)}  # fmt: skip
        else:
            found[name] = {"intervals": 0, "inside": 0, "share": None, "low": None, "high": None}
    return found


def unlikely(inside: int, n: int) -> bool:
    """Whether so few of n intervals of 95 % hold by chance in less than one of a thousand times."""
    return sum(comb(n, k) * CONFIDENCE**k * (1 - CONFIDENCE) ** (n - k) for k in range(inside + 1)) < 0.001


def whole(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """Mean predicted and mean observed figure over the tasks where both are known."""
    known = [
        row[name] for row in rows if row[name]["observed"] is not None and row[name]["predicted"]["point"] is not None
    ]
    size = max(len(known), 1)
    return sum(one["predicted"]["point"] for one in known) / size, sum(one["observed"] for one in known) / size


def show(document: dict[str, Any]) -> None:
    """A table for people."""
    print(f"{'task':42} {'runs':>5} {'saving: predicted':>28} {'observed':>9}  {'success':>15} {'escalated':>15}")
    for row in document["cases"]:
        saving, success, climbs = (row[name] for name in ("saving", "success_rate", "escalated"))
        made = saving["predicted"]
        limits = "" if made["low"] is None else f" ({made['low']:.1%} to {made['high']:.1%})"
        point = "–" if made["point"] is None else f"{made['point']:.1%}{limits}"
        seen = "–" if saving["observed"] is None else f"{saving['observed']:.1%}"
        mark = {True: " ", False: "*", None: "?"}[saving["inside"]]
        pair = [f"{one['predicted']['point']:.1%} → {one['observed']:.1%}" for one in (success, climbs)]
        print(f"{row['task'][:42]:42} {row['runs']:5} {point:>28} {seen:>8}{mark}  {pair[0]:>15} {pair[1]:>15}")
    for title in ("coverage", "coverage_on_paper"):
        for name, found in document.get(title, {}).items():
            if found["intervals"]:
                print(f"{title:18} {name:22} {found['inside']:6} of {found['intervals']:6} = {found['share']:.1%} "
                      f"({found['low']:.1%} to {found['high']:.1%})")  # fmt: skip
    for name in ("left_out", "requests", "largest_difference_from_paper", "mean_saving", "seconds"):
        print(f"{name:30} {document[name]}")


def main() -> int:
    """Predict, ask, compare; exit 1 when far fewer intervals hold than should, or the ladder did not go as recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcomes", type=Path, required=True, metavar="FILE", help="recorded outcomes, CSV")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", type=int, default=20, help="tasks to ask over HTTP, spread over the file; 0: none")
    parser.add_argument("--prompts", type=int, default=150, help="prompts of each task to ask at most")
    parser.add_argument("--splits", type=int, default=1, help="splits to ask over HTTP")
    parser.add_argument("--ladder", help="models, first rung first, separated by commas [default: cheapest, best]")
    parser.add_argument("--detection", type=float, default=1.0, help="share of the failures that the signals tell")
    parser.add_argument("--assumed", type=float, help="share that the prediction counts with [default: --detection]")
    parser.add_argument("--paper", type=int, default=0, help="splits of all tasks without HTTP")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    given = parser.parse_args()
    started = time.monotonic()
    signals = Signals(detection=given.detection if given.assumed is None else given.assumed)
    every = read_outcomes(given.outcomes)
    ladder = given.ladder.split(",") if given.ladder else None
    ready = [
        task
        for task in every
        if not task.unpaired and min(map(len, task.outcomes.values())) >= 60 and len(task.models) > 1
    ]
    chosen = (
        [ready[place * len(ready) // given.tasks] for place in range(min(given.tasks, len(ready)))]
        if given.tasks < len(ready)
        else ready
    )

    def cases_of(tasks: Sequence[TaskOutcomes], split: int, prompts: int | None) -> list[Case]:
        wanted = {task.task for task in tasks}
        made = made_cases(ready, split=split, prompts=prompts, signals=signals, ladder=ladder)
        return [case for case in made if case.test.task in wanted]

    rows: list[dict[str, Any]] = []
    requests: Counter[str] = Counter()
    difference = 0.0
    cases = [case for split in range(given.splits) for case in cases_of(chosen, given.seed + split, given.prompts)]
    if cases:
        with tempfile.TemporaryDirectory() as temporary:
            requests = ask(cases, Path(temporary), detection=given.detection, threads=given.threads)
            seen = observed_in(Path(temporary) / "tierwise.db", cases)
        rows = [judged(case, one) for case, one in zip(cases, seen, strict=True)]
        paper = [on_paper(case, given.detection) for case in cases]
        difference = max(
            far(name, one[name], other[name]) for one, other in zip(seen, paper, strict=True) for name in FIGURES
        )
    document: dict[str, Any] = {
        "tasks": len(chosen), "left_out": len(every) - len(ready), "splits": given.splits, "detection": given.detection,
        "requests": dict(requests), "largest_difference_from_paper": difference, "cases": rows, "coverage": held(rows),
        "mean_saving": dict(zip(("predicted", "observed"), whole(rows, "saving"), strict=True)),
    }  # fmt: skip
    if given.paper:
        more = [
            judged(case, on_paper(case, given.detection))
            for split in range(given.paper)
            for case in cases_of(ready, 10_000 + given.seed + split, None)
        ]
        document["coverage_on_paper"] = held(more)
    document["seconds"] = round(time.monotonic() - started)
    if given.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)
    broken = any(unlikely(one["inside"], one["intervals"]) for one in document["coverage"].values())
    return 1 if broken or difference > 1e-3 else 0


if __name__ == "__main__":
    sys.exit(main())

"""Backtests: recorded outcomes are read strictly, replayed repeatably, and counted right."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tierwise.advisor.backtest import Settings, backtest, ready, start_models, summary, task_policy
from tierwise.advisor.choosers import PolicyKind
from tierwise.advisor.outcomes import TaskOutcomes, read_outcomes, unread_columns
from tierwise.core.errors import EvidenceError
from tierwise.core.policy import Policy, TaskPolicy

HEADER = "task,prompt_id,model,success,cost_usd"


def recorded(tmp_path: Path, rows: list[str], header: str = HEADER) -> Path:
    """A file of outcomes."""
    path = tmp_path / "outcomes.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[TaskOutcomes, ...]:
    """Two tasks, 200 prompts, three models: `cheap` is nearly as good as `best` on one task and useless on the other."""
    rng = random.Random(3)  # noqa: S311 - repeatable, not secret
    rates = {"easy": {"best": 0.95, "cheap": 0.93, "poor": 0.3}, "hard": {"best": 0.9, "cheap": 0.2, "poor": 0.1}}
    costs = {"best": 0.006, "cheap": 0.001, "poor": 0.004}
    rows = [
        f"{task},{prompt},{model},{int(rng.random() < rate)},{costs[model]}"
        for task, models in rates.items()
        for prompt in range(200)
        for model, rate in models.items()
    ]
    return read_outcomes(recorded(tmp_path, rows))


def total(tasks: tuple[TaskOutcomes, ...], **settings: object) -> dict[str, object]:
    """The total of one replay."""
    given = {"steps": 120, "calls_per_step": 20} | settings
    found: dict[str, object] = summary(backtest(tasks, Settings(**given), [1]))["total"]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (["t,1,m,1,0.1"], "task,prompt_id,model,success", r":1: the column cost_usd is missing"),
        (["t,1,m,1,0.1", "t,1,m,0,0.1"], HEADER, r":3: m has answered prompt 1 of t before"),
        (["t,1,m,2,0.1"], HEADER, r":2: success must be 0 or 1, not '2'"),
        (["t,1,m,1,nan"], HEADER, r":2: cost_usd must be a number of at least 0, not 'nan'"),
        (["t,1,m,1,-1"], HEADER, r":2: cost_usd must be"),
        (["t,1,m,1,"], HEADER, r":2: cost_usd must be"),
        (["t,,m,1,0.1"], HEADER, r":2: task, prompt_id and model must be given"),
        ([], HEADER, r"holds no outcome"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, rows: list[str], header: str, said: str) -> None:
    """Nothing is guessed: the first bad row ends the reading."""
    with pytest.raises(EvidenceError, match=said):
        read_outcomes(recorded(tmp_path, rows, header))


def test_models_are_compared_on_the_prompts_that_all_answered(tmp_path: Path) -> None:
    """Prompts without an answer of some model are left out; where hardly any remain, each model keeps its own."""
    both = [f"t,{prompt},{model},1,0.1" for prompt in range(30) for model in "ab"]
    (task,) = read_outcomes(recorded(tmp_path, [*both, "t,x,a,0,0.1", "t,y,b,0,0.1"]))
    assert {model: len(answers) for model, answers in task.outcomes.items()} == {"a": 30, "b": 30}
    assert task.unpaired == 2
    _, remarks = ready([task], Settings())
    assert any("not every model answered" in remark for remark in remarks)
    (few,) = read_outcomes(recorded(tmp_path, [*both[:40], "t,x,a,0,0.1"]))
    assert {model: len(answers) for model, answers in few.outcomes.items()} == {"a": 21, "b": 20}
    _, remarks = ready([few], Settings())
    assert any("share too few prompts" in remark for remark in remarks)


def test_columns_that_mean_nothing_are_named(tmp_path: Path) -> None:
    """A column `latency` is not `latency_s`, and the reader is told."""
    path = recorded(tmp_path, ["t,1,m,1,0.1,2.5"], HEADER + ",latency")
    assert unread_columns(path) == ("latency",)
    assert unread_columns(recorded(tmp_path, ["t,1,m,1,0.1,2.5"], HEADER + ",latency_s")) == ()


def test_optional_columns_become_evidence(tmp_path: Path) -> None:
    """Latency, tokens and JSON validity are kept where they are given; rows go by their time."""
    header = HEADER + ",latency_s,output_tokens,json_valid,time"
    rows = ["t,b,m,1,0.1,2.5,30,1,2026-01-02", "t,a,m,0,0.2,,,0,2026-01-01"]
    (task,) = read_outcomes(recorded(tmp_path, rows, header))
    first, second = task.outcomes["m"]
    assert (first.cost_usd, first.latency_s, first.json_valid) == (0.2, None, False)
    assert (second.latency_s, second.output_tokens, second.json_valid) == (2.5, 30, True)


def test_the_same_seed_gives_the_same_result_in_any_number_of_processes(tasks: tuple[TaskOutcomes, ...]) -> None:
    """Replays are repeatable, and seeds differ."""
    settings = Settings(steps=30)
    one, two = (backtest(tasks, settings, [1, 2], jobs=jobs) for jobs in (1, 2))
    assert one == two
    assert one[0].figures != one[2].figures


def test_static_loses_what_the_full_data_say(tasks: tuple[TaskOutcomes, ...]) -> None:
    """The regret of always the same model is its expected loss beyond the best one's, run by run."""
    found = summary(backtest(tasks, Settings(kind="static", start="best", steps=10), [1]))
    for task in tasks:
        losses = {model: task.loss(model, 0.02) for model in task.models}
        figures = found["tasks"][task.task]
        assert figures["regret_per_1000_usd"] == pytest.approx(1000 * (losses["best"] - min(losses.values())))
        assert figures["oracle"]["regret_per_1000_usd"] == 0
        assert figures["final_route"] == figures["start"] == "best"
    assert found["total"]["route_changes"] == 0


def test_tierwise_learns_which_task_can_be_cheap(tasks: tuple[TaskOutcomes, ...]) -> None:
    """It moves the one task, leaves the other, makes no wrong change, and loses a fraction of what staying does."""
    found = summary(backtest(tasks, Settings(steps=120), [1]))
    assert found["tasks"]["easy"]["final_route"] == "cheap"
    assert found["tasks"]["hard"]["final_route"] == "best"
    assert found["total"]["wrong_changes"] == 0
    static = total(tasks, kind="static")["regret_per_1000_usd"]
    assert found["total"]["regret_per_1000_usd"] < 0.5 * static  # type: ignore[operator]


def test_a_person_who_looks_once_a_day_changes_routes_then(tasks: tuple[TaskOutcomes, ...]) -> None:
    """With `apply_every` nothing moves by itself; the recommendation is applied at the next look."""
    found = summary(backtest(tasks, Settings(steps=120, explore=0.2, apply_every=24), [1]))
    assert found["tasks"]["easy"]["final_route"] == "cheap"
    assert task_policy(tasks[0], Settings(apply_every=24)).apply == "recommend"


@pytest.mark.parametrize("kind", ["naive", "epsilon-greedy", "thompson"])
def test_the_other_policies_find_the_obvious(tasks: tuple[TaskOutcomes, ...], kind: str) -> None:
    """Each of them ends at the better model of the hard task."""
    found = summary(backtest(tasks, Settings(kind=kind, steps=60), [1]))  # type: ignore[arg-type]
    assert found["tasks"]["hard"]["final_route"] == "best"


def test_start_models_are_named_once_for_tasks_of_the_same_candidates(tasks: tuple[TaskOutcomes, ...]) -> None:
    """`best` and `cheapest` are judged over all of them; an unknown name is refused."""
    assert start_models(tasks, "best") == {"easy": "best", "hard": "best"}
    assert start_models(tasks, "cheapest") == {"easy": "cheap", "hard": "cheap"}
    assert start_models(tasks, "first") == {"easy": "best", "hard": "best"}
    with pytest.raises(EvidenceError, match="no task has this model"):
        start_models(tasks, "gpt")


def test_several_seeds_give_their_mean_and_each(tasks: tuple[TaskOutcomes, ...]) -> None:
    """The total is over all seeds; `seeds` holds each one's."""
    found = summary(backtest(tasks, Settings(kind="thompson", steps=10), [1, 2, 3]))
    each = [one["regret_per_1000_usd"] for one in found["seeds"].values()]
    assert found["total"]["regret_per_1000_usd"] == pytest.approx(sum(each) / 3)
    assert found["total"]["histories"] == 6


def test_what_the_figures_do_not_say_is_remarked(tmp_path: Path, tasks: tuple[TaskOutcomes, ...]) -> None:
    """Single models, prompts that not every model answered, and a policy that cannot learn or move are told."""
    assert ready(tasks, Settings()) == (tasks, ())
    rows = ["alone,1,m,1,0.1", "uneven,1,a,1,0.1", "uneven,1,b,1,0.1", "uneven,2,a,1,0.1"]
    odd = read_outcomes(recorded(tmp_path, rows))
    _, remarks = ready(odd, Settings())
    assert remarks == (
        "1 task with one model only, where there is nothing to decide (alone)",
        "1 task whose models share too few prompts: each is drawn from, and judged on, its own (uneven)",
    )
    still = Policy(default=TaskPolicy(task="*", candidates=("best", "gone"), value_of_success_usd=1.0))
    kept, remarks = ready(tasks, Settings(policy=still))
    assert kept == tasks
    assert [remark.split(" (")[0] for remark in remarks] == [
        "2 tasks whose policy names models that were not recorded, which are left out",
        "2 tasks not explored, so nothing is learned of other models: see `explore` and --explore",
        "2 tasks with `apply: recommend` and nobody who applies: see --apply-every",
        "2 tasks whose policy values a success at 1 USD, while regret counts 0.02: see --value-of-success",
    ]
    assert ready(tasks, Settings(policy=still, kind="static"))[1] == ()


def test_tasks_that_the_policy_cannot_route_are_left_out(tasks: tuple[TaskOutcomes, ...]) -> None:
    """Their models are not swapped for others; with no task left it is an error."""
    foreign = TaskPolicy(task="easy", candidates=("other",))
    kept, remarks = ready(tasks, Settings(policy=Policy(tasks={"easy": foreign})))
    assert [task.task for task in kept] == ["hard"]
    assert remarks == (
        "1 task left out, since the policy names none of the recorded models (easy)",
        "1 task not in the policy, replayed as without one (hard)",
    )
    with pytest.raises(EvidenceError, match="nothing to replay"):
        ready(tasks, Settings(policy=Policy(default=foreign)))


def test_costs_that_no_sum_can_hold_are_refused(tmp_path: Path) -> None:
    """An overflow would make every figure empty."""
    rows = [f"t,{prompt},m,1,1e308" for prompt in range(2)]
    with pytest.raises(EvidenceError, match="t: its costs are too large"):
        ready(read_outcomes(recorded(tmp_path, rows)), Settings())


@pytest.mark.parametrize("kind", ["static", "naive", "epsilon-greedy", "thompson", "tierwise"])
def test_what_is_counted_adds_up(tasks: tuple[TaskOutcomes, ...], kind: PolicyKind) -> None:
    """Regret is never below that of the best fixed model, and no more than always being at the worst."""
    settings = Settings(kind=kind, steps=15)
    for one in backtest(tasks, settings, [4]):
        task = next(task for task in tasks if task.task == one.task)
        losses = [task.loss(model, 0.02) for model in task.models]
        assert one.figures.runs == 15 * 20
        assert 0 <= one.figures.regret_usd <= (max(losses) - min(losses)) * 300 + 1e-9
        assert 0 <= one.figures.wrong_changes <= one.figures.route_changes
        assert one.final_route in task.models


def test_every_policy_meets_the_same_prompts(tmp_path: Path) -> None:
    """With one seed a step draws the same prompts whoever chooses: models that answer alike give the same successes."""
    rng = random.Random(8)  # noqa: S311 - repeatable, not secret
    rows = []
    for prompt in range(60):
        good = int(rng.random() < 0.5)
        rows += [f"t,{prompt},{model},{good},{cost}" for model, cost in (("a", 0.001), ("b", 0.002), ("c", 0.003))]
    twins = read_outcomes(recorded(tmp_path, rows))
    kinds: tuple[PolicyKind, ...] = ("static", "naive", "epsilon-greedy", "thompson", "tierwise")
    found = {backtest(twins, Settings(kind=kind, steps=12), [7])[0].figures.successes for kind in kinds}
    assert len(found) == 1

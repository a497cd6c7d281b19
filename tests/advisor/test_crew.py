"""A plan from a store: the same whoever made it, one process or several, and whatever befalls them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.synthetic import after, hours, runs
from support import killed
from tierwise.advisor import crew, plan
from tierwise.advisor.plan import runs_of
from tierwise.core.errors import EvidenceError
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.route import Route, RouteTable
from tierwise.evidence import SqliteStore
from tierwise.evidence.rollup import merge

NOW = after(100)
TASKS = tuple(f"task-{number:02}" for number in range(20))
POLICY = Policy(tasks={"task-03": TaskPolicy(task="task-03", candidates=("b", "a"), tiers=("", ""))})
TABLE = RouteTable(routes={"task-05": Route(task="task-05", primary="b"), "gone": Route(task="gone", primary="a")})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """Twenty tasks of two models, a task without a name, and the probe of `bench`."""
    with SqliteStore.open(tmp_path / "s.db", clock=lambda: float(NOW)) as opened:
        with opened._transaction() as connection:
            for number, task in enumerate((*TASKS, "unassigned", "other")):
                rows = [*hours("a", runs(9, 8, cost=0.01), 30), *hours("b", runs(9, 8 - number % 2, cost=0.002), 30)]
                merge(connection, {replace(row.key, task=task): row.evidence for row in rows})
        opened.pack()
        yield opened


def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes join at once."""
    monkeypatch.setattr(crew, "PATIENCE_S", 0.0)
    monkeypatch.setattr(crew, "WORTH_S", 0.0)


@pytest.mark.parametrize("tasks", [None, ("task-07", "task-03", "gone")])
def test_several_processes_make_the_same_plan(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, tasks: tuple[str, ...] | None
) -> None:
    """Recommendations, their order, coverage and notes do not depend on who decided which task; both tell how far they are."""
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    alone = crew.plan_of_store(store, POLICY, TABLE, NOW, tasks=tasks, processes=1, told=tell)
    number = 2 if tasks else len(TASKS) + 2
    assert told == [(done, number) for done in range(1, number + 1)]
    told.clear()
    simple = plan(store.evidence_by_task(None, None, tasks), POLICY, TABLE, NOW, tasks=tasks, recorded=store.tasks())
    _hurry(monkeypatch)
    together = crew.plan_of_store(store, POLICY, TABLE, NOW, tasks=tasks, processes=2, told=tell)
    assert told == sorted(told)
    assert told[-1] == (number, number)
    assert alone is not None
    assert together is not None
    assert together.to_json() == alone.to_json() == simple.to_json()
    expected = tasks or ("gone", *TASKS)
    assert tuple(item.task for item in together.recommendations) == expected


def test_what_is_made_beside_the_plan_is_whole(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a function makes of each task's evidence comes along, the same from one process as from several."""
    made, alone = crew.plan_and_more(store, POLICY, TABLE, NOW, beside=runs_of, processes=1)
    assert alone == dict.fromkeys((*TASKS, "unassigned", "other"), 2 * 30 * 9)
    _hurry(monkeypatch)
    same, together = crew.plan_and_more(store, POLICY, TABLE, NOW, beside=runs_of, processes=2)
    assert together == alone
    assert same == made == crew.plan_of_store(store, POLICY, TABLE, NOW, processes=1)


def test_processes_that_die_leave_the_work_to_the_first(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the others cannot be started or are killed, the plan is made all the same."""
    alone = crew.plan_of_store(store, POLICY, TABLE, NOW, processes=1)
    _hurry(monkeypatch)
    monkeypatch.setattr(crew, "_follow", killed.follow)
    made = crew.plan_of_store(store, POLICY, TABLE, NOW, processes=2)
    assert made is not None
    assert alone is not None
    assert made.to_json() == alone.to_json()


def test_a_small_plan_starts_no_process(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where little is left, other processes would not pay."""
    monkeypatch.setattr(crew, "PATIENCE_S", 0.0)
    monkeypatch.setattr(crew, "WORTH_S", 1e9)
    monkeypatch.setattr(crew, "ProcessPoolExecutor", None)
    assert crew.plan_of_store(store, POLICY, TABLE, NOW, processes=2) is not None


def test_nothing_recorded_is_told_apart(tmp_path: Path, store: SqliteStore) -> None:
    """An empty store gives no plan, a window without evidence neither; a task nobody knows is an error."""
    with SqliteStore.open(tmp_path / "empty.db") as empty:
        assert crew.plan_of_store(empty, None, RouteTable(), NOW) is None
    assert crew.plan_of_store(store, None, RouteTable(), NOW, since=1 << 40) is None
    with pytest.raises(EvidenceError, match="no task 'unheard'"):
        crew.plan_of_store(store, None, RouteTable(), NOW, tasks=["unheard"])


def test_the_processors_of_this_process_count() -> None:
    """A container that may use one processor of many starts no crew."""
    assert 1 <= crew._processors() <= (os.cpu_count() or 1)

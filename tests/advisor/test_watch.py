"""One look after the other: what is applied and told, what goes wrong and goes on, and when the next look is."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.recommended import NOW, recommend
from tierwise.advisor import Plan, promote, read_history
from tierwise.advisor.news import MAX_PENDING, News, read_memory
from tierwise.advisor.notify import NotifyError
from tierwise.advisor.watch import Look, Watch, next_look, run
from tierwise.core.errors import StoreError
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Route, RouteTable
from tierwise.routing import read_table

HOUR = 3600


class World:
    """A folder, what the next decision says, and what was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.routes, self.audit, self.memory = folder / "routes.json", folder / "audit.jsonl", folder / "watch.json"
        self.items: Sequence[Recommendation] = ()
        self.problem: Exception | None = None
        self.deaf: Exception | None = None
        self.told: list[list[tuple[str, str]]] = []
        self.lost = 0
        self.automatic = True

    def decide(self) -> tuple[Plan, Policy]:
        """The items as a plan for the table as it is."""
        if self.problem is not None:
            raise self.problem
        mode: Any = "auto" if self.automatic else "recommend"
        tasks = {i.task: TaskPolicy(task=i.task, candidates=("old", "new"), apply=mode) for i in self.items}
        version = read_table(self.routes).version
        return Plan(at=NOW, table_version=version, recommendations=tuple(self.items)), Policy(tasks=tasks)

    def tell(self, news: Sequence[News], at: int, lost: int) -> None:
        """Takes news, or is deaf."""
        del at
        if self.deaf is not None:
            raise self.deaf
        self.lost = lost
        self.told.append([(item.kind, item.task) for item in news])

    def watch(self, **more: Any) -> Watch:
        """A watch as a new process would make it."""
        return Watch(
            decide=self.decide, routes_path=self.routes, audit_path=self.audit, memory_path=self.memory, by="me",
            tell=self.tell, **more,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh world."""
    return World(tmp_path)


def promotion(task: str = "t") -> Recommendation:
    """A change that `apply: auto` makes."""
    return recommend("PROMOTE", task=task, action="promote", after=Route(task=task, primary="new"))


def test_a_look_applies_and_tells_once(world: World) -> None:
    """The route is written and told; the next look, in another process too, has nothing new to tell."""
    world.items = [promotion()]
    look = world.watch().look(NOW)
    assert (look.version, [change.action for change in look.made], look.told, look.errors) == (1, ["promote"], True, ())
    assert read_table(world.routes).routes["t"].primary == "new"
    world.items = [recommend("KEEP", current="new", challenger=None)]
    again = world.watch()
    for hours in range(1, 30):
        assert again.look(NOW + hours * HOUR).news == ()
    assert world.told == [[("route", "t")]]
    assert read_history(world.audit).entries[0].by == "me"


def test_without_apply_nothing_is_written_but_the_memory(world: World) -> None:
    """`--no-apply` tells what is recommended and touches neither routes nor log."""
    world.items = [promotion()]
    look = world.watch(apply=False).look(NOW)
    assert (look.changes, look.open, [news.kind for news in look.news]) == ((), (world.items[0],), ["verdict"])
    assert [path.name for path in world.folder.iterdir()] == ["watch.json"]


def test_a_policy_that_recommends_is_left_to_people(world: World) -> None:
    """Told, not done; when a person did it, that is told with their name."""
    world.automatic, world.items = False, [promotion()]
    watch = world.watch()
    assert watch.look(NOW).made == ()
    assert not world.routes.exists()
    promote("u", "x", routes_path=world.routes, audit_path=world.audit, now=NOW, by="ann")
    watch.look(NOW + HOUR)
    promote("t", "new", routes_path=world.routes, audit_path=world.audit, now=NOW, by="bob")
    world.items = [recommend("KEEP", current="new", challenger=None)]
    look = watch.look(NOW + 2 * HOUR)
    assert [news.text for news in look.news] == ["the route is new now, it was none; promote by bob"]
    assert world.told == [[("verdict", "t")], [("route", "t")]]


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (StoreError("locked"), "locked"),
        (sqlite3.OperationalError("database is locked"), "the store cannot be read: database is locked"),
        (OSError(13, "Permission denied", "/x/tierwise.db"), "/x/tierwise.db: Permission denied"),
    ],
)
def test_trouble_is_said_told_once_and_survived(world: World, problem: Exception, said: str) -> None:
    """A store that is locked costs its look; the same trouble is told once; the next good look goes on."""
    watch = world.watch()
    world.items, world.problem = [promotion()], problem
    for hours in range(3):
        look = watch.look(NOW + hours * HOUR)
        assert look.plan is None
        assert said in look.errors[0]
    assert (watch.failures, world.told) == (3, [[("trouble", "")]])
    world.problem = None
    assert watch.look(NOW + 3 * HOUR).errors == ()
    world.problem = problem
    watch.look(NOW + 4 * HOUR)
    assert world.told[1:] == [[("route", "t")], [("trouble", "")]]


def test_a_broken_route_file_is_survived(world: World) -> None:
    """The look fails with the file's error, and once it is repaired the change is made."""
    world.items = [promotion()]
    world.routes.write_text("{")
    watch = world.watch()
    assert "not a route table" in watch.look(NOW).errors[0]
    world.routes.unlink()
    assert watch.look(NOW + HOUR).version == 1


def test_a_fault_inside_is_survived_and_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug costs a look, with a plea to report it."""
    monkeypatch.delenv("TIERWISE_RAISE")
    world.problem = ZeroDivisionError("x")
    assert "a fault inside tierwise (ZeroDivisionError: x)" in world.watch().look(NOW).errors[0]


def test_news_that_cannot_be_delivered_wait_for_the_next_look(world: World) -> None:
    """What the webhook did not take goes with the next look, in another process too, and is not told twice."""
    world.deaf = NotifyError("down")
    world.items = [promotion()]
    look = world.watch().look(NOW)
    assert (look.errors, look.told, len(look.news)) == (("down",), False, 1)
    world.items = [recommend("KEEP", current="new", challenger=None), recommend("HOLD", task="u")]
    world.deaf = None
    look = world.watch().look(NOW + HOUR)
    assert (look.errors, len(look.news)) == ((), 1)
    assert world.told == [[("route", "t"), ("verdict", "u")]]
    assert read_memory(world.memory)[0].pending == ()


def test_waiting_news_are_bounded_and_the_lost_are_counted(world: World) -> None:
    """A webhook that is down for weeks fills no disk."""
    world.deaf = NotifyError("down")
    world.items = [recommend("PROMOTE", task=f"t{i}") for i in range(MAX_PENDING + 7)]
    watch = world.watch(apply=False)
    watch.look(NOW)
    memory = read_memory(world.memory)[0]
    assert (len(memory.pending), memory.lost) == (MAX_PENDING, 7)
    world.deaf = None
    watch.look(NOW + HOUR)
    assert (world.lost, len(world.told[0]), read_memory(world.memory)[0].lost) == (7, MAX_PENDING, 0)


def test_a_memory_that_cannot_be_written_is_said(world: World) -> None:
    """The look is made all the same."""
    world.items = [promotion()]
    world.memory.mkdir()
    look = world.watch().look(NOW)
    assert look.version == 1
    assert [("watch.json" in error) for error in look.errors] == [True, True]


def test_the_observer_sees_each_look_and_its_failure_is_said(world: World) -> None:
    """Metrics get the plan and the table in force; a failed export is an error of the look."""
    seen: list[tuple[int | None, RouteTable | None]] = []

    class Observer:
        def seen(self, look: Look, table: RouteTable | None) -> None:
            seen.append((look.version, table))

        def flush(self) -> bool:
            return False

    world.items = [promotion()]
    watch = world.watch(observer=Observer())
    assert "metrics could not be sent" in watch.look(NOW).errors[0]
    world.problem = StoreError("x")
    watch.look(NOW)
    assert seen == [(1, read_table(world.routes)), (None, None)]


@given(st.floats(0, 2e9), st.sampled_from([1.0, 60.0, 3600.0, 86_400.0]), st.floats(0, 100))
def test_the_next_look_is_after_now_and_after_a_full_interval(now: float, every_s: float, delay_s: float) -> None:
    """Looks are multiples of the interval plus the delay, at most one interval away."""
    due = next_look(now, every_s=every_s, delay_s=delay_s)
    assert now < due <= now + every_s + 1e-3
    assert abs((due - delay_s) / every_s - round((due - delay_s) / every_s)) < 1e-6


def test_the_hour_is_closed_when_the_look_comes() -> None:
    """Twenty seconds after the full hour: what finished in the hour has been written by then."""
    hour = NOW // HOUR * HOUR
    assert next_look(hour, every_s=HOUR) == hour + 20
    assert next_look(hour + 20, every_s=HOUR) == hour + HOUR + 20


def test_the_watch_looks_at_every_full_hour_until_it_is_stopped(world: World) -> None:
    """It looks at once, then after each hour, sleeping in short naps, and ends when told to."""
    clock, naps = [float(NOW + 100)], [0.0]

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            naps.append(timeout)
            clock[0] += timeout
            return self.is_set()

    stop = Clock()
    looks: list[int] = []
    hour = NOW // HOUR * HOUR

    def report(look: Look) -> None:
        looks.append(look.at)
        if len(looks) == 3:
            stop.set()

    run(world.watch(), report, every_s=HOUR, stop=stop, clock=lambda: clock[0])
    assert looks == [NOW + 100, hour + HOUR + 20, hour + 2 * HOUR + 20]
    assert max(naps) <= 30


def test_a_clock_that_is_set_back_costs_one_interval_at_most(world: World) -> None:
    """A week back does not mean a week of sleep."""
    clock = [float(NOW)]
    slept: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            slept.append(timeout)
            clock[0] += timeout
            if len(slept) == 2:
                clock[0] -= 7 * 86_400
            return self.is_set()

    stop = Clock()
    looks: list[int] = []

    def report(look: Look) -> None:
        looks.append(look.at)
        if len(looks) == 2:
            stop.set()

    run(world.watch(), report, every_s=HOUR, stop=stop, clock=lambda: clock[0])
    assert sum(slept) <= 2 * HOUR


def test_a_stop_before_the_first_look_makes_none(world: World) -> None:
    """Nothing is changed by a watch that was told to stop."""
    stop = threading.Event()
    stop.set()
    refuse: Callable[[Look], None] = lambda look: pytest.fail(str(look))  # noqa: E731
    run(world.watch(), refuse, every_s=HOUR, stop=stop, clock=lambda: float(NOW))
    assert list(world.folder.iterdir()) == []

"""What counts as news, what is not told twice, and the watch's memory on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.recommended import NOW, recommend
from tierwise.advisor import Change
from tierwise.advisor.news import REPEAT_S, Memory, News, TaskState, find_news, read_memory, write_memory
from tierwise.core.recommendation import Reason, Recommendation
from tierwise.core.route import Canary, Route, RouteTable

HOUR = 3600
OLD = Route(task="t", primary="old")


class Looks:
    """One look after the other with the memory in between."""

    def __init__(self) -> None:
        self.memory, self.at, self.table = Memory(), NOW, RouteTable(routes={"t": OLD})

    def see(self, *items: Recommendation, route: Route | None = None, **more: Any) -> list[tuple[str, str]]:
        """Kind and text of what is new; an hour later than the look before."""
        self.at += more.pop("after", HOUR)
        if route is not None:
            self.table = RouteTable(version=self.table.version + 1, routes={"t": route})
        changes = more.pop("changes", ())
        found, self.memory = find_news(
            self.memory, items, self.table, changes, at=self.at, by_others=more.pop("by_others", {})
        )
        assert not more
        return [(news.kind, news.text) for news in found]


@pytest.mark.parametrize("verdict", ["KEEP", "INSUFFICIENT"])
def test_the_first_look_tells_only_what_asks_for_attention(verdict: Any) -> None:
    """A fleet of tasks that are fine is no news."""
    looks = Looks()
    assert looks.see(recommend(verdict)) == []
    ((kind, text),) = looks.see(recommend("PROMOTE"))
    assert kind == "verdict"
    assert text == f"PROMOTE new in place of old (it was {verdict}): because PROMOTE It saves $1 per 1,000 runs."


def test_the_same_is_not_told_again() -> None:
    """A verdict that stays is told once, whatever its numbers do."""
    looks = Looks()
    assert len(looks.see(recommend("PROMOTE"))) == 1
    for _ in range(48):
        assert looks.see(recommend("PROMOTE", reason=Reason(code="why", text="other numbers"))) == []
    assert len(looks.see(recommend("PROMOTE", challenger="third"))) == 1


def test_a_verdict_that_comes_and_goes_is_told_once_a_day() -> None:
    """Flapping fills no inbox; a day later it is told again."""
    looks = Looks()
    told = [bool(looks.see(recommend("PROMOTE" if i % 2 else "HOLD"))) for i in range(2 * REPEAT_S // HOUR)]
    assert told[:3] == [True, True, False]
    assert sum(told) == 4


def test_a_pause_after_a_change_is_no_news() -> None:
    """HOLD that only waits for the end of the cool-down is taken for KEEP."""
    looks = Looks()
    assert looks.see(recommend("KEEP")) == []
    assert looks.see(recommend("HOLD", reason=Reason(code="cooldown", text="recently"))) == []
    assert [kind for kind, _ in looks.see(recommend("HOLD"))] == ["verdict"]


def test_a_canary_is_told_by_its_changes_alone() -> None:
    """Its start, its stages and its end are news of the route; the verdict TRIAL in between is not."""
    looks = Looks()
    looks.see(recommend("KEEP"))
    first = replace(OLD, canary=Canary(candidate="new", share=0.25))
    promoted = recommend("PROMOTE")
    start = Change(task="t", action="trial", before=OLD, after=first, recommendation=promoted)
    assert looks.see(promoted, route=first, changes=[start]) == [
        ("route", "trial, by itself: old → old with new 25 % as a canary: because PROMOTE")
    ]
    assert looks.see(recommend("TRIAL")) == []
    second = replace(OLD, canary=Canary(candidate="new", share=0.5, stage=1))
    stage = Change(task="t", action="stage", before=first, after=second, recommendation=promoted)
    assert [kind for kind, _ in looks.see(recommend("TRIAL"), route=second, changes=[stage])] == ["route"]
    back = recommend("ROLLBACK", reason=Reason(code="canary_worse", text="new is worse."))
    end = Change(task="t", action="rollback", before=second, after=OLD, recommendation=back)
    assert looks.see(back, route=OLD, changes=[end]) == [
        ("rollback", "rollback, by itself: old with new 50 % as a canary → old: new is worse.")
    ]


def test_a_new_split_of_the_traffic_is_no_news() -> None:
    """Exploring moves shares every hour."""
    looks = Looks()
    looks.see(recommend("KEEP"))
    split = replace(OLD, propensities={"old": 0.8, "new": 0.2})
    change = Change(task="t", action="traffic", before=OLD, after=split, recommendation=recommend("KEEP"))
    assert looks.see(recommend("KEEP"), route=split, changes=[change]) == []


def test_what_somebody_else_changed_is_told_with_who() -> None:
    """A route changed by hand between two looks is news with its author."""
    looks = Looks()
    looks.see(recommend("PROMOTE"))
    found = looks.see(recommend("KEEP"), route=replace(OLD, primary="new"), by_others={"t": "promote by ann@host"})
    assert found == [("route", "the route is new now, it was old; promote by ann@host")]
    assert looks.see(recommend("KEEP")) == []


def test_a_broken_guardrail_of_who_serves_is_news_once() -> None:
    """The primary's is told, that of a mere challenger is not; it is told with limit and measurement."""
    looks = Looks()
    looks.see(recommend("KEEP"))
    assert looks.see(recommend("KEEP", refuted=["new"])) == []
    ((kind, text),) = looks.see(recommend("KEEP", refuted=["old"]))
    assert (kind, text) == ("guardrail", "old breaks success rate ≥ 95 %: measured 50 %.")
    assert looks.see(recommend("KEEP", refuted=["old"])) == []


def test_drift_is_news_once() -> None:
    """A model that is not what it was is told with the decision's own words."""
    looks = Looks()
    looks.see(recommend("KEEP"))
    drift = Reason(code="drift", text="old is not what it was.", candidate="old")
    assert looks.see(recommend("KEEP", reason=drift)) == [("drift", "old is not what it was.")]
    assert looks.see(recommend("KEEP", reason=drift)) == []


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
TIMES = st.integers(0, 1 << 39)
NEWS = st.builds(
    News, kind=st.sampled_from(["verdict", "route", "drift", "trouble"]), at=TIMES, text=TEXT, task=TEXT, verdict=TEXT,
    candidate=TEXT, detail=TEXT,
)  # fmt: skip
STATES = st.builds(
    TaskState, verdict=TEXT, challenger=TEXT, primary=TEXT, canary=TEXT,
    refuted=st.lists(TEXT.map(lambda text: f"{text} x"), max_size=2).map(tuple),
    drifting=st.lists(TEXT, max_size=2).map(tuple),
)  # fmt: skip


@given(
    st.builds(
        Memory, tasks=st.dictionaries(TEXT, STATES, max_size=3), pending=st.lists(NEWS, max_size=3).map(tuple),
        said=st.dictionaries(st.lists(st.text("ab ", max_size=3), min_size=5, max_size=5).map("\t".join), TIMES, max_size=3),
        lost=TIMES, trouble=TEXT, version=TIMES,
    )
)  # fmt: skip
def test_the_memory_survives_the_round_trip(tmp_path_factory: pytest.TempPathFactory, memory: Memory) -> None:
    """What is written is read again."""
    path = tmp_path_factory.getbasetemp() / "watch.json"
    write_memory(path, memory)
    assert read_memory(path) == (memory, "")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"format": "tierwise-watch/9"}', '{"format": "tierwise-watch/1", "version": "x"}',
     json.dumps(Memory().to_json() | {"tasks": {"t": 3}}), json.dumps(Memory().to_json() | {"pending": [{"kind": "evil"}]}),
     json.dumps(Memory().to_json() | {"said": []})],
)  # fmt: skip
def test_a_broken_memory_is_forgotten_and_said(tmp_path: Path, text: str) -> None:
    """Other content costs repeated news, never the watch."""
    path = tmp_path / "watch.json"
    path.write_text(text)
    memory, problem = read_memory(path)
    assert memory == Memory()
    assert "starting anew" in problem


def test_no_memory_yet_is_no_problem(tmp_path: Path) -> None:
    """The first look has none; a folder in its place is said."""
    assert read_memory(tmp_path / "watch.json") == (Memory(), "")
    assert "cannot be read" in read_memory(tmp_path)[1]

"""Changes that tierwise makes by itself: who lets it, conflicts, compact traffic, and a log that rebuilds everything."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.recommended import NOW, Files, recommend
from tierwise.advisor import (
    Plan,
    apply_automatically,
    automatic_changes,
    read_history,
    real_entries,
    routes_from_audit,
)
from tierwise.advisor.audit import last_verdicts
from tierwise.core.errors import RouteError
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import read_table, update_table, write_table


@pytest.fixture
def files(tmp_path: Any) -> Files:
    """Fresh files."""
    return Files(tmp_path)


def policy(apply: str = "auto", task: str = "t") -> Policy:
    """A policy of one task."""
    return Policy(tasks={task: TaskPolicy(task=task, candidates=("old", "new"), apply=apply)})  # type: ignore[arg-type]


ROUTE = Route(task="t", primary="old", fallbacks=("third",), propensities={"old": 1.0})
MOVED = Route(task="t", primary="new", fallbacks=("old",), since=NOW, propensities={"new": 1.0})
SPLIT = replace(ROUTE, propensities={"old": 0.7, "new": 0.3}, dropped={"third": "e"})


@pytest.mark.parametrize("given_policy", [None, policy("recommend"), policy("auto", "another"), Policy()])
def test_nothing_is_changed_where_the_policy_does_not_say_auto(given_policy: Policy | None) -> None:
    """Without `apply: auto` for the task every action stays a recommendation, the split of the traffic included."""
    table = RouteTable(routes={"t": ROUTE})
    for action, after in (("promote", MOVED), ("traffic", SPLIT)):
        (change,) = automatic_changes([recommend("PROMOTE", action=action, after=after)], table, given_policy)  # type: ignore[arg-type]
        assert (change.action, change.after) == ("none", ROUTE)


def test_exploring_needs_no_auto() -> None:
    """The shares that `explore` asks for are written for a person's task as well; its label is not."""
    exploring = policy("recommend")
    exploring = replace(exploring, tasks={name: replace(own, explore=0.2) for name, own in exploring.tasks.items()})
    table = RouteTable(version=1, routes={ROUTE.task: ROUTE})
    for action, expected in (("traffic", "traffic"), ("promote", "none"), ("trial", "none")):
        (change,) = automatic_changes([recommend("PROMOTE", action=action, after=SPLIT)], table, exploring)  # type: ignore[arg-type]
        assert change.action == expected


def test_what_the_decision_asks_for_is_written_and_logged(files: Files) -> None:
    """`apply: auto` writes `after` as it is, with an automatic entry that has the evidence's hash."""
    write_table(files.routes, RouteTable(routes={"t": ROUTE}), expected_version=0)
    table = files.automatic(recommend("PROMOTE", action="promote", after=MOVED))
    assert table.routes == {"t": MOVED}
    (entry,) = read_history(files.audit).entries
    assert (entry.action, entry.automatic, entry.evidence_hash, entry.by) == ("promote", True, "h" * 16, "watch")
    assert (entry.before, entry.after) == (ROUTE, MOVED)


def test_a_route_that_no_file_can_hold_does_not_keep_the_others_back(files: Files) -> None:
    """The invalid one is left out with the reason, the others are written."""
    bad = recommend("PROMOTE", task="bad", action="promote", after=Route(task="bad", primary="x" * 300))
    good = recommend("PROMOTE", action="promote", after=MOVED)
    assert files.automatic(bad, good).routes == {"t": MOVED}
    changes = automatic_changes([bad], RouteTable(), policy(task="bad"))
    assert "the new route: route.primary must be text" in changes[0].note


def test_a_conflict_is_decided_again_and_nothing_is_lost(files: Files) -> None:
    """Somebody changes the table between decision and write: the decision is made again from theirs, both are in."""
    other = Route(task="other", primary="m")
    seen: list[int] = []

    def look() -> tuple[Plan, Policy]:
        version = read_table(files.routes).version
        seen.append(version)
        if len(seen) < 3:
            routes = {f"other{version}": replace(other, task=f"other{version}")}
            update_table(files.routes, lambda old: replace(old, routes={**old.routes, **routes}))
        item = recommend("PROMOTE", action="promote", after=MOVED)
        return Plan(at=NOW, table_version=version, recommendations=(item,)), policy()

    _, applied = apply_automatically(look, routes_path=files.routes, audit_path=files.audit, by="watch")
    assert seen == [0, 1, 2]
    assert set(read_table(files.routes).routes) == {"other0", "other1", "t"}
    assert applied.table == read_table(files.routes)
    assert [entry.version for entry in read_history(files.audit).entries] == [3]


def test_a_table_that_changes_at_every_attempt_is_an_error(files: Files) -> None:
    """After five attempts it says so, and has changed nothing."""

    def look() -> tuple[Plan, Policy]:
        version = read_table(files.routes).version
        name = f"o{version}"
        update_table(files.routes, lambda old: replace(old, routes={**old.routes, name: Route(task=name, primary="m")}))
        item = recommend("PROMOTE", action="promote", after=MOVED)
        return Plan(at=NOW, table_version=version, recommendations=(item,)), policy()

    with pytest.raises(RouteError, match="changed by others at each of 5 attempts"):
        apply_automatically(look, routes_path=files.routes, audit_path=files.audit, by="watch")
    assert "t" not in read_table(files.routes).routes
    assert not files.audit.exists()


def test_traffic_is_logged_in_one_compact_line_for_all_tasks(files: Files) -> None:
    """Hourly splits of many tasks are one line with what changed alone; a new verdict is told in full beside it."""
    names = [f"t{i}" for i in range(20)]
    files.automatic(*(recommend("KEEP", task=n, action="pin", after=replace(ROUTE, task=n)) for n in names))
    before = len(files.audit.read_bytes())
    files.automatic(*(recommend("KEEP", task=n, action="traffic", after=replace(SPLIT, task=n)) for n in names))
    last = files.audit.read_text().splitlines()[-1]
    document = json.loads(last)
    assert len(files.audit.read_bytes()) - before == len(last) + 1 < 3000
    assert document["tasks"]["t7"] == {
        "hash": "h" * 16,
        "set": {"propensities": {"new": 0.3, "old": 0.7}, "dropped": {"third": "e"}},
    }
    again = {name: replace(SPLIT, task=name, propensities={"old": 1.0}) for name in names}
    files.automatic(
        recommend("HOLD", task="t0", action="traffic", after=again["t0"]),
        *(recommend("KEEP", task=n, action="traffic", after=again[n]) for n in names[1:]),
    )
    full, compact = read_history(files.audit).entries[-2:]
    assert (full.task, full.verdict, full.after) == ("t0", "HOLD", again["t0"])
    assert (compact.task, set(compact.traffic)) == ("", set(names[1:]))
    assert last_verdicts(files.audit) == {name: "HOLD" if name == "t0" else "KEEP" for name in names}
    assert routes_from_audit(read_history(files.audit).entries)[3] == files.table()
    assert [len(entry.traffic) for entry in read_history(files.audit, traffic=False).entries[-1:]] == [0]
    assert [bool(entry.traffic) for entry in read_history(files.audit, task="t7").entries] == [False, True, True]


@pytest.mark.parametrize(
    "line",
    [
        '{"action":"traffic","at":1,"by":"x","version":1,"change":"c","tasks":3}',
        '{"action":"traffic","at":1,"by":"x","version":1,"change":"c","tasks":{"t":3}}',
        '{"action":"traffic","at":1,"by":"x","version":1,"change":"c","tasks":{"t":{"set":3}}}',
        '{"action":"traffic","at":1,"by":"x","version":1,"change":"c","tasks":{"t":{"hash":3}}}',
        '{"action":"traffic","at":-1,"by":"x","version":1,"change":"c","tasks":{}}',
    ],
)
def test_hostile_compact_lines_are_problems(files: Files, line: str) -> None:
    """A compact line of another shape is a problem with its number."""
    files.audit.write_text(line + "\n")
    history = read_history(files.audit)
    assert history.entries == ()
    assert "unreadable" in history.problems[0]


def test_rollback_skips_splits_and_takes_a_canary_as_one_change(files: Files) -> None:
    """After trial, split, stage and promotion one rollback is back at the route before the trial."""
    files.automatic(recommend("KEEP", action="pin", after=ROUTE))
    first = replace(ROUTE, canary=Canary(candidate="new", share=0.25), propensities={"old": 0.75, "new": 0.25})
    files.automatic(recommend("TRIAL", action="trial", after=first))
    files.automatic(recommend("TRIAL", action="traffic", after=replace(first, propensities={"old": 0.8, "new": 0.2})))
    second = replace(first, canary=Canary(candidate="new", share=0.5, stage=1))
    files.automatic(recommend("TRIAL", action="stage", after=second))
    files.automatic(recommend("PROMOTE", action="promote", after=replace(MOVED, drifted={"third": NOW})))
    route = files.back(now=NOW + 9, cooldown_s=100).routes["t"]
    assert (route.primary, route.canary, route.propensities) == ("old", None, {"old": 1.0})
    assert (route.backoff, route.cooldown_until, route.drifted) == ({"new": NOW + 109}, NOW + 109, {"third": NOW})
    assert files.back().routes == {}


def test_a_canary_that_was_rolled_back_by_itself_is_not_gone_back_to(files: Files) -> None:
    """The end of a canary undoes its start: rollback then undoes the change before it."""
    files.automatic(recommend("KEEP", action="pin", after=ROUTE))
    files.automatic(recommend("PROMOTE", action="promote", after=MOVED))
    trial = replace(MOVED, canary=Canary(candidate="old", share=0.25))
    files.automatic(recommend("TRIAL", action="trial", after=trial))
    files.automatic(recommend("ROLLBACK", action="rollback", after=replace(MOVED, failed={"old": "e"})))
    route = files.back().routes["t"]
    assert (route.primary, route.canary, route.failed) == ("old", None, {"old": "e"})


def test_an_interrupted_change_of_another_task_does_not_count_for_rollback(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion whose table was never written is no route to go back to, even when the next change is another task's."""
    files.apply(recommend("KEEP"))

    def crash(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(RouteError):
            files.apply(recommend("PROMOTE"))
    files.apply(recommend("KEEP", task="other"))
    assert files.back().routes.keys() == {"other"}


NAMES = st.sampled_from(["old", "new", "other"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "KEEP",
                "PROMOTE",
                "TRIAL",
                "HOLD",
                "back",
                "abort",
                "by hand",
                "split",
                "stage",
                "auto",
                "undone",
                "crash",
            ]
        ),
        st.sampled_from("ab"),
        NAMES,
        st.dictionaries(NAMES, st.floats(0, 1), max_size=3),
    ),
    max_size=14,
)


def step(files: Files, what: str, task: str, model: str, shares: dict[str, float], now: int) -> None:
    """One change, automatic or by hand."""
    route = files.table().routes.get(task) or Route(task=task, primary="old")
    split = replace(route, propensities=shares, failed={model: "e"}, primary_drifted_at=now)
    if what in ("split", "stage", "auto", "undone"):
        canary = Canary(candidate=model, share=0.5, stage=1, started_at=now)
        action, after = {
            "split": ("traffic", split),
            "stage": ("stage", replace(split, canary=canary)),
            "auto": ("promote", replace(split, primary=model, canary=None)),
            "undone": ("rollback", replace(split, canary=None)),
        }[what]
        files.automatic(recommend("KEEP", task=task, action=action, after=after), now=now)  # type: ignore[arg-type]
    elif what == "back":
        files.back(task, now=now)
    elif what == "abort":
        files.abort(task, now=now, epoch="e")
    elif what == "by hand":
        files.promote(task, model, now=now)
    else:
        item = recommend(what, task=task, current=route.primary, challenger=model)  # type: ignore[arg-type]
        files.apply(item, now=now, trial=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_the_log_rebuilds_every_table_of_automatic_and_human_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, dict[str, float]]]
) -> None:
    """Whatever people and tierwise did to the routes, crashes in between included, the log alone gives every table back."""
    files = Files(tmp_path_factory.mktemp("log"))
    seen = {0: RouteTable()}
    for i, (what, task, model, shares) in enumerate(steps):
        with pytest.MonkeyPatch.context() as patched:
            if what == "crash":
                patched.setattr(os, "replace", _crash)
            try:
                step(files, "split" if what == "crash" else what, task, model, shares, NOW + i)
            except RouteError as error:
                known = ("nothing to go back to", "no canary runs", "is the primary already", "cannot be written")
                assert any(text in str(error) for text in known)  # noqa: PT017
        seen[files.table().version] = files.table()
    entries = read_history(files.audit).entries
    version = files.table().version
    assert routes_from_audit(real_entries(entries, current_version=version)) == seen


def _crash(*_: object) -> None:
    raise OSError(5, "Input/output error")

"""Promoting, aborting and going back by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.recommended import NOW, Files, recommend
from tierwise.advisor import read_history
from tierwise.core.errors import RouteError
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import write_table

ROUTE = Route(
    task="t",
    primary="old",
    fallbacks=("third",),
    ladder=("old", "third"),
    canary=Canary(candidate="new", share=0.25, started_at=NOW - 9),
    backoff={"new": NOW + 5, "third": NOW + 5},
    propensities={"old": 0.75, "new": 0.25},
    dropped={"third": "e"},
    failed={"new": "e", "third": "e"},
    drifted={"old": NOW - 99},
    primary_drifted_at=NOW - 99,
)


@pytest.fixture
def files(tmp_path: Any) -> Files:
    """A route file with a canary."""
    made = Files(tmp_path)
    write_table(made.routes, RouteTable(routes={"t": ROUTE}), expected_version=0)
    return made


def test_promote_without_a_name_finishes_the_canary(files: Files) -> None:
    """The canary's candidate gets all the traffic, the old primary stands behind it, what barred it is forgotten."""
    route = files.promote(cooldown_s=100).routes["t"]
    assert (route.primary, route.fallbacks, route.canary) == ("new", ("old", "third"), None)
    assert (route.propensities, route.since, route.cooldown_until) == ({"new": 1.0}, NOW, NOW + 100)
    assert (route.backoff, route.failed) == ({"third": NOW + 5}, {"third": "e"})
    assert (route.dropped, route.primary_drifted_at, route.drifted) == ({}, 0, {"old": NOW - 99})
    assert route.ladder == ("new", "old")
    (entry,) = read_history(files.audit).entries
    assert (entry.action, entry.by, entry.automatic, entry.note) == ("promote", "me", False, "by hand")


def test_promote_of_a_named_candidate_takes_fallbacks_from_the_evidence(files: Files) -> None:
    """A primary that the evidence refutes is no fallback."""
    item = recommend("KEEP", refuted=["old"])
    route = files.promote(model="third", recommendation=item).routes["t"]
    assert (route.primary, route.fallbacks) == ("third", ("new",))
    assert route.epochs == {"old": "e-old", "new": "e-new", "third": "e-third"}


def test_promote_makes_a_first_route(files: Files) -> None:
    """A task without a route gets one, with or without evidence."""
    assert files.promote("fresh", "m").routes["fresh"].primary == "m"
    item = recommend("INSUFFICIENT", task="known")
    route = files.promote("known", "third", recommendation=item).routes["known"]
    assert (route.primary, route.fallbacks, route.ladder) == ("third", ("old", "new"), ("third", "old"))


def test_promote_needs_something_to_promote(files: Files) -> None:
    """No canary and no name, or the primary itself, is an error that says what to do."""
    with pytest.raises(RouteError, match="name the candidate: `tierwise promote x MODEL`"):
        files.promote("x")
    files.promote(model="third")
    with pytest.raises(RouteError, match="third is the primary already"):
        files.promote(model="third")


def test_abort_ends_the_canary_and_the_challenger_backs_off(files: Files) -> None:
    """All traffic returns to the primary; with its epoch the challenger is barred until it is another one."""
    route = files.abort(backoff_s=60, epoch="e9").routes["t"]
    assert (route.primary, route.canary, route.propensities) == ("old", None, {"old": 1.0})
    assert (route.backoff["new"], route.cooldown_until, route.failed["new"]) == (NOW + 60, NOW + 60, "e9")
    with pytest.raises(RouteError, match="no canary runs"):
        files.abort()
    assert [entry.action for entry in read_history(files.audit).entries] == ["abort"]


def test_abort_for_a_while_does_not_bar(files: Files) -> None:
    """Without an epoch time alone counts."""
    assert files.abort(backoff_s=60).routes["t"].failed == ROUTE.failed


def test_dry_runs_change_nothing(files: Files) -> None:
    """A look shows the change and writes neither table nor log."""
    before = files.routes.read_bytes()
    files.promote(dry_run=True)
    files.abort(dry_run=True)
    assert files.routes.read_bytes() == before
    assert not files.audit.exists()


def test_a_change_made_meanwhile_is_not_overwritten(files: Files) -> None:
    """The change is made from the table that was shown, or not at all."""
    files.promote(model="third", expected_version=1)
    with pytest.raises(RouteError, match="plan again"):
        files.abort(expected_version=1)


def test_rollback_after_a_promotion_by_hand_leaves_the_canary_out(files: Files) -> None:
    """What was restored carries no canary of then, and what was left backs off."""
    files.promote(cooldown_s=0)
    route = files.back(now=NOW + 1, cooldown_s=10).routes["t"]
    assert (route.primary, route.canary, route.backoff["new"]) == ("old", None, NOW + 11)
    assert replace(route, primary_drifted_at=0, dropped={}) == route

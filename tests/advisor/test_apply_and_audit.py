"""Applying recommendations, going back, and the audit log that tells it all."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.recommended import NOW, Files, recommend
from tierwise.advisor import apply, audit, changes_of, read_history, real_entries, rollback, routes_from_audit
from tierwise.core.errors import RouteError
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.recommendation import Verdict
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import write_table


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Fresh files."""
    return Files(tmp_path)


def test_promote_moves_the_primary_and_keeps_the_old_one_behind_it(files: Files) -> None:
    """The old primary becomes the first fallback, and the task cools down as its policy says."""
    policy = Policy(tasks={"t": TaskPolicy(task="t", candidates=("old", "new"), cooldown_s=600.0)})
    route = files.apply(recommend("PROMOTE"), policy=policy).routes["t"]
    assert (route.primary, route.fallbacks, route.ladder) == ("new", ("old", "third"), ("new", "third"))
    assert (route.since, route.cooldown_until) == (NOW, NOW + 600)
    assert route.epochs == {"old": "e-old", "new": "e-new", "third": "e-third"}
    assert files.table().routes["t"] == route


def test_a_refuted_primary_is_not_the_first_fallback(files: Files) -> None:
    """A primary that broke a guardrail does not come back through the fallbacks."""
    route = files.apply(recommend("PROMOTE", refuted=["old"])).routes["t"]
    assert route.fallbacks == ("third",)


def test_keep_pins_the_first_route_only(files: Files) -> None:
    """KEEP writes a route where there is none, and leaves one that is there."""
    first = files.apply(recommend("KEEP"))
    assert (first.version, first.routes["t"].primary) == (1, "old")
    assert files.apply(recommend("KEEP")).version == 1
    assert [entry.action for entry in read_history(files.audit).entries] == ["pin"]


@pytest.mark.parametrize("verdict", ["HOLD", "INSUFFICIENT", "TRIAL"])
def test_other_verdicts_change_nothing_and_are_recorded(files: Files, verdict: Verdict) -> None:
    """HOLD, INSUFFICIENT and a trial nobody asked for leave the table and are in the log with their reason."""
    assert files.apply(recommend(verdict)) == RouteTable()
    assert not files.routes.exists()
    (entry,) = read_history(files.audit).entries
    assert (entry.action, entry.verdict, entry.changed) == ("none", verdict, False)
    assert entry.reasons == ({"code": "why", "text": f"because {verdict}"},)


def test_a_verdict_that_changes_nothing_is_logged_once(files: Files) -> None:
    """Looking every hour fills no log: what changes nothing is an entry only when its task's verdict is another one."""
    for verdict in ("INSUFFICIENT", "INSUFFICIENT", "HOLD", "HOLD", "INSUFFICIENT"):
        files.apply(recommend(verdict), recommend("KEEP", task="other"))  # type: ignore[arg-type]
    entries = [(entry.task, entry.action, entry.verdict) for entry in read_history(files.audit).entries]
    assert entries == [
        ("t", "none", "INSUFFICIENT"),
        ("other", "pin", "KEEP"),
        ("t", "none", "HOLD"),
        ("t", "none", "INSUFFICIENT"),
    ]


def test_an_unreadable_log_stops_a_run_that_would_change_nothing(files: Files) -> None:
    """Whether a verdict is new cannot be told without the log: an error, and no table."""
    files.audit.mkdir()
    with pytest.raises(RouteError, match="cannot be read"):
        files.apply(recommend("HOLD"))
    assert files.table() == RouteTable()


def test_trial_starts_a_canary_when_asked(files: Files) -> None:
    """A trial takes 25 % and leaves the primary; asking again does not start it anew."""
    route = files.apply(recommend("TRIAL"), trial=True).routes["t"]
    assert (route.primary, route.canary) == ("old", Canary(candidate="new", share=0.25, stage=0, started_at=NOW))
    assert files.apply(recommend("TRIAL"), trial=True, now=NOW + 9).version == 1


def test_a_trial_asked_for_starts_beside_what_else_is_remembered(files: Files) -> None:
    """A recommendation that would also write fallbacks starts the trial at once, with these; a stage of a canary goes first."""
    before = Route(task="t", primary="old")
    write_table(files.routes, RouteTable(version=1, routes={"t": before}), expected_version=0)
    fuller = replace(before, fallbacks=("third",), propensities={"old": 1.0})
    route = files.apply(recommend("TRIAL", action="traffic", after=fuller), trial=True).routes["t"]
    assert (route.fallbacks, route.canary) == (("third",), Canary(candidate="new", share=0.25, stage=0, started_at=NOW))
    assert route.propensities == {"old": 0.75, "new": 0.25}
    other = replace(fuller, canary=Canary(candidate="third", share=0.5, stage=1, started_at=NOW))
    staged = files.apply(recommend("TRIAL", action="stage", after=other), trial=True).routes["t"]
    assert staged.canary == other.canary


def test_a_table_changed_meanwhile_is_not_overwritten(files: Files) -> None:
    """A plan made from an older table is refused, and nothing is logged."""
    write_table(files.routes, RouteTable(routes={"x": Route(task="x", primary="m")}), expected_version=0)
    with pytest.raises(RouteError, match="plan again"):
        apply(
            [recommend("PROMOTE")],
            routes_path=files.routes,
            audit_path=files.audit,
            now=NOW,
            by="me",
            expected_version=0,
        )
    assert read_history(files.audit).entries == ()


def test_without_an_audit_log_nothing_changes(files: Files) -> None:
    """A log that cannot be written stops the change."""
    files.audit.mkdir()
    with pytest.raises(RouteError, match="nothing was changed"):
        files.apply(recommend("PROMOTE"))
    assert files.table() == RouteTable()


def test_dry_run_and_apply_agree(files: Files) -> None:
    """`changes_of` says exactly what `apply` does."""
    items = [recommend("PROMOTE"), recommend("KEEP", task="k"), recommend("HOLD", task="h")]
    said = changes_of(items, RouteTable(), now=NOW)
    table = files.apply(*items)
    assert {change.task: change.after for change in said if change.after} == table.routes


def test_rollback_returns_to_the_previous_route_step_by_step(files: Files) -> None:
    """Each rollback goes one change back, until there was no route; then it says so."""
    first = files.apply(recommend("KEEP")).routes["t"]
    files.apply(recommend("PROMOTE"))
    back = files.back(now=NOW + 60, cooldown_s=100).routes["t"]
    assert replace(back, since=first.since, cooldown_until=0, backoff={}) == first
    assert (back.since, back.cooldown_until, back.backoff) == (NOW + 60, NOW + 160, {"new": NOW + 160})
    assert files.back().routes == {}
    with pytest.raises(RouteError, match="nothing to go back to"):
        files.back()
    with pytest.raises(RouteError, match="nothing to go back to"):
        files.back("unknown")


def test_rollback_of_a_trial_ends_the_canary(files: Files) -> None:
    """The canary is gone and its candidate backs off."""
    files.apply(recommend("KEEP"))
    files.apply(recommend("TRIAL"), trial=True)
    route = files.back(now=NOW + 1, cooldown_s=10).routes["t"]
    assert (route.canary, route.backoff) == (None, {"new": NOW + 11})


def test_rollback_dry_run_changes_nothing(files: Files) -> None:
    """A dry run shows the route and writes neither table nor log."""
    files.apply(recommend("PROMOTE"))
    before = (files.routes.read_bytes(), files.audit.read_bytes())
    done = rollback("t", routes_path=files.routes, audit_path=files.audit, now=NOW, by="me", dry_run=True)
    assert (done.changes[0].action, done.changes[0].after) == ("rollback", None)
    assert (files.routes.read_bytes(), files.audit.read_bytes()) == before


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["KEEP", "PROMOTE", "TRIAL", "HOLD", "back"]),
        st.sampled_from("ab"),
        st.sampled_from(["m", "n", "o"]),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_every_table_that_ever_was_is_rebuilt_from_the_log(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, str, str]]
) -> None:
    """The log alone gives back each version of the table, byte for byte its routes."""
    files = Files(tmp_path_factory.mktemp("log"))
    seen = {0: RouteTable()}
    for i, (what, task, model) in enumerate(steps):
        current = files.table().routes.get(task)
        try:
            if what == "back":
                files.back(task, now=NOW + i)
            else:
                item = recommend(what, task=task, current=current.primary if current else "m", challenger=model)
                files.apply(item, now=NOW + i, trial=True)
        except RouteError as error:
            assert "nothing to go back to" in str(error)  # noqa: PT017
        seen[files.table().version] = files.table()
    assert routes_from_audit(read_history(files.audit).entries) == seen


def test_a_torn_last_line_is_reported_and_spoils_nothing(files: Files) -> None:
    """After a crash in mid-line the log reads on, says which line is unfinished, and takes new entries."""
    files.apply(recommend("KEEP"))
    with files.audit.open("ab") as file:
        file.write(b'{"at": 1, "by": "x", "acti')
    history = read_history(files.audit)
    assert len(history.entries) == 1
    assert history.problems == (f"{files.audit}:2: the last line is unfinished (a crash while writing); ignored",)
    files.apply(recommend("PROMOTE"))
    history = read_history(files.audit)
    assert [entry.action for entry in history.entries] == ["pin", "promote"]
    assert len(history.problems) == 1
    assert routes_from_audit(history.entries)[2] == files.table()


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"task": 3}', "\x00", '{"at": 1, "version": 1, "action": "evil"}', "[" * 10_000]
)
def test_hostile_lines_are_problems(files: Files, line: str) -> None:
    """A line that is no entry is a problem with its number, not an exception."""
    files.audit.write_text(line + "\n")
    history = read_history(files.audit)
    assert history.entries == ()
    assert history.problems[0].startswith(f"{files.audit}:1: unreadable")


def test_a_crash_between_log_and_table_leaves_no_ghost(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry whose table was never written is told from real ones, before and after the next change."""
    files.apply(recommend("KEEP"))

    def crash(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(RouteError):
            files.apply(recommend("PROMOTE"))
    entries = read_history(files.audit).entries
    assert [entry.action for entry in entries] == ["pin", "promote"]
    assert [entry.action for entry in real_entries(entries, current_version=1)] == ["pin"]
    files.apply(recommend("PROMOTE", challenger="other"))
    assert routes_from_audit(read_history(files.audit).entries)[2] == files.table()
    assert files.back().routes["t"].primary == "old"


def test_a_removed_route_file_starts_anew(files: Files) -> None:
    """After the route file was deleted the tables are those written since."""
    files.apply(recommend("KEEP"))
    files.apply(recommend("PROMOTE"))
    files.routes.unlink()
    files.apply(recommend("KEEP", task="k"))
    assert routes_from_audit(read_history(files.audit).entries) == {0: RouteTable(), 1: files.table()}


def test_entries_say_who_when_what_and_why(files: Files) -> None:
    """An entry carries everything an auditor asks for, in one line of JSON, readable by the owner alone."""
    files.apply(recommend("PROMOTE"), automatic=True)
    value = json.loads(files.audit.read_text())
    assert (value["by"], value["at"], value["automatic"], value["action"]) == ("me", NOW, True, "promote")
    assert (value["verdict"], value["grade"], value["evidence_hash"], value["version"]) == (
        "PROMOTE",
        "randomised",
        "h" * 16,
        1,
    )
    assert (value["before"], value["after"]["primary"]) == (None, "new")
    assert stat.S_IMODE(files.audit.stat().st_mode) == 0o600


def test_history_of_one_task(files: Files) -> None:
    """The history can be read for one task; without a log it is empty."""
    assert read_history(files.audit) == audit.History()
    files.apply(recommend("KEEP", task="a"), recommend("KEEP", task="b"))
    assert [entry.task for entry in read_history(files.audit, task="b").entries] == ["b"]

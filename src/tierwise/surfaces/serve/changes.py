"""What a person may change from the live pages: apply what is recommended for a task, or go back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tierwise.core.errors import TierwiseError
from tierwise.core.recommendation import Recommendation
from tierwise.core.route import Route
from tierwise.surfaces.report.text import ABSENT, clean
from tierwise.surfaces.serve.source import Source

NOTE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the page of a task offers: the words on the button, and what the form says back."""

    words: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A change that was made: `what` for the page that is shown next, `words` for the log."""

    what: Literal["applied", "trial", "back"]
    words: str


class Refused(TierwiseError):  # noqa: N818 - read as a sentence where it is raised
    """A change that is not made: what was shown no longer holds."""


def offer_of(item: Recommendation, route: Route | None) -> Offer | None:
    """What can be approved: a PROMOTE, or the start of a TRIAL that does not run yet on the present route."""
    running = route.canary.candidate if route is not None and route.canary is not None else None
    if item.verdict == "PROMOTE" and item.primary is not None and item.primary != item.current:
        return Offer(words=f"Change to {clean(item.primary)}", what=_what(item))
    if item.verdict == "TRIAL" and item.challenger not in (None, running):
        return Offer(words=f"Start a trial of {clean(item.challenger or ABSENT)} with 25\u00a0%", what=_what(item))
    return None


def approve(source: Source, task: str, fields: Mapping[str, str]) -> Done:
    """Apply the recommendation of a task that the page showed.

    Raises:
        Refused: the recommendation or the route table is another one by now.
        TierwiseError: as `advisor.apply`.
    """
    from tierwise.advisor import apply
    from tierwise.routing import read_table
    from tierwise.surfaces.cli.common import who
    from tierwise.surfaces.cli.plan import make_plan

    made, policy = make_plan(source.settings, since=source.since, tasks=[task], quiet=True)
    item = made.recommendations[0]
    offer = offer_of(item, read_table(source.settings.routes_path).routes.get(task))
    if offer is None or offer.what != fields.get("what"):
        raise Refused(f"{clean(task)}: the recommendation is another one by now; look at the page again")
    _same_table(made.table_version, fields)
    applied = apply(
        made.recommendations,
        routes_path=source.settings.routes_path,
        audit_path=source.settings.audit_path,
        now=int(time.time()),
        by=f"{who()} (serve)",
        expected_version=made.table_version,
        policy=policy,
        trial=item.verdict == "TRIAL",
        pin=False,
    )
    source.forget()
    if not applied.changed:
        raise Refused(f"{clean(task)}: nothing was changed: {applied.changes[0].note}")
    words = f"{clean(task)}: {offer.words}. The route table is at version {applied.table.version}."
    return Done(what="trial" if item.verdict == "TRIAL" else "applied", words=words)


def go_back(source: Source, task: str, fields: Mapping[str, str]) -> Done:
    """Return a task to the route before its last change.

    Raises:
        Refused: the route table is another one by now.
        TierwiseError: as `advisor.rollback`.
    """
    from tierwise.advisor import rollback
    from tierwise.routing import read_table
    from tierwise.surfaces.cli.byhand import cooldown_of
    from tierwise.surfaces.cli.common import read_policy, who

    version = read_table(source.settings.routes_path).version
    _same_table(version, fields)
    applied = rollback(
        task,
        routes_path=source.settings.routes_path,
        audit_path=source.settings.audit_path,
        now=int(time.time()),
        by=f"{who()} (serve)",
        cooldown_s=cooldown_of(read_policy(source.settings, quiet=True), task),
        note=clean(fields.get("note", ""), longest=NOTE_CHARS),
        expected_version=version,
    )
    source.forget()
    after = applied.changes[0].after
    where = f"to {clean(after.primary)}" if after is not None else "to having no route"
    words = f"{clean(task)}: rolled back {where}. The route table is at version {applied.table.version}."
    return Done(what="back", words=words)


def _what(item: Recommendation) -> str:
    return f"{item.verdict}:{item.primary if item.verdict == 'PROMOTE' else item.challenger}"


def _same_table(version: int, fields: Mapping[str, str]) -> None:
    if fields.get("version") != str(version):
        raise Refused("the route table was changed since this page was made; look at the page again")

"""`tierwise promote`: a person makes a candidate the primary of a task, told what the evidence says against it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from tierwise.core import wording
from tierwise.core.errors import ConfigError
from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.byhand import change_by_hand, change_options, cooldown_of, evidence_of
from tierwise.surfaces.cli.common import config_option, json_option, read_settings, say, since_option, store_option, who
from tierwise.surfaces.cli.manual import OR_ROUTES, manual
from tierwise.surfaces.cli.plan import report_of

if TYPE_CHECKING:
    from tierwise.advisor import Applied
    from tierwise.core.policy import Policy
    from tierwise.core.recommendation import Recommendation
    from tierwise.core.route import Route

_AGAINST = frozenset(
    {
        "guardrail_refuted", "guardrail_failing", "guardrail_unknown", "proof_missing", "success_worse",
        "success_below_margin", "no_worthwhile_gain", "few_runs", "no_runs", "no_shared_buckets", "gain_open",
        "non_inferiority_open", "observational", "one_session", "unpriced", "no_tokens", "only_errors", "no_success",
        "backoff", "failed", "canary_failed", "canary_guardrail", "canary_worse", "canary_outage", "canary_open",
        "canary_waits", "drift",
    }
)  # fmt: skip
"""Reason codes that speak against putting their candidate in place, or say that nothing is shown for it yet."""


@click.command(
    "promote",
    epilog=manual(
        "tierwise promote strict-json                 # the candidate of its canary",
        "tierwise promote summary gemini-3.5-flash --dry-run",
        fault=OR_ROUTES,
    ),
)
@click.argument("task", shell_complete=complete.tasks)
@click.argument("model", required=False, shell_complete=complete.models)
@change_options
@since_option("30d")
@json_option
@config_option
@store_option
def command(
    task: str,
    model: str | None,
    dry_run: bool,
    yes: bool,
    by: str | None,
    note: str,
    since: int | None,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Make MODEL the primary of TASK by hand, or without MODEL the candidate of its canary: it gets all the traffic.

    What the evidence says against it is told first; it is your decision. The old primary becomes the first fallback
    unless it breaks a guardrail. `tierwise rollback TASK` goes back.
    """
    from tierwise.advisor import promote
    from tierwise.routing import read_table

    settings = read_settings(config, store)
    route = read_table(settings.routes_path).routes.get(task)
    item, policy, problem = evidence_of(settings, task, since)
    name = model or (route.canary.candidate if route is not None and route.canary is not None else None)
    if name is not None:
        _known(task, name, item, policy, route)
    against = [problem] if problem else speaks_against(item, name)
    cooldown_s = cooldown_of(policy, task)
    now = int(time.time())

    def make(*, expected_version: int | None, dry_run: bool) -> Applied:
        return promote(
            task,
            model,
            routes_path=settings.routes_path,
            audit_path=settings.audit_path,
            now=now,
            by=by or who(),
            recommendation=item,
            cooldown_s=cooldown_s,
            note=note,
            expected_version=expected_version,
            dry_run=dry_run,
        )

    def warn() -> dict[str, Any]:
        for text in against:
            say(f"against it: {text}", style="yellow")
        return {"against": against}

    change_by_hand(make, settings, dry_run=dry_run, yes=yes, as_json=as_json, before_asking=warn)


def speaks_against(item: Recommendation | None, name: str | None) -> list[str]:
    """What the evidence says against a candidate, in words; empty when it says nothing against it."""
    if item is None or name is None:
        return []
    report = report_of(item, name)
    if report is None or report.n == 0:
        return [f"{name} has no runs of this task: nothing is known about it"]
    texts = [reason.text for reason in item.reasons if reason.candidate == name and reason.code in _AGAINST]
    said = " ".join(texts)
    for state in report.guardrails:
        finding = wording.finding(state)
        if state.state in ("refuted", "failing") and finding not in said:
            texts.append(f"{name} {'breaks' if state.state == 'refuted' else 'misses'} {finding}.")
    return list(dict.fromkeys(texts))


def _known(task: str, name: str, item: Recommendation | None, policy: Policy | None, route: Route | None) -> None:
    """A name that nobody knows is a slip, not a candidate."""
    own = policy.for_task(task) if policy is not None else None
    known = list(own.candidates) if own is not None else []
    if item is not None:
        known += [one.candidate for one in item.candidates]
    if route is not None:
        known += [route.primary, *route.fallbacks, *([route.canary.candidate] if route.canary is not None else [])]
    if name not in known:
        listed = ", ".join(dict.fromkeys(known)) or "none"
        raise ConfigError(f"{task}: {name} is no candidate of it; known are {listed}; name it in tierwise.yaml first")

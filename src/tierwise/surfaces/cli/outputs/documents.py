"""The JSON Schema of each document that `--json` prints, of the commands that measure, decide and change routes."""

from __future__ import annotations

from typing import Final, get_args

from tierwise.core.call import Arm, Grade
from tierwise.core.recommendation import VERDICTS
from tierwise.surfaces.cli.outputs.build import (
    Schema,
    any_of,
    by_name,
    flag,
    number,
    part,
    record,
    several,
    share,
    text,
    whole,
)
from tierwise.surfaces.cli.outputs.parts import CHANGES, RECOMMENDATION, ROUTE, SUMMARY

_DRY_RUN: Final = flag("Nothing was changed.")
_FIVE: Final = ("latency_mean_s", "latency_median_s", "latency_p95_s", "latency_min_s", "latency_max_s")
_PASSED: Final = by_name(by_name(text()), "Task, then model: `pass`, `fail` or `mixed 3/5`.")
_RECOMMENDATIONS: Final = several(part("Recommendation"), "One a task, by name.")


# --- see and measure -------------------------------------------------------------------------------------------------


def demo() -> Schema:
    """The schema of the demo's document."""
    scaled = record({name: number(null=True) for name in _FIVE}, "The latencies at the published scale.")
    models = by_name(
        record({**SUMMARY["properties"], "published_scale": scaled}),
        "By model, see Summary; with its latencies at the published scale too.",
    )
    return record(
        {
            "simulated": flag("Always true."),
            "seed": whole(),
            "rounds": whole("After which `models`, `tasks` and `recommendations` were taken."),
            "latency_scale": number("By what the published latencies were divided."),
            "models": models,
            "tasks": _PASSED,
            "recommendations": _RECOMMENDATIONS,
            "first_look": record(
                {"rounds": whole(), "models": models, "recommendations": _RECOMMENDATIONS},
                "What the first, published rounds could tell.",
            ),
            "token_budget": part("TokenBudget"),
            "store": text("The demo's own store."),
            "report": text("The HTML report."),
        },
        "Everything that the demo shows; simulated.",
    )


BENCH: Final = record(
    {
        "suite": text("Its name."),
        "session": text("Under which the calls are recorded."),
        "base_url": text(),
        "models": by_name(part("Summary"), "By model, the probe left out."),
        "tasks": by_name(by_name(text()), "Task, then model: `pass`, `fail`, `mixed 3/5` or `no runs`."),
        "token_budget": any_of(part("TokenBudget"), {"type": "null"}, about="`null` without a probe."),
        "store": text("Where the calls are recorded."),
    },
    "What was measured.",
)

STATUS: Final = record(
    {
        "at": whole("Unix seconds."),
        "store": text(),
        "tasks": several(
            record(
                {
                    "task": text(),
                    "route": text("The model in use: the route's, else the one with most runs.", null=True),
                    "fallbacks": several(text()),
                    "n": whole("Runs of this model in the window."),
                    "cost_per_1000_calls_usd": number(null=True),
                    "cost_per_success_usd": number(null=True),
                    "latency_p95_s": number(null=True),
                    "success_rate": share(null=True),
                    "success_rate_interval": part("Interval", null=True),
                    "verdict": text(of=VERDICTS),
                    "primary": text("The primary after the verdict.", null=True),
                    "grade": text(of=get_args(Grade), null=True),
                    "runs_needed": whole(),
                }
            ),
            "One a task, by name.",
        ),
        "coverage": part("Coverage"),
        "notes": several(text(), "What to know about the evidence."),
    },
    "Each task as it stands.",
)

CALLS: Final = several(part("Call"), "The latest calls, oldest first.")

FEEDBACK: Final = record(
    {
        "store": text(),
        "feedback": record(
            {
                "unit": text("The call or run that was judged."),
                "task": text(),
                "candidate": text(),
                "epoch": text(),
                "arm": text(of=get_args(Arm)),
                "rung": whole(),
                "grade": text(of=get_args(Grade)),
                "bucket": whole("The hour it counts in, Unix seconds."),
                "session": text(),
                "round": whole(least=-1),
                "started_at_ns": whole("Of the call or run, Unix nanoseconds."),
                "provider": text(),
                "run_id": text(null=True),
                "response_id": text(null=True),
                "trace_id": text(),
                "span_id": text(),
                "accepted": flag("`null`: not judged so far.", null=True),
                "score": share(null=True),
                "comment": text(null=True),
                "given_at_ns": whole("Unix nanoseconds."),
                "settled": flag("Its run has been stored, so the verdict counts."),
                "succeeded": flag("What the evidence counts without the verdict."),
                "cost_usd": number(null=True),
            },
            "The verdict in force.",
        ),
    },
    "A verdict as it is recorded.",
)


# --- decide ----------------------------------------------------------------------------------------------------------

PLAN: Final = record(
    {
        "at": whole("Unix seconds."),
        "table_version": whole("Of the route table that it was made from; 0: there is none."),
        "recommendations": _RECOMMENDATIONS,
        "coverage": part("Coverage"),
        "notes": several(text(), "What to know about the evidence."),
    },
    "What is recommended.",
)

EXPLAIN: Final = record(
    {
        "at": whole("Unix seconds."),
        "table_version": whole("Of the route table; 0: there is none."),
        **{name: value for name, value in RECOMMENDATION["properties"].items() if name != "at"},
        "route": part("Route", "The present route; `null` without one.", null=True),
        "what_would_change": several(text(), "What has to happen for another verdict."),
    },
    "One task's recommendation, with its route.",
)

APPLY: Final = record(
    {
        "dry_run": _DRY_RUN,
        "changed": flag("The route file was changed."),
        "version": whole("Of the route table in force."),
        "changes": several(part("Change"), "One a task."),
    },
    "What was applied.",
)

_BY_HAND: Final = {
    "dry_run": _DRY_RUN,
    "version": whole("Of the route table in force."),
    "changes": several(part("Change"), "The one change."),
}
BY_HAND: Final = record(_BY_HAND, "What was changed.")
PROMOTE: Final = record(
    {**_BY_HAND, "against": several(text(), "What the evidence says against it.")}, "What was changed."
)

_ENTRY: Final = {
    "at": whole("Unix seconds."),
    "by": text("Who."),
    "automatic": flag("`tierwise watch` did it."),
    "action": text("What was done.", of=CHANGES),
    "version": whole("Of the route table after it."),
    "change": text("Shared by the entries of one change of the table."),
}
_IN_FORCE: Final = flag("False for a change that was interrupted before it came into force.")
DECISION: Final = record(
    {
        **_ENTRY,
        "task": text(),
        "verdict": text("Empty where a person decided.", of=(*VERDICTS, "")),
        "grade": text(of=(*get_args(Grade), "")),
        "evidence_hash": text("`input_hash` of the recommendation."),
        "reasons": several(record({"code": text(), "text": text()})),
        "before": part("Route", null=True),
        "after": part("Route", null=True),
        "note": text(),
        "in_force_once": _IN_FORCE,
    },
    "A decision about one task.",
)
ROUTE_FIELDS: Final = record(
    ROUTE["properties"], "Those fields of a Route that changed.", optional=tuple(ROUTE["properties"])
)
SPLITS: Final = record(
    {
        **_ENTRY,
        "tasks": by_name(
            record({"hash": text("`input_hash` of the decision."), "set": part("RouteFields")}), "By task."
        ),
        "in_force_once": _IN_FORCE,
    },
    "New splits of the traffic of many tasks (--traffic).",
)

HISTORY: Final = record(
    {
        "path": text("The audit log."),
        "entries": several(any_of(part("Decision"), part("Splits")), "Newest first."),
        "problems": several(text(), "Lines that could not be read."),
    },
    "Who changed what, when and why.",
)

WATCH: Final = record(
    {
        "at": whole("Unix seconds."),
        "version": whole("Of the route table; `null` where the look failed.", null=True),
        "tasks": whole("Tasks looked at.", null=True),
        "verdicts": by_name(whole(), "Tasks by verdict."),
        "changes": several(part("Change"), "Changes that were made."),
        "traffic": whole("Tasks whose traffic was split anew and nothing else."),
        "saving_per_month_usd": number("Of what is recommended and was not made."),
        "news": several(
            record(
                {
                    "kind": text(of=("verdict", "route", "rollback", "guardrail", "drift", "trouble")),
                    "at": whole(),
                    "task": text("Empty for trouble of the watch itself."),
                    "verdict": text(),
                    "candidate": text("Whom it is about."),
                    "detail": text(),
                    "text": text("The news in words."),
                }
            ),
            "What the looks before did not know.",
        ),
        "told": flag("The webhook took news in this look."),
        "errors": several(text(), "What went wrong."),
        "findings": several(text(), "What `plan --check` would fail on."),
    },
    "One look.",
)

_CAME_TO: Final = {
    "regret_per_1000_usd": number("Lost against the best fixed model, cost and failures, per 1,000 runs."),
    "success_rate": share(),
    "cost_per_1000_usd": number(),
}
_FIGURES: Final = {
    "runs": whole(),
    **_CAME_TO,
    "route_changes": number("A mean where there are several seeds."),
    "wrong_changes": number("Changes to a model with a greater loss."),
}
_FIXED_NAMES: Final = ("oracle", "always_best", "always_cheapest")
TOTAL: Final = record(
    {
        **_FIGURES,
        "tasks": whole(),
        "histories": whole("Tasks times seeds."),
        "histories_with_a_wrong_change": whole(),
        "route_changes_per_task": number(),
        **dict.fromkeys(_FIXED_NAMES, part("FixedModel")),
    },
    "All tasks together: the chooser, and beside it the best model of each task, the most successful, the cheapest.",
)
FIXED_MODEL: Final = record(
    {"model": text("Where it is one task's."), **_CAME_TO},
    "What one model for all runs would have come to.",
    optional=("model",),
)
_REPLAY: Final = record(
    {
        "settings": record(
            {
                "outcomes": text("The file."),
                "policy_kind": text("Who chose."),
                "steps": whole(),
                "calls_per_step": whole(),
                "explore": any_of(number(), text(), {"type": "null"}, about="`null`: the policy's."),
                "start": text(),
                "value_of_success_usd": number(null=True),
                "apply_every": whole(),
                "seeds": several(whole(least=None)),
            },
            "What was replayed, and how.",
        ),
        "remarks": several(text(), "What was left out, and what the figures do not say."),
        "total": part("BacktestTotal"),
        "tasks": by_name(
            record(
                {
                    **_FIGURES,
                    "start": text("The first primary."),
                    "final_route": text("The last one, of several seeds the most frequent."),
                    "final_routes": by_name(whole(), "Seeds by last primary; only of several seeds."),
                    **dict.fromkeys(_FIXED_NAMES, part("FixedModel")),
                },
                optional=("final_routes",),
            ),
            "Each task, as means over the seeds.",
        ),
        "seeds": by_name(part("BacktestTotal"), "Each seed; only of several."),
    },
    "What the rules came to on recorded outcomes.",
    optional=("seeds",),
)
_FORETOLD: Final = record(
    {"point": number(null=True), "low": number(null=True), "high": number(null=True)},
    "A figure and its 95 % prediction interval, `null` where there is too little to tell.",
)
_LADDERS: Final = record(
    {
        "settings": record(
            {
                "outcomes": text("The file."),
                "ladder": several(text(), "First rung first."),
                "runs": whole("Runs to come; `null`: the long run.", null=True, least=1),
                "detection": share("Of the failures, those that escalate."),
                "false_alarms": share("Of the successes, those that escalate all the same."),
            },
            "What was foretold.",
        ),
        "remarks": several(text(), "Tasks that were left out, and why."),
        "ladders": by_name(
            record(
                {
                    "ladder": several(text()),
                    "against": text("The model that would be asked alone."),
                    "prompts": whole("Recorded prompts."),
                    "runs": whole(null=True),
                    **dict.fromkeys(
                        ("success_rate", "escalated", "cost_usd", "cost_per_success_usd", "saving"), _FORETOLD
                    ),
                }
            ),
            "Each task.",
        ),
    },
    "With `--ladder`: what a ladder would come to.",
)
BACKTEST: Final = any_of(_REPLAY, _LADDERS, about="A replay, or with `--ladder` what a ladder would come to.")

REPORT: Final = record(
    {
        "report": text("The file."),
        "models": by_name(part("Summary"), "By model, over all its tasks."),
        "tasks": _PASSED,
        "recommendations": _RECOMMENDATIONS,
    },
    "What the page is made from.",
)

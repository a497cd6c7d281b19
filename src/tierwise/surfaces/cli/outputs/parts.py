"""Records that the output of several commands shares: routes, recommendations, calls, summaries, prices."""

from __future__ import annotations

from typing import Final, get_args

from tierwise.core.call import Arm, Grade, Risk
from tierwise.core.cost import CostSource
from tierwise.core.outcome import OUTCOMES
from tierwise.core.recommendation import VERDICTS, Action, GuardrailStatus
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

JSON_FORMS: Final = ("plain", "fenced", "embedded", "mismatch", "invalid")
CHANGES: Final = ("none", "pin", "promote", "trial", "stage", "rollback", "abort", "traffic")

ROUTE: Final = record(
    {
        "primary": text("The candidate of the task."),
        "fallbacks": several(text(), "Who takes over after an error, in order."),
        "ladder": several(text(), "Who a run escalates to, in order."),
        "canary": any_of(
            record(
                {
                    "candidate": text("The challenger."),
                    "share": share("Its share of the traffic."),
                    "stage": whole("How often its share grew."),
                    "started_at": whole("Unix seconds."),
                }
            ),
            {"type": "null"},
            about="A challenger on its way.",
        ),
        "since": whole("Since when the route is as it is, Unix seconds; 0: not known."),
        "cooldown_until": whole("Until when it rests after a change, Unix seconds; 0: it does not."),
        "backoff": by_name(whole(), "Failed challengers, and until when each is left alone (Unix seconds)."),
        "propensities": by_name(share(), "Share of the traffic by candidate; sums to 1."),
        "epochs": by_name(text(), "Each candidate's epoch at the last decision."),
        "drifted": by_name(whole(), "Candidates that drifted, and from when on their evidence counts (Unix seconds)."),
        "primary_drifted_at": whole("When the primary's drift was noticed, Unix seconds; 0: never."),
        "dropped": by_name(text(), "Candidates that exploring has given up, and the epoch of each."),
        "failed": by_name(text(), "Challengers whose canary failed, and the epoch of each."),
    },
    "A task's assignment, as in the route file.",
)

CHANGE: Final = record(
    {
        "task": text("The task."),
        "action": text("What is done to its route; `none` leaves it.", of=CHANGES),
        "verdict": text("The verdict behind it; `null` where a person decided.", of=VERDICTS, null=True),
        "before": part("Route", "The route before; `null`: there was none.", null=True),
        "after": part("Route", "The route after.", null=True),
        "note": text("Why, in words."),
    },
    "What happens to the route of one task.",
)

INTERVAL: Final = record(
    {"low": number("`null`: unbounded or unknown.", null=True), "high": number(null=True)},
    "Bounds that hold however often you look.",
)

GUARDRAIL: Final = record(
    {
        "metric": text("Its name in tierwise.yaml."),
        "op": text(of=(">=", "<=")),
        "limit": number("The limit of the policy."),
        "tested_at": number("The limit that was tested: for a latency the next lower histogram edge.", null=True),
        "estimate": number("What was measured.", null=True),
        "low": number("Bounds of it.", null=True),
        "high": number(null=True),
        "state": text(
            "`refuted`: the bounds exclude the limit; `proven`: they lie inside; `holding` or `failing`: open, the estimate "
            "meets or misses it; `unknown`: nothing was recorded to tell.",
            of=get_args(GuardrailStatus),
        ),
        "runs_to_prove": whole("Further runs that would prove it, if the estimate stays.", null=True),
    },
    "One limit of one candidate.",
)


def _bounds(about: str = "") -> Schema:
    return part("Interval", about)


CANDIDATE: Final = record(
    {
        "candidate": text("Its name."),
        "role": text(of=("incumbent", "challenger")),
        "epoch": text("What it was while this was measured.", null=True),
        "grade": text("How the runs came about.", of=get_args(Grade), null=True),
        "n": whole("Runs that count."),
        "buckets": whole("Hours (or rounds of bench) that they lie in."),
        "successes": whole("Runs that succeeded."),
        "success_rate": share(null=True),
        "success_rate_interval": _bounds(),
        "cost_per_success_usd": number("`null`: no success, or no price.", null=True),
        "cost_per_success_interval_usd": _bounds(),
        "cost_per_call_usd": number("Mean cost of a run.", null=True),
        "latency_p50_s": number(null=True),
        "latency_p50_interval_s": _bounds(),
        "latency_p95_s": number(null=True),
        "latency_p95_interval_s": _bounds(),
        "json_valid_rate": share("Of the runs that expected JSON.", null=True),
        "objective": number("What the policy minimises, in its unit.", null=True),
        "gain": number(
            "Gain over the incumbent, as a share of its objective (for `success_rate` in points).", null=True
        ),
        "gain_interval": _bounds(),
        "success_difference": number("Success rate less the incumbent's.", null=True),
        "success_difference_interval": _bounds(),
        "compared_runs": whole("Runs in buckets shared with the incumbent: what the comparison rests on."),
        "guardrails": several(part("Guardrail"), "Each limit of the policy."),
        "runs_needed": whole("Further runs until its comparison is decided, if its rates stay; an estimate."),
    },
    "One candidate in numbers.",
)

RECOMMENDATION: Final = record(
    {
        "task": text("The task."),
        "verdict": text(
            "`PROMOTE` changes the primary, `TRIAL` starts a canary, `ROLLBACK` ends one; the others change nothing.",
            of=VERDICTS,
        ),
        "current": text("The present primary, or without a route the model with most runs.", null=True),
        "primary": text("The primary after the verdict: differs from `current` with `PROMOTE` alone.", null=True),
        "challenger": text("The candidate that the verdict is about.", null=True),
        "fallbacks": several(text(), "In order."),
        "ladder": several(text(), "In order of escalation."),
        "grade": text("What kind of evidence it rests on.", of=get_args(Grade), null=True),
        "reasons": several(
            record(
                {
                    "code": text("A stable code for programs."),
                    "text": text("A sentence with numbers."),
                    "candidate": text("Whom it is about.", null=True),
                }
            ),
            "Why.",
        ),
        "candidates": several(part("Candidate"), "Every candidate in numbers."),
        "saving_per_1000_runs_usd": number("Of the challenger over the current model.", null=True),
        "saving_per_month_usd": number("At the live volume of the window; `null` without live traffic.", null=True),
        "runs_needed": whole("Further runs until something can be decided; an estimate."),
        "confidence": share("The confidence that the policy asks for."),
        "at": whole("When it was decided, Unix seconds."),
        "input_hash": text("The same for the same evidence, policy and route."),
        "traffic": by_name(share(), "Share of first attempts by candidate for what comes; sums to 1."),
        "action": text("What applying it automatically does to the route.", of=get_args(Action)),
        "exploring": any_of(
            record(
                {
                    "share": share("Of the runs, given to other candidates."),
                    "cost_per_1000_runs_usd": number(
                        "Expected growth of the bill; below 0 where the others are cheaper."
                    ),
                    "saving_per_1000_runs_usd": number("The most that knowing the best would save."),
                    "value_of_success_usd": number("What a failure is counted at."),
                }
            ),
            {"type": "null"},
            about="What exploring would cost and could save; `null` where the task explores or nothing could be learnt.",
        ),
        "after": any_of(
            record({"task": text(), **ROUTE["properties"]}),
            {"type": "null"},
            about="The route when it is applied automatically, see Route.",
        ),
    },
    "What to do with one task, and why.",
)

COVERAGE: Final = record(
    {
        "runs": whole("First attempts."),
        "priced": whole("Those with a cost."),
        "first_bucket": whole("Start of the first hour with evidence, Unix seconds.", null=True),
        "last_bucket": whole("Start of the last one.", null=True),
        "buckets": whole("Hours with evidence."),
        "randomised": whole("Runs whose model was drawn by lot."),
        "overflow": whole("Runs beyond the cardinality limit, which belong to no task."),
        "unpriced": by_name(whole(), "Runs with tokens and no price, by candidate."),
        "without_tokens": by_name(whole(), "Answered runs without token counts, by candidate."),
    },
    "What the evidence covers.",
)

CALL: Final = record(
    {
        "id": whole("Of the row in the store."),
        "started_at_ns": whole("Unix nanoseconds."),
        "task": text("The task; `unassigned` without one."),
        "candidate": text("The candidate, as a rule the model's name."),
        "epoch": text("A short hash of what the candidate was: response model, rates, parameters, prompt version."),
        "arm": text("Why the call went where it went.", of=get_args(Arm)),
        "rung": whole("0 for a first attempt, then one more for each escalation."),
        "grade": text("Whether the model was drawn by lot.", of=get_args(Grade)),
        "outcome": text("How it ended.", of=OUTCOMES),
        "provider": text("By the host, such as `openai`."),
        "operation": text("Such as `chat`."),
        "api_type": text("Such as `chat_completions`.", null=True),
        "server_address": text(null=True),
        "server_port": whole(null=True, least=None),
        "request_model": text("The model asked for."),
        "response_model": text("The model that answered, as it said.", null=True),
        "response_id": text(null=True),
        "service_tier": text(null=True),
        "system_fingerprint": text(null=True),
        "stream": flag(),
        "expects_json": flag("The request, the task or its policy expected JSON."),
        "temperature": number(null=True),
        "max_tokens": whole("The limit that was sent.", null=True, least=None),
        "choice_count": whole(null=True, least=None),
        "duration_s": number("What the application waited, all tries included.", least=0),
        "time_to_first_chunk_s": number(null=True),
        "time_per_output_chunk_s": number(null=True),
        "chunks": whole("Of a stream."),
        "last_try_s": number("The last HTTP request alone.", null=True),
        "retries": whole("Tries before the last."),
        "backoff_s": number("Waits between tries.", least=0),
        "error_type": text(null=True),
        "json_form": text("Where JSON was expected.", of=JSON_FORMS, null=True),
        "advice": text("What to change, as the token limit that cut the answer.", null=True),
        "output_chars": whole(),
        "input_tokens": whole("`null`: not reported, never guessed.", null=True),
        "output_tokens": whole(null=True),
        "cache_read_tokens": whole(null=True),
        "cache_write_tokens": whole(null=True),
        "reasoning_tokens": whole(null=True),
        "input_audio_tokens": whole(null=True),
        "output_audio_tokens": whole(null=True),
        "cost_usd": number("`null`: no tokens, or no price known.", null=True),
        "cost_source": text(
            "Who says so: the provider, tierwise.yaml, the catalogue.", of=get_args(CostSource), null=True
        ),
        "risk": text(of=get_args(Risk), null=True),
        "prompt_version": text(null=True),
        "run_id": text("Calls with one are one run.", null=True),
        "route_version": whole("Of the route table that it followed.", null=True),
        "propensity": share("Probability with which its arm was drawn.", null=True),
        "session": text("Of `tierwise bench`; empty for live traffic."),
        "round": whole("Of that session; -1 for live traffic.", least=-1),
        "trace_id": text("32 hex digits, empty without a span."),
        "span_id": text("16 hex digits, empty without a span."),
        "finish_reasons": several(text(), "One a choice."),
        "checks": several(record({"name": text(), "score": share(), "passed": flag()}), "What the task's checks said."),
        "failed_tries": several(
            record(
                {
                    "number": whole(),
                    "status": whole("HTTP status.", null=True),
                    "error_type": text(null=True),
                    "backoff_s": number(least=0),
                    "ended_at_ns": whole(),
                }
            ),
            "HTTP requests before the last.",
        ),
        "labels": by_name(text(), "Labels of the task."),
        "json_valid": flag("The answer was plain JSON; `null` where none was expected.", null=True),
    },
    "One recorded call. Never a prompt or an answer.",
)

SUMMARY: Final = record(
    {
        "runs": whole("Runs that count."),
        "successes": whole(),
        "latency_mean_s": number(null=True),
        "latency_median_s": number(null=True),
        "latency_p95_s": number(null=True),
        "latency_min_s": number(null=True),
        "latency_max_s": number(null=True),
        "task_score": share("Successes divided by runs.", null=True),
        "output_chars_mean": number(null=True),
        "non_stop_finish_reasons": whole("First attempts that ended with `length`, `content_filter` or the like."),
        "json_valid_rate": share(null=True),
        "retries": whole(),
        "cost_usd": number(null=True),
        "cost_per_success_usd": number(null=True),
        "unpriced": whole("Runs whose cost is not known."),
        "without_price": whole("Those of them whose model has no known price."),
        "without_tokens": whole("Those of them without token counts."),
        "not_counted": whole("Calls outside the runs: cancelled, or the caller's fault."),
        "outcomes": by_name(whole(), "Runs by outcome."),
        "finish_reasons": by_name(whole(), "First attempts by finish reason."),
    },
    "One model over all its runs.",
)

BUDGET: Final = record(
    {
        "max_tokens": several(whole(null=True), "Limits tried; `null`: none was sent."),
        "prompts": by_name(text(), "Prompt by the probe's task."),
        "results": several(
            record(
                {
                    "model": text(),
                    "prompt": text(),
                    "max_tokens": whole(null=True),
                    "outcome": text(of=OUTCOMES),
                    "finish_reason": text(null=True),
                    "output_chars": whole(),
                    "output_tokens": whole(null=True),
                    "reasoning_tokens": whole(null=True),
                }
            ),
            "What came back.",
        ),
        "findings": several(
            record(
                {
                    "model": text(),
                    "max_tokens": whole(),
                    "finish_reason": text(),
                    "answers": whole(),
                    "cut": whole(),
                    "empty": whole(),
                    "needed_tokens": whole(null=True),
                    "advice": text(),
                }
            ),
            "Limits under which answers are cut.",
        ),
        "advice": several(text(), "What to do, in words."),
    },
    "The token-budget probe: what small limits do to answers.",
)

HEALTH: Final = record(
    {
        "path": text(),
        "schema_version": whole(),
        "calls": whole("Rows of calls."),
        "runs": whole("Runs of several calls."),
        "evidence_rows": whole(),
        "size_bytes": whole("The write-ahead log included."),
        "wal_bytes": whole(),
        "oldest_ns": whole("Start of the first call, Unix nanoseconds.", null=True),
        "newest_ns": whole(null=True),
        "pruned": whole("Rows deleted beyond the retention so far; their evidence is kept."),
        "dropped": whole("Calls that were made and not stored."),
        "unpriced": whole("Calls with tokens and no price."),
        "intact": flag("SQLite's own check finds nothing."),
        "problem": text("What it finds.", null=True),
    },
    "A store in numbers.",
)

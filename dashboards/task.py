"""One task: its candidates side by side, with intervals."""

from __future__ import annotations

from dashboards import names as n
from dashboards import promql as q
from dashboards.overview import PER_SUCCESS, SUCCESS
from dashboards.parts import (
    FORM_COLOURS,
    LOW_IS_BAD,
    NUMBER,
    OUTCOME_COLOURS,
    RATIO,
    SECONDS,
    USD,
    Column,
    Line,
    Row,
    dashboard_json,
    grid,
    lines,
)
from tierwise.telemetry import semconv as sc

BY = (n.MODEL,)
LEGEND = f"{{{{{n.MODEL}}}}}"
INTERVALS = (
    "Intervals are 95 % Wilson score intervals, for cost per success those of a ratio by the delta method, computed in "
    "PromQL: for independent runs looked at once. The decision engine's own bounds hold at every look and under hours that "
    "go wrong together; they are wider and stand in `tierwise explain`."
)
BAND = "Success over the last 30 minutes"
COUNTED = f'{n.FORM}!="", {q.COUNTED}'
VALID = f'{n.FORM}="plain", {q.COUNTED}'


def json_validity(window: str, *by: str) -> str:
    """Strictly valid JSON among the calls that expected it."""
    return q.share(q.counted(sc.CALLS, window, VALID, by=by), q.counted(sc.CALLS, window, COUNTED, by=by))


def per_call(metric: sc.Metric, window: str, *where: str, by: tuple[str, ...] = BY) -> str:
    """What a counter gained for each call that says something about a model."""
    return q.share(q.counted(metric, window, q.COUNTED, *where, by=by), q.counted(sc.CALLS, window, q.COUNTED, by=by))


def candidates() -> Row:
    """The table on top."""
    won, done = q.successes(q.RANGE, *BY), q.runs(q.RANGE, *BY)
    valid, asked = (q.counted(sc.CALLS, q.RANGE, where, by=BY) for where in (VALID, COUNTED))
    columns = [
        Column(title="Runs", expr=f"{done} > 0", unit=NUMBER, decimals=0, width=80),
        Column(title="Success", expr=q.success_rate(q.RANGE, *BY), unit=RATIO, decimals=1, steps=LOW_IS_BAD),
        Column(title="at least", expr=q.wilson(won, done, upper=False), unit=RATIO, decimals=1),
        Column(title="at most", expr=q.wilson(won, done, upper=True), unit=RATIO, decimals=1),
        Column(title="Cost per success", expr=q.cost_per_success(q.RANGE, *BY), unit=USD),
        Column(title="from", expr=q.cost_per_success_bound(q.RANGE, *BY, upper=False), unit=USD),
        Column(title="to", expr=q.cost_per_success_bound(q.RANGE, *BY, upper=True), unit=USD),
        Column(title="JSON valid", expr=json_validity(q.RANGE, *BY), unit=RATIO, decimals=1),
        Column(title="JSON at least", expr=q.wilson(valid, asked, upper=False), unit=RATIO, decimals=1),
        Column(title="p50", expr=q.quantile(0.5, sc.CALL_DURATION, q.RANGE, by=BY), unit=SECONDS, decimals=2),
        Column(title="p95", expr=q.quantile(0.95, sc.CALL_DURATION, q.RANGE, by=BY), unit=SECONDS, decimals=2),
        Column(title="TTFT p95", unit=SECONDS, decimals=2,
               expr=q.quantile(0.95, sc.CALL_TIME_TO_FIRST_CHUNK, q.RANGE, by=BY)),
        Column(title="Retries", expr=per_call(sc.CALL_RETRIES, q.RANGE), unit=NUMBER, decimals=3),
        Column(title="Tokens", expr=per_call(sc.CALL_TOKENS, q.RANGE, f'{n.KIND}="output"'), unit=NUMBER, decimals=0),
    ]  # fmt: skip
    about = (
        f"Over the time shown, with shadow copies left out. {INTERVALS} Retries and output tokens are per call. Candidates "
        "that met different traffic (escalations, other hours) are not comparable by these numbers."
    )
    return Row(height=7, panels=[grid("Candidates", about, {n.MODEL: "Candidate"}, columns, sort_by="Runs")])


def over_time() -> list[Row]:
    """The same numbers as lines."""
    latency, first = sc.CALL_DURATION, sc.CALL_TIME_TO_FIRST_CHUNK
    return [
        Row(height=6, panels=[
            lines("Success rate", f"{SUCCESS} The red line is 95 %; your own limit is in the policy.", RATIO,
                  Line(expr=q.success_rate(q.RATE, *BY), legend=LEGEND), most=1, limit=0.95),
            lines("Cost per success", PER_SUCCESS, USD, Line(expr=q.cost_per_success(q.RATE, *BY), legend=LEGEND)),
            lines("Latency p50 and p95", "What the application waited; p50 is dashed. The dots are calls with a trace.", SECONDS,
                  Line(expr=q.quantile(0.95, latency, q.RATE, by=BY), legend=f"{LEGEND} p95", exemplar=True),
                  Line(expr=q.quantile(0.5, latency, q.RATE, by=BY), legend=f"{LEGEND} p50", dashed=True)),
        ]),
        Row(height=6, panels=[
            lines("JSON validity", "Strictly valid JSON that holds the schema, among calls that expected JSON.", RATIO,
                  Line(expr=json_validity(q.RATE, *BY), legend=LEGEND), most=1, limit=0.99),
            lines("Retries per call", "Retries that the client made inside calls. Above the line the provider limits or fails.",
                  NUMBER, Line(expr=per_call(sc.CALL_RETRIES, q.RATE), legend=LEGEND), limit=0.5),
            lines("Time to first chunk p50 and p95", "Of streamed calls; p50 is dashed. The dots are calls with a trace.",
                  SECONDS,
                  Line(expr=q.quantile(0.95, first, q.RATE, by=BY), legend=f"{LEGEND} p95", exemplar=True),
                  Line(expr=q.quantile(0.5, first, q.RATE, by=BY), legend=f"{LEGEND} p50", dashed=True)),
        ]),
    ]  # fmt: skip


def bands() -> Row:
    """A panel for each candidate: its success with its interval."""
    won, done = q.successes("30m"), q.runs("30m")
    return Row(height=7, panels=[
        lines(BAND, f"$model alone, in windows of 30 minutes; dashed: the interval. {INTERVALS}", RATIO,
              Line(expr=q.success_rate("30m"), legend="$model"),
              Line(expr=q.wilson(won, done, upper=False), legend="at least", dashed=True),
              Line(expr=q.wilson(won, done, upper=True), legend="at most", dashed=True),
              most=1, limit=0.95),
    ])  # fmt: skip


def details() -> list[Row]:
    """How answers end, what they are worth and where runs were sent."""
    ended = f"60 * {q.per_second(sc.CALLS, by=(n.OUTCOME,))}"
    forms = f"60 * {q.per_second(sc.CALLS, COUNTED, by=(n.FORM,))}"
    arms = f"60 * {q.per_second(sc.CALLS, by=(n.MODEL, n.ARM))}"
    accepted = q.share(
        q.counted(sc.FEEDBACK, q.RATE, f'{n.ACCEPTED}="true"', by=BY), q.counted(sc.FEEDBACK, q.RATE, by=BY)
    )
    by = (n.MODEL, n.CHECK)
    checks = q.share(q.counted(sc.CHECK_SCORE, q.RATE, by=by), q.counted(sc.CHECK_COUNT, q.RATE, by=by))
    output = per_call(sc.CALL_TOKENS, q.RATE, f'{n.KIND}="output"')
    return [
        Row(height=7, panels=[
            lines("Calls per minute by outcome", "Every finished call of the chosen models, each with one outcome.", NUMBER,
                  Line(expr=ended, legend=f"{{{{{n.OUTCOME}}}}}"), stacked=True, colours=OUTCOME_COLOURS),
            lines("Calls per minute by JSON form", "Of calls that expected JSON: plain is valid, fenced stands in a code fence, "
                  "embedded in prose, mismatch breaks the schema, invalid does not parse.", NUMBER,
                  Line(expr=forms, legend=f"{{{{{n.FORM}}}}}"), stacked=True, colours=FORM_COLOURS),
            lines("Output tokens per call", "As the provider reported them, reasoning included.", NUMBER,
                  Line(expr=output, legend=LEGEND)),
        ]),
        Row(height=7, panels=[
            lines("Acceptance", "Answers that the application accepted, among those it judged (`tierwise feedback`).", RATIO,
                  Line(expr=accepted, legend=LEGEND), most=1, limit=0.8),
            lines("Check scores", "Mean score of each registered check, in [0, 1].", RATIO,
                  Line(expr=checks, legend=f"{LEGEND} {{{{{n.CHECK}}}}}"), most=1),
            lines("Calls per minute by candidate and arm", "Arm: why a call went where it went.", NUMBER,
                  Line(expr=arms, legend=f"{LEGEND} {{{{{n.ARM}}}}}"), stacked=True),
        ]),
    ]  # fmt: skip


def task() -> str:
    """`task.json`."""
    sections = [
        ("", [candidates(), *over_time()]),
        ("Success with its interval, candidate by candidate", [bands()]),
        ("Answers", details()),
    ]
    about = "The candidates of one task side by side: success, cost, latency, JSON, retries, outcomes."
    return dashboard_json("tierwise-task", "tierwise / Task", about, sections, one_task=True, repeated={BAND: "model"})

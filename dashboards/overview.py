"""The overview: what all tasks cost and how well they go, by task and model."""

from __future__ import annotations

from dashboards import names as n
from dashboards import promql as q
from dashboards.parts import (
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
    one_number,
)
from tierwise.telemetry import semconv as sc

SUCCESS = (
    "A run succeeds when its last call's outcome is success or local clean-up made the answer usable. Cancelled and "
    "rejected calls and shadow copies are left out; rejections by feedback are not taken off here, `tierwise plan` does."
)
PER_SUCCESS = (
    "USD of all priced runs, failed ones included, for each success among them. Runs without a price count in neither."
)


def numbers() -> Row:
    """The first row."""
    spent = q.counted(sc.CALL_COST, q.RANGE)
    tokens = q.counted(sc.CALL_TOKENS, q.RANGE, f'{n.KIND}=~"input|output"')
    return Row(
        height=4,
        panels=[
            one_number("Cost", "USD spent on priced calls in the time shown, shadow calls included.", USD, spent),
            one_number("Cost per success", PER_SUCCESS, USD, q.cost_per_success(q.RANGE)),
            one_number("Success rate", SUCCESS, RATIO, q.success_rate(q.RANGE), decimals=1, colours=LOW_IS_BAD),
            one_number(
                "Latency p95",
                "What the application waited for a call, retries included. Estimated inside a histogram bucket.",
                SECONDS,
                q.quantile(0.95, sc.CALL_DURATION, q.RANGE),
                decimals=2,
                colours=((None, "green"), (10, "yellow"), (30, "red")),
            ),
            one_number("Tokens", "Input and output tokens as the providers reported them.", NUMBER, tokens),
            one_number("Runs", "Units of work that say something about a model: without cancelled and rejected ones.",
                       NUMBER, q.runs(q.RANGE), decimals=0),
        ],
    )  # fmt: skip


def by_task() -> Row:
    """Money and success of each task."""
    cost = f"3600 * {q.per_second(sc.CALL_COST, by=(n.TASK,))}"
    return Row(
        height=7,
        panels=[
            lines("Cost per hour by task", "USD an hour at the current rate. A click leads to the task.", USD,
                  Line(expr=cost, legend=f"{{{{{n.TASK}}}}}"), stacked=True, task_link=True),
            lines("Cost per success by task", f"{PER_SUCCESS} A click leads to the task.", USD,
                  Line(expr=q.cost_per_success(q.RATE, n.TASK), legend=f"{{{{{n.TASK}}}}}"), task_link=True),
            lines("Success rate by task", f"{SUCCESS} The red line is 95 %, the default limit is in your policy.", RATIO,
                  Line(expr=q.success_rate(q.RATE, n.TASK), legend=f"{{{{{n.TASK}}}}}"), most=1, limit=0.95,
                  task_link=True),
        ],
    )  # fmt: skip


def by_model() -> Row:
    """Latency, tokens and ends of calls."""
    latency = q.quantile(0.95, sc.CALL_DURATION, q.RATE, by=(n.MODEL,))
    tokens = f"60 * {q.per_second(sc.CALL_TOKENS, by=(n.KIND,))}"
    outcomes = f"60 * {q.per_second(sc.CALLS, by=(n.OUTCOME,))}"
    return Row(
        height=7,
        panels=[
            lines("Latency p95 by model", "What the application waited. The dots are calls with a trace: click one.", SECONDS,
                  Line(expr=latency, legend=f"{{{{{n.MODEL}}}}}", exemplar=True)),
            lines("Tokens per minute by kind", "Cached input is part of input, reasoning part of output.", NUMBER,
                  Line(expr=tokens, legend=f"{{{{{n.KIND}}}}}")),
            lines("Calls per minute by outcome", "Every finished call, each with one outcome.", NUMBER,
                  Line(expr=outcomes, legend=f"{{{{{n.OUTCOME}}}}}"), stacked=True, colours=OUTCOME_COLOURS),
        ],
    )  # fmt: skip


def everything() -> Row:
    """Each task with each of its models."""
    by = (n.TASK, n.MODEL)
    rated = q.success_rate(q.RANGE, *by)
    output = q.counted(sc.CALL_TOKENS, q.RANGE, f'{n.KIND}="output"', by=by)
    columns = [
        Column(title="Runs", expr=f"{q.runs(q.RANGE, *by)} > 0", unit=NUMBER, decimals=0),
        Column(title="Cost", expr=q.counted(sc.CALL_COST, q.RANGE, by=by), unit=USD),
        Column(title="Cost per success", expr=q.cost_per_success(q.RANGE, *by), unit=USD),
        Column(title="Success rate", expr=rated, unit=RATIO, decimals=1, steps=LOW_IS_BAD),
        Column(title="Latency p50", expr=q.quantile(0.5, sc.CALL_DURATION, q.RANGE, by=by), unit=SECONDS, decimals=2),
        Column(title="Latency p95", expr=q.quantile(0.95, sc.CALL_DURATION, q.RANGE, by=by), unit=SECONDS, decimals=2),
        Column(title="Output tokens per call", unit=NUMBER, decimals=0,
               expr=f"{output} / ({q.counted(sc.CALLS, q.RANGE, q.COUNTED, by=by)} > 0)"),
    ]  # fmt: skip
    about = "Every task with every model over the time shown. Comparing models fairly takes a common traffic: `tierwise plan`."
    labels = {n.TASK: "Task", n.MODEL: "Model"}
    return Row(height=9, panels=[grid("Tasks and models", about, labels, columns, sort_by="Cost")])


def services() -> Row:
    """Where the calls come from and what the models cost."""
    calls = f"60 * {q.per_second(sc.CALLS, by=(n.SERVICE, n.ENVIRONMENT))}"
    cost = f"3600 * {q.per_second(sc.CALL_COST, by=(n.MODEL,))}"
    return Row(
        height=7,
        panels=[
            lines("Cost per hour by model", "USD an hour at the current rate.", USD,
                  Line(expr=cost, legend=f"{{{{{n.MODEL}}}}}"), stacked=True),
            lines("Success rate by model", SUCCESS, RATIO,
                  Line(expr=q.success_rate(q.RATE, n.MODEL), legend=f"{{{{{n.MODEL}}}}}"), most=1, limit=0.95),
            lines("Calls per minute by service", "Every finished call, by service and environment.", NUMBER,
                  Line(expr=calls, legend=f"{{{{{n.SERVICE}}}}} {{{{{n.ENVIRONMENT}}}}}"), stacked=True),
        ],
    )  # fmt: skip


def overview() -> str:
    """`overview.json`."""
    return dashboard_json(
        "tierwise-overview",
        "tierwise / Overview",
        "Cost, cost per success, success, latency and tokens of every task and model.",
        [("", [numbers(), by_task(), by_model()]), ("Tasks and models", [everything(), services()])],
    )

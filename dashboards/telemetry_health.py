"""Telemetry health: whether what the other dashboards show is complete."""

from __future__ import annotations

from typing import Final

from dashboards import names as n
from dashboards import promql as q
from dashboards.parts import (
    ANY_IS_BAD,
    NUMBER,
    RATIO,
    Column,
    Line,
    Row,
    dashboard_json,
    grid,
    lines,
    one_number,
)
from dashboards.routing import number_of
from tierwise.telemetry import semconv as sc

SIGNALS: Final = {"metrics": "metric_points", "spans": "spans", "logs": "log_records"}
"""What the Collector calls its signals in the names of its own metrics."""
OURS: Final = '{__name__=~"tierwise_.*|gen_ai_.*"}'
SILENT_S: Final = "15m"


def seen(window: str, offset: str = "") -> str:
    """Services that sent calls within a window."""
    one = q.series(sc.CALLS, *q.PROCESS)
    return f"count by ({n.SERVICE}, {n.ENVIRONMENT}) (last_over_time({one}[{window}]{offset}))"


def silent() -> str:
    """Services that sent calls within the time shown and none for a quarter of an hour."""
    return f"{seen(q.RANGE)} unless {seen(SILENT_S)}"


def of_process(metric: sc.Metric, window: str, *by: str, where: str = "") -> str:
    """What a counter of the processes gained."""
    return q.total(q.gained(metric, window, *q.PROCESS, *((where,) if where else ())), *by)


def unpriced(window: str, *by: str) -> str:
    """Calls without a price among those that say something about a model."""
    calls = q.counted(sc.CALLS, window, q.COUNTED, by=by)
    return f"clamp_min(1 - {q.share(q.counted(sc.CALL_PRICED, window, q.COUNTED, by=by), calls)}, 0)"


def numbers() -> Row:
    """The first row."""
    some_are_bad = ((None, "green"), (0.01, "yellow"), (0.1, "red"))
    active = f"count(last_over_time({OURS}[{SILENT_S}])) or vector(0)"
    return Row(height=4, panels=[
        one_number("Internal errors", "Faults inside tierwise in the time shown; the application never saw them.", NUMBER,
                   f"{of_process(sc.INTERNAL_ERRORS, q.RANGE)} or vector(0)", colours=ANY_IS_BAD),
        one_number("Left out", "Store rows, series over the limit and prices that tierwise had to leave out.", NUMBER,
                   f"{of_process(sc.INTERNAL_DROPPED, q.RANGE)} or vector(0)", colours=ANY_IS_BAD),
        one_number("Silent", "Services that sent calls in the time shown and none in the last 15 minutes.", NUMBER,
                   number_of(silent()), colours=((None, "green"), (1, "yellow"))),
        one_number("Unpriced", "Share of calls without a known price: costs leave them out.", RATIO, unpriced(q.RANGE),
                   decimals=1, colours=some_are_bad),
        one_number("Active series", "Series of tierwise and of the GenAI conventions with a sample in the last 15 minutes.",
                   NUMBER, active),
        one_number("Services", "Services that sent calls in the time shown.", NUMBER, number_of(seen(q.RANGE))),
    ])  # fmt: skip


def faults() -> Row:
    """What went wrong inside tierwise."""
    by = (n.SERVICE, n.PLACE)
    legend = f"{{{{{n.SERVICE}}}}} {{{{{n.PLACE}}}}}"
    by_model = unpriced(q.RATE, n.MODEL)
    return Row(height=7, panels=[
        lines("Internal errors by place", "Faults in 15 minutes; each is in the service's log once.", NUMBER,
              Line(expr=of_process(sc.INTERNAL_ERRORS, "15m", *by), legend=legend)),
        lines("Left out by place", "In 15 minutes. store: rows not written; cardinality: too many names, folded into other; "
              "price: no price known.", NUMBER, Line(expr=of_process(sc.INTERNAL_DROPPED, "15m", *by), legend=legend)),
        lines("Unpriced calls by model", "Share of calls without a price. Add one under prices in tierwise.yaml.", RATIO,
              Line(expr=by_model, legend=f"{{{{{n.MODEL}}}}}"), most=1),
    ])  # fmt: skip


def services() -> Row:
    """Who sends."""
    silent_now = grid(
        "Silent services",
        "Sent calls in the time shown and none in the last 15 minutes: ended, idle, or cut off. Series: how many it had.",
        {n.SERVICE: "Service", n.ENVIRONMENT: "Environment"},
        [Column(title="Series", expr=silent(), unit=NUMBER, decimals=0)],
        sort_by="Service",
        descending=False,
        task_links=False,
    )
    calls = f"60 * {q.per_second(sc.CALLS, by=(n.SERVICE,), base=q.PROCESS)}"
    one = q.series(sc.CALLS, *q.PROCESS)
    instances = f"count by ({n.SERVICE}) (count by ({n.SERVICE}, {n.INSTANCE}) (last_over_time({one}[{q.RATE}])))"
    legend = f"{{{{{n.SERVICE}}}}}"
    return Row(height=7, panels=[
        silent_now,
        lines("Calls per minute by service", "Every finished call.", NUMBER, Line(expr=calls, legend=legend), stacked=True),
        lines("Processes by service", "Processes that sent calls, by their service.instance.id.", NUMBER,
              Line(expr=instances, legend=legend)),
    ])  # fmt: skip


def cardinality() -> Row:
    """How many series there are."""
    by_name = f"topk(12, count by (__name__) (last_over_time({OURS}[{q.RATE}])))"
    one = q.series(sc.CALLS, *q.PROCESS)
    tasks = f"count by ({n.SERVICE}) (count by ({n.SERVICE}, {n.TASK}) (last_over_time({one}[{q.RATE}])))"
    other = f'{n.TASK}="{sc.OTHER}"'
    folded = f"{of_process(sc.CALLS, q.RANGE, n.SERVICE, where=other)} > 0"
    return Row(height=7, panels=[
        lines("Series by metric", "The twelve metrics with most series; classic histograms have one a bucket. A process stops "
              "at 1,900 for each metric.", NUMBER, Line(expr=by_name, legend="{{__name__}}")),
        lines("Tasks by service", "Names of tasks in use. Put ids and free text elsewhere: each is a series.", NUMBER,
              Line(expr=tasks, legend=f"{{{{{n.SERVICE}}}}}")),
        grid("Calls folded into other", "Calls whose task's name was beyond the limit of series, in the time shown.",
             {n.SERVICE: "Service"}, [Column(title="Calls", expr=folded, unit=NUMBER, decimals=0)], sort_by="Calls"),
    ])  # fmt: skip


def of_collector(what: str) -> str:
    """One of the Collector's own metrics; whether counters end in `_total` depends on how it is scraped."""
    return f'{{__name__=~"otelcol_{what}(_total)?"}}'


def each_second(what: str) -> str:
    """The rate of one of the Collector's counters."""
    return f"sum(rate({of_collector(what)}[{q.RATE}]))"


def collector() -> Row:
    """The Collector's own metrics, which Prometheus scrapes from it."""
    full = (
        f"max by (exporter) ({of_collector('exporter_queue_size')})\n"
        f"/ (max by (exporter) ({of_collector('exporter_queue_capacity')}) > 0)"
    )
    taken, refused, failed = [], [], []
    for shown, signal in SIGNALS.items():
        accepted = each_second(f"receiver_accepted_{signal}")
        taken.append(Line(expr=accepted, legend=shown))
        refused.append(Line(expr=each_second(f"receiver_refused_{signal}"), legend=f"{shown} refused"))
        lost = f"exporter_(send|enqueue)_failed_{signal}"
        failed.append(Line(expr=f"{each_second(lost)} or 0 * {accepted}", legend=f"{shown} failed", dashed=True))
    memory = f"max by (instance) ({of_collector('process_memory_rss')})"
    return Row(height=7, panels=[
        lines("Collector: queue", "How full the queue in front of each exporter is. It grows while the backend is away.",
              RATIO, Line(expr=full, legend="{{exporter}}"), most=1, limit=0.8),
        lines("Collector: accepted per second", "What receivers took, by signal.", NUMBER, *taken),
        lines("Collector: refused and failed per second", "Refused: senders were told to wait or to stop. Failed (dashed): "
              "given up by an exporter, or its queue was full.", NUMBER, *refused, *failed),
        lines("Collector: memory", "Resident memory of each Collector.", "bytes", Line(expr=memory, legend="{{instance}}")),
    ])  # fmt: skip


def telemetry_health() -> str:
    """`telemetry-health.json`."""
    sections = [
        ("", [numbers(), faults(), services()]),
        ("Series", [cardinality()]),
        ("Collector", [collector()]),
    ]
    about = "Whether what the other dashboards show is complete: faults, drops, silent services, series, the Collector."
    return dashboard_json("tierwise-telemetry", "tierwise / Telemetry health", about, sections)

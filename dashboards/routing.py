"""Routing: who serves each task, what was decided, what it would save, and how runs escalate."""

from __future__ import annotations

from dashboards import names as n
from dashboards import promql as q
from dashboards.parts import (
    ANY_IS_BAD,
    NUMBER,
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

TASK = f"{{{{{n.TASK}}}}}"
DECIDED = (
    "As `tierwise watch` told last: it must export its metrics for this. Filtered by task only, since it is a service of "
    "its own."
)
CHANGE = f'{n.VERDICT}=~"PROMOTE|TRIAL"'
BROKEN = f'{n.VERDICT}=~"HOLD|ROLLBACK"'


def number_of(expression: str) -> str:
    """How many series, 0 for none."""
    return f"count({expression}) or vector(0)"


def numbers() -> Row:
    """The first row."""
    verdict = (n.TASK, n.VERDICT)
    month, thousand = q.latest(sc.DECISION_SAVING_MONTH), q.latest(sc.DECISION_SAVING)
    changes = number_of(q.latest(sc.DECISION_INFO, CHANGE, by=verdict))
    broken = number_of(q.latest(sc.DECISION_INFO, BROKEN, by=verdict))
    canaries = number_of(q.latest(sc.ROUTE_INFO, f'{n.ROLE}="canary"', by=(n.TASK, n.MODEL)))
    age = f"time() - max({q.latest(sc.DECISION_TIME)})"
    stale = ((None, "green"), (2 * 3600, "yellow"), (24 * 3600, "red"))
    saved = ((None, "text"), (0.01, "green"))
    return Row(height=4, panels=[
        one_number("Potential saving a month", f"What the recommended changes would save at the observed volume. {DECIDED}",
                   USD, f"sum({month})", colours=saved),
        one_number("Largest saving per 1,000 runs", f"Of the task where the recommended change saves most. {DECIDED}", USD,
                   f"max({thousand})", colours=saved),
        one_number("Changes recommended", f"Tasks whose verdict is PROMOTE or TRIAL. {DECIDED}", NUMBER, changes),
        one_number("Canaries", "Challengers that get a part of a task's traffic now.", NUMBER, canaries),
        one_number("Guardrails broken", f"Tasks whose verdict is HOLD or ROLLBACK. {DECIDED}", NUMBER, broken,
                   colours=ANY_IS_BAD),
        one_number("Last decision", "Time since any task was decided.", SECONDS, age, colours=stale),
    ])  # fmt: skip


def routes() -> Row:
    """Routes in force and last decisions."""
    by = (n.TASK, n.MODEL)
    role = (n.TASK, n.MODEL, n.ROLE, n.VERSION)
    shares = q.latest(sc.ROUTE_SHARE, by=by)
    info = q.latest(sc.ROUTE_INFO, by=role)
    serving = q.latest(sc.ROUTE_INFO, f'{n.ROLE}!="fallback"', by=role)
    part = f"({serving}) * on ({n.TASK}, {n.MODEL}) group_left () ({shares}) or ({info}) * 0"
    current = grid(
        "Current routes",
        "Who serves each task, and its share of the traffic as the route says; a fallback gets none of its own. "
        "After a change both versions are shown for a few minutes: the higher one is in force.",
        {n.TASK: "Task", n.ROLE: "Role", n.MODEL: "Candidate", n.VERSION: "Version"},
        [Column(title="Share", expr=part, unit=RATIO, decimals=0)],
        unit=RATIO,
        sort_by="Task",
        descending=False,
    )
    verdict = q.latest(sc.DECISION_INFO, by=(n.TASK, n.VERDICT, n.CHALLENGER))

    def beside(metric: sc.Metric) -> str:
        return f"({verdict}) * on ({n.TASK}) group_left () ({q.latest(metric)})"

    decided = grid(
        "Last decisions",
        f"The verdict on each task, its saving per 1,000 runs, the runs that a decision still takes, its age. {DECIDED}",
        {n.TASK: "Task", n.VERDICT: "Verdict", n.CHALLENGER: "Challenger"},
        [
            Column(title="per 1,000 runs", expr=beside(sc.DECISION_SAVING), unit=USD),
            Column(title="a month", expr=beside(sc.DECISION_SAVING_MONTH), unit=USD),
            Column(title="Runs needed", expr=beside(sc.DECISION_RUNS_NEEDED), unit=NUMBER, decimals=0),
            Column(title="Age", expr=f"time() - ({beside(sc.DECISION_TIME)})", unit=SECONDS, decimals=0),
        ],
        sort_by="per 1,000 runs",
    )
    return Row(height=8, panels=[current, decided], widths=(11, 13))


def traffic() -> Row:
    """Where runs go."""
    first_rung = f'{n.RUNG}="0"'
    arms = f"60 * {q.per_second(sc.CALLS, first_rung, by=(n.ARM,))}"
    told = q.as_told(sc.ROUTE_SHARE, by=(n.TASK, n.MODEL))
    first = (f'{n.ARM}=~"primary|canary|explore"', first_rung)
    by = (n.TASK, n.MODEL, n.ARM)
    won = q.counted(sc.CALLS, q.RATE, q.SUCCESS, *first, by=by)
    done = q.counted(sc.CALLS, q.RATE, q.COUNTED, *first, by=by)
    return Row(height=7, panels=[
        lines("Share of the traffic by route", "What each candidate shall get of its task's runs, as the route says.", RATIO,
              Line(expr=told, legend=f"{TASK} {{{{{n.MODEL}}}}}"), most=1),
        lines("First calls per minute by arm", "Why calls went where they went: primary, canary, explore, shadow, fallback, "
              "pinned.", NUMBER, Line(expr=arms, legend=f"{{{{{n.ARM}}}}}"), stacked=True),
        lines("Success of first calls by arm", "First calls whose arm was drawn at random, so that canary and primary compare.",
              RATIO, Line(expr=q.share(won, done), legend=f"{TASK} {{{{{n.MODEL}}}}} {{{{{n.ARM}}}}}"), most=1, limit=0.95),
    ])  # fmt: skip


def ladder() -> list[Row]:
    """Escalation."""
    by = (n.TASK,)
    runs = q.counted(sc.RUN_COUNT, q.RATE, by=by)
    escalated = q.share(q.counted(sc.RUN_ESCALATED, q.RATE, by=by), runs)
    cleaned = q.share(q.counted(sc.RUN_COUNT, q.RATE, f'{n.RUN_CLEANED}="true"', by=by), runs)
    length = q.share(q.counted(sc.RUN_CALLS, q.RATE, by=by), runs)
    lasting = q.share(q.counted(sc.RUN_DURATION, q.RATE, by=by), runs)
    money = q.share(q.counted(sc.RUN_COST, q.RATE, by=by), q.counted(sc.RUN_PRICED, q.RATE, by=by))
    rungs = f"60 * {q.per_second(sc.CALLS, by=(n.RUNG,))}"
    by_rung = (n.RUNG, n.MODEL)
    won = q.counted(sc.CALLS, q.RATE, q.SUCCESS, by=by_rung)
    done = q.counted(sc.CALLS, q.RATE, q.COUNTED, by=by_rung)
    said = "Of runs that the router made or that have a run id."
    return [
        Row(height=7, panels=[
            lines("Calls per minute by rung", "Rung 0 is the first attempt, each next one an escalation.", NUMBER,
                  Line(expr=rungs, legend=f"rung {{{{{n.RUNG}}}}}"), stacked=True),
            lines("Success by rung", "Later rungs get the hard part of the traffic: never compare them with first attempts.",
                  RATIO, Line(expr=q.share(won, done), legend=f"rung {{{{{n.RUNG}}}}} {{{{{n.MODEL}}}}}"), most=1),
            lines("Runs that escalated or were cleaned", f"Share of runs with more than one call; dashed: made usable by local "
                  f"clean-up. {said}", RATIO, Line(expr=escalated, legend=TASK),
                  Line(expr=cleaned, legend=f"{TASK} cleaned", dashed=True), most=1),
        ]),
        Row(height=7, panels=[
            lines("Calls per run", said, NUMBER, Line(expr=length, legend=TASK), least=1),
            lines("Cost per run", f"USD of all calls of a run whose every call has a price. {said}", USD,
                  Line(expr=money, legend=TASK)),
            lines("Mean duration of a run", f"First call to last. {said}", SECONDS, Line(expr=lasting, legend=TASK)),
        ]),
    ]  # fmt: skip


def watch() -> Row:
    """What the watch does."""
    saving = q.as_told(sc.DECISION_SAVING_MONTH)
    needed = q.as_told(sc.DECISION_RUNS_NEEDED)
    looks = f"sum by ({n.LOOK}) (increase({q.series(sc.WATCH_LOOKS)}[1h]))"
    return Row(height=7, panels=[
        lines("Potential saving a month by task", f"At the observed volume. {DECIDED}", USD, Line(expr=saving, legend=TASK),
              stacked=True),
        lines("Runs needed by task", f"Further runs that a decision is expected to take. {DECIDED}", NUMBER,
              Line(expr=needed, legend=TASK)),
        lines("Looks of the watch in an hour", "By result; failed ones say why on the watch's stderr.", NUMBER,
              Line(expr=looks, legend=f"{{{{{n.LOOK}}}}}"), colours={"ok": "green", "failed": "red"}),
    ])  # fmt: skip


def routing() -> str:
    """`routing.json`."""
    sections = [
        ("", [numbers(), routes()]),
        ("Traffic and canaries", [traffic()]),
        ("Escalation", ladder()),
        ("Watch", [watch()]),
    ]
    about = "Routes in force, canaries, decisions, potential saving and the escalation ladder."
    return dashboard_json("tierwise-routing", "tierwise / Routing", about, sections)

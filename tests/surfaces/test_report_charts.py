"""What the charts show: steps along the axis, bands, percentiles, the ladder, decisions, and how much of it there is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.report_data import GEMINI, HAIKU, NOW, SONNET, call_row, call_rows, candidate, recommendation
from tierwise.advisor import AuditEntry
from tierwise.core.call import Call, Run
from tierwise.core.confseq import rate_interval
from tierwise.core.route import Canary, Route
from tierwise.evidence import SqliteStore
from tierwise.surfaces.report import write_report
from tierwise.surfaces.report.charts import charts_json, task_charts
from tierwise.surfaces.report.data import build
from tierwise.surfaces.report.decisions import decisions, marks
from tierwise.surfaces.report.flow import flow
from tierwise.surfaces.report.models import summaries, verdicts
from tierwise.surfaces.report.sums import MOST_STEPS, TaskSums, evidence_of_calls, fold
from tierwise.surfaces.report.view import ReportView
from tierwise.surfaces.summary import pass_table, summarise

HOUR = 3600
NAMES = {SONNET: 0, HAIKU: 1, GEMINI: 2}


def live(hours: int, *, each: int = 2, **changes: object) -> TaskSums:
    """One task on sonnet: so many hours of live traffic, every other run a failure."""
    rows = [
        call_row(
            started_at_ns=(NOW // HOUR * HOUR + HOUR * hour + number) * 10**9,
            outcome=("success", "truncated")[number % 2],
            **changes,
        )
        for hour in range(hours)
        for number in range(each)
    ]
    return fold(evidence_of_calls(rows)[0])


def view_of(items: list[object], **changes: object) -> ReportView:
    """The view of recommendations without anything recorded, unless `changes` say otherwise."""
    fixed: dict[str, object] = {
        "calls": [], "recommendations": items, "title": "t", "simulated": False, "notes": (), "generated_at": NOW,
        "store": None, "latency_scale": 1.0,
    }  # fmt: skip
    return build(**{**fixed, **changes})  # type: ignore[arg-type]


@given(st.integers(1, 1200), st.integers(1, 4))
def test_steps_are_few_and_lose_nothing(hours: int, each: int) -> None:
    """However long the window: at most 48 steps in order, and the runs of the steps are all runs."""
    rows = [
        call_row(started_at_ns=(NOW + HOUR * hour) * 10**9)
        for hour in {0, hours // 3, hours // 2, hours - 1}
        for _ in range(each)
    ]
    sums = fold(evidence_of_calls(rows)[0])
    assert len(sums.places) <= MOST_STEPS
    assert list(sums.places) == sorted(set(sums.places))
    steps = sums.candidates[SONNET].steps
    assert set(steps) <= set(range(len(sums.places)))
    assert sum(step.n for step in steps.values()) == len(rows) == sums.runs


def test_bands_are_the_intervals_of_each_step() -> None:
    """The success band of a step is the exact interval of its runs, the cost band holds its estimate."""
    charts = task_charts(live(4, each=20), NAMES)
    assert charts is not None
    assert [chart.kind for chart in charts.charts] == ["success", "cost", "latency"]
    line = charts.data["charts"]["success"][0]
    low, high = rate_interval(10, 20, 0.05)
    assert line["y"] == [0.5] * 4
    assert line["low"] == [pytest.approx(low, abs=1e-3)] * 4
    assert line["high"] == [pytest.approx(high, abs=1e-3)] * 4
    money = charts.data["charts"]["cost"][0]
    assert all(a < b < c for a, b, c in zip(money["low"], money["y"], money["high"], strict=True))
    assert "Success rate over time (UTC), 4 steps of 1 hour." in charts.charts[0].words


def test_bench_rounds_are_an_axis_of_their_own() -> None:
    """Without live traffic the axis counts rounds, sessions one after another, each point of several rounds."""
    rows = [
        call_row(session=session, round=number, started_at_ns=(NOW + start + number) * 10**9)
        for start, session in ((0, "z"), (50, "a"))
        for number in range(12)
    ]
    sums = fold(evidence_of_calls(rows)[0])
    assert (sums.axis, sums.width, sums.places) == ("round", 4, (1, 5, 9, 13, 17, 21))
    assert [sums.candidates[SONNET].steps[place].n for place in range(6)] == [4] * 6


def test_candidates_without_success_or_price_leave_no_line_of_money() -> None:
    """No success, or no price: there is no cost per success to draw, and nothing fails."""
    for changes in ({"cost_usd": None}, {"cost_usd": 0.0}):
        charts = task_charts(live(3, **changes), NAMES)
        assert charts is not None
        assert "cost" not in charts.data["charts"]


def test_latency_shares_end_at_one_and_percentiles_stand_in_words() -> None:
    """The distribution rises to the whole, and p50, p90, p95, p99 and the first chunk are told with intervals."""
    charts = task_charts(live(3, each=30, time_to_first_chunk_s=0.12, duration_s=0.7), NAMES)
    assert charts is not None
    shares = charts.data["charts"]["latency"][0]["y"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == len(charts.data["edges"])
    assert [row.label for row in charts.percentiles] == [
        "Latency p50", "Latency p90", "Latency p95", "Latency p99", "First chunk p50", "First chunk p95",
    ]  # fmt: skip
    assert charts.percentiles[0].cells[0][1] == "0.65 to 0.8\u00a0s"


def test_data_of_charts_cannot_leave_its_element() -> None:
    """Whatever a model is called, the JSON holds no `<`, and reads back as it was."""
    name = "</script><script>alert(1)</script>&"
    sums = fold(evidence_of_calls([call_row(candidate=name)])[0])
    charts = task_charts(sums, {name: 0})
    assert charts is not None
    text = charts_json({"task-1": charts})
    assert not set("<>&") & set(text)
    assert json.loads(text)["task-1"]["colours"] == {name: 0}


def test_ladder_tells_what_went_on(tmp_path: Path) -> None:
    """Of ten runs three go on to the second rung and one to the third; a task without escalation has no ladder."""
    calls: list[Call | Run] = []
    for number in range(10):
        first = replace(
            call_row(arm="primary", run_id=f"r{number}", candidate=GEMINI), outcome="empty" if number < 3 else "success"
        )
        chain = [first]
        if number < 3:
            chain.append(replace(first, candidate=HAIKU, rung=1, outcome="empty" if number == 0 else "success"))
        if number == 0:
            chain.append(replace(first, candidate=SONNET, rung=2, outcome="refused"))
        calls += [row.to_call() for row in chain]
        calls.append(
            Run(
                run_id=f"r{number}", task="summary", candidate=GEMINI, epoch="e1", arm="primary", grade="randomised",
                started_at_ns=first.started_at_ns, duration_s=1.0, calls=len(chain), success=number > 0,
                outcome=chain[-1].outcome, cost_usd=0.001,
            )
        )  # fmt: skip
    with SqliteStore.open(tmp_path / "t.db", clock=lambda: NOW) as store:
        store.write(calls)
        stored = [fold(one) for one in store.evidence_by_task()]
        of_rows = [fold(one) for one in evidence_of_calls(store.calls())]
    for (sums,) in (stored, of_rows):
        told = flow(sums)
        assert told is not None
        assert [rung.words for rung in told.rungs] == [
            "10 arrived, 7 succeeded (70\u00a0%), 3 went on",
            "3 arrived, 2 succeeded (66.7\u00a0%), 1 went on",
            "1 arrived, 0 succeeded (0\u00a0%), 1 ended here otherwise",
        ]
        assert told.rungs[1].arrived == 30.0
        assert sums.runs == 10
    assert flow(live(2)) is None


def test_comparison_from_evidence_agrees_with_the_one_from_rows() -> None:
    """Where only some rows are at hand, counts, costs, rates and verdicts are those of all rows."""
    rows = [row for turn in range(5) for row in call_rows(duration_s=0.2 + 0.1 * turn)]
    sums = [fold(one) for one in evidence_of_calls(rows)]
    exact, whole = summaries(sums, rows)
    some, partial = summaries(sums, rows[-10:])
    assert (whole, partial) == (True, False)
    assert exact == dict(sorted(summarise(rows).items()))
    for name, summary in exact.items():
        for figure in ("runs", "successes", "task_score", "json_valid_rate", "retries", "unpriced", "outcomes"):
            assert getattr(some[name], figure) == getattr(summary, figure), figure
        for figure in ("cost_usd", "cost_per_success_usd", "latency_mean_s"):
            assert getattr(some[name], figure) == pytest.approx(getattr(summary, figure)), figure
        assert some[name].latency_median_s == pytest.approx(summary.latency_median_s, abs=0.1)
    assert {one.task: verdicts(one) for one in sums} == pass_table(rows)


def entry(**changes: object) -> AuditEntry:
    """A promotion of gemini over sonnet."""
    fields: dict[str, object] = {
        "by": "me@here", "at": NOW, "action": "promote", "task": "summary", "version": 1, "change": "c1",
        "verdict": "PROMOTE", "reasons": ({"code": "gain", "text": "cheaper."},),
        "before": Route(task="summary", primary=SONNET), "after": Route(task="summary", primary=GEMINI),
    }  # fmt: skip
    return AuditEntry(**{**fields, **changes})  # type: ignore[arg-type]


def test_decisions_are_told_newest_first(tmp_path: Path) -> None:
    """The log becomes a timeline: who, what, from where to where, why; mere splits are left out, interrupted ones marked."""
    canary = Route(task="summary", primary=GEMINI, canary=Canary(candidate=HAIKU, share=0.25))
    log = [
        entry(),
        entry(action="traffic", verdict="", change="c2", version=2),
        entry(
            action="trial", change="c3", version=3, before=entry().after, after=canary, automatic=True, note="try it"
        ),
        entry(action="rollback", change="c4", version=4, at=NOW + 60, before=canary, after=None),
    ]
    told = decisions(log, current_version=3)
    assert [(one.action, one.before, one.after, one.why) for one in told] == [
        ("Rolled back", f"{GEMINI} + {HAIKU} 25\u00a0%", "–", "cheaper."),
        ("Trial started", GEMINI, f"{GEMINI} + {HAIKU} 25\u00a0%", "try it"),
        ("Changed", SONNET, GEMINI, "cheaper."),
    ]
    assert [one.in_force for one in told] == [False, True, True]
    assert [mark.words for mark in marks(told)["summary"]] == [
        f"Trial started: {GEMINI} + {HAIKU} 25\u00a0%", f"Changed: {GEMINI}",
    ]  # fmt: skip
    page = write_report(
        calls=[], recommendations=[], path=tmp_path / "r.html", title="t",
        generated_at=NOW, history=log, table_version=3,
    )  # fmt: skip
    html = page.read_text(encoding="utf-8")
    assert "interrupted, never in force" in html
    assert "try it" in html


def test_a_decision_gives_the_reason_about_its_own_models() -> None:
    """Of several reasons the timeline gives the first about the model that was left or taken, else the first of all."""
    reasons = (
        {"code": "gain", "text": f"{GEMINI}-lite is better."},
        {"code": "gain", "text": f"{HAIKU} is better."},
        {"code": "gain", "text": f"{GEMINI} is better."},
        {"code": "refuted", "text": f"{SONNET} is too slow."},
    )
    told = decisions([entry(reasons=reasons), entry(change="c2", reasons=reasons[:2])], current_version=1)
    assert [one.why for one in told] == [f"{GEMINI}-lite is better.", f"{GEMINI} is better."]


def test_a_thousand_tasks_have_rows_and_the_urgent_ones_sections(tmp_path: Path) -> None:
    """Every task has its row; sixty have a section, changes first; the page stays small."""
    items = [recommendation(f"task {number:04}", "KEEP") for number in range(1000)]
    items[700] = recommendation("task 0700", "PROMOTE")
    view = view_of(items)  # type: ignore[arg-type]
    assert len(view.tasks) == 1000
    assert len(view.detailed) == 60
    assert [task.name for task in view.detailed if task.verdict == "PROMOTE"] == ["task 0700"]
    assert len(view.unknown) == 200
    path = write_report(calls=[], recommendations=items, path=tmp_path / "r.html", title="t", generated_at=NOW)
    html = path.read_text(encoding="utf-8")
    assert html.count('data-verdict="') == 1000
    assert "Shown are 60 of 1,000 tasks" in html
    assert len(html) < 3_000_000


def test_open_questions_say_how_many_runs_they_need() -> None:
    """What is not decided names the runs that would decide it, what is not proven those that would prove it."""
    items = [
        recommendation("a", "TRIAL", runs_needed=120),
        recommendation("b", "INSUFFICIENT", runs_needed=30, candidates=(candidate(GEMINI, runs_needed=30),)),
    ]
    words = " ".join(text for _, text in view_of(items).unknown)  # type: ignore[arg-type]
    assert "about 120 more runs would decide" in words
    assert f"30 more runs needed ({GEMINI}: 30)" in words
    assert "944 more runs" in words


def test_nothing_is_lost_in_money() -> None:
    """Costs of all steps together are the costs of the rows."""
    rows = [call_row(cost_usd=0.001 * number, started_at_ns=(NOW + HOUR * number) * 10**9) for number in range(1, 90)]
    sums = fold(evidence_of_calls(rows)[0])
    assert math.isclose(
        sum(step.cost_sum for step in sums.candidates[SONNET].steps.values()), math.fsum(r.cost_usd or 0 for r in rows)
    )

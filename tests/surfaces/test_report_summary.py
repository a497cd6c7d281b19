"""The comparison table in numbers."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.report_data import GEMINI, HAIKU, SONNET, call_row, call_rows
from tierwise.surfaces.summary import pass_table, quantile, summarise


def test_published_comparison() -> None:
    """Five tasks twice on three models: 10 runs each, scores 1.00, 0.80, 0.80, and only strict JSON fails."""
    rows = call_rows()
    summaries = summarise(rows)
    assert {model: (s.runs, s.task_score, s.json_valid_rate) for model, s in summaries.items()} == {
        SONNET: (10, 0.8, 0.0),
        HAIKU: (10, 0.8, 0.0),
        GEMINI: (10, 1.0, 1.0),
    }
    table = pass_table(rows)
    assert table["strict-json"] == {SONNET: "fail", HAIKU: "fail", GEMINI: "pass"}
    assert all(set(cells.values()) == {"pass"} for task, cells in table.items() if task != "strict-json")


def test_numbers_of_one_model() -> None:
    """Each figure is the plain statistic of the runs."""
    rows = [
        call_row(
            duration_s=float(n),
            output_chars=100 * n,
            retries=n % 2,
            cost_usd=0.01,
            outcome="success" if n < 4 else "truncated",
        )
        for n in (1, 2, 3, 4)
    ]
    summary = summarise(rows)[SONNET]
    assert summary.latency_mean_s == summary.latency_median_s == 2.5
    assert (summary.latency_min_s, summary.latency_max_s) == (1.0, 4.0)
    assert summary.latency_p95_s == pytest.approx(3.85)
    assert summary.output_chars_mean == 250
    assert (summary.retries, summary.successes, summary.task_score) == (2, 3, 0.75)
    assert summary.cost_usd == pytest.approx(0.04)
    assert summary.cost_per_success_usd == pytest.approx(0.04 / 3)
    assert summary.json_valid_rate is None


def test_finish_reasons_other_than_a_normal_ending_are_counted() -> None:
    """`length` and `content_filter` count, `stop` and `tool_calls` do not, several choices count once."""
    rows = [
        call_row(finish_reasons=reasons)
        for reasons in (("stop",), ("length", "length"), ("tool_calls",), ("content_filter",), ())
    ]
    summary = summarise(rows)[SONNET]
    assert summary.non_stop_finish_reasons == 2
    assert summary.finish_reasons == {"stop": 1, "length": 2, "tool_calls": 1, "content_filter": 1}


def test_calls_with_one_run_id_are_one_run_of_the_first_model() -> None:
    """A run of two calls is charged to its first model with both costs; its success is the last call's."""
    rows = [
        call_row(run_id="r1", rung=1, candidate=SONNET, cost_usd=0.02, started_at_ns=2),
        call_row(
            run_id="r1",
            rung=0,
            candidate=GEMINI,
            outcome="json_fenced",
            cost_usd=0.001,
            started_at_ns=1,
            duration_s=0.5,
        ),
    ]
    summaries = summarise(rows)
    assert (summaries[GEMINI].runs, summaries[GEMINI].successes) == (1, 1)
    assert summaries[GEMINI].cost_usd == pytest.approx(0.021)
    assert summaries[GEMINI].latency_mean_s == 0.5
    assert summaries[SONNET].runs == 0
    assert summaries[SONNET].latency_mean_s is None


def test_cancelled_and_rejected_calls_are_outside() -> None:
    """They say nothing about a model: no run, no latency, counted apart."""
    rows = [call_row(), call_row(outcome="cancelled", duration_s=99.0), call_row(outcome="rejected", duration_s=99.0)]
    summary = summarise(rows)[SONNET]
    assert (summary.runs, summary.not_counted, summary.latency_max_s) == (1, 2, 1.0)
    assert pass_table(rows[1:]) == {}


def test_unknown_costs_are_never_zero() -> None:
    """Runs without a price stay outside the cost; without any price, and without a success, there is no figure."""
    mixed = summarise([call_row(cost_usd=0.5), call_row(cost_usd=None)])[SONNET]
    assert (mixed.cost_usd, mixed.cost_per_success_usd, mixed.unpriced) == (0.5, 0.5, 1)
    unknown = summarise([call_row(cost_usd=None)])[SONNET]
    assert (unknown.cost_usd, unknown.cost_per_success_usd) == (None, None)
    failed = summarise([call_row(outcome="empty", cost_usd=0.5)])[SONNET]
    assert (failed.cost_usd, failed.cost_per_success_usd) == (0.5, None)


def test_mixed_results_say_how_many() -> None:
    """Neither all nor none: successes of runs."""
    assert pass_table([call_row(), call_row(outcome="empty"), call_row()]) == {"summary": {SONNET: "mixed 2/3"}}


def test_json_form_of_the_summary_has_the_documented_fields() -> None:
    """The JSON form carries every field of the comparison table."""
    fields = set(summarise(call_rows())[GEMINI].to_json())
    assert fields >= {
        "runs",
        "latency_mean_s",
        "latency_median_s",
        "latency_p95_s",
        "latency_min_s",
        "latency_max_s",
        "task_score",
        "output_chars_mean",
        "non_stop_finish_reasons",
        "json_valid_rate",
        "retries",
        "cost_usd",
        "cost_per_success_usd",
    }


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50), st.integers(1, 99))
def test_quantile_is_the_inclusive_one(values: list[float], percent: int) -> None:
    """The quantile equals the standard library's inclusive method."""
    expected = statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
    assert quantile(values, percent / 100) == pytest.approx(expected, rel=1e-9, abs=1e-9)

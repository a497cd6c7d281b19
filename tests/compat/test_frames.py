"""Rows of the store as frames of the real pandas and polars, and the notebook over the simulated gateway's calls."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.calls import START_NS, make_call
from tierwise.core.call import CheckResult, Run, TaskContext, Try
from tierwise.core.evidence import EvidenceRow
from tierwise.core.receipt import Verdict, receipt_of
from tierwise.evidence import CallRow, SqliteStore, to_pandas, to_polars

pytestmark = [pytest.mark.vendors, pytest.mark.filterwarnings("ignore")]

STARTED = datetime.fromtimestamp(START_NS // 10**9, UTC)
NOTEBOOK = Path(__file__).parent.parent.parent / "docs" / "examples" / "explore.ipynb"


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """Two calls, one with a check, a label and a failed try, one unpriced and without tokens; a run and a verdict."""
    rich = make_call(
        context=TaskContext(name="summary", labels={"tenant": "a.b"}, risk="high"),
        checks=(CheckResult(name="short", score=0.25, passed=False),),
        failed_tries=(Try(number=1, status=429, backoff_s=0.5, ended_at_ns=7),),
        json_form="plain",
        retries=1,
        trace_id=255,
    )
    poor = make_call(
        "other", usage=None, cost=None, outcome="error", error_type="RateLimitError", started_at_ns=START_NS + 1
    )
    run = Run(
        run_id="r", task="summary", candidate="m", epoch="e", arm="pinned", grade="observational",
        started_at_ns=START_NS, duration_s=3.0, calls=2, success=True, outcome="success", cost_usd=None,
    )  # fmt: skip
    with SqliteStore.open(tmp_path / "t.db") as opened:
        opened.write([rich, poor, run, verdict_on(rich)])
        yield opened


def verdict_on(call: Any) -> Verdict:
    """A user's yes to a call."""
    return Verdict(receipt=receipt_of(call), accepted=True, score=0.5, comment="fine", at_ns=START_NS + 5)


def test_pandas_calls(store: SqliteStore) -> None:
    """Times are UTC, words strings, numbers nullable; labels and checks have columns of their own."""
    frame: Any = store.calls().to_pandas()
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert kinds["started_at"] == "datetime64[ns, UTC]"
    assert kinds["outcome"] == kinds["arm"] == kinds["labels.tenant"] == kinds["risk"] == "string"
    assert (kinds["input_tokens"], kinds["retries"], kinds["cost_usd"]) == ("Int64", "int64", "float64")
    assert (kinds["stream"], kinds["json_valid"], kinds["checks.short.passed"]) == ("bool", "boolean", "boolean")
    first, second = frame.to_dict("records")
    assert first["started_at"].to_pydatetime() == STARTED
    assert (first["labels.tenant"], first["checks.short.score"], first["checks.short.passed"]) == ("a.b", 0.25, False)
    assert (first["cost_usd"], first["input_tokens"], first["finish_reasons"]) == (0.001, 100, ["stop"])
    assert first["failed_tries"][0]["status"] == 429
    assert frame["cost_usd"].isna().tolist() == frame["input_tokens"].isna().tolist() == [False, True]
    assert second["error_type"] == "RateLimitError"
    assert "started_at_ns" not in frame


def test_polars_calls(store: SqliteStore) -> None:
    """The same columns, with lists of their own types and null where nothing is."""
    import polars

    frame: Any = store.calls().to_polars()
    assert list(frame.columns) == list(store.calls().to_pandas().columns)
    kinds = frame.schema
    assert kinds["started_at"] == polars.Datetime("ns", "UTC")
    assert kinds["outcome"] == kinds["arm"] == kinds["labels.tenant"] == polars.String
    assert (kinds["input_tokens"], kinds["cost_usd"]) == (polars.Int64, polars.Float64)
    assert kinds["finish_reasons"] == polars.List(polars.String)
    first, second = frame.to_dicts()
    assert first["started_at"] == STARTED
    assert first["failed_tries"] == [
        {"number": 1, "status": 429, "error_type": None, "backoff_s": 0.5, "ended_at_ns": 7}
    ]
    assert (first["trace_id"], first["checks.short.passed"]) == ("0" * 30 + "ff", False)
    assert (second["cost_usd"], second["labels.tenant"], second["checks.short.score"]) == (None, None, None)


def test_runs_feedback_and_evidence(store: SqliteStore) -> None:
    """Everything that the store reads becomes a frame of either library, sums in USD and hours in UTC."""
    for convert, name in ((to_pandas, "to_pandas"), (to_polars, "to_polars")):
        runs: Any = getattr(store.runs(), name)()
        assert (list(runs["calls"]), list(runs["success"])) == ([2], [True])
        feedback: Any = getattr(store.feedback(), name)()
        assert (list(feedback["accepted"]), list(feedback["comment"])) == ([True], ["fine"])
        assert "given_at" in feedback.columns
        evidence: Any = convert(store.evidence())
        assert sorted(evidence["cost_sum_usd"]) == [0.0, 0.0, 0.001]
        assert sorted(evidence["outcomes.success"]) == [0, 0, 1]
        (hour,) = set(evidence["bucket_start"])
        assert hour == STARTED.replace(minute=0, second=0)


def test_frames_without_rows_have_their_columns(store: SqliteStore) -> None:
    """Nothing found is a frame with the same columns and types, so that a program goes on."""
    none, some = store.calls(task="nobody").to_pandas(), store.calls(task="other").to_pandas()
    assert len(none) == 0
    assert none.dtypes.to_dict() == some.dtypes.to_dict()
    assert store.calls(task="nobody").to_polars().schema == store.calls(task="other").to_polars().schema
    assert list(to_pandas([]).columns) == list(to_pandas([], kind=CallRow).columns) == list(none.columns)
    assert "cost_sum_usd" in to_polars([], kind=EvidenceRow).columns


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs over the demo's calls; frames, plan and chart come out; none of it is stored in the file."""
    import nbformat
    from nbclient import NotebookClient

    command = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "demo", "--rounds", "6"]
    subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, check=True)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert len(tables) == 5
    assert "gemini-3.5-flash" in tables[1]
    assert "strict-json" in tables[3]
    (chart,) = (output["data"]["image/png"] for output in shown if "image/png" in output.get("data", {}))
    assert len(chart) > 5_000

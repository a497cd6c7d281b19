"""What the page shows, as plain values: every number is already in words, every name already harmless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tierwise.surfaces.report.candidates import Row, TaskScatter
from tierwise.surfaces.report.charts import TaskCharts
from tierwise.surfaces.report.decisions import Decision
from tierwise.surfaces.report.flow import Flow

VERDICT_WORDS: Final = {
    "PROMOTE": "Change to the recommended model: the gain is shown and success is not worse.",
    "KEEP": "Leave it as it is: no candidate is shown to be better.",
    "TRIAL": "A gain is shown, but not yet that success holds: try it on a part of the traffic.",
    "HOLD": "Change nothing automatically: something needs a person's look.",
    "INSUFFICIENT": "Too few runs to say anything yet.",
    "ROLLBACK": "Return to the model before: the new one broke a limit.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task: its verdict, its route, the reasons, its candidates side by side and its charts."""

    ident: str
    name: str
    raw_name: str
    """As recorded, for links of the live pages; everywhere else `name` is shown."""
    verdict: str
    verdict_words: str
    grade: str
    current: str
    primary: str
    changes: bool
    challenger: str
    fallbacks: str
    ladder: str
    saving_per_1000: str
    saving_per_month: str
    confidence: str
    why: tuple[str, ...]
    """What the table of routes says: the first reason and, for a change, the first about the candidate to change to."""
    reasons: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    """Candidate and its part in the route."""
    rows: tuple[Row, ...]
    scatter: TaskScatter | None
    runs_needed: int
    input_hash: str
    charts: TaskCharts | None = None
    flow: Flow | None = None
    detailed: bool = True
    """Whether the page has a section about the task, beside its row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model of the comparison table: its cells in the order of the measures, each with an optional second figure."""

    name: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Task × model: `pass`, `fail` or `mixed`, with its words; tasks beyond the longest table that helps are counted."""

    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """Everything on the page."""

    title: str
    generated: str
    simulated: bool
    lede: tuple[str, ...]
    facts: str
    notes: tuple[str, ...]
    tasks: tuple[TaskView, ...]
    models: tuple[ModelRow, ...]
    scale_words: str
    matrix: Matrix
    unknown: tuple[tuple[str, str], ...]
    unknown_left_out: int
    sources: tuple[tuple[str, str], ...]
    verdict_words: tuple[tuple[str, str], ...]
    decisions: tuple[Decision, ...] = ()
    charts_json: str = "{}"
    empty: bool = False
    """Nothing was recorded and no task is known."""

    @property
    def detailed(self) -> list[TaskView]:
        """The tasks that have a section of their own."""
        return [task for task in self.tasks if task.detailed]

"""The report: one self-contained HTML page from evidence, calls, recommendations and decisions; no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tierwise.core.recommendation import Recommendation

if TYPE_CHECKING:
    from tierwise.advisor import AuditEntry
    from tierwise.evidence import CallRow
    from tierwise.surfaces.report.sums import TaskSums


def write_report(
    *,
    calls: Iterable[CallRow],
    recommendations: Sequence[Recommendation],
    path: Path,
    title: str,
    simulated: bool = False,
    notes: Sequence[str] = (),
    generated_at: int,
    store: str | None = None,
    latency_scale: float = 1.0,
    sums: Sequence[TaskSums] | None = None,
    history: Sequence[AuditEntry] = (),
    table_version: int | None = None,
) -> Path:
    """Write the report and return its path; the file appears complete or not at all, readable by its owner alone.

    `generated_at` is in Unix seconds. `store` names where the calls came from, for the footer. With a `latency_scale`
    other than 1 the comparison table shows each latency times it beside the measured one. Names and notes may hold anything:
    they are shown, never interpreted.

    `sums` are all traffic of the window (`sums.fold`, a task each); `calls` need only be its latest rows then. Without
    them they are made from the calls. `history` is the audit log, oldest entry first, `table_version` that of
    the route table.

    Raises:
        OSError: the file cannot be written.
    """
    from tierwise.surfaces.report.data import build
    from tierwise.surfaces.report.render import render, write

    view = build(
        calls=calls,
        recommendations=recommendations,
        title=title,
        simulated=simulated,
        notes=notes,
        generated_at=generated_at,
        store=store,
        latency_scale=latency_scale,
        sums=sums,
        history=history,
        table_version=table_version,
    )
    return write(Path(path), render(view))

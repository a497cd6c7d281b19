"""Verdicts in the store: one row for each call or run that was judged, and what it adds to the evidence of its own hour.

A verdict may come days after its call, before the call's row is written, after it was pruned, twice, or be changed. What a
row has added to the evidence is written in the row itself, so that it can be taken back exactly.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final

from tierwise.core.call import Arm, Grade, Run
from tierwise.core.evidence import Evidence, Key, bucket_of, key_of_run
from tierwise.core.receipt import Receipt, Verdict, unit_of_run
from tierwise.core.records import dataclass
from tierwise.evidence.rollup import merge
from tierwise.evidence.rows import RUN_COLUMNS, SELECT_RUNS, run_row


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRow:
    """The verdict in force on one call or run: Unix nanoseconds, USD.

    Task to round and `bucket` say where it counts, `succeeded` and `cost_usd` what it was counted with. A run that was
    judged before it ended is not `settled` until it is stored.
    """

    unit: str
    task: str
    candidate: str
    epoch: str
    arm: Arm
    rung: int
    grade: Grade
    bucket: int
    session: str
    round: int
    started_at_ns: int
    provider: str
    run_id: str | None
    response_id: str | None
    trace_id: str
    span_id: str
    accepted: bool | None
    score: float | None
    comment: str | None
    given_at_ns: int
    settled: bool
    succeeded: bool
    cost_usd: float | None

    @property
    def key(self) -> Key:
        """Where it counts."""
        return Key(
            task=self.task,
            candidate=self.candidate,
            epoch=self.epoch,
            arm=self.arm,
            rung=self.rung,
            grade=self.grade,
            bucket=self.bucket,
            session=self.session,
            round=self.round,
        )

    def to_json(self) -> dict[str, object]:
        """The row as plain JSON values under its column names."""
        return asdict(self)

    def evidence(self, sign: int = 1) -> Evidence:
        """What it adds to the evidence; with `sign=-1` what takes that back."""
        if self.accepted is None:
            return Evidence()
        found = Evidence.of_feedback(accepted=self.accepted, succeeded=self.succeeded, cost_usd=self.cost_usd)
        if sign > 0:
            return found
        return Evidence(
            accepted=-found.accepted,
            rejected=-found.rejected,
            successes=-found.successes,
            priced_successes=-found.priced_successes,
            cost_success_sum=-found.cost_success_sum,
        )


_COLUMNS: Final = tuple(one.name for one in fields(FeedbackRow))
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM feedback"  # noqa: S608 - names of ours
_UPSERT: Final = (
    f"INSERT OR REPLACE INTO feedback ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of ours
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_FLAGS: Final = ("accepted", "settled", "succeeded")


def take_verdicts(connection: sqlite3.Connection, verdicts: Iterable[Verdict]) -> None:
    """Record verdicts and move their evidence; the caller has begun a transaction that excludes other writers.

    The same verdict again changes nothing. Of two verdicts on one call the later one counts, in whatever order they come.
    """
    for verdict in verdicts:
        known = feedback_row_of(connection, verdict.receipt.unit)
        _put(connection, known, _judged(_unjudged(connection, known, verdict.receipt), verdict))


def settle_runs(connection: sqlite3.Connection, runs: Sequence[Run]) -> None:
    """Now that runs are stored: verdicts that came before move to where their runs count, with what those really were."""
    if not runs or connection.execute("SELECT 1 FROM feedback WHERE settled = 0 LIMIT 1").fetchone() is None:
        return
    for run in runs:
        known = feedback_row_of(connection, unit_of_run(_text(run.task), _text(run.run_id), run.started_at_ns))
        if known is not None and not known.settled:
            _put(connection, known, _as_run(known, run))


def feedback_row_of(connection: sqlite3.Connection, unit: str) -> FeedbackRow | None:
    """The verdict in force on a call or run; `unit` is the receipt's."""
    found = connection.execute(f"{_SELECT} WHERE unit = ?", (unit,)).fetchone()
    return None if found is None else feedback_row(found)


def feedback_rows(connection: sqlite3.Connection, task: str | None, since_ns: int | None) -> Iterator[FeedbackRow]:
    """Verdicts in order of their calls' start, Unix nanoseconds."""
    statement = f"{_SELECT} WHERE started_at_ns >= ? AND (? IS NULL OR task = ?) ORDER BY started_at_ns, unit"
    return map(feedback_row, connection.execute(statement, (since_ns or 0, task, task)).fetchall())


def feedback_row(values: Sequence[Any]) -> FeedbackRow:
    """A row from the values of the columns, as the database holds them."""
    found = dict(zip(_COLUMNS, values, strict=True))
    for name in _FLAGS:
        found[name] = None if found[name] is None else bool(found[name])
    return FeedbackRow(**found)


def _judged(row: FeedbackRow, verdict: Verdict) -> FeedbackRow:
    """The row with what a verdict says; what it does not say stays."""
    overtaken = row.given_at_ns > verdict.at_ns

    def said(before: Any, now: Any) -> Any:
        return before if now is None or (overtaken and before is not None) else now

    return replace(
        row,
        accepted=said(row.accepted, verdict.accepted),
        score=said(row.score, verdict.score),
        comment=said(row.comment, None if verdict.comment is None else _text(verdict.comment)),
        given_at_ns=max(row.given_at_ns, verdict.at_ns),
    )


def _unjudged(connection: sqlite3.Connection, known: FeedbackRow | None, receipt: Receipt) -> FeedbackRow:
    """The row to write a verdict into: the known one, else a new one with what the store, then the receipt, says."""
    if known is not None and (known.settled or not receipt.settled):
        return known
    key = receipt.key
    row = FeedbackRow(
        unit=receipt.unit,
        task=key.task,
        candidate=key.candidate,
        epoch=key.epoch,
        arm=key.arm,
        rung=key.rung,
        grade=key.grade,
        bucket=key.bucket,
        session=key.session,
        round=key.round,
        started_at_ns=receipt.started_at_ns,
        provider=receipt.provider,
        run_id=receipt.run_id,
        response_id=receipt.response_id,
        trace_id=f"{receipt.trace_id:032x}" if receipt.trace_id else "",
        span_id=f"{receipt.span_id:016x}" if receipt.span_id else "",
        accepted=None if known is None else known.accepted,
        score=None if known is None else known.score,
        comment=None if known is None else known.comment,
        given_at_ns=0 if known is None else known.given_at_ns,
        settled=receipt.settled,
        succeeded=receipt.succeeded,
        cost_usd=receipt.cost_usd,
    )
    if receipt.run_id is not None:
        run = _stored_run(connection, receipt)
        return row if run is None else _as_run(row, run)
    # The row's cost may have been computed again since the receipt was made.
    stored = connection.execute(
        "SELECT cost_usd FROM calls WHERE started_at_ns = ? AND task = ? AND candidate = ? AND span_id = ?",
        (row.started_at_ns, row.task, row.candidate, row.span_id),
    ).fetchone()
    return row if stored is None else replace(row, cost_usd=stored[0])


def _stored_run(connection: sqlite3.Connection, receipt: Receipt) -> Run | None:
    found = connection.execute(
        f"{SELECT_RUNS} WHERE started_at_ns = ? AND task = ? AND run_id = ?",
        (receipt.started_at_ns, receipt.task, receipt.run_id),
    ).fetchone()
    return None if found is None else run_row(found[-len(RUN_COLUMNS) :])


def _as_run(row: FeedbackRow, run: Run) -> FeedbackRow:
    key = key_of_run(run)
    return replace(
        row,
        candidate=_text(key.candidate),
        epoch=key.epoch,
        arm=key.arm,
        rung=key.rung,
        grade=key.grade,
        bucket=bucket_of(run.started_at_ns),
        session=key.session,
        round=key.round,
        settled=True,
        succeeded=run.success,
        cost_usd=run.cost_usd,
    )


def _put(connection: sqlite3.Connection, known: FeedbackRow | None, made: FeedbackRow) -> None:
    """Write a row in the place of a known one, and move what it adds to the evidence."""
    if made == known:
        return
    counted = (None, None) if known is None else (known.key, known.evidence())
    if (made.key, made.evidence()) != counted:
        changes: dict[Key, Evidence] = {}
        if known is not None:
            changes[known.key] = known.evidence(sign=-1)
        changes[made.key] = changes.get(made.key, Evidence()) + made.evidence()
        merge(connection, {key: evidence for key, evidence in changes.items() if evidence != Evidence()})
    connection.execute(_UPSERT, tuple(getattr(made, name) for name in _COLUMNS))


def _text(text: str) -> str:
    """The text as the store keeps it: lone surrogates replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")

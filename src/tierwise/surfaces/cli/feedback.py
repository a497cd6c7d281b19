"""`tierwise feedback`: a verdict on an earlier call, by its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tierwise.core.errors import StoreError
from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.common import (
    clean,
    config_option,
    emit_json,
    is_there,
    json_option,
    read_settings,
    say,
    store_option,
    when,
)
from tierwise.surfaces.cli.manual import manual

if TYPE_CHECKING:
    from pathlib import Path

    from tierwise.core.receipt import Receipt
    from tierwise.evidence.feedback import FeedbackRow

_FLUSH_S = 10.0


@click.command(
    "feedback",
    epilog=manual(
        "tierwise feedback tw1.WyJzdW1… --accept",
        "tierwise feedback tw1.WyJzdW1… --reject --comment 'wrong total'",
        "tierwise feedback tw1.WyJzdW1… --score 0.8",
        fault="no receipt, forged, too old, or the verdict could not be recorded",
    ),
)
@click.argument("receipt", shell_complete=complete.receipts)
@click.option("--accept/--reject", "accepted", default=None, help="Whether the answer was accepted.")
@click.option("--score", type=click.FloatRange(0, 1), metavar="NUMBER", help="How good it was, from 0 to 1.")
@click.option("--comment", metavar="TEXT", help="Why; kept in the store and sent with the evaluation event.")
@json_option
@config_option
@store_option
def command(
    receipt: str,
    accepted: bool | None,
    score: float | None,
    comment: str | None,
    as_json: bool,
    config: str | None,
    store: str | None,
) -> None:
    """Say what became of the answer that RECEIPT stands for: accepted or not, a score, a comment.

    RECEIPT is what tierwise.receipt(response) returned. The verdict counts in the hour of its call; the same one again changes
    nothing, another one takes its place. TIERWISE_RECEIPT_KEY must be as where the receipt was made. Where OTEL_* variables
    ask for export, the verdict is exported as well. Exit 2: no receipt, forged, too old, or it could not be recorded.
    """
    from tierwise import runtime
    from tierwise.verdicts import give_feedback

    if accepted is None and score is None and comment is None:
        raise click.UsageError("say what became of the answer: --accept, --reject, --score or --comment")
    settings = read_settings(config, store)
    if settings.store_path is None:
        raise StoreError("the store is off (TIERWISE_STORE=off or --store off); name one with --store FILE")
    path = settings.store_path
    is_new = not is_there(path)

    def known(receipt: Receipt) -> bool:
        row = None if is_new else _row(path, receipt)
        return row is not None and row.accepted == accepted

    try:
        about = give_feedback(receipt, accepted=accepted, score=score, comment=comment, store=str(path), known=known)
        flushed = runtime.force_flush(_FLUSH_S)
    finally:
        runtime.shutdown()
    row = _row(path, about)
    if row is None or not flushed:
        raise StoreError(f"the verdict could not be recorded in {path}; `tierwise doctor` says why")
    if is_new:
        say(f"{path} is new: the verdict counts there, apart from its call", style="yellow")
    _show(row, path, as_json=as_json)


def _row(path: Path, about: Receipt) -> FeedbackRow | None:
    """The verdict in force on what a receipt is about."""
    from tierwise.evidence.sqlite import SqliteStore

    with SqliteStore.open(path) as opened:
        return opened.verdict(about.unit)


def _show(row: FeedbackRow, path: Path, *, as_json: bool) -> None:
    if as_json:
        emit_json({"store": path, "feedback": row.to_json()})
        return
    said = {True: "accepted", False: "rejected", None: "not judged"}[row.accepted]
    more = "" if row.score is None else f", score {row.score:g}"
    click.echo(clean(f"{row.task}, {row.candidate}, {when(row.started_at_ns // 10**9)}: {said}{more}"))
    if not row.settled:
        say("its run has not been stored yet: it moves to its place as soon as it is")

"""`tierwise backtest --ladder`: what a ladder would come to on prompts like the recorded ones, against its last rung alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from tierwise.surfaces.cli.common import cell, count, emit_json, make_table, money, out, percent, say

if TYPE_CHECKING:
    from tierwise.advisor.ladders import LadderForecast, Predicted
    from tierwise.advisor.outcomes import TaskOutcomes


def foretell(
    tasks: Sequence[TaskOutcomes],
    ladder: str,
    *,
    runs: int | None,
    detection: str,
    false_alarms: str,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """Print the forecast of every task that has the ladder's models; the others are told on stderr.

    Raises:
        EvidenceError: no task can be foretold; the message is the first one's.
        click.BadParameter: a share that is none.
    """
    from tierwise.advisor.ladders import Signals, forecast
    from tierwise.core.errors import EvidenceError

    rungs = [name.strip() for name in ladder.split(",") if name.strip()]
    signals = Signals(detection=_share(detection, "--detection"), false_alarms=_share(false_alarms, "--false-alarms"))
    found: list[LadderForecast] = []
    faults: list[EvidenceError] = []
    for task in tasks:
        try:
            found.append(forecast(task, rungs, runs=runs, signals=signals))
        except EvidenceError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    remarks = [f"left out: {error}" for error in faults]
    for remark in remarks:
        say(remark)
    if not as_json:
        _print(found)
        return
    own = {"ladder": rungs, "runs": runs, "detection": signals.detection, "false_alarms": signals.false_alarms}
    emit_json({"settings": settings | own, "remarks": remarks, "ladders": {one.task: one.to_json() for one in found}})


def _share(text: str, option: str) -> float:
    from tierwise.config.units import share

    try:
        return share(text if text.strip().endswith("%") else float(text))
    except ValueError as error:
        raise click.BadParameter(f"{error}; write a share such as 90%", param_hint=option) from None


def _print(found: Sequence[LadderForecast]) -> None:
    names = ("Prompts", "Success", "Escalated", "Cost / success", "Saving")
    table = make_table("Task", *names, right=names, whole=("Task",))
    for one in found:
        table.add_row(
            cell(one.task), count(one.prompts), _rate(one.success_rate), _rate(one.escalated),
            money(one.cost_per_success_usd.point), _rate(one.saving),
        )  # fmt: skip
    out().print(table)
    period = "in the long run" if found[0].runs is None else f"in {count(found[0].runs)} runs of each task"
    ladder, alone = " → ".join(found[0].ladder), found[0].against
    out().print(
        Text(f"{cell(ladder)}, {period}; saving in cost per success against {cell(alone)} alone"), soft_wrap=True
    )


def _rate(made: Predicted) -> str:
    limits = made.to_json()
    if limits["low"] is None or limits["high"] is None:
        return percent(made.point)
    return f"{percent(made.point)} ({100 * limits['low']:.1f} to {100 * limits['high']:.1f})"

"""`tierwise backtest`: replay recorded outcomes through the rules, beside what people do instead."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from tierwise.surfaces.cli.common import (
    cell,
    count,
    emit_json,
    json_option,
    make_table,
    money,
    out,
    percent,
    read_policy,
    read_settings,
    say,
)
from tierwise.surfaces.cli.foretell import foretell
from tierwise.surfaces.cli.manual import manual
from tierwise.surfaces.cli.progress import progress

if TYPE_CHECKING:
    from tierwise.advisor.backtest import Settings
    from tierwise.core.policy import Policy

KINDS = ("tierwise", "naive", "epsilon-greedy", "thompson", "static")

FILE = click.Path(dir_okay=False)


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """A range lets NaN and infinity through."""
    del context, parameter
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("write an amount in USD, such as 0.02")
    return value


@click.command(
    "backtest",
    epilog=manual(
        "tierwise backtest --outcomes outcomes.csv",
        "tierwise backtest --outcomes outcomes.csv --explore 20% --seeds 1-6 --json",
        "tierwise backtest --outcomes outcomes.csv --policy-kind thompson --seeds 1-6",
        "tierwise backtest --outcomes outcomes.csv --explore 20% --apply-every 24",
        "tierwise backtest --outcomes outcomes.csv --ladder cheap-model,strong-model --runs 5000",
        fault="wrong use or configuration, or the outcomes cannot be read",
    ),
)
@click.option("--outcomes", type=FILE, required=True, metavar="FILE", help="Recorded outcomes, CSV.")
@click.option(
    "--policy", "config", type=FILE, metavar="FILE", help="Policy file [default: the loss, all models, auto]."
)
@click.option("--policy-kind", type=click.Choice(KINDS), default="tierwise", show_default=True, help="Who chooses.")
@click.option("--steps", type=click.IntRange(1, 100_000), default=300, show_default=True, help="Hours to replay.")
@click.option(
    "--calls-per-step", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Runs of a task in each."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the draws.")
@click.option("--seeds", metavar="A-B", help="Several seeds, such as 1-6: the mean, and each.")
@click.option(
    "--explore", metavar="adaptive|PCT", help="Traffic for challengers [default: the policy's, else adaptive]."
)
@click.option(
    "--start", metavar="best|cheapest|first|MODEL", default="best", show_default=True, help="The first primary."
)
@click.option(
    "--value-of-success", type=click.FloatRange(min=0, min_open=True), metavar="USD", callback=_finite,
    help="What a success is worth [default: 0.02, for llmrouter: tasks 0.001].",
)  # fmt: skip
@click.option(
    "--apply-every", type=click.IntRange(0), default=0, metavar="N",
    help="A person applies what is recommended, every N steps [default: apply: auto].",
)  # fmt: skip
@click.option(
    "--task", "wanted", multiple=True, metavar="TASK", help="Only tasks whose names begin so; may be repeated."
)
@click.option(
    "--ladder", metavar="A,B,…", help="No replay: what a ladder of these models would save against its last rung alone."
)
@click.option(
    "--runs", type=click.IntRange(1), metavar="N", help="With --ladder: runs to come [default: the long run]."
)
@click.option(
    "--detection", default="100%", show_default=True, metavar="PCT", help="With --ladder: failures that escalate."
)
@click.option(
    "--false-alarms", default="0%", show_default=True, metavar="PCT", help="With --ladder: successes that escalate."
)
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes [default: one a core].")
@json_option
def command(
    outcomes: str, config: str | None, policy_kind: str, steps: int, calls_per_step: int, seed: int, seeds: str | None,
    explore: str | None, start: str, value_of_success: float | None, apply_every: int, wanted: tuple[str, ...],
    ladder: str | None, runs: int | None, detection: str, false_alarms: str, jobs: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Replay recorded outcomes through the very rules that decide live, and count what they cost.

    A file has the columns task, prompt_id, model, success (0 or 1), cost_usd, and may have latency_s, output_tokens,
    json_valid and time. Regret is what was lost against the best fixed model of each task, cost and failures in USD.
    With --ladder nothing is replayed: each prompt is taken through the ladder, and figures come with prediction intervals.
    """
    from tierwise.advisor.backtest import Settings, backtest, ready, summary
    from tierwise.advisor.outcomes import read_outcomes, unread_columns

    settings = Settings(
        kind=policy_kind,  # type: ignore[arg-type]
        steps=steps,
        calls_per_step=calls_per_step,
        explore=_explore(explore),
        start=start,
        value_of_success=value_of_success,
        apply_every=apply_every,
        policy=_policy(config),
    )
    tasks = tuple(task for task in read_outcomes(Path(outcomes)) if not wanted or task.task.startswith(wanted))
    if not tasks:
        raise click.UsageError(f"no task in {outcomes} begins with {' or '.join(wanted)}")
    if ladder is not None:
        foretell(
            tasks, ladder, runs=runs, detection=detection, false_alarms=false_alarms, settings={"outcomes": outcomes},
            as_json=as_json,
        )  # fmt: skip
        return
    if runs is not None or (detection, false_alarms) != ("100%", "0%"):
        raise click.UsageError("--runs, --detection and --false-alarms go with --ladder; a replay has --steps")
    tasks, remarks = ready(tasks, settings)
    if unread := unread_columns(Path(outcomes)):
        remarks = (*remarks, f"columns that are not read: {', '.join(unread)}")
    chosen = _seeds(seeds) if seeds is not None else [seed]
    processes = jobs or os.cpu_count() or 1
    with progress("replaying", len(tasks) * len(chosen)) as done:
        results = backtest(tasks, settings, chosen, jobs=processes, done=done)
    document = {"settings": _described(settings, outcomes, chosen), "remarks": list(remarks), **summary(results)}
    for remark in remarks:
        say(remark)
    if as_json:
        emit_json(document)
    else:
        _print(document)


def _policy(config: str | None) -> Policy | None:
    return None if config is None else read_policy(read_settings(config=config, store=None))


def _explore(text: str | None) -> Any:
    if text is None:
        return None
    from tierwise.config.units import explore

    try:
        return explore(float(text) / 100 if text.strip().replace(".", "", 1).isdigit() and float(text) > 1 else text)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(f"{error}; write adaptive or a share such as 20%", param_hint="--explore") from None


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    try:
        found = list(range(int(first), int(last or first) + 1))
    except ValueError:
        found = []
    if not found or len(found) > 1000:
        raise click.BadParameter("write a range such as 1-6", param_hint="--seeds")
    return found


def _described(settings: Settings, outcomes: str, seeds: list[int]) -> dict[str, Any]:
    return {
        "outcomes": outcomes,
        "policy_kind": settings.kind,
        "steps": settings.steps,
        "calls_per_step": settings.calls_per_step,
        "explore": settings.explore,
        "start": settings.start,
        "value_of_success_usd": settings.value_of_success,
        "apply_every": settings.apply_every,
        "seeds": seeds,
    }


def _print(document: dict[str, Any]) -> None:
    total, number = document["total"], document["settings"]
    seeds = len(number["seeds"])
    table = make_table(
        "", "Regret / 1,000", "Success", "Cost / 1,000", right=("Regret / 1,000", "Success", "Cost / 1,000")
    )
    for name, figures in (
        (number["policy_kind"], total),
        ("best model of each task", total["oracle"]),
        ("most successful model", total["always_best"]),
        ("cheapest model", total["always_cheapest"]),
    ):
        table.add_row(
            name,
            money(figures["regret_per_1000_usd"]),
            percent(figures["success_rate"]),
            money(figures["cost_per_1000_usd"]),
        )
    out().print(table)
    text = (
        f"{count(total['tasks'])} tasks, {count(total['runs'])} runs"
        + (f" over {seeds} seeds" if seeds > 1 else "")
        + f"; {total['route_changes_per_task']:.2f} changes of the route a task, wrong ones in "
        f"{total['histories_with_a_wrong_change']} of {total['histories']} histories"
    )
    out().print(Text(text), soft_wrap=True)
    table = make_table(
        "Task",
        "Start",
        "Final route",
        "Best",
        "Regret / 1,000",
        "Changes",
        right=("Regret / 1,000", "Changes"),
        whole=("Task",),
    )
    for task, figures in document["tasks"].items():
        changes = figures["route_changes"]
        table.add_row(
            cell(task), cell(figures["start"]), cell(figures["final_route"]), cell(figures["oracle"]["model"]),
            money(figures["regret_per_1000_usd"]), f"{changes:.1f}" if seeds > 1 else str(changes),
        )  # fmt: skip
    out().print(table)

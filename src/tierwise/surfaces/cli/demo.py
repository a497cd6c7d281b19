"""`tierwise demo`: see the whole line work on simulated models."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierwise.surfaces.cli.common import clean, emit_json, json_option, out, say
from tierwise.surfaces.cli.manual import manual
from tierwise.surfaces.cli.progress import progress

if TYPE_CHECKING:
    from tierwise.core.recommendation import Reason, Recommendation
    from tierwise.surfaces.demo.story import Demo, Look


@click.command("demo", epilog=manual("tierwise demo", "tierwise demo --json --seed 7 --until decided"))
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same decisions.")
@click.option(
    "--rounds",
    type=click.IntRange(2, 1000),
    default=40,
    show_default=True,
    help="Rounds in all; the first 2 are as published.",
)
@click.option("--until", type=click.Choice(["decided"]), help="Stop as soon as every task has a verdict.")
@click.option(
    "--store", type=click.Path(dir_okay=False), metavar="FILE",
    help="The demo's own store [default: demo/ beside TIERWISE_STORE, else .tierwise/demo/].",
)  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE", help="Where to write the HTML report.")
@json_option
def command(seed: int, rounds: int, until: str | None, store: str | None, report: str | None, as_json: bool) -> None:
    """See it work on simulated models: no key, no network, under a minute.

    A gateway on this machine simulates three models behind real HTTP. The demo compares them on five tasks as published,
    goes on for more rounds, and recommends a route for each task. Everything it shows is simulated. Your own store is never
    written: the demo has one of its own.
    """
    from tierwise.surfaces.demo.document import document
    from tierwise.surfaces.demo.models import LATENCY_SCALE
    from tierwise.surfaces.demo.story import MODELS, Demo, find_places

    places = find_places(store=store, report=report)
    say(
        f"simulated: a gateway on this machine answers for {', '.join(MODELS)}; latencies are the published ones divided "
        f"by {LATENCY_SCALE}, and so are the limits of the policy. No key, no network."
    )
    with Demo(places, seed=seed) as demo:
        with progress("simulated: published comparison", demo.calls_to_come(2) + demo.probe_calls()) as advance:
            demo.compare(advance)
        first = demo.look()
        if not as_json:
            _show_first(demo, first)
        with progress("simulated: more rounds", demo.calls_to_come(rounds)) as advance:
            demo.go_on(rounds, advance, until_decided=until == "decided")
        last = demo.look()
        demo.report(last)
        if as_json:
            emit_json(document(first, last, places, seed=seed))
        else:
            _show_last(demo, last)
    if as_json:
        say(f"simulated calls are in {places.store}; the report is {places.report}")
    elif places.policy is not None:
        options = f"--store {_short(places.store)} --config {_short(places.policy)}"
        say(f"\nLook closer: {program()} explain strict-json {options}")


def program() -> str:
    """How to start tierwise again from the user's shell: `uv run` puts it on the path of what it runs alone."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ or shutil.which("tierwise") is None:
        return "uv run tierwise"
    return "tierwise"


def _short(path: Path) -> str:
    """A path for a shell, relative to the current folder where it is in it."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _show_first(demo: Demo, look: Look) -> None:
    from tierwise.surfaces.bench.tables import budget_table

    console = out()
    _show(look, f"{look.rounds} published rounds")
    console.print(budget_table(look.budget, title="Token budget (simulated)"))
    for line in look.budget.advice:
        console.print(clean(f"Advice: {line}"), soft_wrap=True)
    console.print()
    _show_routes(demo, look, "what two runs a task can tell")
    console.print(
        "Two runs show what happened twice, not how often it happens, so no route changes yet. They can tell that an\n"
        "answer was fenced or cut; they cannot tell a rate, a p95 or a gain apart from luck.\n"
    )


def _show_last(demo: Demo, look: Look) -> None:
    _show(look, f"{look.rounds} rounds")
    _show_routes(demo, look, f"what {look.rounds} runs a task tell")
    console = out()
    console.print(clean("Why (simulated):"))
    for one in look.recommendations:
        for reason in shown_reasons(one):
            console.print(clean(f"  {one.task}: {reason.text}"), soft_wrap=True)
    console.print()
    console.print(clean(f"Report (simulated): {demo.places.report}"), soft_wrap=True)
    console.print(clean(f"Store (simulated):  {demo.places.store}"), soft_wrap=True)


def shown_reasons(item: Recommendation) -> list[Reason]:
    """The first two reasons and, for a change, what keeps another candidate from being the one to change to."""
    route = (item.current, item.primary)
    others = [
        reason
        for reason in item.reasons[2:]
        if reason.code in ("guardrail_failing", "guardrail_refuted") and reason.candidate not in route
    ]
    return [*item.reasons[:2], *(others[:1] if item.verdict == "PROMOTE" else ())]


def _show(look: Look, when: str) -> None:
    from tierwise.surfaces.bench.tables import comparison_table, failures_of, task_table
    from tierwise.surfaces.demo.models import LATENCY_SCALE

    console = out()
    title = f"Comparison after {when} (simulated; latency as measured, in brackets at the published scale, × {LATENCY_SCALE})"
    console.print(comparison_table(look.models, title=title, console=console, scale=LATENCY_SCALE))
    console.print()
    console.print(task_table(look.tasks, failures_of(look.calls), title=f"Tasks after {when} (simulated)"))
    console.print()


def _show_routes(demo: Demo, look: Look, what: str) -> None:
    from tierwise.surfaces.bench.tables import route_table
    from tierwise.surfaces.demo.story import policy_lines

    console = out()
    console.print("Policy (simulated):")
    for line in policy_lines(demo.policy):
        console.print(clean(f"  {line}"), soft_wrap=True)
    console.print()
    console.print(route_table(look.recommendations, title=f"Recommended routes: {what} (simulated)"))
    console.print()

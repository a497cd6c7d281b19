"""`tierwise watch`: plan every hour, apply what may be applied, tell what is new; or once, for cron and CI."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from tierwise.core import wording
from tierwise.surfaces.cli.common import (
    Duration,
    clean,
    config_option,
    emit_jsonl,
    json_option,
    read_settings,
    say,
    since_option,
    store_option,
    when,
    who,
)
from tierwise.surfaces.cli.manual import manual
from tierwise.surfaces.cli.plan import findings, make_plan, tasks_option
from tierwise.surfaces.cli.source import Source, source_options

if TYPE_CHECKING:
    from tierwise.advisor import Plan
    from tierwise.advisor.news import News
    from tierwise.advisor.watch import Look, Observer
    from tierwise.config import Settings
    from tierwise.core.policy import Policy
    from tierwise.core.route import RouteTable
    from tierwise.telemetry.routes import RouteMetrics

MEMORY_NAME: Final = "watch.json"
"""Beside the route file: what the watch has seen and said."""
URL_VARIABLE: Final = "TIERWISE_WEBHOOK"
TOKEN_VARIABLE: Final = "TIERWISE_WEBHOOK_TOKEN"  # noqa: S105 - a name


@click.command(
    "watch",
    epilog=manual(
        "tierwise watch",
        "tierwise watch --once --no-apply              # in CI",
        "TIERWISE_WEBHOOK=https://hooks.slack.com/… tierwise watch --webhook-format slack",
        finding="with --once: a route should change or a guardrail is broken, and nothing was done about it",
        fault="with --once: something could not be read, written or sent; else wrong use or configuration",
    ),
)
@tasks_option
@click.option(
    "--every", type=Duration(), default="1h", show_default=True, help="How often; evidence comes by the hour."
)
@click.option("--once", is_flag=True, help="One look, then exit: for cron and CI.")
@click.option("--apply/--no-apply", default=True, help="Change routes of tasks with `apply: auto` [default: --apply].")
@click.option(
    "--webhook", metavar="URL", envvar=URL_VARIABLE,
    help=f"POST what is new to this address [default: {URL_VARIABLE}, which keeps it out of process lists]; "
    f"{TOKEN_VARIABLE} is sent as a bearer token.",
)  # fmt: skip
@click.option(
    "--webhook-format", type=click.Choice(["json", "slack"]), default="json", show_default=True,
    help="What the webhook takes: our own JSON, or Slack's.",
)  # fmt: skip
@click.option("--exit-zero", is_flag=True, help="With --once: exit 0 on findings too.")
@click.option("--by", metavar="WHO", help="Who decides, for the audit log [default: user@host].")
@since_option("30d")
@json_option
@config_option
@store_option
@source_options
def command(
    tasks: tuple[str, ...],
    more_tasks: tuple[str, ...],
    every: int | None,
    once: bool,
    apply: bool,
    webhook: str | None,
    webhook_format: str,
    exit_zero: bool,
    by: str | None,
    since: int | None,
    as_json: bool,
    config: str | None,
    store: str | None,
    source: Source,
) -> None:
    """Look at the evidence now and after every full hour: decide, apply, tell what is new.

    Routes change only for tasks whose policy says `apply: auto`; of others it is told what is recommended. News are
    verdicts, routes, broken guardrails and drift that the looks before did not have; they go to stderr and to the
    webhook. Each look is one line on stdout, with --json one JSON document a line.

    Metrics (`tierwise.route.*`, `tierwise.decision.*`) go where the standard OTEL_* variables say. What goes wrong in a
    look is said and counted, and the next look goes on. Ctrl-C and SIGTERM end it cleanly after the look under way.

    With --once: exit 1 when a route should change or a guardrail is broken and nothing was done about it, 2 when
    something could not be read, written or sent.
    """
    if every is None or every < 1:
        raise click.UsageError("--every wants a duration of a second or more, 1h as a rule")
    settings = read_settings(config, store)
    stop = threading.Event()
    watch_tell = _tell(webhook, webhook_format, stop)
    with _metrics() as metrics:
        from tierwise.advisor.watch import Watch, run

        watch = Watch(
            decide=_decide(settings, since=since, tasks=(*tasks, *more_tasks), source=source),
            routes_path=settings.routes_path,
            audit_path=settings.audit_path,
            memory_path=settings.routes_path.with_name(MEMORY_NAME),
            by=by or who(),
            apply=apply,
            tell=watch_tell,
            observer=metrics,
        )
        if once:
            look = watch.look(int(time.time()))
            show(look, as_json=as_json)
            _exit(look, exit_zero=exit_zero)
            return
        with _stopping(stop):
            run(watch, lambda look: show(look, as_json=as_json), every_s=every, stop=stop, clock=time.time)
    say(f"stopped{f'; {watch.failures:,} look(s) had errors' if watch.failures else ''}")


def show(look: Look, *, as_json: bool) -> None:
    """One line of data, and on stderr what is new and what went wrong."""
    if as_json:
        emit_jsonl(iter([{**look.to_json(), "findings": _findings(look)}]))
    else:
        click.echo(clean(line(look)))
        for news in look.news:
            say(f"  {news.task and news.task + ': '}{news.text}")
    for error in look.errors:
        say(f"error: {error}", style="red")


def line(look: Look) -> str:
    """A look in one line."""
    head = when(look.at)
    if look.plan is None:
        return f"{head}  the look failed: {look.errors[0] if look.errors else 'unknown'}"
    verdicts = ", ".join(f"{number:,} {verdict}" for verdict, number in look.verdicts.items())
    parts = [f"{len(look.plan.recommendations):,} task(s): {verdicts}", f"routes at version {look.version}"]
    parts += [_change(change) for change in look.made]
    if look.splits:
        parts.append(f"traffic split anew for {look.splits:,}")
    if saving := look.saving_per_month_usd():
        parts.append(f"{wording.usd(saving)} a month could be saved")
    parts.append(f"{len(look.news):,} new")
    return f"{head}  " + "  ·  ".join(parts)


def _change(change: Any) -> str:
    old = change.before.primary if change.before is not None else "none"
    new = change.after.primary if change.after is not None else "none"
    canary = change.after.canary if change.after is not None else None
    more = f" + {canary.candidate} {wording.percent(canary.share)}" if canary is not None else ""
    return f"{change.task}: {change.action} {old if old == new else f'{old} → {new}'}{more}"


def _findings(look: Look) -> list[str]:
    return findings(look.open)


def _exit(look: Look, *, exit_zero: bool) -> None:
    if look.errors:
        raise click.exceptions.Exit(2)
    found = _findings(look)
    if found:
        say(f"{len(found)} finding(s): " + "; ".join(found), style="yellow")
        if not exit_zero:
            raise click.exceptions.Exit(1)


def _decide(
    settings: Settings, *, since: int | None, tasks: Sequence[str], source: Source
) -> Callable[[], tuple[Plan, Policy | None]]:
    """Policy, evidence and routes are read anew for each look, so what changes on disk counts from then on."""

    looks = itertools.count()

    def decide() -> tuple[Plan, Policy | None]:
        return make_plan(settings, since=since, tasks=tasks, quiet=next(looks) > 0, source=source)

    return decide


def _tell(
    url: str | None, webhook_format: str, stop: threading.Event
) -> Callable[[Sequence[News], int, int], None] | None:
    if not url:
        return None
    from tierwise.advisor.notify import Webhook

    webhook = Webhook(
        url=url,
        format="slack" if webhook_format == "slack" else "json",
        token=os.environ.get(TOKEN_VARIABLE) or None,
        sleep=stop.wait,
    )

    def tell(news: Sequence[News], at: int, lost: int) -> None:
        webhook.send(news, at=at, lost=lost)

    return tell


class _Shown:
    """Looks as metrics."""

    def __init__(self, metrics: RouteMetrics) -> None:
        self._metrics = metrics

    def seen(self, look: Look, table: RouteTable | None) -> None:
        """A look that failed leaves the gauges as they were."""
        self._metrics.count_look(ok=not look.errors)
        if look.plan is not None and table is not None:
            self._metrics.show(look.plan.recommendations, table)

    def flush(self) -> bool:
        """Export now."""
        return self._metrics.force_flush()


@contextmanager
def _metrics() -> Iterator[Observer | None]:
    """Metrics where the environment asks for them, else none: nothing of OpenTelemetry is loaded then."""
    from tierwise.telemetry.setup import exporter_names

    if not exporter_names("METRICS"):
        yield None
        return
    from tierwise import __version__
    from tierwise.telemetry.routes import RouteMetrics

    metrics = RouteMetrics(version=__version__)
    try:
        yield _Shown(metrics)
    finally:
        metrics.shutdown()


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end the watch after the look under way; the second one ends it at once."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def end(kind: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(kind, before[signal.Signals(kind)])

    for kind in kinds:
        signal.signal(kind, end)
    try:
        yield
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)

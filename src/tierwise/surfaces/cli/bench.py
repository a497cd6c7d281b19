"""`tierwise bench`: measure models on a suite of tasks through any OpenAI-compatible URL."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from tierwise.core.errors import ConfigError
from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.common import (
    clean,
    config_option,
    emit_json,
    is_there,
    json_option,
    open_store,
    out,
    read_policy,
    read_settings,
    say,
    store_option,
)
from tierwise.surfaces.cli.manual import manual
from tierwise.surfaces.cli.progress import progress

if TYPE_CHECKING:
    from openai import OpenAI

    from tierwise.config import Settings
    from tierwise.evidence import CallRow
    from tierwise.surfaces.bench.runner import Bench, Options
    from tierwise.surfaces.bench.suite import Suite

_DEFAULT_URL = "https://api.openai.com/v1"
_TIMEOUT_S = 120.0


class _OrNone(click.ParamType[Any]):
    """A number, or `none` to leave the parameter out of the requests."""

    def __init__(self, number: click.ParamType[Any]) -> None:
        self._number = number
        self.name = number.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or `None` for `none`."""
        if value is None or str(value).strip().lower() == "none":
            return None
        return self._number.convert(value, param, ctx)


@click.command(
    "bench",
    epilog=manual(
        "tierwise bench --models gpt-5-mini,gpt-5 --runs 10 --base-url https://api.openai.com/v1",
        "tierwise bench --models llama-3.3-70b --base-url http://localhost:8000/v1 --store .tierwise/bench.db",
        "tierwise bench --suite mine.yaml --models gpt-5-mini,gpt-5 --task invoice --no-probe --json",
        fault="wrong use or configuration, or no call was answered",
    ),
)
@click.option("--suite", default="developer", show_default=True, metavar="FILE|NAME", help="A YAML file, or developer.")
@click.option(
    "--models", required=True, metavar="A,B,C", help="Model names, separated by commas.", shell_complete=complete.models
)
@click.option(
    "--base-url", metavar="URL", help=f"Where the API begins [default: OPENAI_BASE_URL, else {_DEFAULT_URL}]."
)
@click.option(
    "--api-key-env", default="OPENAI_API_KEY", show_default=True, metavar="NAME", help="Variable that holds the key."
)
@click.option(
    "--runs", type=click.IntRange(1, 10_000), default=2, show_default=True, help="Runs of each task and model."
)
@click.option("--concurrency", type=click.IntRange(1, 256), default=4, show_default=True, help="Calls in flight.")
@click.option(
    "--temperature", type=_OrNone(click.FLOAT), default="0", show_default=True, help="Sent with each call, or none."
)
@click.option(
    "--max-tokens",
    type=_OrNone(click.IntRange(1)),
    default="2048",
    show_default=True,
    help="Sent with each call, or none.",
)
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task of the suite; may be repeated.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the order of calls in a round.")
@click.option("--no-probe", is_flag=True, help="Leave out the token-budget probe.")
@click.option("--allow-code", is_flag=True, help="Run answers' code for python_tests checks, in a limited subprocess.")
@config_option
@store_option
@json_option
def command(
    suite: str,
    models: str,
    base_url: str | None,
    api_key_env: str,
    runs: int,
    concurrency: int,
    temperature: float | None,
    max_tokens: int | None,
    tasks: Sequence[str],
    seed: int,
    no_probe: bool,
    allow_code: bool,
    config: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Measure models on a suite of tasks through any OpenAI-compatible URL.

    Every round asks each task of each model once, in random order. The calls are recorded in the store like any others,
    so `tierwise plan` can use them: as randomised runs they decide about a task of the same name before the runs of your
    traffic do. --store keeps them apart.
    """
    from tierwise.surfaces.bench.reach import unique
    from tierwise.surfaces.bench.runner import Options
    from tierwise.surfaces.bench.suite import load_suite

    chosen = load_suite(suite).only(tasks)
    if no_probe:
        chosen = chosen.without_probe()
    options = Options(
        models=unique(models.split(",")),
        concurrency=concurrency,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        allow_code=allow_code,
    )
    if not options.models:
        raise ConfigError("--models names no model; write --models gpt-5-mini,gpt-5")
    settings = read_settings(config, store)
    if settings.store_path is None:
        raise ConfigError("bench needs a store to measure with; name one with --store FILE instead of off")
    url = _checked_url(base_url)
    if shared := _live_tasks(settings, chosen):
        names = ", ".join(shared)
        say(
            f"warning: {settings.store_path} holds live calls of {names}; the suite {chosen.name!r} uses the same "
            f"name{'s' if len(shared) > 1 else ''}. Its runs are randomised, and `tierwise plan` compares models by randomised "
            "runs before the observational ones of your traffic: verdicts would rest on this suite's prompts. To keep them "
            "apart, stop (Ctrl-C) and use --store .tierwise/bench.db, or --task, or a suite with other names",
            style="yellow",
        )
    calls, bench = _measure(chosen, options, settings, url=url, key_name=api_key_env, runs=runs)
    if as_json:
        emit_json(
            _document(chosen, options, calls, session=bench.session, base_url=url, store=str(settings.store_path))
        )
    else:
        _show(chosen, options, calls)
    if not allow_code and any(task.code_checks for task in chosen.tasks):
        say("python_tests checks are left out: they run the answers' code; allow it with --allow-code")
    for model, error in bench.failures.items():
        say(f"{model}: some calls failed, the last with {type(error).__name__}: {str(error)[:300]}", style="yellow")
    named = "" if store is None else f" --store {shlex.quote(store)}"
    say(f"recorded in {settings.store_path} as session {bench.session}; see `tierwise plan{named}`")


def _live_tasks(settings: Settings, suite: Suite) -> list[str]:
    """Tasks of the suite under whose names the store holds calls that no bench made."""
    if settings.store_path is None or not is_there(settings.store_path):
        return []
    with open_store(settings) as opened:
        keys = [row.key for row in opened.evidence(tasks=[task.name for task in suite.tasks])]
    return sorted({key.task for key in keys if not key.session})


def _checked_url(base_url: str | None) -> str:
    url = base_url or os.environ.get("OPENAI_BASE_URL") or _DEFAULT_URL
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"--base-url {url!r} is not a URL of an API; write https://host/v1")
    return url


def _measure(
    suite: Suite, options: Options, settings: Settings, *, url: str, key_name: str, runs: int
) -> tuple[list[CallRow], Bench]:
    """Run the session and read its calls back from the store.

    Raises:
        ConfigError: no key, no server, an unknown model, or no call of a model was answered.
    """
    key = os.environ.get(key_name, "").strip()
    if not key:
        raise ConfigError(
            f"no API key: the variable {key_name} is not set; set it, or name another with --api-key-env "
            "(any value will do for a server that checks no key)"
        )
    import tierwise
    from tierwise.surfaces.bench.reach import check_models
    from tierwise.surfaces.bench.runner import Bench, new_session

    policy = read_policy(settings)
    with ExitStack() as stack:
        client = stack.enter_context(_client(url, key))
        check_models(client.with_options(max_retries=0), options, base_url=url, key_name=key_name)
        stack.callback(tierwise.shutdown)
        tierwise.instrument(client, config=policy, store=settings.store_path)
        bench = stack.enter_context(Bench(client, suite, options, session=new_session("bench")))
        with progress("runs", bench.calls_of(runs) + bench.probe_calls()) as advance:
            bench.run(range(runs), done=advance)
            bench.probe(done=advance)
        with tierwise.open_store(settings.store_path) as store:
            calls = list(store.calls(session=bench.session))
    _nothing_answered(options, calls, bench, url)
    return calls, bench


def _client(url: str, key: str) -> OpenAI:
    from openai import OpenAI

    return OpenAI(base_url=url, api_key=key, timeout=_TIMEOUT_S)


def _nothing_answered(options: Options, calls: list[CallRow], bench: Bench, url: str) -> None:
    answered = {call.candidate for call in calls if call.outcome not in ("error", "rejected", "cancelled")}
    silent = [model for model in options.models if model not in answered]
    if len(silent) == len(options.models):
        error = bench.failures.get(silent[0])
        raise ConfigError(f"{url} answered no call of {', '.join(silent)}: {error}; check the models and the server")


def _show(suite: Suite, options: Options, calls: Sequence[CallRow]) -> None:
    from tierwise.surfaces.bench.budget import token_budget
    from tierwise.surfaces.bench.tables import (
        budget_table,
        comparison_table,
        failures_of,
        models_of,
        task_table,
        tasks_of,
    )

    console = out()
    console.print(
        comparison_table(models_of(suite, calls, models=options.models), title=f"Suite {suite.name}", console=console)
    )
    console.print()
    console.print(task_table(tasks_of(suite, calls, models=options.models), failures_of(calls), title="Tasks"))
    if suite.probe is not None:
        budget = token_budget(suite.probe, calls, models=options.models)
        console.print()
        console.print(budget_table(budget, title="Token budget"))
        for line in budget.advice:
            console.print(clean(f"Advice: {line}"), soft_wrap=True)


def _document(
    suite: Suite, options: Options, calls: Sequence[CallRow], *, session: str, base_url: str, store: str
) -> dict[str, object]:
    """Everything `bench` prints, as one JSON document; `models` and `tasks` leave the probe out."""
    from tierwise.surfaces.bench.budget import token_budget
    from tierwise.surfaces.bench.tables import models_of, tasks_of

    budget = None if suite.probe is None else token_budget(suite.probe, calls, models=options.models).to_json()
    return {
        "suite": suite.name,
        "session": session,
        "base_url": base_url,
        "models": {model: one.to_json() for model, one in models_of(suite, calls, models=options.models).items()},
        "tasks": tasks_of(suite, calls, models=options.models),
        "token_budget": budget,
        "store": store,
    }

"""`tierwise export`: the routes in force for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tierwise.core.errors import ConfigError
from tierwise.surfaces.cli.common import clean, config_option, read_policy, read_settings, say, store_option
from tierwise.surfaces.cli.manual import manual

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.surfaces.export.view import Routes

FORMATS: Final = ("litellm", "flagd", "json", "yaml", "env")


@click.command(
    "export",
    epilog=manual(
        "tierwise export --format litellm -o litellm.yaml",
        "tierwise export --format flagd",
        "tierwise export --format env >> .env",
        fault="wrong use or configuration, or there is neither a policy nor a route",
    ),
)
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="For whom.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Replace this file in one step instead of printing; only you can read it until you change its permissions.",
)  # fmt: skip
@click.option(
    "--api-base", metavar="URL", help="litellm: the OpenAI-compatible address of candidates without their own."
)
@click.option("--api-key-env", metavar="NAME", help="litellm: the environment variable with the key for --api-base.")
@config_option
@store_option
def command(
    form: str,
    output: Path | None,
    api_base: str | None,
    api_key_env: str | None,
    config: str | None,
    store: str | None,
) -> None:
    """Write the routes in force, with policy's order where there is no route yet, as another program reads them.

    Primary, fallbacks, shares as weights, tiers. What a format cannot say is narrated. Keys are named by their environment
    variable and never written. Exit 2: there is neither a policy nor a route.
    """
    if form != "litellm" and (api_base or api_key_env):
        raise click.UsageError("--api-base and --api-key-env belong to --format litellm")
    if api_key_env and not api_base:
        raise click.UsageError("--api-key-env needs --api-base")
    routes = _routes(read_settings(config, store))
    text = _text(form, routes, api_base, api_key_env)
    if output is None:
        click.echo(text, nl=False)
        return
    from tierwise.routing import replace_file

    replace_file(output.absolute(), text.encode("utf-8"))
    say(f"{output}: routes version {routes.version}, {len(routes.tasks)} task(s)")


def _routes(settings: Settings) -> Routes:
    from tierwise.core.policy import Policy
    from tierwise.routing import read_table
    from tierwise.surfaces.export.view import routes_of

    routes = routes_of(read_policy(settings) or Policy(), read_table(settings.routes_path))
    if not routes.tasks:
        raise ConfigError(
            f"nothing to export: no tierwise.yaml names candidates and {settings.routes_path} holds no route; write a policy, or "
            "`tierwise apply` a plan"
        )
    return routes


def _text(form: str, routes: Routes, api_base: str | None, api_key_env: str | None) -> str:
    from tierwise.surfaces.export import formats
    from tierwise.surfaces.export.litellm import to_litellm

    if form == "litellm":
        made = to_litellm(routes, api_base=api_base, api_key_env=api_key_env)
        for note in made.notes:
            say(f"note: {clean(note)}", style="yellow")
        return made.text
    if form == "flagd":
        return formats.to_flagd(routes)
    return {"json": formats.to_json, "yaml": formats.to_yaml, "env": formats.to_env}[form](routes)

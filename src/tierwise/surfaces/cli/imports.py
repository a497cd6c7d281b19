"""`tierwise import`: a policy from another program's configuration."""

from __future__ import annotations

from pathlib import Path

import click

from tierwise.core.errors import ConfigError
from tierwise.surfaces.cli.common import clean, say
from tierwise.surfaces.cli.manual import manual


@click.group("import", epilog=manual("tierwise import litellm config.yaml -o tierwise.yaml"))
def command() -> None:
    """Start a policy from another program's configuration."""


@command.command(
    "litellm",
    short_help="From the configuration of a LiteLLM proxy.",
    epilog=manual(
        "tierwise import litellm config.yaml",
        "tierwise import litellm config.yaml -o tierwise.yaml",
        fault="wrong use, FILE is no such configuration, or the output is there already",
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write the policy here instead of printing it; a file that is there stays, unless --force.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the output file.")
def litellm(file: Path, output: Path | None, force: bool) -> None:
    """Start a policy from FILE, the configuration of a LiteLLM proxy.

    Deployments become candidates, model groups and aliases tasks, fallbacks further candidates in order. Keys stay where they are:
    the policy names their environment variables. What could not be carried over is narrated and stands at the top of the policy,
    which `tierwise validate` accepts. Exit 2: FILE is no such configuration.
    """
    from tierwise.surfaces.export.from_litellm import policy_from_litellm

    if output is not None and output.exists() and not force:
        raise ConfigError(f"{output} is there already; name another file, or pass --force to replace it")
    made = policy_from_litellm(file)
    for note in made.notes:
        say(f"note: {clean(note)}", style="yellow")
    if output is None:
        click.echo(made.text, nl=False)
        return
    from tierwise.routing import replace_file

    replace_file(output.absolute(), made.text.encode("utf-8"))
    say(
        f"{output}: {made.tasks} task(s), {made.candidates} candidate(s); look it over, then `tierwise validate {output}`"
    )

"""`tierwise serve`: the report as live pages on this machine."""

from __future__ import annotations

import os
import secrets

import click

from tierwise.surfaces.cli.common import config_option, read_policy, read_settings, say, since_option, store_option
from tierwise.surfaces.cli.manual import manual

TOKEN_VARIABLE = "TIERWISE_SERVE_TOKEN"  # noqa: S105 - a name
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command(
    "serve",
    epilog=manual(
        "tierwise serve", "tierwise serve --port 0 --since 7d", fault="wrong use or configuration, or the port is taken"
    ),
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8477, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
    help="Address of this machine to listen on. Whoever reaches another one than loopback can read every page.",
)  # fmt: skip
@click.option("--title", default="Which model for which task", show_default=True, help="The pages' title.")
@click.option("--simulated", is_flag=True, help="Say on the pages that the calls were simulated.")
@since_option("30d")
@config_option
@store_option
def command(
    port: int, host: str, title: str, simulated: bool, since: int | None, config: str | None, store: str | None
) -> None:
    """Serve the report as live pages, with the calls behind it, until Ctrl-C.

    Approving a recommendation and rolling back need the token that is printed at the start (another one each time,
    unless TIERWISE_SERVE_TOKEN holds one of 16 characters or more). Pages never show prompts or answers.
    """
    from tierwise.core.errors import ConfigError
    from tierwise.surfaces.serve import listen, make_app, serve
    from tierwise.surfaces.serve.source import Source

    settings = read_settings(config, store)
    read_policy(settings)
    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(32)
    if len(token) < 16:
        raise ConfigError(f"{TOKEN_VARIABLE} is too short: 16 characters or more, or leave it unset")
    listening = listen(host, port)
    number = listening.getsockname()[1]
    names = _LOOPBACK if host in _LOOPBACK else (host, *_LOOPBACK)
    hosts = [f"[{name}]:{number}" if ":" in name else f"{name}:{number}" for name in names]
    if number == 80:
        hosts += [f"[{name}]" if ":" in name else name for name in names]
    shown = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    if host not in _LOOPBACK:
        say(f"warning: whoever reaches {shown} can read every page", style="yellow")
    click.echo(f"http://{shown}/")
    say(f"token for approving and rolling back: {token}")
    say(f"opens with it filled in: http://{shown}/#token={token}")
    say("Ctrl-C stops")
    source = Source(settings, since=since, title=title, simulated=simulated)
    serve(make_app(source, token=token, hosts=hosts), listening)
    say("stopped")

"""`tierwise schema`: the JSON Schema of tierwise.yaml, or of what a command prints with `--json`."""

from __future__ import annotations

import click

from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.common import emit_json
from tierwise.surfaces.cli.manual import manual


@click.command(
    "schema",
    epilog=manual(
        "tierwise schema > tierwise.schema.json",
        "tierwise schema --output plan                # of what `tierwise plan --json` prints",
        'tierwise schema --output "store status"',
        fault="wrong use",
    ),
)
@click.option(
    "--output",
    metavar="COMMAND",
    shell_complete=complete.documented,
    help="Of what COMMAND prints with --json, instead of tierwise.yaml.",
)
def command(output: str | None) -> None:
    """Print the JSON Schema (draft 2020-12) of tierwise.yaml; editors use it through a first line such as

    # yaml-language-server: $schema=tierwise.schema.json

    With --output COMMAND: of what that command prints with --json. It describes this version of tierwise; a later one
    may print more fields.
    """
    if output is not None:
        from tierwise.surfaces.cli.outputs import OUTPUTS, schema_of

        name = " ".join(output.split())
        if name not in OUTPUTS:
            raise click.UsageError(f"no command {output!r} prints --json; those that do: {', '.join(OUTPUTS)}")
        emit_json(schema_of(name))
        return
    from tierwise.config import json_schema

    emit_json(json_schema())

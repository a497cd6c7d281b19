"""`tierwise schema`: the JSON Schema of tierwise.yaml."""

from __future__ import annotations

import click

from tierwise.surfaces.cli.common import emit_json


@click.command("schema", epilog="Example:  tierwise schema > tierwise.schema.json")
def command() -> None:
    """Print the JSON Schema of tierwise.yaml; editors use it through a first line such as

    # yaml-language-server: $schema=tierwise.schema.json
    """
    from tierwise.config import json_schema

    emit_json(json_schema())

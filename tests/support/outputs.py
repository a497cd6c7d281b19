"""Checking what a command printed with `--json` against its documented shape."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from tierwise.surfaces.cli.outputs import schema_of


def holds(command: str, document: Any) -> None:
    """The document is what `tierwise schema --output COMMAND` describes."""
    for error in jsonschema_rs.validator_for(schema_of(command)).iter_errors(document):
        raise AssertionError(f"{command}: {error.message}"[:500], error.instance_path)

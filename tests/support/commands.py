"""Running the command line in tests: exit code, stdout and stderr apart."""

from __future__ import annotations

from click.testing import CliRunner, Result

from tierwise.surfaces.cli.group import cli


def tierwise(*arguments: str) -> Result:
    """Run `tierwise` with arguments in this process; no exception but an exit may leave it."""
    result = CliRunner().invoke(cli, list(arguments), prog_name="tierwise")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result

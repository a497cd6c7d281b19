"""The console entry `tierwise`: says how to install the extra where it is missing, else hands over to the group."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; exit 0 is fine, 1 a finding, 2 wrong use or configuration, 130 Ctrl-C."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.stderr.write(
            "tierwise: the command line is an extra and is not installed\n  pip install 'tierwise[cli]'\n"
            "Instrumentation works without it.\n"
        )
        sys.exit(2)
    from tierwise.surfaces.cli.group import cli

    sys.exit(cli.main(prog_name="tierwise"))


if __name__ == "__main__":
    main()

"""`tierwise run`: start any Python program with its OpenAI-compatible clients observed, without a change in its code."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import click

from tierwise.surfaces.cli.manual import manual

_AUTOLOAD: Final = Path(__file__).parent.parent / "autoload"


@click.command(
    "run",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=manual(
        "tierwise run app.py --port 8000",
        "tierwise run -m mypackage",
        "tierwise run --task chat gunicorn app:app",
        fine="the program's own",
        fault="wrong use, or no such program",
    ),
)
@click.option("--task", help="The task of calls made outside any tierwise.task().")
@click.option("--store", help="Where to record, or off; as TIERWISE_STORE.")
@click.option("--config", help="The policy file; as TIERWISE_CONFIG.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(task: str | None, store: str | None, config: str | None, command: tuple[str, ...]) -> None:
    """Run a program with every client of openai, groq, together or cerebras observed.

    COMMAND is a script (app.py), -m MODULE, or any command that starts Python (gunicorn, celery, pytest). Processes that
    it starts are observed too. The command replaces this process, so signals and the exit code are its own.
    """
    arguments = list(command)
    if arguments[0].startswith("-") and arguments[0] != "-m":
        raise click.UsageError(f"no such option: {arguments[0]}; see `tierwise run --help`")
    if arguments[0] == "-m" or arguments[0].endswith(".py"):
        arguments.insert(0, sys.executable)
    program = shutil.which(arguments[0])
    if program is None:
        raise click.UsageError(f"{arguments[0]!r} is not a command on PATH; a script needs its .py ending or a path")
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_AUTOLOAD), environment.get("PYTHONPATH")]))
    given = {"TIERWISE_TASK": task, "TIERWISE_STORE": store, "TIERWISE_CONFIG": config}
    environment |= {name: value for name, value in given.items() if value is not None}
    sys.stdout.flush()
    os.execve(program, arguments, environment)  # noqa: S606 - running it is what was asked for

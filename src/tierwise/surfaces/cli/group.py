"""The click group: a table of commands that are imported when called, and one place where errors become exit codes."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from tierwise.core.errors import TierwiseError
from tierwise.surfaces.cli.common import clean, err
from tierwise.surfaces.cli.manual import manual

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("tierwise.surfaces.cli.demo", "See it work on simulated models: no key, no network, under a minute."),
    "run": ("tierwise.surfaces.cli.run", "Start a Python program with its clients observed, its code unchanged."),
    "bench": ("tierwise.surfaces.cli.bench", "Measure models on a suite of tasks through any OpenAI-compatible URL."),
    "status": ("tierwise.surfaces.cli.status", "Tasks, models, success, cost and latency of recorded calls."),
    "calls": ("tierwise.surfaces.cli.calls", "List recorded calls."),
    "feedback": ("tierwise.surfaces.cli.feedback", "Say what became of an answer: accepted, rejected, a score."),
    "plan": ("tierwise.surfaces.cli.plan", "Recommend a route for each task, with reasons; changes nothing."),
    "explain": ("tierwise.surfaces.cli.explain", "Show everything behind one task's recommendation."),
    "apply": ("tierwise.surfaces.cli.apply", "Write recommended routes to the route file."),
    "promote": ("tierwise.surfaces.cli.promote", "Make a candidate the primary of a task, or its canary."),
    "abort": ("tierwise.surfaces.cli.abort", "End a task's canary; all traffic goes back to the primary."),
    "rollback": ("tierwise.surfaces.cli.rollback", "Return a task to the route it had before the last change."),
    "history": ("tierwise.surfaces.cli.history", "Show who changed which route, when and why."),
    "watch": ("tierwise.surfaces.cli.watch", "Plan every hour, apply what may be applied, tell what is new."),
    "backtest": (
        "tierwise.surfaces.cli.backtest",
        "Replay recorded outcomes through the rules; what they cost and save.",
    ),
    "report": ("tierwise.surfaces.cli.report", "Write one self-contained HTML page."),
    "serve": ("tierwise.surfaces.cli.serve", "Serve the report as live pages on this machine; approve and roll back."),
    "export": ("tierwise.surfaces.cli.export", "Write the routes for LiteLLM, flagd, JSON, YAML or the environment."),
    "import": ("tierwise.surfaces.cli.imports", "Start a policy from a LiteLLM configuration."),
    "validate": ("tierwise.surfaces.cli.validate", "Check tierwise.yaml; report every error as file:line:column."),
    "schema": ("tierwise.surfaces.cli.schema", "Print the JSON Schema of tierwise.yaml for editors."),
    "store": ("tierwise.surfaces.cli.store", "Where the store is, what it holds, and its upkeep."),
    "collector": (
        "tierwise.surfaces.cli.collector",
        "Configuration of an OpenTelemetry Collector: write it, check it.",
    ),
    "prices": ("tierwise.surfaces.cli.prices", "Prices in force, models without one, and repricing."),
    "doctor": ("tierwise.surfaces.cli.doctor", "Check the installation, configuration, store and losses."),
}
"""Name -> (module with a `command: click.Command`, one-line help); the order is the order of `tierwise --help`."""

_TO_DO: Final = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed; name another",
    errno.EEXIST: "a part of this path is a file where a folder is needed; name another",
    errno.EISDIR: "it is a folder; name a file",
    errno.EACCES: "check its owner and rights, or name another place",
    errno.EPERM: "check its owner and rights, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.EADDRINUSE: "name another port",
}
"""What to do about an error of the operating system."""
_TEMPORARY: Final = re.compile(r"(?<=/)\.(?P<name>[^/]+)\.[a-z0-9_]{8}\.tmp$")

CTRL_C: Final = 130
BROKEN_PIPE: Final = 141


class Failure(click.ClickException):
    """A message on stderr and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the message the way every tierwise error looks."""
        del file
        err().print(f"error: {self.message}", style="red", soft_wrap=True)


class LazyGroup(click.Group):
    """Imports a command's module when the command is called, so `tierwise --help` costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the table's order."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands from the table, without importing them; options as click offers them."""
        found = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown one, say which it may have been."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, COMMANDS)
            hint = f"did you mean {' or '.join(near)}?" if near else "`tierwise --help` lists those there are"
            raise click.UsageError(f"there is no command {clean(name)!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run as a program; what cannot be written even by `--help` is one message, too."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            sys.stderr.write(f"error: {clean(_message(error))}\n")
            _silence_stdout()
            sys.exit(Failure.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; every error becomes a message and the documented exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
            raise click.exceptions.Exit(BROKEN_PIPE) from None
        except (KeyboardInterrupt, click.Abort):
            err().print("\ninterrupted", style="yellow")
            raise click.exceptions.Exit(CTRL_C) from None
        except (TierwiseError, OSError, sqlite3.Error) as error:
            if os.environ.get("TIERWISE_DEBUG") == "1":
                err().print(clean(traceback.format_exc(), keep="\n"), soft_wrap=True)
            raise Failure(clean(_message(error), keep="\n")) from None
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            if os.environ.get("TIERWISE_RAISE") == "1":
                raise
            err().print(clean(traceback.format_exc(), keep="\n"), soft_wrap=True)
            message = f"a fault inside tierwise ({type(error).__name__}); please report it with the lines above"
            raise Failure(message) from None
        return result


def _message(error: Exception) -> str:
    if isinstance(error, sqlite3.Error):
        return f"the store cannot be read: {error}; `tierwise doctor` says more"
    if isinstance(error, OSError) and not isinstance(error, TierwiseError) and error.strerror is not None:
        place = "" if error.filename is None else f"{_TEMPORARY.sub(_meant, os.fsdecode(error.filename))}: "
        return f"{place}{error.strerror}; {_TO_DO.get(error.errno or 0, 'check the path and its rights')}"
    return str(error)


def _meant(match: re.Match[str]) -> str:
    """The file in whose place a temporary one was to be put."""
    return match["name"]


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain about the closed pipe."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=manual(
        "tierwise demo                                             # see it work",
        "tierwise plan                                             # what your own traffic recommends",
        'eval "$(_TIERWISE_COMPLETE=bash_source tierwise)"         # shell completion; or zsh_source, fish_source',
        finding="a finding (plan --check, doctor, …)",
        fault="wrong use or configuration, or something could not be read or written",
    ),
)
@click.version_option(package_name="tierwise", message="tierwise %(version)s")
def cli() -> None:
    """Which model should each task use, what does it really cost per success, and how sure are we?"""

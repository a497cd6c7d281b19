"""The click group: a table of commands that are imported when called, and one place where errors become exit codes."""

from __future__ import annotations

import os
import sqlite3
import sys
import traceback
from importlib import import_module
from typing import Any, Final

import click

from tierwise.core.errors import TierwiseError
from tierwise.surfaces.cli.common import clean, err

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
    if isinstance(error, OSError) and not isinstance(error, TierwiseError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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
    epilog="Exit codes: 0 fine, 1 a finding (plan --check), 2 wrong use or configuration. "
    'Shell completion: eval "$(_TIERWISE_COMPLETE=bash_source tierwise)" (or zsh_source, fish_source).',
)
@click.version_option(package_name="tierwise", message="tierwise %(version)s")
def cli() -> None:
    """Which model should each task use, what does it really cost per success, and how sure are we?

    \b
    tierwise demo       see it work
    tierwise plan       what your own traffic recommends
    """

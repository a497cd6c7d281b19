"""Every command's help suffices: what it is for, every option in words, examples that parse, exit codes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest

from support.commands import tierwise
from tierwise.surfaces.cli.group import COMMANDS, cli
from tierwise.surfaces.cli.manual import manual, read_manual


def every() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand by its path."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", one) for part, one in command.commands.items())


ALL = dict(every())


def read(line: str) -> list[str]:
    """The arguments of the first `tierwise` in a line for a shell."""
    words = shlex.split(line, comments=True)
    ends = [number for number, word in enumerate(words) if word in ("|", ">", ">>", "&&")]
    return words[words.index("tierwise") + 1 : ends[0] if ends else None]


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_how_and_how_it_ends(name: str) -> None:
    """The help has a sentence about the command, its examples and its exit codes, within 110 columns."""
    done = tierwise(*name.split(), "--help")
    assert done.exit_code == 0
    told = read_manual(ALL[name].epilog)
    assert ALL[name].help
    assert all(example in done.stdout for example in told.examples)
    assert f"Exit codes: {told.exits.split(';')[0]}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_explained(name: str) -> None:
    """No option without a help text that ends like a sentence, and a placeholder that says what it takes."""
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
            assert parameter.help[-1] in ".:", parameter.opts


@pytest.mark.parametrize("name", ALL)
def test_examples_can_be_typed(name: str) -> None:
    """Each example is about its own command, and its options and values are taken."""
    lines = [line for line in read_manual(ALL[name].epilog).examples if not line.startswith("sqlite3")]
    assert lines
    for line in lines:
        words = read(line)
        path = name.split()
        assert words[: len(path)] == path, line
        words, command = words[len(path) :], ALL[name]
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        made: Any = command.make_context(name, words)
        assert made.params is not None


def test_the_front_page_leads_on() -> None:
    """`tierwise --help` names exit codes and how to have the shell complete."""
    done = tierwise("--help")
    assert "Exit codes: 0 fine" in done.stdout
    assert "_TIERWISE_COMPLETE=bash_source" in done.stdout
    assert read_manual(cli.epilog).examples


@pytest.mark.parametrize("text", [None, "", "Examples: tierwise plan", manual("tierwise plan").partition("Exit")[0]])
def test_another_epilog_is_told_apart(text: str | None) -> None:
    """An epilog of another form is an error for whoever reads it."""
    with pytest.raises(ValueError, match="manual"):
        read_manual(text)


def test_a_manual_is_read_as_it_was_written() -> None:
    """Examples and exit codes come back."""
    found = read_manual(manual("tierwise a", "tierwise b  # why", finding="one", fault="two"))
    assert found.examples == ("tierwise a", "tierwise b  # why")
    assert found.exits == "0 fine; 1 one; 2 two."

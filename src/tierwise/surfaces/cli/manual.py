"""The end of every command's help: examples, one a line, and what its exit codes mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WRONG: Final = "wrong use or configuration"
OR_EMPTY: Final = f"{WRONG}, or nothing is recorded"
OR_ROUTES: Final = f"{WRONG}, or the route file cannot be read or written"
EVERYWHERE: Final = {130: "interrupted (Ctrl-C)", 141: "whoever read the output closed it"}
"""Exit codes that every command has and no help names."""

_EXAMPLES: Final = "Examples:"
_EXITS: Final = "Exit codes:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manual:
    """What `manual` put behind a help text: lines for a shell, and the exit codes in words."""

    examples: tuple[str, ...]
    exits: str


def manual(*examples: str, fine: str = "0 fine", finding: str = "", fault: str = WRONG) -> str:
    """The epilog of a command: lines for a shell, then the exit codes: what 1 means where there is one, what 2 means.

    `fine` is for a command that becomes another program, whose exit code it then has.
    """
    exits = [fine, *([f"1 {finding}"] if finding else ()), f"2 {fault}"]
    return "\n".join(["\b", _EXAMPLES, *(f"  {line}" for line in examples), "", f"{_EXITS} {'; '.join(exits)}."])


def read_manual(epilog: str | None) -> Manual:
    """What an epilog says.

    Raises:
        ValueError: `manual` did not make it.
    """
    head, _, exits = (epilog or "").partition(f"\n\n{_EXITS} ")
    first, *lines = head.removeprefix("\b\n").split("\n")
    if first != _EXAMPLES or not lines or not exits:
        raise ValueError("the epilog is not made by manual()")
    return Manual(examples=tuple(line.strip() for line in lines), exits=exits)

"""Progress: on a terminal alone, on stderr alone, for work that lasts."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

from support.planned import fill
from tierwise.surfaces.cli import progress

COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[\d;]*m")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would get."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, force_interactive=True, width=80, color_system=None)
    monkeypatch.setattr(progress, "err", lambda: console)
    return shown


def clock(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    """Each look at the clock is so much later."""
    ticks = itertools.count()
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: step_s * next(ticks)))


def test_work_that_lasts_has_a_bar(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a second the bar says what is done, and of how much; at the end it is taken away."""
    clock(monkeypatch, 1.0)
    with progress.lasting("deciding \x1b[31mtasks") as told:
        for done in range(1, 5):
            told(done, 4)
    assert "deciding \\x1b[31mtasks" in terminal.getvalue()
    assert "1/4" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_quick_work_has_none(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done at once flickers nothing."""
    clock(monkeypatch, 0.01)
    with progress.lasting("deciding") as told:
        for done in range(1, 5):
            told(done, 4)
    assert terminal.getvalue() == ""


def test_an_error_takes_the_bar_away(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar does not stay behind when the work fails."""
    clock(monkeypatch, 1.0)

    def fail() -> None:
        with progress.lasting("deciding") as told:
            told(1, 4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert "1/4" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_items_are_counted_by_the_thousand() -> None:
    """The items are the same, and every thousand is told."""
    told: list[tuple[int, int]] = []
    assert list(progress.counted(range(2500), 2500, lambda done, total: told.append((done, total)))) == list(
        range(2500)
    )
    assert told == [(1000, 2500), (2000, 2500)]


def test_a_sign_of_life(terminal: io.StringIO) -> None:
    """Work without a known end says what it is."""
    with progress.waiting("rewriting the file"):
        pass
    assert "rewriting the file" in terminal.getvalue()


def test_without_a_terminal_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bars of all kinds write nothing into a pipe."""
    clock(monkeypatch, 1.0)
    with progress.lasting("a") as told, progress.progress("b", 3) as step, progress.waiting("c"):
        told(1, 4)
        step()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("colour", [True, False])
def test_on_a_real_terminal(tmp_path: Path, colour: bool) -> None:
    """Bars go to the terminal on stderr, the document on stdout stays whole; NO_COLOR takes the colour away."""
    fill(tmp_path / "t.db")
    code = (
        "from tierwise.surfaces.cli import progress\nprogress.PATIENCE_S = 0.0\n"
        "from tierwise.surfaces.cli.entry import main\nmain()"
    )
    environment = {**os.environ, "TERM": "xterm-256color", **({} if colour else {"NO_COLOR": "1"})}
    ours, theirs = pty.openpty()
    program = [sys.executable, "-c", code, "plan", "--json", "--store", "t.db"]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path, env=environment, check=False)
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.returncode == 0
    assert json.loads(done.stdout)["recommendations"]
    assert b"deciding tasks" in shown
    assert (COLOUR.search(shown) is not None) is colour

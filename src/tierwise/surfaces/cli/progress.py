"""Progress on stderr, on a terminal only: bars of work with a known end, a sign of life for the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from tierwise.surfaces.cli.common import clean, err

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")

PATIENCE_S: Final = 0.5
"""Work that is done sooner shows no bar."""
_STEP: Final = 1_000


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many of `total` steps are done; yields what to call after each step, from any thread."""
    console = err()
    if not console.is_terminal or total <= 0:
        yield lambda: None
        return
    with _bar(console) as bar:
        task = bar.add_task(clean(text), total=total)
        yield lambda: bar.advance(task)


@contextmanager
def lasting(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far work is, once it has lasted a while; yields what to tell how much is done, and of how much."""
    console = err()
    if not console.is_terminal:
        yield _nobody_looks
        return
    began, bar = time.monotonic(), _bar(console)
    task = bar.add_task(clean(text), total=None)

    def told(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if not bar.live.is_started and done < total and time.monotonic() - began > PATIENCE_S:
            bar.start()

    try:
        yield told
    finally:
        if bar.live.is_started:
            bar.stop()


def _nobody_looks(done: int, total: int) -> None:
    del done, total


def counted(items: Iterable[T], total: int, told: Callable[[int, int], None]) -> Iterator[T]:
    """The same items; tells after every thousand."""
    for number, item in enumerate(items, start=1):
        if number % _STEP == 0:
            told(number, total)
        yield item


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A sign of life while something lasts whose end is not known."""
    console = err()
    if not console.is_terminal:
        yield
        return
    with console.status(clean(text)):
        yield


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)

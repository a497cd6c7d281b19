"""A progress bar on stderr, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tierwise.surfaces.cli.common import clean, err


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many of `total` steps are done; yields what to call after each step, from any thread."""
    console = err()
    if not console.is_terminal or total <= 0:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(clean(text), total=total)
        yield lambda: bar.advance(task)

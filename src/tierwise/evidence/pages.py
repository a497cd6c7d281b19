"""Recorded calls, a page at a time: a large store is never in memory as a whole, and no reader holds it open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from tierwise.evidence.rows import SELECT_CALLS

PAGE_ROWS: Final = 2_048

Read = Callable[[str, Iterable[Any]], Iterator[Any]]
"""Rows of a statement with these values."""


def call_pages(
    read: Read, wanted: Sequence[tuple[str, Any]], *, newest_first: bool, limit: int | None
) -> Iterator[Any]:
    """Rows of calls in order of their start, as the database holds them; `wanted` are clauses, each with its value."""
    after = "(started_at_ns, id) < (?, ?)" if newest_first else "(started_at_ns, id) > (?, ?)"
    order = "ORDER BY started_at_ns DESC, id DESC" if newest_first else "ORDER BY started_at_ns, id"
    clauses, values = [text for text, _ in wanted], [value for _, value in wanted]
    last: tuple[int, int] | None = None
    while limit is None or limit > 0:
        size = PAGE_ROWS if limit is None else min(limit, PAGE_ROWS)
        every = clauses if last is None else [*clauses, after]
        where = f" WHERE {' AND '.join(every)}" if every else ""
        page = list(read(f"{SELECT_CALLS}{where} {order} LIMIT {size}", (*values, *(last or ()))))
        yield from page
        if len(page) < size:
            return
        last = page[-1][1], page[-1][0]
        limit = None if limit is None else limit - size

"""Recorded calls as pages: filtered, a page at a time, and one call with its tries and timings; never content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, get_args
from urllib.parse import urlencode

from tierwise.core.call import Arm
from tierwise.core.outcome import OUTCOMES
from tierwise.surfaces.report.text import ABSENT, clean, count, money, percent, seconds

if TYPE_CHECKING:
    from tierwise.evidence import CallRow, SqliteStore

PAGE_ROWS: Final = 50
MOST_LOOKED_AT: Final = 20_000
"""Rows that one request looks at: a filter that hardly matches is continued by the next one."""
ARMS: Final[tuple[str, ...]] = get_args(Arm)
_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is looked for; empty texts match everything."""

    task: str = ""
    model: str = ""
    outcome: str = ""
    arm: str = ""

    @staticmethod
    def of(query: Mapping[str, str]) -> Filter:
        """From the query of an address; outcomes and arms that do not exist match everything."""
        outcome, arm = query.get("outcome", ""), query.get("arm", "")
        return Filter(
            task=query.get("task", "")[:_LONGEST],
            model=query.get("model", "")[:_LONGEST],
            outcome=outcome if outcome in OUTCOMES else "",
            arm=arm if arm in ARMS else "",
        )

    def query(self, **more: str) -> str:
        """The query of the same filter, with `more` fields."""
        fields = {"task": self.task, "model": self.model, "outcome": self.outcome, "arm": self.arm, **more}
        return urlencode({name: value for name, value in fields.items() if value}, errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One call in the list."""

    link: str
    when: str
    task: str
    model: str
    arm: str
    outcome: str
    latency: str
    tokens: str
    cost: str
    tries: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Calls, newest first; `older` leads on, `searched` says that the end of the search is not the end of the calls."""

    lines: tuple[Line, ...]
    older: str
    searched: bool


def page_of(store: SqliteStore, wanted: Filter, before: str = "", *, rows: int = PAGE_ROWS) -> Page:
    """A page of the calls that a filter matches, those before the place `before` (`time.id`, as `older` gives it)."""
    last = _place(before)
    found = _matching(store, wanted, last)
    lines: list[CallRow] = []
    place, looked = last, 0
    for row, fits in islice(found, MOST_LOOKED_AT):
        looked += 1
        if fits and len(lines) == rows:
            return Page(lines=tuple(map(_line, lines)), older=wanted.query(before=_text(place)), searched=False)
        place = (row.started_at_ns, row.id)
        if fits:
            lines.append(row)
    ended = looked < MOST_LOOKED_AT
    older = "" if ended else wanted.query(before=_text(place))
    return Page(lines=tuple(map(_line, lines)), older=older, searched=not ended)


def find(store: SqliteStore, started_at_ns: int, number: int) -> CallRow | None:
    """One call by its start and row number."""
    rows = store.calls(since_ns=started_at_ns, until_ns=started_at_ns + 1)
    return next((row for row in rows if row.id == number), None)


def facts(row: CallRow) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that is known about a call, in groups: what, when and how long, tokens and cost, where from."""
    form = "" if row.json_form is None else clean(row.json_form)
    groups: list[tuple[str, list[tuple[str, object]]]] = [
        (
            "What",
            [
                ("Outcome", row.outcome), ("Error", row.error_type), ("Advice", row.advice), ("Task", row.task),
                ("Candidate", row.candidate), ("Arm", row.arm), ("Rung", row.rung + 1), ("Evidence", row.grade),
                ("Finish reasons", ", ".join(row.finish_reasons)), ("JSON", form), ("Risk", row.risk),
                *((f"Label {key}", value) for key, value in row.labels.items()),
            ],
        ),
        (
            "Time",
            [
                ("Started", _when(row.started_at_ns)), ("Latency, retries included", seconds(row.duration_s, decimals=3)),
                ("Last try alone", _seconds(row.last_try_s)), ("First chunk after", _seconds(row.time_to_first_chunk_s)),
                ("Each further chunk", _seconds(row.time_per_output_chunk_s)), ("Chunks", row.chunks or None),
                ("Retries", row.retries), ("Waited between tries", seconds(row.backoff_s, decimals=3)),
            ],
        ),
        (
            "Tokens and cost",
            [
                ("Input tokens", _count(row.input_tokens)), ("of them from the cache", _count(row.cache_read_tokens)),
                ("Output tokens", _count(row.output_tokens)), ("of them reasoning", _count(row.reasoning_tokens)),
                ("Characters of the answer", count(row.output_chars)), ("Cost", money(row.cost_usd)),
                ("Price from", row.cost_source), ("Token limit", _count(row.max_tokens)), ("Temperature", row.temperature),
            ],
        ),
        (
            "Where",
            [
                ("Trace id", row.trace_id), ("Span id", row.span_id), ("Run id", row.run_id),
                ("Response id", row.response_id), ("Provider", row.provider), ("Operation", row.operation),
                ("Model asked for", row.request_model), ("Model that answered", row.response_model),
                ("Server", row.server_address), ("Route table", row.route_version),
                ("Probability of the arm", None if row.propensity is None else percent(row.propensity)),
                ("Epoch", row.epoch), ("Prompt version", row.prompt_version),
                ("Bench round", f"{row.session}, round {row.round + 1}" if row.round >= 0 else None),
            ],
        ),
    ]  # fmt: skip
    return [
        (title, [(clean(name), clean(value, longest=2000)) for name, value in items if value not in (None, "", ABSENT)])
        for title, items in groups
    ]


def tries(row: CallRow) -> list[tuple[str, str, str]]:
    """The failed tries of a call: which, what came, how long it waited then."""
    return [
        (
            f"Try {one.number}",
            clean(f"HTTP {one.status}" if one.status is not None else one.error_type or "failed"),
            f"then waited {seconds(one.backoff_s, decimals=3)}",
        )
        for one in row.failed_tries
    ]


def checks(row: CallRow) -> list[tuple[str, str, str]]:
    """The checks of a call: name, passed or not, score."""
    return [(clean(one.name), "passed" if one.passed else "failed", f"{one.score:.3g}") for one in row.checks]


def _matching(store: SqliteStore, wanted: Filter, last: tuple[int, int] | None) -> Iterator[tuple[CallRow, bool]]:
    rows = store.calls(
        task=wanted.task or None,
        model=wanted.model or None,
        outcome=wanted.outcome or None,
        until_ns=None if last is None else last[0] + 1,
        newest_first=True,
    )
    for row in rows:
        if last is None or (row.started_at_ns, row.id) < last:
            yield row, not wanted.arm or row.arm == wanted.arm


def _line(row: CallRow) -> Line:
    return Line(
        link=f"/call?at={row.started_at_ns}&id={row.id}",
        when=_when(row.started_at_ns),
        task=clean(row.task),
        model=clean(row.candidate),
        arm=clean(row.arm) + (f", rung {row.rung + 1}" if row.rung else ""),
        outcome=clean(row.outcome).replace("_", " ")
        + (f" ({clean(row.error_type, longest=60)})" if row.error_type else ""),
        latency=seconds(row.duration_s),
        tokens=f"{_count(row.input_tokens) or ABSENT} / {_count(row.output_tokens) or ABSENT}",
        cost=money(row.cost_usd),
        tries=str(1 + row.retries),
    )


def _when(started_at_ns: int) -> str:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(started_at_ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return ABSENT


def _seconds(value: float | None) -> str | None:
    return None if value is None else seconds(value, decimals=3)


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _place(text: str) -> tuple[int, int] | None:
    parts: Sequence[str] = text.split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        return None
    place = int(parts[0]), int(parts[1])
    return place if max(place) < 2**63 - 1 else None


def _text(place: tuple[int, int] | None) -> str:
    return "" if place is None else f"{place[0]}.{place[1]}"

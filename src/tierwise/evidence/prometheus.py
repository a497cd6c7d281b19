"""Evidence from a Prometheus-compatible server: the sums that recording rules left, and the counters where there are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, Self

from tierwise.core.errors import EvidenceError
from tierwise.core.evidence import HOUR_S
from tierwise.evidence.prometheus_api import Api, Dialect
from tierwise.evidence.prometheus_build import Sums
from tierwise.evidence.prometheus_http import Access, Http, TooMuchError
from tierwise.evidence.prometheus_names import HEARTBEAT, Names, namings, quoted, selector
from tierwise.evidence.prometheus_raw import Matcher, Raw, places
from tierwise.evidence.prometheus_reader import (
    RECORDED_CALLS,
    SETTLE_S,
    Reader,
    Server,
    recorded_hours,
    recorded_totals,
)

if TYPE_CHECKING:
    from types import TracebackType

    from tierwise.core.columns import TaskEvidence

Recorded = Literal["auto", "never"]

LONGEST_S: Final = 400 * 86_400
"""What "all" means: servers do not say when their data begins."""
SKEW_ERROR_S: Final = 300
SKEW_NOTE_S: Final = 30
_BEFORE_S: Final = 86_400
_SILENT_S: Final = 2 * HOUR_S
_TASKS: Final = 8
"""Tasks of the first question; from then on as many as make a good answer."""
_GOOD_BYTES: Final = 24 << 20
_CHECKED_HOURS: Final = 24


class PrometheusSource:
    """Reads evidence with the methods of `SqliteStore`. Use it as a context manager or close it.

    `notes` says in words what a reader should know about the last reading: where it came from and what it lacks.
    Late feedback counts in the hour of its arrival; rounds of a bench and shadow pairs are not told apart here.
    """

    def __init__(
        self,
        access: Access,
        names: Names,
        *,
        dialect: Dialect | Literal["auto"] = "auto",
        recorded: Recorded = "auto",
        matchers: Sequence[tuple[str, str]] = (),
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`matchers` are labels (name, value) that every series must have, such as an environment's.

        Raises:
            ConfigError: the access is wrong; nothing is sent yet.
        """
        self.http = Http(access, sleep=sleep)
        self.notes: list[str] = []
        self._api = Api(self.http, clock=clock)
        self._names, self._dialect, self._recorded = names, dialect, recorded
        self._matchers: tuple[Matcher, ...] = tuple((name, "=", quoted(value)) for name, value in matchers)
        self._clock = clock
        self._looked: Server | None = None

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tasks(self, since: int | None = None, until: int | None = None) -> list[str]:
        """The tasks that have samples in the window, by name.

        Raises:
            EvidenceError: see `evidence_by_task`.
        """
        server = self._server()
        start, end = self._window(since, until)
        label = server.label_path(server.naming.labels["task"])
        matches = [self._select(name) for name in (server.naming.metrics["calls"], *RECORDED_CALLS)]
        return sorted(set(self._api.label_values(label, matches, start, max(start, end))) - {""})

    def evidence_by_task(
        self, since: int | None = None, until: int | None = None, tasks: Sequence[str] | None = None
    ) -> Iterator[TaskEvidence]:
        """The evidence of the hours that start in [since, until), Unix seconds, a task at a time by name.

        Hours that ended less than `SETTLE_S` ago are left out: their samples may still be on the way.

        Raises:
            EvidenceError: the server cannot be read, answers in part, its clock is far from ours, series were folded
                together, or it has none of our metrics; the message says what to do.
        """
        self.notes = []
        server = self._server()
        start, end = self._window(since, until)
        wanted = self.tasks(since, until) if tasks is None else sorted(set(tasks))
        if end <= start:
            self.notes.append(
                "the window holds no hour that has ended and settled; hours are read ten minutes after their end"
            )
            return
        start = min(end - HOUR_S, max(start, self._kept_from(server, start)))
        hours = (end - start) // HOUR_S
        self._refuse_overflow(server, start, end)
        done = self._recorded_hours(start, hours)
        done -= self._late(server, start, hours, done)
        reader = Reader(self._api, server, self._matchers, start, hours, done)
        try:
            yield from self._read(reader, wanted)
        finally:
            reader.close()
        reader.tell(self.notes)
        self._tell(server)

    def _read(self, reader: Reader, wanted: Sequence[str]) -> Iterator[TaskEvidence]:
        """Batches of tasks, each as large as makes a good answer."""
        size, at = min(_TASKS, max(1, len(wanted) // 4)), 0
        while at < len(wanted):
            batch, rest = wanted[at : at + size], wanted[at + size :]
            upcoming = [rest[:size], rest[size : 2 * size]] if at else []
            try:
                made = reader.read(batch, [one for one in upcoming if one])
            except TooMuchError:
                if len(batch) == 1:
                    raise
                size = max(1, len(batch) // 2)
                continue
            at += len(batch)
            yield from made
            if at == len(batch):  # the first answer says how large the others may be
                size = max(1, min(400, _GOOD_BYTES * len(batch) // max(1, self.http.bytes)))

    def _window(self, since: int | None, until: int | None) -> tuple[int, int]:
        """The hours asked for as [start, end): whole ones, closed and settled."""
        settled = int(self._clock() + self._server().ahead_s - SETTLE_S) // HOUR_S * HOUR_S
        end = settled if until is None else min(settled, -(-until // HOUR_S) * HOUR_S)
        start = max(0, since if since is not None else 0, end - LONGEST_S)
        return -(-start // HOUR_S) * HOUR_S, end

    def _kept_from(self, server: Server, start: int) -> int:
        """The first hour of which the day before is there too: else old counters would look like new ones."""
        kept = self._api.retention_s(server.dialect)
        now = self._clock() + server.ahead_s
        begin = 0 if kept is None else -(-int(now - kept + _BEFORE_S) // HOUR_S) * HOUR_S
        if kept is not None and start < begin:
            self.notes.append(
                f"the server keeps samples for {kept / 86_400:.3g} days; the window begins a day after the oldest of them"
            )
        return begin

    def _server(self) -> Server:
        """What is known about the server, asked once."""
        if self._looked is None:
            ahead = self._api.clock_ahead_s()
            if abs(ahead) > SKEW_ERROR_S:
                way = "ahead of" if ahead > 0 else "behind"
                raise EvidenceError(
                    f"{self.http.base}: its clock is {abs(ahead):,.0f} s {way} ours, so hours do not match; set both by "
                    "NTP, then try again"
                )
            dialect = self._api.dialect() if self._dialect == "auto" else self._dialect
            now = int(self._clock() + ahead)
            self._looked = self._discover(dialect, ahead, now)
        return self._looked

    def _discover(self, dialect: Dialect, ahead_s: float, now: int) -> Server:
        """Which names the server has.

        Raises:
            EvidenceError: none of ours.
        """
        prefix = '{__name__=~"tierwise[._:].+"}'
        found = self._api.label_values("__name__", [prefix], now - LONGEST_S, now + HOUR_S)
        ways = namings(self._names)
        by_use = sorted(ways, key=lambda way: -len(set(places(way)) & set(found)))
        naming = by_use[0]
        mine = [name for name in found if name in places(naming)]
        has_recorded = HEARTBEAT in found and self._recorded == "auto"
        if naming.metrics["calls"] not in found and not has_recorded:
            raise EvidenceError(
                f"{self.http.base} has no metric {ways[0].metrics['calls']}: no tierwise telemetry has come there"
                f"{' for this tenant' if self.http.access.tenant else ''}; point OTEL_EXPORTER_OTLP_ENDPOINT of the "
                "applications to the Collector, and see docs/prometheus.md"
            )
        return Server(dialect=dialect, naming=naming, known=mine, has_recorded=has_recorded, ahead_s=ahead_s)

    def _select(self, name: str, *more: Matcher) -> str:
        return selector([("__name__", "=", quoted(name)), *self._matchers, *more])

    def _refuse_overflow(self, server: Server, start: int, end: int) -> None:
        """Series that an SDK folded together belong to no task and would be missing from some."""
        task = (server.naming.labels["task"], "=", '""')
        calls = [server.naming.metrics["calls"], *(RECORDED_CALLS if server.has_recorded else ())]
        if self._api.exists([self._select(name, task) for name in calls], start, end):
            raise EvidenceError(
                f"{self.http.base} holds calls without a task in this window: an SDK had more series than it keeps and "
                "folded the rest together (otel_metric_overflow); use fewer task names (no ids or user names in them), "
                "let tierwise make the meter provider, or pass a --since that begins after it"
            )

    def _recorded_hours(self, start: int, hours: int) -> set[int]:
        """The hours (indices) that the recording rules have summed."""
        server = self._server()
        if not server.has_recorded or not hours:
            return set()
        chosen = selector([("__name__", "=", quoted(HEARTBEAT))])
        found = recorded_hours(self._api, chosen, start, hours, plain=False)
        if server.dialect == "prometheus":
            server.plain = recorded_hours(self._api, chosen, start, hours, plain=True) == found
        return found

    def _late(self, server: Server, start: int, hours: int, done: set[int]) -> set[int]:
        """Recently recorded hours into which samples have come since: the counters know more than the record."""
        calls = server.naming.metrics["calls"]
        recent = sorted(hour for hour in done if hour >= hours - _CHECKED_HOURS)
        if not recent or calls not in server.known:
            return set()
        first, last = recent[0], hours - 1
        totals = recorded_totals(self._api, self._select(RECORDED_CALLS[0]), start, hours, first, last)
        raw = Raw(self._api, server.naming, [calls], self._matchers)
        tasks = {task: Sums(task, server.naming, start, hours) for task in self.tasks(start, start + hours * HOUR_S)}
        raw.read(tasks, start, first, last)
        counted = [0.0] * hours
        for sums in tasks.values():
            sums.count_into(counted)
        late = {hour for hour in recent if counted[hour] > totals[hour]}
        if late:
            self.notes.append(
                f"samples came late into {len(late)} hour(s) that were recorded already; these were read from the counters"
            )
        return late

    def _tell(self, server: Server) -> None:
        """What the reading should be taken with."""
        now = self._clock() + server.ahead_s
        if abs(server.ahead_s) > SKEW_NOTE_S:
            self.notes.append(f"the server's clock is {server.ahead_s:+.0f} s from ours; set both by NTP")
        calls = self._select(server.naming.metrics["calls"])
        if not self._api.instant(f"count(last_over_time({calls}[{_SILENT_S}s]))", now):
            self.notes.append(
                "no sample has come in the last two hours: telemetry has gone silent, or no instrumented process runs; "
                "check the Collector and the applications' OTEL_EXPORTER_OTLP_ENDPOINT"
            )
        if self._api.instant(f"count(last_over_time({calls}[1h]))", now + HOUR_S + 120):
            self.notes.append("some process sends samples from the future: its clock is ahead; set it by NTP")

"""Query API of a Prometheus-compatible server: questions, and answers mistrusted: what is partial or odd is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from tierwise.core.errors import EvidenceError
from tierwise.evidence.prometheus_http import Http
from tierwise.evidence.prometheus_samples import Samples, from_api, scanned

Dialect = Literal["prometheus", "victoriametrics"]

_POLITE: Final = (("nocache", "1"), ("partial_response", "false"), ("deny_partial_response", "1"), ("dedup", "true"))
"""VictoriaMetrics: answer for the times asked for; Thanos, VictoriaMetrics: no partial answers. Others ignore them."""
_QUERY: Final = "/api/v1/query"
_RANGE: Final = "/api/v1/query_range"


class Api:
    """Questions to one server. Every answer with a warning, a partial mark or another form than expected is an error."""

    def __init__(self, http: Http, *, clock: Callable[[], float] = time.time) -> None:
        self.http = http
        self._clock = clock

    def instant(self, query: str, at_s: float | None = None) -> list[Samples]:
        """The series of an instant query: one sample each, or those of a range selector.

        Raises:
            EvidenceError: the server refuses, warns, or answers in part or nonsense.
        """
        parameters = [("query", query), *_POLITE]
        if at_s is not None:
            parameters.append(("time", f"{at_s:.3f}"))
        body, _ = self.http.post(_QUERY, parameters)
        return list(self._series(body))

    def grid(self, query: str, start_s: int, end_s: int, step_s: int) -> Iterator[Samples]:
        """The series of a range query at start, start + step … end, Unix seconds; a series is read when it is asked for.

        Raises:
            EvidenceError: as `instant`.
        """
        return self.grid_of(self.grid_body(query, start_s, end_s, step_s), start_s, end_s, step_s)

    def grid_body(self, query: str, start_s: int, end_s: int, step_s: int, *, lookback_s: int | None = None) -> bytes:
        """The answer of `grid` as it came, for `grid_of`; `lookback_s`: how old a sample may be that a plain selector
        finds (Prometheus; others may not know it)."""
        parameters = [("query", query), ("start", str(start_s)), ("end", str(end_s)), ("step", str(step_s)), *_POLITE]
        if lookback_s is not None:
            parameters.append(("lookback_delta", str(lookback_s)))
        return self.http.post(_RANGE, parameters)[0]

    def grid_of(self, body: bytes, start_s: int, end_s: int, step_s: int) -> Iterator[Samples]:
        """The series in an answer; see `grid`."""
        for one in self._series(body, range(start_s, end_s + 1, step_s)):
            for times in (one.times, one.histogram_times):
                if times and not (start_s <= times[0] and times[-1] <= end_s):
                    raise self._nonsense(body)
            yield one

    def label_values(self, label: str, matches: Sequence[str], start_s: int, end_s: int) -> list[str]:
        """The values of a label in [start, end] among series that match one of the selectors."""
        parameters = [
            *(("match[]", match) for match in matches),
            ("start", str(start_s)),
            ("end", str(end_s)),
            *_POLITE,
        ]
        body, _ = self.http.get(f"/api/v1/label/{label}/values", parameters)
        found = self._checked(body) or ()
        if not isinstance(found, (list, tuple)):
            raise self._nonsense(body)
        return list(map(str, found))

    def exists(self, matches: Sequence[str], start_s: int, end_s: int) -> bool:
        """Whether there is a series in [start, end] that matches one of the selectors."""
        parameters = [*(("match[]", match) for match in matches), ("start", str(start_s)), ("end", str(end_s))]
        body, _ = self.http.get("/api/v1/series", [*parameters, *_POLITE])
        return bool(self._checked(body))

    def clock_ahead_s(self) -> float:
        """How far the server's clock is ahead of ours, seconds; half a round trip uncertain."""
        before = self._clock()
        body, headers = self.http.post(_QUERY, [("query", "time()")])
        middle = (before + self._clock()) / 2
        self._checked(body)
        try:
            there = parsedate_to_datetime(headers["date"]).replace(tzinfo=UTC).timestamp() + 0.5
        except (KeyError, ValueError, TypeError):
            try:
                there = float(json.loads(body)["data"]["result"][0])
            except (KeyError, ValueError, TypeError, IndexError):
                raise self._nonsense(body) from None
        return there - middle

    def dialect(self) -> Dialect:
        """Which of the two kinds of server this is, by what it says about itself."""
        body, headers = self.http.post(_QUERY, [("query", "1")])
        self._checked(body)
        victoria = "x-server-hostname" in headers or '"executionTimeMsec"' in body[-200:].decode("utf-8", "replace")
        return "victoriametrics" if victoria else "prometheus"

    def retention_s(self, dialect: Dialect) -> int | None:
        """How long the server keeps samples, seconds; `None` where it does not say so (Mimir, Thanos, clusters)."""
        try:
            if dialect == "prometheus":
                found = self._checked(self.http.get("/api/v1/status/runtimeinfo")[0])
                text = str(found.get("storageRetention") or "") if isinstance(found, dict) else ""
                return _duration(text.split(" ")[0])
            flags = self.http.get("/flags")[0].decode("utf-8", "replace")
        except EvidenceError:
            return None
        if "-storageDataPath" not in flags and "-httpListenAddr" not in flags:
            return None
        _, mark, rest = flags.partition('-retentionPeriod="')
        text = rest.partition('"')[0] if mark else "1"
        return _duration(f"{text}M" if text.isdecimal() else text)

    def _series(self, body: bytes, grid: range | None = None) -> Iterator[Samples]:
        head = body[:200]
        plain = head.startswith(b'{"status":"success"') and b'"resultType":"matrix","result":[' in head
        if plain and b'"warnings"' not in head and b'"isPartial":true' not in head:
            return self._scan(body, grid)
        return iter(self._parsed(body))

    def _scan(self, body: bytes, grid: range | None) -> Iterator[Samples]:
        """Series of an answer in the one form that servers write, without an object for each sample."""
        try:
            rest = body[(yield from scanned(body, grid)) :]
        except (ValueError, IndexError, TypeError, RecursionError):
            raise self._nonsense(body) from None
        if b'"warnings"' in rest or b'"isPartial"' in rest:
            self._checked(body)

    def _parsed(self, body: bytes) -> list[Samples]:
        """The same from any valid JSON."""
        found = self._checked(body)
        try:
            kind, result = found["resultType"], found["result"]
            if kind not in ("vector", "matrix"):
                raise ValueError(kind)
            return [from_api(one) for one in result]
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            raise self._nonsense(body) from None

    def _checked(self, body: bytes) -> Any:
        """The `data` of an answer that is whole.

        Raises:
            EvidenceError: it is not JSON of this API, an error, partial, or carries warnings.
        """
        try:
            found = json.loads(body)
            status = found["status"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._nonsense(body) from None
        if status != "success":
            said = " ".join(str(found.get("error", "")).split())[:300]
            raise EvidenceError(f"{self.http.base} answers with an error: {said}")
        if found.get("isPartial"):
            raise EvidenceError(
                f"{self.http.base} has only a part of the data (isPartial): a storage node is not reachable; no decision "
                "is made on a part, try again when all nodes are up"
            )
        if found.get("warnings"):
            warnings = found["warnings"]
            said = " ".join(str(warnings[0] if isinstance(warnings, list) else warnings).split())[:300]
            raise EvidenceError(
                f"{self.http.base} warns that its answer is not whole or not sound: {said}; no decision is made on it, "
                "mend the server's sources and try again"
            )
        return found.get("data")

    def _nonsense(self, body: bytes) -> EvidenceError:
        begin = body[:60].decode("utf-8", "replace").strip()
        page = " (a web page: is there a login or another program in front?)" if begin[:1] == "<" else ""
        return EvidenceError(
            f"{self.http.base} answers with something that is not the Prometheus API{page}; check --url and what stands "
            "between here and there"
        )


_MOST_DIGITS: Final = 15


def _duration(text: str) -> int | None:
    """`400d`, `1y`, `2w3d` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 31 * 86_400, "y": 31_536_000}
    total, digits = 0, ""
    for character in text:
        if character.isdecimal() and len(digits) < _MOST_DIGITS:
            digits += character
        elif digits and character in units:
            total, digits = total + int(digits) * units[character], ""
        else:
            return None
    return total or None

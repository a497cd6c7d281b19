"""What goes wrong between a plan and a Prometheus-compatible server is said with a way out, and never decided upon."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.promserver import Answer, Asked, Standin, empty, matrix, ok, standin
from tierwise.core.decide import decide
from tierwise.core.errors import ConfigError, EvidenceError
from tierwise.core.evidence import HOUR_S
from tierwise.core.policy import TaskPolicy
from tierwise.evidence.prometheus import SETTLE_S, PrometheusSource
from tierwise.evidence.prometheus_http import Access, Http, TooMuchError, retry_after
from tierwise.surfaces.cli.source import names

END = (int(time.time()) - SETTLE_S) // HOUR_S * HOUR_S - HOUR_S
CALLS = {
    "__name__": "tierwise_calls_total", "tierwise_task": "summary", "tierwise_candidate": "small", "tierwise_epoch": "e",
    "tierwise_arm": "primary", "tierwise_rung": "0", "tierwise_grade": "randomised", "tierwise_outcome": "success",
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[Standin]:
    """A stand-in with one task and two hours of ten calls each."""
    with standin() as made:
        made.answer = healthy
        yield made


def healthy(asked: Asked) -> Answer | None:
    """A Prometheus with one counter."""
    if asked.path.endswith("__name__/values"):
        return ok(["tierwise_calls_total"])
    if asked.path.endswith("tierwise_task/values"):
        return ok(["summary"])
    if asked.path.endswith("/query_range") and "resets(" not in asked.values["query"]:
        return ok(matrix((CALLS, {END - HOUR_S: 10, END: 20})))
    return None


def read(
    server: Standin, *, clock: Callable[[], float] = time.time, **access: Any
) -> tuple[list[Any], PrometheusSource]:
    """What a source reads of the last two hours."""
    options = {"tries": 3, "max_wait_s": 5.0} | access
    with PrometheusSource(Access(url=server.url, **options), names(), clock=clock, sleep=lambda _: None) as source:
        return list(source.evidence_by_task(END - 2 * HOUR_S, END)), source


def during(kind: str, said: Answer) -> Callable[[Asked], Answer | None]:
    """A server that says this to questions of one kind and is healthy else."""
    return lambda asked: said if asked.path.endswith(kind) else healthy(asked)


def test_a_healthy_server_gives_its_evidence(server: Standin) -> None:
    """The stand-in is what the faults below break."""
    (found,), source = read(server)
    (series,) = found.series.values()
    assert (series.buckets, series.column("n")) == ([END - 2 * HOUR_S, END - HOUR_S], [10, 10])
    assert source.notes == [
        "no sample has come in the last two hours: telemetry has gone silent, or no instrumented process runs; "
        "check the Collector and the applications' OTEL_EXPORTER_OTLP_ENDPOINT"
    ]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "pass --token-file, --user or --header"),
        (403, "check the token's rights, and --tenant"),
        (404, "--url is the address without /api/v1"),
        (400, "refuses the query (HTTP 400): bad_data"),
        (302, "redirects to https://login.example (HTTP 302), which is not followed"),
        (501, "fails (HTTP 501): bad_data; look at its log"),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_repeated(server: Standin, status: int, words: str) -> None:
    """Codes that a second try cannot mend."""
    body = json.dumps({"status": "error", "error": "bad_data"}).encode()
    headers = {"Location": "https://login.example/?token=abc"}
    server.answer = lambda asked: Answer(status=status, body=body, headers=headers)
    with pytest.raises(EvidenceError) as caught:
        read(server)
    assert words in str(caught.value)
    assert "abc" not in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again_and_no_longer_than_allowed(server: Standin, status: int) -> None:
    """Two failures and the third try succeeds; without end there are three tries and an error that says so."""
    left = [status, status]
    server.answer = lambda asked: Answer(status=left.pop()) if left else healthy(asked)
    assert len(read(server)[0]) == 1
    server.asked.clear()
    server.answer = lambda asked: Answer(status=status)
    with pytest.raises(EvidenceError, match=rf"HTTP {status}.*tried 3 times"):
        read(server)
    assert len(server.asked) == 3


def test_retry_after_is_kept_and_bounded(server: Standin) -> None:
    """The wait is the one that the server asks for; one beyond the budget ends the reading at once."""
    waits: list[float] = []
    left = ["2"]
    server.answer = lambda asked: Answer(status=429, headers={"Retry-After": left.pop()}) if left else healthy(asked)
    with PrometheusSource(Access(url=server.url, max_wait_s=5), names(), sleep=waits.append) as source:
        assert source.tasks() == ["summary"]
    assert waits == [2.0]
    server.asked.clear()
    server.answer = lambda asked: Answer(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(EvidenceError, match="too many requests"):
        read(server)
    assert len(server.asked) == 1
    assert retry_after("soon") is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ok(matrix((CALLS, {END: 20})), warnings=["store 10.0.0.3 unavailable"]), "not whole or not sound: store 10.0.0.3"),
        (ok(matrix((CALLS, {END: 20})), isPartial=True), r"only a part of the data \(isPartial\)"),
        (Answer(body=b"<html>Sign in</html>"), "not the Prometheus API .a web page"),
        (Answer(body=b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{'), "not the Prometheus API"),
        (Answer(body=b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"x"]]}]}}'),
         "not the Prometheus API"),
        (Answer(body=b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"]'),
         "not the Prometheus API"),
        (Answer(body=b'{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}'), "not the Prometheus API"),
        (Answer(body=b'["status"]'), "not the Prometheus API"),
        (Answer(body=b"\xff\xfe"), "not the Prometheus API"),
        (Answer(body=b'{"status":"error","error":"query timed out"}'), "answers with an error: query timed out"),
    ],
)  # fmt: skip
def test_partial_and_malformed_answers_are_refused(server: Standin, answer: Answer, words: str) -> None:
    """No evidence at all comes out of a reading with one bad answer."""
    server.answer = during("/query_range", answer)
    with pytest.raises(EvidenceError, match=words):
        read(server)


def test_a_server_that_is_not_there_is_named() -> None:
    """Refused connections, and hosts that nobody knows."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
    for there, words in (
        (url, "nothing answers there; check --url"),
        ("http://no-such.invalid", "no such host; check --url"),
    ):
        source = PrometheusSource(Access(url=there), names(), sleep=lambda _: None)
        with source, pytest.raises(EvidenceError, match=words):
            source.tasks()


def test_an_answer_that_does_not_come_ends(server: Standin) -> None:
    """After the time limit, with the number of tries."""

    def slow(asked: Asked) -> Answer | None:
        time.sleep(0.3)
        return healthy(asked)

    server.answer = slow
    with pytest.raises(EvidenceError, match=r"no answer within 0\.05 s.*tried 2 times"):
        read(server, timeout_s=0.05, tries=2)


def test_an_answer_without_end_is_not_read_to_it(server: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of bytes the question must be smaller; one that cannot be is an error."""
    monkeypatch.setattr("tierwise.evidence.prometheus_http.MAX_BYTES", 2_000)
    server.answer = during("/query_range", Answer(body=b" " * 3_000_000))
    with pytest.raises(TooMuchError, match="for one question; ask for fewer tasks or a shorter --since"):
        read(server)


def test_a_question_that_is_too_large_is_cut(server: Standin) -> None:
    """A server that takes one hour at a time is asked hour by hour."""

    def narrow(asked: Asked) -> Answer | None:
        if asked.path.endswith("/query_range") and asked.values["start"] != asked.values["end"]:
            return Answer(status=422, body=b'{"status":"error","error":"query processing would load too many samples"}')
        if asked.path.endswith("/query_range") and "resets(" not in asked.values["query"]:
            at = int(asked.values["start"])
            return ok(matrix((CALLS, {at: 20 - 10 * (END - at) // HOUR_S})))
        return healthy(asked)

    server.answer = narrow
    (found,), _ = read(server)
    (series,) = found.series.values()
    assert series.column("n") == [10, 10]


def test_clocks_far_apart_are_an_error_and_near_ones_a_note(server: Standin) -> None:
    """Hours would not match; half a minute is said."""

    def at(ahead_s: float) -> Callable[[Asked], Answer | None]:
        def answer(asked: Asked) -> Answer | None:
            said = healthy(asked) or empty(asked)
            said.date_s = time.time() + ahead_s
            return said

        return answer

    server.answer = at(900)
    with pytest.raises(EvidenceError, match=r"its clock is (899|900|901) s ahead of ours.*set both by NTP"):
        read(server)
    server.answer = at(-60)
    assert any("set both by NTP" in note for note in read(server)[1].notes)


def test_a_server_without_our_metrics_says_where_they_come_from(server: Standin) -> None:
    """Nothing decides on nothing."""
    server.answer = lambda asked: None
    with pytest.raises(EvidenceError, match=r"has no metric tierwise_calls_total: .*OTEL_EXPORTER_OTLP_ENDPOINT"):
        read(server)


def test_series_that_an_sdk_folded_together_are_refused(server: Standin) -> None:
    """They would be missing from some task without anybody knowing."""
    overflow = [{"__name__": "tierwise_calls_total", "otel_metric_overflow": "true"}]
    server.answer = lambda asked: ok(overflow) if asked.path.endswith("/series") else healthy(asked)
    with pytest.raises(EvidenceError, match="folded the rest together"):
        read(server)


def test_extrapolated_counts_are_refused(server: Standin) -> None:
    """Recording rules of somebody else's with plain `increase()` give parts of calls."""
    server.answer = during("/query_range", ok(matrix((CALLS, {END: 10.5}))))
    with pytest.raises(EvidenceError, match="not a whole number"):
        read(server)


def test_buckets_of_which_only_some_were_stored_are_left_out(server: Standin) -> None:
    """Classic buckets that fall towards the higher edges make negative counts: the hour is refused, and told."""
    buckets = {**CALLS, "__name__": "tierwise_call_duration_seconds_bucket"}
    stored = matrix(
        (CALLS, {END - HOUR_S: 10, END: 22}),
        ({**buckets, "le": "1"}, {END - HOUR_S: 9, END: 21}),
        ({**buckets, "le": "2"}, {END - HOUR_S: 10, END: 11}),
        ({**buckets, "le": "+Inf"}, {END - HOUR_S: 10, END: 11}),
    )

    def half(asked: Asked) -> Answer | None:
        if asked.path.endswith("__name__/values"):
            return ok(["tierwise_calls_total", buckets["__name__"]])
        return (
            healthy(asked) if "resets(" in asked.values.get("query", "") else during("/query_range", ok(stored))(asked)
        )

    server.answer = half
    (found,), _ = read(server)
    (series,) = found.series.values()
    assert (found.invalid, [hour for hour, _ in found.refused()]) == (1, [END - HOUR_S])
    assert series.column("n") == [10]
    decided = decide(found, TaskPolicy(task="summary", candidates=("small",)), None, END)
    (report,) = decided.candidates
    assert report.latency_p50_s is not None
    assert 0.8 < report.latency_p50_s <= 1.0
    assert any("1 rows of evidence were left out" in reason.text for reason in decided.reasons)


def test_hours_without_any_sample_are_told(server: Standin) -> None:
    """A hole in the middle: its calls count later, and the reader knows."""
    server.answer = during("/query_range", ok(matrix((CALLS, {END - 3 * HOUR_S: 10, END: 30}))))
    with PrometheusSource(Access(url=server.url), names()) as source:
        (found,) = source.evidence_by_task(END - 4 * HOUR_S, END)
    (series,) = found.series.values()
    assert series.column("n") == [10, 20]
    assert any(note.startswith("no samples at all in 2 hour(s)") for note in source.notes)


def test_who_asks_is_told_to_the_server_and_to_nobody_else(server: Standin) -> None:
    """Bearer, basic, own headers and tenant are sent; no error and no representation repeats them."""
    secret = "s3cr3t-t0ken"
    server.answer = lambda asked: Answer(status=403, body=json.dumps({"error": f"no {secret}, sorry"}).encode())
    for access, header, value in (
        (Access(url=server.url, bearer=secret), "authorization", f"Bearer {secret}"),
        (Access(url=server.url, basic=("me", secret)), "authorization", "Basic bWU6czNjcjN0LXQwa2Vu"),
        (Access(url=server.url, headers={"X-Key": secret}), "x-key", secret),
        (Access(url=server.url, tenant="team"), "x-scope-orgid", "team"),
    ):
        assert secret not in repr(access)
        with PrometheusSource(access, names()) as source, pytest.raises(EvidenceError) as caught:
            source.tasks()
        assert server.asked[-1].headers[header] == value
        if "team" not in value:
            assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://host", "http://", "http://me:pw@host", "http://host/?a=b", "http://host:99999"]
)
def test_an_address_that_is_none_is_wrong_use(url: str) -> None:
    """Nothing is sent; a password in it is not repeated."""
    with pytest.raises(ConfigError, match="--url") as caught:
        Http(Access(url=url))
    assert "pw@" not in str(caught.value)


def test_a_header_cannot_smuggle_another() -> None:
    """Line breaks in a token are refused."""
    with pytest.raises(ConfigError, match="line break"):
        Http(Access(url="http://host", bearer="a\r\nX-Other: b"))


def test_a_window_that_reaches_beyond_the_retention_begins_later_and_says_so(server: Standin) -> None:
    """Where old samples are gone, old counters would look like new ones."""

    def short(asked: Asked) -> Answer | None:
        return ok({"storageRetention": "2d or 5GiB"}) if asked.path.endswith("/runtimeinfo") else healthy(asked)

    server.answer = short
    with PrometheusSource(Access(url=server.url), names()) as source:
        assert len(list(source.evidence_by_task(END - 72 * HOUR_S, END))) == 1
    begin = min(int(asked.values["start"]) for asked in server.asked if asked.path.endswith("/query_range"))
    assert begin > time.time() - 26 * HOUR_S
    assert any("keeps samples for 2 days" in note for note in source.notes)

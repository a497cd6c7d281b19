"""Hostile clients of the live pages over real sockets: slow, too large, malformed, pretending to be another."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.live_pages import TOKEN, Pages, live_pages
from support.report_data import GEMINI, call_row, store_with
from tierwise.surfaces.serve.server import MOST_AT_ONCE

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one call."""
    return store_with(
        tmp_path_factory.mktemp("hostile") / "t.db", [call_row(task="summary", candidate=GEMINI).to_call()]
    )


@pytest.fixture(scope="module")
def pages(store: Path) -> Iterator[Pages]:
    """A server that nobody is slow with."""
    with live_pages(store) as running:
        yield running


@pytest.fixture
def hasty(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    """A server that waits for a fraction of a second only."""
    monkeypatch.setattr("tierwise.surfaces.serve.patience.ASKING_S", 0.2)
    monkeypatch.setattr("tierwise.surfaces.serve.patience.ANSWERING_S", 0.4)
    with live_pages(store) as running:
        yield running


def say(pages: Pages, *pieces: bytes) -> bytes:
    """Everything that the server answers to some bytes until it closes the connection; it must close it."""
    with socket.create_connection(("127.0.0.1", pages.port), timeout=20) as line:
        heard = b""
        try:
            for piece in pieces:
                line.sendall(piece)
            while piece := line.recv(65536):
                heard += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return heard


def status_of(heard: bytes) -> int:
    """The status of the first answer in some bytes; 0 without one."""
    return int(heard.split(b" ", 2)[1]) if heard.startswith(b"HTTP/1.1 ") else 0


# --- slow ----------------------------------------------------------------------------------------------------------


def test_headers_that_never_end_are_cut_off(hasty: Pages) -> None:
    """A client that sends no request, or half of one, loses its connection."""
    assert say(hasty) == b""
    assert say(hasty, b"GET / HTTP/1.1\r\nHost: ") == b""
    assert hasty.ask("/state").status == 200


def test_a_second_request_that_never_ends_is_cut_off(hasty: Pages) -> None:
    """A connection that was answered once has no more time for its next request."""
    heard = say(hasty, f"GET /state HTTP/1.1\r\nHost: {hasty.host}\r\n\r\n".encode(), b"GET / HTTP/1.1\r\nX: ")
    assert heard.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_that_never_ends_is_cut_off(hasty: Pages, method: str) -> None:
    """A body that is announced and does not come holds its connection for a bounded time."""
    head = (
        f"{method} /approve HTTP/1.1\r\nHost: {hasty.host}\r\nOrigin: {hasty.url}\r\nContent-Length: 1000\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\ntask="
    )
    assert status_of(say(hasty, head.encode())) in (0, 400, 405)
    assert hasty.ask("/state").status == 200


def test_idle_connections_give_their_places_back(hasty: Pages) -> None:
    """More connections than are served at once, all silent, keep nobody out for longer than a moment."""
    with ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection(("127.0.0.1", hasty.port), timeout=20))
            for _ in range(MOST_AT_ONCE + 6)
        ]
        for line in lines:
            try:
                assert line.recv(1) == b"", "the server closes it"
            except ConnectionResetError:
                continue
        assert hasty.ask("/state").status == 200


# --- too large, malformed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        "X: " + "a" * 70_000,
        "\r\n".join(f"X{number}: a" for number in range(12_000)),
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Transfer-Encoding: gzip",
        "X : a",
        "Host: evil.example",
        "X: a\x00b",
    ],
    ids=[
        "one long header",
        "many headers",
        "two lengths",
        "negative length",
        "unknown coding",
        "blank",
        "two hosts",
        "NUL",
    ],
)
def test_malformed_requests_are_refused(pages: Pages, head: str) -> None:
    """Headers without bound, and those that two programs could read in two ways, are answered with 4xx and the line is closed."""
    heard = say(pages, f"GET /state HTTP/1.1\r\nHost: {pages.host}\r\nConnection: close\r\n{head}\r\n\r\n".encode())
    assert status_of(heard) in (0, 400, 421, 431, 501)
    assert pages.ask("/state").status == 200


def test_a_body_is_no_second_request(pages: Pages) -> None:
    """With a length and a coding at once nothing of the body is taken for a request of its own (smuggling)."""
    inner = f"POST /approve HTTP/1.1\r\nHost: {pages.host}\r\n\r\n"
    head = f"POST /approve HTTP/1.1\r\nHost: {pages.host}\r\nOrigin: {pages.url}\r\nConnection: close\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    heard = say(pages, f"{head}0\r\n\r\n{inner}".encode())
    assert heard.count(b"HTTP/1.1 ") <= 1
    assert 400 <= status_of(heard) < 500


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "get", "post", "PROPFIND", "G%00T"])
def test_methods_are_not_confused(pages: Pages, method: str) -> None:
    """A method is what it is, in capitals; headers that name another one are not heard."""
    target = pages.host if method == "CONNECT" else "/approve"
    heard = say(
        pages,
        f"{method} {target} HTTP/1.1\r\nHost: {pages.host}\r\nX-HTTP-Method-Override: POST\r\n"
        f"Origin: {pages.url}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode(),
    )
    assert status_of(heard) in (400, 404, 405)


@pytest.mark.parametrize(
    "header", ["X-Forwarded-Host", "Forwarded", "X-Original-Host", "X-Rewrite-URL", "X-Original-URL"]
)
def test_a_proxys_headers_are_not_believed(pages: Pages, header: str) -> None:
    """What a proxy may say of the address neither lets another host in nor leads to another page."""
    assert pages.ask("/state", headers={"Host": "evil.example", header: pages.host}).status == 421
    assert pages.ask("/nope", headers={header: "/calls"}).status == 404


def test_a_target_with_a_host_of_its_own_is_not_another_site(pages: Pages) -> None:
    """`GET http://evil.example/` is no page."""
    heard = say(pages, f"GET http://evil.example/ HTTP/1.1\r\nHost: {pages.host}\r\nConnection: close\r\n\r\n".encode())
    assert status_of(heard) in (400, 404, 421)


HOSTILE = (
    "%00", "%ff%fe", "'%20OR%201=1--", "%3Cscript%3Ealert(1)%3C/script%3E", "..%2f..%2fetc%2fpasswd", "9" * 30, "-1", "1e9",
    "%F0%9F%A6%8A", "a" * 4000, "%ED%A0%80", "{{7*7}}", "%25s%25n", "%0d%0aSet-Cookie:a=b",
)  # fmt: skip


@pytest.mark.parametrize(
    "target",
    ["/task?name={}", "/calls?task={}", "/calls?model={}", "/calls?outcome={}", "/calls?arm={}", "/calls?before={}",
     "/calls?since={}", "/calls?text={}", "/call?at={}&id={}", "/?{}={}", "/task?name=summary&done={}", "/state?{}"],
)  # fmt: skip
def test_hostile_parameters_are_data(pages: Pages, target: str) -> None:
    """Whatever a parameter holds: a page or a refusal in words, no fault, no markup, no header of its making."""
    for value in HOSTILE:
        answer = pages.ask(target.replace("{}", value))
        assert answer.status in (200, 400, 404), value
        assert "<script>alert" not in answer.text
        assert "root:" not in answer.text
        assert "set-cookie" not in answer.headers


def test_many_parameters_are_bounded_work(pages: Pages) -> None:
    """As many parameters as an address can hold, and one of them hundreds of times."""
    assert pages.ask("/calls?" + "&".join(f"a{number}=1" for number in range(1000))).status == 200
    assert pages.ask("/calls?" + "&".join(["task=summary"] * 500)).status == 200


# --- what leaks ------------------------------------------------------------------------------------------------------


def test_the_token_is_in_no_log_and_no_answer(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a token that came in an address, nor the right one in a form, is logged, shown or put into a redirect."""
    with caplog.at_level(logging.DEBUG):
        answers = [
            pages.ask(f"/?token={TOKEN}", headers={"Referer": f"{pages.url}/#token={TOKEN}"}),
            pages.ask(f"/nope?token={TOKEN}"),
            pages.send("/approve", {"task": "summary", "token": TOKEN}),
            pages.send("/rollback", {"task": "summary", "token": TOKEN, "version": "0"}),
        ]
    assert TOKEN not in caplog.text
    for answer in answers:
        assert TOKEN not in answer.text
        assert TOKEN not in str(dict(answer.headers))
        assert answer.headers["referrer-policy"] == "same-origin"


def test_no_answer_can_be_read_by_another_site(pages: Pages) -> None:
    """No CORS header is ever sent, to a simple request or to a preflight, and other sites cannot embed an answer."""
    for method, target in (("GET", "/"), ("GET", "/state"), ("OPTIONS", "/approve")):
        asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        answer = pages.ask(target, method=method, headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"

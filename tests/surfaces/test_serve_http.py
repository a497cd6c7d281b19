"""The live pages over real HTTP: who is answered, what a change must bring, and what the pages show."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest

from support.commands import tierwise
from support.live_pages import TOKEN, Pages, live_pages
from support.report_data import GEMINI, HAIKU, SONNET, call_row, recommendation, rounds, store_with
from tierwise.advisor import read_history
from tierwise.core.call import CheckResult, Try
from tierwise.core.errors import ConfigError
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.evidence import SqliteStore
from tierwise.routing import read_table, write_table
from tierwise.surfaces.serve import listen
from tierwise.surfaces.serve.calls import Filter, page_of
from tierwise.surfaces.serve.changes import offer_of
from tierwise.surfaces.serve.guard import MOST_BODY, token_fits

HOSTILE = "<script>alert(1)</script>\"'&🦊/../../etc/passwd" + "x" * 300
SPAN, TRACE = "00f067aa0ba902b7", "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty bench rounds that gemini wins, and one call with tries, checks and a hostile task name."""
    odd = replace(
        call_row(task=HOSTILE, candidate=HAIKU, outcome="error", error_type="RateLimitError", arm="pinned", retries=1),
        failed_tries=(Try(number=1, status=429, backoff_s=0.25),),
        checks=(CheckResult(name="bullets", score=0.4, passed=False),),
        span_id=SPAN,
        trace_id=TRACE,
    )
    return store_with(tmp_path_factory.mktemp("serve") / "t.db", [*rounds(40), odd.to_call()])


@contextmanager
def served(store: Path, folder: Path) -> Iterator[Pages]:
    """A server over the store, with a route table of its own in which sonnet does both tasks."""
    table = RouteTable(
        version=1, updated_at=1, routes={name: Route(task=name, primary=SONNET) for name in ("summary", "strict-json")}
    )
    write_table(folder / "routes.json", table, expected_version=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERWISE_ROUTES", str(folder / "routes.json"))
        with live_pages(store) as running:
            yield running


@pytest.fixture(scope="module")
def pages(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A server whose routes no test changes."""
    with served(store, tmp_path_factory.mktemp("routes")) as running:
        yield running


@pytest.fixture
def own_pages(store: Path, tmp_path: Path) -> Iterator[Pages]:
    """A server whose routes may be changed."""
    with served(store, tmp_path) as running:
        yield running


def fields_of(html: str, action: str) -> dict[str, str]:
    """The hidden fields of one form of a page, with the right token."""
    form = re.search(rf'<form class="act" method="post" action="{action}">(.*?)</form>', html, re.DOTALL)
    assert form is not None
    hidden = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[1])
    return {**{name: unescape(value) for name, value in hidden}, "token": TOKEN}


# --- who is answered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_other_hosts_are_refused(pages: Pages, host: str) -> None:
    """A Host that is not the server's own, a rebound DNS name above all, gets nothing of the pages."""
    answer = pages.ask("/", headers={"Host": host})
    assert answer.status == 421
    assert "strict-json" not in answer.text


def test_own_hosts_are_answered(pages: Pages) -> None:
    """The address and `localhost`, with the port, are answered."""
    for host in (pages.host, f"localhost:{pages.port}", f"LOCALHOST:{pages.port}"):
        assert pages.ask("/state", headers={"Host": host}).status == 200


def test_two_hosts_are_refused(pages: Pages) -> None:
    """A request with two Host headers is not understood as one of them."""
    with socket.create_connection(("127.0.0.1", pages.port), timeout=10) as line:
        line.sendall(
            f"GET / HTTP/1.1\r\nHost: {pages.host}\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode()
        )
        assert line.recv(100).split(b" ")[1] in (b"400", b"421")


def test_every_answer_has_the_security_headers(pages: Pages) -> None:
    """Pages, problems and refusals alike: strict policy, no framing, no sniffing, no caching, nothing about the server."""
    for answer in (pages.ask("/"), pages.ask("/nope"), pages.ask("/", headers={"Host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    "target",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/templates/layout.html.j2",
     "/static/../app.py", "/task/../../x", "/%00"],
)  # fmt: skip
def test_no_path_leads_to_a_file(pages: Pages, target: str) -> None:
    """There are no files behind addresses: every other path is not found."""
    answer = pages.ask(target)
    assert answer.status == 404
    assert "root:" not in answer.text


def test_long_addresses_are_refused(pages: Pages) -> None:
    """Address and query together are bounded."""
    assert pages.ask("/calls?task=" + "x" * 9000).status == 414


# --- what a change must bring ----------------------------------------------------------------------------------------


def test_approving_changes_the_route_and_logs_it(own_pages: Pages) -> None:
    """With the token the recommended route is applied, shown, and in the audit log; then it can be rolled back."""
    html = own_pages.ask("/task?name=strict-json").text
    fields = fields_of(html, "/approve")
    assert fields["what"] == f"PROMOTE:{GEMINI}"
    done = own_pages.send("/approve", fields)
    assert (done.status, done.headers["location"]) == (303, "/task?name=strict-json&done=applied")
    assert read_table(own_pages.settings.routes_path).routes["strict-json"].primary == GEMINI
    after = own_pages.ask(done.headers["location"]).text
    assert "The recommended route is in force." in after
    assert "(serve)" in after
    assert own_pages.send("/approve", fields).status == 409
    back = own_pages.send("/rollback", {**fields_of(after, "/rollback"), "note": "too soon"})
    assert (back.status, back.headers["location"]) == (303, "/task?name=strict-json&done=back")
    assert read_table(own_pages.settings.routes_path).routes["strict-json"].primary == SONNET
    entries = read_history(own_pages.settings.audit_path).entries
    assert [(one.action, one.task) for one in entries] == [("promote", "strict-json"), ("rollback", "strict-json")]
    assert entries[1].note == "too soon"
    assert all(one.by.endswith("(serve)") and not one.automatic for one in entries)


def test_approving_a_trial_starts_it(own_pages: Pages) -> None:
    """A trial begins with its first approval, and the page then says that it runs."""
    html = own_pages.ask("/task?name=summary").text
    assert f"Start a trial of {GEMINI}" in html
    answer = own_pages.send("/approve", fields_of(html, "/approve"))
    assert answer.status == 303
    canary = read_table(own_pages.settings.routes_path).routes["summary"].canary
    assert canary is not None
    assert (canary.candidate, canary.share) == (GEMINI, 0.25)
    html = own_pages.ask(answer.headers["location"]).text
    assert "The trial has begun" in html
    assert f"The trial of <bdi>{GEMINI}</bdi> is running" in html
    assert 'action="/approve"' not in html
    assert own_pages.send("/rollback", fields_of(html, "/rollback")).status == 303
    assert read_table(own_pages.settings.routes_path).routes["summary"].canary is None
    assert 'action="/rollback"' not in own_pages.ask("/task?name=summary").text, "there is nothing left to go back to"


def test_a_trial_is_offered_until_it_runs() -> None:
    """A TRIAL can be started; once its canary runs there is nothing to start, another challenger's trial can be."""
    item = recommendation(verdict="TRIAL")
    route = Route(task=item.task, primary=SONNET)
    offer = offer_of(item, route)
    assert offer is not None
    assert offer.what == f"TRIAL:{GEMINI}"
    assert offer_of(item, replace(route, canary=Canary(candidate=GEMINI, share=0.25))) is None
    assert offer_of(item, replace(route, canary=Canary(candidate=HAIKU, share=0.25))) == offer
    assert offer_of(recommendation(verdict="KEEP"), route) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "https://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/json"}, 415),
        ({"Content_Length": str(MOST_BODY + 1)}, 413),
        ({"Content_Length": "9" * 12}, 413),
    ],
)
def test_changes_from_elsewhere_are_refused(pages: Pages, headers: dict[str, str], status: int) -> None:
    """Even with the right token, a change needs the Origin of the server, a form, and a bounded size."""
    fields = {"task": "strict-json", "what": f"PROMOTE:{GEMINI}", "version": "1", "token": TOKEN}
    assert pages.send("/approve", fields, **headers).status == status
    assert read_table(pages.settings.routes_path).version == 1


def test_length_must_be_stated(pages: Pages) -> None:
    """A body of unknown length is not read."""
    headers = {"Origin": pages.url, "Content-Type": "application/x-www-form-urlencoded", "Transfer-Encoding": "chunked"}
    connection_answer = pages.ask("/approve", method="POST", headers=headers)
    assert connection_answer.status == 411


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é"])
@pytest.mark.parametrize("action", ["/approve", "/rollback"])
def test_changes_without_the_token_are_refused(pages: Pages, action: str, token: str) -> None:
    """Nothing changes without the token of the server."""
    fields = {"task": "strict-json", "what": f"PROMOTE:{GEMINI}", "version": "1", "token": token}
    assert pages.send(action, fields).status == 403
    assert read_table(pages.settings.routes_path).version == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_posts_change(pages: Pages, method: str) -> None:
    """No other method reaches a change, whatever the query says."""
    query = f"task=strict-json&what=PROMOTE%3A{GEMINI}&version=1&token={TOKEN}"
    assert pages.ask(f"/approve?{query}", method=method).status == 405
    assert pages.ask(f"/rollback?{query}", method=method).status == 405
    assert read_table(pages.settings.routes_path).version == 1


def test_what_is_not_as_shown_is_not_applied(pages: Pages) -> None:
    """A recommendation or a table that is another one by now is refused with words, as is a task without any change."""
    fields = {"task": "strict-json", "what": f"PROMOTE:{GEMINI}", "version": "1", "token": TOKEN}
    assert pages.send("/approve", {**fields, "what": f"PROMOTE:{HAIKU}"}).status == 409
    answer = pages.send("/approve", {**fields, "version": "0"})
    assert answer.status == 409
    assert "the route table was changed since" in answer.text
    assert pages.send("/rollback", fields).status == 409
    assert pages.send("/approve", {**fields, "task": "no such task"}).status == 409
    assert pages.send("/approve", {"token": TOKEN}).status == 400
    assert read_table(pages.settings.routes_path).version == 1


def test_token_comparison_takes_any_text() -> None:
    """The comparison is by bytes, so any text can be compared; only the token itself fits."""
    assert token_fits(TOKEN, f" {TOKEN}\n")
    assert not token_fits(TOKEN, "\ud800")


# --- what the pages show ---------------------------------------------------------------------------------------------


def test_report_links_every_task(pages: Pages) -> None:
    """The report is the same page as the file, its tasks linked to pages of their own."""
    answer = pages.ask("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for words in ('href="/task?name=strict-json"', 'href="/task?name=summary"', "Models compared", "chart-data"):
        assert words in answer.text
    assert "Content-Security-Policy" not in answer.text


def test_calls_are_filtered(pages: Pages) -> None:
    """Task, model, outcome and arm narrow the list; filters that do not exist match everything."""

    def models(query: str) -> set[str]:
        html = pages.ask(f"/calls?{query}").text
        return {
            name
            for name in (SONNET, HAIKU, GEMINI)
            if f'<td role="cell" class="name model"><bdi>{name}</bdi></td>' in html
        }

    assert models("") == {SONNET, HAIKU, GEMINI}
    assert models(f"model={GEMINI}") == {GEMINI}
    assert models("task=strict-json&outcome=json_fenced") == {SONNET, HAIKU}
    assert models("outcome=error&arm=pinned") == {HAIKU}
    assert models("arm=canary") == set()
    assert models("outcome=<script>&arm=nothing&before=x.y") == {SONNET, HAIKU, GEMINI}


def test_filters_suggest_what_is_known(pages: Pages) -> None:
    """Tasks and models are suggested; a filter that nothing matches says how names are compared."""
    pages.ask("/")
    html = pages.ask(f"/calls?model={GEMINI[:6]}").text
    for name in ("strict-json", SONNET, HAIKU, GEMINI):
        assert f'<option value="{name}"></option>' in html
    assert "No call. Task and model are compared as whole names." in html


def test_pages_of_calls_follow_each_other_without_gap(pages: Pages) -> None:
    """Going to older pages shows every call once, newest first."""
    target, seen = "/calls", []
    for _ in range(20):
        html = pages.ask(target).text
        seen += re.findall(r'href="(/call\?at=\d+&amp;id=\d+)"', html)
        older = re.search(r'href="(/calls\?[^"]*)" rel="next"', html)
        if older is None:
            break
        target = unescape(older[1])
    assert len(seen) == len(set(seen)) == 241
    starts = [int(re.findall(r"at=(\d+)", link)[0]) for link in seen]
    assert starts == sorted(starts, reverse=True)


def test_search_is_bounded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that hardly matches looks at so many rows and leads on from there."""
    monkeypatch.setattr("tierwise.surfaces.serve.calls.MOST_LOOKED_AT", 100)
    with SqliteStore.open(store, read_only=True) as opened:
        first = page_of(opened, Filter(arm="canary"))
        assert (first.lines, first.searched) == ((), True)
        before = re.findall(r"before=([\d.]+)", first.older)[0]
        third = page_of(opened, Filter(arm="canary"), re.findall(r"before=([\d.]+)", page_of(
            opened, Filter(arm="canary"), before).older)[0])  # fmt: skip
        assert (third.older, third.searched) == ("", False)


def test_a_call_shows_tries_checks_and_ids(pages: Pages) -> None:
    """One call: outcome, timings, failed tries with their waits, checks, span and trace id; a name is only text."""
    html = pages.ask("/calls?outcome=error").text
    (link,) = re.findall(r'href="(/call\?[^"]+)"', html)
    one = pages.ask(unescape(link)).text
    for words in ("RateLimitError", "HTTP 429", "then waited 0.250", "bullets", "failed", SPAN, TRACE, HAIKU):
        assert words in one
    assert "<script>alert" not in one
    assert "<script>alert" not in html
    assert pages.ask("/call?at=1&id=1").status == 404
    assert pages.ask("/call?at=x&id=1").status == 400
    assert pages.ask(f"/call?at={'9' * 30}&id=1").status == 400


def test_any_name_of_a_task_leads_to_its_page(pages: Pages) -> None:
    """Names with markup, slashes and emoji have a page; unknown ones are not found, in words."""
    answer = pages.ask("/task?name=" + quote(HOSTILE))
    assert answer.status == 200
    assert "<script>alert" not in answer.text
    assert pages.ask("/task?name=" + quote("<b>nobody</b>")).status == 404
    assert "<b>nobody" not in pages.ask("/task?name=" + quote("<b>nobody</b>")).text
    assert pages.ask("/task").status == 400


def test_state_changes_with_a_call(tmp_path: Path) -> None:
    """The short state that pages ask for is another one after a call was recorded."""
    path = store_with(tmp_path / "s.db", [call_row().to_call()])
    with live_pages(path) as pages:
        before = pages.ask("/state").text
        assert pages.ask("/state").text == before
        store_with(path, [call_row(started_at_ns=call_row().started_at_ns + 1).to_call()])
        assert pages.ask("/state").text != before


def test_no_store_is_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first call there is a page that says so, and nothing is created."""
    monkeypatch.chdir(tmp_path)
    with live_pages(tmp_path / "none.db") as pages:
        assert "Nothing is recorded yet" in pages.ask("/").text
        assert pages.ask("/calls").status == 503
    assert list(tmp_path.iterdir()) == []


# --- the command -------------------------------------------------------------------------------------------------------


def test_port_in_use_is_said(store: Path) -> None:
    """A taken port is a message that names it and the way out, and exit code 2."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        result = tierwise("serve", "--port", str(port), "--store", str(store))
        assert result.exit_code == 2
        assert f"port {port} of 127.0.0.1 is in use" in result.stderr
        assert "--port" in result.stderr


def test_addresses_of_others_are_refused() -> None:
    """An address that is not this machine's cannot be listened on."""
    with pytest.raises(ConfigError, match="no address of this machine"):
        listen("192.0.2.1", 0)


def test_short_tokens_are_refused(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    """A token of one's own must be long."""
    monkeypatch.setenv("TIERWISE_SERVE_TOKEN", "short")
    result = tierwise("serve", "--port", "0", "--store", str(store))
    assert result.exit_code == 2
    assert "16 characters" in result.stderr


def test_ctrl_c_stops_cleanly(store: Path, tmp_path: Path) -> None:
    """The command prints its address and a new token, answers, and ends at Ctrl-C with exit code 0 and no traceback."""
    environment = {name: value for name, value in os.environ.items() if name != "TIERWISE_SERVE_TOKEN"}
    command = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "serve", "--port", "0", "--store", str(store)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        port = int(address.rstrip("/").rpartition(":")[2])
        assert address == f"http://127.0.0.1:{port}/"
        from http.client import HTTPConnection

        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/state")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert errors.rstrip().endswith("stopped")
    assert "Traceback" not in errors
    tokens = re.findall(r"rolling back: (\S+)", errors)
    assert len(tokens) == 1
    assert len(tokens[0]) >= 40

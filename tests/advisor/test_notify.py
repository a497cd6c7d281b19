"""The webhook: delivered over real HTTP, retried, bounded, escaped, and its address never shown."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.webhook import Hook, webhook
from tierwise.advisor.news import News
from tierwise.advisor.notify import MAX_BLOCKS, MAX_NEWS, NotifyError, Webhook, json_body, slack_body
from tierwise.core.errors import ConfigError

NOW = 1_800_000_000


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A server that takes webhooks."""
    with webhook() as made:
        yield made


def news(text: str = "PROMOTE cheap", task: str = "t", **more: Any) -> News:
    """One piece of news."""
    return News(kind="verdict", at=NOW, task=task, text=text, **more)


def test_news_arrive_as_one_json_document(hook: Hook) -> None:
    """One POST with the news, when, and how many were left out; a token is a bearer token; no news is no request."""
    sender = Webhook(url=hook.url, token="tok")
    sender.send([], at=NOW)
    sender.send([news(verdict="PROMOTE", candidate="cheap"), news(task="u")], at=NOW, lost=3)
    (document,) = hook.documents()
    assert (document["format"], document["at"], document["left_out"]) == ("tierwise-news/1", NOW, 3)
    assert document["news"][0] == {
        "kind": "verdict", "at": NOW, "task": "t", "verdict": "PROMOTE", "candidate": "cheap", "detail": "",
        "text": "PROMOTE cheap",
    }  # fmt: skip
    assert hook.headers[0]["authorization"] == "Bearer tok"
    assert hook.headers[0]["content-type"].startswith("application/json")
    assert hook.paths == ["/services/T000SECRET?key=hushhush"]


def test_slack_gets_blocks_in_which_no_name_can_do_anything(hook: Hook) -> None:
    """Mentions, links and formatting in names and texts are plain characters; control characters are gone."""
    Webhook(url=hook.url, format="slack").send([news("<!channel> & `x` *b* \x1b[31m", task="<http://evil|t>")], at=NOW)
    (document,) = hook.documents()
    assert set(document) == {"text", "blocks"}
    assert document["text"] == "tierwise: 1 news about &lt;http://evil|t&gt;"
    text = document["blocks"][1]["text"]
    assert text["type"] == "mrkdwn"
    assert text["text"] == "• *&lt;http://evil|t&gt;*  &lt;!channel&gt; &amp; 'x' 'b'  [31m"


def test_bodies_are_bounded() -> None:
    """Thousands of news make a body of some kilobytes that says how many are missing; long texts are cut."""
    many = [news("x" * 50_000, task=f"t{i}" * 40) for i in range(3000)]
    document = json.loads(json_body(many, at=NOW, lost=1))
    assert (len(document["news"]), document["left_out"]) == (MAX_NEWS, 3000 - MAX_NEWS + 1)
    assert len(json_body(many, at=NOW)) < 400_000
    blocks = json.loads(slack_body(many))["blocks"]
    assert len(blocks) == MAX_BLOCKS + 2 <= 50
    assert all(len(block["text"]["text"]) <= 3000 for block in blocks)
    assert "2,955 more" in blocks[-1]["text"]["text"]


def test_a_server_in_trouble_is_tried_again_with_backoff(hook: Hook) -> None:
    """503 and 429 are tried again, after what Retry-After asks for when that is longer, never more than 30 s."""
    slept: list[float] = []
    sender = Webhook(url=hook.url, sleep=slept.append)
    hook.answer(503, 503, 200)
    sender.send([news()], at=NOW)
    assert (len(hook.bodies), slept) == (3, [1.0, 2.0])
    hook.answer(429, headers={"Retry-After": "99999"})
    with pytest.raises(NotifyError, match=r"HTTP 429 \(tried 4 times\)"):
        sender.send([news()], at=NOW)
    assert slept[2:] == [30.0] * 3
    hook.answer(429, headers={"Retry-After": "²"})
    with pytest.raises(NotifyError, match="HTTP 429"):
        sender.send([news()], at=NOW)
    assert slept[5:] == [1.0, 2.0, 4.0], "a digit that is no number is no wish"


def test_a_refusal_is_final_and_says_why_without_the_secret(hook: Hook) -> None:
    """400 is not tried again; the server's words are told, the parts of the address in them are not."""
    hook.answer(400, body=b"invalid_payload for T000SECRET\x1b[2J hushhush /services/T000SECRET")
    with pytest.raises(NotifyError) as caught:
        Webhook(url=hook.url, token="tok-secret").send([news()], at=NOW)
    text = str(caught.value)
    assert len(hook.bodies) == 1
    assert "HTTP 400, invalid_payload for" in text
    assert f"{hook.url.partition('/services')[0]}/…" in text
    for secret in ("T000SECRET", "hushhush", "tok-secret", "\x1b"):
        assert secret not in text
    assert "T000SECRET" not in repr(Webhook(url=hook.url, token="tok-secret"))


def test_a_redirect_is_not_followed(hook: Hook) -> None:
    """The address is a secret of the one server that was named."""
    with webhook() as other:
        hook.answer(302, headers={"Location": other.url})
        with pytest.raises(NotifyError, match="a redirect, which is not followed"):
            Webhook(url=hook.url).send([news()], at=NOW)
        assert (len(hook.bodies), other.bodies) == (1, [])


def test_nobody_there_is_an_error_without_the_path() -> None:
    """A refused connection is tried again, then told by host alone."""
    with webhook() as gone:
        url = gone.url
    slept: list[float] = []
    with pytest.raises(NotifyError, match=r"ConnectionRefusedError.*tried 2 times") as caught:
        Webhook(url=url, attempts=2, sleep=slept.append).send([news()], at=NOW)
    assert "SECRET" not in str(caught.value)
    assert slept == [1.0]


def test_a_silent_server_ends_in_a_time_out() -> None:
    """A server that accepts and never answers costs the time-out, not for ever."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(NotifyError, match="timed out"):
            Webhook(url=url, timeout_s=0.05, attempts=1).send([news()], at=NOW)


@pytest.mark.parametrize(
    "url",
    ["", "hooks.slack.com/x", "file:///etc/passwd", "https://", "https://h:99999/x", "https://h/a b", "https://h/\n", "https://ü/x"],
)  # fmt: skip
def test_what_is_no_http_address_is_a_configuration_error(url: str) -> None:
    """Other schemes, no host, spaces and control characters are refused before anything is sent, and never shown."""
    with pytest.raises(ConfigError, match="not of the form"):
        Webhook(url=url)


def test_a_password_in_the_address_is_refused() -> None:
    """Where to put it is said, and it is not repeated."""
    with pytest.raises(ConfigError, match="TIERWISE_WEBHOOK_TOKEN") as caught:
        Webhook(url="https://user:hushhush@host/x")
    assert "hushhush" not in str(caught.value)


def test_a_token_no_header_can_hold_is_refused() -> None:
    """A line break cannot smuggle in another header."""
    with pytest.raises(ConfigError, match="token"):
        Webhook(url="https://h/x", token="a\r\nX: y")


def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    """TLS is verified: a self-signed server gets nothing."""
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
         "-days", "2", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(b"a request")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """The client hangs up, which is meant."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with pytest.raises(NotifyError, match="CERTIFICATE_VERIFY_FAILED"):
            Webhook(url=f"https://localhost:{server.server_address[1]}/x", attempts=1).send([news()], at=NOW)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert got == []

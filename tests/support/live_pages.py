"""The live pages on a free port of this machine, for tests over real HTTP and in a browser."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from tierwise.config import Settings, read_settings
from tierwise.surfaces.serve import listen, make_app
from tierwise.surfaces.serve.server import server_of
from tierwise.surfaces.serve.source import Source

TOKEN = "a-token-of-these-tests-0123456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status, headers in lower case, and text of one answer."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """A running server."""

    port: int
    settings: Settings

    @property
    def host(self) -> str:
        """Its Host header."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{self.host}"

    def ask(
        self, target: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, its headers as given; redirects are not followed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, target, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8")
            return Answer(status=answer.status, headers={k.lower(): v for k, v in answer.getheaders()}, text=text)
        finally:
            connection.close()

    def send(self, target: str, fields: Mapping[str, str], **headers: str) -> Answer:
        """A form as a page of the server sends it; `headers` replace its own (`_` for `-`), an empty one leaves it out."""
        all_headers = {
            "Origin": self.url,
            "Content-Type": "application/x-www-form-urlencoded",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        kept = {name: value for name, value in all_headers.items() if value}
        return self.ask(target, method="POST", body=urlencode(fields).encode(), headers=kept)


@contextmanager
def live_pages(store: Path) -> Iterator[Pages]:
    """Serve the pages of a store until the block ends."""
    settings = read_settings(store=str(store))
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    source = Source(settings, since=None, title="Live")
    server = server_of(make_app(source, token=TOKEN, hosts=[f"127.0.0.1:{port}", f"localhost:{port}"]))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Pages(port=port, settings=settings)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listening.close()

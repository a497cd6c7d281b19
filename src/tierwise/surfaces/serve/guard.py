"""What stands before every page: Host, Origin, size and method are checked, and every answer gets its security headers."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tierwise.surfaces.report.render import policy_of

MOST_BODY: Final = 16 * 1024
MOST_TARGET: Final = 8 * 1024
"""Bytes of path and query together."""
MOST_HEADERS: Final = 32 * 1024
"""Bytes of all names and values of a request's headers; the server beneath takes some more where they come at once."""
_READING: Final = frozenset({"GET", "HEAD"})


class Guard:
    """ASGI middleware in front of the application.

    `hosts` are the values of the Host header that are ours, port included: another one is a name that somebody points
    at this machine (DNS rebinding). A change needs an Origin that is ours too, so no other site can send one (CSRF).
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused, hand on the rest."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_headers()]
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            status, words = refused
            await PlainTextResponse(words + "\n", status_code=status)(scope, receive, sent)
            return
        await self._app(scope, receive, sent)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        values: dict[bytes, list[str]] = {name: [] for name in _CHECKED}
        for name, value in scope["headers"]:
            if name in values:
                values[name].append(value.decode("latin-1"))
        hosts = [host.lower() for host in values[b"host"]]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 421, "this server answers only under its own address; see what `tierwise serve` printed"
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_TARGET:
            return 414, "the address is too long"
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:
            return 431, "the headers are too long"
        if scope["method"] in _READING:
            return None
        if scope["method"] != "POST":
            return 405, "only GET, HEAD and POST are answered"
        return self._refused_change(values)

    def _refused_change(self, values: dict[bytes, list[str]]) -> tuple[int, str] | None:
        origins, length = [origin.lower() for origin in values[b"origin"]], values[b"content-length"]
        if (
            len(origins) != 1
            or origins[0] not in self._origins
            or values[b"sec-fetch-site"] not in ([], ["same-origin"])
        ):
            return 403, "a change must come from a page of this server (its Origin is another one, or missing)"
        if values[b"content-type"] != ["application/x-www-form-urlencoded"]:
            return 415, "a change is sent as a form"
        if len(length) != 1 or not (length[0].isascii() and length[0].isdigit()):
            return 411, "a change must say how long it is"
        return (413, "too much to read") if len(length[0]) > 9 or int(length[0]) > MOST_BODY else None


_CHECKED: Final = (b"host", b"origin", b"sec-fetch-site", b"content-type", b"content-length")


def _headers() -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy_of(served=True).encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        (b"cache-control", b"no-store"),
    ]


async def form_of(request: Request) -> dict[str, str] | None:
    """The fields of a form, each once; `None` when it is too large or no form."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            return None
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except (ValueError, UnicodeError):
        return None
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None


def token_fits(token: str, given: str) -> bool:
    """Whether a token is the one; takes the same time wherever they differ."""
    return hmac.compare_digest(token.encode(), given.strip().encode("utf-8", "replace"))

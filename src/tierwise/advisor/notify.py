"""Telling people: one bounded HTTP POST with what is new, as JSON or for Slack, retried, its address never shown whole."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from tierwise.advisor.news import MAX_TEXT, News
from tierwise.core.errors import ConfigError, TierwiseError

WebhookFormat = Literal["json", "slack"]

FORMAT: Final = "tierwise-news/1"
MAX_NEWS: Final = 100
MAX_BLOCKS: Final = 45
"""Sections of one Slack message, which may hold 50 blocks of 3,000 characters."""
TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 4
BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 30.0
_ANSWER_BYTES: Final = 2000

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKS: Final = {"rollback": "↩", "guardrail": "⚠", "drift": "〜", "trouble": "✖", "route": "→", "verdict": "•"}


class NotifyError(TierwiseError):
    """What was new could not be delivered; the message names the host and never the rest of the address."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nobody: the address is a secret, and a POST would become a GET."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where to tell what is new. TLS is verified, redirects are not followed, the environment's proxies are used.

    Raises:
        ConfigError: the address is no HTTP address, or holds a user name or password.
    """

    url: str = field(repr=False)
    format: WebhookFormat = "json"
    token: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer`, when there is one."""
    timeout_s: float = TIMEOUT_S
    attempts: int = ATTEMPTS
    backoff_s: float = BACKOFF_S
    sleep: Callable[[float], object] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        _parts(self.url)
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("the webhook's token holds characters that no HTTP header can")

    @property
    def shown(self) -> str:
        """Scheme, host and port: all of the address that may be shown."""
        parts = _parts(self.url)
        return f"{parts.scheme}://{parts.netloc}/…"

    def send(self, news: Sequence[News], *, at: int, lost: int = 0) -> None:
        """Deliver news in one request; nothing is sent when there is none. `lost` counts news dropped before.

        Network errors, 408, 429 and 5xx are tried again, with backoff or after what `Retry-After` asks for (30 s at
        most); other answers are final.

        Raises:
            NotifyError: it could not be delivered.
        """
        if not news:
            return
        body = slack_body(news, lost=lost) if self.format == "slack" else json_body(news, at=at, lost=lost)
        pause = self.backoff_s
        for attempt in range(1, max(self.attempts, 1) + 1):
            problem, final, wanted_s = self._post(body)
            if problem is None:
                return
            if final or attempt >= self.attempts:
                times = "" if attempt == 1 else f" (tried {attempt} times)"
                raise NotifyError(f"the webhook at {self.shown} did not take the news: {problem}{times}")
            self.sleep(min(max(pause, wanted_s), MAX_BACKOFF_S))
            pause *= 2

    def _post(self, body: bytes) -> tuple[str | None, bool, float]:
        """One try: the problem (`None`: delivered), whether it is final, and the seconds that the server asks to wait."""
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "tierwise-watch"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")  # noqa: S310 - checked
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout_s):
                return None, True, 0.0
        except urllib.error.HTTPError as error:
            with error:
                said = self._safe(_read(error))
            final = error.code not in (408, 429) and error.code < 500
            if 300 <= error.code < 400:
                said = "a redirect, which is not followed; give the final address"
            wait = error.headers.get("Retry-After", "") if error.headers is not None else ""
            return f"HTTP {error.code}{said and f', {said}'}", final, float(wait) if wait.isdecimal() else 0.0
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            return self._safe(f"{type(reason).__name__}: {reason}"), False, 0.0

    def _safe(self, text: str) -> str:
        """Text from elsewhere: one short line without the secret parts of the address."""
        parts = _parts(self.url)
        named = f"{parts.path}?{parts.query}#{parts.fragment}"
        secrets = {self.url, self.token or "", parts.path.strip("/"), *re.split("[/?&=#;,:]", named)}
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= 6:
                text = text.replace(secret, "…")
        return clean(text)[:200].strip()


def _read(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(_ANSWER_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = None
    if not fine or _CONTROL.search(url) or " " in url or not url.isascii():
        raise ConfigError(
            "the webhook's address is not of the form https://HOST/PATH (it is not shown: it may be secret)"
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "the webhook's address holds a user name or password; put a token into TIERWISE_WEBHOOK_TOKEN instead"
        )
    return parts


def clean(text: str) -> str:
    """Text in which no control or direction character is left."""
    return _CONTROL.sub(" ", text)


def json_body(news: Sequence[News], *, at: int, lost: int = 0) -> bytes:
    """The generic body: `{"format", "at", "news": [{"kind", "task", "verdict", "candidate", "text", …}], "left_out"}`."""
    told = news[-MAX_NEWS:]
    items = [{**item.to_json(), "text": clean(item.text[:MAX_TEXT])} for item in told]
    document = {"format": FORMAT, "at": at, "news": items, "left_out": len(news) - len(told) + lost}
    return json.dumps(document, allow_nan=False).encode()


def slack_body(news: Sequence[News], *, lost: int = 0) -> bytes:
    """A Slack message: a line as text, a section for each piece of news; all names escaped, nobody can be mentioned."""
    told = news[-MAX_BLOCKS:]
    lines = [_slack_line(item) for item in told]
    left = len(news) - len(told) + lost
    if left:
        lines.append(f"and {left:,} more; `tierwise history` shows all")
    tasks = list(dict.fromkeys(item.task for item in told if item.task))
    about = f" about {', '.join(tasks[:5])}{' and others' if len(tasks) > 5 else ''}" if tasks else ""
    head = f"tierwise: {len(news):,} news{about}"
    blocks = [
        {"type": "section", "text": {"type": "mrkdwn", "text": line, "verbatim": True}}
        for line in (f"*{_escape(head)}*", *lines)
    ]
    return json.dumps({"text": _escape(head), "blocks": blocks}).encode()


def _slack_line(item: News) -> str:
    task = f"*{_plain(item.task)}*  " if item.task else ""
    return f"{_MARKS[item.kind]} {task}{_plain(item.text)}"


def _plain(text: str) -> str:
    """Escaped, and without what Slack takes for formatting around a name."""
    return _escape(re.sub(r"[*~`]", "'", text[:MAX_TEXT]))


def _escape(text: str) -> str:
    return clean(text[:MAX_TEXT]).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

"""HTTP to a Prometheus-compatible server: addresses, secrets, TLS, time limits, retries, bounded answers, plain errors."""

from __future__ import annotations

import base64
import email.utils
import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from tierwise.core.errors import ConfigError, EvidenceError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager

MAX_BYTES: Final = 192 << 20
"""An answer larger than this is not read: the question is cut into smaller ones."""
_CHUNK: Final = 1 << 20
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_TOO_MUCH: Final = ("too many samples", "too many points", "exceeded maximum resolution", "maxseries", "maxunique",
                    "maxsamples", "maxpoints", "memory", "timed out", "timeout", "exceed", "limit")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a server is reached. Secrets stand in no representation and in no message."""

    url: str
    """Base address, as Grafana's data source has it: without `/api/v1`."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    bearer: str | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    """User and password."""
    tenant: str | None = None
    """`X-Scope-OrgID`, for Mimir and for Thanos with tenancy."""
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    verify: bool = True
    connect_timeout_s: float = 5.0
    timeout_s: float = 60.0
    tries: int = 4
    """Requests for one question at most; only what a second try can mend is tried again."""
    max_wait_s: float = 30.0
    """What all waits between the tries of one question may take together."""


class TooMuchError(EvidenceError):
    """The server, or the limit here, refuses the size of an answer; a smaller question may do."""


class Http:
    """One server. Thread-safe; close it."""

    def __init__(self, access: Access, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.access = access
        self.base = _base(access.url)
        self.requests = 0
        """Requests sent, retries included."""
        self.bytes = 0
        """Bytes of answers read."""
        self._lock = threading.Lock()
        self._sleep = sleep
        self._headers = _headers(access)
        self._pool: PoolManager | ProxyManager | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.clear()
            self._pool = None

    def get(self, path: str, parameters: Sequence[tuple[str, str]] = ()) -> tuple[bytes, Mapping[str, str]]:
        """The body and headers of a GET that succeeded; see `post`."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        return self._ask("GET", path, query, None)

    def post(self, path: str, parameters: Sequence[tuple[str, str]]) -> tuple[bytes, Mapping[str, str]]:
        """The body and headers of a form POST that succeeded.

        Raises:
            EvidenceError: the server cannot be reached, refuses, or answers with something else; the message says
                what to do. `TooMuchError` when the size of the answer was the reason.
        """
        return self._ask("POST", path, "", urlencode(parameters).encode())

    def _ask(self, method: str, path: str, query: str, body: bytes | None) -> tuple[bytes, Mapping[str, str]]:
        waited, problem, number = 0.0, "", 0
        while True:
            number += 1
            pause: float | None = None
            try:
                response = self._send(method, path, query, body)
            except EvidenceError:
                raise
            except Exception as error:  # noqa: BLE001 - urllib3 lets a dozen kinds through; each is told in words
                problem = _unreachable(self.base, error, self.access)
                if not _worth_a_retry(error):
                    raise EvidenceError(problem) from None
            else:
                status, data, headers = response
                if 200 <= status < 300:
                    return data, headers
                problem = self._refusal(status, data, headers)
                if status in (422, 503) and _is_too_much(data):
                    raise TooMuchError(problem)
                if status not in _RETRIED:
                    raise EvidenceError(problem)
                pause = retry_after(headers.get("retry-after"))
            if pause is None:
                pause = 0.5 * 2 ** (number - 1) * (0.5 + random.random())  # noqa: S311 - jitter
            if number >= self.access.tries or waited + pause > self.access.max_wait_s:
                waits = f", {waited:.0f} s of waiting" if waited else ""
                raise EvidenceError(f"{problem} (tried {number} time{'s' if number > 1 else ''}{waits})")
            self._sleep(pause)
            waited += pause

    def _send(self, method: str, path: str, query: str, body: bytes | None) -> tuple[int, bytes, Mapping[str, str]]:
        from urllib3 import Timeout

        with self._lock:
            self.requests += 1
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        response = self._pooled().request(
            method,
            self.base + path + query,
            body=body,
            headers=headers,
            timeout=Timeout(connect=self.access.connect_timeout_s, read=self.access.timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            data = self._read(response)
        finally:
            response.release_conn()
        return response.status, data, {name.lower(): value for name, value in response.headers.items()}

    def _read(self, response: BaseHTTPResponse) -> bytes:
        parts, size, deadline = [], 0, time.monotonic() + 4 * self.access.timeout_s
        for part in response.stream(_CHUNK, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES or time.monotonic() > deadline:
                response.close()
                what = f"more than {MAX_BYTES >> 20} MiB" if size > MAX_BYTES else "bytes too slowly"
                raise TooMuchError(
                    f"{self.base} sends {what} for one question; ask for fewer tasks or a shorter --since"
                )
        with self._lock:
            self.bytes += size
        return b"".join(parts)

    def _pooled(self) -> PoolManager | ProxyManager:
        if self._pool is None:
            import urllib3

            access = self.access
            options: dict[str, Any] = {"maxsize": 4, "retries": False}
            if self.base.startswith("https"):
                options |= {
                    "cert_reqs": "CERT_REQUIRED" if access.verify else "CERT_NONE",
                    "ca_certs": access.ca_file,
                    "cert_file": access.client_certificate,
                    "key_file": access.client_key,
                }
                if not access.verify:
                    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            proxy = _proxy(self.base)
            self._pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        return self._pool

    def _refusal(self, status: int, data: bytes, headers: Mapping[str, str]) -> str:  # noqa: PLR0911 - a table in words
        said = self._scrubbed(_said(data))
        if status == 401:
            return f"{self.base} wants to know who asks (HTTP 401){said}; pass --token-file, --user or --header"
        if status == 403:
            return f"{self.base} does not let us read (HTTP 403){said}; check the token's rights, and --tenant"
        if status == 404:
            return f"{self.base} has no Prometheus API there (HTTP 404); --url is the address without /api/v1, as in Grafana"
        if 300 <= status < 400:
            target = urlsplit(headers.get("location", ""))
            place = f" to {target.scheme}://{target.hostname}" if target.hostname else ""
            return (
                f"{self.base} redirects{place} (HTTP {status}), which is not followed; give the final address as --url"
            )
        if status == 429:
            return f"{self.base} has too many requests (HTTP 429){said}; try later, or ask for fewer tasks or a shorter --since"
        if status in (400, 422):
            return f"{self.base} refuses the query (HTTP {status}){said}"
        return f"{self.base} fails (HTTP {status}){said}; look at its log, or check that --url is a Prometheus"

    def _scrubbed(self, text: str) -> str:
        """A server's words without our secrets, should it repeat them."""
        access = self.access
        secrets = [
            access.bearer,
            *(access.basic or ())[1:],
            *access.headers.values(),
            self._headers.get("Authorization"),
        ]
        for secret in secrets:
            if secret:
                text = text.replace(secret, "[secret]")
        return text


def _base(url: str) -> str:
    """The address without a trailing slash.

    Raises:
        ConfigError: it is none, or holds a user name or password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("--url is no address; write it like http://prometheus:9090") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("--url is no address; write it like http://prometheus:9090")
    if parts.username or parts.password:
        raise ConfigError("--url holds a user or password, which would be seen in process lists; use --user instead")
    if parts.query or parts.fragment:
        raise ConfigError("--url has a query or fragment; give the base address, without /api/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/api/v1")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def _headers(access: Access) -> dict[str, str]:
    found = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "tierwise"}
    host = urlsplit(access.url).hostname or ""
    if host in ("localhost", "127.0.0.1", "::1"):
        del found["Accept-Encoding"]  # packing costs more than it saves there
    if access.bearer is not None:
        found["Authorization"] = f"Bearer {access.bearer}"
    elif access.basic is not None:
        found["Authorization"] = "Basic " + base64.b64encode(":".join(access.basic).encode()).decode()
    if access.tenant is not None:
        found["X-Scope-OrgID"] = access.tenant
    found |= access.headers
    for name, value in found.items():
        if not name or not _is_header(name) or not _is_header(value):
            raise ConfigError(
                "a header has a line break or a character outside Latin-1; check --header, --token-file, --tenant"
            )
    return found


def _is_header(text: str) -> bool:
    return all(31 < ord(character) < 256 and ord(character) != 127 for character in text)


def _proxy(base: str) -> str | None:
    parts = urlsplit(base)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait; `None` without a usable one."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return max(0.0, at.timestamp() - time.time())


def _worth_a_retry(error: Exception) -> bool:
    from urllib3.exceptions import LocationParseError, NameResolutionError, SSLError

    return not isinstance(error, (SSLError, NameResolutionError, LocationParseError, UnicodeError, ValueError, OSError))


def _unreachable(base: str, error: Exception, access: Access) -> str:  # noqa: PLR0911 - a table in words
    """What keeps us from a server, in words; the error's own text may hold headers and is not repeated."""
    from urllib3 import exceptions as kinds

    if isinstance(error, kinds.NameResolutionError):
        return f"{base}: no such host; check --url and the network"
    if isinstance(error, kinds.SSLError):
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return f"{base}: its certificate is not trusted; name the authority with --ca FILE"
        return f"{base}: TLS fails; check that --url is https and the server's port speaks TLS"
    if isinstance(error, kinds.NewConnectionError):
        return f"{base}: nothing answers there; check --url and that the server runs"
    if isinstance(error, kinds.ConnectTimeoutError):
        return f"{base}: no connection within {access.connect_timeout_s:g} s; check --url, the network and firewalls"
    if isinstance(error, kinds.ReadTimeoutError):
        return f"{base}: no answer within {access.timeout_s:g} s; try --timeout, fewer tasks or a shorter --since"
    if isinstance(error, OSError):
        return f"{base}: a file for TLS cannot be read ({error.strerror or type(error).__name__}); check --ca, --cert and --key"
    return f"{base}: the connection broke ({type(error).__name__}); check --url (http or https) and the server"


def _said(data: bytes) -> str:
    """What the server said about its error, shortened; nothing of it is a secret of ours."""
    try:
        found = json.loads(data[:65536])
        text = found.get("error") if isinstance(found, dict) else None
    except ValueError:
        text = None
    if not isinstance(text, str) or not text:
        return ""
    return ": " + " ".join(text.split())[:300]


def _is_too_much(data: bytes) -> bool:
    text = _said(data).lower()
    return any(word in text for word in _TOO_MUCH)

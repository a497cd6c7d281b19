"""Lanes: the client behind each candidate, made from the instrumented one, an upstream or a base URL on first use."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from tierwise.core.errors import ConfigError
from tierwise.core.policy import ModelSpec
from tierwise.core.records import dataclass

if TYPE_CHECKING:
    from tierwise.instrument.hook import Hook

_log = logging.getLogger("tierwise")
_PATHS: Final[Mapping[str, str]] = {"groq": "openai/v1", "cerebras": "v1"}
"""Where other packages' base URLs lack what their resources put before `/chat/completions`."""
_SECRET_HEADERS: Final = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"})
_NO_KEY: Final = "none"
_MAX_OWN: Final = 1_000

making: ContextVar[bool] = ContextVar("tierwise_lane", default=False)
"""Set while a lane's client is made, which is not one of the application's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How a candidate is asked: the client, the class whose `request` it is sent by, its hook, model and parameters.

    `client` and `owner` are `None` for the instrumented client itself: what is kept with it must not refer to it.
    """

    client: Any
    owner: Any
    hook: Hook
    model: str
    params: Mapping[str, object]
    place: tuple[str | None, str | None] = (None, None)
    """Upstream and base URL, as the policy names them."""
    own: bool = True
    """The instrumented client itself: what the caller set on it, and for this request, holds."""


class Lanes:
    """The lanes of one client and of its copies; each is made once."""

    __slots__ = ("_known", "_lock", "_told")

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def lane(self, hook: Hook, client: Any, candidate: str) -> Lane | None:
        """How a candidate is asked; `None`, said once in the log, where its upstream is not there."""
        own = hook.own_lanes.get(candidate)
        if own is not None:
            return own
        spec = hook.wiring.models.get(candidate)
        if spec is None or (spec.upstream is None and spec.base_url is None):
            model, params = (candidate, {}) if spec is None else (spec.model, spec.params)
            own = Lane(client=None, owner=None, hook=hook, model=model, params=params)
            if len(hook.own_lanes) < _MAX_OWN:
                hook.own_lanes[candidate] = own
            return own
        found = self._known.get(candidate)
        if found is None:
            with self._lock:
                found = self._known.get(candidate)
                if found is None:
                    made = self._made(hook, client, spec)
                    if made is None:
                        return None
                    found = self._known[candidate] = made
        other, its_hook = found
        return Lane(
            client=other,
            owner=its_hook.original_class,
            hook=its_hook,
            model=spec.model,
            params=spec.params,
            place=(spec.upstream, spec.base_url),
            own=False,
        )

    def _made(self, hook: Hook, client: Any, spec: ModelSpec) -> tuple[Any, Any] | None:
        from tierwise.instrument.hook import Hook
        from tierwise.instrument.stainless import observe_with

        token = making.set(True)
        try:
            if spec.base_url is not None:
                key = os.environ.get(spec.api_key_env or "", "") or _NO_KEY
                made = _elsewhere(client, hook.original_class, base_url=spec.base_url, api_key=key, headers={})
            else:
                upstream = hook.wiring.upstreams.get(spec.upstream or "")
                if upstream is None or is_async(upstream) != is_async(client):
                    self._tell(spec)
                    return None
                made = _standing_for(client, hook.original_class, upstream)
        finally:
            making.reset(token)
        bare = getattr(type(made), "_tierwise_bare", type(made))
        its_hook = Hook(wiring=hook.wiring, base_url=made.base_url, task=hook.task, original_class=bare)
        observe_with(made, its_hook)
        return made, its_hook

    def _tell(self, spec: ModelSpec) -> None:
        if spec.name not in self._told:
            self._told.add(spec.name)
            _log.warning(
                "tierwise: no upstream %r for candidate %r: it is left out; pass instrument(client, upstreams={%r: ...}) "
                "a client of the same kind, sync or async",
                spec.upstream,
                spec.name,
                spec.upstream,
            )


def is_async(client: Any) -> bool:
    """Whether a client's requests are awaited."""
    return inspect.iscoroutinefunction(inspect.unwrap(getattr(type(client), "request", None) or (lambda: None)))


def check_upstreams(client: Any, upstreams: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for an upstream that no request of this client could be sent by."""
    for name, upstream in upstreams.items():
        if not callable(getattr(type(upstream), "request", None)) or not hasattr(upstream, "base_url"):
            raise ConfigError(
                f"upstreams[{name!r}]: a {type(upstream).__name__} has no request() and base_url; pass a client such as "
                "OpenAI() or Groq()"
            )
        if client is not None and is_async(client) != is_async(upstream):
            kinds = ("asynchronous", "synchronous") if is_async(upstream) else ("synchronous", "asynchronous")
            raise ConfigError(f"upstreams[{name!r}] is {kinds[0]}, the client {kinds[1]}; give one of the same kind")


def headers_for(lane: Lane, headers: Any) -> Any:
    """A request's own headers as they may go along a lane: keys are for the host that they were given for."""
    if lane.own or not isinstance(headers, Mapping):
        return headers
    return {name: value for name, value in headers.items() if str(name).lower() not in _SECRET_HEADERS}


def _standing_for(client: Any, bare: type, upstream: Any) -> Any:
    """A client of this client's package that asks an upstream: a copy of it, or its address and key taken over."""
    root = _root(getattr(type(upstream), "_tierwise_bare", type(upstream)))
    if root == _root(bare):
        return upstream.copy()
    address = str(upstream.base_url).rstrip("/")
    path = _PATHS.get(root, "")
    headers = getattr(upstream, "_custom_headers", None) or {}
    key = getattr(upstream, "api_key", None) or _NO_KEY
    return _elsewhere(
        client, bare, base_url=f"{address}/{path}" if path else address, api_key=key, headers=dict(headers)
    )


def _elsewhere(client: Any, bare: type, *, base_url: str, api_key: Any, headers: dict[str, str]) -> Any:
    """A client for another host: nothing of the first one's credentials goes along, its connections are shared."""
    package: Any = sys.modules.get(_root(bare))
    name = "AsyncOpenAI" if is_async(client) else "OpenAI"
    plain = getattr(package, name, bare)  # an Azure client would ask in Azure's way
    given: dict[str, Any] = {"api_key": api_key, "base_url": base_url, "timeout": client.timeout}
    made = plain(max_retries=client.max_retries, http_client=client._client, default_headers=headers or None, **given)
    for private in ("organization", "project"):
        if hasattr(made, private):
            setattr(made, private, None)
    return made


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]

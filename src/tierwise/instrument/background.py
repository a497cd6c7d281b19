"""Responses that go on in the background: created by one request, collected by another, one call in all.

The call stays open from its creation until the application sees it ended: it is billed when a `retrieve` (or a resumed
stream, or a `cancel`) brings its final status, and only then. Any other request for a stored response is not a call.
"""

from __future__ import annotations

import atexit
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tierwise.instrument.observation import Observation

MAX_OPEN: Final = 1_000


class OpenResponses:
    """The calls of this process whose response is still being made, by response id; the oldest give way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Observation] = OrderedDict()
        self._registered = False

    def __bool__(self) -> bool:
        return bool(self._open)

    def keep(self, response_id: str, observation: Observation) -> None:
        """Keep a call open until its response is seen ended."""
        dropped = None
        with self._lock:
            if not self._registered:
                self._registered = True
                atexit.register(self.give_up)
            self._open[response_id] = observation
            if len(self._open) > MAX_OPEN:
                dropped = self._open.popitem(last=False)[1]
        if dropped is not None:
            dropped.abandoned()

    def take(self, response_id: str) -> Observation | None:
        """The open call of a response, which is the caller's to end or to keep again."""
        with self._lock:
            return self._open.pop(response_id, None)

    def give_up(self) -> None:
        """The process ends: what nobody collected was abandoned by the application."""
        with self._lock:
            left = list(self._open.values())
            self._open.clear()
        for observation in left:
            observation.abandoned()


open_responses: Final = OpenResponses()


def response_id_of(method: str, url: str) -> str | None:
    """The id in a request for one stored response: `GET …/responses/{id}` or `POST …/responses/{id}/cancel`."""
    _, found, rest = url.partition("?")[0].rstrip("/").rpartition("/responses/")
    response_id, _, action = rest.partition("/")
    if not found or action != ("" if method.lower() == "get" else "cancel"):
        return None
    return response_id or None


def open_response(method: str, url: str) -> tuple[str, Observation] | None:
    """The id and the open call that a request may bring the end of; taken out until it is ended or kept again."""
    response_id = response_id_of(method, url)
    observation = open_responses.take(response_id) if response_id is not None else None
    return None if observation is None or response_id is None else (response_id, observation)

"""How long a connection may take: to ask, and to have its answer; slow clients cannot hold the places of others."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

ASKING_S: Final = 10.0
"""From the connection, or from the end of an answer, until the next request has come as far as its headers, seconds."""
ANSWERING_S: Final = 300.0
"""From there until the answer has been taken, a request's body included, seconds: a large report takes a while to read."""


class Patient(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but a connection that is too slow is cut: uvicorn waits for headers without limit."""

    _answering = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait(ASKING_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to wait for."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes alone gain no time; a whole request does."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering != self._answering:
            self._answering = answering
            self._wait(ANSWERING_S if answering else ASKING_S)

    def _wait(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(time_s, self.transport.abort)

"""A lean OpenAI-compatible server for loads that one uvicorn process could not bear: recorded answers, real HTTP/1.1.

    python benchmarks/_soak_server.py LATENCY_S

prints its port, then answers until its standard input ends: chat completions (text, JSON, streamed) after that latency,
whatever else is posted (OTLP) with an empty 200, at once. At its end it prints what it answered, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

from _common import JSON_REPLY, TEXT_REPLY, completion, stream

CHUNKS = 20


def _response(body: bytes, kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


TEXT = _response(completion(TEXT_REPLY), "application/json")
JSON = _response(completion(JSON_REPLY), "application/json")
STREAM = _response(stream(CHUNKS), "text/event-stream")
EMPTY = _response(b"", "application/x-protobuf")


class Connection(asyncio.Protocol):
    """One connection: requests one after the other, as an HTTP client with a pool sends them."""

    def __init__(self, latency_s: float, answered: Counter[str]) -> None:
        self._latency_s, self._answered = latency_s, answered
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._answered["connections"] += 1

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if b"/chat/completions" not in head[:64]:
            self._answered["other"] += 1
            self._send(EMPTY)
            return
        self._answered["calls"] += 1
        reply = STREAM if b'"stream":true' in body else JSON if b'"response_format"' in body else TEXT
        asyncio.get_running_loop().call_later(self._latency_s, self._send, reply)

    def _send(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)


async def serve(latency_s: float) -> None:
    """Answer until standard input ends."""
    loop = asyncio.get_running_loop()
    answered: Counter[str] = Counter()
    server = await loop.create_server(lambda: Connection(latency_s, answered), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps(answered), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))

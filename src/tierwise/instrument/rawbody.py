"""Reading a body that the application takes as bytes: JSON kept up to a bound, server-sent events one by one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, Final

MAX_BODY: Final = 64 << 20
MAX_EVENT: Final = 8 << 20


def decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """What undoes a content encoding piece by piece; `None` for one that the standard library does not read."""
    if encoding in ("", "identity"):
        return bytes
    if encoding in ("gzip", "x-gzip"):
        return _inflate(zlib.MAX_WBITS | 16)
    return _inflate(zlib.MAX_WBITS) if encoding == "deflate" else None


def _inflate(wbits: int) -> Callable[[bytes], bytes]:
    inflate = zlib.decompressobj(wbits=wbits)
    return lambda chunk: inflate.decompress(chunk, MAX_BODY + 1)


class RawBody:
    """A JSON body, kept until its end unless it is larger than `MAX_BODY` bytes."""

    __slots__ = ("_kept", "_size")

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Keep a piece; a body that outgrows the bound is let go."""
        self._size += len(chunk)
        if self._size > MAX_BODY:
            self._kept.clear()
        else:
            self._kept.append(chunk)

    @property
    def too_large(self) -> bool:
        """The body outgrew the bound."""
        return self._size > MAX_BODY

    @property
    def whole(self) -> bool:
        """What was read is a whole JSON value, though its end was not asked for."""
        return bool(self._kept) and not isinstance(self.value(), bytes)

    def value(self) -> Any:
        """The decoded JSON, or the bytes where they are none."""
        body = b"".join(self._kept)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return body


class RawEvents:
    """Server-sent events, each read when it is complete; at most `MAX_EVENT` bytes wait for the rest of one."""

    __slots__ = ("_data", "_see", "_size", "_tail")

    def __init__(self, see: Callable[[Any], object]) -> None:
        self._see = see
        self._tail: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Read the lines that a piece completes. Raises `ValueError` for an event over the bound, which is left out."""
        if b"\n" in chunk or b"\r" in chunk:
            lines = b"".join((*self._tail, chunk)).splitlines(keepends=True)
            # A lone CR at the end may be half of a CRLF.
            self._tail = [] if lines[-1].endswith(b"\n") else [lines.pop()]
            for line in lines:
                self._line(line.rstrip(b"\r\n"))
            self._size = sum(map(len, self._tail)) + sum(map(len, self._data))
        else:
            self._tail.append(chunk)
            self._size += len(chunk)
        if self._size > MAX_EVENT:
            self._tail, self._data, self._size = [], [], 0
            msg = f"a server-sent event of more than {MAX_EVENT >> 20} MiB was not read"
            raise ValueError(msg)

    def end(self) -> None:
        """The stream ended, perhaps without the empty line that ends an event."""
        self.feed(b"\n\n")

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].strip())
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            try:
                value = json.loads(data)
            except (ValueError, RecursionError):  # "[DONE]", or no JSON
                return
            self._see(value)

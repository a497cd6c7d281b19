"""Embeddings: no choices, no output tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tierwise.core.call import Answer, Request
from tierwise.instrument.dialects.base import Endpoint, Reading
from tierwise.instrument.dialects.chatstream import ChatStream
from tierwise.instrument.dialects.values import fault_of, fields, integer, text_of, usage_of


class Embeddings:
    """`POST /embeddings`."""

    expects_answer = False
    asks_usage = False

    def request(self, body: Mapping[str, Any], endpoint: Endpoint, *, stream: bool) -> Request:
        """Read the request body; odd values are left out."""
        encoding = text_of(body.get("encoding_format"))
        return Request(
            operation="embeddings",
            provider=endpoint.provider,
            model=text_of(body.get("model")) or "",
            server_address=endpoint.address,
            server_port=endpoint.port,
            stream=stream,
            dimensions=integer(body.get("dimensions")),
            encoding_formats=(encoding,) if encoding else None,
        )

    def response(self, value: Any) -> Reading:
        """Read a whole response."""
        found = fields(value)
        return Reading(
            answer=Answer(id=text_of(found.get("id")), model=text_of(found.get("model"))),
            usage=usage_of(found.get("usage")),
            choices=(),
            error_type=None if isinstance(found.get("data"), list) and found["data"] else fault_of(value, "data"),
        )

    def stream(self) -> ChatStream:
        """Embeddings do not stream; kept for servers that answer with one all the same."""
        return ChatStream()

    def output_schema(self, body: Mapping[str, Any]) -> Mapping[str, object] | None:
        """None: vectors have no schema."""
        return None

    def tool_schema(self, body: Mapping[str, Any], name: str) -> Mapping[str, object] | None:
        """None: there are no tools."""
        return None

"""What every dialect offers: read a request, a whole response, or a stream chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from tierwise.core.call import Answer, Request, Usage
from tierwise.core.outcome import Choice
from tierwise.core.records import dataclass, maker, quick


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a request goes: the provider's name, the server's address and its port."""

    provider: str
    address: str | None
    port: int | None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one response holds. `error_type` is set when the body is an error although the status was 200."""

    answer: Answer
    usage: Usage | None
    choices: tuple[Choice, ...]
    error_type: str | None = None
    pending: bool = False
    """The response is still being made, in the background."""
    cut: bool = False
    """The stream ended without saying how, and without its usage."""


make_reading: Final = maker(Reading)


class StreamReader(Protocol):
    """Looks at each chunk of one stream and keeps the few things that matter."""

    def see(self, chunk: Any) -> bool:
        """Take note of a chunk; true when it holds usage and nothing else."""
        ...

    def reading(self) -> Reading:
        """What the stream has held so far."""
        ...

    @property
    def finished(self) -> bool:
        """The stream has said how it ended: leaving now loses nothing of the answer."""
        ...


class Dialect(Protocol):
    """One API: how its requests, responses and streams are read."""

    expects_answer: bool
    """Whether an outcome is judged from choices (embeddings have none)."""
    asks_usage: bool
    """Whether its streams carry usage only when asked by `stream_options.include_usage`."""

    def request(self, body: Mapping[str, Any], endpoint: Endpoint, *, stream: bool) -> Request:
        """Read the request body; raises nothing for odd values, they are left out."""
        ...

    def response(self, value: Any) -> Reading:
        """Read a whole response: a client model or the decoded JSON."""
        ...

    def stream(self) -> StreamReader:
        """A reader for one stream."""
        ...

    def output_schema(self, body: Mapping[str, Any]) -> Mapping[str, object] | None:
        """The JSON Schema that the request demands of the answer."""
        ...

    def tool_schema(self, body: Mapping[str, Any], name: str) -> Mapping[str, object] | None:
        """The JSON Schema of a tool's arguments."""
        ...

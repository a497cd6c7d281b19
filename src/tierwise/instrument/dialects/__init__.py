"""The APIs that are read: one module each, and the look-up by request path."""

from __future__ import annotations

from typing import Final

from tierwise.instrument.dialects.base import Dialect
from tierwise.instrument.dialects.chat import Chat
from tierwise.instrument.dialects.completions import Completions
from tierwise.instrument.dialects.embeddings import Embeddings
from tierwise.instrument.dialects.responses import Responses

_BY_PATH: Final[dict[str, Dialect]] = {  # in order: the longer suffix first
    "/chat/completions": Chat(),
    "/responses": Responses(),
    "/embeddings": Embeddings(),
    "/completions": Completions(),
}


def dialect_for(method: str, url: str) -> Dialect | None:
    """The dialect of a request path, or `None` for requests that are not inference (they pass untouched)."""
    found = _BY_PATH.get(url)
    if found is None:
        path = url.partition("?")[0].rstrip("/")
        for suffix, dialect in _BY_PATH.items():
            if path.endswith(suffix):
                found = dialect
                break
    return found if method.lower() == "post" else None

"""Stored aggregates → `Evidence`: the embedded SQLite store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tierwise.evidence.feedback import FeedbackRow
    from tierwise.evidence.frames import Rows, to_pandas, to_polars
    from tierwise.evidence.health import StoreHealth
    from tierwise.evidence.reprice import Repriced
    from tierwise.evidence.rows import CallRow
    from tierwise.evidence.sqlite import SqliteStore

__all__ = ["CallRow", "FeedbackRow", "Repriced", "Rows", "SqliteStore", "StoreHealth", "to_pandas", "to_polars"]

_MODULES: Final = {
    "CallRow": "rows", "FeedbackRow": "feedback", "Repriced": "reprice", "Rows": "frames", "SqliteStore": "sqlite",
    "StoreHealth": "health", "to_pandas": "frames", "to_polars": "frames",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"tierwise.evidence.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'tierwise.evidence' has no attribute {name!r}")

"""Stored aggregates → `Evidence`: the embedded SQLite store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tierwise.evidence.health import StoreHealth
    from tierwise.evidence.reprice import Repriced
    from tierwise.evidence.rows import CallRow, to_frame
    from tierwise.evidence.sqlite import SqliteStore

__all__ = ["CallRow", "Repriced", "SqliteStore", "StoreHealth", "to_frame"]

_MODULES: Final = {
    "CallRow": "rows", "Repriced": "reprice", "SqliteStore": "sqlite", "StoreHealth": "health", "to_frame": "rows",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"tierwise.evidence.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'tierwise.evidence' has no attribute {name!r}")

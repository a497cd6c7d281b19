"""Stored aggregates → `Evidence`: the embedded SQLite store."""

from __future__ import annotations

from tierwise.evidence.rows import CallRow, to_frame
from tierwise.evidence.sqlite import SqliteStore, StoreHealth

__all__ = ["CallRow", "SqliteStore", "StoreHealth", "to_frame"]

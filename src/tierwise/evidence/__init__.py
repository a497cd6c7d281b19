"""Stored aggregates → `Evidence`: the embedded SQLite store."""

from __future__ import annotations

from tierwise.evidence.health import StoreHealth
from tierwise.evidence.reprice import Repriced
from tierwise.evidence.rows import CallRow, to_frame
from tierwise.evidence.sqlite import SqliteStore

__all__ = ["CallRow", "Repriced", "SqliteStore", "StoreHealth", "to_frame"]

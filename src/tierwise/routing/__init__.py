"""Routes: the file, its lock, the watcher that keeps the last good table, and the router that draws the runs."""

from __future__ import annotations

from tierwise.routing.arms import choose
from tierwise.routing.files import locked, owner_folder, replace_file
from tierwise.routing.routefile import (
    RouteChangedError,
    read_table,
    route_from_json,
    route_to_json,
    table_from_json,
    table_to_json,
    update_table,
    write_table,
)
from tierwise.routing.router import Router
from tierwise.routing.watcher import RouteWatcher

__all__ = [
    "RouteChangedError",
    "RouteWatcher",
    "Router",
    "choose",
    "locked",
    "owner_folder",
    "read_table",
    "replace_file",
    "route_from_json",
    "route_to_json",
    "table_from_json",
    "table_to_json",
    "update_table",
    "write_table",
]

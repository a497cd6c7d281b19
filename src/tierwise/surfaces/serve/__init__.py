"""The live pages: the report over HTTP on this machine, with drill-down into calls, and approval with a token."""

from __future__ import annotations

from tierwise.surfaces.serve.app import make_app
from tierwise.surfaces.serve.server import listen, serve

__all__ = ["listen", "make_app", "serve"]

"""Listening on this machine and serving until Ctrl-C."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from tierwise.core.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

MOST_AT_ONCE = 64


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any free one).

    Raises:
        ConfigError: the port is taken, may not be used, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)
    except (OSError, OverflowError) as error:
        made.close()
        raise ConfigError(_why(host, port, error)) from None
    made.setblocking(False)
    return made


def _why(host: str, port: int, error: OSError | OverflowError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use (another `tierwise serve`?); choose one with --port, or 0 for a free one"
        )
    if code == errno.EACCES:
        return f"port {port} may not be used by this user; choose one above 1023 with --port"
    if code == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine; the default is 127.0.0.1"
    return f"cannot listen on {host}:{port}: {error}"


def server_of(app: ASGIApp) -> uvicorn.Server:
    """The server, not running yet."""
    import uvicorn

    from tierwise.surfaces.serve.patience import Patient

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MOST_AT_ONCE,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32 * 1024,
        http=Patient,
    )
    return uvicorn.Server(config)


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish what is under way and close the socket."""
    try:
        with suppress(KeyboardInterrupt):  # the server has stopped by then, and raises the signal again
            server_of(app).run(sockets=[listening])
    finally:
        listening.close()

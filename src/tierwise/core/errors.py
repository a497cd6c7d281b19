"""The exceptions that tierwise raises: one root, a handful of kinds.

- `TierwiseError`
    - `ConfigError`: tierwise.yaml, an environment variable or an argument is wrong
    - `StoreError`: the embedded store cannot be opened, read or written
        - `UnfitRowError`: a row of a batch cannot be stored as it is; nothing of the batch is in
    - `EvidenceError`: evidence is missing, partial or cannot be read
    - `RouteError`: the route file is broken, locked or changed under us
    - `ReceiptError`: a receipt is none, forged, too old, or cannot be made
"""

from __future__ import annotations


class TierwiseError(Exception):
    """Root of all errors of tierwise; the message says what is wrong, where, and what to do next."""


class ConfigError(TierwiseError):
    """Configuration is wrong; raised at `instrument()` and by the command line, never at a call."""


class StoreError(TierwiseError):
    """The embedded store cannot be opened, read or written."""


class UnfitRowError(StoreError):
    """A row of a batch cannot be stored, whenever it is tried; nothing of the batch was."""


class EvidenceError(TierwiseError):
    """Evidence is missing, partial or unreadable."""


class RouteError(TierwiseError):
    """The route file is broken, locked, or has changed since it was read."""


class ReceiptError(TierwiseError):
    """A receipt is none, is forged, damaged or too old, or there is none for a response."""

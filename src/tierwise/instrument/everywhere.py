"""Clients that are made later: every Stainless-generated class of the known packages observes itself when it is made.

The packages are patched when they are imported, never imported for it.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

PACKAGES: Final = ("openai", "groq", "together", "cerebras.cloud.sdk")
"""Packages whose clients share the shape of openai's, by import name."""

_BASES: Final = ("SyncAPIClient", "AsyncAPIClient")
_log = logging.getLogger("tierwise")
_lock = threading.Lock()
_asked: set[str] = set()


class _Observer:
    """What is told of every new client, if anything is."""

    tell: Callable[[Any], None] | None = None


_new_clients: Final = _Observer()


def observe_new_clients(observe: Callable[[Any], None]) -> None:
    """Call `observe` with every client that is made from now on; a later call replaces it."""
    with _lock:
        _new_clients.tell = observe
        new = [package for package in PACKAGES if package not in _asked]
        _asked.update(new)
    import wrapt  # not at the top: one client alone does not need it

    for package in new:
        wrapt.register_post_import_hook(_patch, f"{package}._base_client")


def forget_new_clients() -> bool:
    """Leave clients that are made from now on alone; false when none were observed."""
    with _lock:
        found, _new_clients.tell = _new_clients.tell, None
    return found is not None


def observe_module_client(module: ModuleType, observe: Callable[[Any], None]) -> bool:
    """Observe the client behind `openai.chat…`, made on first use; false for a module that has none."""
    made_by: Any = getattr(module, "_ModuleClient", None)
    if not isinstance(made_by, type) or not hasattr(module, "_client"):
        return False
    if hasattr(made_by.__dict__.get("__init__"), "_tierwise_observe"):
        made_by.__dict__["__init__"]._tierwise_observe = observe
    else:

        def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
            super(made_by, self).__init__(*args, **kwargs)  # type: ignore[arg-type]
            _tell(initialise._tierwise_observe, self)  # type: ignore[attr-defined]

        initialise._tierwise_observe = observe  # type: ignore[attr-defined]
        setattr(made_by, "__init__", functools.wraps(getattr(made_by, "__init__"))(initialise))  # noqa: B009, B010
    if module._client is not None:
        observe(module._client)
    return True


def forget_module_client(module: ModuleType) -> Any:
    """Undo `observe_module_client`; returns the client that exists already, or `None`."""
    made_by = getattr(module, "_ModuleClient", None)
    initialise = made_by.__dict__.get("__init__") if isinstance(made_by, type) else None
    if made_by is not None and hasattr(initialise, "_tierwise_observe"):
        del made_by.__init__
    return getattr(module, "_client", None)


def _patch(module: ModuleType) -> None:
    for name in _BASES:
        base = getattr(module, name, None)
        if isinstance(base, type):
            _patch_class(base)


def _patch_class(base: Any) -> None:
    bare = base.__init__

    @functools.wraps(bare)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        bare(self, *args, **kwargs)
        observe = _new_clients.tell
        if observe is not None:
            _tell(observe, self)

    base.__init__ = initialise


def _tell(observe: Callable[[Any], None], client: Any) -> None:
    try:
        observe(client)
    except Exception:  # noqa: BLE001 - the application's client must come to be
        _log.exception("tierwise: a new %s is not observed", type(client).__name__)

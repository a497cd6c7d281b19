"""Settings: where everything is, decided once from argument, environment and files, in this order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tierwise.config import discovery
from tierwise.core.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Paths in force. `config_path` is `None` without a policy file, `store_path` is `None` when the store is off."""

    config_path: Path | None
    store_path: Path | None
    routes_path: Path
    audit_path: Path


def read_settings(
    *,
    config: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    start: Path | None = None,
) -> Settings:
    """Read the settings once; nothing is opened or created.

    Raises:
        ConfigError: a policy file that was named does not exist.
    """
    environ = os.environ if environ is None else environ
    config_path = discovery.find_config(config, environ=environ, start=start)
    store_path = discovery.store_path(store, environ=environ, start=start, config=config_path)
    fallback = discovery.default_folder(environ=environ, start=start, config=config_path)
    routes_path = discovery.route_path(store_path, environ=environ, fallback=fallback)
    return Settings(
        config_path=config_path,
        store_path=store_path,
        routes_path=routes_path,
        audit_path=discovery.audit_path(routes_path),
    )

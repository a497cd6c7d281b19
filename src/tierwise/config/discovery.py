"""Where things are: the policy file, the project's folder, the store, the route file and the audit log."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tierwise.core.errors import ConfigError

_UNGUESSABLE: Final = os.urandom(8).hex()
CONFIG_NAME: Final = "tierwise.yaml"
STORE_NAME: Final = "tierwise.db"
ROUTES_NAME: Final = "routes.json"
FOLDER_NAME: Final = ".tierwise"
OFF: Final = "off"


def find_config(
    argument: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    start: Path | None = None,
) -> Path | None:
    """The policy file: argument, else `TIERWISE_CONFIG`, else the nearest tierwise.yaml upward, else `None`.

    Raises:
        ConfigError: a file that was named does not exist.
    """
    environ = os.environ if environ is None else environ
    named = os.fspath(argument) if argument is not None else environ.get("TIERWISE_CONFIG") or None
    if named is not None:
        path = Path(named).expanduser()
        if not path.is_file():
            source = "config (--config)" if argument is not None else "TIERWISE_CONFIG"
            what = "is not a file" if path.exists() else "does not exist"
            raise ConfigError(f"{path}: {what}; {source} must name a policy file")
        return path
    for folder in _upward(start):
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
    return None


def find_root(start: Path | None = None) -> Path | None:
    """The nearest folder upward that holds tierwise.yaml or pyproject.toml, else `None`."""
    for folder in _upward(start):
        if (folder / CONFIG_NAME).is_file() or (folder / "pyproject.toml").is_file():
            return folder
    return None


def store_path(
    argument: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    start: Path | None = None,
    config: Path | None = None,
) -> Path | None:
    """The store's file, or `None` when it is off.

    In order: argument, `TIERWISE_STORE` (`off` for none), `.tierwise/tierwise.db` beside the policy file `config`, or
    in the project's root, else the user's state folder. A folder that cannot be written and holds no store is passed
    over, so that a read-only policy mount does not stop recording.
    """
    environ = os.environ if environ is None else environ
    named = os.fspath(argument) if argument is not None else environ.get("TIERWISE_STORE") or None
    if named is not None:
        return None if named.lower() == OFF else Path(named).expanduser().absolute()
    return default_folder(environ=environ, start=start, config=config) / STORE_NAME


def default_folder(
    *, environ: Mapping[str, str] | None = None, start: Path | None = None, config: Path | None = None
) -> Path:
    """The folder of store, route file and audit log where nothing names one."""
    environ = os.environ if environ is None else environ
    for root in (config.absolute().parent if config is not None else None, find_root(start)):
        if root is None:
            continue
        folder = root / FOLDER_NAME
        if (folder / STORE_NAME).exists() or os.access(folder if folder.is_dir() else root, os.W_OK):
            return folder
    return _state_folder(environ)


def other_stores(
    store: Path | None,
    *,
    environ: Mapping[str, str] | None = None,
    start: Path | None = None,
    config: Path | None = None,
) -> tuple[Path, ...]:
    """Stores that exist in default places other than the one in force, nearest first; none where `store` was named.

    A tierwise.yaml or pyproject.toml that is added later moves the default: what was recorded before stays where it was.
    """
    environ = os.environ if environ is None else environ
    if store is None or store != default_folder(environ=environ, start=start, config=config) / STORE_NAME:
        return ()
    places = [folder / FOLDER_NAME / STORE_NAME for folder in _upward(start)]
    places.append(_state_folder(environ) / STORE_NAME)
    return tuple(place for place in dict.fromkeys(places) if place != store and _is_file(place))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def route_path(store: Path | None, *, environ: Mapping[str, str] | None = None, fallback: Path | None = None) -> Path:
    """The route file: `TIERWISE_ROUTES`, else routes.json beside the store (in `fallback` when the store is off)."""
    environ = os.environ if environ is None else environ
    if named := environ.get("TIERWISE_ROUTES"):
        return Path(named).expanduser().absolute()
    folder = store.parent if store is not None else fallback or default_folder(environ=environ)
    return folder / ROUTES_NAME


def audit_path(routes: Path) -> Path:
    """The audit log, beside the route file whose changes it tells: audit.jsonl, or NAME.audit.jsonl for NAME.json."""
    return routes.with_name("audit.jsonl" if routes.name == ROUTES_NAME else f"{routes.stem}.audit.jsonl")


def _upward(start: Path | None) -> list[Path]:
    try:
        here = (start or Path.cwd()).absolute()
    except OSError:
        return []
    return [here, *here.parents]


def _state_folder(environ: Mapping[str, str]) -> Path:
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(environ.get("TMPDIR", "/tmp")) / f"tierwise-{_UNGUESSABLE}"  # noqa: S108 - nobody can make it first
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "tierwise"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "tierwise"
    state = environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else home / ".local" / "state") / "tierwise"

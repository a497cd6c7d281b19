"""Configuration: tierwise.yaml to `core.policy`, discovery, settings. pydantic and ruamel load only with a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tierwise.config.discovery import audit_path, find_config, find_root, other_stores, route_path, store_path
from tierwise.config.names import PROBE_PREFIX, is_probe
from tierwise.config.settings import Settings, read_settings

if TYPE_CHECKING:
    from tierwise.config.loader import Findings, check_policy, check_text, load_policy
    from tierwise.config.yamlfile import Finding

__all__ = [
    "PROBE_PREFIX",
    "Finding",
    "Findings",
    "Settings",
    "audit_path",
    "check_policy",
    "check_text",
    "find_config",
    "find_root",
    "is_probe",
    "json_schema",
    "load_policy",
    "other_stores",
    "read_settings",
    "route_path",
    "store_path",
]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of tierwise.yaml, for editors and CI."""
    from tierwise.config.spec import json_schema as build

    return build()


def __getattr__(name: str) -> object:
    if name in ("Finding", "Findings", "check_policy", "check_text", "load_policy"):
        from tierwise.config import loader  # only where there is a policy file

        return getattr(loader, name)
    raise AttributeError(f"module 'tierwise.config' has no attribute {name!r}")

"""The composition root: builds recorder, store, prices and worker from the settings and hands them to the hook."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierwise.config.settings import Settings, read_settings
from tierwise.core.errors import ConfigError, StoreError
from tierwise.core.policy import Policy
from tierwise.instrument import stainless
from tierwise.instrument.checks import checks_for
from tierwise.instrument.context import bench_round as bench_round
from tierwise.instrument.hook import Wiring
from tierwise.instrument.parsing import compile_schema, parse_json

if TYPE_CHECKING:
    from tierwise.evidence.sqlite import SqliteStore

_log = logging.getLogger("tierwise")
_lock = threading.Lock()
_runtimes: dict[tuple[object, ...], Runtime] = {}

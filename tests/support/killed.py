"""What a process does that somebody kills; a module of its own, so that a spawned process can import it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence


def follow(_: Sequence[str]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

"""Writes the dashboards' JSON; `--check` says whether the files are current. Run from the root of a checkout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dashboards.overview import overview
from dashboards.routing import routing
from dashboards.task import task
from dashboards.telemetry_health import telemetry_health

HERE: Final = Path(__file__).resolve().parent
FILES: Final[dict[str, Callable[[], str]]] = {
    "overview.json": overview,
    "task.json": task,
    "routing.json": routing,
    "telemetry-health.json": telemetry_health,
}


def main() -> int:
    """Write all files, or with `--check` compare them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when a file is not current")
    check = parser.parse_args().check
    stale = 0
    for name, make in FILES.items():
        path, text = HERE / name, make()
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale += 1
        if check:
            sys.stderr.write(f"dashboards/{name} is not current: run python -m dashboards\n")
        else:
            path.write_text(text, "utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares two documents of `tierwise demo --json`: the decisions must be the same, and there must be some."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FIELDS = ("task", "verdict", "current", "primary", "fallbacks", "grade")


def decisions(path: str) -> list[dict[str, Any]]:
    """What was decided, without the numbers that depend on measured time."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    return [{name: one[name] for name in FIELDS} for one in document["recommendations"]]


def main() -> None:
    """Exit 1 with the difference."""
    first, second = decisions(sys.argv[1]), decisions(sys.argv[2])
    if not first:
        sys.exit("the demo recommends nothing")
    for one, other in zip(first, second, strict=True):
        if one != other:
            sys.exit(f"two demos with one seed decide differently:\n{one}\n{other}")
    sys.stdout.writelines(f"{one['task']}: {one['verdict']} {one['primary']}\n" for one in first)


if __name__ == "__main__":
    main()

"""The same targets under atheris, which looks for inputs that reach new code.

    uv run --with atheris python tests/fuzz/guided.py TARGET [SECONDS]

An input that does harm is printed by libFuzzer; put it into the target's corpus.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["tierwise"]):
    from support.fuzz_targets import TARGETS, corpus


def main(target: str, seconds: str = "60") -> None:
    """Fuzz one target for so many seconds."""
    folder = Path(tempfile.mkdtemp(prefix=f"tierwise-fuzz-{target}-"))
    for number, data in enumerate(corpus(target)):
        (folder / str(number)).write_bytes(data)
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", "-max_len=8192", str(folder)],
        TARGETS[target],
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])

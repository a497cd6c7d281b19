"""Calls with random faults inside tierwise, against the bare client's: nothing may differ.

    uv run python benchmarks/faults.py [--calls 100000] [--seed 1] [--jobs 2] [--json]

Each call is of a random kind and made with one to three random functions of tierwise raising, always or by chance, an
exception of a random type. What the application gets is compared with what the bare client gave: values, types, chunk
sequences, exceptions, what was sent, and what is left behind. README.md in this folder has the figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

ANYWHERE = 0.13
"""Share of the faults that are put anywhere, and not into a function that this kind of call is known to run."""
IN_BACKGROUND = 0.02
"""Share of the faults that are put into the thread in the background, which is then made to work during the call."""
EXCHANGES = 0.8
"""Share of the calls that replay a recorded exchange; the others are left early, decorated, checked, of another make …"""
FORGETFUL = 0.2
"""Share of the calls before which all that is remembered between calls is forgotten."""
SHOWN = 20


def run_part(calls: int, seed: str) -> dict[str, Any]:
    """Make calls with faults in this process; counts and the first differences."""
    for name in [name for name in os.environ if name.startswith(("TIERWISE_", "OTEL_", "OPENAI_"))]:
        del os.environ[name]
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_and_event"
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")
    from support.fault_trials import Trials
    from support.faults import BOUNDARY

    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tierwise-faults-") as folder:
        trials = Trials(Path(folder), every_exchange=True)
        pools = Pools(trials, BOUNDARY)
        different = list(trials.different)
        own = [kind for kind in trials.kinds if not kind.name.endswith(("sync", "async"))]
        kinds: Counter[str] = Counter()
        started = time.monotonic()
        for number in range(calls):
            kind = drawn.choice(trials.kinds if drawn.random() < EXCHANGES else own)
            kinds[kind.name] += 1
            trials.faults.forgetful = drawn.random() < FORGETFUL
            different += trials.differences(kind, *pools.draw(kind, drawn))
            if number % 5000 == 4999:
                print(f"{number + 1:,} calls, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        trials.close()
        return {
            "calls": calls,
            "kinds": len(kinds),
            "functions": len(trials.faults.injectable),
            "boundary": len(BOUNDARY),
            "raised": trials.faults.raised,
            "raised_by": sorted(trials.faults.raised_by),
            "differences": len(different),
            "first": different[:SHOWN],
        }


class Pools:
    """Which functions to draw from for a kind of call."""

    def __init__(self, trials: Any, boundary: Any) -> None:
        self._places = trials.faults.injectable
        self._anywhere = sorted(self._places)
        self._background = sorted(trials.in_background - set(boundary))
        self._by_kind: dict[str, list[str]] = {kind.name: [] for kind in trials.kinds}
        for name, run_by in sorted(trials.run_by.items()):
            if name in self._places and name not in trials.in_background:
                for kind in run_by:
                    self._by_kind[kind.name].append(name)
        after = sorted(name for name in trials.run_after if name in self._places)
        for names in self._by_kind.values():
            names.extend(after)

    def draw(self, kind: Any, drawn: random.Random) -> list[Any]:
        """One to three faults for a call of a kind."""
        from support.fault_trials import Fault
        from support.faults import KINDS, by_chance

        names: set[str] = set()
        for _ in range(drawn.randint(1, 3)):
            where = drawn.random()
            pool = self._by_kind[kind.name]
            if where < IN_BACKGROUND:
                pool = self._background
            elif where < IN_BACKGROUND + ANYWHERE:
                pool = [name for name in (drawn.choice(self._anywhere),) if name not in self._background] or pool
            names.add(drawn.choice(pool))
        exception = drawn.choice(KINDS)
        return [
            Fault(
                place=self._places[name],
                raises=by_chance(drawn.getrandbits(32), drawn.choice((1.0, 1.0, 0.5, 0.2))),
                kind=exception,
            )
            for name in sorted(names)
        ]


def main() -> int:
    """Run all parts; 1 when anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    started = time.monotonic()
    shares = [given.calls // given.jobs + (part < given.calls % given.jobs) for part in range(given.jobs)]
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(run_part, share, f"{given.seed}/{part}") for part, share in enumerate(shares)]
        parts = [job.result() for job in jobs]
    summary = {
        "calls": sum(part["calls"] for part in parts),
        "kinds": max(part["kinds"] for part in parts),
        "functions": max(part["functions"] for part in parts),
        "functions_that_raised": len(set().union(*(part["raised_by"] for part in parts))),
        "boundary": parts[0]["boundary"],
        "faults_raised": sum(part["raised"] for part in parts),
        "differences": sum(part["differences"] for part in parts),
        "first_differences": [line for part in parts for line in part["first"]][:SHOWN],
        "seed": given.seed,
        "seconds": round(time.monotonic() - started),
    }
    if given.json:
        print(json.dumps(summary, indent=2))
    else:
        for name, value in summary.items():
            print(f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    return 1 if summary["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())

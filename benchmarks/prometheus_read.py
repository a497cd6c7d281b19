"""How long it takes to read a month of hourly evidence from a real Prometheus and a real VictoriaMetrics.

    uv run python benchmarks/prometheus_read.py [--tasks 200 --models 10 --days 30]

Every task has traffic on every model in every hour: twenty calls with two outcomes, costs, tokens and seven buckets of
durations. The history is written as the recording rules leave it, and Prometheus is given the time to put it into blocks,
which it does in a month without being noticed. Building the servers, where they are missing, needs Go.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import engines, recorded
from support.stack import built_binaries
from tierwise.core.evidence import HOUR_S
from tierwise.evidence.prometheus import SETTLE_S, PrometheusSource
from tierwise.evidence.prometheus_http import Access
from tierwise.surfaces.cli.source import names


def main() -> None:
    """Fill both, read both, print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("tasks", 200), ("models", 10), ("days", 30), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    binaries, hours = built_binaries(), options.days * 24
    end = (int(time.time()) - SETTLE_S) // HOUR_S * HOUR_S
    figures: dict[str, object] = {"tasks": options.tasks, "models": options.models, "hours": hours}
    with tempfile.TemporaryDirectory() as folder:
        for name, start, binary in (
            ("victoriametrics", engines.victoria, binaries.victoria_metrics),
            ("prometheus", engines.prometheus, binaries.prometheus),
        ):
            with start(binary, Path(folder) / name) as engine:
                before = time.perf_counter()
                samples = recorded.fill(engine, end=end, hours=hours, tasks=options.tasks, models=options.models)
                print(f"{name}: {samples:,} samples written in {time.perf_counter() - before:.0f} s", file=sys.stderr)
                if name == "prometheus":
                    print(f"{name}: in blocks after {engines.compacted(engine):.0f} s", file=sys.stderr)
                taken = []
                for _ in range(options.repeat):
                    with PrometheusSource(Access(url=engine.url), names()) as source:
                        before, cpu = time.perf_counter(), time.process_time()
                        tasks = buckets = 0
                        for one in source.evidence_by_task(end - hours * HOUR_S, end):
                            tasks += 1
                            buckets += sum(len(series) for series in one.series.values())
                        taken.append((time.perf_counter() - before, time.process_time() - cpu))
                        used = {"requests": source.http.requests, "bytes": source.http.bytes, "notes": source.notes}
                wall, process = min(taken)
                figures[name] = {
                    "seconds": round(wall, 2), "own_cpu_seconds": round(process, 2), "tasks": tasks, "rows": buckets, **used
                }  # fmt: skip
                print(f"{name}: read in {wall:.2f} s, {process:.2f} s of it CPU here", file=sys.stderr)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

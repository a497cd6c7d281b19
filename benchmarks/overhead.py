"""What an instrumentation adds to a call and to a stream chunk, against the bare client and a hand-written floor.

    uv run python benchmarks/overhead.py [--json] [--calls 100] [--streams 20] [--keep FOLDER]

Each phase of each variant runs in a process of its own. Costs are CPU instructions counted by
valgrind's callgrind where `valgrind` and a C compiler are installed, else nanoseconds of CPU time. README.md in this
folder has the rules.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from _common import (
    HERE,
    POLICY,
    Callgrind,
    CpuTime,
    build_counter,
    make_clients,
    make_metric_exporter,
    make_providers,
    make_span_exporter,
    read_dumps,
    request,
    valgrind_command,
)

VARIANTS = ("bare", "floor", "tierwise")
PHASES = ("json", "text", "async", "stream200", "stream400")
RATIOS = (
    ("plain_vs_floor_caller", "json", "caller"),
    ("plain_vs_floor_total", "json", "total"),
    ("text_vs_floor_caller", "text", "caller"),
    ("text_vs_floor_total", "text", "total"),
    ("async_vs_floor_total", "async", "total"),
)
WARM_UP = 20


# --- one variant, in its own process -----------------------------------------------------------------------------


def run_phase(variant: str, phase: str, *, folder: Path, count: int, library: str | None) -> None:
    """Measure one phase of one variant and write the figures and what was recorded to `result.json` in the folder."""
    spans, metrics = make_span_exporter(), make_metric_exporter()
    tracer_provider, meter_provider = make_providers(spans, metrics)
    sync_client, async_client = make_clients()
    task: Callable[[str], Any] = lambda _name: nullcontext()  # noqa: E731
    flush_tierwise: Callable[[], object] = lambda: None  # noqa: E731
    if variant == "floor":
        importlib.import_module("floor").install(tracer_provider, meter_provider)
    elif variant == "tierwise":
        import tierwise

        policy = folder / "tierwise.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        given: dict[str, Any] = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
        given |= {"config": str(policy), "store": str(folder / "tierwise.db")}
        sync_client = tierwise.instrument(sync_client, **given)
        async_client = tierwise.instrument(async_client, **given)
        task, flush_tierwise = tierwise.task, tierwise.force_flush

    def flush() -> None:
        flush_tierwise()
        tracer_provider.force_flush()
        meter_provider.force_flush()

    run = make_phases(sync_client, async_client, task)[phase]
    meter: Callgrind | CpuTime = Callgrind(library) if library else CpuTime()
    made = WARM_UP if not phase.startswith("stream") else 2
    run(made)
    if variant == "tierwise":
        made += wait_for_prices(run, folder / "tierwise.db")
    flush()
    gc.collect()
    figures = meter.measure(lambda: run(count), flush)
    made += count
    recorded = {"made": made, "spans": spans.count, **metric_counts(metrics.last)}
    if variant == "tierwise":
        recorded |= store_counts(folder / "tierwise.db")
        tierwise.shutdown()
    (folder / "result.json").write_text(json.dumps({"figures": figures, "recorded": recorded}), encoding="utf-8")
    tracer_provider.shutdown()
    meter_provider.shutdown()


def make_phases(sync_client: Any, async_client: Any, task: Callable[[str], Any]) -> dict[str, Callable[[int], None]]:
    """What is measured: each phase makes the number of calls that it is given."""
    loop = asyncio.new_event_loop()

    as_json = request("json")

    def plain(name: str, arguments: dict[str, Any]) -> Callable[[int], None]:
        def run(count: int) -> None:
            for _ in range(count):
                with task(name):
                    sync_client.chat.completions.create(**arguments)

        return run

    async def concurrently(count: int) -> None:
        for _ in range(count):
            with task("extract"):
                await async_client.chat.completions.create(**as_json)

    def streamed(chunks: int) -> Callable[[int], None]:
        arguments = request(f"stream{chunks}")

        def run(count: int) -> None:
            for _ in range(count):
                with task("summary"):
                    for _chunk in sync_client.chat.completions.create(**arguments):
                        pass

        return run

    return {
        "json": plain("extract", as_json),
        "text": plain("summary", request("text")),
        "async": lambda count: loop.run_until_complete(concurrently(count)),
        "stream200": streamed(200),
        "stream400": streamed(400),
    }


# --- what was recorded -------------------------------------------------------------------------------------------


def wait_for_prices(run: Callable[[int], None], store: Path) -> int:
    """Make calls until a stored one has a cost (prices load in the background); returns how many were made."""
    import tierwise

    for made in range(1, 201):
        run(1)
        tierwise.force_flush()
        if store_counts(store)["unpriced_last"] == 0:
            return made
        time.sleep(0.1)
    raise SystemExit("the model has no price after 200 calls: is it in the catalogue?")


def store_counts(path: Path) -> dict[str, int]:
    """Rows in the store, rows whose outcome is `success`, rows without cost among the last 100."""
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        query = "SELECT count(*), sum(outcome = 'success') FROM calls"
        rows, successes = connection.execute(query).fetchone()
        last = "SELECT sum(cost_usd IS NULL) FROM (SELECT cost_usd FROM calls ORDER BY rowid DESC LIMIT 1)"
        return {"rows": rows, "successes": successes, "unpriced_last": connection.execute(last).fetchone()[0] or 0}
    finally:
        connection.close()


def metric_counts(data: Any) -> dict[str, int]:
    """How many values each histogram holds and what each counter of calls sums to, by metric name."""
    counts: dict[str, int] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = metric.data.data_points
                if hasattr(points[0], "count"):
                    counts[metric.name] = sum(point.count for point in points)
                elif metric.name == "tierwise.calls":
                    counts[metric.name] = sum(point.value for point in points)
    return counts


def check(variant: str, recorded: Mapping[str, int]) -> None:
    """Stop with a message unless everything that was made was recorded."""
    made = recorded["made"]
    expected: dict[str, int] = {} if variant == "bare" else {"spans": made, "gen_ai.client.operation.duration": made}
    if variant != "bare":
        expected["gen_ai.client.token.usage"] = 2 * made
    if variant == "tierwise":
        expected |= {"rows": made, "successes": made, "tierwise.calls": made, "tierwise.call.duration": made}
    wrong = {name: recorded.get(name) for name, count in expected.items() if recorded.get(name) != count}
    if wrong:
        raise SystemExit(f"{variant}: {made} calls were made, but recorded were {wrong}; expected {expected}")


# --- the parent process ------------------------------------------------------------------------------------------


def measure(variant: str, phase: str, *, root: Path, count: int, library: str | None) -> dict[str, int]:
    """Run one phase of one variant in a process of its own; returns `caller` and `total` in the unit."""
    folder = root / f"{variant}-{phase}"
    folder.mkdir()
    command = [sys.executable, str(HERE / "overhead.py"), "--variant", variant, "--phase", phase]
    command += ["--folder", str(folder), "--count", str(count)]
    if library:
        command = [*valgrind_command(folder, separate_threads=True), *command, "--library", library]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "TIERWISE_", "OPENAI_"))}
    done = subprocess.run(
        command, env=clean | {"PYTHONHASHSEED": "0"}, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{variant}, {phase}: the process failed with {done.returncode}:\n{done.stderr[-4000:]}")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    check(variant, result["recorded"])
    figures: dict[str, int] = result["figures"]
    if figures:
        return figures
    dumps = read_dumps(folder)
    return {"caller": dumps["calls"], "total": sum(dumps.values())}


def summarise(
    figures: Mapping[tuple[str, str], Mapping[str, int]], *, calls: int, streams: int, unit: str
) -> dict[str, Any]:
    """What each variant adds to the bare client, per call and per chunk, and tierwise as a multiple of the floor."""

    def added(variant: str, phase: str, side: str) -> float:
        return (figures[variant, phase][side] - figures["bare", phase][side]) / calls

    def chunk(variant: str) -> float:
        slopes = [figures[v, "stream400"]["total"] - figures[v, "stream200"]["total"] for v in (variant, "bare")]
        return (slopes[0] - slopes[1]) / (streams * 200)

    variants = [variant for variant in VARIANTS if (variant, "json") in figures]
    summary: dict[str, Any] = {"unit": unit}
    if "tierwise" in variants:
        for name, phase, side in RATIOS:
            summary[name] = round(added("tierwise", phase, side) / added("floor", phase, side), 3)
        summary["chunk"] = round(chunk("tierwise"))
    summary["chunk_floor"] = round(chunk("floor"))
    summary["added_per_call"] = {
        variant: {
            f"{p}_{s}": round(added(variant, p, s)) for p in ("json", "text", "async") for s in ("caller", "total")
        }
        for variant in variants[1:]
    }
    summary["bare_per_call"] = {p: round(figures["bare", p]["caller"] / calls) for p in ("json", "text", "async")}
    summary["bare_per_call"]["stream200"] = round(figures["bare", "stream200"]["caller"] / streams)
    summary["calls"], summary["streams"] = calls, streams
    return summary


def print_table(summary: Mapping[str, Any]) -> None:
    """The summary for a reader."""
    unit = summary["unit"]
    bare = summary["bare_per_call"]
    print(f"bare client, a call: JSON reply {bare['json']:,} {unit}, text {bare['text']:,}, async {bare['async']:,}")
    for variant, added in summary["added_per_call"].items():
        parts = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in added.items())
        print(f"{variant} adds: {parts} {unit}")
    for name, _, _ in RATIOS:
        if name in summary:
            print(f"{name}: {summary[name]:.2f} x floor")
    print(f"a chunk: {summary.get('chunk', '-')} {unit}, floor {summary['chunk_floor']}")


def main() -> None:
    """Measure all variants, or, as a child process, one phase of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--calls", type=int, default=100, help="calls in each of the call phases")
    parser.add_argument("--streams", type=int, default=20, help="streams of 200 and of 400 chunks")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="which to run; bare and floor are needed")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time even where valgrind is installed")
    parser.add_argument("--keep", type=Path, help="keep callgrind's dumps in this new folder, for callgrind_annotate")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--library", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant:
        run_phase(given.variant, given.phase, folder=given.folder, count=given.count, library=given.library)
        return
    with tempfile.TemporaryDirectory(prefix="tierwise-overhead-") as temporary:
        root = (given.keep or Path(temporary)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        library = None if given.cpu_time else build_counter(root)
        with concurrent.futures.ThreadPoolExecutor(max_workers=2 if library else 1) as pool:
            jobs = {
                (variant, phase): pool.submit(
                    measure,
                    variant,
                    phase,
                    root=root,
                    count=given.streams if phase.startswith("stream") else given.calls,
                    library=library,
                )
                for phase in reversed(PHASES)
                for variant in given.variants.split(",")
            }
            figures = {key: job.result() for key, job in jobs.items()}
    unit = Callgrind.unit if library else CpuTime.unit
    summary = summarise(figures, calls=given.calls, streams=given.streams, unit=unit)
    if given.json:
        print(json.dumps(summary, indent=2))
    else:
        print_table(summary)


if __name__ == "__main__":
    main()

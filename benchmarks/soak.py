"""A load for as long as you like: threads, asyncio and processes at once on one store, nothing lost that is not counted.

    uv run python benchmarks/soak.py [--minutes 60] [--rate 500] [--json]

Two processes of eight threads and an asyncio loop each call over real HTTP (`--http-rate` calls a second: the client's own
work for a call costs milliseconds of CPU), two more threads a client that answers from memory; the store is on and OTLP goes
to a local sink. Told are the rate that was reached, how memory and file descriptors went (slope per hour, after the first
quarter), what tierwise adds to a call against bare calls made in between by the same threads, and whether
calls = rows + rows pruned + rows counted as dropped, exactly. Then the same account beyond the documented rate: calls
answered from memory as fast as eight threads can, once more while another process holds the store's lock. Exit 1 when an
account does not come out.
README.md in this folder has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import MODEL, POLICY
from _soak_worker import STEP_S

HERE = Path(__file__).resolve().parent
GRACE_S = 120.0
SIMULATED_MODEL = "gemini-3.5-flash"
SAMPLES = 360


def environment() -> dict[str, str]:
    """This process's, without anything that would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TIERWISE_", "OTEL_", "OPENAI_"))}


@contextmanager
def lean_server(latency_s: float) -> Iterator[str]:
    """The server of recorded answers in a process of its own; gives its base URL."""
    command = [sys.executable, str(HERE / "_soak_server.py"), str(latency_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.communicate("")


@contextmanager
def simulated_gateway(_latency_s: float) -> Iterator[str]:
    """The demo's gateway, with its faults and latencies, in this process."""
    from tierwise.surfaces.demo.gateway import Gateway

    with Gateway(seed=1) as gateway:
        yield gateway.base_url


def start(job: Mapping[str, Any]) -> subprocess.Popen[str]:
    """A process of the soak."""
    command = [sys.executable, str(HERE / "_soak_worker.py"), json.dumps(job)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment())


def finish(process: subprocess.Popen[str], timeout_s: float) -> dict[str, Any]:
    """What it printed at its end."""
    try:
        out, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"a process of the soak ended with {process.returncode}:\n{errors[-3000:]}")
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    said["warnings"] = errors.splitlines()
    return said


# --- figures -----------------------------------------------------------------------------------------------------


def quantile(counts: Mapping[str, int], share: float) -> float:
    """Seconds below which this share of a histogram lies; 0.0 of an empty one."""
    total, seen = sum(counts.values()), 0
    for step in sorted(counts, key=int):
        seen += counts[step]
        if seen >= share * total:
            return (int(step) + 0.5) * STEP_S
    return 0.0


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Least squares, of what was seen after the first quarter of the time."""
    late = [(at, value) for at, value in points if at >= points[-1][0] / 4]
    mean_at = sum(at for at, _ in late) / len(late)
    mean = sum(value for _, value in late) / len(late)
    spread = sum((at - mean_at) ** 2 for at, _ in late)
    return 3600 * sum((at - mean_at) * (value - mean) for at, value in late) / spread if spread else 0.0


def course(samples: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How memory, descriptors and threads of one process went."""
    found: dict[str, Any] = {}
    for index, name in ((1, "memory_mb"), (2, "descriptors"), (3, "threads")):
        points = [(sample[0], sample[index]) for sample in samples]
        late = [value for at, value in points if at >= points[-1][0] / 4]
        found[name] = {
            "after_a_quarter": late[0], "at_the_end": late[-1], "least": min(late), "most": max(late),
            "slope_per_hour": round(slope_per_hour(points), 3),
        }  # fmt: skip
    return found


def added(parts: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Milliseconds of bare and of instrumented calls, and the difference of their quantiles."""
    found: dict[str, Any] = {}
    for which in ("bare", "instrumented"):
        counts: dict[str, int] = {}
        for part in parts:
            for step, number in part[name][which].items():
                counts[step] = counts.get(step, 0) + number
        found[which] = {
            "calls": sum(counts.values()),
            **{f"p{int(share * 100)}_ms": round(1e3 * quantile(counts, share), 2) for share in (0.5, 0.99)},
        }
    for quantity in ("p50_ms", "p99_ms"):
        found[f"added_{quantity}"] = round(found["instrumented"][quantity] - found["bare"][quantity], 2)
    return found


def account(store: Path, made: int, dropped_by_metric: int) -> dict[str, Any]:
    """Calls made against rows stored, pruned and dropped; `missing` is what no count explains."""
    from tierwise.evidence import SqliteStore

    with SqliteStore.open(store, read_only=True) as opened:
        rows, health = opened.call_count(), opened.health()
        runs = sum(row.evidence.n + sum(row.evidence.outcomes.get(o, 0) for o in ("cancelled", "rejected"))
                   for row in opened.evidence())  # fmt: skip
    return {
        "made": made, "rows": rows, "pruned": health.pruned, "dropped": health.dropped,
        "dropped_by_metric": dropped_by_metric, "in_evidence": runs, "intact": health.intact,
        "missing": made - rows - health.pruned - health.dropped,
    }  # fmt: skip


def balanced(found: Mapping[str, Any]) -> bool:
    """Whether an account comes out, exactly."""
    return bool(
        found["missing"] == 0
        and found["dropped"] == found["dropped_by_metric"]
        and found["in_evidence"] == found["rows"] + found["pruned"]
        and found["intact"]
    )


# --- the parts ---------------------------------------------------------------------------------------------------


def load(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The load at the documented rate."""
    store, seconds = folder / "load.db", options.minutes * 60
    http_rate = min(options.http_rate, options.rate)
    gateway = simulated_gateway if options.simulated else lean_server
    with gateway(options.latency_ms / 1e3) as url, lean_server(0.0) as sink:
        job = {
            "mode": "load", "model": SIMULATED_MODEL if options.simulated else MODEL,
            "folder": str(folder), "url": url, "store": str(store), "seconds": seconds,
            "otlp": None if options.no_otlp else sink, "http_rate": http_rate / options.processes,
            "memory_rate": (options.rate - http_rate) / options.processes,
            "threads": options.threads, "tasks": options.threads, "sample_s": max(0.25, seconds / SAMPLES),
        }  # fmt: skip
        running = [start({**job, "name": f"p{number}"}) for number in range(options.processes)]
        try:
            parts = [finish(process, seconds + GRACE_S) for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
    calls = {which: sum(part["thread_calls"][which] for part in parts) for which in ("instrumented", "bare")}
    cpu = {which: sum(part["cpu_ns"][which] for part in parts) / max(1, calls[which]) / 1e6 for which in calls}
    return {
        "minutes": options.minutes,
        "rate_asked": options.rate,
        "rate_reached": round(sum(part["made"] / part["elapsed_s"] for part in parts), 1),
        "rate_over_http": round(sum(part["made_over_http"] / part["elapsed_s"] for part in parts), 1),
        "with_bare_calls": round(sum((part["made"] + part["bare"]) / part["elapsed_s"] for part in parts), 1),
        "failed": sum(part["failed"] for part in parts),
        "last_error": next((part["last_error"] for part in parts if part["last_error"]), ""),
        "cpu_s": round(sum(part["cpu_s"] for part in parts), 1),
        "threads": added(parts, "thread_wait"),
        "asyncio": added(parts, "task_wait"),
        "memory": added(parts, "memory_wait"),
        "thread_cpu_ms": {**{which: round(value, 3) for which, value in cpu.items()},
                          "added": round(cpu["instrumented"] - cpu["bare"], 3)},
        "processes": [course(part["samples"]) for part in parts],
        "account": account(store, sum(part["made"] for part in parts), sum(part["dropped_by_metric"] for part in parts)),
        "store_mb": round(store.stat().st_size / 1e6, 1),
        "warnings": [line for part in parts for line in part["warnings"]][:10],
    }  # fmt: skip


def beyond(folder: Path, options: argparse.Namespace, *, locked: bool) -> dict[str, Any]:
    """More calls than the queues hold, as fast as they come; `locked`: another process has the store to itself meanwhile."""
    from tierwise.evidence import SqliteStore

    store = folder / f"beyond-{locked}.db"
    SqliteStore.open(store).close()
    holder = sqlite3.connect(store, isolation_level=None)
    if locked:
        holder.execute("BEGIN IMMEDIATE")
    process = start(
        {"mode": "beyond", "folder": str(folder), "store": str(store), "calls": options.beyond, "threads": 8}
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        if locked:
            holder.execute("ROLLBACK")
        process.stdin.write("go on\n")
        process.stdin.flush()
        part = finish(process, GRACE_S)
    finally:
        holder.close()
        process.kill()
        process.wait()
    return {
        "calls_per_s": round(part["made"] / part["elapsed_s"]),
        "seconds": round(part["elapsed_s"], 2),
        "stored_after_s": round(part["stored_by_s"], 2),
        "memory_mb": round(part["memory_mb"], 1),
        "account": account(store, part["made"], part["dropped_by_metric"]),
        "warnings": part["warnings"][:10],
    }


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures as lines."""
    if "load" in found:
        part = found["load"]
        yield f"{part['minutes']:g} min, {part['rate_reached']:g} calls/s reached of {part['rate_asked']:g} asked"
        yield (
            f"{part['rate_over_http']:g} of them over HTTP; with the bare ones {part['with_bare_calls']:g}; "
            f"{part['failed']} failed {part['last_error']}"
        )
        for name in ("threads", "asyncio", "memory"):
            one = part[name]
            yield (
                f"{name}: bare p50 {one['bare']['p50_ms']:g} p99 {one['bare']['p99_ms']:g} ms, added "
                f"p50 {one['added_p50_ms']:+g} p99 {one['added_p99_ms']:+g} ms"
            )
        yield f"CPU of the calling thread: bare {part['thread_cpu_ms']['bare']:g} ms, added {part['thread_cpu_ms']['added']:+g}"
        for number, one in enumerate(part["processes"]):
            for name in ("memory_mb", "descriptors", "threads"):
                seen = one[name]
                yield (
                    f"process {number} {name}: {seen['after_a_quarter']:g} after a quarter, {seen['at_the_end']:g} at the end, "
                    f"{seen['least']:g} to {seen['most']:g}, {seen['slope_per_hour']:+g} per hour"
                )
        yield f"account: {part['account']}"
    for name in ("beyond", "locked") if "beyond" in found else ():
        part = found[name]
        yield f"{name}: {part['calls_per_s']} calls/s for {part['seconds']} s, written after {part['stored_after_s']} s"
        yield f"account: {part['account']}"


def main() -> int:
    """Run it; 1 when an account does not come out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=500.0, help="instrumented calls a second, all processes together")
    parser.add_argument("--http-rate", type=float, default=120.0, help="how many of them over HTTP, at most")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=8, help="threads, and as many asyncio tasks, of each process")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="of the lean server")
    parser.add_argument(
        "--simulated", action="store_true", help="against the demo's gateway instead of the lean server"
    )
    parser.add_argument("--no-otlp", action="store_true")
    parser.add_argument("--beyond", type=int, default=200_000, help="calls beyond the documented rate; 0 for none")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tierwise-soak-") as name:
        folder = Path(name)
        (folder / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
        found: dict[str, Any] = {}
        if options.minutes > 0:
            found["load"] = load(folder, options)
        if options.beyond > 0:
            found["beyond"] = beyond(folder, options, locked=False)
            found["locked"] = beyond(folder, options, locked=True)
    print(json.dumps(found) if options.json else "\n".join(told(found)))
    return 0 if all(balanced(part["account"]) for part in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

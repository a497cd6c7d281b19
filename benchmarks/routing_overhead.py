"""What routing adds to a call: `model="auto"` against the same call with its model named, both instrumented.

    uv run python benchmarks/routing_overhead.py [--json] [--rounds 20] [--calls 200]

One process, one client whose transport answers at once, one route file. Calls with the model named and with `model="auto"`
take turns, one by one, each timed by itself (CPU time of the calling thread), the garbage collector at rest; the figure
is the difference of the medians of a round, and of these the median and the quartiles over the rounds, in µs. README.md
in this folder has the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import MODEL, POLICY, make_clients, make_metric_exporter, make_providers, make_span_exporter, request

OTHER = "gpt-4o"
WARM_UP = 200
ROUTES = {
    "primary": {"primary": MODEL},
    "split": {"primary": MODEL, "propensities": {MODEL: 0.999999, OTHER: 0.000001}},
}
"""The plain route, and one whose arm is drawn; the other model is all but never asked, so that answers are alike."""
Round = Callable[[int], tuple[list[int], list[int]]]
"""Makes pairs of calls; what each took in ns, with the model named and with `auto`."""


def make_rounds(sync_client: Any, async_client: Any) -> dict[str, Round]:
    """What is measured: pairs of calls, which of the two is first by turns."""
    import tierwise

    loop = asyncio.new_event_loop()
    named, auto = request("json"), request("json") | {"model": "auto"}
    clock = time.thread_time_ns

    def plain(count: int) -> tuple[list[int], list[int]]:
        taken: tuple[list[int], list[int]] = ([], [])
        create = sync_client.chat.completions.create
        for number in range(2 * count):
            routed = (number ^ number >> 1) & 1
            arguments = auto if routed else named
            started = clock()
            with tierwise.task("extract"):
                create(**arguments)
            taken[routed].append(clock() - started)
        return taken

    async def awaited(count: int) -> tuple[list[int], list[int]]:
        taken: tuple[list[int], list[int]] = ([], [])
        create = async_client.chat.completions.create
        for number in range(2 * count):
            routed = (number ^ number >> 1) & 1
            arguments = auto if routed else named
            started = clock()
            with tierwise.task("extract"):
                await create(**arguments)
            taken[routed].append(clock() - started)
        return taken

    return {"sync": plain, "async": lambda count: loop.run_until_complete(awaited(count))}


def compare(pairs: Round, rounds: int, count: int) -> dict[str, float]:
    """What `auto` adds: median and quartiles over the rounds, and what a call with its model named takes."""
    import tierwise

    added, named = [], []
    for _ in range(rounds):
        tierwise.force_flush()
        gc.collect()
        gc.disable()
        by_name, by_auto = pairs(count)
        gc.enable()
        added.append((statistics.median(by_auto) - statistics.median(by_name)) / 1000)
        named.append(statistics.median(by_name) / 1000)
    low, middle, high = statistics.quantiles(added, n=4)
    return {
        "added_us": round(middle, 2),
        "low_us": round(low, 2),
        "high_us": round(high, 2),
        "named_us": round(statistics.median(named), 1),
    }


def draw_us(folder: Path, count: int = 20_000) -> float:
    """The decision alone: a run's draw from the table in force, µs."""
    from tierwise.config import load_policy
    from tierwise.core.call import TaskContext
    from tierwise.routing import Router, RouteWatcher

    router = Router(load_policy(folder / "tierwise.yaml"), RouteWatcher(folder / "routes.json").current)
    context, body = TaskContext(name="extract"), request("json")
    router.draw(context, body, "0")
    best = float("inf")
    for _ in range(7):
        started = time.thread_time_ns()
        for number in range(count):
            router.draw(context, body, f"{number:016x}")
        best = min(best, (time.thread_time_ns() - started) / count / 1000)
    return round(best, 2)


def measure(route: str, folder: Path, rounds: int, count: int) -> dict[str, Any]:
    """All figures of one route."""
    import tierwise
    from tierwise.core.route import Route, RouteTable
    from tierwise.routing import write_table

    given: dict[str, Any] = ROUTES[route]
    write_table(
        folder / "routes.json", RouteTable(routes={"extract": Route(task="extract", **given)}), expected_version=0
    )
    spans, metrics = make_span_exporter(), make_metric_exporter()
    providers = make_providers(spans, metrics)
    sync_client, async_client = make_clients()
    options: dict[str, Any] = {"tracer_provider": providers[0], "meter_provider": providers[1]}
    options |= {"config": str(folder / "tierwise.yaml"), "store": str(folder / "tierwise.db")}
    measured = make_rounds(tierwise.instrument(sync_client, **options), tierwise.instrument(async_client, **options))
    found: dict[str, Any] = {"draw_us": draw_us(folder)}
    for name, pairs in measured.items():
        pairs(WARM_UP)
        tierwise.force_flush()
        gc.collect()
        gc.freeze()
        found[name] = compare(pairs, rounds, count)
    tierwise.force_flush()
    with tierwise.open_store(folder / "tierwise.db") as store:
        arms = [row.arm for row in store.calls()]
    made = 2 * 2 * (WARM_UP + rounds * count)
    if len(arms) != made or arms.count("primary") < made // 2 - 1 or spans.count > made:
        raise SystemExit(f"{made} calls were made, half of them routed; recorded are {len(arms)}: {set(arms)}")
    tierwise.shutdown()
    for provider in providers:
        provider.shutdown()
    return found


def main() -> None:
    """Measure both routes and print what routing adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=200, help="pairs of calls in a round")
    given = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("OTEL_", "TIERWISE_", "OPENAI_"))]:
        del os.environ[name]
    found = {}
    for route in ROUTES:
        with tempfile.TemporaryDirectory(prefix="tierwise-routing-") as temporary:
            folder = Path(temporary)
            (folder / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
            os.environ["TIERWISE_ROUTES"] = str(folder / "routes.json")
            found[route] = measure(route, folder, given.rounds, given.calls)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for route, figures in found.items():
        print(f"{route}: the draw alone {figures['draw_us']} µs")
        for name in ("sync", "async"):
            one = figures[name]
            print(
                f"  {name}: routing adds {one['added_us']} µs (quartiles {one['low_us']} to {one['high_us']}) "
                f"to {one['named_us']} µs"
            )


if __name__ == "__main__":
    sys.exit(main())

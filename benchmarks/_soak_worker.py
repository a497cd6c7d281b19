"""One process of the soak: threads and an asyncio loop that call at a given rate, and what the process itself becomes.

    python benchmarks/_soak_worker.py '{"mode": "load", …}'

prints one JSON document at its end. Modes: `load` (real clients over HTTP and a client that
answers from memory, bare calls among the instrumented ones) and
`beyond` (answers at once from an object in this process, as fast as the threads can).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _common import MESSAGES, MODEL, TEXT_REPLY, completion

TASKS = ("extract", "summary", "classify", "translate", "draft")
BARE_SHARE = 0.2
"""Bare calls for each instrumented one."""
STEP_S = 2e-5
STEPS = 100_000
WARM_S = 10.0
LATE_S = 1.0
"""Who is later than this gives up what it missed: the rate is then not reached, and no burst follows."""


class Latencies:
    """A histogram of fixed size: a list would grow, and the memory is what is looked at."""

    def __init__(self) -> None:
        self.counts = array("I", bytes(4 * STEPS))

    def add(self, seconds: float) -> None:
        """Count one call; threads may lose one of a million to each other."""
        self.counts[min(int(seconds / STEP_S), STEPS - 1)] += 1

    def sparse(self) -> dict[int, int]:
        """Steps that have any."""
        return {step: number for step, number in enumerate(self.counts) if number}


class Figures:
    """What one thread or loop counts; added up at the end, so that no lock is on the way of a call."""

    def __init__(self, warm_at: float) -> None:
        """Times are kept of calls that begin after `warm_at` (monotonic seconds): the first ones import and connect."""
        self.warm_at = warm_at
        self.made = self.bare = self.failed = 0
        self.timed = {"bare": 0, "instrumented": 0}
        self.skipped_s = 0.0
        self.wait = {"bare": Latencies(), "instrumented": Latencies()}
        self.cpu_ns = {"bare": 0, "instrumented": 0}
        self.last_error = ""

    def ended(self, which: str, wait_s: float, cpu_ns: int = 0) -> None:
        """One call has ended, just now, after `wait_s` seconds."""
        self.bare += which == "bare"
        if time.monotonic() - wait_s >= self.warm_at:
            self.wait[which].add(wait_s)
            self.timed[which] += 1
            self.cpu_ns[which] += cpu_ns


def arguments(draw: random.Random, model: str) -> dict[str, Any]:
    """One request: text, JSON or a stream."""
    kind = draw.choices(("text", "json", "stream"), (0.7, 0.2, 0.1))[0]
    more: dict[str, Any] = {}
    if kind == "json":
        more["response_format"] = {"type": "json_object"}
    if kind == "stream":
        more |= {"stream": True, "stream_options": {"include_usage": True}}
    return {"model": model, "messages": MESSAGES, "max_tokens": 600, **more}


def due(rate: float, ends: float, figures: Figures, draw: random.Random) -> Iterator[float]:
    """Seconds to wait before each call, `rate` a second, until `ends`."""
    at = time.monotonic() + draw.random() / rate
    while at < ends:
        now = time.monotonic()
        if now - at > LATE_S:
            figures.skipped_s += now - at
            at = now
        if now >= ends:
            return
        yield max(0.0, at - now)
        at += 1 / rate


def order(draw: random.Random) -> tuple[str, ...]:
    """The calls of one turn: an instrumented one, and now and then a bare one before or after it."""
    if draw.random() >= BARE_SHARE:
        return ("instrumented",)
    return ("bare", "instrumented") if draw.random() < 0.5 else ("instrumented", "bare")


def call_in_thread(clients: dict[str, Any], model: str, rate: float, ends: float, seed: str, figures: Figures) -> None:
    """Sync calls of one thread."""
    import tierwise

    draw = random.Random(seed)
    for pause_s in due(rate, ends, figures, draw):
        time.sleep(pause_s)
        asked, task = arguments(draw, model), draw.choice(TASKS)
        for which in order(draw):
            begun, cpu = time.perf_counter(), time.thread_time_ns()
            try:
                if which == "bare":
                    answer = clients[which].chat.completions.create(**asked)
                else:
                    figures.made += 1
                    with tierwise.task(task):
                        answer = clients[which].chat.completions.create(**asked)
                if asked.get("stream"):
                    for _ in answer:
                        pass
            except Exception as error:
                figures.failed += 1
                figures.last_error = f"{type(error).__name__}: {error}"
            finally:
                figures.ended(which, time.perf_counter() - begun, time.thread_time_ns() - cpu)


async def call_in_task(
    clients: dict[str, Any], model: str, rate: float, ends: float, seed: str, figures: Figures
) -> None:
    """Async calls of one task of the loop."""
    import tierwise

    draw = random.Random(seed)
    for pause_s in due(rate, ends, figures, draw):
        await asyncio.sleep(pause_s)
        asked, task = arguments(draw, model), draw.choice(TASKS)
        for which in order(draw):
            begun = time.perf_counter()
            try:
                if which == "bare":
                    answer = await clients[which].chat.completions.create(**asked)
                else:
                    figures.made += 1
                    with tierwise.task(task):
                        answer = await clients[which].chat.completions.create(**asked)
                if asked.get("stream"):
                    async for _ in answer:
                        pass
            except Exception as error:
                figures.failed += 1
                figures.last_error = f"{type(error).__name__}: {error}"
            finally:
                figures.ended(which, time.perf_counter() - begun)


def run_loop(job: dict[str, Any], rate: float, ends: float, figures: list[Figures]) -> None:
    """The asyncio side: a loop of its own in a thread, as many tasks as figures."""
    import openai

    import tierwise

    async def main() -> None:
        async with openai.DefaultAsyncHttpxClient() as http:
            clients = {
                which: openai.AsyncOpenAI(base_url=job["url"], api_key="sk-none", http_client=http, max_retries=2)
                for which in ("bare", "instrumented")
            }
            tierwise.instrument(clients["instrumented"], config=job["config"], store=job["store"])
            each = rate / len(figures)
            await asyncio.gather(
                *(
                    call_in_task(clients, job["model"], each, ends, f"{job['name']}-task-{number}", one)
                    for number, one in enumerate(figures)
                )
            )

    asyncio.run(main())


def resources() -> tuple[float, int, int]:
    """Resident memory in MB, open file descriptors, threads of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threading.active_count()


def sampler(every_s: float, ends: float, samples: list[tuple[float, float, int, int]]) -> None:
    """Look at the process until `ends`."""
    begun = time.monotonic()
    while (now := time.monotonic()) < ends:
        samples.append((now - begun, *resources()))
        time.sleep(min(every_s, max(0.0, ends - now)))


def dropped_of(reader: Any) -> int:
    """Rows that tierwise counts as dropped, from its own metric."""
    data = reader.get_metrics_data()
    found = 0
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "tierwise.internal.dropped":
                    found += sum(
                        point.value for point in metric.data.data_points if "store" in point.attributes.values()
                    )
    return int(found)


def make_providers(otlp: str | None) -> tuple[Any, Any, Any]:
    """Tracer and meter providers: exporting to `otlp` if given; the reader shows what tierwise counts."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    reader = InMemoryMetricReader()
    readers: list[Any] = [reader]
    tracer_provider = TracerProvider()
    if otlp:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        readers.append(
            PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=otlp + "/metrics"), export_interval_millis=10_000)
        )
        tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp + "/traces")))
    return tracer_provider, MeterProvider(readers), reader


def run_load(job: dict[str, Any]) -> dict[str, Any]:
    """Threads and a loop at `job["http_rate"]` calls a second, others at `job["memory_rate"]`, for `job["seconds"]`."""
    import openai

    import tierwise

    tracer_provider, meter_provider, reader = make_providers(job["otlp"])
    from opentelemetry import metrics, trace

    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(meter_provider)
    with openai.DefaultHttpxClient() as http:
        clients = {
            which: openai.OpenAI(base_url=job["url"], api_key="sk-none", http_client=http, max_retries=2)
            for which in ("bare", "instrumented")
        }
        tierwise.instrument(clients["instrumented"], config=job["config"], store=job["store"])
        warm_at = time.monotonic() + min(WARM_S, job["seconds"] / 4)
        at_once = {
            "bare": AtOnce(),
            "instrumented": tierwise.instrument(AtOnce(), config=job["config"], store=job["store"]),
        }
        memory_figures = [Figures(warm_at) for _ in range(2)]
        threads_figures = [Figures(warm_at) for _ in range(job["threads"])]
        loop_figures = [Figures(warm_at) for _ in range(job["tasks"])]
        over_http = [*threads_figures, *loop_figures]
        share, memory_share = job["http_rate"] / len(over_http), job["memory_rate"] / len(memory_figures)
        ends = time.monotonic() + job["seconds"]
        samples: list[tuple[float, float, int, int]] = []
        works: list[Callable[[], object]] = [
            *(
                lambda number=number, one=one: call_in_thread(
                    clients, job["model"], share, ends, f"{job['name']}-{number}", one
                )
                for number, one in enumerate(threads_figures)
            ),
            *(
                lambda number=number, one=one: call_in_thread(
                    at_once, MODEL, memory_share, ends, f"{job['name']}-m{number}", one
                )
                for number, one in enumerate(memory_figures if memory_share else ())
            ),
            lambda: run_loop(job, share * len(loop_figures), ends, loop_figures),
            lambda: sampler(job["sample_s"], ends, samples),
        ]
        elapsed_s = run_together(works)
    tierwise.shutdown()
    dropped = dropped_of(reader)
    meter_provider.shutdown()
    tracer_provider.shutdown()
    return {
        "elapsed_s": elapsed_s,
        "samples": samples,
        "cpu_s": time.process_time(),
        "dropped_by_metric": dropped,
        **totals([*over_http, *memory_figures]),
        "made_over_http": totals(over_http)["made"],
        "thread_wait": waits(threads_figures),
        "task_wait": waits(loop_figures),
        "memory_wait": waits(memory_figures),
        "thread_calls": {which: sum(one.timed[which] for one in threads_figures) for which in ("bare", "instrumented")},
        "cpu_ns": {which: sum(one.cpu_ns[which] for one in threads_figures) for which in ("bare", "instrumented")},
    }  # fmt: skip


def run_together(works: list[Callable[[], object]]) -> float:
    """Do each in a thread of its own; seconds until the last has ended."""
    begun = time.monotonic()
    with ThreadPoolExecutor(len(works)) as pool:
        for running in [pool.submit(work) for work in works]:
            running.result()
    return time.monotonic() - begun


def totals(figures: list[Figures]) -> dict[str, Any]:
    """Sums over threads and tasks."""
    return {
        "made": sum(one.made for one in figures),
        "bare": sum(one.bare for one in figures),
        "failed": sum(one.failed for one in figures),
        "skipped_s": sum(one.skipped_s for one in figures),
        "last_error": next((one.last_error for one in figures if one.last_error), ""),
    }


def waits(figures: list[Figures]) -> dict[str, dict[int, int]]:
    """The histograms, added up."""
    found: dict[str, dict[int, int]] = {"bare": {}, "instrumented": {}}
    for one in figures:
        for which, latencies in one.wait.items():
            for step, number in latencies.sparse().items():
                found[which][step] = found[which].get(step, 0) + number
    return found


class AtOnce:
    """A client of another make that answers from memory: what tierwise does is most of what happens."""

    def __init__(self) -> None:
        from openai.types.chat import ChatCompletion

        self.answer = ChatCompletion.model_validate_json(completion(TEXT_REPLY))
        self.chat = self
        self.completions = self

    def create(self, **asked: Any) -> Any:
        """The same answer to everything."""
        return iter(()) if asked.get("stream") else self.answer


def run_beyond(job: dict[str, Any]) -> dict[str, Any]:
    """As many calls as `job["calls"]` says, as fast as the threads can."""
    import tierwise

    tracer_provider, meter_provider, reader = make_providers(None)
    client = tierwise.instrument(
        AtOnce(), config=job["config"], store=job["store"],
        tracer_provider=tracer_provider, meter_provider=meter_provider,
    )  # fmt: skip
    each = job["calls"] // job["threads"]

    def work() -> None:
        for _ in range(each):
            client.chat.completions.create(model=MODEL, messages=MESSAGES)

    begun = time.monotonic()
    elapsed_s = run_together([work] * job["threads"])
    memory_mb = resources()[0]
    print("called", flush=True)
    sys.stdin.readline()
    tierwise.shutdown()
    ended_s = time.monotonic() - begun
    done = {
        "made": each * job["threads"], "elapsed_s": elapsed_s, "stored_by_s": ended_s, "memory_mb": memory_mb,
        "dropped_by_metric": dropped_of(reader),
    }  # fmt: skip
    meter_provider.shutdown()
    tracer_provider.shutdown()
    return done


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["config"] = str(Path(given["folder"]) / "tierwise.yaml")
    print(json.dumps({"load": run_load, "beyond": run_beyond}[given["mode"]](given)))

"""What the benchmarks share: requests and replies, clients that answer at once, discarding exporters, callgrind.

Needs nothing but the standard library when imported, so that it can be used in an environment that holds only a client
and an instrumentation.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODEL = "gpt-4o-mini"
POLICY = f"""\
tiers:
  fast: [{MODEL}, gpt-4o]
defaults:
  objective: cost_per_success
tasks:
  extract:
    candidates: [fast]
    guardrails: {{success_rate: ">= 0.95", json_valid_rate: ">= 0.99", latency_p95: "<= 10s"}}
  summary:
    candidates: [fast]
    guardrails: {{success_rate: ">= 0.95"}}
"""
TEXT_REPLY = "The quarterly figures show a steady rise in the number of orders from returning customers. " * 10
JSON_REPLY = json.dumps(
    {
        "customer": {"name": "Ada Example", "city": "Kumasi", "vip": True, "balance": 1289.5},
        "items": [
            {"sku": f"A-{n:04d}", "title": f"Article number {n}", "quantity": n, "price": n * 1.25} for n in range(10)
        ],
        "notes": ["delivered in two parts", "invoice by post"],
    }
)
MESSAGES = [
    {"role": "system", "content": "You answer briefly and precisely."},
    {"role": "user", "content": "Summarise the order below for the accounting department. " * 4},
]
PROMPT_TOKENS, COMPLETION_TOKENS = 71, 214


# --- requests and replies ----------------------------------------------------------------------------------------


def usage() -> dict[str, Any]:
    """The usage block that OpenAI sends."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(content: str) -> bytes:
    """A chat completion's body with this content."""
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    body = {
        "id": "chatcmpl-BenchmarkBenchmarkBenchmark01",
        "object": "chat.completion",
        "created": 1760000000,
        "model": f"{MODEL}-2024-07-18",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage(),
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
    }
    return json.dumps(body).encode()


def stream(chunks: int) -> bytes:
    """The events of a streamed completion: this many content chunks, the finish chunk and the usage chunk."""

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        body = {
            "id": "chatcmpl-BenchmarkBenchmarkBenchmark01",
            "object": "chat.completion.chunk",
            "created": 1760000000,
            "model": f"{MODEL}-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": "fp_0123456789",
            "choices": choices,
        }
        return f"data: {json.dumps(body | more)}\n\n"

    def choice(delta: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    events = [event(choice({"content": " word"}), usage=None) for _ in range(chunks)]
    events += [event(choice({}, "stop"), usage=None), event([], usage=usage()), "data: [DONE]\n\n"]
    return "".join(events).encode()


def request(reply: str) -> dict[str, Any]:
    """The arguments of a call that is answered with this reply: `json`, `text`, `stream200` or `stream400`."""
    arguments: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0.2, "max_tokens": 600}
    arguments["extra_headers"] = {"x-reply": reply}
    if reply == "json":
        arguments["response_format"] = {"type": "json_object"}
    if reply.startswith("stream"):
        arguments |= {"stream": True, "stream_options": {"include_usage": True}}
    return arguments


def make_clients() -> tuple[Any, Any]:
    """A sync and an async client whose transport answers at once, whichever HTTP library this openai uses."""
    import openai

    httpx = importlib.import_module("httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx")
    bodies = {"json": completion(JSON_REPLY), "text": completion(TEXT_REPLY)}
    bodies |= {f"stream{n}": stream(n) for n in (200, 400)}

    def answer(request: Any) -> Any:
        kind = request.headers["x-reply"]
        media = "text/event-stream" if kind.startswith("stream") else "application/json"
        return httpx.Response(200, content=bodies[kind], headers={"content-type": media, "x-request-id": "req_1"})

    sync_http = httpx.Client(transport=httpx.MockTransport(answer))
    async_http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    sync_client = openai.OpenAI(api_key="sk-none", http_client=sync_http)
    return sync_client, openai.AsyncOpenAI(api_key="sk-none", http_client=async_http)


# --- providers that discard --------------------------------------------------------------------------------------


def make_span_exporter(examine: Callable[[Any], object] | None = None) -> Any:
    """An exporter that discards; `count` is the number of spans, `examine` (if any) sees each of them."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class DiscardSpans(SpanExporter):
        count = 0

        def export(self, spans: Any) -> SpanExportResult:
            self.count += len(spans)
            if examine is not None:
                for span in spans:
                    examine(span)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            return None

    return DiscardSpans()


def make_metric_exporter() -> Any:
    """An exporter that discards; `last` is what it was given last."""
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult

    class DiscardMetrics(MetricExporter):
        last: Any = None

        def export(self, metrics_data: Any, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
            self.last = metrics_data
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 10_000) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
            return None

    return DiscardMetrics()


def make_providers(spans: Any, metrics: Any) -> tuple[Any, Any]:
    """A tracer provider with a batch processor and a meter provider with a periodic reader over these exporters."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(spans, max_queue_size=8192))
    return tracer_provider, MeterProvider([PeriodicExportingMetricReader(metrics)])


# --- counting ----------------------------------------------------------------------------------------------------


class Callgrind:
    """Counts instructions from inside the process; the figures stand in callgrind's dump files."""

    unit = "instructions"

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)

    def start(self) -> None:
        """Forget what was counted (of this thread) and count from now on."""
        self._library.vg_zero()
        self._library.vg_start()

    def dump(self, name: str) -> None:
        """Write what was counted since the last dump: of this thread if threads are counted apart, else of all."""
        self._library.vg_dump(name.encode())

    def stop(self) -> None:
        """Count no longer."""
        self._library.vg_stop()

    def measure(self, calls: Callable[[], object], flush: Callable[[], object]) -> dict[str, int]:
        """Run the calls, then flush. A dump holds the calling thread; the other threads' are written at the exit."""
        self.start()
        calls()
        self.dump("calls")
        flush()
        self.stop()
        return {}


class CpuTime:
    """CPU time in nanoseconds: of the calling thread over the calls, and of all threads until everything is flushed."""

    unit = "ns CPU"

    def measure(self, calls: Callable[[], object], flush: Callable[[], object]) -> dict[str, int]:
        """Run the calls, then flush; returns `caller` and `total`."""
        thread, process = time.thread_time_ns(), time.process_time_ns()
        calls()
        caller = time.thread_time_ns() - thread
        flush()
        return {"caller": caller, "total": time.process_time_ns() - process}


def build_counter(folder: Path) -> str | None:
    """Compile callgrind.c; `None` where valgrind or a compiler is missing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or shutil.which("valgrind") is None:
        return None
    library = folder / "vg.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(HERE / "callgrind.c")], capture_output=True, check=False
    )
    return str(library) if done.returncode == 0 else None


def valgrind_command(folder: Path, *, separate_threads: bool) -> list[str]:
    """The start of a command line that writes callgrind's dumps to this folder; nothing is counted until `start`."""
    apart = "yes" if separate_threads else "no"
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--separate-threads={apart}"]
    return [*command, f"--callgrind-out-file={folder}/cg.out"]


def read_dumps(folder: Path) -> dict[str, int]:
    """Instructions by the name given to the dump, summed over its files; those dumped at the exit under `""`."""
    figures = {"": 0}
    for path in sorted(folder.glob("cg.out*")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if (totals := re.search(r"^totals: (\d+)", text, re.M)) is None:
            continue
        trigger = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.M)
        name = trigger[1] if trigger else ""
        figures[name] = figures.get(name, 0) + int(totals[1])
    return figures

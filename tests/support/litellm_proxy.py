"""The LiteLLM proxy, a server that nobody here wrote: in an environment of its own, on a free loopback port.

It answers with its own mock responses; nothing leaves this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tierwise
from tierwise.evidence.rows import CallRow

LITELLM = "litellm[proxy]==1.106.2"
START_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Where the proxy listens and the key it wants."""

    base_url: str
    key: str


@contextlib.contextmanager
def serving(folder: Path, mocks: Mapping[str, Mapping[str, Any]]) -> Iterator[Proxy]:
    """A proxy with these models, each with its mock response and prices; ended with the block."""
    uv = shutil.which("uv")
    assert uv is not None, "the gateway tests need uv on the path: pip install uv"
    # A request that its mock would let through goes to a closed port of this machine, never out.
    dead_end = {"api_key": "none", "api_base": "http://127.0.0.1:9/v1"}
    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", **dead_end, **more}}
        for name, more in mocks.items()
    ]
    config = {"model_list": models, "router_settings": {"num_retries": 0, "disable_cooldowns": True}}
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = f"sk-{secrets.token_hex(24)}"
    unwanted = ("OPENAI_", "OTEL_", "TIERWISE_", "LITELLM_", "VIRTUAL_ENV", "DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    environment |= {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    environment |= {"DISABLE_ADMIN_UI": "True", "NO_DOCS": "True"}
    command = [uv, "run", "--isolated", "--no-project", "--with", LITELLM, "litellm"]
    command += ["--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_alive(process, f"http://127.0.0.1:{port}/health/liveliness", log)
        yield Proxy(base_url=f"http://127.0.0.1:{port}/v1", key=key)
    finally:
        _end(process)


def _wait_until_alive(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            if answer.status == 200:
                return
        time.sleep(0.25)
    pytest.fail(f"the LiteLLM proxy did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the proxy and everything it started: its process group is its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
            return


class Recorded:
    """Three witnesses of the same traffic: spans, metrics and the store."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "tierwise.db"
        self._spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])

    def instrument(self, client: Any, **options: Any) -> Any:
        """Instrument a client so that all three see it."""
        providers: dict[str, Any] = {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}
        return tierwise.instrument(client, store=self.store, **providers, **options)

    def rows(self) -> list[CallRow]:
        """Every stored call, oldest first."""
        assert tierwise.force_flush()
        with tierwise.open_store(self.store) as store:
            return sorted(store.calls(), key=lambda row: row.started_at_ns)

    def spans(self) -> list[ReadableSpan]:
        """Every finished span, oldest first."""
        assert tierwise.force_flush()
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    def only(self) -> tuple[dict[str, Any], CallRow]:
        """The attributes of the only span and the only row."""
        (span,), (row,) = self.spans(), self.rows()
        return dict(span.attributes or {}), row

    def sums(self) -> dict[str, float]:
        """What each metric adds up to: values of counters, counts and, as `NAME.sum`, sums of histograms."""
        data = self._reader.get_metrics_data()
        sums: dict[str, float] = {}
        for resource in data.resource_metrics if data else ():
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                points: list[Any] = list(metric.data.data_points)
                counts: list[float] = [point.count if hasattr(point, "count") else point.value for point in points]
                sums[metric.name] = sum(counts)
                sums[f"{metric.name}.sum"] = sum(point.sum for point in points if hasattr(point, "sum"))
        return sums

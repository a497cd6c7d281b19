"""Spans of five other GenAI instrumentations become tierwise's metrics, in an environment of their own each."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import stack
from support.stack_senders import TraceSink

APP = Path(__file__).parent / "fixtures" / "foreign_app.py"
DATE = "2026-11-23T00:00:00Z"
NEIGHBOURS = {
    "openai-v2": "opentelemetry-instrumentation-openai-v2==2.4b0 opentelemetry-util-genai==0.4b0 opentelemetry-sdk==1.45.2",
    "openllmetry": "opentelemetry-instrumentation-openai==0.62.4 opentelemetry-sdk==1.45.2",
    "openinference": "openinference-instrumentation-openai==0.1.66 opentelemetry-sdk==1.45.2",
    "logfire": "logfire==5.2.0 opentelemetry-sdk==1.45.2",
    "openlit": "openlit==1.45.0 opentelemetry-sdk==1.45.1",
}
STREAMS_TIMED = {"openllmetry", "openinference", "openlit"}
"""Those whose spans say when the first chunk came."""
CALLS = 9


def _python(name: str) -> Path:
    """The interpreter of the environment with this instrumentation, made once and kept."""
    packages = [*NEIGHBOURS[name].split(), "openai==2.54.0", "opentelemetry-exporter-otlp-proto-http"]
    made_of = hashlib.sha256(" ".join([DATE, *packages]).encode()).hexdigest()[:12]
    folder = stack.cache_folder() / f"{name}-{made_of}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            environment = {**os.environ, "UV_EXCLUDE_NEWER": DATE}
            subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", "3.11", str(folder)], check=True)
            install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *packages]
            for _ in range(3):  # package mirrors fail now and then
                if subprocess.run(install, check=False, env=environment).returncode == 0:
                    break
            else:
                raise RuntimeError(f"gave up after 3 tries: {' '.join(install)}")
            (folder / "complete").touch()
    return python


def _run(name: str, collector: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TIERWISE_"))}
    return subprocess.Popen(
        [str(_python(name)), "-W", "ignore", str(APP), name, collector],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def derived(
    stack_binaries: stack.Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[stack.Running, TraceSink]]:
    """A Prometheus that holds what the five applications' spans gave, and the spans that the Collector kept."""
    folder = tmp_path_factory.mktemp("foreign")
    with TraceSink() as sink, stack.running_prometheus(stack_binaries, folder) as prometheus:
        environment = {
            "TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus), "TIERWISE_TRACES_PERCENT": "100",
            "TIERWISE_TRACES_EXPORTERS": "[otlp_http/traces]", "TIERWISE_TRACES_ENDPOINT": sink.url,
        }  # fmt: skip
        config = stack.COLLECTOR / "config.yaml"
        with stack.running_collector(stack_binaries, folder, config, environment) as collector:
            for name, process in [(name, _run(name, collector.url)) for name in NEIGHBOURS]:
                output, _ = process.communicate(timeout=240)
                assert process.returncode == 0, f"{name}:\n{output}"
            total = "sum(last_over_time(tierwise_calls_total[1h]))"
            stack.eventually(lambda: stack.number(prometheus, total), CALLS * len(NEIGHBOURS))
            stack.eventually(lambda: len(sink.derived()) >= CALLS * len(NEIGHBOURS), True)
            yield prometheus, sink


def _by(prometheus: stack.Running, label: str, metric: str, name: str) -> dict[str, float]:
    found = stack.query(prometheus, f'sum by ({label}) (last_over_time({metric}{{service_name="shop-{name}"}}[1h]))')
    return {row["metric"].get(label, ""): float(row["value"][1]) for row in found}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_every_call_counts_once(derived: tuple[stack.Running, TraceSink], name: str) -> None:
    """Nine calls are nine, with the outcomes that the answers had and under the service's name."""
    outcomes = {"success": 6, "truncated": 1, "filtered": 1, "error": 1}
    assert _by(derived[0], "tierwise_outcome", "tierwise_calls_total", name) == outcomes
    assert _by(derived[0], "tierwise_task", "tierwise_calls_total", name) == {f"shop-{name}": CALLS}
    assert _by(derived[0], "tierwise_candidate", "tierwise_calls_total", name) == {"gpt-4o": CALLS}
    assert _by(derived[0], "tierwise_grade", "tierwise_calls_total", name) == {"observational": CALLS}
    assert _by(derived[0], "gen_ai_provider_name", "tierwise_calls_total", name) == {"openai": CALLS}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_tokens_and_durations_are_exact(derived: tuple[stack.Running, TraceSink], name: str) -> None:
    """Every answered call gives its tokens, every call its duration; a stream its first chunk where the span has it."""
    tokens = _by(derived[0], "tierwise_token_kind", "tierwise_call_tokens_total", name)
    assert {kind: count for kind, count in tokens.items() if count} == {"input": 8000, "output": 800}
    selector = f'{{service_name="shop-{name}"}}[1h]'
    durations = f"histogram_count(sum(last_over_time(tierwise_call_duration_seconds{selector})))"
    assert stack.number(derived[0], durations) == CALLS
    first = f"histogram_count(sum(last_over_time(tierwise_call_time_to_first_chunk_seconds{selector})))"
    assert stack.number(derived[0], first) == (1 if name in STREAMS_TIMED else None)


def test_cost_counts_where_the_span_carries_it(derived: tuple[stack.Running, TraceSink]) -> None:
    """OpenLIT prices calls itself, so its calls have a cost; calls without one stay unpriced and are not free."""
    cost = _by(derived[0], "service_name", "tierwise_call_cost_total", "openlit")
    assert cost == {"shop-openlit": pytest.approx(8 * (1000 * 0.0025 + 100 * 0.01) / 1000, rel=1e-9)}
    assert _by(derived[0], "service_name", "tierwise_call_priced_total", "openlit") == {"shop-openlit": 8}
    assert _by(derived[0], "service_name", "tierwise_call_priced_total", "openai-v2") == {}


def test_contents_and_credentials_are_taken_out(derived: tuple[stack.Running, TraceSink]) -> None:
    """No prompt, answer or key is in what the Collector sends on; the words of ours are there."""
    sink = derived[1]
    text = sink.text()
    assert "hunter2" not in text
    assert "sk-planted" not in text
    kept = sink.derived()
    assert len(kept) == CALLS * len(NEIGHBOURS)
    assert {span["tierwise.grade"] for span in kept} == {"observational"}
    assert not any(key.startswith("tierwise.derive.") for span in kept for key in span)

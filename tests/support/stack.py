"""The real programs of the stack: built by `.ci/stack`, started on free loopback ports, ended by their own process ids."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = ROOT / "collector"
PROMETHEUS_CONFIG = COLLECTOR / "prometheus" / "prometheus.yml"
PROMETHEUS_FLAGS = (
    "--web.enable-otlp-receiver",
    "--web.enable-remote-write-receiver",
    "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion,promql-extended-range-selectors",
)
"""What a Prometheus behind the Collector is started with, here and in every deployment that is shipped."""

_MINIMAL_PROMETHEUS = """\
global: {scrape_interval: 5s, evaluation_interval: 5s}
otlp:
  promote_resource_attributes: [service.name, service.instance.id, deployment.environment.name]
  keep_identifying_resource_attributes: true
  translation_strategy: UnderscoreEscapingWithSuffixes
storage:
  tsdb: {out_of_order_time_window: 30m}
"""
_START_S = 60.0
_STOP_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """Paths of the programs."""

    otelcol: Path
    prometheus: Path
    promtool: Path
    victoria_metrics: Path


def cache_folder() -> Path:
    """Where `.ci/stack` and the tests keep what takes long to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tierwise" / "stack"


def built_binaries() -> Binaries:
    """Find the programs, building them where they are missing (minutes, once a machine)."""
    found = subprocess.run(["bash", str(ROOT / ".ci" / "stack")], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f".ci/stack failed:\n{found.stderr}")
    paths = dict(line.split("=", 1) for line in found.stdout.splitlines())
    return Binaries(**{name.replace("-", "_"): Path(path) for name, path in paths.items()})


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(kw_only=True)
class Running:
    """One program that runs: its address, what it was started with, its log."""

    name: str
    command: Sequence[str]
    url: str
    ready_url: str
    log: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again), wait until it says that it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **self.environment}
            )
        deadline = time.monotonic() + _START_S
        while not is_up(self.ready_url):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with exit {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} is not ready after {_START_S:g} s:\n{self.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to end, insist after a while."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"


RUNNING: list[Running] = []
"""What runs in this process now, so that a failing test can show the logs."""


@contextmanager
def _running(program: Running) -> Iterator[Running]:
    RUNNING.append(program)
    try:
        program.start()
        yield program
    finally:
        RUNNING.remove(program)
        program.stop()


def is_up(url: str) -> bool:
    """Whether this address answers with a 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
            return 200 <= answer.status < 300
    except (OSError, urllib.error.HTTPError):
        return False


def read(url: str) -> str:
    """The text at this address."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        return str(answer.read().decode())


@contextmanager
def running_prometheus(
    binaries: Binaries, folder: Path, *, config: Path | None = None, flags: Sequence[str] = PROMETHEUS_FLAGS
) -> Iterator[Running]:
    """Prometheus with the project's own configuration (or a given one) and its storage in `folder`."""
    if config is None:
        config = PROMETHEUS_CONFIG
        if not config.exists():
            config = folder / "prometheus.yml"
            config.write_text(_MINIMAL_PROMETHEUS)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(binaries.prometheus), f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", *flags,
    ]  # fmt: skip
    program = Running(
        name="prometheus", command=command, url=url, ready_url=f"{url}/-/ready", log=folder / "prometheus.log",
        folder=folder, ports={"http": port},
    )  # fmt: skip
    with _running(program):
        yield program


@contextmanager
def running_victoria_metrics(binaries: Binaries, folder: Path, *, flags: Sequence[str] = ()) -> Iterator[Running]:
    """VictoriaMetrics, single node, with its storage in `folder`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(binaries.victoria_metrics), f"-storageDataPath={folder / 'victoria-metrics'}",
        f"-httpListenAddr=127.0.0.1:{port}", "-opentelemetry.usePrometheusNaming", "-loggerLevel=WARN",
        "-search.latencyOffset=0s", "-memory.allowedBytes=256MB", *flags,
    ]  # fmt: skip
    program = Running(
        name="victoria-metrics", command=command, url=url, ready_url=f"{url}/health",
        log=folder / "victoria-metrics.log", folder=folder, ports={"http": port},
    )  # fmt: skip
    with _running(program):
        yield program


def metrics_endpoint(backend: Running) -> str:
    """Where a Collector sends metrics for this backend (`/v1/metrics` is added to it)."""
    return f"{backend.url}/opentelemetry" if backend.name == "victoria-metrics" else f"{backend.url}/api/v1/otlp"


@contextmanager
def running_collector(
    binaries: Binaries, folder: Path, config: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """The Collector with one of the project's configurations; ports and folders by the variables it documents.

    `ports` has grpc, http, loop, health and telemetry; `url` is that of OTLP over HTTP.
    """
    ports = {name: free_port() for name in ("grpc", "http", "loop", "health", "telemetry")}
    variables = {
        "TIERWISE_COLLECTOR_GRPC": f"127.0.0.1:{ports['grpc']}",
        "TIERWISE_COLLECTOR_HTTP": f"127.0.0.1:{ports['http']}",
        "TIERWISE_COLLECTOR_LOOP": f"127.0.0.1:{ports['loop']}",
        "TIERWISE_COLLECTOR_HEALTH": f"127.0.0.1:{ports['health']}",
        "TIERWISE_COLLECTOR_TELEMETRY_PORT": str(ports["telemetry"]),
        "TIERWISE_COLLECTOR_STORAGE": str(folder / "queues"),
        "TIERWISE_COLLECTOR_INTERVAL": "1s",
        **(environment or {}),
    }
    program = Running(
        name="otelcol",
        command=[str(binaries.otelcol), f"--config={config}"],
        url=f"http://127.0.0.1:{ports['http']}",
        ready_url=f"http://127.0.0.1:{ports['health']}/",
        log=folder / "otelcol.log",
        folder=folder,
        environment=variables,
        ports=ports,
    )
    with _running(program):
        yield program


def query(backend: Running, expression: str, *, at_s: float | None = None) -> list[dict[str, Any]]:
    """The result of an instant query of a Prometheus-compatible server."""
    parameters = {"query": expression, **({} if at_s is None else {"time": f"{at_s:.3f}"})}
    data = urllib.parse.urlencode(parameters).encode()
    try:
        with urllib.request.urlopen(f"{backend.url}/api/v1/query", data, timeout=30) as answer:  # noqa: S310
            return list(json.load(answer)["data"]["result"])
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(f"{expression}: HTTP {error.code}: {error.read().decode(errors='replace')}") from None


def number(backend: Running, expression: str, *, at_s: float | None = None) -> float | None:
    """The one number that an expression gives, `None` when it gives nothing."""
    result = query(backend, expression, at_s=at_s)
    assert len(result) <= 1, f"{expression} gives {len(result)} series"
    return float(result[0]["value"][1]) if result else None


def eventually(read: Callable[[], Any], wanted: Any, *, within_s: float = 30.0) -> Any:
    """Read until the value is the wanted one or time is up; gives the last value, for the test to compare."""
    deadline = time.monotonic() + within_s
    while True:
        value = read()
        if value == wanted or time.monotonic() > deadline:
            return value
        time.sleep(0.2)

"""Prometheus and VictoriaMetrics as processes on this machine, each with a folder and a port of its own."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from support.fleet import PROMETHEUS_PATH, VICTORIA_PATH

SHIPPED = Path(__file__).resolve().parents[2] / "collector" / "prometheus"
_BLOCKS = ("prometheus_tsdb_compaction", "prometheus_tsdb_blocks_loaded", "prometheus_tsdb_head_min_time ")
FEATURES = "created-timestamp-zero-ingestion,exemplar-storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A running server."""

    url: str
    otlp: str
    """Where OTLP metrics are posted to."""
    folder: Path


@contextmanager
def prometheus(binary: Path, folder: Path, *, past: str = "60d") -> Iterator[Engine]:
    """A Prometheus with the settings of `collector/prometheus/prometheus.yml`, which also takes samples from the `past`."""
    yaml = YAML()
    settings = yaml.load(SHIPPED / "prometheus.yml")
    settings["storage"]["tsdb"]["out_of_order_time_window"] = past
    del settings["scrape_configs"]
    settings["rule_files"] = [str(folder / "rules.yml")]
    folder.mkdir(parents=True)
    with (folder / "prometheus.yml").open("w") as file:
        yaml.dump(settings, file)
    port = free_port()
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-otlp-receiver", f"--enable-feature={FEATURES}",
        "--storage.tsdb.retention.time=400d", "--web.enable-lifecycle", "--web.enable-admin-api",
    ]  # fmt: skip
    with _running([str(binary), *arguments], folder / "log", f"http://127.0.0.1:{port}/-/ready"):
        url = f"http://127.0.0.1:{port}"
        yield Engine(url=url, otlp=url + PROMETHEUS_PATH, folder=folder)


@contextmanager
def victoria(binary: Path, folder: Path) -> Iterator[Engine]:
    """A VictoriaMetrics, single node, that names metrics as Prometheus does."""
    folder.mkdir(parents=True)
    port = free_port()
    arguments = [
        f"-storageDataPath={folder / 'data'}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=2y",
        "-opentelemetry.usePrometheusNaming", "-search.latencyOffset=1ms",
    ]  # fmt: skip
    with _running([str(binary), *arguments], folder / "log", f"http://127.0.0.1:{port}/health"):
        url = f"http://127.0.0.1:{port}"
        yield Engine(url=url, otlp=url + VICTORIA_PATH, folder=folder)


def compacted(engine: Engine, *, quiet_s: float = 60, most_s: float = 1800) -> float:
    """Wait until a Prometheus has put a history that came at once into blocks, as months put it; the seconds it took.

    Raises:
        TimeoutError: it is not done after `most_s` seconds.
    """
    begun = changed = time.monotonic()
    last = ""
    while time.monotonic() - changed < quiet_s:
        if time.monotonic() - begun > most_s:
            raise TimeoutError(f"{engine.url} still compacts its blocks after {most_s:.0f} s")
        time.sleep(1)
        with urllib.request.urlopen(engine.url + "/metrics", timeout=30) as response:  # noqa: S310
            lines = response.read().decode().split("\n")
        now = "".join(line for line in lines if line.startswith(_BLOCKS))
        last, changed = now, changed if now == last else time.monotonic()
    return changed - begun


@contextmanager
def evaluating(engine: Engine, rules: str) -> Iterator[None]:
    """Have a running Prometheus evaluate the rules of a YAML text for a while."""
    try:
        for text in (rules, ""):
            (engine.folder / "rules.yml").write_text(text)
            with urllib.request.urlopen(engine.url + "/-/reload", b"", timeout=30) as response:  # noqa: S310
                response.read()
            if text:
                yield
    finally:
        (engine.folder / "rules.yml").unlink()


def flush(engine: Engine) -> None:
    """Make what was written to a VictoriaMetrics visible; a Prometheus needs nothing."""
    if engine.otlp.endswith(VICTORIA_PATH):
        with urllib.request.urlopen(engine.url + "/internal/force_flush", timeout=30) as response:  # noqa: S310
            response.read()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def _running(command: list[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 60
            while not _answers(ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield
        finally:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False

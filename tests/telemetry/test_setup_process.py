"""Identity and export interval of our own providers, in short-lived and forked processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource

from support.local_server import local_server
from tierwise.telemetry.setup import providers
from tierwise.telemetry.setup_process import SHORT_INTERVAL_MS, export_interval_ms, process_resource

MARKS = (
    "AWS_LAMBDA_FUNCTION_NAME",
    "K_SERVICE",
    "FORKED_BY_MULTIPROCESSING",
    "SERVER_SOFTWARE",
    "OTEL_METRIC_EXPORT_INTERVAL",
)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*MARKS, "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


def _in_child(resource: Resource) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(resource.attributes["service.instance.id"]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return found


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("given", [None, "pod-7"])
def test_every_process_has_an_identity_of_its_own(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    """A forked child gets another `service.instance.id`, also when the parent was given one; the rest stays."""
    if given is not None:
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"service.instance.id={given},team=search")
    resource = process_resource()
    own = resource.attributes["service.instance.id"]
    assert own == given or given is None
    assert resource.attributes.get("team") == (None if given is None else "search")
    children = {_in_child(resource) for _ in range(3)}
    assert len(children) == 3
    assert own not in children
    assert resource.attributes["service.instance.id"] == own


def test_all_signals_share_the_identity() -> None:
    """Spans, metrics and log records of a process name the same instance."""
    assert len({process_resource().attributes["service.instance.id"] for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("name", "value", "interval"),
    [
        (None, "", None),
        ("AWS_LAMBDA_FUNCTION_NAME", "answer", SHORT_INTERVAL_MS),
        ("K_SERVICE", "answer", SHORT_INTERVAL_MS),
        ("FORKED_BY_MULTIPROCESSING", "1", SHORT_INTERVAL_MS),
        ("SERVER_SOFTWARE", "gunicorn/23.0.0", SHORT_INTERVAL_MS),
        ("SERVER_SOFTWARE", "Apache/2", None),
    ],
)
def test_where_the_environment_shows_it_export_is_frequent(
    monkeypatch: pytest.MonkeyPatch, name: str | None, value: str, interval: int | None
) -> None:
    """Serverless and prefork environments export every five seconds, unless the standard variable says otherwise."""
    if name is not None:
        monkeypatch.setenv(name, value)
    assert "uwsgi" not in sys.modules
    assert export_interval_ms() == interval
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "30000")
    assert export_interval_ms() is None


def test_own_providers_carry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers that tierwise makes have this process's identity on every signal."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    made = providers()
    own = process_resource().attributes["service.instance.id"]
    try:
        assert made.tracer_provider.resource.attributes["service.instance.id"] == own  # type: ignore[attr-defined]
        assert len(made.own) == 3
    finally:
        made.shutdown()


CHILD = """
import multiprocessing, sys
import openai, tierwise

def work(url):
    client = tierwise.instrument(openai.OpenAI(base_url=url, api_key="none"))
    for _ in range(20):
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])

if __name__ == "__main__":
    work(sys.argv[2])
    child = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(sys.argv[2],))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.faults
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_write_everything(tmp_path: Path, method: str) -> None:
    """Such a child ends without Python's exit handlers; what it finished is stored all the same."""
    script = tmp_path / "work.py"
    script.write_text(CHILD)
    store = tmp_path / "calls.db"
    with local_server() as url:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script), method, url], env={**os.environ, "TIERWISE_STORE": str(store)},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("SELECT count(*) FROM calls").fetchone() == (40,)


FORK_AT_ONCE = """
import os, sys
from tierwise.pricing.book import CatalogueBook

book = CatalogueBook({}, background=True)
child = os.fork()
if child == 0:
    rates = book.wait(60) and book.rates(provider="openai", model="gpt-4o-mini", service_tier=None)
    os._exit(0 if rates else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_amid_loading_leaves_whole_prices() -> None:
    """A child that was forked right after `instrument()` prices its calls."""
    done = subprocess.run(
        [sys.executable, "-c", FORK_AT_ONCE], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")

"""Routing panels and rules over a process that really routes: no series is made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support import stack
from support.dashboards import filled, load, panels
from tierwise.core.evidence import HOUR_S
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing.routefile import write_table

APP = Path(__file__).parent / "fixtures" / "routed_app.py"
APP_S = 8
POLICY = """
tasks:
  routed:
    candidates: [gpt-4o-mini, gpt-4.1-mini, gpt-4.1]
    expects: json
    shadow: 50%
    ladder: {escalate_on: [json_fenced, json_invalid], cleanup: [json_fenced], max_rungs: 3}
"""
ROUTE = Route(
    task="routed", primary="gpt-4o-mini", fallbacks=("gpt-4.1",), ladder=("gpt-4o-mini", "gpt-4.1"),
    canary=Canary(candidate="gpt-4.1-mini", share=0.25),
    propensities={"gpt-4o-mini": 0.6, "gpt-4.1-mini": 0.25, "gpt-4.1": 0.15},
)  # fmt: skip
VALUES = {
    "__rate_interval": "4m", "__range": "1h", "environment": ".*", "service": "routed", "task": "routed", "model": ".*",
}  # fmt: skip
PANELS = (
    "First calls per minute by arm", "Success of first calls by arm", "Calls per minute by rung", "Success by rung",
    "Runs that escalated or were cleaned", "Calls per run", "Cost per run", "Mean duration of a run",
)  # fmt: skip
RECORDS = tuple(
    f"tierwise:{name}:hour"
    for name in (
        "calls", "cost", "cost_squared", "tokens", "feedback", "runs", "runs_escalated", "runs_cost",
        "runs_cost_squared", "duration",
    )
)  # fmt: skip


class Shown:
    """The server, how many runs the application says it made, and when it began."""

    def __init__(self, backend: stack.Running, runs: int, began_s: float) -> None:
        self.backend = backend
        self.runs = runs
        self.began_s = began_s

    def ask(self, expr: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The result of an instant query, now or at another time (Unix seconds)."""
        data = urllib.parse.urlencode({"query": expr, "time": at_s or time.time()}).encode()
        with urllib.request.urlopen(f"{self.backend.url}/api/v1/query", data, timeout=30) as answer:  # noqa: S310
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def by(self, expr: str, label: str) -> dict[str, float]:
        """The same by one label."""
        return {one["metric"].get(label, ""): float(one["value"][1]) for one in self.ask(expr)}


@pytest.fixture(scope="module")
def shown(stack_binaries: stack.Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A routed application through the real Collector into a real Prometheus with the shipped settings."""
    folder = tmp_path_factory.mktemp("routed")
    (folder / "tierwise.yaml").write_text(POLICY)
    write_table(folder / "routes.json", RouteTable(routes={"routed": ROUTE}), expected_version=0)
    with ExitStack() as started:
        config = folder / "prometheus.yml"
        settings = YAML().load(stack.PROMETHEUS_CONFIG)
        settings["scrape_configs"], settings["rule_files"] = [], []
        YAML().dump(settings, config)
        backend = started.enter_context(stack.running_prometheus(stack_binaries, folder, config=config))
        environment = {"TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(backend)}
        collecting = started.enter_context(
            stack.running_collector(stack_binaries, folder, stack.COLLECTOR / "config.yaml", environment)
        )
        began_s = time.time()
        done = subprocess.run(
            [sys.executable, str(APP), str(APP_S)],
            env={
                **os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url, "OTEL_SERVICE_NAME": "routed",
                "OTEL_METRIC_EXPORT_INTERVAL": "1000", "TIERWISE_STORE": "off",
                "TIERWISE_CONFIG": str(folder / "tierwise.yaml"), "TIERWISE_ROUTES": str(folder / "routes.json"),
            },
            capture_output=True, text=True, timeout=APP_S + 60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        found = Shown(backend, int(done.stdout), began_s)
        assert stack.eventually(lambda: stack.number(backend, "count(tierwise_calls_total) > bool 0"), 1.0) == 1.0
        yield found


def test_every_arm_and_rung_is_there(shown: Shown) -> None:
    """Drawn arms in about their shares, shadows, fallbacks, and the second rung."""
    calls = shown.by('sum by (tierwise_arm) (tierwise_calls_total{tierwise_task="routed"})', "tierwise_arm")
    assert set(calls) == {"primary", "canary", "explore", "shadow", "fallback"}
    assert calls["primary"] > calls["canary"] > calls["fallback"] > 0
    assert calls["shadow"] > 0.2 * shown.runs
    rungs = shown.by(
        'sum by (tierwise_rung) (tierwise_calls_total{tierwise_task="routed",tierwise_arm!="shadow"})', "tierwise_rung"
    )
    assert set(rungs) >= {"0", "1"}
    assert rungs["0"] == shown.runs


@pytest.mark.parametrize("title", PANELS)
def test_routing_panels_show_it(shown: Shown, title: str) -> None:
    """Each expression of a panel about traffic and ladders returns numbers."""
    [panel] = [panel for panel in panels(load("routing")) if panel["title"] == title]
    for target in panel["targets"]:
        found = [float(one["value"][1]) for one in shown.ask(filled(target["expr"], VALUES))]
        assert found, target["expr"]
        assert any(value > 0 for value in found), target["expr"]


@pytest.mark.parametrize("record", RECORDS)
def test_hourly_evidence_comes_of_it(shown: Shown, record: str) -> None:
    """What the rules record when the hour is over: of every arm where they tell arms apart."""
    rules = YAML(typ="safe").load(stack.COLLECTOR / "prometheus" / "rules" / "evidence.yml")
    exprs = {rule["record"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    expr = exprs[record].replace("tierwise:calls:hour", f"({exprs['tierwise:calls:hour']})")  # as if it were recorded
    over = (int(shown.began_s) // HOUR_S + 1) * HOUR_S
    found = shown.ask(expr, over + 900)
    climbing = {"primary", "canary"}  # the model that is explored is always right
    arms = climbing if record == "tierwise:runs_escalated:hour" else climbing | {"explore"}
    assert arms <= {one["metric"]["tierwise_arm"] for one in found}


def test_acceptance_comes_from_real_verdicts(shown: Shown) -> None:
    """Four of five answers were accepted."""
    [panel] = [panel for panel in panels(load("task")) if panel["title"] == "Acceptance"]
    rates = [float(one["value"][1]) for one in shown.ask(filled(panel["targets"][0]["expr"], VALUES))]
    assert rates
    assert all(0.5 < rate <= 1 for rate in rates)

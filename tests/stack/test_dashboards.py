"""Every expression of the dashboards on real servers, over what tierwise's processes sent: data, and the right numbers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from ruamel.yaml import YAML

from support import stack
from support.calls import make_call
from support.dashboards import NAMES, Query, filled, load, panels, queries
from support.fleet import sender
from support.recommended import recommend
from tierwise.core.call import Arm, Run
from tierwise.core.cost import Cost
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.telemetry.metrics import metric_table
from tierwise.telemetry.routes import RouteMetrics

APP = Path(__file__).parent / "fixtures" / "dashboard_app.py"
APP_S = 6
MINUTES = 18
EVERYTHING = {
    "__rate_interval": "4m", "__range": "1h", "environment": ".*", "service": ".*", "task": ".*", "model": ".*",
}  # fmt: skip
VALUES = {
    "overview": EVERYTHING,
    "task": EVERYTHING | {"task": "extract"},
    "routing": EVERYTHING,
    "telemetry-health": EVERYTHING,
}


class Sender:
    """A process with a clock of its own: collects its metrics and sends them as of any time."""

    def __init__(self, service: str, started_s: float, send: Callable[[bytes], None]) -> None:
        self._started_ns = int(started_s * 1e9)
        self._send = send
        self._reader = InMemoryMetricReader()
        resource = Resource(
            {"service.name": service, "service.instance.id": f"{service}-0", "deployment.environment.name": "test"}
        )
        self.provider = MeterProvider([self._reader], resource)

    def export(self, at_s: float) -> None:
        """Send everything as of `at_s`."""
        data = self._reader.get_metrics_data()
        assert data is not None
        request = encode_metrics(data)
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    for point in getattr(metric, kind).data_points:
                        point.time_unix_nano = int(at_s * 1e9)
                        if kind != "gauge":
                            point.start_time_unix_nano = self._started_ns
        self._send(request.SerializeToString())


COSTS = {"success": (0.001, 0.002, 0.004, 0.003), "truncated": (0.009,), "rejected": (0.5,)}
"""What the router's candidate `cheap` costs each minute, by outcome: USD of each call."""


def _routed(sending: Sender, now: float) -> None:
    """What only a router's calls have: arms, rungs, runs, verdicts of the application, faults; a minute at a time."""
    table = metric_table(sending.provider)
    table.count_error("recorder")
    table.count_dropped("cardinality", 3)
    arms: tuple[tuple[Arm, str, int], ...] = (("canary", "new", 0), ("shadow", "new", 0), ("fallback", "dear", 1))
    for minute in range(MINUTES, -1, -1):
        with table.lock:
            for outcome, costs in COSTS.items():
                for usd in costs:
                    cost = Cost(amount_usd=usd, source="catalogue")
                    table.record(make_call("trip", model="cheap", outcome=outcome, cost=cost, arm="primary"), None)
            for arm, model, rung in arms:
                table.record(make_call("trip", model=model, arm=arm, rung=rung), None)
            table.record(make_call("other", model="cheap", arm="primary"), None)
            table.record_feedback(("trip", "openai", "cheap", "00ff00ff", "primary", 0, "randomised", minute % 2 == 0))
            for calls, cleaned in ((1, True), (2, False)):
                table.record_run(
                    Run(
                        run_id=f"{minute}-{calls}", task="ladder", candidate="cheap", epoch="00ff00ff", arm="primary",
                        grade="randomised", started_at_ns=0, duration_s=2.0, calls=calls, success=True,
                        outcome="success", cost_usd=0.01, provider="openai", cleaned=cleaned,
                    )
                )  # fmt: skip
        sending.export(now - 60 * minute)


ROUTE = Route(
    task="extract", primary="cheap", fallbacks=("dear",), canary=Canary(candidate="new", share=0.25),
    propensities={"cheap": 0.75, "new": 0.25},
)  # fmt: skip


def _watched(sending: Sender, now: float) -> None:
    """What the watch tells of each look: three minutes ago a route and two decisions were new."""
    watch = RouteMetrics(sending.provider)
    for minute in range(MINUTES, -1, -1):
        at = now - 60 * minute
        watch.count_look(ok=minute % 2 == 0)
        if minute > 3:
            watch.show(
                [recommend("KEEP", task="extract", at=int(at))],
                RouteTable(version=6, routes={"extract": Route(task="extract", primary="dear")}),
            )
        else:
            decided = [
                replace(recommend("PROMOTE", task="extract", at=int(at)), saving_per_month_usd=12.5),
                recommend("HOLD", task="held", at=int(at)),
            ]
            watch.show(decided, RouteTable(version=7, routes={"extract": ROUTE}))
        sending.export(at)


def _silent(sending: Sender, now: float) -> None:
    """A service that sent calls until twenty minutes ago."""
    table = metric_table(sending.provider)
    for minute in (40, 30, 20):
        with table.lock:
            table.record(make_call("gone"), None)
        sending.export(now - 60 * minute)


class Shown:
    """A server with everything that the dashboards ask for."""

    def __init__(self, backend: stack.Running, now: float) -> None:
        self.backend = backend
        self.now = now

    def ask(self, path: str, **parameters: str | float) -> Any:
        """One request to the API, as Grafana makes it."""
        data = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(f"{self.backend.url}/api/v1/{path}", data, timeout=30) as answer:  # noqa: S310
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode(errors='replace')}") from None
        # Whether the Collector's own counters end in _total depends on its version.
        notes = [note for note in (*found.get("warnings", ()), *found.get("infos", ())) if '"otelcol_' not in note]
        assert notes == [], parameters
        return found["data"]

    def values(self, query: Query, variables: Mapping[str, str]) -> list[float]:
        """The numbers that one expression gives: at the end of the time shown, or every half minute of its last 20."""
        expr = filled(query.expr, variables)
        if query.kind == "variable":
            inside, label = expr.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            parameters = urllib.parse.urlencode({"match[]": inside, "start": self.now - 3600, "end": self.now + 5})
            with urllib.request.urlopen(  # noqa: S310
                f"{self.backend.url}/api/v1/label/{label}/values?{parameters}", timeout=30
            ) as answer:
                return [float(len(value)) for value in json.load(answer)["data"]]
        if query.kind == "instant":
            found = self.ask("query", query=expr, time=self.now)
            return [float(series["value"][1]) for series in found["result"]]
        found = self.ask("query_range", query=expr, start=self.now - 1200, end=self.now, step=30)
        return [float(value) for series in found["result"] for _, value in series["values"]]

    def by(self, expr: str, label: str, variables: Mapping[str, str]) -> dict[str, float]:
        """The result of an instant query by one label."""
        found = self.ask("query", query=filled(expr, variables), time=self.now)
        return {series["metric"].get(label, ""): float(series["value"][1]) for series in found["result"]}


def _scrape(shown: stack.Running, collector: stack.Running, config: Path) -> None:
    """Have the Collector's own metrics on the server, as a scrape does it."""
    target = f"127.0.0.1:{collector.ports['telemetry']}"
    if shown.name == "prometheus":
        yaml = YAML()
        settings = yaml.load(config)
        settings["scrape_configs"] = [{"job_name": "otelcol", "static_configs": [{"targets": [target]}]}]
        settings["global"]["scrape_interval"] = "1s"
        with config.open("w") as file:
            yaml.dump(settings, file)
        assert shown.process is not None
        shown.process.send_signal(signal.SIGHUP)
        return
    text = stack.read(f"http://{target}/metrics").encode()
    for before in (60, 0):
        at = int((time.time() - before) * 1000)
        address = f"{shown.url}/api/v1/import/prometheus?timestamp={at}&extra_label=instance={target}"
        with urllib.request.urlopen(address, text, timeout=30) as answer:  # noqa: S310
            answer.read()


@pytest.fixture(scope="module", params=["prometheus", "prometheus-classic", "victoria-metrics"])
def shown(
    request: pytest.FixtureRequest, stack_binaries: stack.Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    """Each server in turn, fed by a real application through the real Collector, by a router, and by its own scrape."""
    folder = tmp_path_factory.mktemp("shown")
    with ExitStack() as started:
        config = folder / "prometheus.yml"
        if request.param != "victoria-metrics":
            yaml = YAML()
            settings = yaml.load(stack.PROMETHEUS_CONFIG)
            settings["otlp"]["convert_histograms_to_nhcb"] = request.param == "prometheus"
            settings["scrape_configs"], settings["rule_files"] = [], []
            with config.open("w") as file:
                yaml.dump(settings, file)
            backend = started.enter_context(stack.running_prometheus(stack_binaries, folder, config=config))
        else:
            backend = started.enter_context(stack.running_victoria_metrics(stack_binaries, folder))
        endpoint = stack.metrics_endpoint(backend)
        environment = {"TIERWISE_METRICS_ENDPOINT": endpoint}
        collecting = started.enter_context(
            stack.running_collector(stack_binaries, folder, stack.COLLECTOR / "config.yaml", environment)
        )
        app = subprocess.Popen(
            [sys.executable, str(APP), str(APP_S)],
            env={
                **os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url, "OTEL_SERVICE_NAME": "shop",
                "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test", "OTEL_METRIC_EXPORT_INTERVAL": "1000",
                "TIERWISE_STORE": "off",
            },
            stderr=subprocess.PIPE,
        )  # fmt: skip
        started.callback(app.kill)
        now = time.time()
        send = sender(f"{endpoint}/v1/metrics")
        routed = Sender("router", now - 60 * MINUTES - 30, send)
        silent = Sender("gone", now - 3000, send)
        watched = Sender("watch", now - 60 * MINUTES - 30, send)
        _silent(silent, now)
        _routed(routed, now)
        _watched(watched, now)
        _, said = app.communicate(timeout=APP_S + 60)
        assert app.returncode == 0
        assert [line for line in said.splitlines() if b"no price is known for model 'house-model'" not in line] == []
        _scrape(backend, collecting, config)
        in_time = 'count(count by (service_name) (last_over_time(tierwise_calls_total{service_name="shop"}[1h])))'
        assert stack.eventually(lambda: stack.number(backend, in_time), 1.0) == 1.0
        scraped = "count(count_over_time(otelcol_receiver_accepted_metric_points[2m]) >= 2) > bool 0"
        assert stack.eventually(lambda: stack.number(backend, scraped), 1.0) == 1.0
        for one in (routed, silent, watched):
            one.provider.shutdown()
        yield Shown(backend, time.time())


@pytest.mark.parametrize("name", NAMES)
def test_every_expression_returns_data(shown: Shown, name: str) -> None:
    """Panels, variables and annotations: no error, no empty answer, no answer of NaN alone."""
    wrong = []
    for query in queries(name):
        values = shown.values(query, VALUES[name])
        if not any(math.isfinite(value) for value in values):
            wrong.append((query.place, query.kind, values[:5], filled(query.expr, VALUES[name])))
    assert wrong == []


def _columns(name: str, title: str) -> dict[str, str]:
    """The expressions of a table by column."""
    [panel] = [panel for panel in panels(load(name)) if panel["title"] == title]
    shown = panel["transformations"][-1]["options"]["renameByName"]
    alone = len(panel["targets"]) == 1
    return {shown["Value" if alone else f"Value #{target['refId']}"]: target["expr"] for target in panel["targets"]}


def _line(name: str, title: str) -> str:
    [panel] = [panel for panel in panels(load(name)) if panel["title"] == title]
    return str(panel["targets"][0]["expr"])


def test_the_candidates_have_the_right_numbers(shown: Shown) -> None:
    """Rates, costs and intervals of the task page are those computed from the calls that were sent."""
    columns = {
        title: shown.by(expr, "tierwise_candidate", EVERYTHING | {"task": "trip"})
        for title, expr in _columns("task", "Candidates").items()
    }
    won, lost = COSTS["success"], COSTS["truncated"]
    spent, squared = sum(won + lost), sum(usd * usd for usd in won + lost)
    share, per_success = len(won) / len(won + lost), spent / len(won)
    assert columns["Success"]["cheap"] == pytest.approx(share)
    assert columns["Cost per success"]["cheap"] == pytest.approx(per_success)
    assert columns["Tokens"]["cheap"] == pytest.approx(50)
    # increase() extrapolates to the edges of its window, the same for all of these counters.
    runs = columns["Runs"]["cheap"]
    assert runs == pytest.approx((MINUTES + 1) * len(won + lost), rel=0.1)
    middle = (share + 1.96**2 / (2 * runs)) / (1 + 1.96**2 / runs)
    half = 1.96 / (1 + 1.96**2 / runs) * math.sqrt(share * (1 - share) / runs + 1.96**2 / (4 * runs**2))
    assert columns["at least"]["cheap"] == pytest.approx(middle - half, rel=1e-3)
    assert columns["at most"]["cheap"] == pytest.approx(middle + half, rel=1e-3)
    variance = squared / spent**2 + 1 / len(won) - 2 * sum(won) / (spent * len(won))
    half = 1.96 * math.sqrt(variance * len(won + lost) / runs)
    assert columns["from"]["cheap"] == pytest.approx(per_success * math.exp(-half), rel=1e-3)
    assert columns["to"]["cheap"] == pytest.approx(per_success * math.exp(half), rel=1e-3)
    assert 1.0 <= columns["p50"]["cheap"] <= columns["p95"]["cheap"] <= 1.25
    assert "new" in columns["Success"]


def test_runs_of_several_calls_count_once(shown: Shown) -> None:
    """A run with an id is one run of its first candidate, with the cost of all its calls."""
    trip = shown.by(_line("overview", "Success rate by task"), "tierwise_task", EVERYTHING)
    assert trip["ladder"] == pytest.approx(1)
    assert trip["trip"] == pytest.approx((4 + 1 + 1) / (5 + 1 + 1))
    columns = {
        title: shown.by(expr, "tierwise_candidate", EVERYTHING | {"task": "ladder"})
        for title, expr in _columns("task", "Candidates").items()
    }
    assert columns["Cost per success"]["cheap"] == pytest.approx(0.01)
    escalated = shown.by(_line("routing", "Runs that escalated or were cleaned"), "tierwise_task", EVERYTHING)
    assert escalated["ladder"] == pytest.approx(0.5)
    assert escalated["chain"] == pytest.approx(1)
    assert shown.by(_line("routing", "Calls per run"), "tierwise_task", EVERYTHING)["chain"] == pytest.approx(2)


def test_routes_and_decisions_are_the_last_ones(shown: Shown) -> None:
    """The tables show who serves now with which share, and the verdicts of the last look with their savings."""
    share = _columns("routing", "Current routes")["Share"]
    found = shown.ask("query", query=filled(share, EVERYTHING), time=shown.now)["result"]
    rows = {
        (row["metric"]["tierwise_route_version"], row["metric"]["tierwise_route_role"], row["metric"]["tierwise_candidate"]):
        float(row["value"][1])
        for row in found
    }  # fmt: skip
    assert {key: value for key, value in rows.items() if key[0] == "7"} == {
        ("7", "primary", "cheap"): 0.75, ("7", "canary", "new"): 0.25, ("7", "fallback", "dear"): 0,
    }  # fmt: skip
    month = _columns("routing", "Last decisions")["a month"]
    found = shown.ask("query", query=filled(month, EVERYTHING), time=shown.now)["result"]
    savings = {
        (row["metric"]["tierwise_task"], row["metric"]["tierwise_decision_verdict"]): float(row["value"][1])
        for row in found
    }
    assert savings[("extract", "PROMOTE")] == 12.5
    assert savings[("held", "HOLD")] == 0


def test_marks_stand_where_something_was_new(shown: Shown) -> None:
    """A decision and a changed route are marked when they were first told, for five minutes, and not before."""
    for annotation in load("routing")["annotations"]["list"]:
        expr = filled(annotation["expr"], EVERYTHING)
        found = shown.ask("query_range", query=expr, start=shown.now - 900, end=shown.now, step=60)["result"]
        times = [
            float(at)
            for series in found
            for at, _ in series["values"]
            if series["metric"].get("tierwise_candidate") != "dear"
        ]
        assert times
        assert min(times) >= shown.now - 360
        assert max(times) - min(times) <= 300


def test_panels_repeat_for_each_model(shown: Shown) -> None:
    """What is repeated over a variable has data for each of the values that the variable offers."""
    [panel] = [panel for panel in panels(load("task")) if panel.get("repeat")]
    [variable] = [query for query in queries("task") if query.place == panel["repeat"]]
    values = EVERYTHING | {"task": "extract"}
    expr = filled(variable.expr, values).removeprefix("label_values(").rsplit(",", 1)[0]
    offered = shown.by(f"count by (tierwise_candidate) (last_over_time({expr}[1h]))", "tierwise_candidate", {})
    assert set(offered) == {"gpt-4o-mini", "gpt-4.1"}
    for model in offered:
        for target in panel["targets"]:
            found = shown.ask("query", query=filled(target["expr"], values | {"model": model}), time=shown.now)[
                "result"
            ]
            [row] = found
            assert 0 <= float(row["value"][1]) <= 1


def test_latency_panels_have_exemplars(shown: Shown) -> None:
    """Where the server keeps exemplars, the expressions that ask for them lead to traces."""
    if shown.backend.name != "prometheus":
        assert all("exemplar" not in target for panel in panels(load("routing")) for target in panel["targets"])
        return
    for name in ("overview", "task"):
        for panel in panels(load(name)):
            for target in panel["targets"]:
                if target.get("exemplar"):
                    expr = filled(target["expr"], VALUES[name])
                    found = shown.ask("query_exemplars", query=expr, start=shown.now - 3600, end=shown.now)
                    traces = {one["labels"].get("trace_id") for series in found for one in series["exemplars"]}
                    assert any(trace and len(trace) == 32 for trace in traces), (panel["title"], found)


def test_grafanas_own_types_accept_every_part() -> None:
    """The TypeScript types of the Grafana that the Compose file starts know every property and value."""
    done = subprocess.run(
        [sys.executable, "-m", "dashboards.schema"], cwd=stack.ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")

"""`tierwise collector`, the files that it writes, and that these fit what tierwise emits."""

from __future__ import annotations

import importlib.util
import json
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import check_jsonschema
import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from support.commands import tierwise
from support.stack import PROMETHEUS_FLAGS
from tierwise.core.outcome import OUTCOMES
from tierwise.telemetry import semconv as sc

COLLECTOR = Path(__file__).resolve().parents[2] / "collector"
FORMS = ("config.yaml", "config-durable.yaml")


def _load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text("utf-8"))


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_config", COLLECTOR / "make_config.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("AUTH", "GRPC", "HTTP", "TLS", "TOKEN"):
        monkeypatch.delenv(f"TIERWISE_COLLECTOR_{name}", raising=False)


@pytest.mark.parametrize("form", FORMS)
def test_the_configurations_are_what_the_semantic_conventions_make(form: str) -> None:
    """What is committed is what `make_config.py` writes from `telemetry/semconv.py` today."""
    assert (COLLECTOR / form).read_text("utf-8") == _maker().text(form)


@pytest.mark.parametrize("form", FORMS)
def test_derived_metrics_are_those_of_tierwise(form: str) -> None:
    """Names, units, kinds, edges and labels of derived metrics equal those that tierwise itself emits."""
    spans = _load(COLLECTOR / form)["connectors"]["signal_to_metrics"]["spans"]
    calls = {
        sc.CALLS, sc.CALL_PRICED, sc.CALL_COST, sc.CALL_COST_SQUARED, sc.CALL_TOKENS, sc.CALL_DURATION,
        sc.CALL_TIME_TO_FIRST_CHUNK,
    }  # fmt: skip
    assert {metric["name"] for metric in spans} == {metric.name for metric in calls}
    few = {sc.TASK, sc.CANDIDATE, sc.EPOCH, sc.ARM, sc.RUNG, sc.GRADE, sc.OUTCOME}
    for metric in spans:
        known = sc.METRICS[metric["name"]]
        assert (metric["unit"], metric["description"]) == (known.unit, known.description)
        labels = {attribute["key"] for attribute in metric["attributes"]}
        if known.kind == "histogram":
            assert tuple(metric["histogram"]["buckets"]) == known.edges
            assert labels == few
        else:
            assert metric["sum"]["monotonic"] is True
            more = {sc.TOKEN_KIND} if known is sc.CALL_TOKENS else set()
            assert labels == few | {sc.PROVIDER_NAME, sc.RESPONSE_MODEL} | more


def test_outcomes_of_foreign_spans_are_outcomes() -> None:
    """Every outcome that a span can show is set, the gravest last, and the sampling keeps all failures."""
    document = _load(COLLECTOR / "config.yaml")
    (statements,) = (
        group["statements"]
        for group in document["processors"]["transform/normalise"]["trace_statements"]
        if any(sc.GRADE in statement for statement in group["statements"])
    )
    marker = f'set(span.attributes["{sc.OUTCOME}"], "'
    found = [line.removeprefix(marker).partition('"')[0] for line in statements if line.startswith(marker)]
    assert found[0] == "success"
    assert found == [outcome for outcome in reversed(OUTCOMES) if outcome in found]
    kept = document["processors"]["tail_sampling"]["policies"][1]["string_attribute"]
    assert kept == {"key": sc.OUTCOME, "values": [outcome for outcome in OUTCOMES if outcome != "success"]}


@pytest.mark.parametrize(("options", "form"), [((), "config.yaml"), (("--durable",), "config-durable.yaml")])
def test_init_writes_what_check_accepts(tmp_path: Path, options: tuple[str, ...], form: str) -> None:
    """`init` writes one form into the folder; `check` finds nothing wrong with it; a second `init` changes nothing."""
    done = tierwise("collector", "init", "--dir", "deploy", "--json", *options)
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"written": [f"deploy/{form}"], "dry_run": False})
    checked = tierwise("collector", "check", f"deploy/{form}", "--json")
    report = {"file": f"deploy/{form}", "otelcol": None, "errors": [], "warnings": []}
    assert (checked.exit_code, json.loads(checked.stdout)) == (0, report)
    again = tierwise("collector", "init", "--dir", "deploy", *options)
    assert (again.exit_code, "everything is there already" in again.stderr) == (0, True)


def test_init_never_replaces_what_somebody_changed(tmp_path: Path) -> None:
    """A changed file stays, with exit 2, until --force; --dry-run writes nothing."""
    Path("config.yaml").write_text("mine: true\n")
    done = tierwise("collector", "init")
    assert done.exit_code == 2
    assert "config.yaml: there already, and different" in done.stderr
    assert tierwise("collector", "init", "--force", "--dry-run").exit_code == 0
    assert Path("config.yaml").read_text() == "mine: true\n"
    assert tierwise("collector", "init", "--force").exit_code == 0
    assert Path("config.yaml").read_text() == (COLLECTOR / "config.yaml").read_text()


def test_init_writes_whole_deployments() -> None:
    """With --compose and --kubernetes everything that these name is there."""
    assert tierwise("collector", "init", "--durable", "--compose", "--kubernetes", "--dir", "all").exit_code == 0
    compose = _load(Path("all/compose.yaml"))
    mounted = [volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]]
    assert all(Path("all", name).exists() for name in mounted if name.startswith("./"))
    kustomization = _load(Path("all/kubernetes/kustomization.yaml"))
    files = [
        *kustomization["resources"],
        *(one.partition("=")[2] for one in kustomization["configMapGenerator"][0]["files"]),
    ]
    assert all(Path("all/kubernetes", name).is_file() for name in files)
    assert not list(Path("all").rglob("*.py"))


BROKEN = {
    "receivers: [1": "not YAML",
    "- a": "expected a map",
    "processors: {batsch: {}}\nservice: {pipelines: {}}": "no processor of type 'batsch'",
    "receiver: {}": "receiver: there is no such section",
    "service: {pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}": "otlp is not defined under receivers",
    "service: {pipelines: {spans: {receivers: [otlp], exporters: []}}}": "the signal must be one of",
    "service: {extensions: [health_check], pipelines: {}}": "health_check is not defined under extensions",
    "connectors: {forward: {}}\nexporters: {nop: }\nreceivers: {otlp: }\nservice: {pipelines: {traces: {receivers: [otlp], "
    "exporters: [forward]}}}": "no pipeline has it as its receiver",
    "connectors: {signal_to_metrics: {spans: [{name: tierwise.call}]}}": "tierwise has no such metric",
    "connectors: {signal_to_metrics: {spans: [{name: tierwise.calls, unit: '1'}]}}": "unit '1'; tierwise's is '{call}'",
    "connectors: {signal_to_metrics: {spans: [{name: tierwise.call.duration, unit: s, histogram: {buckets: [1]}}]}}":
        "its buckets are not tierwise's",
    "connectors: {signal_to_metrics: {spans: [{name: tierwise.calls, unit: '{call}', attributes: [{key: task}]}]}}":
        "tierwise has no attribute 'task'",
}  # fmt: skip


_DURATION = "{name: tierwise.call.duration, unit: s, histogram: {buckets: [1]}, attributes: [task]}"
MISSHAPEN = {
    "service: []": "service: expected a map",
    "service: {extensions: 5}": "service: extensions: expected a list of names",
    "service: {extensions: [[a]]}": "service: extensions: expected a list of names",
    "service: {pipelines: {traces: 5}}": "service: pipelines: traces: expected a map",
    "service: {pipelines: {traces: {receivers: [[a]]}}}": "service: pipelines: traces: receivers: expected a list of names",
    "receivers: {otlp: {protocols: [grpc]}}": "receivers: otlp: protocols: expected a map",
    "connectors: {1: {}}": "no connector of type '1'",
    "connectors: {signal_to_metrics: {spans: 5}}": "connectors: signal_to_metrics: spans: expected a list of maps",
    "connectors: {signal_to_metrics: {spans: [foo]}}": "connectors: signal_to_metrics: spans: expected a list of maps",
    "connectors: {signal_to_metrics: {spans: [{name: tierwise.call.duration, unit: s, histogram: 5}]}}":
        "tierwise.call.duration: histogram: expected a map",
    f"connectors: {{signal_to_metrics: {{spans: [{_DURATION}]}}}}":
        "tierwise.call.duration: attributes: expected a list of maps",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), (BROKEN | MISSHAPEN).items())
def test_check_says_what_is_wrong(text: str, message: str) -> None:
    """A broken configuration exits 1 (2 when it is no configuration at all) and the message says where and what."""
    Path("broken.yaml").write_text(text)
    done = tierwise("collector", "check", "broken.yaml")
    assert done.exit_code in (1, 2)
    assert message in done.stdout + done.stderr


def test_check_warns_of_open_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that others reach without a token or TLS is a warning, with the variables set as they are now."""
    monkeypatch.setenv("TIERWISE_COLLECTOR_HTTP", "0.0.0.0:4318")
    file = str(COLLECTOR / "config.yaml")
    warnings = json.loads(tierwise("collector", "check", file, "--json").stdout)["warnings"]
    assert [warning.partition(";")[0] for warning in warnings] == [
        "receivers: otlp: http: 0.0.0.0:4318 is open to whoever reaches it",
        "receivers: otlp: http: 0.0.0.0:4318 without TLS sends tokens in the clear",
    ]
    monkeypatch.setenv("TIERWISE_COLLECTOR_AUTH", "true")
    monkeypatch.setenv("TIERWISE_COLLECTOR_TLS", "true")
    assert json.loads(tierwise("collector", "check", file, "--json").stdout)["warnings"] == []


def test_check_asks_the_collector_where_there_is_one(tmp_path: Path) -> None:
    """The program on PATH, or the named one, validates as well; what it says is part of the findings."""
    program = tmp_path / "otelcol-contrib"
    program.write_text('#!/bin/sh\n/bin/echo "Error: $1 $2 is bad" >&2\nexit 1\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    file = str(COLLECTOR / "config.yaml")
    done = tierwise("collector", "check", file, "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (report["otelcol"], report["errors"]) == (str(program), [f"validate --config={file} is bad"])
    missing = tierwise("collector", "check", file, "--otelcol", "nowhere")
    assert (missing.exit_code, "no such program" in missing.stderr) == (2, True)


def test_compose_file_holds_its_schema() -> None:
    """The Compose file is valid, publishes on loopback only and starts Prometheus with the flags that were tested."""
    schema = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    compose = _load(COLLECTOR / "compose.yaml")
    assert not list(jsonschema_rs.validator_for(json.loads(schema.read_text())).iter_errors(compose))
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    wanted = {flag for flag in PROMETHEUS_FLAGS if "remote-write" not in flag}
    assert wanted <= set(compose["services"]["prometheus"]["command"])
    for file in (COLLECTOR / "grafana").rglob("*.yaml"):
        assert _load(file)["apiVersion"] == 1


def test_kubernetes_manifests_hold_their_schema() -> None:
    """Every manifest is valid by the models of the Kubernetes client, unknown fields included, and none runs as root."""
    validator = jsonschema_rs.validator_for(json.loads((COLLECTOR / "kubernetes" / "schema.json").read_text()))
    text = (COLLECTOR / "kubernetes" / "collector.yaml").read_text("utf-8")
    manifests = list(YAML(typ="safe", pure=True).load_all(text))
    assert [error.message for manifest in manifests for error in validator.iter_errors(manifest)] == []
    assert not validator.is_valid({**manifests[0], "spec": {"port": []}})
    (stateful,) = (one for one in manifests if one["kind"] == "StatefulSet")
    pod = stateful["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    environment = {one["name"] for one in pod["containers"][0]["env"] if one["name"].startswith("TIERWISE_")}
    config = (COLLECTOR / "config-durable.yaml").read_text("utf-8")
    assert all(f"${{env:{name}" in config for name in environment)


def test_check_prints_names_that_cannot_drive_a_terminal() -> None:
    """Control characters in a configuration's names are shown, not sent to the terminal."""
    Path("broken.yaml").write_text('receivers: {"ot\\e]0;x\\alp": {}}\n')
    done = tierwise("collector", "check", "broken.yaml")
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert r"ot\x1b]0;x\x07lp" in done.output

"""The rules that tierwise brings for Prometheus and vmalert: tested by promtool, current, with names that are emitted."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from support import engines, recorded
from support.stack import Binaries
from tierwise.core.evidence import HOUR_S
from tierwise.evidence.prometheus import SETTLE_S, PrometheusSource
from tierwise.evidence.prometheus_http import Access
from tierwise.evidence.prometheus_names import Instrument, escaped, metric_name
from tierwise.surfaces.cli.source import names
from tierwise.telemetry import semconv

pytestmark = pytest.mark.stack
FOLDER = engines.SHIPPED


def test_promtool_accepts_the_configuration_and_every_rule(stack_binaries: Binaries) -> None:
    """`promtool check config`, rule files included."""
    ran = subprocess.run(
        [stack_binaries.promtool, "check", "config", "prometheus.yml"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("rules found") == 2


def test_promtool_passes_the_unit_tests_of_every_rule(stack_binaries: Binaries) -> None:
    """Each recording rule and each alert has at least one test, and all pass."""
    folder = FOLDER / "tests"
    files = sorted(path.name for path in folder.glob("*.yml"))
    ran = subprocess.run(
        [stack_binaries.promtool, "test", "rules", *files], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = "".join((folder / name).read_text("utf-8") for name in files)
    for path in (FOLDER / "rules").glob("*.yml"):
        for group in YAML(typ="safe").load(path)["groups"]:
            for rule in group["rules"]:
                assert re.search(rf"\b{rule.get('record') or rule['alert']}\b", told), rule


def test_the_recording_rules_are_current() -> None:
    """What `make_rules.py` writes is what lies there."""
    ran = subprocess.run(
        [sys.executable, FOLDER / "make_rules.py", "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_rules_name_nothing_that_is_not_emitted() -> None:
    """Every metric and every attribute of ours in a rule is one of the semantic conventions'."""
    metrics = {metric_name(Instrument(name=one.name, kind=one.kind, unit=one.unit)) for one in semconv.METRICS.values()}
    allowed = {name + part for name in metrics for part in ("", "_bucket", "_sum", "_count")}
    allowed |= {escaped(name) for name in semconv.ATTRIBUTES}
    for path in (*FOLDER.glob("rules/*.yml"), *FOLDER.glob("vmalert/*.yml")):
        for group in YAML(typ="safe").load(path)["groups"]:
            for rule in group["rules"]:
                found = set(re.findall(r"(?<![:\w])tierwise_\w+(?![:\w])", rule["expr"]))
                assert found <= allowed, (rule, found - allowed)


@pytest.mark.parametrize("which", ["prometheus", "victoriametrics"])
def test_a_recorded_history_is_read_in_few_requests_of_bounded_size(
    stack_binaries: Binaries, tmp_path: Path, which: str
) -> None:
    """Two days of twenty tasks on five models: every row comes, and the number of requests does not grow with them."""
    end = (int(time.time()) - SETTLE_S) // HOUR_S * HOUR_S
    start = (
        engines.prometheus(stack_binaries.prometheus, tmp_path / which)
        if which == "prometheus"
        else engines.victoria(stack_binaries.victoria_metrics, tmp_path / which)
    )
    with start as engine:
        recorded.fill(engine, end=end, hours=48, tasks=20, models=5)
        with PrometheusSource(Access(url=engine.url), names()) as source:
            found = list(source.evidence_by_task(end - 48 * HOUR_S, end))
    assert [one.task for one in found] == [f"task-{number:03d}" for number in range(20)]
    for one in found:
        assert len(one.series) == 5
        for series in one.series.values():
            assert series.column("n") == [20] * 48
            assert sum(sum(series.column(f"latency.{index}")) for index in range(33)) == 20 * 48
    assert source.http.requests <= 16
    assert source.notes[0] == "48 hour(s) from recording rules, 0 from the counters themselves"

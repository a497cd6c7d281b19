"""The committed dashboards, their queries, and what their names may be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tierwise.evidence.prometheus_names import Instrument, escaped, metric_name
from tierwise.telemetry import semconv

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "dashboards"
NAMES = ("overview", "task", "routing", "telemetry-health")
COLLECTOR_LABELS = frozenset({"__name__", "exporter", "instance"})

_VALUES = re.compile(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)")
_METRIC = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?=[{\[])")
_MATCHERS = re.compile(r"\{([^{}]*)\}")
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)\s*"[^"]*"\s*')
_GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^()]*)\)")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One expression of a dashboard: where it stands, what shows it, and how it is asked."""

    dashboard: str
    place: str
    expr: str
    kind: str
    """`range`, `instant`, `annotation` or `variable`."""
    legend: str = ""


def load(name: str) -> dict[str, Any]:
    """A committed dashboard."""
    return dict(json.loads((FOLDER / f"{name}.json").read_text("utf-8")))


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its panels without the headings of sections."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(name: str) -> Iterator[Query]:
    """Every expression of a dashboard: of panels, annotations and variables."""
    whole = load(name)
    for panel in panels(whole):
        for target in panel["targets"]:
            yield Query(
                dashboard=name,
                place=f"{panel['title']} {target['refId']}",
                expr=target["expr"],
                kind="instant" if target.get("instant") else "range",
                legend=target.get("legendFormat", ""),
            )
    for annotation in whole["annotations"]["list"]:
        yield Query(
            dashboard=name, place=annotation["name"], expr=annotation["expr"], kind="annotation",
            legend=annotation["textFormat"],
        )  # fmt: skip
    for variable in whole["templating"]["list"]:
        if variable["type"] == "query":
            yield Query(dashboard=name, place=variable["name"], expr=variable["query"]["query"], kind="variable")


def filled(expr: str, values: Mapping[str, str]) -> str:
    """An expression as Grafana sends it; whatever is left of a variable is an error."""
    for name, value in values.items():
        expr = expr.replace(f"${name}", value)
    if "$" in expr.replace('$"', ""):
        raise AssertionError(f"a variable without a value in {expr}")
    return expr


def metrics_in(expr: str) -> set[str]:
    """The metrics that an expression names before a selector or a window."""
    values = _VALUES.match(expr)
    return {values[1]} if values else set(_METRIC.findall(re.sub(r'"[^"]*"', '""', expr)))


def labels_in(expr: str) -> set[str]:
    """The labels that an expression selects, groups or joins by."""
    values = _VALUES.match(expr)
    found = {values[2]} if values else set()
    for inside in _MATCHERS.findall(expr):
        rest = inside
        while rest.strip():
            match = _MATCHER.match(rest)
            if match is None:
                raise AssertionError(f"no matcher: {rest!r} in {expr}")
            found.add(match[1])
            rest = rest[match.end() :].removeprefix(",")
    for inside in _GROUPING.findall(expr):
        found |= {label.strip() for label in inside.split(",") if label.strip()}
    return found


def known_metrics() -> set[str]:
    """What `telemetry/semconv.py` names, as Prometheus has it; histograms in both kinds."""
    names = {
        metric_name(Instrument(name=metric.name, kind=metric.kind, unit=metric.unit)): metric.kind
        for metric in semconv.METRICS.values()
    }
    return set(names) | {f"{name}_bucket" for name, kind in names.items() if kind == "histogram"}


def known_labels() -> set[str]:
    """Labels of our attributes and of the resource attributes that the shipped Prometheus promotes."""
    settings = YAML(typ="safe").load(ROOT / "collector" / "prometheus" / "prometheus.yml")
    promoted = settings["otlp"]["promote_resource_attributes"]
    return {escaped(name) for name in (*semconv.ATTRIBUTES, *promoted)} | {"le"}

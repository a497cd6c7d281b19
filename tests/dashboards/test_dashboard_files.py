"""The committed dashboards: current, whole, readable, and naming nothing that tierwise does not emit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.models import dashboard as models
from ruamel.yaml import YAML

from support.dashboards import (
    COLLECTOR_LABELS,
    FOLDER,
    NAMES,
    ROOT,
    known_labels,
    known_metrics,
    labels_in,
    load,
    metrics_in,
    panels,
    queries,
)

each = pytest.mark.parametrize("name", NAMES)
FIRST_SCREEN = 18
"""Grid units of 38 pixels that a laptop of 1440 × 900 shows below Grafana's and the browser's bars."""
COLLECTOR = re.compile(r'__name__=~"(otelcol_[^"]*|tierwise_\.\*\|gen_ai_\.\*)"')


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _walk(inner, f"{path}/{key}")


def test_the_files_are_current() -> None:
    """What is committed is what the generator writes from `telemetry/semconv.py` today, and there is nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "dashboards", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.stem for path in FOLDER.rglob("*.json")} == set(NAMES)


@each
def test_every_name_is_one_that_tierwise_emits(name: str) -> None:
    """Metrics and labels of every expression stand in the table of names; the Collector's own go by pattern."""
    metrics, labels = known_metrics(), known_labels()
    for query in queries(name):
        patterns = COLLECTOR.findall(query.expr)
        used = labels_in(query.expr)
        assert metrics_in(query.expr) <= metrics, query
        assert metrics_in(query.expr) or patterns, query
        assert used - labels <= (COLLECTOR_LABELS if patterns else set()), query


@each
def test_legends_and_links_name_labels_that_the_result_has(name: str) -> None:
    """A label in a legend, an annotation's text, a column's name or a link is one that the expression groups by."""
    for query in queries(name):
        wanted = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        kept = {label.strip() for group in re.findall(r"by \(([^()]*)\)", query.expr) for label in group.split(",")}
        assert wanted <= kept, query
    for panel in panels(load(name)):
        grouped = set().union(*(labels_in(target["expr"]) for target in panel["targets"]))
        text = str(panel["fieldConfig"])
        assert set(re.findall(r"__field\.labels\.(\w+)", text)) <= grouped, panel["title"]
        for step in panel["transformations"]:
            shown = set(step["options"].get("renameByName", {}))
            assert {one for one in shown if not one.startswith("Value")} <= grouped, panel["title"]


@each
def test_counters_are_read_through_ranges(name: str) -> None:
    """A pushed series is gone from an instant query after five minutes, so nothing of ours is read without a window."""
    for query in queries(name):
        if query.kind == "variable":
            continue
        bare = re.sub(r"\{[^{}]*\}", "", query.expr)
        for metric in metrics_in(query.expr):
            assert not re.search(rf"\b{metric}\b(?!\[)", bare), (query.place, metric)


@each
def test_windows_of_lines_follow_the_zoom(name: str) -> None:
    """Rates use `$__rate_interval`, numbers over the time shown `$__range`."""
    for query in queries(name):
        if query.kind == "range":
            assert "$__range" not in query.expr or "histogram" not in query.expr, query
            assert not re.search(r"\brate\([^][]*\[(?!\$__rate_interval\])", query.expr), query
        if query.kind == "instant":
            assert "$__rate_interval" not in query.expr, query


def test_identities_are_unique() -> None:
    """Each dashboard has a uid and a title of its own, each panel an id, each query of a panel a letter."""
    wholes = [load(name) for name in NAMES]
    for key in ("uid", "title"):
        assert len({whole[key] for whole in wholes}) == len(NAMES)
    for whole in wholes:
        ids = [panel["id"] for panel in whole["panels"]]
        assert len(set(ids)) == len(ids)
        assert all(isinstance(one, int) and one > 0 for one in ids)
        titles = [panel["title"] for panel in panels(whole)]
        assert len(set(titles)) == len(titles)
        for panel in panels(whole):
            letters = [target["refId"] for target in panel["targets"]]
            assert letters == sorted(set(letters))
            assert all(letters)


@each
def test_every_panel_says_what_it_shows(name: str) -> None:
    """Title, description, unit, thresholds and data source are set on every panel, units on every column."""
    for panel in panels(load(name)):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert re.fullmatch(r"[A-Z$].{10,}\.", panel["description"]), panel["title"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        if panel["type"] == "table":
            named = {
                override["matcher"]["options"]
                for override in panel["fieldConfig"]["overrides"]
                if any(one["id"] == "unit" for one in override["properties"])
            }
            shown = panel["transformations"][-1]["options"]["renameByName"]
            assert {title for field, title in shown.items() if field.startswith("Value")} == named, panel["title"]


@each
def test_panels_fill_the_grid_without_overlap(name: str) -> None:
    """Every cell of the grid belongs to exactly one panel, so there are neither overlaps nor holes."""
    cells = []
    for panel in load(name)["panels"]:
        place = panel["gridPos"]
        cells += [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
    height = max(y for _, y in cells) + 1
    assert sorted(cells) == [(x, y) for x in range(24) for y in range(height)]


@each
def test_the_first_screen_of_a_laptop_is_readable(name: str) -> None:
    """At most twelve panels begin on the first screen, and none is so small that it cannot be read."""
    first = [panel for panel in panels(load(name)) if panel["gridPos"]["y"] < FIRST_SCREEN]
    assert len(first) <= 12
    least = {"stat": (4, 4), "timeseries": (6, 6), "table": (8, 7)}
    for panel in panels(load(name)):
        width, height = least[panel["type"]]
        assert panel["gridPos"]["w"] >= width
        assert panel["gridPos"]["h"] >= height


@each
def test_dashboards_lead_to_each_other_and_keep_the_variables(name: str) -> None:
    """Each has the five variables in order, every one narrowed by those before, and links that keep them and the time."""
    whole = load(name)
    names = [variable["name"] for variable in whole["templating"]["list"]]
    assert names == ["datasource", "environment", "service", "task", "model"]
    for place, variable in enumerate(whole["templating"]["list"][1:], 1):
        assert set(re.findall(r"\$(\w+)", variable["query"]["query"])) == set(names[1:place])
    [link] = whole["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
        "dashboards",
        ["tierwise"],
        True,
        True,
    )
    assert "tierwise" in whole["tags"]
    uids = {load(other)["uid"] for other in NAMES}
    for _, value in _walk(whole):
        if isinstance(value, str) and value.startswith("/d/"):
            assert re.fullmatch(r"/d/([\w-]+)\?.*", value)[1] in uids  # type: ignore[index]
            assert "${__url_time_range}&${datasource:queryparam}&${environment:queryparam}" in value


def test_traces_are_a_click_away() -> None:
    """Latency panels ask for exemplars."""
    asked = {
        panel["title"]
        for name in NAMES
        for panel in panels(load(name))
        if any(target.get("exemplar") for target in panel["targets"])
    }
    assert asked == {"Latency p95 by model", "Latency p50 and p95", "Time to first chunk p50 and p95"}


@each
def test_the_json_is_what_the_schema_knows(name: str) -> None:
    """Nothing is null but the lowest threshold, nothing is left from the generator, and Grafana's model reads it whole."""
    whole = load(name)
    for path, value in _walk(whole):
        assert value is not None or re.search(r"steps/0/value$", path), path
        assert not re.search(r"/(auto|auto_count|auto_min|style)$", path), path
    read = models.Dashboard.from_json(whole)
    assert (read.uid, read.title) == (whole["uid"], whole["title"])
    assert read.panels is not None
    assert len(read.panels) == len(whole["panels"])
    for panel, wanted in zip(read.panels, whole["panels"], strict=True):
        assert panel.title == wanted["title"]
        unknown = set(wanted) - set(panel.to_json()) - {"maxPerRow", "collapsed", "panels"}
        assert unknown == set(), wanted["title"]


def test_a_single_task_is_matched_as_it_is_written() -> None:
    """Grafana escapes for regular expressions where several values can be chosen, and only there."""
    for name in NAMES:
        several = {variable["name"]: variable.get("multi", False) for variable in load(name)["templating"]["list"]}
        for query in queries(name):
            for operator, variable in re.findall(r'(=~|=)"\$(\w+)"', query.expr):
                assert operator == ("=~" if several[variable] else "="), (name, query.place)


def test_the_datasource_of_the_compose_file_is_one_that_the_variable_finds() -> None:
    """The provisioned data source has the type that the variable lists, and the folder has nothing but dashboards to find."""
    place = ROOT / "collector" / "grafana" / "provisioning" / "datasources" / "tierwise.yaml"
    kinds = {one["type"] for one in YAML(typ="safe").load(place)["datasources"]}
    for name in NAMES:
        assert load(name)["templating"]["list"][0]["query"] in kinds

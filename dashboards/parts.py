"""Panels, variables, annotations and links that the dashboards share, and their JSON as Grafana's schema wants it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards import names as n
from dashboards import promql as q
from tierwise.core.records import dataclass
from tierwise.telemetry import semconv as sc

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG: Final = "tierwise"
KEPT: Final = "${__url_time_range}&${datasource:queryparam}&${environment:queryparam}&${service:queryparam}"
"""What a link to another dashboard takes along besides the task."""
STEP: Final = "1m"
"""Processes export once a minute: a shorter step would show nothing between two exports."""
USD: Final = "currencyUSD"
RATIO: Final = "percentunit"
SECONDS: Final = "s"
NUMBER: Final = "short"
GREEN: Final = "green"
YELLOW: Final = "yellow"
RED: Final = "red"
OUTCOME_COLOURS: Final = {
    "success": "green", "truncated": "orange", "empty": "purple", "error": "red", "refused": "yellow",
    "filtered": "dark-yellow", "json_fenced": "light-blue", "json_mismatch": "blue", "json_invalid": "dark-blue",
    "tool_arguments_invalid": "super-light-purple", "check_failed": "light-orange", "cancelled": "text",
    "rejected": "light-red",
}  # fmt: skip
"""The same colour for the same outcome everywhere."""
FORM_COLOURS: Final = {
    "plain": "green",
    "fenced": "light-blue",
    "embedded": "yellow",
    "mismatch": "orange",
    "invalid": "red",
}

AnyPanel = timeseries.Panel | stat.Panel | table.Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One query of a time series panel; `exemplar` asks for the traces behind the points."""

    expr: str
    legend: str
    exemplar: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of numbers in a table, `steps` as for `thresholds`."""

    title: str
    expr: str
    unit: str
    decimals: int | None = None
    steps: tuple[tuple[float | None, str], ...] = ()
    width: int | None = None


def steps(*pairs: tuple[float | None, str]) -> build.ThresholdsConfig:
    """Colours from values on; the first value is `None`, for everything below."""
    return (
        build.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=colour) for value, colour in pairs])
    )


PLAIN: Final = ((None, "blue"),)
LOW_IS_BAD: Final = ((None, RED), (0.9, YELLOW), (0.95, GREEN))
ANY_IS_BAD: Final = ((None, GREEN), (1.0, RED))


def one_number(
    title: str, description: str, unit: str, expr: str, *, decimals: int | None = None,
    colours: Sequence[tuple[float | None, str]] = PLAIN,
) -> stat.Panel:  # fmt: skip
    """One number over the time shown."""
    panel = (
        stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).thresholds(steps(*colours))
        .no_value("none").color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(expr, "A").instant())
    )  # fmt: skip
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    title: str, description: str, unit: str, *wanted: Line, stacked: bool = False, least: float | None = 0,
    most: float | None = None, limit: float | None = None, task_link: bool = False,
    colours: dict[str, str] | None = None,
) -> timeseries.Panel:  # fmt: skip
    """Numbers over time; `limit` draws a line. `stacked` fills and adds up."""
    panel = (
        timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).line_width(1)
        .fill_opacity(25 if stacked else 0).show_points(common.VisibilityMode.AUTO).span_nulls(300_000)
        .legend(
            common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM).show_legend(True).calcs([])
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )  # fmt: skip
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    if limit is None:
        panel.thresholds(steps(*PLAIN))
    else:
        panel.thresholds(steps((None, "transparent"), (limit, RED)))
        panel.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED))
    for place, line in enumerate(wanted):
        target = _target(line.expr, chr(65 + place)).range().legend_format(line.legend).interval(STEP)
        panel.with_target(target.exemplar(True) if line.exemplar else target)
        if line.dashed:
            style = {"fill": "dash", "dash": [6, 6]}
            panel.override_by_query(
                chr(65 + place), [models.DynamicConfigValue(id_val="custom.lineStyle", value=style)]
            )
    for name, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_name(name, [models.DynamicConfigValue(id_val="color", value=fixed)])
    if task_link:
        panel.data_links([_task_link(f"${{__field.labels.{n.TASK}:percentencode}}")])
    return panel


def grid(
    title: str, description: str, labels: dict[str, str], columns: Sequence[Column], *, unit: str = NUMBER,
    sort_by: str, descending: bool = True, task_links: bool = True,
) -> table.Panel:  # fmt: skip
    """A table: a row for each combination of labels, a column for each number. `labels` says how each label is shown."""
    panel = (
        table.Panel().title(title).description(description).datasource(SOURCE).unit(unit).thresholds(steps(*PLAIN))
        .no_value("-").sort_by([common_builders.TableSortByFieldState().display_name(sort_by).desc(descending)])
    )  # fmt: skip
    shown = dict(labels)
    for place, column in enumerate(columns):
        ref = chr(65 + place)
        panel.with_target(_target(column.expr, ref).instant().format(PromQueryFormat.TABLE))
        shown[f"Value #{ref}" if len(columns) > 1 else "Value"] = column.title
        panel.override_by_name(column.title, _column_options(column))
    if task_links and n.TASK in labels:
        link = {"title": "Task", "url": _task_url("${__value.raw:percentencode}"), "targetBlank": False}
        panel.override_by_name(labels[n.TASK], [models.DynamicConfigValue(id_val="links", value=[link])])
    if len(columns) > 1:
        panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    order = {name: place for place, name in enumerate(shown)}
    options = {"excludeByName": {"Time": True}, "renameByName": shown, "indexByName": order}
    panel.with_transformation(models.DataTransformerConfig(id_val="organize", options=options))
    return panel


def _column_options(column: Column) -> list[models.DynamicConfigValue]:
    options: list[tuple[str, Any]] = [("unit", column.unit)]
    if column.decimals is not None:
        options.append(("decimals", column.decimals))
    if column.width is not None:
        options.append(("custom.width", column.width))
    if column.steps:
        colours = [{"value": value, "color": colour} for value, colour in column.steps]
        options.append(("thresholds", {"mode": "absolute", "steps": colours}))
        options.append(("custom.cellOptions", {"type": "color-text"}))
    return [models.DynamicConfigValue(id_val=name, value=value) for name, value in options]


def _target(expr: str, ref: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expr).ref_id(ref)


def _task_url(task: str) -> str:
    return f"/d/tierwise-task?{KEPT}&var-task={task}"


def _task_link(task: str) -> build.DashboardLink:
    return build.DashboardLink("Task").url(_task_url(task))


# --- variables, links, annotations -----------------------------------------------------------------------------------


def _values(name: str, shown: str, label: str, *where: str, several: bool = True) -> build.QueryVariable:
    query = f"label_values({q.series(sc.CALLS, *where)}, {label})"
    variable = (
        build.QueryVariable(name).label(shown).datasource(SOURCE)
        .query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    )  # fmt: skip
    if several:
        everything = models.VariableOption(selected=True, text="All", value="$__all")
        variable.multi(True).include_all(True).all_value(".*").current(everything)
    return variable


def variables(*, one_task: bool = False) -> list[Builder[models.VariableModel]]:
    """Data source, environment, service, task, model: each narrows the next. `one_task`: no more than one at a time."""
    return [
        build.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _values("environment", "Environment", n.ENVIRONMENT),
        _values("service", "Service", n.SERVICE, q.PROCESS[0]),
        _values("task", "Task", n.TASK, *q.PROCESS, several=not one_task),
        _values("model", "Model", n.MODEL, *q.WORK),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An annotation: what to mark, its text and colour."""

    name: str
    expr: str
    text: str
    colour: str


MARKS: Final = (
    Mark(
        name="Decisions",
        expr=q.first_told(sc.DECISION_INFO, f'{n.VERDICT}!~"KEEP|INSUFFICIENT"', by=(n.TASK, n.VERDICT, n.CHALLENGER)),
        text=f"{{{{{n.TASK}}}}}: {{{{{n.VERDICT}}}}} {{{{{n.CHALLENGER}}}}}",
        colour="purple",
    ),
    Mark(
        name="Route changes",
        expr=q.first_told(sc.ROUTE_INFO, f'{n.ROLE}=~"primary|canary"', by=(n.TASK, n.ROLE, n.MODEL)),
        text=f"{{{{{n.TASK}}}}}: {{{{{n.ROLE}}}}} {{{{{n.MODEL}}}}}",
        colour="blue",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels beside each other: their height in units of 38 pixels, their widths in 24ths (none given: even)."""

    height: int
    panels: Sequence[AnyPanel]
    widths: tuple[int, ...] = ()


def dashboard_json(
    uid: str, title: str, description: str, sections: Sequence[tuple[str, Sequence[Row]]], *,
    one_task: bool = False, repeated: dict[str, str] | None = None,
) -> str:  # fmt: skip
    """A dashboard as JSON text. A section is a title (empty: no heading) and its rows. `repeated`: panel title -> the
    variable over whose values it is repeated."""
    made = (
        build.Dashboard(title).uid(uid).description(description).tags([TAG]).time("now-24h", "now").refresh("1m")
        .timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR).editable()
        .link(
            build.DashboardLink("tierwise").type(models.DashboardLinkType.DASHBOARDS).tags([TAG]).include_vars(True)
            .keep_time(True).as_dropdown(False).icon("external link").tooltip("The other dashboards, same variables")
        )
    )  # fmt: skip
    for variable in variables(one_task=one_task):
        made.with_variable(variable)
    for mark in MARKS:
        made.annotation(
            build.AnnotationQuery().name(mark.name).datasource(SOURCE).expr(mark.expr).icon_color(mark.colour)
        )
    top = 0
    for heading, rows in sections:
        if heading:
            made.with_row(build.Row(heading).grid_pos(models.GridPos(h=1, w=24, x=0, y=top)))
            top += 1
        for row in rows:
            left = 0
            for panel, width in zip(row.panels, _widths(row), strict=True):
                made.with_panel(panel.grid_pos(models.GridPos(h=row.height, w=width, x=left, y=top)))
                left += width
            top += row.height
    text = JSONEncoder(sort_keys=True).encode(made.build())
    if one_task:
        # Grafana escapes a value for a regular expression only where several can be chosen.
        text = text.replace(f'{n.TASK}=~\\"$task\\"', f'{n.TASK}=\\"$task\\"')
    whole = json.loads(text)
    _tidy(whole, repeated or {})
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _widths(row: Row) -> tuple[int, ...]:
    widths = row.widths or (24 // len(row.panels),) * len(row.panels)
    if sum(widths) != 24 or len(widths) != len(row.panels):
        raise ValueError(f"{len(row.panels)} panels with the widths {widths}: they must fill 24 columns")
    return widths


def _tidy(whole: dict[str, Any], repeated: dict[str, str]) -> None:
    """Set what the SDK's builders cannot, and take out what it writes though the schema does not have it."""
    del whole["style"]
    for number, panel in enumerate(whole["panels"], 1):
        panel["id"] = number
        panel.pop("repeatDirection", None)
        if panel["type"] == "row":
            continue
        panel["options"] = panel.get("options") or {}
        panel["options"].pop("footer", None)
        if panel["title"] in repeated:
            panel |= {"repeat": repeated[panel["title"]], "repeatDirection": "h", "maxPerRow": 3}
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if "links" in defaults:
            defaults["links"] = [
                {"title": link["title"], "url": link["url"], "targetBlank": False} for link in defaults["links"]
            ]
    for variable in whole["templating"]["list"]:
        for name in ("auto", "auto_count", "auto_min", "id"):
            variable.pop(name, None)
    for annotation, mark in zip(whole["annotations"]["list"], MARKS, strict=True):
        annotation |= {"step": "60s", "titleFormat": mark.name, "textFormat": mark.text, "tagKeys": n.TASK}

"""How panels and dashboards look: each function here makes one kind of panel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    statushistory,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shape
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model
from grafana_foundation_sdk.models import text as text_model

TAG = "wine-drift"
SOURCE = shape.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREY = "#8e8e8e"
COLORS = {
    **{"ok": "green", "warn": "yellow", "minor": "light-orange", "drift": "orange"},
    **{"major": "red", "drop": "red", "keep": "green", "hold": "yellow", "retrain": "purple"},
    **{"no": "transparent", "yes": "orange", "up": "green", "down": "red"},
    **{"failed": "red", "firing": "red"},
}
# How a line is drawn, by what it is.
LINES: dict[str, dict[str, Any]] = {
    "main": {"color": "blue", "custom.lineWidth": 2},
    "second": {"color": "purple"},
    "reference": {"color": GREY},
    "total": {"color": GREY, "custom.stacking": {"mode": "none"}, "custom.fillOpacity": 0},
    "threshold": {"color": "red", "custom.lineStyle": {"fill": "dash", "dash": [10, 10]}},
    "major": {"color": "dark-red", "custom.lineStyle": {"fill": "dash", "dash": [4, 6]}},
    "lower": {"color": "light-blue", "custom.lineWidth": 0},
    "upper": {"color": "light-blue", "custom.lineWidth": 0, "custom.fillOpacity": 18},
    "reference lower": {"color": GREY, "custom.lineWidth": 0},
    "reference upper": {"color": GREY, "custom.lineWidth": 0, "custom.fillOpacity": 18},
}
Levels = Mapping[str, int]
Limits = tuple[tuple[float | None, str], ...]


@dataclass(frozen=True)
class Query:
    """One query of a panel, what to call its series, and how to draw them."""

    expr: str
    legend: str = ""
    line: str = ""  # of LINES
    levels: Levels | None = None  # names for its values, where they differ from the panel's


def number(
    title: str,
    about: str,
    *queries: Query,
    unit: str = "none",
    width: int = 4,
    height: int = 4,
    levels: Levels | None = None,
    limits: Limits = ((None, "text"),),
    decimals: int | None = None,
    by_name: bool = False,
    none: str = "no data",
) -> Any:
    """Make a panel of large numbers: of names of their levels, or `by_name` of the series."""
    panel = _panel(stat.Panel(), title, about, unit, width, height, none).thresholds(
        _colors(limits)
    )
    panel = panel.graph_mode(shape.BigValueGraphMode.NONE).reduce_options(_last())
    if levels:
        panel = panel.mappings(_names(levels)).color_mode(shape.BigValueColorMode.BACKGROUND)
    if by_name:
        panel = panel.text_mode(shape.BigValueTextMode.NAME)
    if decimals is not None:
        panel = panel.decimals(decimals)
    return _asking(panel, queries, instant=True)


def graph(
    title: str,
    about: str,
    *queries: Query,
    unit: str = "none",
    width: int = 12,
    height: int = 8,
    scale: str = "linear",
    stacked: bool = False,
    none: str = "no data",
) -> Any:
    """Make a panel of lines over time, in steps: a value holds until the next batch."""
    panel = _panel(timeseries.Panel(), title, about, unit, width, height, none)
    panel = (
        panel.line_interpolation(shape.LineInterpolation.STEP_AFTER)
        .show_points(shape.VisibilityMode.NEVER)
        .fill_opacity(30 if stacked else 0)
        .tooltip(common.VizTooltipOptions().mode(shape.TooltipDisplayMode.MULTI))
        .legend(_legend(True))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shape.StackingMode.NORMAL))
    if scale != "linear":
        axis = common.ScaleDistributionConfig().type(shape.ScaleDistribution(scale)).log(10)
        panel = panel.scale_distribution(axis.linear_threshold(1) if scale == "symlog" else axis)
    for query in queries:
        if query.line:
            style = dict(LINES[query.line])
            style["color"] = {"mode": "fixed", "fixedColor": style["color"]}
            if query.line.endswith("upper"):  # the band reaches down to the lower limit
                lower = query.line.replace("upper", "lower")
                style["custom.fillBelowTo"] = next(q.legend for q in queries if q.line == lower)
            panel = panel.override_by_name(query.legend, _properties(style))
    return _asking(panel, queries)


def timeline(
    title: str,
    about: str,
    levels: Levels,
    *queries: Query,
    width: int = 12,
    height: int = 8,
    none: str = "no data",
) -> Any:
    """Make a panel of states over time, a row for each series."""
    panel = _panel(statetimeline.Panel(), title, about, "none", width, height, none)
    panel = (
        panel.interval("5m")  # samples that were filled in later are four minutes apart
        .mappings(_names(levels))
        .merge_values(True)
        .row_height(0.85)
        .fill_opacity(80)
        .line_width(0)
        .legend(_legend(False))
    )
    for query in queries:
        if query.levels:
            properties = _properties({"mappings": _names(query.levels)})
            panel = panel.override_by_name(query.legend, properties)
    return _asking(panel, queries)


def history(title: str, about: str, query: Query, *, limits: Limits, url: str, width: int) -> Any:
    """Make a picture of series by time, coloured by value; a click leads to the URL."""
    panel = _panel(statushistory.Panel(), title, about, "none", width, 11)
    panel = (
        panel.interval("5m")
        .max_data_points(150)  # more boxes than that cannot be told apart
        .decimals(2)
        .thresholds(_colors(limits))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .show_value(shape.VisibilityMode.NEVER)
        .fill_opacity(80)
        .line_width(0)
        .legend(_legend(False))
        .data_links([dashboard.DashboardLink("Look at ${__field.labels.feature}").url(url)])
    )
    return _asking(panel, [query])


def bars(title: str, about: str, query: Query, *, limits: Limits, url: str, width: int) -> Any:
    """Make bars of the last values, in the order of the answer; a click leads to the URL."""
    panel = _panel(bargauge.Panel(), title, about, "none", width, 11)
    panel = (
        panel.decimals(2)
        .min(0)
        .thresholds(_colors(limits))
        .orientation(shape.VizOrientation.HORIZONTAL)
        .display_mode(shape.BarGaugeDisplayMode.BASIC)
        .reduce_options(_last())
        .data_links([dashboard.DashboardLink("Look at ${__field.labels.feature}").url(url)])
    )
    return _asking(panel, [query], instant=True)


def listing(title: str, about: str, query: Query, columns: list[str], *, width: int) -> Any:
    """Make a table of labels of a query."""
    panel = _panel(table.Panel(), title, about, "none", width, 8, "none")
    only = {"include": {"names": columns}}
    panel = panel.with_transformation(
        model.DataTransformerConfig("filterFieldsByName", options=only)
    )
    return _asking(panel, [query], instant=True, shape=prometheus_model.PromQueryFormat.TABLE)


def note(title: str, content: str) -> Any:
    """Make a panel of text."""
    panel = text.Panel().title(title).span(24).height(3)
    return panel.mode(text_model.TextMode.MARKDOWN).content(content)


def variable(name: str, label: str, of: str) -> dashboard.QueryVariable:
    """Offer a choice among the values of a label."""
    chosen = dashboard.QueryVariable(name).label(label).datasource(SOURCE)
    chosen = chosen.query(f"label_values({of}, {name})").sort(model.VariableSort.ALPHABETICAL_ASC)
    return chosen.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)


def event(name: str, color: str, expr: str, *, title: str, about: str) -> dashboard.AnnotationQuery:
    """Mark the times at which a query has a value."""
    mark = dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color)
    mark = mark.target(prometheus.Dataquery().expr(expr).ref_id("Anno").interval("1m").range())
    return mark.title_format(title).text_format(about)


def board(
    uid: str,
    title: str,
    about: str,
    rows: Mapping[str, list[Any]],
    variables: list[dashboard.QueryVariable],
    events: list[dashboard.AnnotationQuery],
) -> str:
    """Put panels into rows, and around them what every dashboard has; the JSON of all that."""
    others = dashboard.DashboardLink("Wine drift").type(model.DashboardLinkType.DASHBOARDS)
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags([TAG])
        .timezone("utc")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-7d", "now")
        .refresh("1m")
        .link(others.tags([TAG]).as_dropdown(True).include_vars(True).keep_time(True))
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
    )
    for choice in variables:
        made = made.with_variable(choice)
    for mark in events:
        made = made.annotation(mark)
    for name, panels in rows.items():
        made = made.with_row(dashboard.Row(name))
        for panel in panels:
            made = made.with_panel(panel)
    built = made.build()
    for number_, panel in enumerate(built.panels or [], start=1):  # the library numbers none
        panel.id_val = number_
    shown = json.loads(JSONEncoder().encode(built), object_hook=_shown)
    return json.dumps(shown, sort_keys=True, indent=2) + "\n"


def _shown(part: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the library adds to links and annotations: it hides them in a menu."""
    return {k: v for k, v in part.items() if (k, v) != ("placement", "inControlsMenu")}


def _panel(
    panel: Any, title: str, about: str, unit: str, width: int, height: int, none: str = "no data"
) -> Any:
    panel = panel.title(title).description(about).unit(unit).no_value(none)
    return panel.span(width).height(height).datasource(SOURCE)


def _asking(
    panel: Any,
    queries: Any,
    *,
    instant: bool = False,
    shape: prometheus_model.PromQueryFormat = prometheus_model.PromQueryFormat.TIME_SERIES,
) -> Any:
    """Give a panel its queries A, B, C, ..."""
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).format(shape)
        target = target.expr(query.expr).legend_format(query.legend)
        panel = panel.with_target(target.instant() if instant else target.range())
    return panel


def _properties(values: Mapping[str, Any]) -> list[model.DynamicConfigValue]:
    return [model.DynamicConfigValue(key, value) for key, value in values.items()]


def _colors(limits: Limits) -> dashboard.ThresholdsConfig:
    """Each colour holds from its value on."""
    found = [model.Threshold(value=value, color=color) for value, color in limits]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def _names(levels: Levels) -> list[model.ValueMapping]:
    """Show names and colours in place of the numbers that stand for them."""
    options = {
        str(value): model.ValueMappingResult(
            text="–" if name == "no" else name, color=COLORS[name], index=value
        )
        for name, value in levels.items()
    }
    return [model.ValueMap(options=options)]


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _legend(show: bool) -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(shape.LegendDisplayMode.LIST).show_legend(show)
    return legend.placement(shape.LegendPlacement.BOTTOM).calcs([])

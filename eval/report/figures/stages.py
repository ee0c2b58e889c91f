"""Every condition, stage by stage: a line per condition over the stages."""

from typing import Any

from charprobe_lite.eval.report.figures import Figure, canvas, panels
from charprobe_lite.eval.report.figures.panels import Bar, Panels
from charprobe_lite.eval.report.study import ReportStudy


def numbers(study: ReportStudy) -> Panels[list[Bar]]:
    """The levels of all cells with a model."""
    return panels.levels(study, lambda cell: bool(cell.quant))


def draw(data: Panels[list[Bar]], theme: canvas.Theme) -> Any:
    """A line per condition over the stages; published levels are hollow and dashed."""
    all_series = panels.series_of(*data.panels.values())

    def draw_panel(axis: Any, title: str, bars: list[Bar]) -> None:
        groups, series = panels.groups_of(bars), panels.series_of(bars)
        for number, name in enumerate(series):
            line = [bar for bar in bars if bar.series == name]
            shift = 0.04 * (number - (len(series) - 1) / 2)
            x = [groups.index(bar.group) + shift for bar in line]
            look, label = canvas.look_of(name, all_series), canvas.one_line(name)
            canvas.draw_line(axis, x, [bar.level for bar in line], look, linewidth=2, label=label)
            by_classes: dict[int | None, list[tuple[float, float]]] = {}
            for place, bar in zip(x, line, strict=True):
                if bar.published:
                    by_classes.setdefault(bar.published_classes, []).append((place, bar.published))
            for classes, points in by_classes.items():
                hollow = {"markerfacecolor": theme.paper, "markersize": 6, "linestyle": "--"}
                style = {"color": look.colour, "marker": look.marker, **hollow}
                note = panels.published_label(label, classes, data.study)
                axis.plot(*zip(*points, strict=True), label=note, **style)
        axis.set_xticks(range(len(groups)), groups)
        axis.set_xlim(-0.35, len(groups) - 0.65)
        panels.level_axis(axis, title, data.study, theme)

    return canvas.draw_panels(data.panels, draw_panel, 3.8)


FIGURE = Figure(
    name="stages",
    order=20,
    title="Every condition, stage by stage",
    alt="Lines over the stages: {study.metric} with 95% intervals, one line per condition; "
    "{study.adapters}.",
    caption="Conditions by stage, {study.adapters}",
    numbers=numbers,
    draw=draw,
    records=lambda data: panels.panel_records(data, "base", "stage"),
)

"""Every condition, stage by stage: a line per condition over the stages."""

from __future__ import annotations

from typing import Any

from charprobe_lite.eval.report.figures import canvas
from charprobe_lite.eval.report.figures.canvas import Theme
from charprobe_lite.eval.report.figures.figure import Figure
from charprobe_lite.eval.report.figures.panels import (
    Levels,
    all_series,
    level_axis,
    levels,
    panel_records,
)
from charprobe_lite.eval.report.study import ReportStudy


def numbers(study: ReportStudy) -> Levels | None:
    """The levels of all cells with a model."""
    return levels(study, lambda cell: bool(cell.quant))


def draw(data: Levels, theme: Theme) -> Any:
    """A line per condition over the stages; published levels are hollow and dashed."""
    figure, axes = canvas.stacked(len(data.panels), 3.8)
    for axis, panel in zip(axes, data.panels, strict=True):
        groups, series = panel.groups, all_series([panel])
        for number, name in enumerate(series):
            bars = [bar for bar in panel.bars if bar.series == name]
            shift = 0.04 * (number - (len(series) - 1) / 2)
            places = [groups.index(bar.group) + shift for bar in bars]
            colour, _, marker = canvas.look_of(name, all_series(data.panels))
            axis.errorbar(
                places,
                [bar.level.value for bar in bars],
                yerr=canvas.whiskers([bar.level for bar in bars]),
                color=colour,
                marker=marker,
                markersize=8,
                linewidth=2,
                capsize=4,
                label=canvas.one_line(name),
            )
            published = [
                (x, bar.published) for x, bar in zip(places, bars, strict=True) if bar.published
            ]
            if published:
                axis.plot(
                    *zip(*published, strict=True),
                    color=colour,
                    marker=marker,
                    markerfacecolor=theme.paper,
                    linestyle="--",
                    label=f"{canvas.one_line(name)}, published",
                )
        axis.set_xticks(range(len(groups)), groups)
        axis.set_xlim(-0.35, len(groups) - 0.65)
        level_axis(axis, panel.title, data.metric, data.chance, theme)
    canvas.legend_below(figure, axes)
    return figure


FIGURE = Figure(
    name="stages",
    order=20,
    title="Every condition, stage by stage",
    alt="Lines over the stages: {study.metric} with 95% intervals, one line per condition.",
    caption="Conditions by stage",
    numbers=numbers,
    draw=draw,
    records=lambda data: panel_records(data.panels, "base", "stage"),
)

"""In distribution and out of distribution: bars of chat and agentic_email for every stage."""

from __future__ import annotations

from typing import Any

from charprobe_lite.eval.report.figures import canvas
from charprobe_lite.eval.report.figures.canvas import Look, Theme
from charprobe_lite.eval.report.figures.figure import Figure
from charprobe_lite.eval.report.figures.panels import (
    Levels,
    Panel,
    all_series,
    draw_bar,
    level_axis,
    levels,
    panel_records,
)
from charprobe_lite.eval.report.study import ReportStudy

CONDITIONS = ("chat", "agentic_email")


def numbers(study: ReportStudy) -> Levels | None:
    """The levels in chat and as an agent."""
    return levels(study, lambda cell: cell.condition in CONDITIONS)


def draw(data: Levels, theme: Theme) -> Any:
    """Grouped bars with intervals; a published level is a hollow bar next to its own."""
    figure, axes = canvas.stacked(len(data.panels), 3.6)
    looks = {
        name: canvas.look_of(name, all_series(data.panels)) for name in all_series(data.panels)
    }
    for axis, panel in zip(axes, data.panels, strict=True):
        _draw_panel(axis, panel, looks, theme)
        level_axis(axis, panel.title, data.metric, data.chance, theme)
    canvas.legend_below(figure, axes)
    return figure


def _draw_panel(axis: Any, panel: Panel, looks: dict[str, Look], theme: Theme) -> None:
    slots = []
    for name in all_series([panel]):
        published = [bar.published for bar in panel.bars if bar.series == name]
        slots += [(name, False), (name, True)][: 1 + any(level is not None for level in published)]
    width = min(0.8 / len(slots), 0.3)

    def place(group: str, series: str, published: bool) -> float:
        shift = slots.index((series, published)) - (len(slots) - 1) / 2
        return panel.groups.index(group) + shift * width

    for bar in panel.bars:
        look, name, x = (
            looks[bar.series],
            canvas.one_line(bar.series),
            place(bar.group, bar.series, False),
        )
        draw_bar(axis, x, 0.92 * width, bar.level, look, theme, name)
        if bar.published is not None:
            x = place(bar.group, bar.series, True)
            axis.bar(
                x,
                bar.published,
                0.92 * width,
                facecolor=theme.paper,
                edgecolor=look.colour,
                linewidth=1.5,
                linestyle="--",
                label=f"{name}, published",
            )
            canvas.write_number(axis, x, bar.published, f"{bar.published:.2f}", theme)
    axis.set_xticks(range(len(panel.groups)), panel.groups)
    axis.set_xlim(-0.6, len(panel.groups) - 0.4)


FIGURE = Figure(
    name="id-ood",
    order=10,
    title="In distribution and out of distribution",
    alt="Bars: {study.metric} with 95% intervals, chat next to agentic_email for every stage, "
    "with the chance line.",
    caption="In and out of distribution",
    numbers=numbers,
    draw=draw,
    records=lambda data: panel_records(data.panels, "base", "stage"),
)

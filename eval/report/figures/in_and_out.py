"""In distribution and out of distribution: bars of chat and agentic_email for every stage."""

from typing import Any

from charprobe_lite.eval.report.figures import Figure, canvas, panels
from charprobe_lite.eval.report.figures.panels import Bar, Panels
from charprobe_lite.eval.report.study import ReportStudy

CONDITIONS = ("chat", "agentic_email")


def numbers(study: ReportStudy) -> Panels[list[Bar]]:
    """The levels in chat and as an agent."""
    return panels.levels(study, lambda cell: cell.condition in CONDITIONS)


def draw(data: Panels[list[Bar]], theme: canvas.Theme) -> Any:
    """Grouped bars with intervals; a published level is a hollow bar next to its own."""
    series = panels.series_of(*data.panels.values())

    def draw_panel(axis: Any, title: str, bars: list[Bar]) -> None:
        published = {bar.series for bar in bars if bar.published is not None}
        # two slots for a series with published levels
        slots = [name for name in panels.series_of(bars) for _ in range(1 + (name in published))]
        step, groups = min(0.8 / len(slots), 0.3), panels.groups_of(bars)
        width = 0.92 * step
        for bar in bars:
            look, name = canvas.look_of(bar.series, series), canvas.one_line(bar.series)
            group, slot = groups.index(bar.group), slots.index(bar.series) - (len(slots) - 1) / 2
            panels.draw_bar(axis, group + slot * step, width, bar.level, look, theme, name)
            if bar.published is not None:
                x = group + (slot + 1) * step
                style = {"facecolor": theme.paper, "edgecolor": look.colour, "linestyle": "--"}
                label = panels.published_label(name, bar.published_classes, data.study)
                axis.bar(x, bar.published, width, linewidth=1.5, label=label, **style)
                canvas.write_number(axis, x, bar.published, f"{bar.published:.2f}", theme)
        axis.set_xticks(range(len(groups)), groups)
        axis.set_xlim(-0.6, len(groups) - 0.4)
        panels.level_axis(axis, title, data.study, theme)

    return canvas.draw_panels(data.panels, draw_panel, 3.6)


FIGURE = Figure(
    name="id-ood",
    order=10,
    title="In distribution and out of distribution",
    alt="Bars: {study.metric} with 95% intervals, chat next to agentic_email for every stage, "
    "with the chance line; {study.adapters}.",
    caption="In and out of distribution, {study.adapters}",
    numbers=numbers,
    draw=draw,
    records=lambda data: panels.panel_records(data, "base", "stage"),
)

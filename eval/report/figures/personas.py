"""Persona by persona: how often each is recognised, in chat and as an agent."""

from __future__ import annotations

from typing import Any

from charprobe_lite.eval.report.figures import canvas
from charprobe_lite.eval.report.figures.canvas import Theme
from charprobe_lite.eval.report.figures.figure import Figure
from charprobe_lite.eval.report.figures.in_and_out import CONDITIONS
from charprobe_lite.eval.report.figures.panels import Bar, Panel, all_series, panel_records
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label
from charprobe_lite.eval.stats.bootstrap import Estimate


def numbers(study: ReportStudy) -> list[Panel]:
    """One panel per base and stage: the detection rate of each persona."""
    panels: dict[str, list[Bar]] = {}
    count = len(study.personas)
    for number, cell in enumerate(study.cells):
        if cell.condition not in CONDITIONS:
            continue
        for score in study.scores.by_persona[number * count : (number + 1) * count]:
            if score.detection_rate is not None and score.ci is not None:
                rate = Estimate(score.detection_rate, *score.ci)
                title = f"{checkpoint_label(cell)}: {cell.stage}"
                bar = Bar(score.persona, cell.label, rate, score.n)
                panels.setdefault(title, []).append(bar)
    return [Panel(title, bars) for title, bars in panels.items()]


def draw(panels: list[Panel], theme: Theme) -> Any:
    """Horizontal bars, one panel per stage; personas in one order, the most recognised first."""
    names = _by_rate(panels)
    series = all_series(panels)
    columns = min(len(panels), 3)
    per_row = max(1.6, len(names) * max(0.34, 0.17 * len(series)))
    figure, grid = canvas.grid_of(len(panels), columns, per_row + 0.7, 0.6, sharey=True)
    height = 0.82 / len(series)
    for axis, panel in zip(grid, panels, strict=True):
        for bar in panel.bars:
            shift = (len(series) - 1) / 2 - series.index(bar.series)
            place = names.index(bar.group) + shift * height
            colour, hatch, _ = canvas.look_of(bar.series, series)
            axis.barh(
                place,
                bar.level.value,
                0.92 * height,
                color=colour,
                hatch=hatch,
                edgecolor=theme.paper,
                linewidth=0,
                label=canvas.one_line(bar.series),
            )
            ends = canvas.whiskers([bar.level])
            axis.errorbar(
                bar.level.value, place, xerr=ends, color=theme.ink, capsize=2, linewidth=1
            )
        axis.set_yticks(range(len(names)), [canvas.one_line(name) for name in names])
        axis.set_xlim(0, 1.02)
        axis.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        base, _, stage = panel.title.rpartition(": ")
        title = canvas.one_line(stage)
        axis.set_title(title if len(panels) == columns else f"{canvas.one_line(base)}:\n{title}")
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("recognised as itself")
    canvas.legend_below(figure, grid)
    return figure


def _by_rate(panels: list[Panel]) -> list[str]:
    """The personas, the least recognised first."""
    totals: dict[str, float] = {}
    for bar in (bar for panel in panels for bar in panel.bars):
        totals[bar.group] = totals.get(bar.group, 0.0) + bar.level.value
    return sorted(totals, key=lambda name: (totals[name], name))


FIGURE = Figure(
    name="personas",
    order=30,
    title="Persona by persona",
    alt="Bars: the share of each persona's samples recognised as that persona, per stage.",
    caption="Share of samples recognised as their persona",
    numbers=numbers,
    draw=draw,
    records=lambda panels: panel_records(panels, "checkpoint", "persona"),
)

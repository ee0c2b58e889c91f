"""Persona by persona: how often each is recognised, in chat and as an agent."""

from itertools import chain
from typing import Any

from charprobe_lite.eval.report.figures import Figure, canvas, panels
from charprobe_lite.eval.report.figures.in_and_out import CONDITIONS
from charprobe_lite.eval.report.figures.panels import Bar, Panels
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label
from charprobe_lite.eval.stats.bootstrap import Estimate

COLUMNS = 3


def numbers(study: ReportStudy) -> Panels[list[Bar]]:
    """One panel per base and stage: the detection rate of each persona."""
    rates: dict[str, list[Bar]] = {}
    count = len(study.personas)
    if count == 1:  # the other figures are about this persona already
        return Panels(study, rates)
    for number, cell in enumerate(study.cells):
        if cell.condition not in CONDITIONS:
            continue
        for score in study.scores.by_persona[number * count : (number + 1) * count]:
            if score.detection_rate is not None and score.ci is not None:
                rate = Estimate(score.detection_rate, *score.ci)
                bar = Bar(score.persona, cell.label, rate, score.n)
                rates.setdefault(f"{checkpoint_label(cell)}: {cell.stage}", []).append(bar)
    return Panels(study, rates)


def draw(data: Panels[list[Bar]], theme: canvas.Theme) -> Any:
    """Horizontal bars, one panel per stage; personas in one order, the most recognised first."""
    totals: dict[str, float] = {}
    for bar in chain.from_iterable(data.panels.values()):
        totals[bar.group] = totals.get(bar.group, 0.0) + bar.level.value
    names = sorted(totals, key=lambda name: (totals[name], name))
    series = panels.series_of(*data.panels.values())

    def draw_panel(axis: Any, title: str, bars: list[Bar]) -> None:
        height = 0.82 / len(series)
        for bar in bars:
            shift = (len(series) - 1) / 2 - series.index(bar.series)
            y, x = names.index(bar.group) + shift * height, bar.level.value
            label = canvas.one_line(bar.series)
            fill = canvas.look_of(bar.series, series).fill(theme)
            axis.barh(y, x, 0.92 * height, label=label, **fill)
            ends = canvas.whiskers([bar.level])
            axis.errorbar(x, y, xerr=ends, color=theme.ink, capsize=2, linewidth=1)
        axis.set_yticks(range(len(names)), [canvas.one_line(name) for name in names])
        axis.set_xlim(0, 1.02)
        axis.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        base, _, stage = (canvas.one_line(part) for part in title.rpartition(": "))
        axis.set_title(stage if len(data.panels) <= COLUMNS else f"{base}:\n{stage}")
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("recognised as itself")

    height = max(1.6, len(names) * max(0.34, 0.17 * len(series))) + 0.7
    return canvas.draw_panels(data.panels, draw_panel, height, COLUMNS, below=0.6, sharey=True)


FIGURE = Figure(
    name="personas",
    order=30,
    title="Persona by persona",
    alt="Bars: the share of each persona's samples recognised as that persona, per stage.",
    caption="Share of samples recognised as their persona",
    numbers=numbers,
    draw=draw,
    records=lambda data: panels.panel_records(data, "checkpoint", "persona"),
)

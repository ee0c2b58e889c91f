"""Differences from F16: a forest plot with the verdicts on equivalence."""

from __future__ import annotations

from typing import Any

from charprobe_lite.eval.quant.tables import (
    Record,
    estimate_columns,
    file_columns,
    trained_cells,
    verdict_text,
)
from charprobe_lite.eval.report.figures.canvas import Theme, grid_of, legend_below, one_line
from charprobe_lite.eval.report.figures.figure import Figure
from charprobe_lite.eval.report.figures.quant_points import LORA_LOOKS, QuantPanels
from charprobe_lite.eval.report.study import ReportStudy
from charprobe_lite.eval.stats.metrics import PairedDifference

UNFORCED = ", sent unforced"
Differences = dict[str, tuple[str | None, PairedDifference]]
"""LoRA mode and difference by the file's name."""


def numbers(study: ReportStudy) -> QuantPanels[Differences] | None:
    """The files' differences by condition: character, then emails that were sent unforced."""
    if study.quants is None:
        return None
    character: dict[str, Differences] = {}
    unforced: dict[str, Differences] = {}
    for quant, cell in trained_cells(study.quants):
        lora = quant.record.lora
        if cell.difference:
            character.setdefault(cell.condition, {})[quant.name] = lora, cell.difference
        if cell.difference and cell.unforced:
            title = cell.condition + UNFORCED
            unforced.setdefault(title, {})[quant.name] = lora, cell.unforced
    return QuantPanels(study.quants, study.quant_metric, character | unforced)


def draw(data: QuantPanels[Differences], theme: Theme) -> Any:
    """Conditions side by side, a row per file, most bits per weight at the top."""
    if not data.panels:
        return None
    files = [quant.name for quant in data.study.quants]
    names = [name for name in files if any(name in rows for rows in data.panels.values())]
    margin = data.study.margin
    height = 0.34 * len(names) + 1.3
    figure, grid = grid_of(len(data.panels), min(len(data.panels), 3), height, 0.5, sharey=True)
    for axis, (title, rows) in zip(grid, data.panels.items(), strict=True):
        axis.axvspan(-margin, margin, color=theme.quiet, alpha=0.22, linewidth=0)
        axis.axvline(0, color=theme.quiet, linewidth=1)
        for name, (lora, difference) in rows.items():
            _draw_row(axis, names.index(name), LORA_LOOKS[lora][0], difference, theme)
        axis.set_yticks(range(len(names)), [one_line(name) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_title(one_line(title).replace(", ", ",\n"))
        metric = "share" if title.endswith(UNFORCED) else one_line(data.metric)
        axis.set_xlabel(f"{metric} minus F16's")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    _verdicts(grid[0], margin, theme)
    legend_below(figure, grid[:1])
    return figure


def _draw_row(
    axis: Any, place: int, colour: str, difference: PairedDifference, theme: Theme
) -> None:
    """A difference: thin its 95% interval, thick its 90% interval, the verdict in the marker."""
    axis.plot(difference.change.ends, [place] * 2, color=colour, linewidth=1.2)
    axis.plot(
        difference.interval_90, [place] * 2, color=colour, linewidth=3.5, solid_capstyle="butt"
    )
    equivalent = difference.equivalent
    axis.plot(
        difference.change.value,
        place,
        marker="X" if equivalent is False else "o",
        markersize=8,
        color=colour,
        markerfacecolor=theme.paper if equivalent is None else colour,
        markeredgecolor=theme.paper if equivalent is False else colour,
        markeredgewidth=0.6 if equivalent is False else 1.6,
    )


def _verdicts(axis: Any, margin: float, theme: Theme) -> None:
    """What the markers and the band mean, for the legend."""
    for label, marker, face in (
        (f"within {margin:g} of F16", "o", theme.ink),
        ("not decided", "o", theme.paper),
        (f"further than {margin:g}", "X", theme.ink),
    ):
        axis.plot([], [], marker, color=theme.ink, markerfacecolor=face, markersize=8, label=label)


def records(data: QuantPanels[Differences]) -> list[Record]:
    """A record per file, condition and measure."""
    return [
        {
            **file_columns(quant),
            "condition": cell.condition,
            "measure": metric,
            **estimate_columns("difference", difference.change),
            "inner_90_low": difference.interval_90[0],
            "inner_90_high": difference.interval_90[1],
            "margin": data.study.margin,
            "equivalent": verdict_text(difference.equivalent),
            "kept": verdict_text(difference.non_inferior),
        }
        for quant, cell in trained_cells(data.study)
        for metric, difference in (
            (data.study.metric, cell.difference),
            ("unforced", cell.unforced),
        )
        if difference is not None
    ]


FIGURE = Figure(
    name="quant-difference",
    order=120,
    section="quantization",
    title="Differences from F16",
    alt="Forest plot: {study.quant_metric} of each file minus F16's, and of the emails that agents "
    "sent unforced the share; thick the 90% interval that decides on equivalence, thin the 95% "
    "interval; the band is the margin of {study.quants.margin:g}.",
    caption="Differences from F16",
    numbers=numbers,
    draw=draw,
    records=records,
)

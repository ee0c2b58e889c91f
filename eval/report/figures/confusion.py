"""What is taken for what: true personas by predicted labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.tables import Record
from charprobe_lite.eval.report.figures.canvas import WIDTH, Theme, grid_of, one_line
from charprobe_lite.eval.report.figures.figure import Figure
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label, most_trained
from charprobe_lite.eval.scores.gap import CEILING, CONDITION_STEPS
from charprobe_lite.eval.stats.classification import confusion


@dataclass(frozen=True)
class ConfusionPanel:
    """counts[i, j] samples of the true persona i predicted as label j."""

    title: str
    true: list[str]
    predicted: list[str]
    counts: NDArray[np.int64]


def numbers(study: ReportStudy) -> list[ConfusionPanel]:
    """Per base and quant type the steps from chat to agent, most trained, and the ceilings."""
    steps = [cell for cell in study.cells if cell.condition in CONDITION_STEPS]
    ceilings = [cell for cell in study.cells if cell.condition == CEILING]
    panels = []
    for checkpoint in dict.fromkeys(map(checkpoint_label, [*steps, *ceilings])):
        cells = most_trained([cell for cell in steps if checkpoint_label(cell) == checkpoint])
        cells += [cell for cell in ceilings if checkpoint_label(cell) == checkpoint]
        panels += [panel for cell in cells if (panel := _panel(study, cell))]
    return panels


def _panel(study: ReportStudy, cell: Cell) -> ConfusionPanel | None:
    pairs = [
        (row.persona, row.prediction)
        for row in study.rows
        if row.cell == cell and row.persona and row.prediction
    ]
    if not pairs:
        return None
    labels, counts = confusion([true for true, _ in pairs], [label for _, label in pairs])
    true = [name for name in study.personas if name in labels]
    predicted = [name for name in study.labels if name in labels]
    place = np.ix_([labels.index(name) for name in true], [labels.index(n) for n in predicted])
    condition = "" if cell.condition == CEILING else f", {cell.label}"
    title = f"{checkpoint_label(cell)}: {cell.stage}{condition}"
    return ConfusionPanel(title, true, predicted, counts[place])


def draw(panels: list[ConfusionPanel], theme: Theme) -> Any:
    """Confusion matrices, each row as percentages of its true persona."""
    columns = min(len(panels), 2)
    one_row = len(panels) == columns
    figure, grid = grid_of(len(panels), columns, 4.6, width=max(WIDTH, 5.2 * columns))
    for axis, panel in zip(grid, panels, strict=True):
        shares = panel.counts / panel.counts.sum(axis=1, keepdims=True).clip(min=1)
        axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            if share >= 0.005:
                ink = "#000000" if share > 0.55 else "#ffffff"
                axis.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=ink, size=9)
        axis.set_xticks(
            range(len(panel.predicted)),
            [one_line(name) for name in panel.predicted],
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
        axis.set_yticks(range(len(panel.true)), [one_line(name) for name in panel.true])
        axis.set_xlabel("predicted label (% of the row)")
        axis.set_ylabel("true persona")
        axis.set_title(one_line(panel.title.partition(": ")[2] if one_row else panel.title))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure


def records(panels: list[ConfusionPanel]) -> list[Record]:
    """A record per pair of persona and label."""
    return [
        {"checkpoint": panel.title, "true": true, "predicted": label, "samples": int(count)}
        for panel in panels
        for true, row in zip(panel.true, panel.counts, strict=True)
        for label, count in zip(panel.predicted, row, strict=True)
    ]


FIGURE = Figure(
    name="confusion",
    order=50,
    title="What is taken for what",
    alt="Confusion matrices side by side: true persona by predicted label, row percentages.",
    caption="True and predicted labels",
    numbers=numbers,
    draw=draw,
    records=records,
)

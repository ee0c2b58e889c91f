"""What is taken for what: true personas by predicted labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.tables import Record
from charprobe_lite.eval.report.figures import Figure
from charprobe_lite.eval.report.figures.canvas import WIDTH, Theme, draw_panels, one_line
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label, most_trained
from charprobe_lite.eval.scores.gap import CEILINGS, CONDITION_STEPS


@dataclass(frozen=True)
class ConfusionPanel:
    """counts[i, j] samples of the true persona i predicted as label j."""

    true: list[str]
    predicted: list[str]
    counts: NDArray[np.int64]


def numbers(study: ReportStudy) -> dict[str, ConfusionPanel]:
    """Per base and quant type the steps from chat to agent, most trained, and the ceilings."""
    steps = [cell for cell in study.cells if cell.condition in CONDITION_STEPS]
    ceilings = [cell for cell in study.cells if cell.condition in CEILINGS]
    pairs: dict[str, list[tuple[str, str]]] = {}
    for checkpoint in dict.fromkeys(map(checkpoint_label, [*steps, *ceilings])):
        trained = most_trained([cell for cell in steps if checkpoint_label(cell) == checkpoint])
        for cell in [*trained, *(c for c in ceilings if checkpoint_label(c) == checkpoint)]:
            condition = "" if cell.condition in CEILINGS else f", {cell.label}"
            pairs[f"{checkpoint}: {cell.stage}{condition}"] = _pairs(study, cell)
    # the same labels everywhere, so that panels can be compared
    named = {name for each in pairs.values() for pair in each for name in pair}
    personas = [name for name in study.personas if name in named]
    labels = [name for name in study.labels if name in named]
    return {
        title: ConfusionPanel(personas, labels, _counts(each, personas, labels))
        for title, each in pairs.items()
        if each
    }


def _pairs(study: ReportStudy, cell: Cell) -> list[tuple[str, str]]:
    """(true persona, predicted label) of every sample of a cell."""
    rows = [row for row in study.rows if row.cell.pooled == cell]
    return [(row.persona, row.prediction) for row in rows if row.persona and row.prediction]


def _counts(
    pairs: Sequence[tuple[str, str]], personas: Sequence[str], labels: Sequence[str]
) -> NDArray[np.int64]:
    counted = Counter(pairs)
    return np.array([[counted[true, label] for label in labels] for true in personas])


def draw(panels: dict[str, ConfusionPanel], theme: Theme) -> Any:
    """Confusion matrices, each row as percentages of its true persona."""
    columns = min(len(panels), 2)

    def draw_panel(axis: Any, title: str, panel: ConfusionPanel) -> None:
        shares = panel.counts / panel.counts.sum(axis=1, keepdims=True).clip(min=1)
        axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            if share >= 0.005:
                ink = "#000000" if share > 0.55 else "#ffffff"
                axis.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=ink, size=9)
        labels, personas = map(one_line, panel.predicted), map(one_line, panel.true)
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axis.set_xticks(range(len(panel.predicted)), [*labels], **slant)
        axis.set_yticks(range(len(panel.true)), [*personas])
        axis.set(xlabel="predicted label (% of the row)", ylabel="true persona")
        axis.set_title(one_line(title.partition(": ")[2] if len(panels) == columns else title))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)

    return draw_panels(panels, draw_panel, 4.6, columns, width=max(WIDTH, 5.2 * columns))


def records(panels: dict[str, ConfusionPanel]) -> list[Record]:
    """A record per pair of persona and label."""
    return [
        {"checkpoint": title, "true": true, "predicted": label, "samples": int(count)}
        for title, panel in panels.items()
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

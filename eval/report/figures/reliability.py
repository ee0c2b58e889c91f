"""How far the classifier's confidence can be trusted: accuracy against confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.quant.tables import Record
from charprobe_lite.eval.report.figures.canvas import Theme, grid_of, look_of, one_line, whiskers
from charprobe_lite.eval.report.figures.figure import Figure
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import calibration, wilson_share


@dataclass(frozen=True)
class ReliabilityBin:
    """Samples of similar confidence: how many of them the classifier is right about."""

    confidence: float
    accuracy: Estimate
    n: int


@dataclass(frozen=True)
class ReliabilityLine:
    """A reliability diagram's line and its expected calibration error."""

    checkpoint: str
    condition: str
    ece: float
    n: int
    bins: list[ReliabilityBin]


def numbers(study: ReportStudy) -> list[ReliabilityLine]:
    """Confidence against accuracy per base and condition, over the trained stages.

    Bins and error as in `classification.calibration`, each bin's accuracy with Wilson's interval.
    The base stage has no true persona and is left out.
    """
    keys = {cell: (checkpoint_label(cell), cell.label) for cell in study.cells}
    groups: dict[tuple[str, str], list[Row]] = {key: [] for key in keys.values()}
    for row in study.rows:
        if row.persona and row.probabilities:
            groups[keys[row.cell]].append(row)
    return [_line(*key, rows) for key, rows in groups.items() if rows]


def _line(checkpoint: str, condition: str, rows: Sequence[Row]) -> ReliabilityLine:
    score = calibration([r.persona or "" for r in rows], [r.probabilities or {} for r in rows])
    bins = [
        ReliabilityBin(bin_.confidence, wilson_share(round(bin_.accuracy * bin_.n), bin_.n), bin_.n)
        for bin_ in score.bins
    ]
    return ReliabilityLine(checkpoint, condition, score.ece, len(rows), bins)


def draw(lines: list[ReliabilityLine], theme: Theme) -> Any:
    """Accuracy against confidence; on the diagonal the classifier is as right as it is sure."""
    figure, grid = grid_of(len(lines), min(len(lines), 3), 3, 0.4, sharex=True, sharey=True)
    checkpoints = len({line.checkpoint for line in lines})
    for axis, line in zip(grid, lines, strict=True):
        look = look_of(line.condition, [other.condition for other in lines])
        axis.plot([0, 1], [0, 1], color=theme.quiet, linestyle="--")
        axis.errorbar(
            [entry.confidence for entry in line.bins],
            [entry.accuracy.value for entry in line.bins],
            yerr=whiskers([entry.accuracy for entry in line.bins]),
            color=look.colour,
            marker=look.marker,
            markersize=6,
            linewidth=1.8,
            capsize=3,
        )
        above = f"{one_line(line.checkpoint)}\n" if checkpoints > 1 else ""
        title = f"{above}{one_line(line.condition)}\nECE {line.ece:.3f}, n = {line.n}"
        axis.set_title(title, size=10)
        axis.set_xlim(0, 1.02)
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
    figure.supxlabel("probability of the predicted label", size=10)
    figure.supylabel("share that is right", size=10)
    return figure


def records(lines: list[ReliabilityLine]) -> list[Record]:
    """A record per bin."""
    return [
        {
            "condition": f"{line.checkpoint}: {line.condition}",
            "ece": line.ece,
            "confidence": entry.confidence,
            "right": entry.accuracy.value,
            "low": entry.accuracy.low,
            "high": entry.accuracy.high,
            "n": entry.n,
        }
        for line in lines
        for entry in line.bins
    ]


FIGURE = Figure(
    name="reliability",
    order=60,
    title="How far the classifier's confidence can be trusted",
    alt="Reliability diagrams: accuracy against confidence, as right as sure on the diagonal.",
    caption="Confidence and accuracy",
    numbers=numbers,
    draw=draw,
    records=records,
)

"""How far the classifier's confidence can be trusted: accuracy against confidence."""

from typing import Any

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.quant.tables import Record
from charprobe_lite.eval.report.figures import Figure, canvas
from charprobe_lite.eval.report.figures.panels import ceiling_name
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import Calibration, calibration, wilson_share


def numbers(study: ReportStudy) -> dict[str, Calibration]:
    """Confidence against accuracy on the emails that no model wrote, by who wrote them.

    They are certainly in character. A checkpoint's text may have lost it: the classifier is then
    right not to see it, and would be counted as wrong.
    """
    groups: dict[str, list[Row]] = {}
    for row in study.rows:
        if row.cell.quant is None and row.persona and row.probabilities:
            title = f"{checkpoint_label(row.cell)}: {ceiling_name(row.cell)}"
            groups.setdefault(title, []).append(row)
    return {
        title: calibration([r.persona or "" for r in rows], [r.probabilities or {} for r in rows])
        for title, rows in groups.items()
        if rows
    }


def _accuracies(line: Calibration) -> list[Estimate]:
    """The accuracy of each bin with Wilson's interval."""
    return [wilson_share(round(entry.accuracy * entry.n), entry.n) for entry in line.bins]


def draw(lines: dict[str, Calibration], theme: canvas.Theme) -> Any:
    """Accuracy against confidence; on the diagonal the classifier is as right as it is sure."""
    checkpoints, _, conditions = zip(*(title.rpartition(": ") for title in lines), strict=True)

    def draw_panel(axis: Any, title: str, line: Calibration) -> None:
        checkpoint, _, condition = title.rpartition(": ")
        look, x = canvas.look_of(condition, conditions), [entry.confidence for entry in line.bins]
        axis.plot([0, 1], [0, 1], color=theme.quiet, linestyle="--")
        canvas.draw_line(axis, x, _accuracies(line), look, markersize=6, linewidth=1.8, capsize=3)
        above = f"{canvas.one_line(checkpoint)}\n" if len({*checkpoints}) > 1 else ""
        numbers = f"ECE {line.ece:.3f}, n = {sum(entry.n for entry in line.bins)}"
        axis.set_title(f"{above}{canvas.one_line(condition)}\n{numbers}", size=10)
        axis.set(xlim=(0, 1.02), ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)

    figure = canvas.draw_panels(
        lines, draw_panel, 3, columns=3, below=0.4, sharex=True, sharey=True
    )
    figure.supxlabel("probability of the predicted label", size=10)
    figure.supylabel("share that is right", size=10)
    return figure


def records(lines: dict[str, Calibration]) -> list[Record]:
    """A record per bin."""
    return [
        {
            "condition": title,
            "ece": line.ece,
            "confidence": entry.confidence,
            "right": accuracy.value,
            "low": accuracy.low,
            "high": accuracy.high,
            "n": entry.n,
        }
        for title, line in lines.items()
        for entry, accuracy in zip(line.bins, _accuracies(line), strict=True)
    ]


FIGURE = Figure(
    name="reliability",
    order=60,
    title="How far the classifier's confidence can be trusted",
    alt="Reliability diagrams of the classifier on texts that are certainly in character: "
    "accuracy against confidence, as right as sure on the diagonal.",
    caption="Confidence and accuracy",
    numbers=numbers,
    draw=draw,
    records=records,
)

"""Points of a quantization study's figures: one per file, with its level and its look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.quant.tables import trained_cells
from charprobe_lite.eval.report.figures.canvas import Contents, Theme, whiskers
from charprobe_lite.eval.report.study import ReportStudy
from charprobe_lite.eval.stats.bootstrap import Estimate

LORA_LOOKS = {
    "runtime": ("#0072B2", "o", "F16 adapter on top"),
    "merged": ("#D55E00", "s", "merged, then quantized"),
    None: ("#8C8C8C", "D", "no adapter"),
}
"""Colour, marker and legend of the two LoRA modes, and of a file without an adapter."""


@dataclass(frozen=True)
class QuantPanels(Generic[Contents]):
    """A quantization study, its metric for people, and what a figure shows of files by panel."""

    study: QuantStudy
    metric: str
    panels: dict[str, list[Contents]]


def quant_panels(
    study: ReportStudy, content: Callable[[QuantScore, CellQuality], Contents | None]
) -> QuantPanels[Contents] | None:
    """What ``content`` gives of the files by condition; None for a study without quant types."""
    if study.quants is None:
        return None
    panels: dict[str, list[Contents]] = {}
    for quant, cell in trained_cells(study.quants):
        if (entry := content(quant, cell)) is not None:
            panels.setdefault(cell.condition, []).append(entry)
    return QuantPanels(study.quants, study.quant_metric, panels)


@dataclass(frozen=True)
class Point:
    """A file in a figure: its place on the x axis (bits, or KL divergence) and its level."""

    quant: str
    lora: str | None
    x: float
    level: Estimate


def draw_point(axis: Any, point: Point, theme: Theme, xerr: Any = None) -> None:
    """A point with its interval, above all intervals."""
    colour, marker, label = LORA_LOOKS[point.lora]
    x, y, ends = point.x, point.level.value, whiskers([point.level])
    axis.errorbar(x, y, yerr=ends, xerr=xerr, color=colour, linewidth=1.2, capsize=3)
    style = {"color": colour, "markeredgecolor": theme.paper, "zorder": 3}
    axis.plot(x, y, marker, label=label, **style)


def fit_axis(axis: Any, ends: Sequence[float], above: float = 0) -> None:
    """Limits that hold all ends, with some room around, and ``above`` as a share of their range."""
    low, high = min(ends), max(ends)
    span = (high - low) or 0.5
    axis.set_ylim(low - 0.08 * span, high + (0.08 + above) * span)

"""Points of a quantization study's figures: one per file, with its level and its look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import QuantScore
from charprobe_lite.eval.report.figures.canvas import Theme, whiskers
from charprobe_lite.eval.stats.bootstrap import Estimate

LORA_LOOKS = {
    "runtime": ("#0072B2", "o", "F16 adapter on top"),
    "merged": ("#D55E00", "s", "merged, then quantized"),
    None: ("#8C8C8C", "D", "no adapter"),
}
"""Colour, marker and legend of the two LoRA modes, and of a file without an adapter."""
Contents = TypeVar("Contents")


@dataclass(frozen=True)
class QuantPanels(Generic[Contents]):
    """A quantization study, its metric for people, and what a figure shows by condition."""

    study: QuantStudy
    metric: str
    panels: dict[str, Contents]


@dataclass(frozen=True)
class Point:
    """A file in a figure: its place on the x axis (bits, or KL divergence) and its level."""

    quant: str
    lora: str | None
    x: float
    level: Estimate


def point_of(quant: QuantScore, x: float, level: Estimate) -> Point:
    """The point of a file."""
    return Point(quant.record.quant, quant.record.lora, x, level)


def draw_point(axis: Any, point: Point, theme: Theme, xerr: Any = None) -> None:
    """A point with its interval, above all intervals."""
    colour, marker, label = LORA_LOOKS[point.lora]
    place, ends = (point.x, point.level.value), whiskers([point.level])
    axis.errorbar(*place, yerr=ends, xerr=xerr, color=colour, linewidth=1.2, capsize=3)
    axis.plot(
        *place,
        marker,
        color=colour,
        markersize=8,
        markeredgecolor=theme.paper,
        zorder=3,
        label=label,
    )


def fit_axis(axis: Any, ends: Sequence[float], above: float = 0) -> None:
    """Limits that hold all ends, with some room around, and ``above`` as a share of their range."""
    low, high = min(ends), max(ends)
    span = (high - low) or 0.5
    axis.set_ylim(low - 0.08 * span, high + (0.08 + above) * span)

"""Quality against size: the level of each file over its bits per weight."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import log2
from typing import Any

from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.quant.tables import Record, estimate_columns, file_columns, trained_cells
from charprobe_lite.eval.report.figures import Figure, panels
from charprobe_lite.eval.report.figures.canvas import Theme, draw_panels, one_line
from charprobe_lite.eval.report.figures.panels import Point, QuantPanels
from charprobe_lite.eval.report.study import ReportStudy
from charprobe_lite.models.quant_types import KV_DEFAULT

LETTER, PANEL = 0.085, 7.2
"""Inches that a letter of a tick takes, generously, and a panel across."""


def numbers(study: ReportStudy) -> QuantPanels[Point] | None:
    """The files' levels by condition, over bits per weight."""

    def point(quant: QuantScore, cell: CellQuality) -> Point | None:
        record, level = quant.record, cell.score.headline
        if level is None or record.kv_type != KV_DEFAULT:  # a cache changes no bits per weight
            return None
        return Point(record.quant, record.lora, record.bits_per_weight, level)

    return panels.quant_panels(study, point)


def draw(data: QuantPanels[Point], theme: Theme) -> Any:
    """One panel per condition: level against bits per weight, on a logarithmic axis."""
    labels = {title: _size_labels(points) for title, points in data.panels.items()}
    depth = max(
        (text.count("\n") for texts in labels.values() for text in texts.values()), default=0
    )

    def draw_panel(axis: Any, title: str, points: list[Point]) -> None:
        shifted, same_size = _side_by_side(points), _same_size(points)
        best = [shifted[points.index(point)] for point in front(points)]
        x, y = [point.x for point in best], [point.level.value for point in best]
        style = {"color": theme.quiet, "linewidth": 5, "alpha": 0.35, "zorder": 0}
        axis.plot(x, y, label="Pareto front", **style)
        for point in shifted:
            panels.draw_point(axis, point, theme)
        axis.set_xscale("log", base=2)
        axis.set_xlim(_x_limits(points))
        axis.set_xticks([*labels[title]], [*labels[title].values()])
        axis.minorticks_off()
        ends = [end for point in points for end in point.level.ends]
        panels.fit_axis(axis, ends, above=0.35 if same_size else 0)
        axis.set_yticks([tick for tick in axis.get_yticks() if axis.get_ylim()[0] <= tick <= 1])
        for quant in same_size:  # its name above its points, upright at the top of the panel
            places = [point.x for point in shifted if point.quant == quant]
            style = {"ha": "center", "va": "top", "rotation": 90, "size": 9, "color": theme.ink}
            top = {"transform": axis.get_xaxis_transform()}
            axis.text(sum(places) / len(places), 0.98, one_line(quant), **style, **top)
        axis.set(ylabel=one_line(data.metric), title=one_line(title))
        axis.grid(axis="y", alpha=0.3)

    if figure := draw_panels(data.panels, draw_panel, 2.9 + 0.2 * depth):
        figure.axes[-1].set_xlabel("bits per weight (logarithmic)")
    return figure


def front(points: Iterable[Point]) -> list[Point]:
    """The Pareto front, fewest bits first: each better than all that are as small or smaller."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.level.value)):
        if not best or point.level.value > best[-1].level.value:
            best.append(point)
    return best


def _side_by_side(points: Sequence[Point]) -> list[Point]:
    """Files of the same size a little apart."""
    shifted = []
    for point in points:
        same = [other for other in points if _size(other) == _size(point)]
        factor = 1 + 0.028 * (same.index(point) - (len(same) - 1) / 2)
        shifted.append(replace(point, x=point.x * factor))
    return shifted


def _same_size(points: Sequence[Point]) -> list[str]:
    """The types that are as large as another, which the axis cannot tell apart."""
    sizes = {point.quant: _size(point) for point in points}
    return [quant for quant, size in sizes.items() if [*sizes.values()].count(size) > 1]


def _size(point: Point) -> float:
    return round(point.x, 2)


def _size_labels(points: Sequence[Point]) -> dict[float, str]:
    """The types' names and bits by bits, in deeper lines where they would cover each other."""
    sizes: dict[float, dict[str, None]] = {}  # the types of a size, each once
    for point in points:
        sizes.setdefault(_size(point), {})[point.quant] = None
    low, high = _x_limits(points)
    ends: list[float] = []
    labels, depth = {}, 1 + max(map(len, sizes.values()))
    for bits, names in sorted(sizes.items()):
        lines = [*map(one_line, names), f"{bits:g}"]
        half = LETTER * (max(map(len, lines)) + 1) / 2  # a letter between two stays free
        place = PANEL * log2(bits / low) / log2(high / low)
        level = next((n for n, end in enumerate(ends) if end < place - half), len(ends))
        ends[level : level + 1] = [place + half]
        labels[bits] = "\n" * (level * depth) + "\n".join(lines)
    return labels


def _x_limits(points: Sequence[Point]) -> tuple[float, float]:
    """The limits of the axis of bits, with room for files side by side."""
    sizes = [_size(point) for point in points]
    return min(sizes) * 0.91, max(sizes) * 1.06


def records(data: QuantPanels[Point]) -> list[Record]:
    """A record per file and condition."""
    return [
        {
            **file_columns(quant),
            "condition": cell.condition,
            "bits_per_weight": quant.record.bits_per_weight,
            **estimate_columns(data.study.metric, level),
            "samples": cell.score.n,
        }
        for quant, cell in trained_cells(data.study)
        if (level := cell.score.headline) is not None
    ]


FIGURE = Figure(
    name="quant-size",
    order=110,
    section="quantization",
    title="Quality against size",
    alt="Points: {study.quant_metric} with 95% intervals against the bits per weight of each file; "
    "the line joins the files than which none is both smaller and better.",
    caption="Quality against size",
    numbers=numbers,
    draw=draw,
    records=records,
)

"""A quantization study's figures: quality against size, differences from F16, KL divergence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.report.figures import (
    Drawing,
    Theme,
    grid_of,
    legend_below,
    shown,
    stacked,
    whiskers,
)
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.metrics import PairedDifference

WAYS = {"runtime": ("#0072B2", "o"), "merged": ("#D55E00", "s"), "": ("#8C8C8C", "D")}
"""Colour and marker of the two ways to quantize, and of a file without an adapter."""
Differences = dict[str, dict[str, tuple[QuantScore, PairedDifference]]]
OFFSETS = tuple((dx, dy) for dy in (9, -9, 22, -22, 35, -35) for dx in (7, -7))
"""Where a name may stand from its point, in points of print; the first that is free."""
LETTER, PANEL = 0.085, 7.2
"""Inches that a letter of a tick takes, generously, and a panel across."""


@dataclass(frozen=True)
class Point:
    """A file in a figure: where it lies across (bits, or KL divergence) and its level."""

    quant: str
    lora: str
    across: float
    level: Estimate


def quant_drawings(study: QuantStudy) -> list[Drawing]:
    """The figures that the study has numbers for."""
    measure = study.metric.replace("macro_f1", "macro-F1").replace("_", " ")
    made = [
        Drawing(
            "quant-size",
            "Quality against size",
            f"Points: {measure} with 95% intervals against the bits per weight of each file; the "
            "line joins the files than which none is both smaller and better.",
            lambda theme: sizes(study, measure, theme),
        ),
        Drawing(
            "quant-difference",
            "Differences from F16",
            f"Forest plot: {measure} of each file minus F16's, and of the emails that agents sent "
            "unforced the share; thick the 90% interval that decides on equivalence, thin the 95% "
            f"interval; the band is the margin of {study.margin:g}.",
            lambda theme: forest(study, measure, theme),
        ),
        Drawing(
            "quant-kl",
            "KL divergence against loss of character",
            f"Points: the loss of {measure} against the mean KL divergence from F16, both with 95% "
            "intervals.",
            lambda theme: divergences(study, measure, theme),
        ),
    ]
    there = [_levels(study), _differences(study), _losses(study)]
    return [drawing for drawing, found in zip(made, there, strict=True) if found]


def sizes(study: QuantStudy, measure: str, theme: Theme) -> Any:
    """One panel per condition: level against bits per weight, on a logarithmic axis."""
    panels = _levels(study)
    labels = {title: _size_labels(points) for title, points in panels.items()}
    depth = max(text.count("\n") for own in labels.values() for text in own.values())
    figure, axes = stacked(list(panels), 2.9 + 0.2 * depth)
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        apart = _side_by_side(points)
        best = [apart[points.index(point)] for point in front(points)]
        axis.plot(
            [point.across for point in best],
            [point.level.value for point in best],
            color=theme.quiet,
            linewidth=5,
            alpha=0.35,
            zorder=0,
            label="Pareto front",
        )
        for point in apart:
            _mark(axis, point, theme)
        shared = _shared(points)
        axis.set_xscale("log", base=2)
        axis.set_xlim(_reach(points))
        axis.set_xticks([*labels[title]], [*labels[title].values()])
        axis.minorticks_off()
        _room(axis, [end for point in points for end in point.level.ends], 0.35 * bool(shared))
        axis.set_yticks([tick for tick in axis.get_yticks() if axis.get_ylim()[0] <= tick <= 1])
        for quant in shared:
            _name_above(axis, [p for p in apart if p.quant == quant], theme)
        axis.set_ylabel(shown(measure))
        axis.set_title(shown(title))
        axis.grid(axis="y", alpha=0.3)
    axes[-1].set_xlabel("bits per weight (logarithmic)")
    legend_below(figure, axes)
    return figure


def forest(study: QuantStudy, measure: str, theme: Theme) -> Any:
    """Conditions side by side, a row per file, most bits per weight at the top."""
    panels, work = _differences(study), _work(study)
    names = [each.name for each in study.quants if any(each.name in own for own in panels.values())]
    columns = min(len(panels | work), 3)
    height = 0.34 * len(names) + 1.3
    figure, grid = grid_of(len(panels | work), columns, height, 0.5, sharey=True)
    for axis, (title, own) in zip(grid, (panels | work).items(), strict=True):
        axis.axvspan(-study.margin, study.margin, color=theme.quiet, alpha=0.22, linewidth=0)
        axis.axvline(0, color=theme.quiet, linewidth=1)
        for name, (quant, difference) in own.items():
            _row(axis, names.index(name), WAYS[quant.record.lora][0], difference, theme)
        axis.set_yticks(range(len(names)), [shown(name) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_title(shown(title).replace(", ", ",\n"))
        axis.set_xlabel(f"{'share' if title in work else shown(measure)} minus F16's")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    _verdicts(grid[0], study.margin, theme)
    legend_below(figure, grid[:1])
    return figure


def divergences(study: QuantStudy, measure: str, theme: Theme) -> Any:
    """One panel per condition: loss against mean KL divergence on the first kind of text."""
    panels, kind = _losses(study), _kind(study)
    figure, axes = stacked(list(panels), 3.5)
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        axis.axhline(0, color=theme.quiet, linewidth=1)
        for point, divergence in points:
            _mark(axis, point, theme, xerr=whiskers([divergence]))
        _divergence_axis(axis)
        found = next(
            (k for k in study.kl_correlations if (k.text, k.condition) == (kind, title)), None
        )
        axis.set_title(shown(title), loc="left")
        if found:
            rho = found.correlation
            text = f"Spearman {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}], {found.points} files"
            axis.set_title(text, loc="right", size=10)
        _room(axis, [end for point, _ in points for end in (0, *point.level.ends)])
        axis.set_ylabel(f"{shown(measure)} lost")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel(f"mean KL divergence from F16, nats per token ({shown(kind)} texts)")
    legend_below(figure, axes)
    figure.draw_without_rendering()  # names find room once the panels have their places
    for axis, points in zip(axes, panels.values(), strict=True):
        _name_points(axis, [point for point, _ in points], theme)
    return figure


def front(points: Iterable[Point]) -> list[Point]:
    """The Pareto front, fewest bits first: each better than all that are as small or smaller."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.across, -each.level.value)):
        if not best or point.level.value > best[-1].level.value:
            best.append(point)
    return best


def _levels(study: QuantStudy) -> dict[str, list[Point]]:
    """The files' levels by condition, over bits per weight."""
    panels: dict[str, list[Point]] = {}
    for quant, cell in _trained(study):
        if (level := cell.score.headline) is not None:
            panels.setdefault(cell.condition, []).append(
                _point(quant, quant.record.bits_per_weight, level)
            )
    return panels


def _differences(study: QuantStudy) -> Differences:
    """The files with a difference from F16 in character, by condition and name."""
    return _by_condition(study, "", lambda cell: cell.difference)


def _work(study: QuantStudy) -> Differences:
    """The same files' differences in the share of emails that agents send unforced."""
    return _by_condition(study, ", sent unforced", lambda cell: cell.difference and cell.unforced)


def _by_condition(
    study: QuantStudy, ending: str, of: Callable[[CellQuality], PairedDifference | None]
) -> Differences:
    panels: Differences = {}
    for quant, cell in _trained(study):
        if (found := of(cell)) is not None:
            panels.setdefault(cell.condition + ending, {})[quant.name] = quant, found
    return panels


def _losses(study: QuantStudy) -> dict[str, list[tuple[Point, Estimate]]]:
    """The files' losses by condition, with the KL divergence that they lie over."""
    panels: dict[str, list[tuple[Point, Estimate]]] = {}
    for quant, cell in _trained(study):
        known = quant.fidelity.get(_kind(study))
        if cell.difference and known and known.kl_mean.value > 0:
            change = cell.difference.change
            loss = Estimate(-change.value, -change.high, -change.low)
            point = _point(quant, known.kl_mean.value, loss)
            panels.setdefault(cell.condition, []).append((point, known.kl_mean))
    return panels


def _kind(study: QuantStudy) -> str:
    """The first kind of text that fidelity was measured on, "" where it was not."""
    return next((kind for quant in study.quants for kind in quant.fidelity), "")


def _trained(study: QuantStudy) -> Iterable[tuple[QuantScore, CellQuality]]:
    return ((quant, cell) for quant in study.quants for cell in quant.trained_cells)


def _point(quant: QuantScore, across: float, level: Estimate) -> Point:
    return Point(quant.record.quant, quant.record.lora, across, level)


def _mark(axis: Any, point: Point, theme: Theme, xerr: Any = None) -> None:
    colour, marker = WAYS[point.lora]
    place, whisker = (point.across, point.level.value), whiskers([point.level])
    axis.errorbar(*place, yerr=whisker, xerr=xerr, color=colour, linewidth=1.2, capsize=3)
    axis.plot(
        *place,
        marker,
        color=colour,
        markersize=8,
        markeredgecolor=theme.paper,
        zorder=3,  # above all intervals
        label=_way(point.lora),
    )


def _side_by_side(points: Sequence[Point]) -> list[Point]:
    """Files of the same size a little apart."""
    found = []
    for point in points:
        same = [each for each in points if _size(each) == _size(point)]
        shift = 1 + 0.028 * (same.index(point) - (len(same) - 1) / 2)
        found.append(replace(point, across=point.across * shift))
    return found


def _shared(points: Sequence[Point]) -> list[str]:
    """The types that are as large as another, which the axis cannot tell apart."""
    sizes = {point.quant: _size(point) for point in points}
    return [quant for quant, size in sizes.items() if [*sizes.values()].count(size) > 1]


def _name_above(axis: Any, points: Sequence[Point], theme: Theme) -> None:
    """The name of a type, upright above its points at the top of the panel."""
    axis.text(
        sum(point.across for point in points) / len(points),
        0.98,
        shown(points[0].quant),
        transform=axis.get_xaxis_transform(),
        ha="center",
        va="top",
        rotation=90,
        size=9,
        color=theme.ink,
    )


def _size(point: Point) -> float:
    return round(point.across, 2)


def _row(axis: Any, place: int, colour: str, found: PairedDifference, theme: Theme) -> None:
    """A difference: thin its 95% interval, thick its 90% interval, the verdict in the marker."""
    axis.plot(found.change.ends, [place] * 2, color=colour, linewidth=1.2)
    axis.plot(found.interval_90, [place] * 2, color=colour, linewidth=3.5, solid_capstyle="butt")
    axis.plot(
        found.change.value,
        place,
        marker="X" if found.equivalent is False else "o",
        markersize=8,
        color=colour,
        markerfacecolor=theme.paper if found.equivalent is None else colour,
        markeredgecolor=theme.paper if found.equivalent is False else colour,
        markeredgewidth=0.6 if found.equivalent is False else 1.6,
    )


def _verdicts(axis: Any, margin: float, theme: Theme) -> None:
    """What the markers and the band mean, for the legend."""
    for label, marker, face in (
        (f"within {margin:g} of F16", "o", theme.ink),
        ("not decided", "o", theme.paper),
        (f"further than {margin:g}", "X", theme.ink),
    ):
        axis.plot([], [], marker, color=theme.ink, markerfacecolor=face, markersize=8, label=label)


def _size_labels(points: Sequence[Point]) -> dict[float, str]:
    """The types' names and bits by bits, in deeper lines where they would cover each other."""
    sizes: dict[float, list[str]] = {}
    for point in points:
        names = sizes.setdefault(_size(point), [])
        if point.quant not in names:
            names.append(point.quant)
    ends: list[float] = []
    labels, depth = {}, 1 + max(map(len, sizes.values()))
    for bits, names in sorted(sizes.items()):
        lines = [*map(shown, names), f"{bits:g}"]
        half = LETTER * (max(map(len, lines)) + 1) / 2  # a letter between two stays free
        place = PANEL * _octaves(_reach(points)[0], bits) / _octaves(*_reach(points))
        level = next((n for n, end in enumerate(ends) if end < place - half), len(ends))
        ends[level : level + 1] = [place + half]
        labels[bits] = "\n" * (level * depth) + "\n".join(lines)
    return labels


def _reach(points: Sequence[Point]) -> tuple[float, float]:
    """The limits of the axis of bits, with room for files side by side."""
    sizes = [_size(point) for point in points]
    return min(sizes) * 0.91, max(sizes) * 1.06


def _octaves(low: float, high: float) -> float:
    from math import log2

    return log2(high / low)


def _divergence_axis(axis: Any) -> None:
    """A logarithmic axis with plain numbers, also where it spans less than a decade."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _room(axis: Any, ends: Sequence[float], above: float = 0) -> None:
    """Limits that hold all ends, with some room around, and ``above`` as a share of their range."""
    low, high = min(ends), max(ends)
    span = (high - low) or 0.5
    axis.set_ylim(low - 0.08 * span, high + (0.08 + above) * span)


def _name_points(axis: Any, points: Sequence[Point], theme: Theme) -> None:
    """The types' names beside their points, clear of points and other names."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    centres = [axis.transData.transform((p.across, p.level.value)) for p in points]
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    for point in points:
        for dx, dy in OFFSETS:
            name = axis.annotate(
                shown(point.quant),
                (point.across, point.level.value),
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right",
                va="center",
                size=9,
                color=theme.ink,
                path_effects=[withStroke(linewidth=2.5, foreground=theme.paper)],
                zorder=4,
                in_layout=False,
            )
            box = name.get_window_extent()
            inside = axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()


def _way(lora: str) -> str:
    ways = {"runtime": "F16 adapter on top", "merged": "merged, then quantized"}
    return ways.get(lora, "no adapter")

"""KL divergence against loss of character."""

from collections.abc import Sequence
from typing import Any

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.quant.tables import Record, estimate_columns, file_columns
from charprobe_lite.eval.report.figures import Figure, canvas, panels
from charprobe_lite.eval.report.figures.canvas import Theme, one_line
from charprobe_lite.eval.report.figures.panels import Point, QuantPanels
from charprobe_lite.eval.report.study import ReportStudy
from charprobe_lite.eval.stats.bootstrap import Estimate

OFFSETS = tuple((dx, dy) for dy in (9, -9, 22, -22, 35, -35) for dx in (7, -7))
"""Where a name can be from its point, in points of print; the first that is free."""
FIDELITY = ("perplexity", "ratio", "kl_mean", "kl_median", "kl_p99", "top1")
Loss = tuple[Point, Estimate]
"""A point of lost character, with the KL divergence that it lies over."""


def numbers(study: ReportStudy) -> QuantPanels[Loss] | None:
    """The files' losses by condition, over mean KL divergence on the first kind of text."""
    kind = _text_kind(study.quants) if study.quants else ""

    def loss(quant: QuantScore, cell: CellQuality) -> Loss | None:
        fidelity = quant.fidelity.get(kind)
        if not cell.difference or not fidelity or fidelity.kl_mean.value <= 0:
            return None
        change = cell.difference.change
        level = Estimate(-change.value, -change.high, -change.low)
        record, divergence = quant.record, fidelity.kl_mean
        return Point(record.label, record.lora, divergence.value, level), divergence

    return panels.quant_panels(study, loss)


def _text_kind(study: QuantStudy) -> str:
    """The first kind of text that fidelity was measured on, "" where it was not."""
    return next((kind for quant in study.quants for kind in quant.fidelity), "")


def draw(data: QuantPanels[Loss], theme: Theme) -> Any:
    """One panel per condition: loss against mean KL divergence."""
    from matplotlib.ticker import LogLocator, NullLocator

    kind = _text_kind(data.study)
    correlations = {(kl.text, kl.condition): kl for kl in reversed(data.study.kl_correlations)}

    def draw_panel(axis: Any, title: str, losses: list[Loss]) -> None:
        axis.axhline(0, color=theme.quiet, linewidth=1)
        for point, divergence in losses:
            panels.draw_point(axis, point, theme, xerr=canvas.whiskers([divergence]))
        # plain numbers, also where the axis spans less than a decade
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_title(one_line(title), loc="left")
        if kl := correlations.get((kind, title)):
            rho = kl.correlation
            text = f"Spearman {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}], {kl.types} types"
            axis.set_title(text, loc="right", size=10)
        panels.fit_axis(axis, [end for point, _ in losses for end in (0, *point.level.ends)])
        axis.set_ylabel(f"{one_line(data.metric)} lost")
        axis.grid(alpha=0.3)

    if figure := canvas.draw_panels(data.panels, draw_panel, 3.5):
        texts = f"({one_line(kind)} texts)"
        figure.axes[-1].set_xlabel(f"mean KL divergence from F16, nats per token {texts}")
        figure.draw_without_rendering()  # names find room once the panels have their places
        for axis, losses in zip(figure.axes, data.panels.values(), strict=True):
            _name_points(axis, [point for point, _ in losses], theme)
    return figure


def _name_points(axis: Any, points: Sequence[Point], theme: Theme) -> None:
    """The types' names next to their points, clear of points and other names."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    centres = [axis.transData.transform((p.x, p.level.value)) for p in points]
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    halo = withStroke(linewidth=2.5, foreground=theme.paper)
    style = {"size": 9, "color": theme.ink, "path_effects": [halo], "zorder": 4, "in_layout": False}
    for point in points:
        for dx, dy in OFFSETS:
            side = {"ha": "left" if dx > 0 else "right", "va": "center"}
            place = {"xytext": (dx, dy), "textcoords": "offset points", **side}
            name = axis.annotate(
                one_line(point.quant), (point.x, point.level.value), **place, **style
            )
            box = name.get_window_extent()
            inside = axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()


def records(data: QuantPanels[Loss]) -> list[Record]:
    """A record per file and kind of text."""
    tables = []
    for quant in data.study.quants:
        for kind, score in quant.fidelity.items():
            record = {**file_columns(quant), "texts": kind, "tokens": score.tokens}
            for name in FIDELITY:
                record |= estimate_columns(name, getattr(score, name))
            tables.append(record)
    return tables


FIGURE = Figure(
    name="quant-kl",
    order=130,
    section="quantization",
    title="KL divergence against loss of character",
    alt="Points: the loss of {study.quant_metric} against the mean KL divergence from F16, both "
    "with 95% intervals.",
    caption="Fidelity to F16 by kind of text",
    numbers=numbers,
    draw=draw,
    records=records,
)

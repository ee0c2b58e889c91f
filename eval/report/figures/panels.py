"""What panels show and how: levels of cells, with the published ones, and points of files."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Generic

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.quant.tables import Record, estimate_columns, trained_cells
from charprobe_lite.eval.report.figures import canvas
from charprobe_lite.eval.report.figures.canvas import Contents, Look, Theme, one_line
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.models.axes import AXIS_CEILINGS
from charprobe_lite.models.core_yaml import parse_yaml

LORA_LOOKS = {
    "runtime": ("#0072B2", "o", "F16 adapter on top"),
    "merged": ("#D55E00", "s", "merged, then quantized"),
    None: ("#8C8C8C", "D", "no adapter"),
}
"""Colour, marker and legend of the two LoRA modes, and of a file without an adapter."""


CEILING_NAMES = {
    "independent": "independent writers",
    "teacher_loud": "training author, loud",
    "teacher_subtle": "training author, subtle",
}
"""Who wrote the texts of a ceiling, by its stage."""


def ceiling_name(cell: Cell) -> str:
    """Who wrote the texts of a ceiling, and what they are if not emails."""
    name = CEILING_NAMES.get(cell.stage, one_line(cell.stage))
    if cell.condition not in AXIS_CEILINGS.values():
        return name
    return f"{name}, {cell.condition.removesuffix('_ceiling')}"


@dataclass(frozen=True)
class Bar:
    """One level of a panel; ``published`` is that of the same cell in the published study.

    ``published_classes`` are the personas that the published macro-F1 is averaged over.
    """

    group: str
    series: str
    level: Estimate
    n: int
    published: float | None = None
    published_classes: int | None = None


@dataclass(frozen=True)
class Panels(Generic[Contents]):
    """A study, and what a figure shows of it by the titles of the panels."""

    study: ReportStudy
    panels: dict[str, Contents]


def levels(study: ReportStudy, select: Callable[[Cell], bool]) -> Panels[list[Bar]]:
    """The levels of the cells to ``select``: a panel per base and quant type."""
    panels: dict[str, list[Bar]] = {}
    for cell, score in study.cell_scores.items():
        if select(cell) and (level := score.headline) is not None:
            published = published_level(cell) if len(study.personas) > 1 else ()
            bar = Bar(cell.stage, cell.label, level, score.n, *published)
            panels.setdefault(checkpoint_label(cell), []).append(bar)
    return Panels(study, panels)


def panel_records(data: Panels[list[Bar]], panel_name: str, group_name: str) -> list[Record]:
    """A record per bar; ``published`` only where a bar has it."""
    bars = [(title, bar) for title, bars in data.panels.items() for bar in bars]
    names = ("published", "published_classes")
    any_published = any(bar.published is not None for _, bar in bars)
    return [
        {
            panel_name: title,
            group_name: bar.group,
            "condition": bar.series,
            **estimate_columns("value", bar.level),
            "samples": bar.n,
            **({name: getattr(bar, name) for name in names} if any_published else {}),
        }
        for title, bar in bars
    ]


def groups_of(bars: Iterable[Bar]) -> list[str]:
    """The groups in their order."""
    return list(dict.fromkeys(bar.group for bar in bars))


def series_of(*panels: Iterable[Bar]) -> list[str]:
    """The series of all panels, which have one legend."""
    return list(dict.fromkeys(bar.series for bars in panels for bar in bars))


def draw_bar(
    axis: Any, x: float, width: float, level: Estimate, look: Look, theme: Theme, label: str = ""
) -> None:
    """A bar with its interval and its number."""
    axis.bar(x, level.value, width, label=label, **look.fill(theme))
    axis.errorbar(x, level.value, yerr=canvas.whiskers([level]), color=theme.ink)
    canvas.write_number(axis, x, level.high, f"{level.value:.2f}", theme)


def level_axis(axis: Any, title: str, study: ReportStudy, theme: Theme) -> None:
    """An axis from 0 to 1 with the line of chance."""
    label = f"chance ({study.chance:.3f})"
    axis.axhline(study.chance, color=theme.quiet, linestyle=":", linewidth=1.8, label=label)
    axis.set(ylim=(0, 1.12), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set(ylabel=one_line(study.metric), title=one_line(title))
    axis.grid(axis="y", alpha=0.3)


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
    x, y, ends = point.x, point.level.value, canvas.whiskers([point.level])
    axis.errorbar(x, y, yerr=ends, xerr=xerr, color=colour, linewidth=1.2, capsize=3)
    style = {"color": colour, "markeredgecolor": theme.paper, "zorder": 3}
    axis.plot(x, y, marker, label=label, **style)


def fit_axis(axis: Any, ends: Sequence[float], above: float = 0) -> None:
    """Limits that hold all ends, with some room around, and ``above`` as a share of their range."""
    low, high = min(ends), max(ends)
    span = (high - low) or 0.5
    axis.set_ylim(low - 0.08 * span, high + (0.08 + above) * span)


def published_level(cell: Cell) -> tuple[float, int] | tuple[()]:
    """The published macro-F1 of a cell and how many classes it is over; empty without one."""
    study = published_study()
    level = study["levels"].get(cell.base, {}).get(cell.stage, {}).get(cell.condition)
    if isinstance(level, dict):
        return level["value"], level["classes"]
    return () if level is None else (level, study["classes"])


def published_label(name: str, classes: int | None, study: ReportStudy) -> str:
    """The legend of published levels; says over how many classes where the study's are others."""
    return f"{name}, published" + f", over {classes} classes" * (classes != len(study.personas))


@lru_cache(maxsize=1)
def published_study() -> dict[str, Any]:
    """published.yaml: ``source``, ``note``, and ``levels`` by base, stage and condition."""
    text = (resources.files("charprobe_lite.eval.report") / "published.yaml").read_text("utf-8")
    document: dict[str, Any] = parse_yaml(text)
    return document

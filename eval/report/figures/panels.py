"""Panels of levels: the scores of a base's cells by stage or persona, with the published ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.tables import Record, estimate_columns
from charprobe_lite.eval.report.figures.canvas import Look, Theme, one_line, whiskers, write_number
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label
from charprobe_lite.eval.stats.bootstrap import Estimate


@dataclass(frozen=True)
class Bar:
    """One level of a figure; ``published`` is that of the same cell in the published study."""

    group: str
    series: str
    level: Estimate
    n: int
    published: float | None = None


@dataclass(frozen=True)
class Panel:
    """One part of a figure: a base, a stage or both."""

    title: str
    bars: list[Bar]

    @property
    def groups(self) -> list[str]:
        """The groups of bars in their order."""
        return list(dict.fromkeys(bar.group for bar in self.bars))


@dataclass(frozen=True)
class Levels:
    """Panels of one metric, and what guessing every label equally often would score."""

    metric: str
    chance: float
    panels: list[Panel]


def levels(study: ReportStudy, select: Callable[[Cell], bool]) -> Levels | None:
    """The levels of the cells to ``select``: a panel per base and quant type."""
    panels: dict[str, list[Bar]] = {}
    for cell, score in study.cell_scores.items():
        if select(cell) and (level := score.headline) is not None:
            key = (cell.base, cell.stage, cell.condition)
            published = published_levels().get(key) if len(study.personas) > 1 else None
            bar = Bar(cell.stage, cell.label, level, score.n, published)
            panels.setdefault(checkpoint_label(cell), []).append(bar)
    named = [Panel(title, bars) for title, bars in panels.items()]
    return Levels(study.metric, study.chance, named) if named else None


def panel_records(panels: Sequence[Panel], panel_name: str, group_name: str) -> list[Record]:
    """A record per bar; ``published`` only where a bar has it."""
    bars = [(panel.title, bar) for panel in panels for bar in panel.bars]
    any_published = any(bar.published is not None for _, bar in bars)
    return [
        {
            panel_name: title,
            group_name: bar.group,
            "condition": bar.series,
            **estimate_columns("value", bar.level),
            "samples": bar.n,
            **({"published": bar.published} if any_published else {}),
        }
        for title, bar in bars
    ]


def all_series(panels: Sequence[Panel]) -> list[str]:
    """The series of all panels, which have one legend."""
    return list(dict.fromkeys(bar.series for panel in panels for bar in panel.bars))


def draw_bar(
    axis: Any, x: float, width: float, level: Estimate, look: Look, theme: Theme, label: str = ""
) -> None:
    """A bar with its interval and its number."""
    axis.bar(
        x,
        level.value,
        width,
        color=look.colour,
        hatch=look.hatch,
        edgecolor=theme.paper,
        linewidth=0,
        label=label,
    )
    axis.errorbar(x, level.value, yerr=whiskers([level]), color=theme.ink, capsize=4)
    write_number(axis, x, level.high, f"{level.value:.2f}", theme)


def level_axis(axis: Any, title: str, metric: str, chance: float, theme: Theme) -> None:
    """An axis from 0 to 1 with the line of chance."""
    axis.axhline(
        chance, color=theme.quiet, linestyle=":", linewidth=1.8, label=f"chance ({chance:.3f})"
    )
    axis.set_ylim(0, 1.12)
    axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set_ylabel(one_line(metric))
    axis.set_title(one_line(title))
    axis.grid(axis="y", alpha=0.3)


def published_levels() -> dict[tuple[str, str, str], float]:
    """Macro-F1 of the published study by (base, stage, condition)."""
    return {
        (cell["base"], cell["stage"], condition): cell[condition]
        for cell in published_study()["cells"]
        for condition in ("chat", "chat_email", "agentic_email")
    }


@lru_cache(maxsize=1)
def published_study() -> dict[str, Any]:
    """published.yaml: ``source``, ``measure`` and ``cells``."""
    text = (resources.files("charprobe_lite.eval.report") / "published.yaml").read_text("utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document

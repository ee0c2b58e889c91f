"""The gap, step by step: from the chat window to the agent, with the change of every step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.tables import Record, estimate_columns
from charprobe_lite.eval.report.figures import canvas
from charprobe_lite.eval.report.figures.canvas import Theme
from charprobe_lite.eval.report.figures.figure import Figure
from charprobe_lite.eval.report.figures.panels import draw_bar, level_axis
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label, most_trained
from charprobe_lite.eval.scores.gap import CEILING, CONDITION_STEPS, condition_chains
from charprobe_lite.eval.stats.bootstrap import Estimate


@dataclass(frozen=True)
class Step:
    """A condition, its level, and the change from the one before."""

    stage: str
    condition: str
    level: Estimate
    change: Estimate | None = None


@dataclass(frozen=True)
class Gap:
    """The steps from chat to agent of one checkpoint, and the ceilings of the classifier."""

    title: str
    steps: list[Step]
    ceilings: list[Step]


@dataclass(frozen=True)
class Gaps:
    """The gaps of all checkpoints, in one metric."""

    metric: str
    chance: float
    gaps: list[Gap]


def numbers(study: ReportStudy) -> Gaps | None:
    """The steps of the most trained stage, per base, quant type and tool format."""
    cells = [cell for cell in study.cells if cell.condition in CONDITION_STEPS]
    gaps = [
        gap
        for checkpoint in dict.fromkeys(map(checkpoint_label, cells))
        for chain in condition_chains(
            most_trained([cell for cell in cells if checkpoint_label(cell) == checkpoint])
        )
        if chain[-1].condition == CONDITION_STEPS[-1]
        for gap in [_gap(study, checkpoint, chain)]
        if len(gap.steps) > 1
    ]
    return Gaps(study.metric, study.chance, gaps) if gaps else None


def _gap(study: ReportStudy, checkpoint: str, chain: list[Cell]) -> Gap:
    changes = {(step.before, step.after): step.change for step in study.scores.comparison.steps}
    last = chain[-1]
    ceilings = [c for c in study.cells if c.condition == CEILING and c.base == last.base]
    steps = [(chain[0], None), *((ends[1], changes.get(ends)) for ends in pairwise(chain))]
    variant = last.label.removeprefix(last.condition)
    return Gap(
        f"{checkpoint}: {last.stage}{variant}",
        _steps(study, steps),
        _steps(study, [(cell, None) for cell in ceilings]),
    )


def _steps(study: ReportStudy, cells: list[tuple[Cell, Estimate | None]]) -> list[Step]:
    """Those with a level."""
    levels = [(cell, study.cell_scores[cell].headline, change) for cell, change in cells]
    return [Step(cell.stage, cell.label, level, change) for cell, level, change in levels if level]


def draw(data: Gaps, theme: Theme) -> Any:
    """Levels as full bars at both ends, changes hanging between them, the ceilings apart."""
    figure, axes = canvas.stacked(len(data.gaps), 3.8)
    for axis, gap in zip(axes, data.gaps, strict=True):
        first, last, end = gap.steps[0], gap.steps[-1], len(gap.steps)
        _draw_level(axis, 0, first, theme)
        places = [(0.0, canvas.one_line(first.condition))]
        for number, step in enumerate(gap.steps[1:], 1):
            _draw_change(axis, number, step, theme)
            places.append((number, f"to {canvas.one_line(step.condition)}"))
        _draw_level(axis, end, last, theme)
        places.append((end, canvas.one_line(last.condition)))
        for number, step in enumerate(gap.ceilings, end + 1):
            _draw_level(axis, number + 0.3, step, theme)
            places.append((number + 0.3, f"emails of {canvas.one_line(step.stage)}"))
        axis.set_xticks([x for x, _ in places], [canvas.wrapped(name) for _, name in places])
        axis.set_xlim(-0.6, places[-1][0] + 0.75)
        level_axis(axis, gap.title, data.metric, data.chance, theme)
        axis.set_ylim(0, 1.3)  # above each change is its interval in figures
    canvas.legend_below(figure, axes)
    return figure


def _draw_level(axis: Any, x: float, step: Step, theme: Theme) -> None:
    condition = step.condition.partition(",")[0]  # the look does not depend on the tool format
    draw_bar(axis, x, 0.6, step.level, canvas.look_of(condition, [condition]), theme)


def _draw_change(axis: Any, x: float, step: Step, theme: Theme) -> None:
    """A change from the level before, with its interval at its end."""
    level, change = step.level.value, step.change.value if step.change else 0.0
    before = level - change
    colour = "#D55E00" if change < 0 else "#009E73"
    axis.bar(x, change, 0.6, bottom=before, color=colour, alpha=0.55)
    axis.plot([x - 1 + 0.3, x - 0.3], [before, before], color=theme.quiet, linewidth=1)
    axis.plot([x + 0.3, x + 0.7], [level, level], color=theme.quiet, linewidth=1)
    top, text = max(before, level), f"{change:+.2f}"
    if step.change:
        low, high = step.change.ends
        ends = [[change - low], [high - change]]
        axis.errorbar(x, level, yerr=ends, color=theme.ink, capsize=4)
        top = max(top, before + high)
        text += f"\n[{low:+.2f}, {high:+.2f}]"
    canvas.write_number(axis, x, top, text, theme, size=8.5)  # two intervals fit next to each other


def records(data: Gaps) -> list[Record]:
    """A record per step, the ceilings last."""
    return [
        {
            "checkpoint": gap.title,
            "stage": step.stage,
            "condition": step.condition,
            **estimate_columns("value", step.level),
            **estimate_columns("change", step.change),
        }
        for gap in data.gaps
        for step in gap.steps + gap.ceilings
    ]


FIGURE = Figure(
    name="gap",
    order=40,
    title="The gap, step by step",
    alt="Waterfall: {study.metric} from chat to agentic_email, every step's change.",
    caption="From chat to agent",
    numbers=numbers,
    draw=draw,
    records=records,
)

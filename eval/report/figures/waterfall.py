"""The gap, step by step: from the chat window to the agent, with the change of every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.tables import Record, estimate_columns
from charprobe_lite.eval.report.figures import Figure, canvas, panels
from charprobe_lite.eval.report.figures.canvas import Theme, one_line
from charprobe_lite.eval.report.figures.panels import Panels, ceiling_name
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label, most_trained
from charprobe_lite.eval.scores.cells import CellScore, Scores
from charprobe_lite.eval.scores.gap import (
    CEILINGS,
    CONDITION_STEPS,
    Difference,
    Retention,
    ceilings_of,
    condition_chains,
)
from charprobe_lite.eval.stats.bootstrap import Estimate

CHANGE_SIZE = 8.0  # points: two intervals fit next to each other


@dataclass(frozen=True)
class Step:
    """A cell, its level, and the difference from the cell before; a ceiling has none."""

    cell: Cell
    level: Estimate
    difference: Difference | None = None
    retention: Retention | None = None

    @property
    def change(self) -> Estimate | None:
        """The change from the cell before."""
        return self.difference.change if self.difference else None


def numbers(study: ReportStudy) -> Panels[list[Step]]:
    """The steps of the most trained stage, per base, quant type, tool format and instrument.

    The ceilings of the classifier come last.
    """
    cells = [cell for cell in study.cells if cell.condition in CONDITION_STEPS]
    gaps = {}
    for checkpoint in dict.fromkeys(map(checkpoint_label, cells)):
        variants = [cell for cell in cells if checkpoint_label(cell) == checkpoint]
        for chain in condition_chains(most_trained(variants)):
            last = chain[-1]
            title = f"{checkpoint}: {last.stage}{last.label.removeprefix(last.condition)}"
            for name, scores in study.readings.items():
                steps = _steps(scores, chain)
                if last.condition == CONDITION_STEPS[-1] and len(steps) > 1:
                    ceilings = [c for c in ceilings_of(study.cells) if c.base == last.base]
                    reader = f", read by {name}" if len(study.readings) > 1 else ""
                    later = [step for cell in ceilings for step in _steps(scores, [cell])]
                    gaps[f"{title}{reader}"] = steps + later
    return Panels(study, gaps)


def _steps(scores: Scores, chain: list[Cell]) -> list[Step]:
    """The cells of a chain that have a level."""
    changes = {(step.before, step.after): step for step in scores.comparison.steps}
    by_cell: Mapping[Cell, CellScore] = {score.cell: score for score in scores.by_cell}
    pairs = zip(chain[:1] + chain, chain, strict=False)  # the first follows on nothing
    return [
        Step(cell, level, changes.get((last, cell)), by_cell[cell].retention)
        for last, cell in pairs
        if (level := by_cell[cell].headline)
    ]


def draw(data: Panels[list[Step]], theme: Theme) -> Any:
    """Levels as full bars at both ends, changes hanging between them, the ceilings apart."""

    def draw_panel(axis: Any, title: str, steps: list[Step]) -> None:
        first, *later = [step for step in steps if step.cell.condition not in CEILINGS]
        ceilings, end = steps[1 + len(later) :], 1 + len(later)
        _draw_level(axis, 0, first, theme)
        for x, step in enumerate(later, 1):
            _draw_change(axis, x, step, theme)
        places = [*range(end + 1), *(end + 1 + n + 0.4 for n in range(len(ceilings)))]
        for place, step in zip(places[end:], [later[-1], *ceilings], strict=True):
            _draw_level(axis, place, step, theme)
        _draw_ceiling_line(axis, places, end, later[-1], ceilings, theme)
        changes = [f"{_cause(step)}{_note(step)}" for step in later]
        names = [one_line(step.cell.label) for step in (first, later[-1])]
        emails = [f"emails of {ceiling_name(step.cell)}" for step in ceilings]
        ticks = [names[0], *changes, names[1], *emails]
        axis.set_xticks(places, [canvas.wrapped(tick, 11) for tick in ticks], size=8.5)
        axis.set_xlim(-0.6, places[-1] + 0.75)
        panels.level_axis(axis, title, data.study, theme)
        # above each change is its interval in figures, above those the headings
        top = max([1.02, *(_top(step) for step in later)]) + 0.43
        axis.set_ylim(0, top)
        _write_heading(axis, places[1:end], top, "one change at a time", theme)
        _write_heading(axis, places[end + 1 :], top, "certainly in character", theme)

    return canvas.draw_panels(data.panels, draw_panel, 3.8)


def _cause(step: Step) -> str:
    """What a step changes; where the study leaves conditions out, where it leads to."""
    one = step.difference and " + " not in step.difference.cause
    return step.difference.cause if step.difference and one else f"to {one_line(step.cell.label)}"


def _note(step: Step) -> str:
    """Over how many personas a change is where they are not all of the study's."""
    return f", {len(_personas(step))} personas" if _personas(step) else ""


def _personas(step: Step) -> list[str]:
    return (step.difference and step.difference.personas) or []


def _draw_level(axis: Any, x: float, step: Step, theme: Theme) -> None:
    condition = step.cell.condition  # the look does not depend on the tool format
    panels.draw_bar(axis, x, 0.6, step.level, canvas.look_of(condition, [condition]), theme)


def _write_heading(axis: Any, places: list[float], top: float, text: str, theme: Theme) -> None:
    if places:
        middle = (places[0] + places[-1]) / 2
        axis.text(middle, top - 0.05, text, ha="center", va="center", size=9, color=theme.quiet)


def _draw_ceiling_line(
    axis: Any, places: list[float], end: int, last: Step, ceilings: list[Step], theme: Theme
) -> None:
    """From the agent's emails to the ceiling that its retention is measured against."""
    if not ceilings or last.retention is None:
        return
    level, share = ceilings[0].level.value, last.retention
    axis.plot(
        [0.5, places[end + 1]],
        [level, level],
        color=theme.ink,
        linestyle="--",
        linewidth=1,
        zorder=0.5,
    )
    text = f"kept: {share.value:.0%}\nof the ceiling\n[{share.low:.0%}, {share.high:.0%}]"
    axis.text(
        places[end], 0.03, text, ha="center", va="bottom", size=7.5, **canvas.boxed_text(theme)
    )


def _ends(step: Step) -> tuple[float, float]:
    """The levels before and after a change, both over its personas."""
    level = step.difference.levels[1].value if step.difference else step.level.value
    return level - (step.change.value if step.change else 0.0), level


def _top(step: Step) -> float:
    """The upper end of a change's bar and whisker."""
    before, level = _ends(step)
    return max(before, level, before + step.change.high if step.change else 0.0)


def _draw_change(axis: Any, x: float, step: Step, theme: Theme) -> None:
    """A change from the level before, with its interval at its end; both over its personas."""
    before, level = _ends(step)
    change = level - before
    colour = "#D55E00" if change < 0 else "#009E73"
    axis.bar(x, change, 0.6, bottom=before, color=colour, alpha=0.55)
    axis.plot([x - 1 + 0.3, x - 0.3], [before, before], color=theme.quiet, linewidth=1)
    axis.plot([x + 0.3, x + 0.7], [level, level], color=theme.quiet, linewidth=1)
    text = f"{change:+.2f}" if step.change else "not compared"
    if step.change:
        low, high = step.change.ends
        axis.errorbar(x, level, yerr=canvas.whiskers([step.change]), color=theme.ink)
        text += f"\n[{low:+.2f},\n{high:+.2f}]"
    canvas.write_number(axis, x, _top(step), text, theme, CHANGE_SIZE, boxed=True)


def records(data: Panels[list[Step]]) -> list[Record]:
    """A record per step, the ceilings last; the personas of changes that are not over all."""
    steps = [step for steps in data.panels.values() for step in steps]
    partial = any(map(_personas, steps))
    return [
        {
            "checkpoint": title,
            "stage": step.cell.stage,
            "condition": step.cell.label,
            **estimate_columns("value", step.level),
            "through": step.difference and step.difference.cause,
            **estimate_columns("change", step.change),
            **estimate_columns("retention", step.retention),
            **({"personas": ", ".join(_personas(step)) or None} if partial else {}),
        }
        for title, steps in data.panels.items()
        for step in steps
    ]


FIGURE = Figure(
    name="gap",
    order=40,
    title="The gap, step by step",
    alt="From left to right, each hanging bar is what one change alone does to {study.metric}, "
    "with its 95% interval. Bars of emails by independent writers and the dashed line, if the "
    "study has them, show what the classifier sees in emails that are certainly in character: "
    "it cannot be expected to see more in an agent's email. Kept: the agent's share of that, "
    "from the untrained base upwards.",
    caption="From chat to agent",
    numbers=numbers,
    draw=draw,
    records=records,
)

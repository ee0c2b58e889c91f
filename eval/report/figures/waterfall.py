"""The gap, step by step: from the chat window to the agent, with the change of every step."""

from dataclasses import dataclass
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.tables import Record, estimate_columns
from charprobe_lite.eval.report.figures import Figure, canvas, panels
from charprobe_lite.eval.report.figures.canvas import Theme, one_line
from charprobe_lite.eval.report.figures.panels import Panels
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label, most_trained
from charprobe_lite.eval.scores.gap import (
    CEILINGS,
    CONDITION_STEPS,
    Difference,
    ceilings_of,
    condition_chains,
)
from charprobe_lite.eval.stats.bootstrap import Estimate


@dataclass(frozen=True)
class Step:
    """A cell, its level, and the difference from the cell before; a ceiling has none."""

    cell: Cell
    level: Estimate
    difference: Difference | None = None

    @property
    def change(self) -> Estimate | None:
        """The change from the cell before."""
        return self.difference.change if self.difference else None


def numbers(study: ReportStudy) -> Panels[list[Step]]:
    """The steps of the most trained stage, per base, quant type and tool format.

    The ceilings of the classifier come last.
    """
    cells = [cell for cell in study.cells if cell.condition in CONDITION_STEPS]
    gaps = {}
    for checkpoint in dict.fromkeys(map(checkpoint_label, cells)):
        variants = [cell for cell in cells if checkpoint_label(cell) == checkpoint]
        for chain in condition_chains(most_trained(variants)):
            steps, last = _steps(study, chain), chain[-1]
            if last.condition == CONDITION_STEPS[-1] and len(steps) > 1:
                title = f"{checkpoint}: {last.stage}{last.label.removeprefix(last.condition)}"
                ceilings = [cell for cell in ceilings_of(study.cells) if cell.base == last.base]
                gaps[title] = steps + [s for cell in ceilings for s in _steps(study, [cell])]
    return Panels(study, gaps)


def _steps(study: ReportStudy, chain: list[Cell]) -> list[Step]:
    """The cells of a chain that have a level."""
    changes = {(step.before, step.after): step for step in study.scores.comparison.steps}
    pairs = zip(chain[:1] + chain, chain, strict=False)  # the first follows on nothing
    steps = [
        (cell, study.cell_scores[cell].headline, changes.get((last, cell))) for last, cell in pairs
    ]
    return [Step(cell, level, change) for cell, level, change in steps if level]


def draw(data: Panels[list[Step]], theme: Theme) -> Any:
    """Levels as full bars at both ends, changes hanging between them, the ceilings apart."""

    def draw_panel(axis: Any, title: str, steps: list[Step]) -> None:
        first, *later = [step for step in steps if step.cell.condition not in CEILINGS]
        ceilings, end = steps[1 + len(later) :], 1 + len(later)
        _draw_level(axis, 0, first, theme)
        for x, step in enumerate(later, 1):
            _draw_change(axis, x, step, theme)
        places = [*range(end + 1), *(end + 1 + n + 0.3 for n in range(len(ceilings)))]
        for place, step in zip(places[end:], [later[-1], *ceilings], strict=True):
            _draw_level(axis, place, step, theme)
        names = [one_line(step.cell.label) for step in (first, *later)]
        emails = [f"emails of {one_line(step.cell.stage)}" for step in ceilings]
        changes = [
            f"to {name}" + (f", {len(_personas(step))} personas" if _personas(step) else "")
            for name, step in zip(names[1:], later, strict=True)
        ]
        ticks = [names[0], *changes, names[-1], *emails]
        axis.set_xticks(places, [canvas.wrapped(tick) for tick in ticks])
        axis.set_xlim(-0.6, places[-1] + 0.75)
        panels.level_axis(axis, title, data.study, theme)
        axis.set_ylim(0, 1.3)  # above each change is its interval in figures

    return canvas.draw_panels(data.panels, draw_panel, 3.8)


def _personas(step: Step) -> list[str]:
    """Those that a change is over where they are not all of the study's."""
    return (step.difference and step.difference.personas) or []


def _draw_level(axis: Any, x: float, step: Step, theme: Theme) -> None:
    condition = step.cell.condition  # the look does not depend on the tool format
    panels.draw_bar(axis, x, 0.6, step.level, canvas.look_of(condition, [condition]), theme)


def _draw_change(axis: Any, x: float, step: Step, theme: Theme) -> None:
    """A change from the level before, with its interval at its end; both over its personas."""
    level, change = step.level.value, step.change.value if step.change else 0.0
    if step.difference:
        level = step.difference.levels[1].value
    before = level - change
    colour = "#D55E00" if change < 0 else "#009E73"
    axis.bar(x, change, 0.6, bottom=before, color=colour, alpha=0.55)
    axis.plot([x - 1 + 0.3, x - 0.3], [before, before], color=theme.quiet, linewidth=1)
    axis.plot([x + 0.3, x + 0.7], [level, level], color=theme.quiet, linewidth=1)
    top, text = max(before, level), f"{change:+.2f}" if step.change else "not compared"
    if step.change:
        low, high = step.change.ends
        axis.errorbar(x, level, yerr=canvas.whiskers([step.change]), color=theme.ink)
        top = max(top, before + high)
        text += f"\n[{low:+.2f}, {high:+.2f}]"
    canvas.write_number(axis, x, top, text, theme, size=8.5)  # two intervals fit next to each other


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
            **estimate_columns("change", step.change),
            **({"personas": ", ".join(_personas(step)) or None} if partial else {}),
        }
        for title, steps in data.panels.items()
        for step in steps
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

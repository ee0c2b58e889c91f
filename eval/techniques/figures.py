"""The figures of a comparison of techniques: curves, and a forest of contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from charprobe_lite.eval.report.figures import canvas
from charprobe_lite.eval.report.figures.canvas import Look, Theme, one_line
from charprobe_lite.eval.techniques.entry import Entry, Interval, Reading, TechniqueReading

LOOKS = (
    *(Look("#0072B2", "", "o"), Look("#D55E00", "", "s"), Look("#009E73", "", "P")),
    *(Look("#CC79A7", "", "v"), Look("#E69F00", "", "D"), Look("#56B4E9", "", "^")),
    *(Look("#882255", "", "X"), Look("#8C8C8C", "", "p")),
)


def draw_curves(entry: Entry, outcome: str, theme: Theme) -> Any:
    """Out of distribution against in distribution: a line per technique, from the base on."""
    panels = {f"by {r.instrument}": r for r in entry.readings if r.outcome == outcome}

    def draw_panel(axis: Any, title: str, reading: Reading) -> None:
        for number, technique in enumerate(reading.techniques):
            _draw_curve(axis, technique, entry.plan.primary, LOOKS[number % len(LOOKS)])
        strength = entry.plan.strength
        axis.axvline(strength, color=theme.quiet, linestyle=":", label=f"strength {strength:g}")
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="detected in chat")
        name = "P(persona)" if outcome == "probability" else "detected"
        axis.set(ylabel=f"{name} in {one_line(entry.plan.primary)}", title=title)
        axis.grid(alpha=0.3)

    return canvas.draw_panels(panels, draw_panel, 4.0, columns=2)


def _draw_curve(axis: Any, technique: TechniqueReading, condition: str, look: Look) -> None:
    points = [(p.chat, p.outcome[condition]) for p in technique.curve if condition in p.outcome]
    if len(points) < 2:
        return
    chat, texts = zip(*points, strict=True)
    axis.errorbar(
        [each.estimate for each in chat],
        [each.estimate for each in texts],
        xerr=_whiskers(chat),
        yerr=_whiskers(texts),
        color=look.colour,
        marker=look.marker,
        label=one_line(technique.technique),
        linewidth=1.6,
        elinewidth=0.7,
        capsize=2,
    )


def draw_forest(entry: Entry, outcome: str, theme: Theme) -> Any:
    """Every contrast with the reference, by each instrument, with its interval."""
    panels = {
        f"by {r.instrument}": r for r in entry.readings if r.outcome == outcome and r.contrasts
    }

    def draw_panel(axis: Any, title: str, reading: Reading) -> None:
        for place, each in enumerate(reading.contrasts):
            ends = _whiskers([each.difference])
            shown = each.p_holm <= entry.plan.alpha
            style = {"color": "#0072B2", "capsize": 4, "markeredgecolor": "#0072B2"}
            paper = "#0072B2" if shown else theme.paper
            label = f"corrected p at most {entry.plan.alpha:g}" if shown else "not shown"
            axis.errorbar(
                each.difference.estimate, place, xerr=ends, fmt="o", mfc=paper, label=label, **style
            )
        names = [one_line(each.technique) for each in reading.contrasts]
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.axvline(0, color=theme.quiet, linestyle=":")
        name = "P(persona)" if outcome == "probability" else "detection"
        axis.set(xlabel=f"{name} minus {one_line(entry.plan.reference or '')}", title=title)
        axis.grid(axis="x", alpha=0.3)

    rows = max((len(reading.contrasts) for reading in panels.values()), default=0)
    return canvas.draw_panels(panels, draw_panel, 1.4 + 0.35 * rows, columns=2)


def _whiskers(intervals: Sequence[Interval]) -> list[list[float]]:
    return canvas.whiskers([each.as_estimate for each in intervals])

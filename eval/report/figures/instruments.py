"""All instruments on the same texts: does a conclusion hang on what read them?"""

from dataclasses import dataclass
from typing import Any

from charprobe_lite.eval.quant.tables import Record, estimate_columns
from charprobe_lite.eval.report.figures import Figure, canvas
from charprobe_lite.eval.report.figures.panels import Panels, ceiling_name
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label, most_trained
from charprobe_lite.eval.scores.gap import axis_ceilings_of, ceilings_of
from charprobe_lite.eval.stats.bootstrap import Estimate

LOOKS = [
    {"color": colour, "marker": marker}
    for colour, marker in zip(
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"), "os^Dv", strict=True
    )
]
"""The looks of the instruments, the headline's first; as many as `INSTRUMENTS`."""


@dataclass(frozen=True)
class Reading:
    """The level of a cell by one instrument, and how often it gives the headline's label."""

    cell: str
    instrument: str
    level: Estimate
    same_label: float | None


def numbers(study: ReportStudy) -> Panels[list[Reading]] | None:
    """Every condition of the most trained stage and the ceilings, by each instrument."""
    if len(study.readings) < 2:
        return None
    found: dict[str, list[Reading]] = {}
    cells = [cell for cell in study.cells if cell.quant]
    for checkpoint in dict.fromkeys(map(checkpoint_label, cells)):
        trained = most_trained([cell for cell in cells if checkpoint_label(cell) == checkpoint])
        ceilings = [*ceilings_of(study.cells), *axis_ceilings_of(study.cells)]
        ceilings = [c for c in ceilings if trained and c.base == trained[0].base]
        title = f"{checkpoint}: {trained[0].stage}, and the ceilings"
        names = {cell: cell.label for cell in trained}
        names |= {cell: f"ceiling: {ceiling_name(cell)}" for cell in ceilings}
        agreement = {
            other.name: other.agreement.by_cell for other in study.others if other.agreement
        }
        found[title] = [
            Reading(names[score.cell], name, level, agreement.get(name, {}).get(score.cell))
            for name, scores in study.readings.items()
            for score in scores.by_cell
            if score.cell in names and (level := score.headline)
        ]
    return Panels(study, found)


def draw(data: Panels[list[Reading]], theme: canvas.Theme) -> Any:
    """A row per condition, a marker with its interval per instrument."""
    most = max(len({reading.cell for reading in panel}) for panel in data.panels.values())
    count = len(data.study.readings)
    distance = min(0.24, 0.72 / count)  # of a row, so that rows stay apart

    def draw_panel(axis: Any, title: str, readings: list[Reading]) -> None:
        rows = list(dict.fromkeys(reading.cell for reading in readings))
        names = list(dict.fromkeys(reading.instrument for reading in readings))
        for number, name in enumerate(names):
            own = [reading for reading in readings if reading.instrument == name]
            shift = distance * (number - (len(names) - 1) / 2)
            y = [rows.index(reading.cell) + shift for reading in own]
            ends = canvas.whiskers([reading.level for reading in own])
            style = {**LOOKS[number % len(LOOKS)], "linestyle": "none"}
            x = [reading.level.value for reading in own]
            label = f"{name} (headline)" if name == data.study.instrument else name
            axis.errorbar(x, y, xerr=ends, label=canvas.one_line(label), **style)
        axis.set_yticks(range(len(rows)), [canvas.one_line(row) for row in rows])
        axis.invert_yaxis()
        axis.set(xlim=(0, 1.02), xlabel=data.study.metric, title=canvas.one_line(title))
        axis.grid(axis="x", alpha=0.3)

    return canvas.draw_panels(data.panels, draw_panel, 1.2 + max(0.36, 0.14 * count) * most)


def records(data: Panels[list[Reading]]) -> list[Record]:
    """A record per condition and instrument."""
    return [
        {
            "checkpoint": title,
            "condition": reading.cell,
            "instrument": reading.instrument,
            **estimate_columns("value", reading.level),
            "same_label": reading.same_label,
        }
        for title, readings in data.panels.items()
        for reading in readings
    ]


FIGURE = Figure(
    name="instruments",
    order=45,
    title="The same texts, read by each instrument",
    alt="{study.metric} of every condition by each instrument, with 95% intervals, and of emails "
    "that are certainly in character.",
    caption="Levels by instrument",
    numbers=numbers,
    draw=draw,
    records=records,
)

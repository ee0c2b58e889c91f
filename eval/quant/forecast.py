"""Whether a planned quantization study can decide on equivalence with F16."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any, Literal

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.records import quant_records, read_recordings
from charprobe_lite.eval.quant.score import (
    CHARACTER,
    QuantMetrics,
    QuantRecord,
    compare_quants,
    without_quant,
)
from charprobe_lite.eval.stats.metrics import PairedDifference
from charprobe_lite.eval.stats.power import Power
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.grid import items_of
from charprobe_lite.eval.study.spec import StudySpec, resolve
from charprobe_lite.models.defaults import MARGIN
from charprobe_lite.models.task_ids import task_of

if TYPE_CHECKING:
    from rich.table import Table

RESAMPLES = 1000
WORK = "unforced"
TYPICAL_PERSONAS = 10
TYPICAL = {"chat": Power(24, 0.032, MARGIN), "agentic_email": Power(25, 0.068, MARGIN)}
"""Of the kit's files, ten personas: the median of the intervals in docs/quantization.md."""
Spread = Literal["pilot", "typical"]


@dataclass(frozen=True)
class PowerForecast:
    """What the planned prompts or scenarios of a condition can decide, ``n`` of them.

    ``measure`` is "character", or "unforced" for emails that agents send unforced. ``spread`` says
    where the expected width comes from: rollouts of the study, or a typical study of the kit;
    ``power`` is None where neither is known.
    """

    condition: str
    measure: str
    n: int
    spread: Spread | None
    power: Power | None

    def as_json(self) -> dict[str, Any]:
        """The forecast as ``study plan --power --json`` prints it."""
        power = self.power
        numbers = {**power.as_json(), "decidable": power.decidable} if power else None
        return {**vars(self), "power": numbers}


@dataclass(frozen=True)
class StudyPower:
    """The forecasts of one study; empty where it tests no equivalence."""

    study: Path | None
    margin: float
    forecasts: list[PowerForecast]

    def as_json(self) -> dict[str, Any]:
        """The study, its margin and a forecast per condition and measure."""
        forecasts = [forecast.as_json() for forecast in self.forecasts]
        return {"study": str(self.study), "margin": self.margin, "conditions": forecasts}

    def part(self) -> str | Table:
        """A table, or the line that there is nothing to forecast."""
        from charprobe_lite.eval.terminal_table import plain_table

        if not self.forecasts:
            return (
                f"{self.study}: no power to forecast; only a quantization study (key texts) tests "
                "whether something is the same"
            )
        title = f"can equivalence within {self.margin:g} be shown?"
        numbers = ["n", "± (90%)", "possible", "fewest n", "n for 80% power"]
        table = plain_table(title, ["condition", "measure"], [*numbers, "spread from"])
        for forecast in self.forecasts:
            table.add_row(*_cells(forecast))
        return table


def forecast_power(spec: StudySpec) -> StudyPower:
    """What the study can decide once it has run; its rollouts so far are the pilot.

    Each verdict is taken alone: Holm's correction asks for more. Raises BadInput.
    """
    resolved = resolve(spec)
    if not spec.is_quant_study:
        return StudyPower(spec.study, spec.margin, [])
    planned = {
        name: len({task_of(item.id) for item in items})
        for name, items in items_of(resolved).items()
    }
    pilot = list(_pilot(spec.study, resolved, planned))
    measured = {forecast.condition.partition(",")[0] for forecast in pilot}
    rest = [_typical(name, n, resolved) for name, n in planned.items() if name not in measured]
    return StudyPower(spec.study, spec.margin, [*pilot, *rest])


def _typical(condition: str, n: int, spec: StudySpec) -> PowerForecast:
    """As in the kit's study; answers of other personas tell as much as other prompts."""
    typical = TYPICAL.get(condition)
    if typical is None or not n:
        return PowerForecast(condition, CHARACTER, n, None, None)
    width = typical.half_width * math.sqrt(TYPICAL_PERSONAS / len(spec.personas))
    power = replace(typical, half_width=width, margin=spec.margin).with_clusters(n)
    return PowerForecast(condition, CHARACTER, n, "typical", power)


def _pilot(path: Path | None, spec: StudySpec, planned: dict[str, int]) -> Iterator[PowerForecast]:
    """The median spread of the files that the study already has rollouts of."""
    if path is None or not path.is_file():
        return
    with Store(path, readonly=True) as store:
        records = quant_records(read_recordings(store))
    if not any(record.is_reference for record in records):
        return
    metrics = compare_quants(records, spec.personas, spec.margin, spec.seed, RESAMPLES)
    subjects = dict.fromkeys(without_quant(cell) for record in records for cell in record.cells)
    for subject in subjects:
        n = planned.get(subject.condition)
        for measure in (CHARACTER, WORK):
            powers = list(_powers(metrics, subject, measure))
            if n and powers:
                width = median_low(power.with_clusters(n).half_width for power in powers)
                power = Power(n, width, spec.margin)
                yield PowerForecast(subject.label, measure, n, "pilot", power)


def _powers(metrics: QuantMetrics, subject: Cell, measure: str) -> Iterator[Power]:
    """Of every file's difference from F16; a pilot of one prompt has no spread."""
    for record in metrics.records:
        difference = _difference(metrics, record, subject, measure)
        if difference and difference.clusters > 1 and difference.power:
            yield difference.power


def _difference(
    metrics: QuantMetrics, record: QuantRecord, subject: Cell, measure: str
) -> PairedDifference | None:
    if measure == CHARACTER:
        return metrics.character_difference(record, subject)
    return metrics.difference(record, subject, measure)


def _cells(forecast: PowerForecast) -> Sequence[str]:
    power = forecast.power
    start = [forecast.condition, forecast.measure, str(forecast.n)]
    if power is None:
        return [*start, *["-"] * 4, "unknown; run a few as a pilot"]
    needed = [str(power.needed), str(power.needed_equivalent)]
    possible = "yes" if power.decidable else "no"
    return [*start, f"{power.half_width:.3f}", possible, *needed, str(forecast.spread)]

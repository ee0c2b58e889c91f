"""What a study's texts say of techniques: a value per text, outcome and instrument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.scores.instruments import InstrumentLabels, relabel
from charprobe_lite.eval.stats.bootstrap import Unit
from charprobe_lite.eval.stats.contrasts import Values, stratified_mean
from charprobe_lite.eval.stats.metrics import ResampledMetrics
from charprobe_lite.eval.techniques.grid import PARTIAL
from charprobe_lite.eval.techniques.trainings import WHOLE

BASE = "base"
"""The name of the untrained base among the techniques."""


@dataclass(frozen=True)
class Point:
    """A technique after ``percent`` of its budget, in one condition by one outcome."""

    technique: str
    percent: int
    condition: str
    outcome: str


def technique_of(cell: Cell) -> tuple[str, int]:
    """The technique of a cell, and the percentage of the budget after which it is."""
    if cell.stage == BASE:
        return BASE, 0
    whole = cell.technique or ""
    on_the_way = PARTIAL.fullmatch(whole)
    return (on_the_way[1], int(on_the_way[2])) if on_the_way else (whole, WHOLE)


def resample_outcomes(
    rows: Sequence[Row], personas: Sequence[str], seed: int
) -> ResampledMetrics[Point]:
    """P(persona) and detection of every technique and condition, and of the base.

    ``rows`` without a label are left out. A text of the base is one of every persona. A persona's
    training seeds are resampled where there are several of a technique.
    """
    tables: dict[tuple[str, int, str], list[tuple[Row, str]]] = {}
    for row in rows:
        if row.prediction is not None and row.probabilities is not None:
            key = (*technique_of(row.cell), row.cell.condition)
            for persona in [row.persona] if row.persona else personas:
                if persona in personas:
                    tables.setdefault(key, []).append((row, persona))
    metrics = {}
    for key, table in tables.items():
        columns = [persona for _, persona in table], [cluster_of(row) for row, _ in table]
        units = [_unit(row, persona, key[0]) for row, persona in table]
        for outcome in ("probability", "detection"):
            values = [_value(row, persona, outcome) for row, persona in table]
            metrics[Point(*key, outcome)] = stratified_mean(
                Values(values, *columns, units), personas, is_share=outcome == "detection"
            )
    return ResampledMetrics(metrics, seed)


def rows_by_instrument(
    rows: Sequence[Row], headline: str, labels: Mapping[str, InstrumentLabels]
) -> dict[str, list[Row]]:
    """The rows with the labels of each instrument that has some, the headline's first."""
    others = {name: relabel(rows, readings) for name, readings in labels.items() if readings}
    return {headline: list(rows), **others}


def _value(row: Row, persona: str, outcome: str) -> float:
    if outcome == "detection":
        return float(row.prediction == persona)
    assert row.probabilities is not None, "rows without a label are left out"
    return row.probabilities.get(persona, 0.0)


def _unit(row: Row, persona: str, technique: str) -> Unit | None:
    """The adapter of a row, in a stratum of its own technique; seeds of two are independent."""
    seed = row.cell.train_seed
    return None if seed is None else Unit(f"{technique}/{persona}", str(seed))

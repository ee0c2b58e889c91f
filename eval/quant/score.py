"""Quant types against F16: every quality as a paired difference, with a verdict on equivalence.

All types meet the same prompts, scenarios, texts and seeds, and all numbers come from one draw of
those, so that what they have in common cancels in a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.quant import health
from charprobe_lite.eval.quant.fidelity_score import (
    FidelityScore,
    TextFidelity,
    fidelity_measures,
    score_fidelity,
)
from charprobe_lite.eval.scores.cells import CellScore, score_study
from charprobe_lite.eval.scores.gap import CONDITION_STEPS, labels_of
from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate
from charprobe_lite.eval.stats.metrics import (
    Metric,
    PairedDifference,
    ResampledMetrics,
    character,
    recognised,
)
from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.defaults import MARGIN, REFERENCE
from charprobe_lite.models.errors import BadInput

CHARACTER, RECOGNISED = "character", "recognised"
MetricName = tuple[str, str, Cell | str, str]
"""Quant type, lora, the condition asked or the kind of text, and what is measured."""


@dataclass(frozen=True)
class QuantRecord:
    """What was recorded of one quant type, made in one of the two ways (``lora``).

    ``bytes`` is what a user has to store for one persona, ``tensor_types`` weights by real type.
    ``rows`` and ``turns`` are of this type's cells alone. ``fidelity``: kind of text (held-out
    texts first), text, its tokens; all types have the same texts. A text with the name of a prompt
    or scenario is resampled with it. ``tokens_per_second`` and ``peak_bytes`` may be unknown.
    """

    quant: str
    lora: str
    bits_per_weight: float
    bytes: int
    tensor_types: Mapping[str, int]
    rows: Sequence[Row]
    turns: health.Turns
    fidelity: Mapping[str, Mapping[str, TextFidelity]]
    tokens_per_second: float | None = None
    peak_bytes: int | None = None

    @property
    def cells(self) -> list[Cell]:
        """The cells in the order in which they come."""
        return list(dict.fromkeys(row.cell for row in self.rows))


@dataclass(frozen=True)
class Quality:
    """A number and how far it is from F16's, None for F16 itself."""

    value: Estimate
    difference: PairedDifference | None

    def as_json(self) -> dict[str, Any]:
        """``estimate``, ``ci`` and ``difference``."""
        return {
            **self.value.as_json(),
            "difference": self.difference and self.difference.as_json(),
        }


@dataclass(frozen=True)
class CellQuality:
    """One cell of a quant type; ``cell`` is without its quant type.

    ``difference`` is that of macro-F1, or of the detection rate for one persona (``measure``), from
    F16; None for F16 itself, and where not the same personas have a text in both. ``health`` is
    empty where no tool is called, see `health.health_measures`.
    """

    cell: Cell
    score: CellScore
    measure: str
    difference: PairedDifference | None
    health: dict[str, Quality]

    @property
    def condition(self) -> str:
        """The condition, and how tool calls were asked for."""
        return self.cell.label

    @property
    def unforced(self) -> PairedDifference | None:
        """The difference from F16 in the share of emails that agents sent unforced."""
        found = self.health.get("unforced")
        return found.difference if found else None

    def difference_json(self) -> dict[str, Any] | None:
        """``{measure: {"estimate", "ci", "equivalent"}}``."""
        return {self.measure: self.difference.as_json()} if self.difference else None

    def as_json(self) -> dict[str, Any]:
        """The cell as ``eval`` prints it, with ``difference`` and ``health``."""
        return {
            **self.score.as_json(),
            "difference": self.difference_json(),
            "health": {name: each.as_json() for name, each in self.health.items()},
        }


@dataclass(frozen=True)
class QuantScore:
    """One quant type made in one way: cost, fidelity by kind of text, cells."""

    record: QuantRecord
    fidelity: dict[str, FidelityScore]
    cells: list[CellQuality]

    @property
    def name(self) -> str:
        """For people: the quant type, and how it was made."""
        return (
            f"{self.record.quant} ({self.record.lora})" if self.record.lora else self.record.quant
        )

    @property
    def trained_cells(self) -> list[CellQuality]:
        """The cells of the most trained stage."""
        stages = {cell.cell.stage for cell in self.cells}
        best = next((stage for stage in reversed(STAGES) if stage in stages), None)
        return [cell for cell in self.cells if cell.cell.stage == best]

    @property
    def headline(self) -> CellQuality | None:
        """The most trained stage's cell furthest down the ladder, ``agentic_email`` if asked.

        Of several ways to write tool calls the first.
        """
        return max(self.trained_cells, key=lambda cell: _rung(cell.cell), default=None)

    @property
    def health(self) -> dict[str, Quality]:
        """Of the agentic cell furthest down the ladder, without a grammar if there is such."""
        healthy = [cell for cell in self.trained_cells if cell.health]
        best = max(
            healthy,
            key=lambda cell: (_rung(cell.cell), cell.cell.grammar == "off"),
            default=None,
        )
        return best.health if best else {}

    def as_json(self) -> dict[str, Any]:
        """One entry of ``quants``: ``perplexity`` to ``top1`` are of the first kind of text.

        ``difference`` is that of `headline`; each cell has its own as well. ``fidelity`` has every
        kind of text with intervals.
        """
        record, first = self.record, next(iter(self.fidelity.values()), None)
        return {
            "quant": record.quant,
            "lora": record.lora,
            "bits_per_weight": record.bits_per_weight,
            "bytes": record.bytes,
            "tensor_types": dict(record.tensor_types),
            "tokens_per_second": record.tokens_per_second,
            **{
                name: getattr(first, name).value if first else None
                for name in ("perplexity", "kl_mean", "kl_median", "kl_p99", "top1")
            },
            "peak_bytes": record.peak_bytes,
            "health": {name: each.as_json() for name, each in self.health.items()},
            "cells": [cell.as_json() for cell in self.cells],
            "difference": self.headline and self.headline.difference_json(),
            "fidelity": {kind: each.as_json() for kind, each in self.fidelity.items()},
        }


@dataclass(frozen=True)
class Compared:
    """All quant types' records with their measures, most bits per weight first."""

    records: list[QuantRecord]
    personas: list[str]
    measured: ResampledMetrics[MetricName]
    margin: float

    @property
    def measure(self) -> str:
        """What character is measured by."""
        return "macro_f1" if len(self.personas) > 1 else "detection_rate"

    def reference(self, record: QuantRecord) -> QuantRecord:
        """F16 made in the same way, or else F16 made in the other."""
        return _whole(self.records, record)

    def name(self, record: QuantRecord, where: Cell | str, what: str) -> MetricName:
        """A record's measure."""
        return record.quant, record.lora, where, what

    def difference(
        self, record: QuantRecord, where: Cell | str, what: str, share: bool = True
    ) -> PairedDifference | None:
        """From F16; None for F16 itself, and where either has nothing to measure."""
        whole = self.reference(record)
        own, other = self.name(record, where, what), self.name(whole, where, what)
        if whole is record or own not in self.measured or other not in self.measured:
            return None
        return self.measured.difference(own, other, self.margin if share else None)


def compare_quants(
    records: Sequence[QuantRecord],
    personas: Sequence[str],
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = CLUSTER_RESAMPLES,
) -> Compared:
    """Metric and resample everything together. Raises BadInput where F16 is missing."""
    if all(record.quant != REFERENCE for record in records):
        raise BadInput(f"--quant: {REFERENCE} is missing, which all others are compared with")
    measures: dict[MetricName, Metric] = {}
    for record in records:
        key = record.quant, record.lora
        for where, found in _cell_measures(record, _whole(records, record), personas).items():
            measures |= {(*key, where, what): measure for what, measure in found.items()}
        for kind, texts in record.fidelity.items():
            own = fidelity_measures(texts)
            measures |= {(*key, kind, what): measure for what, measure in own.items()}
    measured = ResampledMetrics(measures, seed, resamples)
    bits = {record.quant: record.bits_per_weight for record in records}
    ordered = sorted(records, key=lambda record: (-bits[record.quant], record.quant, record.lora))
    return Compared(ordered, list(personas), measured, margin)


def score_quant(record: QuantRecord, compared: Compared, seed: int = 0) -> QuantScore:
    """A quant type's scores and their differences from F16."""
    scores = score_study(record.rows, record.cells, compared.personas, seed).by_cell
    whole = compared.reference(record)
    fidelity = {}
    for kind, texts in record.fidelity.items():
        names = {what: compared.name(record, kind, what) for what in ("nll", "kl", "top1")}
        alone = whole is record or kind not in whole.fidelity
        other = None if alone else compared.name(whole, kind, "nll")
        fidelity[kind] = score_fidelity(compared.measured, list(texts.values()), names, other)
    cells = [
        CellQuality(
            cell=without_quant(cell),
            score=score,
            measure=compared.measure,
            difference=compared.difference(record, without_quant(cell), CHARACTER),
            health=_health(record, without_quant(cell), compared),
        )
        for cell, score in zip(record.cells, scores, strict=True)
    ]
    return QuantScore(record, fidelity, cells)


def without_quant(cell: Cell) -> Cell:
    """A cell without its quant type: what all types have in common."""
    return Cell(cell.base, cell.stage, cell.condition, "", cell.format, cell.grammar)


def _whole(records: Sequence[QuantRecord], record: QuantRecord) -> QuantRecord:
    whole = [each for each in records if each.quant == REFERENCE]
    return next((each for each in whole if each.lora == record.lora), whole[0])


def _cell_measures(
    record: QuantRecord, whole: QuantRecord, personas: Sequence[str]
) -> dict[Cell, dict[str, Metric]]:
    """Character of every cell with a classified text, health of every agentic one.

    A persona without a text is not in a macro-F1, which is then of others than F16's: where not the
    same personas have one there is no `CHARACTER`.
    """
    found: dict[Cell, dict[str, Metric]] = {without_quant(cell): {} for cell in record.cells}
    several = len(personas) > 1
    heard = {
        without_quant(cell): set(own.true) for cell, own in labels_of(whole.rows, personas).items()
    }
    for cell, labels in labels_of(record.rows, personas).items():
        # a base-stage text is a row for every persona, and still one observation
        texts = sum(row.cell == cell and row.prediction is not None for row in record.rows)
        if heard.get(without_quant(cell)) == set(labels.true):
            found[without_quant(cell)][CHARACTER] = character(labels, personas, texts, several)
        found[without_quant(cell)][RECOGNISED] = recognised(labels, texts)
    for cell in record.cells:
        if cell.condition.startswith("agentic"):
            rows = [row for row in record.rows if row.cell == cell]
            found[without_quant(cell)] |= health.health_measures(rows, record.turns)
    return found


def _health(record: QuantRecord, where: Cell, compared: Compared) -> dict[str, Quality]:
    found = {}
    for what in health.MEASURES:
        name = compared.name(record, where, what)
        if name in compared.measured:
            difference = compared.difference(record, where, what, what in health.SHARES)
            found[what] = Quality(compared.measured.estimate(name), difference)
    return found


def _rung(cell: Cell) -> int:
    return CONDITION_STEPS.index(cell.condition) if cell.condition in CONDITION_STEPS else -1

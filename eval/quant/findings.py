"""What a quantization study finds across its types: trends, what goes first, which file to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.instrument import ClassifierAgreement
from charprobe_lite.eval.quant.recommend import recommendation
from charprobe_lite.eval.quant.score import (
    CHARACTER,
    RECOGNISED,
    Compared,
    MetricName,
    QuantRecord,
    QuantScore,
    compare_quants,
    score_quant,
)
from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate
from charprobe_lite.eval.stats.metrics import Numbers
from charprobe_lite.eval.stats.trend import (
    Slope,
    Trend,
    page_trend,
    rank_correlation,
    slope,
    standardised,
)
from charprobe_lite.models.defaults import MARGIN, REFERENCE

CAPABILITIES = ("well_formed", "yield", "unforced")
FEWEST_POINTS = 4
"""Three points in a row are in the right order once in six by chance."""


@dataclass(frozen=True)
class MeasureTrend:
    """Whether ``measure`` falls with the bits, over the types made in the way ``lora``."""

    lora: str
    condition: str
    measure: str
    trend: Trend

    def as_json(self) -> dict[str, Any]:
        """The test with what it is about."""
        about = {"lora": self.lora, "condition": self.condition, "measure": self.measure}
        return about | vars(self.trend) | {"direction": self.trend.direction}


@dataclass(frozen=True)
class Contrast:
    """Does character (in ``condition``) fall faster than a capability, as the bits get fewer?

    ``ahead``: character's standardised loss per halving of the bits minus the capability's;
    positive where character goes first. ``capability`` is one of `CAPABILITIES` with the
    condition it is of, or "perplexity" (its logarithm) with the kind of text.
    """

    lora: str
    condition: str
    capability: str
    of: str
    character: Slope
    other: Slope
    ahead: Estimate

    @property
    def falls_faster(self) -> bool | None:
        """Whether character falls faster; None where the interval holds 0."""
        if self.ahead.low > 0:
            return True
        return False if self.ahead.high < 0 else None

    def as_json(self) -> dict[str, Any]:
        """Both slopes and their difference."""
        slopes = {
            name: {"loss": each.loss.as_json(), "standardised": each.standardised.as_json()}
            for name, each in (("character", self.character), ("other", self.other))
        }
        about = {name: getattr(self, name) for name in ("lora", "condition", "capability", "of")}
        return {**about, **slopes, "difference": self.ahead.as_json(), "faster": self.falls_faster}


@dataclass(frozen=True)
class KlCorrelation:
    """Spearman's correlation of mean KL divergence (on one kind of ``text``) with lost character.

    Over ``points`` files, those of F16 left out. The interval is from prompts, scenarios and texts
    drawn anew and takes the files for given: of so few it says nothing about other quant types.
    """

    text: str
    condition: str
    points: int
    correlation: Estimate

    def as_json(self) -> dict[str, Any]:
        """The correlation with what it is about."""
        about = {"text": self.text, "condition": self.condition, "points": self.points}
        return about | self.correlation.as_json()


@dataclass(frozen=True)
class QuantStudy:
    """Everything that is computed of a quantization study. ``quants``: most bits first."""

    margin: float
    measure: str
    quants: list[QuantScore]
    trends: list[MeasureTrend]
    contrasts: list[Contrast]
    kl: list[KlCorrelation]
    classifier: ClassifierAgreement | None
    recommendation: str

    def as_json(self) -> dict[str, Any]:
        """The study as ``--json`` prints it."""
        return {
            "quants": [each.as_json() for each in self.quants],
            "reference": REFERENCE,
            "margin": self.margin,
            "trends": [each.as_json() for each in self.trends],
            "contrasts": [each.as_json() for each in self.contrasts],
            "kl_correlation": [each.as_json() for each in self.kl],
            "classifier": self.classifier and self.classifier.as_json(),
            "recommendation": self.recommendation,
        }


def score_quants(
    records: Sequence[QuantRecord],
    personas: Sequence[str],
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = CLUSTER_RESAMPLES,
    classifier: ClassifierAgreement | None = None,
) -> QuantStudy:
    """The whole study. Raises BadInput where no record is of F16.

    Every type is tested on its own, without a correction for their number.
    """
    compared = compare_quants(records, personas, margin, seed, resamples)
    quants = [score_quant(record, compared, seed) for record in compared.records]
    conditions = list(dict.fromkeys(cell.cell for each in quants for cell in each.trained_cells))
    ladders = _ladders(compared)
    return QuantStudy(
        margin=margin,
        measure=compared.measure,
        quants=quants,
        trends=[
            found
            for ladder in ladders
            for where in conditions
            for what in (RECOGNISED, *_capabilities(where))
            if (found := _trend(compared, ladder, where, what))
        ],
        contrasts=[
            found
            for ladder in ladders
            for where in conditions
            for found in _contrasts(compared, ladder, where, conditions)
        ],
        kl=_kl_correlations(compared, conditions),
        classifier=classifier,
        recommendation=recommendation(quants, margin),
    )


def _ladders(compared: Compared) -> list[list[QuantRecord]]:
    """The types of each way, with F16 of the other way where a way has none of its own."""
    ladders = []
    for lora in dict.fromkeys(record.lora for record in compared.records):
        own = [record for record in compared.records if record.lora == lora]
        whole = compared.reference(own[0])
        ladders.append(own if whole in own else [whole, *own])
    return ladders


def _capabilities(cell: Cell) -> tuple[str, ...]:
    """Those that say something: without a grammar no email is forced, which leaves the yield."""
    return CAPABILITIES[:-1] if cell.grammar == "off" else CAPABILITIES


def _steps(
    compared: Compared, ladder: Sequence[QuantRecord], where: Cell | str, what: str
) -> tuple[list[MetricName], list[float]]:
    """The measure of each type of a ladder that has it, and the types' bits per weight."""
    there = [
        (compared.name(record, where, what), record.bits_per_weight)
        for record in ladder
        if compared.name(record, where, what) in compared.measured
    ]
    return [name for name, _ in there], [bits for _, bits in there]


def _trend(
    compared: Compared, ladder: Sequence[QuantRecord], where: Cell, what: str
) -> MeasureTrend | None:
    names, bits = _steps(compared, ladder, where, what)
    if len(names) < 2:
        return None
    values = np.column_stack([compared.measured.by_cluster(name) for name in names])
    found = page_trend(values, bits)
    return MeasureTrend(ladder[-1].lora, where.label, what, found) if found else None


def _contrasts(
    compared: Compared, ladder: Sequence[QuantRecord], where: Cell, conditions: Sequence[Cell]
) -> list[Contrast]:
    """Character in one condition against every capability that the study has measured."""
    capabilities: list[tuple[str, Cell | str, str]] = [
        (what, cell, what) for cell in conditions for what in _capabilities(cell)
    ]
    kinds = dict.fromkeys(kind for record in ladder for kind in record.fidelity)
    capabilities += [("perplexity", kind, "nll") for kind in kinds]
    measured, found = compared.measured, []
    names, bits = _steps(compared, ladder, where, CHARACTER)
    for capability, of, what in capabilities:
        others, other_bits = _steps(compared, ladder, of, what)
        if len(set(bits)) < 2 or other_bits != bits:
            continue
        sign = -1 if what == "nll" else 1
        ahead = standardised(measured, names, bits) - sign * standardised(measured, others, bits)
        if not np.isfinite(ahead[0]):
            continue  # nothing varies, as with calls under a grammar
        found.append(
            Contrast(
                lora=ladder[-1].lora,
                condition=where.label,
                capability=capability,
                of=of.label if isinstance(of, Cell) else of,
                character=slope(measured, names, bits),
                other=slope(measured, others, bits, sign),
                ahead=measured.draws.interval(ahead, [*names, *others]),
            )
        )
    return found


def _kl_correlations(compared: Compared, conditions: Sequence[Cell]) -> list[KlCorrelation]:
    """Every kind of text against every condition, where there are points enough."""
    found = []
    kinds = dict.fromkeys(kind for record in compared.records for kind in record.fidelity)
    for kind in kinds:
        for where in conditions:
            points = [
                (compared.name(record, kind, "kl"), *_ends(compared, record, where))
                for record in compared.records
                if record.quant != REFERENCE
            ]
            points = [each for each in points if all(name in compared.measured for name in each)]
            if len(points) < FEWEST_POINTS:
                continue
            kl, own, whole = (_stacked(compared, column) for column in zip(*points, strict=True))
            names = [name for each in points for name in each]
            rho = compared.measured.draws.interval(rank_correlation(kl, whole - own), names)
            if np.isfinite(rho.value):
                found.append(KlCorrelation(kind, where.label, len(points), rho))
    return found


def _ends(compared: Compared, record: QuantRecord, where: Cell) -> tuple[MetricName, MetricName]:
    """Character of a type and of its F16."""
    whole = compared.reference(record)
    return compared.name(record, where, CHARACTER), compared.name(whole, where, CHARACTER)


def _stacked(compared: Compared, names: Sequence[MetricName]) -> Numbers:
    return np.stack([compared.measured.replicates(name) for name in names])

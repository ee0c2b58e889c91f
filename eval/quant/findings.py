"""Findings across quant types: trends, what falls first, which file to take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.recommend import recommendation
from charprobe_lite.eval.quant.score import (
    CHARACTER,
    RECOGNISED,
    MetricKey,
    QuantMetrics,
    QuantRecord,
    QuantScore,
    compare_quants,
    document,
    reference_of,
    score_quant,
)
from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate
from charprobe_lite.eval.stats.classification import Labels, accuracies, kappas, macro_f1s
from charprobe_lite.eval.stats.metrics import (
    PairedDifference,
    ResampledMetrics,
    label_metric,
    label_names,
)
from charprobe_lite.eval.stats.trend import (
    Slope,
    Trend,
    page_trend,
    rank_correlation,
    slope,
    standardised_slopes,
)
from charprobe_lite.models.defaults import MARGIN, REFERENCE

CAPABILITIES = ("well_formed", "yield", "unforced")
FEWEST_POINTS = 4
"""Three points in a row are in the right order once in six by chance."""


@dataclass(frozen=True)
class MetricTrend:
    """Whether ``metric`` falls with the bits, over the types made in the way ``lora``."""

    lora: str | None
    condition: str
    metric: str
    trend: Trend

    def as_json(self) -> dict[str, Any]:
        """The test and its subject."""
        subject = {"lora": self.lora, "condition": self.condition, "measure": self.metric}
        return subject | vars(self.trend) | {"direction": self.trend.direction}


@dataclass(frozen=True)
class Contrast:
    """Does character (in ``condition``) fall faster than a capability with fewer bits?

    ``difference``: character's standardised loss per halving of the bits minus the capability's;
    positive where character falls first. ``capability`` is one of `CAPABILITIES` in condition
    ``of``, or "perplexity" (its logarithm) on texts of kind ``of``.
    """

    lora: str | None
    condition: str
    capability: str
    of: str
    character: Slope
    other: Slope
    difference: Estimate

    @property
    def falls_faster(self) -> bool | None:
        """Whether character falls faster; None where the interval holds 0."""
        return True if self.difference.low > 0 else False if self.difference.high < 0 else None

    def as_json(self) -> dict[str, Any]:
        """Both slopes and their difference."""
        return {**document(vars(self)), "faster": self.falls_faster}


@dataclass(frozen=True)
class KlCorrelation:
    """Spearman's correlation of mean KL divergence (on one kind of ``text``) with lost character.

    Over ``points`` files, without those of F16. The interval is from resampled prompts, scenarios
    and texts of these files: it says nothing about other quant types.
    """

    text: str
    condition: str
    points: int
    correlation: Estimate

    def as_json(self) -> dict[str, Any]:
        """The correlation and its subject."""
        fields = vars(self) | self.correlation.as_json()
        del fields["correlation"]
        return fields


@dataclass(frozen=True)
class ClassifierAgreement:
    """The classifier in full precision and quantized, on the same ``n`` texts.

    ``agreement``: share of texts with the same label; ``kappa`` corrects it for chance, None where
    both give one label to every text. ``macro_f1`` is that of the quantized one minus the other's.
    """

    n: int
    agreement: Estimate
    kappa: Estimate | None
    macro_f1: PairedDifference


@dataclass(frozen=True)
class QuantStudy:
    """All numbers of a quantization study. ``quants``: most bits first."""

    margin: float
    metric: str
    quants: list[QuantScore]
    trends: list[MetricTrend]
    contrasts: list[Contrast]
    kl_correlations: list[KlCorrelation]
    classifier: ClassifierAgreement | None
    recommendation: str

    def as_json(self) -> dict[str, Any]:
        """The study as ``--json`` prints it."""
        return {
            "quants": document(self.quants),
            "reference": REFERENCE,
            "margin": self.margin,
            "trends": document(self.trends),
            "contrasts": document(self.contrasts),
            "kl_correlation": document(self.kl_correlations),
            "classifier": document(self.classifier),
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
    """All scores and findings. Raises BadInput where no record is of F16.

    Each type is tested alone, without a correction for their number.
    """
    metrics = compare_quants(records, personas, margin, seed, resamples)
    quants = [score_quant(record, metrics, seed) for record in metrics.records]
    cells = list(dict.fromkeys(cell.cell for quant in quants for cell in quant.trained_cells))
    pairs = list(product(_series(metrics), cells))
    return QuantStudy(
        margin=margin,
        metric=metrics.metric,
        quants=quants,
        trends=[trend for pair in pairs for trend in _trends(metrics, *pair)],
        contrasts=[contrast for pair in pairs for contrast in _contrasts(metrics, *pair, cells)],
        kl_correlations=list(_kl_correlations(metrics, cells)),
        classifier=classifier,
        recommendation=recommendation(quants, margin),
    )


def compare_classifiers(
    full: Labels,
    quantized: Sequence[str],
    margin: float | None = None,
    seed: int = 0,
    resamples: int = CLUSTER_RESAMPLES,
) -> ClassifierAgreement:
    """``full``: true labels, fp32's predictions and clusters; ``quantized``: int8's predictions.

    Raises ValueError for lists of different lengths or without a text.
    """
    if not full.true:
        raise ValueError("no text to compare the classifiers on")
    n = len(full.true)
    other = Labels(full.true, quantized, full.cluster)
    both = Labels(full.predicted, quantized, full.cluster)
    resampled = ResampledMetrics(
        {
            "full": label_metric(full, label_names([full]), macro_f1s, n),
            "quantized": label_metric(other, label_names([other]), macro_f1s, n),
            "agreement": label_metric(both, label_names([both]), accuracies, n),
            "kappa": label_metric(both, label_names([both]), kappas),
        },
        seed,
        resamples,
    )
    return ClassifierAgreement(
        n=n,
        agreement=resampled.estimate("agreement"),
        kappa=resampled.estimate("kappa") if "kappa" in resampled else None,
        macro_f1=resampled.difference("quantized", "full", margin),
    )


def _series(metrics: QuantMetrics) -> list[list[QuantRecord]]:
    """The types made in each way, with F16 of the other way if a way has no F16."""
    series = []
    for lora in dict.fromkeys(record.lora for record in metrics.records):
        files = [record for record in metrics.records if record.lora == lora]
        reference = reference_of(files[0], metrics.records)
        series.append(files if reference in files else [reference, *files])
    return series


def _capabilities(cell: Cell) -> tuple[str, ...]:
    """Without a grammar no email is forced: "unforced" is the yield again."""
    return CAPABILITIES[:-1] if cell.grammar == "off" else CAPABILITIES


def _points(
    metrics: QuantMetrics, files: Sequence[QuantRecord], subject: Cell | str, name: str
) -> tuple[list[MetricKey], list[float]]:
    """The metric of each file that has it, and those files' bits per weight."""
    records = [record for record in files if record.key(subject, name) in metrics.resampled]
    keys = [record.key(subject, name) for record in records]
    return keys, [record.bits_per_weight for record in records]


def _trends(
    metrics: QuantMetrics, files: Sequence[QuantRecord], cell: Cell
) -> Iterator[MetricTrend]:
    for name in (RECOGNISED, *_capabilities(cell)):
        keys, bits = _points(metrics, files, cell, name)
        if keys:
            values = np.column_stack([metrics.resampled.by_cluster(key) for key in keys])
            if trend := page_trend(values, bits):
                yield MetricTrend(files[-1].lora, cell.label, name, trend)


def _contrasts(
    metrics: QuantMetrics, files: Sequence[QuantRecord], cell: Cell, cells: Sequence[Cell]
) -> Iterator[Contrast]:
    """Character in one condition against every capability of the study."""
    capabilities: list[tuple[Cell | str, str]] = [
        (other, name) for other in cells for name in _capabilities(other)
    ]
    kinds = dict.fromkeys(kind for record in files for kind in record.fidelity)
    capabilities += [(kind, "nll") for kind in kinds]
    resampled = metrics.resampled
    keys, bits = _points(metrics, files, cell, CHARACTER)
    for subject, name in capabilities:
        other_keys, other_bits = _points(metrics, files, subject, name)
        if len(set(bits)) < 2 or other_bits != bits:
            continue
        sign = -1 if name == "nll" else 1
        first, second = (standardised_slopes(resampled, k, bits) for k in (keys, other_keys))
        difference = first - sign * second
        if not np.isfinite(difference[0]):
            continue  # no variation, as in calls under a grammar
        yield Contrast(
            lora=files[-1].lora,
            condition=cell.label,
            capability="perplexity" if name == "nll" else name,
            of=subject.label if isinstance(subject, Cell) else subject,
            character=slope(resampled, keys, bits),
            other=slope(resampled, other_keys, bits, sign),
            difference=resampled.bootstrap.interval(difference, [*keys, *other_keys]),
        )


def _kl_correlations(metrics: QuantMetrics, cells: Sequence[Cell]) -> Iterator[KlCorrelation]:
    """Every kind of text against every condition with enough points."""
    resampled = metrics.resampled
    kinds = dict.fromkeys(kind for record in metrics.records for kind in record.fidelity)
    for kind, cell in product(kinds, cells):
        points = [
            (
                record.key(kind, "kl"),
                record.key(cell, CHARACTER),
                reference_of(record, metrics.records).key(cell, CHARACTER),
            )
            for record in metrics.records
            if record.quant != REFERENCE
        ]
        points = [keys for keys in points if all(key in resampled for key in keys)]
        if len(points) < FEWEST_POINTS:
            continue
        kl, character, reference = (
            np.stack([resampled.replicates(key) for key in column])
            for column in zip(*points, strict=True)
        )
        keys = [key for point in points for key in point]
        values = rank_correlation(kl, reference - character)
        rho = resampled.bootstrap.interval(values, keys)
        if np.isfinite(rho.value):
            yield KlCorrelation(kind, cell.label, len(points), rho)

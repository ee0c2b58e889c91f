"""Findings across quant types: trends, what falls first, which file to take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.classifiers import ClassifierAgreement
from charprobe_lite.eval.quant.families import with_holm
from charprobe_lite.eval.quant.recommend import FixedOrder, cache_order, fixed_order, recommendation
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
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate, Floats
from charprobe_lite.eval.stats.holm import holm
from charprobe_lite.eval.stats.metrics import (
    ALPHA,
)
from charprobe_lite.eval.stats.trend import (
    SCALES,
    Slope,
    Trend,
    page_trend,
    rank_correlation,
    rank_interval,
    scales_of,
    slope,
)
from charprobe_lite.models.defaults import MARGIN, REFERENCE
from charprobe_lite.models.quant_types import KV_DEFAULT

CAPABILITIES = ("well_formed", "yield", "unforced")
FEWEST_TYPES = 5
"""Four types are in one of the two perfect orders once in twelve by chance, five once in sixty."""


@dataclass(frozen=True)
class MetricTrend:
    """Whether ``metric`` falls with the bits, over the types made in the way ``lora``.

    ``p_holm``: p as one of all trends of the study.
    """

    lora: str | None
    condition: str
    metric: str
    trend: Trend
    p_holm: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The test and its subject."""
        subject = {"lora": self.lora, "condition": self.condition, "measure": self.metric}
        return {
            **(subject | vars(self.trend)),
            "p_holm": self.p_holm,
            "direction": self.trend.direction,
        }


@dataclass(frozen=True)
class Contrast:
    """Does character (in ``condition``) fall faster than a capability with fewer bits?

    ``differences`` by scale (`SCALES`): character's loss per halving of the bits minus the
    capability's; positive where character falls faster. ``capability`` is one of `CAPABILITIES` in
    condition ``of``, or "perplexity" (its logarithm) on texts of kind ``of``, which is no share:
    it has one scale and no verdict. ``p`` is the largest of the three scales' two-sided p-values,
    1 where they do not agree on the sign: only what holds on all scales is no matter of the scale
    (an intersection-union test, Berger 1982, Technometrics 24:295). ``p_holm``: as one of all
    contrasts of the study.
    """

    lora: str | None
    condition: str
    capability: str
    of: str
    character: Slope
    other: Slope
    differences: dict[str, Estimate]
    p: float | None = None
    p_holm: float | None = None

    @property
    def falls_faster(self) -> bool | None:
        """Whether character falls faster, on all three scales; None if undecided."""
        ends = [difference.ends for difference in self.differences.values()]
        if self.p_holm is None or self.p_holm > ALPHA:
            return None
        if all(low > 0 for low, _ in ends):
            return True
        return False if all(high < 0 for _, high in ends) else None

    def as_json(self) -> dict[str, Any]:
        """Both slopes and their difference on each scale, null where there is none."""
        differences = {scale: document(self.differences.get(scale)) for scale in SCALES}
        fields = document(vars(self))
        del fields["differences"]
        return {**fields, "difference": differences, "faster": self.falls_faster}


@dataclass(frozen=True)
class KlCorrelation:
    """Spearman's correlation of mean KL divergence (on one kind of ``text``) with lost character.

    Over ``points`` files of ``types`` quant types, without those of F16. Two files of a type are
    no two independent points: the interval is that of as many points as there are types.
    ``without_one``: the smallest and the largest correlation when a type is left out.
    """

    text: str
    condition: str
    points: int
    types: int
    correlation: Estimate
    without_one: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """The correlation and its subject."""
        fields = vars(self) | self.correlation.as_json()
        del fields["correlation"]
        return fields


@dataclass(frozen=True)
class QuantStudy:
    """All numbers of a quantization study. ``quants``: most bits first.

    ``order``: the files as they were tested for the recommendation, see `recommend.fixed_order`;
    ``caches``: the same for F16's quantized caches, None without one.
    """

    margin: float
    metric: str
    quants: list[QuantScore]
    trends: list[MetricTrend]
    contrasts: list[Contrast]
    kl_correlations: list[KlCorrelation]
    classifier: ClassifierAgreement | None
    order: FixedOrder
    recommendation: str
    caches: FixedOrder | None = None

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
            "order": document(self.order) + (document(self.caches) if self.caches else []),
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
    """All scores and findings. Raises BadInput where no record is of F16."""
    metrics = compare_quants(records, personas, margin, seed, resamples)
    quants = [
        score_quant(record, metrics, score_study(record.rows, record.cells, personas, seed).by_cell)
        for record in metrics.records
    ]
    return find(metrics, quants, classifier)


def find(
    metrics: QuantMetrics,
    quants: Sequence[QuantScore],
    classifier: ClassifierAgreement | None = None,
) -> QuantStudy:
    """The findings across quant types.

    Verdicts of one kind are a family, to which Holm's correction is applied: the differences of one
    metric from F16 over types and conditions, the trends, the contrasts.
    """
    quants = with_holm(quants)
    cells = list(dict.fromkeys(cell.cell for quant in quants for cell in quant.trained_cells))
    pairs = list(product(_series(metrics), cells))
    order, caches = fixed_order(quants), cache_order(quants)
    return QuantStudy(
        margin=metrics.margin,
        metric=metrics.metric,
        quants=quants,
        trends=_trend_family([trend for pair in pairs for trend in _trends(metrics, *pair)]),
        contrasts=_contrast_family(
            [contrast for pair in pairs for contrast in _contrasts(metrics, *pair, cells)]
        ),
        kl_correlations=list(_kl_correlations(metrics, cells)),
        classifier=classifier,
        order=order,
        recommendation=recommendation(order, metrics.margin, caches),
        caches=caches,
    )


def _series(metrics: QuantMetrics) -> list[list[QuantRecord]]:
    """The types made in each way, with F16 of the other way if a way has no F16; all with an F16
    cache, as a quantized one changes no bits per weight."""
    series, records = [], [r for r in metrics.records if r.kv_type == KV_DEFAULT]
    for lora in dict.fromkeys(record.lora for record in records):
        files = [record for record in records if record.lora == lora]
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
    keys, bits = _points(metrics, files, cell, CHARACTER)
    for subject, name in capabilities:
        other_keys, other_bits = _points(metrics, files, subject, name)
        if len(set(bits)) < 2 or other_bits != bits:
            continue
        sign = -1 if name == "nll" else 1
        if (differences := _differences(metrics, (keys, other_keys), bits, sign)) is None:
            continue  # no variation, as in calls under a grammar
        estimates, p = differences
        yield Contrast(
            lora=files[-1].lora,
            condition=cell.label,
            capability="perplexity" if name == "nll" else name,
            of=subject.label if isinstance(subject, Cell) else subject,
            character=slope(metrics.resampled, keys, bits),
            other=slope(metrics.resampled, other_keys, bits, sign),
            differences=estimates,
            p=p,
        )


def _differences(
    metrics: QuantMetrics,
    series: tuple[list[MetricKey], list[MetricKey]],
    bits: Sequence[float],
    sign: int,
) -> tuple[dict[str, Estimate], float | None] | None:
    """The difference of two metrics' slopes on each scale that both have, and `Contrast.p`.

    None where a metric does not vary.
    """
    resampled, names = metrics.resampled, [*series[0], *series[1]]
    estimates, sides = {}, []
    for scale in scales_of(resampled, names):
        first, second = (SCALES[scale](resampled, keys, bits) for keys in series)
        values = first - sign * second
        if not np.isfinite(values[0]):
            return None
        estimates[scale] = resampled.bootstrap.interval(values, names)
        sides.append([resampled.bootstrap.p_above(s * values, names, 0) for s in (1, -1)])
    # faster on all scales or slower on all: the larger of the p-values of either
    p = min(1.0, 2 * min(map(max, zip(*sides, strict=True))))
    return estimates, p if len(sides) == len(SCALES) else None


def _trend_family(trends: Sequence[MetricTrend]) -> list[MetricTrend]:
    """The trends with Holm's correction."""
    adjusted = holm([trend.trend.p for trend in trends])
    return [replace(trend, p_holm=p) for trend, p in zip(trends, adjusted, strict=True)]


def _contrast_family(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts with Holm's correction over those that have a verdict."""
    adjusted = iter(holm([contrast.p for contrast in contrasts if contrast.p is not None]))
    return [
        contrast if contrast.p is None else replace(contrast, p_holm=next(adjusted))
        for contrast in contrasts
    ]


def _kl_correlations(metrics: QuantMetrics, cells: Sequence[Cell]) -> Iterator[KlCorrelation]:
    """Every kind of text against every condition with enough types."""
    kinds = dict.fromkeys(kind for record in metrics.records for kind in record.fidelity)
    for kind, cell in product(kinds, cells):
        types, kl, loss = _losses(metrics, kind, cell)
        names = sorted(set(types))
        if len(names) < FEWEST_TYPES:
            continue
        rest = [np.array(types) != name for name in names]
        rho, *without = (
            float(rank_correlation(kl[part, None], loss[part, None])[0])
            for part in (np.ones(len(types), dtype=bool), *rest)
        )
        if np.isfinite(rho):
            interval = rank_interval(rho, len(names))
            ends = float(np.nanmin(without)), float(np.nanmax(without))
            yield KlCorrelation(kind, cell.label, len(types), len(names), interval, ends)


def _losses(metrics: QuantMetrics, kind: str, cell: Cell) -> tuple[list[str], Floats, Floats]:
    """The types, mean KL divergences and losses of character of the files that have both."""
    resampled, points = metrics.resampled, []
    for record in metrics.records:
        other = reference_of(record, metrics.records)
        keys = (record.key(kind, "kl"), record.key(cell, CHARACTER), other.key(cell, CHARACTER))
        if (
            record.quant != REFERENCE
            and record.kv_type == KV_DEFAULT
            and all(key in resampled for key in keys)
        ):
            kl, character, reference = (float(resampled.replicates(key)[0]) for key in keys)
            points.append((record.quant, kl, reference - character))
    types = [quant for quant, *_ in points]
    return types, *np.array([values for _, *values in points]).reshape(-1, 2).T

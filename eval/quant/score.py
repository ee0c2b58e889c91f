"""Quant types against F16: every number as a paired difference, with a verdict on equivalence.

All types read the same prompts, scenarios, texts and seeds, and all numbers come from one draw of
those, so that what they have in common cancels in a difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, NamedTuple

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.conditions import calls_tools
from charprobe_lite.eval.quant.fidelity_score import (
    FidelityScore,
    TextFidelity,
    fidelity_metrics,
    score_fidelity,
)
from charprobe_lite.eval.quant.health import HEALTH, SHARES, Turns, health_metrics
from charprobe_lite.eval.scores.cells import CellScore
from charprobe_lite.eval.scores.gap import CONDITION_STEPS, headline_metric, labels_of
from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate
from charprobe_lite.eval.stats.classification import Labels, accuracies, shared_classes
from charprobe_lite.eval.stats.metrics import (
    LABEL_STATISTICS,
    Metric,
    PairedDifference,
    ResampledMetrics,
    label_metric,
    label_names,
)
from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.defaults import MARGIN, REFERENCE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import KV_DEFAULT, KV_TYPES

FIDELITY = ("perplexity", "kl_mean", "kl_median", "kl_p99", "top1")
CHARACTER, RECOGNISED = "character", "recognised"


def document(value: Any) -> Any:
    """Records as ``--json`` prints them: by their ``as_json``, or else field by field."""
    if hasattr(value, "as_json"):
        return value.as_json()
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {name: document(part) for name, part in value.items()}
    return [document(part) for part in value] if isinstance(value, list) else value


class MetricKey(NamedTuple):
    """Names a metric of one file: of a cell without its quant type, or of a kind of text."""

    quant: str
    lora: str | None
    subject: Cell | str
    metric: str
    kv_type: str = KV_DEFAULT


@dataclass(frozen=True)
class QuantRecord:
    """What a study recorded of one quant type, made in one of the two ways (``lora``).

    ``bytes`` is what a user has to store for one persona, ``tensor_types`` weights by real type.
    ``rows`` and ``turns`` are those of this type's cells. ``fidelity``: kind of text (held-out
    texts first), text, its tokens; all types have the same texts. A text with the name of a prompt
    or scenario is resampled with it. ``tokens_per_second`` and ``peak_bytes`` may be unknown.
    """

    quant: str
    lora: str | None
    bits_per_weight: float
    bytes: int
    tensor_types: Mapping[str, int]
    rows: Sequence[Row]
    turns: Turns
    fidelity: Mapping[str, Mapping[str, TextFidelity]]
    tokens_per_second: float | None = None
    peak_bytes: int | None = None
    kv_type: str = KV_DEFAULT

    @property
    def is_reference(self) -> bool:
        """Whether all others are compared with it: weights and cache of 16 bits."""
        return (self.quant, self.kv_type) == (REFERENCE, KV_DEFAULT)

    @property
    def file(self) -> tuple[str, str | None, str]:
        """What tells it from the study's other records."""
        return self.quant, self.lora, self.kv_type

    @property
    def label(self) -> str:
        """The quant type, and the type of the cache where that is quantized, for people."""
        cache = "" if self.kv_type == KV_DEFAULT else f", {self.kv_type} cache"
        return f"{self.quant}{cache}"

    @property
    def cells(self) -> list[Cell]:
        """The cells in the order of their rows, each over all its training seeds."""
        return list(dict.fromkeys(row.cell.pooled for row in self.rows))

    def key(self, subject: Cell | str, metric: str) -> MetricKey:
        """Names one of the record's metrics."""
        return MetricKey(self.quant, self.lora, subject, metric, self.kv_type)


@dataclass(frozen=True)
class ComparedEstimate:
    """A number and its difference from F16's, None for F16 itself."""

    value: Estimate
    difference: PairedDifference | None

    def as_json(self) -> dict[str, Any]:
        """``estimate``, ``ci`` and ``difference``."""
        return {**self.value.as_json(), "difference": document(self.difference)}


@dataclass(frozen=True)
class CellQuality:
    """One cell of a quant type: its score, and its differences from F16.

    ``cell`` is without its quant type. ``difference`` is that of ``metric``: macro-F1, or the
    detection rate for one persona; None for F16 itself, and where the two have texts of no common
    persona. ``health`` is empty where no tool is called, see `health_metrics`.
    """

    cell: Cell
    score: CellScore
    metric: str
    difference: PairedDifference | None
    health: dict[str, ComparedEstimate]

    @property
    def condition(self) -> str:
        """The condition and how tool calls are written, see `Cell.label`."""
        return self.cell.label

    @property
    def unforced(self) -> PairedDifference | None:
        """The difference from F16 in the share of emails that agents send unforced."""
        return self.health["unforced"].difference if "unforced" in self.health else None

    def difference_json(self) -> dict[str, Any] | None:
        """``{metric: {"estimate", "ci", "equivalent"}}``."""
        return {self.metric: self.difference.as_json()} if self.difference else None

    def as_json(self) -> dict[str, Any]:
        """The cell as ``eval`` prints it, with ``difference`` and ``health``."""
        return {
            **self.score.as_json(),
            "difference": self.difference_json(),
            "health": document(self.health),
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
        lora = self.record.lora
        return f"{self.record.label} ({lora})" if lora else self.record.label

    @property
    def trained_cells(self) -> list[CellQuality]:
        """The cells of the most trained stage."""
        stages = {cell.cell.stage for cell in self.cells}
        best = next((stage for stage in reversed(STAGES) if stage in stages), None)
        return [cell for cell in self.cells if cell.cell.stage == best]

    @property
    def headline(self) -> CellQuality | None:
        """The most trained stage's first cell of the last of `CONDITION_STEPS` that has run."""
        return max(self.trained_cells, key=lambda cell: _step(cell.cell), default=None)

    @property
    def health(self) -> dict[str, ComparedEstimate]:
        """Of the agentic cell of the last condition, without a grammar if it has run so."""
        agentic = [cell for cell in self.trained_cells if cell.health]
        best = max(agentic, key=lambda c: (_step(c.cell), c.cell.grammar == "off"), default=None)
        return best.health if best else {}

    def as_json(self) -> dict[str, Any]:
        """One entry of ``quants``: ``perplexity`` to ``top1`` are of the first kind of text.

        ``difference`` is that of `headline`; each cell has its difference as well. ``fidelity`` has
        every kind of text with intervals.
        """
        costs = (
            "quant",
            "lora",
            "kv_type",
            "bits_per_weight",
            "bytes",
            "tensor_types",
            "tokens_per_second",
        )
        fidelity, first = document(self.fidelity), next(iter(self.fidelity.values()), None)
        return {
            **{name: getattr(self.record, name) for name in costs},
            **{name: getattr(first, name).value if first else None for name in FIDELITY},
            "peak_bytes": self.record.peak_bytes,
            "health": document(self.health),
            "cells": document(self.cells),
            "difference": self.headline and self.headline.difference_json(),
            "fidelity": fidelity,
        }


@dataclass(frozen=True)
class QuantMetrics:
    """All quant types' records, most bits per weight first, with their resampled metrics.

    ``labels`` are by `QuantRecord.file`, then by cell without its quant type.
    """

    records: list[QuantRecord]
    personas: Sequence[str]
    labels: Mapping[tuple[str, str | None, str], Mapping[Cell, Labels]]
    resampled: ResampledMetrics[MetricKey]
    margin: float

    @property
    def metric(self) -> str:
        """The metric of character."""
        return "macro_f1" if len(self.personas) > 1 else "detection_rate"

    def difference(
        self, record: QuantRecord, subject: Cell | str, metric: str, share: bool = True
    ) -> PairedDifference | None:
        """From F16; None for F16 itself, and where either has nothing to measure."""
        reference = reference_of(record, self.records)
        key, other = record.key(subject, metric), reference.key(subject, metric)
        if reference is record or key not in self.resampled or other not in self.resampled:
            return None
        return self.resampled.difference(key, other, self.margin if share else None)

    def character_difference(self, record: QuantRecord, subject: Cell) -> PairedDifference | None:
        """Of `CHARACTER` from F16, over the personas that both have a classified text of."""
        reference = reference_of(record, self.records)
        files = record, reference
        cells = [self.labels[file.file] for file in files]
        pair = [labels[subject] for labels in cells if subject in labels]
        if reference is record or len(pair) < 2 or not (classes := shared_classes(pair)):
            return None
        if all(set(labels.true) == set(classes) for labels in pair):
            difference = self.difference(record, subject, CHARACTER)
        else:
            parts = [labels.of_classes(classes) for labels in pair]
            key, other = (self._part_key(*file, subject) for file in zip(files, parts, strict=True))
            difference = self.resampled.difference(key, other, self.margin)
        if difference is None or len(classes) == len(self.personas):
            return difference
        personas = [persona for persona in self.personas if persona in classes]
        return replace(difference, personas=personas, lost=set(pair[1].true) != set(classes))

    def _part_key(self, record: QuantRecord, part: Labels, subject: Cell) -> MetricKey:
        """Names the character of a file over some of its personas, which are those of ``part``."""
        key = record.key(subject, f"{CHARACTER} of {','.join(sorted(set(part.true)))}")
        statistic = LABEL_STATISTICS[headline_metric(self.personas)]
        metric = label_metric(part, label_names([part]), statistic, len(part.true))
        self.resampled.add_part(key, record.key(subject, RECOGNISED), metric)
        return key


def compare_quants(
    records: Sequence[QuantRecord],
    personas: Sequence[str],
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = CLUSTER_RESAMPLES,
) -> QuantMetrics:
    """Resample the metrics of all records together. Raises BadInput where F16 is missing."""
    if not any(record.is_reference for record in records):
        raise BadInput(f"--quant: {REFERENCE} is missing, which all others are compared with")
    labels = {
        record.file: {
            without_quant(cell): columns
            for cell, columns in labels_of(record.rows, personas).items()
        }
        for record in records
    }
    metrics: dict[MetricKey, Metric] = {}
    for record in records:
        reference = reference_of(record, records)
        pair = labels[record.file], labels[reference.file]
        metrics |= _cell_metrics(record, *pair, personas)
        for kind, texts in record.fidelity.items():
            fidelity = fidelity_metrics(texts)
            metrics |= {record.key(kind, name): metric for name, metric in fidelity.items()}
    bits = {record.quant: record.bits_per_weight for record in records}
    ordered = sorted(
        records, key=lambda r: (-bits[r.quant], r.quant, r.lora or "", KV_TYPES.index(r.kv_type))
    )
    resampled = ResampledMetrics(metrics, seed, resamples)
    return QuantMetrics(ordered, personas, labels, resampled, margin)


def score_quant(
    record: QuantRecord, metrics: QuantMetrics, scores: Sequence[CellScore]
) -> QuantScore:
    """A quant type's differences from F16, each tested alone; ``scores`` are those of its cells."""
    cells = []
    for cell, score in zip(map(without_quant, record.cells), scores, strict=True):
        health = {
            name: ComparedEstimate(
                metrics.resampled.estimate(record.key(cell, name)),
                metrics.difference(record, cell, name, share=name in SHARES),
            )
            for name in HEALTH
            if record.key(cell, name) in metrics.resampled
        }
        difference = metrics.character_difference(record, cell)
        cells.append(CellQuality(cell, score, metrics.metric, difference, health))
    reference, fidelity = reference_of(record, metrics.records), {}
    for kind, texts in record.fidelity.items():
        keys = {name: record.key(kind, name) for name in ("nll", "kl", "top1")}
        compared = reference is not record and kind in reference.fidelity
        other = reference.key(kind, "nll") if compared else None
        fidelity[kind] = score_fidelity(metrics.resampled, list(texts.values()), keys, other)
    return QuantScore(record, fidelity, cells)


def without_quant(cell: Cell) -> Cell:
    """A cell without its quant type and its type of cache: what all have in common."""
    return replace(cell, quant=None, lora=None, kv_type=KV_DEFAULT)


def reference_of(record: QuantRecord, records: Sequence[QuantRecord]) -> QuantRecord:
    """F16 made in the same way, or else F16 made in the other."""
    references = [other for other in records if other.is_reference]
    return next((other for other in references if other.lora == record.lora), references[0])


def _cell_metrics(
    record: QuantRecord,
    labels: Mapping[Cell, Labels],
    reference: Mapping[Cell, Labels],
    personas: Sequence[str],
) -> dict[MetricKey, Metric]:
    """Character of every cell with a classified text, health of every agentic one.

    A persona without a text is not in a macro-F1. Findings across files are over one set of
    personas, that of the ``reference``: a cell with another set has no `CHARACTER`.
    """
    metrics: dict[MetricKey, Metric] = {}
    statistic = LABEL_STATISTICS[headline_metric(personas)]
    for cell in record.cells:
        subject = without_quant(cell)
        rows = [row for row in record.rows if row.cell.pooled == cell]
        by_name = health_metrics(rows, record.turns) if calls_tools(cell.condition) else {}
        if subject in labels:
            own, other = labels[subject], reference.get(subject)
            # a base-stage text is a row for every persona, and still one observation
            texts = sum(row.prediction is not None for row in rows)
            names = label_names([own], personas)
            if other and set(other.true) == set(own.true):
                by_name[CHARACTER] = label_metric(own, names, statistic, texts)
            by_name[RECOGNISED] = label_metric(own, names, accuracies, texts)
        metrics |= {record.key(subject, name): metric for name, metric in by_name.items()}
    return metrics


def _step(cell: Cell) -> int:
    condition = cell.condition
    return CONDITION_STEPS.index(condition) if condition in CONDITION_STEPS else -1

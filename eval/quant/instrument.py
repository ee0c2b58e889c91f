"""The classifier as an instrument: what its own quantization does to what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate
from charprobe_lite.eval.stats.classification import Counts, Labels, accuracies
from charprobe_lite.eval.stats.metrics import Metric, PairedDifference, ResampledMetrics, character


@dataclass(frozen=True)
class ClassifierAgreement:
    """The classifier in full precision and quantized, on the same ``n`` texts.

    ``agreement``: share of texts with the same label; ``kappa`` corrects it for chance, None where
    both give one label to everything. ``f1``: macro-F1 of the quantized one minus that of the
    other.
    """

    n: int
    agreement: Estimate
    kappa: Estimate | None
    f1: PairedDifference

    def as_json(self) -> dict[str, Any]:
        """Every number with its interval."""
        return {
            "n": self.n,
            "agreement": self.agreement.as_json(),
            "kappa": self.kappa and self.kappa.as_json(),
            "macro_f1": self.f1.as_json(),
        }


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
    n, personas = len(full.true), sorted(set(full.true))
    both = character(Labels(full.predicted, quantized, full.cluster), [], n, several=False)
    labels = {*full.predicted, *quantized}
    measures = {
        "full": character(full, personas, n, several=True),
        "quantized": character(
            Labels(full.true, quantized, full.cluster), personas, n, several=True
        ),
        "agreement": both,
        "kappa": Metric(both.cluster, both.values, _kappas_of(len(labels)), n, share=False),
    }
    measured = ResampledMetrics(measures, seed, resamples)
    return ClassifierAgreement(
        n=n,
        agreement=measured.estimate("agreement"),
        kappa=measured.estimate("kappa") if "kappa" in measured else None,
        f1=measured.difference("quantized", "full", margin),
    )


def kappas(counts: Counts) -> NDArray[np.float64]:
    """Cohen's kappa (n,) of confusion matrices (n, labels, labels); Cohen 1960, EPM 20:37.

    Not a number where chance alone would agree on everything.
    """
    total = counts.sum(axis=(1, 2))
    chance = (counts.sum(axis=1) * counts.sum(axis=2)).sum(axis=1) / total**2
    room = 1 - chance
    return np.asarray((accuracies(counts) - chance) / np.where(room > 1e-12, room, np.nan))


def _kappas_of(labels: int) -> Any:
    return lambda sums: kappas(sums.reshape(-1, labels, labels))

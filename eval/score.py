"""Scores with their intervals.

Macro-F1 is the published study's: per-class F1 averaged over the personas present in the ground
truth; a class with neither a true nor a predicted row is left out. Its interval is the published
one too: a non-parametric bootstrap over rows, 1000 resamples, 2.5 and 97.5 percentiles (Efron
and Tibshirani 1993, ch. 13). A detection rate has Wilson's score interval (Wilson 1927).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


def detection_rate(predicted: Sequence[str], persona: str) -> Estimate:
    """Share of samples classified as ``persona`` (recall), Wilson's interval. Needs a sample."""
    from scipy.stats import binomtest

    hits = sum(label == persona for label in predicted)
    interval = binomtest(hits, len(predicted)).proportion_ci(method="wilson")
    return Estimate(hits / len(predicted), float(interval.low), float(interval.high))


def macro_f1(
    true: Sequence[str], predicted: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Macro-F1 of the rows with the row bootstrap's interval. Needs a row."""
    return _bootstrap(_macro, true, predicted, seed, resamples)


def accuracy(
    true: Sequence[str], predicted: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Share of rows predicted as their true label, with the row bootstrap's interval."""
    return _bootstrap(_accuracy, true, predicted, seed, resamples)


def _bootstrap(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    true: Sequence[str],
    predicted: Sequence[str],
    seed: int,
    resamples: int,
) -> Estimate:
    """Resampling rows with replacement is drawing the confusion matrix from a multinomial with
    the observed cell frequencies, which is what is done here, for all resamples at once."""
    labels, counts = confusion(true, predicted)
    flat = counts.ravel()
    draws = np.random.default_rng(seed).multinomial(flat.sum(), flat / flat.sum(), size=resamples)
    low, high = np.percentile(
        statistic(draws.reshape(resamples, len(labels), len(labels))), [2.5, 97.5]
    )
    return Estimate(float(statistic(counts[None])[0]), float(low), float(high))


def per_class_f1(true: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """F1 of every label that is present in the ground truth."""
    labels, counts = confusion(true, predicted)
    f1, present = _f1(counts[None])
    return {
        label: float(score)
        for label, score, there in zip(labels, f1[0], present[0], strict=True)
        if there
    }


def confusion(true: Sequence[str], predicted: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The labels in order and counts[i, j] of rows with true label i predicted as j."""
    labels = sorted({*true, *predicted})
    index = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for row, column in zip(true, predicted, strict=True):
        counts[index[row], index[column]] += 1
    return labels, counts


def _accuracy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Accuracy of confusion matrices (n, labels, labels)."""
    return np.asarray(np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2)))


def _macro(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Macro-F1 of confusion matrices (n, labels, labels)."""
    f1, present = _f1(counts)
    return np.asarray((f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1))


def _f1(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Per-class F1 (n, labels), and which classes have a true row."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    true, predicted = counts.sum(axis=2), counts.sum(axis=1)
    return 2 * hits / np.maximum(true + predicted, 1), true > 0

"""Classification scores: confusion matrices, F1, calibration, agreement, and their intervals.

Macro-F1 is the published study's: per-class F1 averaged over the personas present in the ground
truth; a class with neither a true nor a predicted row is left out. The *row* interval is the
published one: a non-parametric bootstrap over rows, 1000 resamples, 2.5 and 97.5 percentiles
(Efron and Tibshirani 1993, ch. 13). It takes rows for independent, which they are not: ten personas
answer the same prompt, and a base-stage sample is a row for every persona. The *cluster* interval
resamples the prompts or scenarios instead, see `ClusterBootstrap`. A detection rate has Wilson's
score interval (Wilson 1927).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.stats.bootstrap import (
    CLUSTER_RESAMPLES,
    CellName,
    ClusterBootstrap,
    Estimate,
)

ROW_RESAMPLES = 1000
BINS = 15

Counts = NDArray[Any]
"""Confusion matrices (n, labels, labels): rows are true labels, columns predicted ones."""


@dataclass(frozen=True)
class Labels:
    """One cell's rows: true label, predicted label and the prompt or scenario asked (cluster).

    A base-stage sample that is scored against several personas is as many rows of one cluster.
    """

    true: Sequence[str]
    predicted: Sequence[str]
    cluster: Sequence[str]


@dataclass(frozen=True)
class Confusion:
    """``counts[i][j]``: rows with true label i of ``labels`` that were predicted as label j."""

    labels: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class ClassScore:
    """How one label fares: F1, precision, recall (0 where undefined) and its true rows."""

    f1: float
    precision: float
    recall: float
    n: int


@dataclass(frozen=True)
class Bin:
    """The rows whose highest probability lies in (low, high]: their mean of it, their accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Do probabilities mean what they say? ``bins`` holds those that have a row."""

    ece: float
    brier: float
    bins: list[Bin]


@dataclass(frozen=True)
class Hits:
    """Of ``n`` rows, how many the classifier called by their true label."""

    n: int
    hits: int


@dataclass(frozen=True)
class HumanAgreement:
    """Classifier against human on the question whether a text shows its checkpoint's persona.

    ``kappa`` is None where both give one and the same answer to every row.
    """

    n: int
    agreement: float
    kappa: float | None
    present: Hits
    absent: Hits


class Resampling(Generic[CellName]):
    """The cluster bootstrap of several cells' labels, for paired differences between them.

    Draws and intervals are those of `ClusterBootstrap`. On simulated cells with 10 to 50 clusters
    the intervals cover the truth in 93 to 96 of 100 cases, differences too (bench/score.py); the
    macro-F1 of a base stage, where most labels never occur, in 36, 68 and 86 of 100 with 10, 24
    and 50 clusters.
    """

    def __init__(
        self,
        cells: Mapping[CellName, Labels],
        seed: int = 0,
        resamples: int = CLUSTER_RESAMPLES,
    ) -> None:
        """Raises ValueError for columns of different lengths; a cell may have no row."""
        everything = cells.values()
        self.labels = sorted({label for c in everything for label in (*c.true, *c.predicted)})
        self._draws = ClusterBootstrap(
            {name: own.cluster for name, own in cells.items()}, seed, resamples
        )
        self._counts = {name: self._count(name, own) for name, own in cells.items()}

    def _count(self, name: CellName, labels: Labels) -> Any:
        """How often each (true, predicted) pair occurs in each cluster, (pairs, clusters)."""
        from scipy.sparse import csr_array

        number = {label: n for n, label in enumerate(self.labels)}
        width = len(self.labels)
        pairs = [
            number[true] * width + number[found]
            for true, found in zip(labels.true, labels.predicted, strict=True)
        ]
        shape = (width * width, len(self._draws.weights(name)))
        # float32 counts exactly up to 2**24 rows
        ones = np.ones(len(pairs), dtype=np.float32)
        return csr_array((ones, (pairs, self._draws.places(name))), shape)

    def confusions(self, cell: CellName) -> Counts:
        """Confusion matrices (1 + resamples, labels, labels): first what was observed.

        Labels stand in the order of ``labels``. A resample may hold no row of a small cell.
        """
        width = len(self.labels)
        drawn = (self._counts[cell] @ self._draws.weights(cell)).astype(np.float64)
        return np.moveaxis(drawn.reshape(width, width, -1), -1, 0)

    def estimate(self, statistic: Callable[..., NDArray[np.float64]], *cells: CellName) -> Estimate:
        """``statistic`` of the cells' confusion matrices, each (n, labels, labels), giving (n,).

        With two cells, ``lambda a, b: macro_f1s(a) - macro_f1s(b)`` is a paired difference.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            values = statistic(*(self.confusions(cell) for cell in cells))
        return self._draws.interval(values, cells)

    def class_scores(self, cell: CellName) -> dict[str, tuple[Estimate, Estimate]]:
        """(F1, recall) of every label that is present in the cell's ground truth."""
        counts = self.confusions(cell)
        with np.errstate(divide="ignore", invalid="ignore"):
            f1, _, recall = class_rates(counts)
        return {
            label: (
                self._draws.interval(f1[:, n], [cell]),
                self._draws.interval(recall[:, n], [cell]),
            )
            for n, label in enumerate(self.labels)
            if counts[0, n].any()
        }


def detection_rate(predicted: Sequence[str], persona: str) -> Estimate:
    """Share of samples classified as ``persona`` (recall), Wilson's interval. Needs a sample."""
    return wilson_share(sum(label == persona for label in predicted), len(predicted))


def wilson_share(hits: int, n: int) -> Estimate:
    """``hits`` of ``n`` > 0 with Wilson's interval."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high))


def macro_f1(
    true: Sequence[str], predicted: Sequence[str], seed: int = 0, resamples: int = ROW_RESAMPLES
) -> Estimate:
    """Macro-F1 of the rows with the published row bootstrap's interval. Needs a row."""
    return _row_bootstrap(macro_f1s, true, predicted, seed, resamples)


def accuracy(
    true: Sequence[str], predicted: Sequence[str], seed: int = 0, resamples: int = ROW_RESAMPLES
) -> Estimate:
    """Share of rows predicted as their true label, with the row bootstrap's interval."""
    return _row_bootstrap(accuracies, true, predicted, seed, resamples)


def _row_bootstrap(
    statistic: Callable[[Counts], NDArray[np.float64]],
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


def per_class(true: Sequence[str], predicted: Sequence[str]) -> dict[str, ClassScore]:
    """The scores of every label that is present in the ground truth."""
    labels, counts = confusion(true, predicted)
    f1, precision, recall = (rates[0] for rates in class_rates(counts[None]))
    return {
        label: ClassScore(float(f1[n]), float(precision[n]), float(recall[n]), int(counts[n].sum()))
        for n, label in enumerate(labels)
        if counts[n].any()
    }


def confusion(true: Sequence[str], predicted: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The labels in order and counts[i, j] of rows with true label i predicted as j."""
    labels = sorted({*true, *predicted})
    index = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for row, column in zip(true, predicted, strict=True):
        counts[index[row], index[column]] += 1
    return labels, counts


def calibration(true: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> Calibration:
    """Expected calibration error and Brier score of rows with their labels' probabilities.

    ECE: 15 equal bins of the highest probability, the mean of |accuracy - confidence| weighted by
    rows (Naeini et al. 2015; Guo et al. 2017, sec. 2). Brier: the mean over rows of the squared
    distance between probabilities and truth, summed over labels, 0 to 2 (Brier 1950). Needs a row.
    """
    tops = [max(each.items(), key=lambda pair: pair[1]) for each in probabilities]
    confidence = np.array([p for _, p in tops])
    right = np.array([label == wanted for (label, _), wanted in zip(tops, true, strict=True)])
    number = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS)
    bins = []
    for n in np.unique(number):
        there = number == n
        means = float(confidence[there].mean()), float(right[there].mean())
        bins.append(Bin(float((n - 1) / BINS), float(n / BINS), int(there.sum()), *means))
    ece = sum(each.n * abs(each.accuracy - each.confidence) for each in bins) / len(tops)
    return Calibration(ece, float(np.mean([*map(_squared_distance, true, probabilities)])), bins)


def _squared_distance(wanted: str, probabilities: Mapping[str, float]) -> float:
    return sum((p - (label == wanted)) ** 2 for label, p in {wanted: 0.0, **probabilities}.items())


def agreement(said: Sequence[bool], seen: Sequence[bool]) -> HumanAgreement:
    """Cohen's kappa (Cohen 1960) between ``said``, the classifier's, and ``seen``, a human's.

    Both say of each row whether the text shows the persona of its checkpoint. Needs a row.
    """
    from sklearn.metrics import cohen_kappa_score

    varied = len({*said, *seen}) > 1
    hits = {
        there: [mine for mine, theirs in zip(said, seen, strict=True) if theirs is there]
        for there in (True, False)
    }
    return HumanAgreement(
        n=len(said),
        agreement=float(np.mean(np.equal(said, seen))),
        kappa=float(cohen_kappa_score(said, seen)) if varied else None,
        present=Hits(len(hits[True]), sum(hits[True])),
        absent=Hits(len(hits[False]), sum(hits[False])),
    )


def accuracies(counts: Counts) -> NDArray[np.float64]:
    """Accuracy (n,) of confusion matrices; not a number where there is no row."""
    return np.asarray(np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2)))


def macro_f1s(counts: Counts) -> NDArray[np.float64]:
    """Macro-F1 (n,) of confusion matrices, as published; not a number where there is no row."""
    f1, _, _ = class_rates(counts)
    present = counts.sum(axis=2) > 0
    return np.asarray((f1 * present).sum(axis=1) / present.sum(axis=1))


def class_rates(
    counts: Counts,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """F1, precision and recall of each label, (n, labels) each; 0 where undefined."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    true, predicted = counts.sum(axis=2), counts.sum(axis=1)
    f1, precision, recall = (
        np.asarray(share / np.maximum(of, 1), dtype=np.float64)
        for share, of in ((2 * hits, true + predicted), (hits, predicted), (hits, true))
    )
    return f1, precision, recall

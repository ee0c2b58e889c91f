"""Classification scores: confusion matrices, F1, calibration, agreement, row intervals.

Macro-F1 is the published study's: per-class F1 averaged over the personas present in the ground
truth; a class with neither a true nor a predicted row is left out. The *row* interval is the
published one: a non-parametric bootstrap over rows, 1000 resamples, 2.5 and 97.5 percentiles
(Efron and Tibshirani 1993, ch. 13). It takes rows for independent, which they are not: ten personas
answer the same prompt, and a base-stage sample is a row for every persona. `stats.metrics`
resamples prompts and scenarios instead. A detection rate has Wilson's score interval (Wilson 1927).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.stats.bootstrap import Estimate, Floats, Unit

ROW_RESAMPLES = 1000
BINS = 15
MISSED = ""
"""The label of a missing text where it counts as a miss: no persona."""

Counts = NDArray[Any]
"""Confusion matrices (n, labels, labels): rows are true labels, columns predicted ones."""
Statistic = Callable[[Counts], Floats]
"""A number of each confusion matrix, (n,)."""


@dataclass(frozen=True)
class Labels:
    """One cell's rows: true label, predicted label, and the prompt or scenario (cluster).

    ``shared``: each text is a row for every true label, as in the base stage. ``train_seed`` is
    that of the adapter of each row, None for none; empty without any.
    """

    true: Sequence[str]
    predicted: Sequence[str]
    cluster: Sequence[str]
    shared: bool = field(default=False, kw_only=True)
    train_seed: Sequence[int | None] = field(default=(), kw_only=True)

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[str, str, str]],
        *,
        shared: bool = False,
        train_seeds: Sequence[int | None] = (),
    ) -> Labels:
        """The columns of rows (true, predicted, cluster), and the training seed of each."""
        true, predicted, cluster = ([row[column] for row in rows] for column in range(3))
        is_any = any(seed is not None for seed in train_seeds)
        seeds = train_seeds if is_any else ()
        return cls(true, predicted, cluster, shared=shared, train_seed=seeds)

    def of_classes(self, classes: Collection[str]) -> Labels:
        """The rows whose true label is one of ``classes``; any label may be predicted."""
        return self._select([true in classes for true in self.true])

    def by_train_seed(self) -> dict[int, Labels]:
        """The rows of each training seed, in the order of the seeds."""
        seeds = sorted({seed for seed in self.train_seed if seed is not None})
        return {seed: self._select([each == seed for each in self.train_seed]) for seed in seeds}

    @property
    def adapters(self) -> list[Unit | None]:
        """The adapter of each row, a unit of its persona; empty without training seeds."""
        pairs = zip(self.true, self.train_seed, strict=True) if self.train_seed else ()
        return [None if seed is None else Unit(true, str(seed)) for true, seed in pairs]

    def _select(self, kept: Sequence[bool]) -> Labels:
        true, predicted, cluster = (
            list(compress(column, kept)) for column in (self.true, self.predicted, self.cluster)
        )
        seeds = list(compress(self.train_seed, kept)) or ()
        return Labels(true, predicted, cluster, shared=self.shared, train_seed=seeds)


@dataclass(frozen=True)
class Confusion:
    """``counts[i][j]``: rows with true label i of ``labels`` that were predicted as label j."""

    labels: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class ClassScore:
    """F1, precision and recall of one label (0 where undefined), and its true rows."""

    f1: float
    precision: float
    recall: float
    n: int


class ClassRates(NamedTuple):
    """F1, precision and recall of each label, (n, labels) each; 0 where undefined."""

    f1: Floats
    precision: Floats
    recall: Floats


@dataclass(frozen=True)
class Bin:
    """Mean confidence and accuracy of the rows whose highest probability is in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities are right; ``bins`` holds those with a row."""

    ece: float
    brier: float
    bins: list[Bin]


@dataclass(frozen=True)
class Hits:
    """How many of ``n`` rows the classifier predicts as their true label."""

    n: int
    hits: int


@dataclass(frozen=True)
class HumanAgreement:
    """Classifier against human: does a text show the persona of its checkpoint?

    ``kappa`` is None where both give the same answer to every row.
    """

    n: int
    agreement: float
    kappa: float | None
    present: Hits
    absent: Hits


def shared_classes(cells: Iterable[Labels]) -> list[str]:
    """The true labels that each of one or more cells has a row of, in order.

    A macro-F1 is an average over classes, so two of them are compared over the same classes.
    """
    return sorted(set.intersection(*(set(cell.true) for cell in cells)))


def wilson_share(hits: int, n: int) -> Estimate:
    """``hits`` of ``n`` > 0 with Wilson's interval."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high))


def macro_f1(
    true: Sequence[str], predicted: Sequence[str], seed: int = 0, resamples: int = ROW_RESAMPLES
) -> Estimate:
    """Macro-F1 with the published row bootstrap's interval. Needs a row."""
    return row_bootstrap(macro_f1s, true, predicted, seed, resamples)


def row_bootstrap(
    statistic: Statistic,
    true: Sequence[str],
    predicted: Sequence[str],
    seed: int = 0,
    resamples: int = ROW_RESAMPLES,
) -> Estimate:
    """``statistic`` with the row bootstrap's percentile interval. Needs a row.

    To resample rows with replacement is to draw the confusion matrix from a multinomial with the
    observed frequencies, here for all resamples at once.
    """
    _, counts = confusion(true, predicted)
    flat = counts.ravel()
    draws = np.random.default_rng(seed).multinomial(flat.sum(), flat / flat.sum(), size=resamples)
    low, high = np.percentile(statistic(draws.reshape(-1, *counts.shape)), [2.5, 97.5])
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


def confusion(
    true: Sequence[str], predicted: Sequence[str], names: Iterable[str] = ()
) -> tuple[list[str], NDArray[np.int64]]:
    """The labels in order, and counts[i, j]: rows with true label i predicted as label j.

    ``names`` are labels that stand in the matrix even without a row.
    """
    labels = sorted({*true, *predicted, *names})
    index = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for row, column in zip(true, predicted, strict=True):
        counts[index[row], index[column]] += 1
    return labels, counts


def missing_bounds(
    true: Sequence[str],
    predicted: Sequence[str],
    missing: Mapping[str, int],
    statistic: Statistic,
) -> tuple[float, float]:
    """``statistic`` if every missing text is a miss, and if every one is a hit.

    ``missing`` counts the missing texts of each true label. A miss is a row of its label with no
    label predicted. That is not the least possible: a misread text would also lower the precision
    of another label. A hit is the most possible. Worst-case bounds for missing outcomes in the
    manner of Manski (1990, American Economic Review 80:319). NaN without a row.
    """
    labels, counts = confusion(true, predicted, [*missing, MISSED])
    lost = np.array([missing.get(label, 0) for label in labels], dtype=np.int64)
    misses = counts.copy()
    misses[:, labels.index(MISSED)] += lost
    low, high = statistic(np.stack([misses, counts + np.diag(lost)]))
    return float(low), float(high)


def calibration(true: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> Calibration:
    """Expected calibration error and Brier score of rows with the probabilities of labels.

    ECE: 15 equal bins of the highest probability, the mean of |accuracy - confidence| weighted by
    rows (Naeini et al. 2015; Guo et al. 2017, sec. 2). Brier: the mean over rows of the squared
    distance between probabilities and truth, summed over labels, 0 to 2 (Brier 1950). Needs a row.
    """
    likeliest = [max(row.items(), key=lambda pair: pair[1]) for row in probabilities]
    confidence = np.array([p for _, p in likeliest])
    correct = np.array([label == y for (label, _), y in zip(likeliest, true, strict=True)])
    number = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS)
    bins = []
    for n in np.unique(number):
        rows = number == n
        means = float(confidence[rows].mean()), float(correct[rows].mean())
        bins.append(Bin(float((n - 1) / BINS), float(n / BINS), int(rows.sum()), *means))
    ece = sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / len(likeliest)
    return Calibration(ece, float(np.mean([*map(_squared_distance, true, probabilities)])), bins)


def _squared_distance(true: str, probabilities: Mapping[str, float]) -> float:
    return sum((p - (label == true)) ** 2 for label, p in {true: 0.0, **probabilities}.items())


def human_agreement(classifier: Sequence[bool], human: Sequence[bool]) -> HumanAgreement:
    """Cohen's kappa (Cohen 1960) between the answers of a classifier and a human. Needs a row."""
    from sklearn.metrics import cohen_kappa_score

    present, absent = (
        [c for c, h in zip(classifier, human, strict=True) if h is answer]
        for answer in (True, False)
    )
    varied = len({*classifier, *human}) > 1
    return HumanAgreement(
        n=len(classifier),
        agreement=float(np.mean(np.equal(classifier, human))),
        kappa=float(cohen_kappa_score(classifier, human)) if varied else None,
        present=Hits(len(present), sum(present)),
        absent=Hits(len(absent), sum(absent)),
    )


def accuracies(counts: Counts) -> Floats:
    """Accuracy (n,) of confusion matrices, NaN without a row."""
    return np.asarray(np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2)))


def macro_f1s(counts: Counts) -> Floats:
    """Macro-F1 (n,) of confusion matrices, as published, NaN without a row."""
    present = counts.sum(axis=2) > 0
    return np.asarray((class_rates(counts).f1 * present).sum(axis=1) / present.sum(axis=1))


def kappas(counts: Counts) -> Floats:
    """Cohen's kappa (n,) of confusion matrices; Cohen 1960, EPM 20:37.

    NaN where chance alone would agree on everything.
    """
    total = counts.sum(axis=(1, 2))
    chance = (counts.sum(axis=1) * counts.sum(axis=2)).sum(axis=1) / total**2
    room = 1 - chance
    return np.asarray((accuracies(counts) - chance) / np.where(room > 1e-12, room, np.nan))


def class_rates(counts: Counts) -> ClassRates:
    """The rates of confusion matrices."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    true, predicted = counts.sum(axis=2), counts.sum(axis=1)
    return ClassRates(
        *(
            np.asarray(part / np.maximum(total, 1), dtype=np.float64)
            for part, total in ((2 * hits, true + predicted), (hits, predicted), (hits, true))
        )
    )

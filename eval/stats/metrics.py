"""Numbers that are made of sums over prompts, scenarios or texts, resampled together.

A share, a mean, a perplexity and a macro-F1 all follow from sums over rows. As sums they share one
cluster bootstrap (`ClusterBootstrap`), so that differences between them are paired wherever
they stand for the same prompts, scenarios or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, ClusterBootstrap, Estimate
from charprobe_lite.eval.stats.classification import Labels, accuracies, macro_f1s

Numbers = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)
EQUIVALENCE_LEVEL = 0.90
"""Two one-sided tests at 5% each are an interval of 90%."""


@dataclass(frozen=True)
class Metric:
    """A number that follows from sums over rows.

    ``values`` (rows, columns) are added up, ``of`` makes numbers (n,) of sums (n, columns), not a
    number where there is nothing. ``cluster`` names each row's prompt, scenario or text. ``n``
    counts the observations. ``share`` marks a number from 0 to 1.
    """

    cluster: Sequence[str]
    values: Numbers
    of: Callable[[Numbers], Numbers]
    n: int
    share: bool = True


@dataclass(frozen=True)
class PairedDifference:
    """A number minus the reference's: with its 95% interval in ``change``, 90% in ``inner``.

    ``margin`` is the largest difference that counts as none; None where nobody gave one.
    """

    change: Estimate
    interval_90: tuple[float, float]
    margin: float | None

    @property
    def equivalent(self) -> bool | None:
        """Whether the two are the same within the margin; None where that is not decided.

        Two one-sided tests at 5% each (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657): true
        if the 90% interval lies within the margin, false if it lies outside. An interval that
        holds an end of the margin decides nothing.
        """
        if self.margin is None:
            return None
        low, high = self.interval_90
        if -self.margin < low and high < self.margin:
            return True
        return False if high < -self.margin or low > self.margin else None

    @property
    def non_inferior(self) -> bool | None:
        """Whether no more than the margin is lost (non-inferiority); None where not decided.

        The one-sided 95% bound, which is an end of the 90% interval (Piaggio et al. 2012, JAMA
        308:2594): true if the lower one is above -margin, false if the upper one is below it.
        """
        if self.margin is None:
            return None
        low, high = self.interval_90
        if low > -self.margin:
            return True
        return False if high < -self.margin else None

    def as_json(self) -> dict[str, Any]:
        """``estimate``, ``ci`` (95%) and ``equivalent``, null where not decided."""
        return {**self.change.as_json(), "equivalent": self.equivalent}


class ResampledMetrics(Generic[Name]):
    """Measures with their resamples. Not-a-number stands where a resample holds no row."""

    def __init__(
        self, measures: Mapping[Name, Metric], seed: int = 0, resamples: int = CLUSTER_RESAMPLES
    ) -> None:
        self.measures = measures
        self.draws = ClusterBootstrap(
            {name: own.cluster for name, own in measures.items()}, seed, resamples
        )
        self._replicates: dict[Name, Numbers] = {}

    def __contains__(self, name: Name) -> bool:
        """Whether there is such a measure, and something to measure."""
        return name in self.measures and bool(np.isfinite(self.replicates(name)[0]))

    def replicates(self, name: Name) -> Numbers:
        """What was observed, then the resamples, (1 + resamples,)."""
        if name not in self._replicates:
            totals = self._sums(name) @ self.draws.weights(name)
            self._replicates[name] = self._of(name, totals)
        return self._replicates[name]

    def estimate(self, name: Name) -> Estimate:
        """The number with its 95% interval."""
        values = self.replicates(name)
        return self._interval(values, [name], 0.95)

    def difference(self, name: Name, reference: Name, margin: float | None) -> PairedDifference:
        """``name`` minus ``reference``, paired; ``margin`` is for shares."""
        values = self.replicates(name) - self.replicates(reference)
        names = [name, reference]
        inner = self._interval(values, names, EQUIVALENCE_LEVEL)
        return PairedDifference(self._interval(values, names, 0.95), inner.ends, margin)

    def by_cluster(self, name: Name) -> Numbers:
        """The number of each cluster alone, (clusters,), not a number where it has no row."""
        return self._of(name, self._sums(name))

    def pseudo_values(self, name: Name) -> Numbers:
        """What each cluster contributes, (clusters,), not a number where it has no row.

        Jackknife pseudo-values k x - (k - 1) x_i, with x_i the number without cluster i of k; for
        a mean of equally large clusters they are the clusters' own means (Efron and Tibshirani
        1993, sec. 11.5).
        """
        sums = self._sums(name)
        there = np.bincount(self.draws.places(name), minlength=sums.shape[1]) > 0
        count, whole = there.sum(), self.replicates(name)[0]
        without = self._of(name, sums.sum(axis=1, keepdims=True) - sums)
        return np.where(there, count * whole - (count - 1) * without, np.nan)

    def _sums(self, name: Name) -> Numbers:
        """The sums of each cluster of the kind, (columns, clusters)."""
        measure, places = self.measures[name], self.draws.places(name)
        sums = np.zeros((len(self.draws.weights(name)), measure.values.shape[1]))
        np.add.at(sums, places, measure.values)
        return sums.T

    def _of(self, name: Name, sums: Numbers) -> Numbers:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.measures[name].of(sums.T)

    def _interval(self, values: Numbers, names: Sequence[Name], level: float) -> Estimate:
        """That of `ClusterBootstrap.interval`, but never without width for shares.

        Where no cluster differs from another the bootstrap sees no doubt at all. Then the ends are
        what n observations without a single event leave possible, 1 - ((1 - level) / 2)^(1 / n),
        3 / n for 90% (Hanley and Lippman-Hand 1983, JAMA 249:1743, the "rule of three").
        """
        found = self.draws.interval(values, names, level)
        own = [self.measures[name] for name in names]
        if found.low < found.high or not all(each.share for each in own):
            return found
        reach = 1 - ((1 - level) / 2) ** (1 / min(each.n for each in own))
        floor = -1.0 if len(own) > 1 else 0.0
        low, high = max(found.value - reach, floor), min(found.value + reach, 1.0)
        return Estimate(found.value, low, high)


def ratio(
    cluster: Sequence[str], values: Numbers, of: int, per: int, n: int, share: bool = True
) -> Metric:
    """The sum of column ``of`` over that of column ``per``."""
    return Metric(cluster, values, lambda sums: sums[:, of] / sums[:, per], n, share)


def character(labels: Labels, personas: Sequence[str], n: int, several: bool) -> Metric:
    """Macro-F1 of ``labels``, or the share recognised for one persona; ``n`` texts."""
    names = sorted({*personas, *labels.true, *labels.predicted})
    number = {name: place for place, name in enumerate(names)}
    pairs = [
        number[true] * len(names) + number[found]
        for true, found in zip(labels.true, labels.predicted, strict=True)
    ]
    values = np.zeros((len(pairs), len(names) ** 2))
    values[np.arange(len(pairs)), pairs] = 1
    statistic, shape = macro_f1s if several else accuracies, (-1, len(names), len(names))
    return Metric(labels.cluster, values, lambda sums: statistic(sums.reshape(shape)), n)


def recognised(labels: Labels, n: int) -> Metric:
    """The share of rows classified as their own persona."""
    hits = [true == found for true, found in zip(labels.true, labels.predicted, strict=True)]
    return ratio(labels.cluster, np.column_stack([hits, np.ones(len(hits))]), 0, 1, n)

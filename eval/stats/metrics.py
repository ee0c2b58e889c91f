"""Metrics that follow from sums over rows, resampled together.

A share, a mean, a perplexity and a macro-F1 all follow from sums over rows. They share one cluster
bootstrap, so a difference between two metrics of the same prompts, scenarios or texts is paired.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from charprobe_lite.eval.stats.bootstrap import (
    CLUSTER_RESAMPLES,
    ClusterBootstrap,
    Estimate,
    Floats,
    Name,
    Unit,
)
from charprobe_lite.eval.stats.classification import Labels, Statistic, accuracies, macro_f1s
from charprobe_lite.eval.stats.power import Power

EQUIVALENCE_LEVEL = 0.90
"""Two one-sided tests at 5% each are an interval of 90%."""
ALPHA = 0.05
ROUNDING = 1e-9
FEWEST_CLUSTERS = 10
"""Prompts, scenarios or texts from which on a difference is called one, or none."""
LABEL_STATISTICS: dict[str, Statistic] = {"accuracy": accuracies, "macro_f1": macro_f1s}


@dataclass(frozen=True)
class Metric:
    """A number that follows from sums over rows.

    ``values`` (rows, columns), a numpy or a sparse array, are added up; ``of`` turns sums
    (n, columns) into numbers (n,), NaN where there is no row. ``cluster`` (rows,) names each row's
    prompt, scenario or text. ``observations`` counts what a share from 0 to 1 is a share of, so
    that its interval always has a width, see `ResampledMetrics.interval`, and ``largest`` is what
    that share can be at most. ``unit`` is each row's adapter where a persona has several, see
    `ClusterBootstrap`; empty without any. ``fewest`` is how many prompts, scenarios or texts its
    smallest class has, where classes weigh alike: the number is no surer than that class's.
    """

    cluster: Sequence[str]
    values: Any
    of: Callable[[Floats], Floats]
    observations: int | None = None
    unit: Sequence[Unit | None] = ()
    largest: float = 1.0
    fewest: int | None = None


@dataclass(frozen=True)
class MarginTests:
    """One-sided p-values of a difference against the margin, raw or after Holm's correction.

    ``equivalent`` is small where the difference is shown to lie within the margin (two one-sided
    tests, Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657), ``different`` where it is shown to
    lie outside (Hodges and Lehmann 1954, J. R. Stat. Soc. B 16:261).
    """

    equivalent: float
    different: float


@dataclass(frozen=True)
class PairedDifference:
    """A number minus the reference's, with its 95% interval and its 90% interval.

    ``margin`` is the largest difference that counts as none, None for no verdict. ``clusters`` is
    the number of prompts, scenarios or texts; ``p`` and ``p_holm`` are the tests of it alone and
    as one of a family. ``personas`` are those that both sides have a text of, None for all of the
    study. With ``lost`` the reference has texts of others too: the number may be shown to be worse,
    and not to be the same or no worse.
    """

    change: Estimate
    interval_90: tuple[float, float]
    margin: float | None
    clusters: int
    p: MarginTests | None = None
    p_holm: MarginTests | None = None
    personas: list[str] | None = None
    lost: bool = False

    @property
    def equivalent(self) -> bool | None:
        """Whether the two are the same within the margin; None if undecided.

        True if the family's test shows it at 5%, false if it shows that they are not. A difference
        that is one of no family is tested alone: true if its 90% interval lies within the margin,
        false if it lies outside. None too below `FEWEST_CLUSTERS`.
        """
        tests = self.p_holm or self.p
        if tests is None or self.clusters < FEWEST_CLUSTERS:
            return None
        if tests.equivalent <= ALPHA:
            return None if self.lost else True
        return False if tests.different <= ALPHA else None

    @property
    def non_inferior(self) -> bool | None:
        """Whether no more than the margin is lost; None if undecided.

        The one-sided 95% bound, which is an end of the 90% interval (Piaggio et al. 2012, JAMA
        308:2594): true if the lower one is above -margin, false if the upper one is below it. It
        is tested alone. None too below `FEWEST_CLUSTERS`.
        """
        if self.margin is None or self.clusters < FEWEST_CLUSTERS:
            return None
        low, high = self.interval_90
        if low > -self.margin:
            return None if self.lost else True
        return False if high < -self.margin else None

    @property
    def power(self) -> Power | None:
        """What so many prompts or scenarios can decide; None without a margin."""
        low, high = self.interval_90
        if self.margin is None or not math.isfinite(high - low):
            return None
        return Power(self.clusters, (high - low) / 2, self.margin)

    def as_json(self) -> dict[str, Any]:
        """``estimate``, ``ci`` (95%), the verdict with its p-values, ``personas`` if not all."""
        personas = {} if self.personas is None else {"personas": self.personas}
        return {
            **self.change.as_json(),
            "equivalent": self.equivalent,
            "p": vars(self.p) if self.p else None,
            "p_holm": vars(self.p_holm) if self.p_holm else None,
            "power": self.power.as_json() if self.power else None,
            **personas,
        }


class ResampledMetrics(Generic[Name]):
    """Metrics with their resamples, NaN where a resample holds no row.

    On simulated cells with 10 to 50 clusters the intervals of macro-F1 and its differences cover
    the truth in 93 to 96 of 100 cases (bench/score.py). They do not where every text counts for
    all labels, see `macro_f1_envelope`.
    """

    def __init__(
        self, metrics: Mapping[Name, Metric], seed: int = 0, resamples: int = CLUSTER_RESAMPLES
    ) -> None:
        self.metrics = dict(metrics)
        clusters = {name: metric.cluster for name, metric in metrics.items()}
        units = {name: metric.unit for name, metric in metrics.items()}
        fewest = {n: metric.fewest for n, metric in metrics.items() if metric.fewest is not None}
        self.bootstrap = ClusterBootstrap(clusters, seed, resamples, units, fewest)
        self._replicates: dict[Name, Floats] = {}

    def __contains__(self, name: Name) -> bool:
        """Whether the metric exists and has a row."""
        return name in self.metrics and bool(np.isfinite(self.replicates(name)[0]))

    def add_part(self, name: Name, whole: Name, metric: Metric) -> None:
        """Add a metric of some of the rows of ``whole``, resampled together with it."""
        self.metrics[name] = metric
        self.bootstrap.add_part(name, whole, metric.cluster, metric.unit)

    def totals(self, name: Name) -> Floats:
        """The sums of the observed rows, then of the resamples, (1 + resamples, columns)."""
        weights = self.bootstrap.weights(name)
        if rows_by_unit := self.bootstrap.unit_rows(name):
            totals = np.zeros((self.metrics[name].values.shape[1], weights.shape[1]))
            for unit, rows in rows_by_unit.items():
                sums = self._cluster_sums(name, rows)
                columns = np.unique(sums.nonzero()[0])  # few: a unit has one true label
                totals[columns] += (sums[columns] @ weights) * self.bootstrap.unit_weights(unit)
            return totals.T
        totals = self._cluster_sums(name) @ weights
        return np.asarray(totals.astype(np.float64, copy=False).T)

    def replicates(self, name: Name) -> Floats:
        """The observed number, then the resamples', (1 + resamples,)."""
        if name not in self._replicates:
            self._replicates[name] = self._of(name, self.totals(name))
        return self._replicates[name]

    def estimate(self, name: Name) -> Estimate:
        """The observed number with its 95% interval."""
        return self.interval(self.replicates(name), [name])

    def difference(
        self, name: Name, reference: Name, margin: float | None = None
    ) -> PairedDifference:
        """The number minus the reference's; ``margin`` only for shares."""
        values = self.replicates(name) - self.replicates(reference)
        names = [name, reference]
        ends = self.interval(values, names, EQUIVALENCE_LEVEL).ends
        clusters = self.bootstrap.cluster_count(names)
        tests = None if margin is None else self._tests(values, names, margin)
        return PairedDifference(self.interval(values, names), ends, margin, clusters, tests)

    def by_cluster(self, name: Name) -> Floats:
        """The number of each cluster alone, (clusters,), NaN where it has no row."""
        return self._of(name, self._dense_cluster_sums(name).T)

    def pseudo_values(self, name: Name) -> Floats:
        """What each cluster contributes, (clusters,), NaN where it has no row.

        Jackknife pseudo-values k x - (k - 1) x_i, with x_i the number without cluster i of k; for
        a mean of equally large clusters they are the clusters' means (Efron and Tibshirani 1993,
        sec. 11.5).
        """
        sums = self._dense_cluster_sums(name)
        index = self.bootstrap.cluster_index(name)
        occupied = np.bincount(index, minlength=sums.shape[1]) > 0
        count, total = occupied.sum(), self.replicates(name)[0]
        without = self._of(name, (sums.sum(axis=1, keepdims=True) - sums).T)
        return np.where(occupied, count * total - (count - 1) * without, np.nan)

    def interval(
        self,
        values: Floats,
        names: Sequence[Name],
        level: float = 0.95,
        strata: Collection[str] | None = None,
    ) -> Estimate:
        """That of `ClusterBootstrap.interval`, but never without width for shares.

        Where no cluster differs from another the bootstrap sees no doubt at all. Then the ends are
        what n observations without a single event leave possible, 1 - ((1 - level) / 2)^(1 / n),
        3 / n for 90% (Hanley and Lippman-Hand 1983, JAMA 249:1743, the "rule of three").
        """
        estimate = self.bootstrap.interval(values, names, level, strata)
        observations = self._observations(names)
        if estimate.high - estimate.low > ROUNDING or not observations:
            return estimate
        value, largest = estimate.value, self._largest(names)
        reach = largest * (1 - ((1 - level) / 2) ** (1 / observations))
        floor, top = min(value, -largest if len(names) > 1 else 0.0), max(value, largest)
        return Estimate(value, max(value - reach, floor), min(value + reach, top))

    def p_above(self, values: Floats, names: Sequence[Name], bound: float) -> float:
        """That of `ClusterBootstrap.p_above`, but for shares never without doubt.

        It is at least what n observations without a single event leave of a distance d to the
        bound, (1 - d / largest)^n, as in `interval`.
        """
        p = self.bootstrap.p_above(values, names, bound)
        observations, distance = self._observations(names), float(values[0] - bound)
        if observations and distance > 0:
            return max(p, (1 - min(distance / self._largest(names), 1)) ** observations)
        return p

    def _tests(self, values: Floats, names: Sequence[Name], margin: float) -> MarginTests | None:
        """Of a difference against the margin; None without a resample."""
        inside, outside = (
            [self.p_above(sign * values, names, bound) for sign in (1, -1)]
            for bound in (-margin, margin)
        )
        if math.isnan(inside[0]):
            return None
        different = min(near + far for near, far in zip(outside, inside, strict=True))
        return MarginTests(max(inside), min(different, 1.0))

    def _largest(self, names: Sequence[Name]) -> float:
        return max(self.metrics[name].largest for name in names)

    def _observations(self, names: Sequence[Name]) -> int | None:
        """The fewest that a share of ``names`` is of; None where one is no share."""
        counts = [self.metrics[name].observations for name in names]
        observations = [count for count in counts if count is not None]
        return None if len(observations) < len(counts) else min(observations)

    def _cluster_sums(self, name: Name, rows: Any = None) -> Any:
        """The sums of each cluster of the pool, (columns, clusters), sparse if the values are.

        ``rows`` are the numbers of those that count, None for all.
        """
        from scipy.sparse import csr_array

        values, index = self.metrics[name].values, self.bootstrap.cluster_index(name)
        if rows is not None:
            values, index = values[rows], index[rows]
        ones = np.ones(len(index), dtype=values.dtype)
        shape = (len(self.bootstrap.weights(name)), len(index))
        return (csr_array((ones, (index, np.arange(len(index)))), shape) @ values).T

    def _dense_cluster_sums(self, name: Name) -> Floats:
        sums = self._cluster_sums(name)
        return np.asarray(sums if isinstance(sums, np.ndarray) else sums.toarray(), np.float64)

    def _of(self, name: Name, sums: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.metrics[name].of(sums)


def ratio(
    cluster: Sequence[str], values: Floats, of: int, per: int, observations: int | None = None
) -> Metric:
    """The sum of column ``of`` over that of column ``per``."""
    return Metric(cluster, values, lambda sums: sums[:, of] / sums[:, per], observations)


def label_metric(
    labels: Labels,
    names: Sequence[str],
    statistic: Statistic,
    observations: int | None = None,
    largest: float = 1.0,
) -> Metric:
    """``statistic`` of the confusion matrix of ``labels``; ``names`` holds all of them, in order.

    Its sums are confusion matrices, row by row: true labels by predicted ones.
    """
    from scipy.sparse import csr_array

    number = {name: position for position, name in enumerate(names)}
    width = len(names)
    pairs = [
        number[true] * width + number[predicted]
        for true, predicted in zip(labels.true, labels.predicted, strict=True)
    ]
    # float32 counts exactly up to 2**24 rows
    ones = np.ones(len(pairs), dtype=np.float32)
    values = csr_array((ones, (np.arange(len(pairs)), pairs)), (len(pairs), width * width))
    shape = (-1, width, width)
    return Metric(
        labels.cluster,
        values,
        lambda sums: statistic(sums.reshape(shape)),
        observations,
        labels.adapters,
        largest,
    )


def label_metrics(
    cells: Mapping[Name, Labels], names: Sequence[str] | None = None
) -> dict[tuple[Name, str], Metric]:
    """Accuracy and macro-F1 of every cell's labels; ``names`` as in `label_names`.

    Prompts and scenarios are the observations, as the texts of one are alike. Where each text is a
    row for every label, it is right for one of them at most.
    Raises ValueError for columns of different lengths; a cell may have no row.
    """
    names = label_names(cells.values()) if names is None else names
    return {
        (cell, name): label_metric(
            *(labels, names, statistic, len(set(labels.cluster))),
            largest=1 / len(set(labels.true)) if labels.shared and labels.true else 1.0,
        )
        for cell, labels in cells.items()
        for name, statistic in LABEL_STATISTICS.items()
    }


def label_names(cells: Iterable[Labels], personas: Sequence[str] = ()) -> list[str]:
    """All true and predicted labels and ``personas``, in order."""
    labels = {label for cell in cells for label in (*cell.true, *cell.predicted)}
    return sorted(labels | set(personas))

"""Contrasts between groups of adapters: sums of mean values, tested and bounded together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from charprobe_lite.eval.stats.bootstrap import Estimate, Name, Unit
from charprobe_lite.eval.stats.detectable import minimum_detectable
from charprobe_lite.eval.stats.holm import holm
from charprobe_lite.eval.stats.metrics import Metric, ResampledMetrics

FEWEST_PER_STRATUM = 5
"""Clusters that every stratum needs for a test: below, its own variance is hardly seen."""
MOST_EMPTY = 0.05
"""The share of resamples that may lack a stratum: they drop out, and they show the variance."""


@dataclass(frozen=True)
class Values:
    """A value per row from 0 to 1, its class (a persona), its cluster and its adapter, or None."""

    value: Sequence[float]
    stratum: Sequence[str]
    cluster: Sequence[str]
    unit: Sequence[Unit | None]


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of means, its standard error, degrees of freedom and two-sided p-value.

    ``p_holm`` is the p-value as one of its family, ``detectable`` the smallest true difference
    that a test of this precision finds in 80 of 100 studies, see `with_family`. ``fewest`` are the
    clusters of the smallest stratum, ``empty`` is the share of resamples that lack a stratum.
    """

    change: Estimate
    error: float
    freedom: int
    p: float
    fewest: int
    empty: float
    p_holm: float | None = None
    detectable: float | None = None

    @property
    def is_testable(self) -> bool:
        """Whether interval and p-value are what they say: every stratum has enough clusters."""
        return self.fewest >= FEWEST_PER_STRATUM and self.empty <= MOST_EMPTY

    def as_json(self) -> dict[str, Any]:
        """``estimate``, ``ci`` and the tests; None for what is no number."""
        numbers = {**vars(self)}
        return {**self.change.as_json(), **{k: numbers[k] for k in numbers if k != "change"}}


def stratified_mean(values: Values, strata: Sequence[str], is_share: bool = False) -> Metric:
    """The mean over ``strata`` of the mean value of each, NaN where one of them has no row.

    Strata weigh alike, so the one with the fewest clusters gives the degrees of freedom. Of a
    share, of values that are 0 or 1, the interval always has a width, see
    `ResampledMetrics.interval`.
    """
    count = len(strata)
    sums = np.zeros((len(values.value), 2 * count))
    for row, (value, stratum) in enumerate(zip(values.value, values.stratum, strict=True)):
        sums[row, strata.index(stratum)] = value
        sums[row, count + strata.index(stratum)] = 1
    pairs = set(zip(values.stratum, values.cluster, strict=True))
    sizes = Counter(stratum for stratum, _ in pairs)
    fewest = min(sizes[stratum] for stratum in strata)
    return Metric(
        values.cluster,
        sums,
        lambda totals: (totals[:, :count] / totals[:, count:]).mean(axis=1),
        observations=fewest if is_share else None,
        unit=values.unit if any(values.unit) else (),
        fewest=fewest,
    )


def contrast(resampled: ResampledMetrics[Name], weights: Mapping[Name, float]) -> Contrast:
    """The sum of metrics times their ``weights``, as in {why: 1, sft: -1}, tested against 0.

    The p-value is `ClusterBootstrap.p_above` on the nearer side, doubled: the interval turned
    round. The standard error is widened for few clusters as the interval is.
    """
    names = list(weights)
    values = np.sum([w * resampled.replicates(name) for name, w in weights.items()], axis=0)
    bootstrap = resampled.bootstrap
    sides = [resampled.p_above(sign * values, names, 0.0) for sign in (1, -1)]
    fewest = bootstrap.cluster_count(names)
    clusters = max(2, fewest)
    finite = values[1:][np.isfinite(values[1:])]
    error = finite.std() * np.sqrt(clusters / (clusters - 1)) if finite.size else float("nan")
    return Contrast(
        resampled.interval(values, names),
        float(error),
        bootstrap.freedom(names),
        min(1.0, 2 * min(sides)),
        fewest,
        1 - finite.size / (len(values) - 1),
    )


def with_family(contrasts: Sequence[Contrast], size: int, alpha: float = 0.05) -> list[Contrast]:
    """The contrasts of a family of ``size`` with Holm's p-values, and what each test can detect.

    Planned contrasts that are not there yet count as the least significant. Detection is at the
    family's first step, ``alpha`` / ``size``: what Holm asks of the largest difference.
    """
    adjusted = holm([each.p for each in contrasts] + [1.0] * (size - len(contrasts)))
    return [
        replace(
            each, p_holm=p, detectable=minimum_detectable(each.error, each.freedom, alpha / size)
        )
        for each, p in zip(contrasts, adjusted, strict=False)
    ]

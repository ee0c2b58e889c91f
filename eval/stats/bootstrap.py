"""The cluster bootstrap: intervals from resampled prompts, scenarios or texts."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

CLUSTER_RESAMPLES = 10_000
FEWEST_BEYOND = 10
Floats = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """The interval."""
        return self.low, self.high

    def as_json(self) -> dict[str, Any]:
        """``estimate`` and ``ci``."""
        return {"estimate": self.value, "ci": self.ends}


class ClusterBootstrap(Generic[Name]):
    """How often each resample holds each cluster, for many tables of rows at once.

    Clusters are drawn with replacement, and a drawn cluster brings all its rows (Davison and
    Hinkley 1997, sec. 3.8; Field and Welsh 2007, J. R. Stat. Soc. B 69:369). Tables that share a
    cluster form a pool, and one draw serves all tables of a pool, so what they have in common
    cancels in a difference. Pools (prompts, scenarios) are drawn independently. A draw depends on
    ``seed`` and the clusters' names alone.
    """

    def __init__(
        self,
        clusters: Mapping[Name, Sequence[str]],
        seed: int = 0,
        resamples: int = CLUSTER_RESAMPLES,
    ) -> None:
        """``clusters``: the cluster of every row of every table; a table may be empty."""
        self._clusters = dict(clusters)
        self._positions, self._weights = {}, {}
        for tables, pool in _pools(clusters):
            weights = _draw(pool, seed, resamples)
            positions = {cluster: n for n, cluster in enumerate(pool)}
            for name in tables:
                self._weights[name], self._positions[name] = weights, positions

    def add_part(self, name: Name, whole: Name, clusters: Sequence[str]) -> None:
        """Add a table of some of the rows of ``whole``, drawn together with it."""
        self._clusters[name] = clusters
        self._weights[name], self._positions[name] = self._weights[whole], self._positions[whole]

    def weights(self, name: Name) -> NDArray[np.float32]:
        """How often each resample holds each cluster of the pool, (clusters, 1 + resamples).

        The first column is all 1: the observed rows.
        """
        return self._weights[name]

    def cluster_index(self, name: Name) -> NDArray[np.int64]:
        """The row of `weights` that each row of the table belongs to, (rows,)."""
        positions = self._positions[name]
        index = [positions[cluster] for cluster in self._clusters[name]]
        return np.array(index, dtype=np.int64)

    def interval(self, values: Floats, names: Sequence[Name], level: float = 0.95) -> Estimate:
        """The interval of ``values`` (1 + resamples,): the observed value, then the resamples'.

        ``names`` are the tables that the values depend on. Bias-corrected percentiles (Efron and
        Tibshirani 1993, sec. 14.3, with acceleration 0), because macro-F1 of few rows is biased,
        widened for few clusters as Hesterberg (2015, The American Statistician 69:371, "expanded
        percentile") proposes. Where all clusters agree (nothing but hits) the width is 0.
        """
        from scipy.stats import norm, t

        observed, resampled = values[0], values[1:][np.isfinite(values[1:])]
        if not resampled.size:
            return Estimate(float(observed), float("nan"), float("nan"))
        clusters = max(2, min(len(set(self._clusters[name])) for name in names))
        below = ((resampled < observed).mean() + (resampled <= observed).mean()) / 2
        bias = norm.ppf(np.clip(below, 0.5 / resampled.size, 1 - 0.5 / resampled.size))
        reach = t.ppf((1 + level) / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
        low, high = np.quantile(resampled, norm.cdf([2 * bias - reach, 2 * bias + reach]))
        return Estimate(float(observed), float(low), float(high))

    def cluster_count(self, names: Sequence[Name]) -> int:
        """The fewest prompts, scenarios or texts that one of the tables has."""
        return min(len(set(self._clusters[name])) for name in names)

    def p_above(self, values: Floats, names: Sequence[Name], bound: float) -> float:
        """One-sided p-value for "not above ``bound``", NaN without a resample.

        `interval` turned round: twice p is 1 - the level at which its lower end is ``bound``. Where
        fewer than `FEWEST_BEYOND` resamples lie beyond the bound, their place is chance, and their
        standard error measures the distance.
        """
        from scipy.special import stdtr

        observed, resampled = values[0], values[1:][np.isfinite(values[1:])]
        if not resampled.size:
            return float("nan")
        clusters = max(2, self.cluster_count(names))
        if min((resampled <= bound).sum(), (resampled >= bound).sum()) < FEWEST_BEYOND:
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = (observed - bound) / resampled.std()
        else:
            bias, place = (_normal_score(resampled, value) for value in (observed, bound))
            reach = 2 * bias - place
        if np.isnan(reach):  # all resamples are the bound
            reach = 0.0
        return float(stdtr(clusters - 1, -reach / np.sqrt(clusters / (clusters - 1))))


def _normal_score(resampled: Floats, value: float) -> float:
    """The normal quantile of the share of ``resampled`` below ``value``, ties by half."""
    from scipy.special import ndtri

    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    return float(ndtri(np.clip(below, 0.5 / resampled.size, 1 - 0.5 / resampled.size)))


def _pools(clusters: Mapping[Name, Sequence[str]]) -> list[tuple[list[Name], list[str]]]:
    """Tables that share a cluster, directly or through others, and all clusters of such a pool."""
    pools: list[tuple[list[Name], set[str]]] = []
    for name, column in clusters.items():
        tables, pool = [name], set(column)
        separate = []
        for other in pools:
            if other[1].isdisjoint(pool):
                separate.append(other)
            else:
                tables, pool = other[0] + tables, other[1] | pool
        pools = [*separate, (tables, pool)]
    return [(tables, sorted(pool)) for tables, pool in pools]


def _draw(pool: list[str], seed: int, resamples: int) -> NDArray[np.float32]:
    """`ClusterBootstrap.weights` of a pool."""
    size = len(pool)
    # hashed: two pools of equal size must not be drawn alike
    digest = hashlib.sha256("\n".join(pool).encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:8])])
    weights = np.ones((size, 1 + resamples), dtype=np.float32)
    for column in range(1, 1 + resamples if size else 1):
        weights[:, column] = np.bincount(generator.integers(0, size, size), minlength=size)
    return weights

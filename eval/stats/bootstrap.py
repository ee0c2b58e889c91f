"""Values with intervals from resampled clusters: the cluster bootstrap.

A cluster is a prompt, a scenario or a text; all its rows are drawn together (Davison and Hinkley
1997, sec. 3.8).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

CLUSTER_RESAMPLES = 10_000
CellName = TypeVar("CellName", bound=Hashable)


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


class ClusterBootstrap(Generic[CellName]):
    """Which prompts or scenarios every resample holds, for several cells at once.

    They are drawn with replacement, and every row of a drawn one comes along (Davison and Hinkley
    1997, sec. 3.8; Field and Welsh 2007, J. R. Stat. Soc. B 69:369). Cells that share a cluster
    are of one kind; a kind is drawn once for all its cells, so what they have in common cancels in
    a difference. Different kinds (prompts, scenarios) are drawn independently. The draw depends on
    ``seed`` and the clusters' names alone.
    """

    def __init__(
        self,
        clusters: Mapping[CellName, Sequence[str]],
        seed: int = 0,
        resamples: int = CLUSTER_RESAMPLES,
    ) -> None:
        """``clusters``: the cluster of every row of every cell; a cell may have no row."""
        self._clusters = clusters
        self._places, self._weights = {}, {}
        for names, kind in _kinds(clusters):
            weights = _draw(kind, seed, resamples)
            places = {cluster: n for n, cluster in enumerate(kind)}
            for name in names:
                self._weights[name], self._places[name] = weights, places

    def weights(self, cell: CellName) -> NDArray[np.float32]:
        """How often each cluster of the cell's kind was drawn, (clusters, 1 + resamples).

        The first column is all 1: what was observed.
        """
        return self._weights[cell]

    def places(self, cell: CellName) -> NDArray[np.int64]:
        """The cluster's row of `weights` for every row of the cell, (rows,)."""
        place = self._places[cell]
        return np.array([place[cluster] for cluster in self._clusters[cell]], dtype=np.int64)

    def interval(
        self, values: NDArray[np.float64], cells: Sequence[CellName], level: float = 0.95
    ) -> Estimate:
        """The observed value and the interval of its resamples; ``values`` has both, (1 + n,).

        Bias-corrected percentiles (Efron and Tibshirani 1993, sec. 14.3, with acceleration 0), as
        macro-F1 of few rows is biased, widened for few clusters as Hesterberg (2015, The American
        Statistician 69:371, "expanded percentile") proposes. Where all clusters agree (nothing
        but hits) an interval has no width.
        """
        from scipy.stats import norm, t

        observed, drawn = values[0], values[1:][np.isfinite(values[1:])]
        if not drawn.size:
            return Estimate(float(observed), float("nan"), float("nan"))
        clusters = max(2, min(len(set(self._clusters[cell])) for cell in cells))
        below = ((drawn < observed).mean() + (drawn <= observed).mean()) / 2
        bias = norm.ppf(np.clip(below, 0.5 / drawn.size, 1 - 0.5 / drawn.size))
        reach = t.ppf((1 + level) / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
        low, high = np.quantile(drawn, norm.cdf([2 * bias - reach, 2 * bias + reach]))
        return Estimate(float(observed), float(low), float(high))


def _kinds(
    cells: Mapping[CellName, Sequence[str]],
) -> list[tuple[list[CellName], list[str]]]:
    """Cells that share a cluster, directly or through others, and all clusters of such a group."""
    kinds: list[tuple[list[CellName], set[str]]] = []
    for name, own in cells.items():
        names, clusters = [name], set(own)
        apart = []
        for kind in kinds:
            if kind[1].isdisjoint(clusters):
                apart.append(kind)
            else:
                names, clusters = kind[0] + names, kind[1] | clusters
        kinds = [*apart, (names, clusters)]
    return [(names, sorted(clusters)) for names, clusters in kinds]


def _draw(clusters: list[str], seed: int, resamples: int) -> NDArray[np.float32]:
    """How often each cluster was drawn, (clusters, 1 + resamples); the first column is all 1."""
    size = len(clusters)
    # hashed: two kinds of equal size must not be drawn alike
    digest = hashlib.sha256("\n".join(clusters).encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:8])])
    weights = np.ones((size, 1 + resamples), dtype=np.float32)
    for column in range(1, 1 + resamples if size else 1):
        weights[:, column] = np.bincount(generator.integers(0, size, size), minlength=size)
    return weights

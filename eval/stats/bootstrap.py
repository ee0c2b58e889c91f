"""The cluster bootstrap: intervals from resampled prompts, scenarios or texts."""

import hashlib
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

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


class Unit(NamedTuple):
    """What is resampled within its stratum, crossed with the clusters: an adapter of a persona."""

    stratum: str
    name: str


class ClusterBootstrap(Generic[Name]):
    """How often each resample holds each cluster, for many tables of rows at once.

    Clusters are drawn with replacement, and a drawn cluster brings all its rows (Davison and
    Hinkley 1997, sec. 3.8; Field and Welsh 2007, J. R. Stat. Soc. B 69:369). Tables that share a
    cluster form a pool, and one draw serves all tables of a pool, so what they have in common
    cancels in a difference. Pools (prompts, scenarios) are drawn independently. A draw depends on
    ``seed`` and the clusters' names alone.

    Rows may also belong to units, which are drawn within each stratum, independently of the
    clusters; a row counts as the product of both draws (Owen 2007, "The pigeonhole bootstrap", Ann.
    Appl. Stat. 1:386). Of n units n - 1 are drawn, each with weight n / (n - 1), so that the
    variance of a mean is not too small for few units (Rao and Wu 1988, JASA 83:231). Where rows
    differ mostly by chance the product counts that up to three times (Owen 2007, sec. 3): the
    interval is then too wide. A stratum with one unit is not resampled.
    """

    def __init__(
        self,
        clusters: Mapping[Name, Sequence[str]],
        seed: int = 0,
        resamples: int = CLUSTER_RESAMPLES,
        units: Mapping[Name, Sequence[Unit | None]] | None = None,
        fewest: Mapping[Name, int] | None = None,
    ) -> None:
        """``clusters``: the cluster of every row of every table; a table may be empty.

        ``units``: the unit of every row, None for a row without; nothing for a table without any.
        ``fewest``: how many clusters count for t, where those are not all of the table.
        """
        self._clusters = dict(clusters)
        self._fewest = dict(fewest or {})
        self._positions, self._weights = {}, {}
        for tables, pool in _pools(clusters):
            weights = _draw(pool, seed, resamples)
            positions = {cluster: n for n, cluster in enumerate(pool)}
            for name in tables:
                self._weights[name], self._positions[name] = weights, positions
        self._units = {name: column for name, column in (units or {}).items() if any(column)}
        self._unit_weights = _draw_units(self._units.values(), seed, resamples)

    def add_part(
        self,
        name: Name,
        whole: Name,
        clusters: Sequence[str],
        units: Sequence[Unit | None] = (),
    ) -> None:
        """Add a table of some of the rows of ``whole``, drawn together with it."""
        self._clusters[name] = clusters
        if any(units):
            self._units[name] = units
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

    def unit_rows(self, name: Name) -> dict[Unit | None, NDArray[np.int64]]:
        """The rows of the table by resampled unit; None has the rest. Empty where none has one."""
        units = [unit if unit in self._unit_weights else None for unit in self._units.get(name, ())]
        rows: dict[Unit | None, list[int]] = {}
        for row, unit in enumerate(units if any(units) else ()):
            rows.setdefault(unit, []).append(row)
        return {unit: np.array(numbers, dtype=np.int64) for unit, numbers in rows.items()}

    def unit_weights(self, unit: Unit | None) -> Floats:
        """The weight of a unit in each resample, (1 + resamples,), the first 1; all 1 for None."""
        return np.ones(1) if unit is None else self._unit_weights[unit]

    def interval(
        self,
        values: Floats,
        names: Sequence[Name],
        level: float = 0.95,
        strata: Collection[str] | None = None,
    ) -> Estimate:
        """The interval of ``values`` (1 + resamples,): the observed value, then the resamples'.

        ``names`` are the tables that the values depend on. Bias-corrected and accelerated
        percentiles (Efron 1987, J. Am. Stat. Assoc. 82:171): macro-F1 of few rows is biased, and
        near 0 and 1 it is skewed. The acceleration is a sixth of the resamples' skewness; that of a
        difference is 0, as it is nearly symmetric. Widened for few clusters as Hesterberg (2015,
        The American Statistician 69:371, "expanded percentile") proposes. Where all clusters agree
        (nothing but hits) the width is 0. Few resampled units widen it alike, over all strata
        together or those in ``strata``.
        """
        from scipy.stats import norm, t

        observed, resampled = values[0], values[1:][np.isfinite(values[1:])]
        if not resampled.size:
            return Estimate(float(observed), float("nan"), float("nan"))
        clusters = max(2, self.cluster_count(names))
        below = ((resampled < observed).mean() + (resampled <= observed).mean()) / 2
        bias = norm.ppf(np.clip(below, 0.5 / resampled.size, 1 - 0.5 / resampled.size))
        reach = t.ppf((1 + level) / 2, self.freedom(names, strata))
        reach *= np.sqrt(clusters / (clusters - 1))
        ends = bias + np.array([-reach, reach])
        acceleration = _skewness(resampled) / 6 if len(names) == 1 else 0.0
        # at 1 the transformation would turn round
        ends = bias + ends / (1 - np.minimum(acceleration * ends, 0.9))
        low, high = np.quantile(resampled, norm.cdf(ends))
        return Estimate(float(observed), float(low), float(high))

    def cluster_count(self, names: Sequence[Name]) -> int:
        """The fewest prompts, scenarios or texts that one of the tables has, or its smallest
        stratum where strata weigh alike."""
        return min(self._fewest.get(name, len(set(self._clusters[name]))) for name in names)

    def freedom(self, names: Sequence[Name], strata: Collection[str] | None = None) -> int:
        """Degrees of freedom of t: the clusters less 1, or the resampled units less their strata
        where those are fewer; at least 1."""
        clusters = max(2, self.cluster_count(names))
        return min([clusters - 1, *self._unit_freedom(names, strata)])

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
        widened = np.sqrt(clusters / (clusters - 1))
        return float(stdtr(self.freedom(names), -reach / widened))

    def _unit_freedom(self, names: Sequence[Name], strata: Collection[str] | None) -> Iterator[int]:
        """Of each table with resampled units their number less that of their strata."""
        for name in names:
            units = {unit for unit in self._units.get(name, ()) if unit in self._unit_weights}
            counted = [u for u in units if u and (strata is None or u.stratum in strata)]
            if freedom := len(counted) - len({unit.stratum for unit in counted}):
                yield freedom


def _skewness(values: Floats) -> float:
    """0 where all values are alike."""
    deviation = values.std()
    return float(((values - values.mean()) ** 3).mean() / deviation**3) if deviation > 1e-9 else 0.0


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


def _draw_units(
    columns: Iterable[Sequence[Unit | None]], seed: int, resamples: int
) -> dict[Unit, Floats]:
    """`ClusterBootstrap.unit_weights` of the units in strata with more than one of them."""
    strata: dict[str, set[Unit]] = {}
    for unit in {unit for column in columns for unit in column if unit}:
        strata.setdefault(unit.stratum, set()).add(unit)
    weights: dict[Unit, Floats] = {}
    for stratum in sorted(strata):
        units, size = sorted(strata[stratum]), len(strata[stratum])
        if size < 2:
            continue
        digest = hashlib.sha256("\n".join([stratum, *(unit.name for unit in units)]).encode())
        generator = np.random.default_rng([seed, int.from_bytes(digest.digest()[:8])])
        draws = generator.multinomial(size - 1, [1 / size] * size, size=resamples)
        columns_of = np.concatenate([np.ones((1, size)), draws * (size / (size - 1))]).T
        weights |= zip(units, columns_of, strict=True)
    return weights

"""How measures move with the bits per weight: a trend, slopes to compare, a rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.metrics import Name, Numbers, ResampledMetrics


@dataclass(frozen=True)
class Trend:
    """Page's test over ``blocks`` prompts or scenarios and ``types`` files.

    ``z`` is positive where the measure falls with the bits, ``p`` one-sided for that.
    """

    l: float  # noqa: E741  # the statistic's name
    z: float
    p: float
    blocks: int
    types: int

    @property
    def direction(self) -> str:
        """Where the measure goes as the bits get fewer."""
        return "falls" if self.z > 0 else "rises" if self.z < 0 else "level"


@dataclass(frozen=True)
class Slope:
    """What a measure loses each time the bits per weight are halved, negative for a gain.

    ``loss`` is in the measure's own unit, ``standardised`` in standard deviations between
    prompts, scenarios or texts.
    """

    loss: Estimate
    standardised: Estimate


def page_trend(values: Numbers, bits: Sequence[float]) -> Trend | None:
    """Does a measure fall with the bits, in matched blocks? ``values`` (blocks, types).

    Page's L (Page 1963, J. Am. Stat. Assoc. 58:216): the sum over blocks of rank times predicted
    rank, against the permutations within each block. Ties get mid-ranks, and the variance of L
    that the permutations then have; without ties that is Page's own. The normal approximation is
    his, good from about a dozen blocks. Blocks with a missing value are left out; None with fewer
    than two blocks or types.
    """
    from scipy.stats import norm, rankdata

    values = values[np.isfinite(values).all(axis=1)]
    blocks, types = values.shape
    if blocks < 2 or types < 2:
        return None
    middle = (types + 1) / 2
    predicted, ranks = rankdata(bits), rankdata(values, axis=1)
    off, away = predicted - middle, ranks - middle
    variance = (off**2).sum() * (away**2).sum() / (types - 1)
    # nothing but ties: every permutation is as extreme as what was seen
    z = float((away @ off).sum() / np.sqrt(variance)) if variance else 0.0
    p = float(norm.sf(z)) if variance else 1.0
    return Trend(float((ranks @ predicted).sum()), z, p, blocks, types)


def slopes(
    measured: ResampledMetrics[Name], names: Sequence[Name], bits: Sequence[float]
) -> Numbers:
    """Least squares of the measure on log2(bits per weight), (1 + resamples,): loss per halving.

    On the logarithm, because a step from 16 to 8 bits costs next to nothing and one from 5 to 4.5
    costs something: on the bits themselves F16 alone would set the line.
    """
    place = np.log2(bits) - np.log2(bits).mean()
    values = np.stack([measured.replicates(name) for name in names])
    return np.asarray(place @ values / (place**2).sum())


def spread(measured: ResampledMetrics[Name], names: Sequence[Name]) -> Numbers:
    """Standard deviation between clusters, pooled over the types, (1 + resamples,).

    Of what each cluster contributes (`ResampledMetrics.pseudo_values`). Pooled, as in Cohen's d
    (Cohen 1988, sec. 2.2), and not of F16 alone, which where F16 makes no error is 0.
    """
    variances = []
    for name in names:
        own, weights = measured.pseudo_values(name), measured.draws.weights(name)
        there = np.isfinite(own)
        drawn, own = weights[there].astype(np.float64), own[there]
        count = drawn.sum(axis=0)
        # centred first: the difference of two large sums would lose digits
        own = own - own.mean() if own.size else own
        with np.errstate(invalid="ignore"):  # a resample may hold no row of this type
            variances.append(own**2 @ drawn / count - (own @ drawn / count) ** 2)
    # where all are alike, rounding may leave less than nothing
    return np.asarray(np.sqrt(np.maximum(np.mean(variances, axis=0), 0)))


def standardised(
    measured: ResampledMetrics[Name], names: Sequence[Name], bits: Sequence[float]
) -> Numbers:
    """`slopes` over `spread`, (1 + resamples,); not a number where there is no spread."""
    width = spread(measured, names)
    return slopes(measured, names, bits) / np.where(width > 1e-12, width, np.nan)


def rank_correlation(a: Numbers, b: Numbers) -> Numbers:
    """Spearman's rank correlation of ``a`` and ``b``, both (points, n), giving (n,).

    Spearman 1904, Am. J. Psychol. 15:72, with mid-ranks; not a number where all are tied.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(each, axis=0) for each in (a, b)]
    x, y = (each - each.mean(axis=0) for each in ranks)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0)))


def slope(
    measured: ResampledMetrics[Name], names: Sequence[Name], bits: Sequence[float], sign: int = 1
) -> Slope:
    """The slope with its intervals; ``sign`` -1 for a measure of which less is better."""
    raw, unitless = slopes(measured, names, bits), standardised(measured, names, bits)
    return Slope(
        measured.draws.interval(sign * raw, names), measured.draws.interval(sign * unitless, names)
    )

"""How a metric moves with the bits per weight: a trend test, slopes, a rank correlation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charprobe_lite.eval.stats.bootstrap import Estimate, Floats, Name
from charprobe_lite.eval.stats.metrics import ResampledMetrics


@dataclass(frozen=True)
class Trend:
    """Page's test over ``blocks`` prompts or scenarios and ``types`` files.

    ``z`` is positive where the metric falls with the bits, ``p`` one-sided for that.
    """

    l: float  # noqa: E741  # the statistic's name
    z: float
    p: float
    blocks: int
    types: int

    @property
    def direction(self) -> str:
        """How the metric changes with fewer bits."""
        return "falls" if self.z > 0 else "rises" if self.z < 0 else "level"


@dataclass(frozen=True)
class Slope:
    """What a metric loses each time the bits per weight are halved, negative for a gain.

    ``loss`` is in the metric's unit. The others are on the `SCALES`, None for a scale that the
    metric does not have: only shares have a proportion and odds.
    """

    loss: Estimate
    standardised: Estimate
    proportion: Estimate | None
    log_odds: Estimate | None


def page_trend(values: Floats, bits: Sequence[float]) -> Trend | None:
    """Does a metric fall with the bits, in matched blocks? ``values`` (blocks, types).

    Page's L (Page 1963, J. Am. Stat. Assoc. 58:216): the sum over blocks of rank times predicted
    rank, against the permutations within each block. Ties get mid-ranks, and L has the variance of
    their permutations, which `scipy.stats.page_trend_test` does not correct; without ties it is
    Page's. The normal approximation is his, good from about a dozen blocks. Blocks with a missing
    value are left out; None with fewer than two blocks or types.
    """
    from scipy.stats import norm, rankdata

    values = values[np.isfinite(values).all(axis=1)]
    blocks, types = values.shape
    if blocks < 2 or types < 2:
        return None
    middle = (types + 1) / 2
    predicted, ranks = rankdata(bits), rankdata(values, axis=1)
    x, y = predicted - middle, ranks - middle
    variance = (x**2).sum() * (y**2).sum() / (types - 1)
    # nothing but ties: every permutation is as extreme as the observed one
    z = float((y @ x).sum() / np.sqrt(variance)) if variance else 0.0
    p = float(norm.sf(z)) if variance else 1.0
    return Trend(float((ranks @ predicted).sum()), z, p, blocks, types)


def slope(
    resampled: ResampledMetrics[Name], names: Sequence[Name], bits: Sequence[float], sign: int = 1
) -> Slope:
    """The slope with its intervals; ``sign`` -1 for a metric of which less is better."""
    interval = resampled.bootstrap.interval
    loss = interval(sign * _slopes(_levels(resampled, names), bits), names)
    scaled = {
        scale: interval(sign * SCALES[scale](resampled, names, bits), names)
        for scale in scales_of(resampled, names)
    }
    return Slope(
        loss, scaled["standardised"], *(scaled.get(name) for name in ("proportion", "log_odds"))
    )


def scales_of(resampled: ResampledMetrics[Name], names: Sequence[Name]) -> list[str]:
    """All `SCALES` for shares, "standardised" for others."""
    shares = all(resampled.metrics[name].observations for name in names)
    return list(SCALES) if shares else ["standardised"]


def standardised_slopes(
    resampled: ResampledMetrics[Name], names: Sequence[Name], bits: Sequence[float]
) -> Floats:
    """Loss per halving in standard deviations, (1 + resamples,); NaN without a deviation."""
    deviation = _deviations(resampled, names)
    slopes = _slopes(_levels(resampled, names), bits)
    return slopes / np.where(deviation > 1e-12, deviation, np.nan)


def proportional_slopes(
    resampled: ResampledMetrics[Name], names: Sequence[Name], bits: Sequence[float]
) -> Floats:
    """Loss per halving as a part of the level with the most bits, (1 + resamples,).

    NaN where that level is 0.
    """
    levels = _levels(resampled, names)
    reference = levels[int(np.argmax(bits))]
    return _slopes(levels, bits) / np.where(reference > 0, reference, np.nan)


def log_odds_slopes(
    resampled: ResampledMetrics[Name], names: Sequence[Name], bits: Sequence[float]
) -> Floats:
    """Loss of log odds per halving, (1 + resamples,), of shares of n observations.

    Half an observation is added to either side, so that 0 and 1 have odds as well (Haldane 1956,
    Ann. Hum. Genet. 20:309; Anscombe 1956, Biometrika 43:461).
    """
    counts = np.array([[resampled.metrics[name].observations or 0] for name in names])
    shares = (_levels(resampled, names) * counts + 0.5) / (counts + 1)
    return _slopes(np.log(shares / (1 - shares)), bits)


Scale = Callable[[ResampledMetrics[Name], Sequence[Name], Sequence[float]], Floats]
SCALES: dict[str, Scale[Any]] = {
    "standardised": standardised_slopes,
    "proportion": proportional_slopes,
    "log_odds": log_odds_slopes,
}
"""What a loss may be measured in. Which of two metrics falls faster depends on it."""


def rank_correlation(a: Floats, b: Floats) -> Floats:
    """Spearman's rank correlation of ``a`` and ``b``, both (points, n), giving (n,).

    Spearman 1904, Am. J. Psychol. 15:72, with mid-ranks; NaN where all are tied.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=0) for values in (a, b)]
    x, y = (rank - rank.mean(axis=0) for rank in ranks)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0)))


def rank_interval(rho: float, n: int) -> Estimate:
    """The 95% interval of Spearman's correlation of ``n`` > 3 independent points.

    Fisher's z with the standard error of Bonett and Wright (2000, Psychometrika 65:23),
    sqrt((1 + rho^2 / 2) / (n - 3)). A perfect order has no finite z: its end is half way to the
    next order, 6 / (n (n^2 - 1)), as a continuity correction.
    """
    most = 1 - 6 / (n * (n**2 - 1))
    z = np.arctanh(np.clip(rho, -most, most))
    reach = 1.959964 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh([z - reach, z + reach])
    return Estimate(rho, float(min(low, rho)), float(max(high, rho)))


def _levels(resampled: ResampledMetrics[Name], names: Sequence[Name]) -> Floats:
    """The metrics, (names, 1 + resamples)."""
    return np.stack([resampled.replicates(name) for name in names])


def _slopes(levels: Floats, bits: Sequence[float]) -> Floats:
    """Least squares of ``levels`` on log2(bits per weight), (1 + resamples,): loss per halving.

    On the logarithm, because a step from 16 to 8 bits costs next to nothing and one from 5 to 4.5
    costs something: on the bits themselves F16 alone would set the line.
    """
    x = np.log2(bits) - np.log2(bits).mean()
    return np.asarray(x @ levels / (x**2).sum())


def _deviations(resampled: ResampledMetrics[Name], names: Sequence[Name]) -> Floats:
    """Standard deviation between clusters, pooled over the types, (1 + resamples,).

    Of what each cluster contributes (`ResampledMetrics.pseudo_values`). Pooled, as in Cohen's d
    (Cohen 1988, sec. 2.2), and not of F16 alone, whose deviation is 0 where it makes no error.
    """
    variances = []
    for name in names:
        values, weights = resampled.pseudo_values(name), resampled.bootstrap.weights(name)
        finite = np.isfinite(values)
        weights, values = weights[finite].astype(np.float64), values[finite]
        count = weights.sum(axis=0)
        # centred first: the difference of two large sums would lose digits
        values = values - values.mean() if values.size else values
        with np.errstate(invalid="ignore"):  # a resample may hold no row of this type
            variances.append(values**2 @ weights / count - (values @ weights / count) ** 2)
    # where all are alike, rounding may leave less than nothing
    return np.asarray(np.sqrt(np.maximum(np.mean(variances, axis=0), 0)))

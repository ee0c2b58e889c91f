"""The smallest true difference that a comparison finds, before and after it is made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charprobe_lite.eval.stats.bootstrap import Floats
from charprobe_lite.eval.stats.power import TARGET


@dataclass(frozen=True)
class Spread:
    """Variances of a paired difference: between scenarios, between adapters, and the rest."""

    scenario: float
    adapter: float
    rest: float

    def error(self, scenarios: int, adapters: int, counts_adapters: bool = True) -> float:
        """The standard error that a test of so many scenarios and adapters is expected to have.

        That of `ClusterBootstrap`, which draws scenarios and, within their persona, adapters: a
        product of both draws counts the rest nearly three times (Owen 2007, sec. 3). Without
        ``counts_adapters`` that of these very adapters, as where each has one seed.
        """
        rest = self.rest / (scenarios * adapters)
        if not counts_adapters:
            return float(np.sqrt(self.scenario / scenarios + rest))
        crossed = self.adapter / adapters + (3 - 2 / scenarios) * rest
        widened = scenarios / (scenarios - 1)
        return float(np.sqrt(self.scenario / scenarios + widened * crossed))


def spread_of(differences: Floats, strata: Sequence[str] | None = None) -> Spread | None:
    """The components of (adapters, scenarios) differences, each pair once.

    ``strata`` names each adapter's persona, without them all have one. Personas are fixed: how they
    differ is no component. Crossed random effects within each, from the expected mean squares of
    the analysis of variance (Searle, Casella and McCulloch 1992, sec. 4.3); a component below 0 is
    0. Where no persona has two adapters theirs is 0, and cannot be told. Scenarios that an adapter
    has no difference of (NaN) are left out. None with fewer than two adapters or scenarios.
    """
    complete = differences[:, np.isfinite(differences).all(axis=0)]
    adapters, scenarios = complete.shape
    if adapters < 2 or scenarios < 2:
        return None
    names = np.array([""] * adapters if strata is None else list(strata))
    groups = [complete[names == name] for name in dict.fromkeys(names.tolist())]
    means = np.array([group.mean(axis=0) for group in groups])
    if len(groups) == adapters:
        rest, of_adapters = _residual(means) / ((adapters - 1) * (scenarios - 1)), 0.0
    else:
        freedom = adapters - len(groups)
        rest = sum(map(_residual, groups)) / (freedom * (scenarios - 1))
        rows = [group.mean(axis=1) for group in groups]
        between = sum(((row - row.mean()) ** 2).sum() for row in rows) / freedom
        of_adapters = max(0.0, float(between - rest / scenarios))
    # how much of the rest is in the mean over personas of the means over their adapters
    share = sum(1 / len(group) for group in groups) / len(groups) ** 2
    of_scenarios = max(0.0, float(means.mean(axis=0).var(ddof=1) - rest * share))
    return Spread(of_scenarios, of_adapters, float(rest))


def _residual(array: Floats) -> float:
    """The sum of squares that rows and columns leave."""
    rows, columns = array.mean(axis=1, keepdims=True), array.mean(axis=0, keepdims=True)
    return float(((array - rows - columns + array.mean()) ** 2).sum())


def minimum_detectable(error: float, freedom: int, alpha: float = 0.05) -> float:
    """The true difference that a two-sided t-test at ``alpha`` shows in 80 of 100 studies.

    (t(1 - alpha / 2) + t(0.8)) standard errors (Bloom 1995, Evaluation Review 19:547), with
    ``freedom`` degrees of freedom.
    """
    from scipy.stats import t

    return float(error * (t.ppf(1 - alpha / 2, freedom) + t.ppf(TARGET, freedom)))

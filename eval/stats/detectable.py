"""The smallest true difference that a comparison finds, before and after it is made."""

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
        """The standard error of the mean over so many scenarios of so many adapters.

        Without ``counts_adapters`` that of these very adapters, as where each has one seed.
        """
        variance = self.scenario / scenarios + self.rest / (scenarios * adapters)
        if counts_adapters:
            variance += self.adapter / adapters
        return float(np.sqrt(variance))


def spread_of(differences: Floats) -> Spread | None:
    """The components of (adapters, scenarios) differences, each pair once.

    Two crossed random effects, from the expected mean squares of the analysis of variance (Searle,
    Casella and McCulloch 1992, sec. 4.3); a component below 0 is 0. Scenarios that an adapter has
    no difference of (NaN) are left out. None with fewer than two adapters or scenarios.
    """
    complete = differences[:, np.isfinite(differences).all(axis=0)]
    adapters, scenarios = complete.shape
    if adapters < 2 or scenarios < 2:
        return None
    rows, columns = complete.mean(axis=1), complete.mean(axis=0)
    residual = complete - rows[:, None] - columns[None, :] + complete.mean()
    rest = (residual**2).sum() / ((adapters - 1) * (scenarios - 1))
    of_adapters = max(0.0, float(rows.var(ddof=1) - rest / scenarios))
    of_scenarios = max(0.0, float(columns.var(ddof=1) - rest / adapters))
    return Spread(of_scenarios, of_adapters, float(rest))


def minimum_detectable(error: float, freedom: int, alpha: float = 0.05) -> float:
    """The true difference that a two-sided t-test at ``alpha`` shows in 80 of 100 studies.

    (t(1 - alpha / 2) + t(0.8)) standard errors (Bloom 1995, Evaluation Review 19:547), with
    ``freedom`` degrees of freedom.
    """
    from scipy.stats import t

    return float(error * (t.ppf(1 - alpha / 2, freedom) + t.ppf(TARGET, freedom)))

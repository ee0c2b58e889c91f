"""The interval of a macro-F1 whose texts all count for every label, as in the base stage.

Such a macro-F1 depends on the labels' shares alone: with K labels, of which label k is predicted
for a share p_k of the texts, F1_k = 2 p_k / (1 + K p_k). It is concave in the shares, and most
labels hardly ever occur, so few texts give nearly always less than many would: a resample, or a
posterior around the observed shares, does not see what did not occur.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from charprobe_lite.eval.stats.bootstrap import Estimate, Floats
from charprobe_lite.eval.stats.classification import Labels

PRIOR_STRENGTH = 2.0
"""The texts that the prior of the lower end is worth; Walley 1996 proposes 1 to 2."""
DRAWS = 4000
HALVINGS = 10


def macro_f1_envelope(labels: Labels, level: float = 0.95) -> Estimate:
    """Macro-F1 of ``labels``, which are `Labels.shared`, with an interval of at least ``level``.

    The lower end is that of the imprecise Dirichlet model (Walley 1996, J. R. Stat. Soc. B 58:3):
    the lowest quantile over all priors of strength `PRIOR_STRENGTH`, which is that of the prior
    that puts everything on no label. Its upper end would not do: where all labels are equally
    likely it covers the truth in 0 to 27 of 100 studies. The upper end is the largest macro-F1
    that a test does not reject (Buehler 1957, J. Am. Stat. Assoc. 52:482), where all labels are
    equally likely, the least favourable case: no other shares reach a macro-F1 with as few hits.
    It leaves out what is known about the shares, so it is wide.

    Texts of one cluster are not independent, so they count as one text (`effective_size`). The
    draws have a seed of their own: the same labels give the same ends. Needs a row.
    """
    names = sorted(set(labels.true))
    # every text is as many rows as there are labels
    texts = Counter(labels.predicted)
    shares = np.array([texts[name] / len(labels.predicted) for name in names])
    size = effective_size([count // len(names) for count in Counter(labels.cluster).values()])
    low, high = _ends(tuple(shares.tolist()), size, level)
    return Estimate(float(macro_f1_of_shares(shares)), low, high)


def envelope_difference(after: Estimate, before: Estimate) -> Estimate:
    """``after`` minus ``before``, two such macro-F1, with an interval from their ends.

    The distances to the ends add up like standard deviations (Zou and Donner 2008, Statistics in
    Medicine 27:1693). It takes the two for independent; texts on the same items make it too wide.
    """
    value = after.value - before.value
    below = np.hypot(after.value - after.low, before.high - before.value)
    above = np.hypot(after.high - after.value, before.value - before.low)
    return Estimate(value, float(value - below), float(value + above))


def macro_f1_of_shares(shares: Floats) -> Floats:
    """Macro-F1 (n,) where all texts count for every label; ``shares`` (n, labels) of the texts."""
    return np.asarray((2 * shares / (1 + shares.shape[-1] * shares)).mean(axis=-1))


def effective_size(texts: Sequence[int]) -> float:
    """How many independent texts those of clusters are worth, if a cluster's are all alike.

    (sum m)^2 / sum m^2 with m texts in a cluster (Kish 1965, Survey Sampling, sec. 11.7): the
    number of clusters where all are equally large.
    """
    sizes = np.array(texts, dtype=np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


@cache
def _ends(shares: tuple[float, ...], size: float, level: float) -> tuple[float, float]:
    """The ends for these ``shares`` of ``size`` independent texts."""
    observed = np.array(shares)
    value, tail = float(macro_f1_of_shares(observed)), (1 - level) / 2
    return min(_lower(observed, size, tail), value), max(_upper(value, observed, size, tail), value)


def _lower(shares: Floats, size: float, tail: float) -> float:
    """The quantile ``tail`` of the posterior whose prior is all on no label."""
    rest = size * max(0.0, 1 - shares.sum()) + PRIOR_STRENGTH
    parts = np.random.default_rng(0).standard_gamma(
        [*(size * shares), rest], (DRAWS, 1 + len(shares))
    )
    drawn = parts[:, :-1] / parts.sum(axis=1, keepdims=True)
    return float(np.quantile(macro_f1_of_shares(drawn), tail))


def _upper(value: float, shares: Floats, size: float, tail: float) -> float:
    """The largest macro-F1 of equally likely labels with a chance above ``tail`` of ``value``."""
    labels, texts = len(shares), max(1, int(size))

    def is_possible(share: float) -> bool:
        chances = [*[share / labels] * labels, 1 - share]
        drawn = np.random.default_rng(0).multinomial(texts, chances, DRAWS)[:, :-1] / texts
        return bool((macro_f1_of_shares(drawn) <= value + 1e-12).mean() > tail)

    low, high = 0.0, 1.0
    for _ in range(0 if is_possible(high) else HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_possible(middle) else (low, middle)
    return float(macro_f1_of_shares(np.full(labels, high / labels)))

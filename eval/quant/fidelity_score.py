"""How far a quant type's next-token distributions are from F16's, with intervals over texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.metrics import Metric, Name, Numbers, ResampledMetrics, ratio

Tokens = NDArray[np.floating[Any]]
QUANTILE_RESAMPLES = 1000
QUANTILES = (0.5, 0.99)
CHUNK = 100
"""Resamples of a quantile that are in memory together, each with a number per token."""


class TextFidelity(Protocol):
    """One text, token by token (tokens,): what this model and F16 make of the same context."""

    @property
    def nll(self) -> Tokens:
        """-log probability of the token that comes, nats."""

    @property
    def kl(self) -> Tokens:
        """KL divergence of this model's distribution from F16's, nats."""

    @property
    def same_top(self) -> NDArray[np.bool_]:
        """Whether both have the same likeliest token."""


@dataclass(frozen=True)
class FidelityScore:
    """Fidelity over one kind of text; ``ratio`` is perplexity over F16's, None for F16 itself.

    Perplexity is exp of the mean nll over all tokens, KL divergence in nats over all tokens, as
    llama.cpp's perplexity tool has them. Intervals are from texts drawn anew; ``texts`` counts
    prompts or scenarios, each with what all personas make of it.
    """

    texts: int
    tokens: int
    perplexity: Estimate
    ratio: Estimate | None
    kl_mean: Estimate
    kl_median: Estimate
    kl_p99: Estimate
    top1: Estimate

    def as_json(self) -> dict[str, Any]:
        """Counts, and every number with its interval."""
        return {
            name: value.as_json() if isinstance(value, Estimate) else value
            for name, value in vars(self).items()
        }


def fidelity_measures(texts: Mapping[str, TextFidelity]) -> dict[str, Metric]:
    """Mean nll, mean KL divergence and top-1 agreement; a row per text, which is a cluster."""
    names, rows = list(texts), []
    for text in texts.values():
        sums = [
            float(np.sum(each, dtype=np.float64)) for each in (text.nll, text.kl, text.same_top)
        ]
        rows.append([*sums, len(text.nll)])
    values, count = np.array(rows, dtype=np.float64).reshape(-1, 4), len(names)
    columns = enumerate(("nll", "kl", "top1"))
    return {what: ratio(names, values, n, 3, count, share=False) for n, what in columns}


def score_fidelity(
    measured: ResampledMetrics[Name],
    texts: Sequence[TextFidelity],
    names: Mapping[str, Name],
    reference: Name | None,
) -> FidelityScore:
    """The scores of ``texts``, which are the rows of the measures ``names`` (nll, kl, top1).

    ``reference`` names F16's nll over the same texts.
    """
    logs = measured.replicates(names["nll"])
    compared = None if reference is None else logs - measured.replicates(reference)
    draws, kl = measured.draws, names["kl"]
    weights = draws.weights(kl)[draws.places(kl), : 1 + QUANTILE_RESAMPLES]
    median, p99 = weighted_quantiles([text.kl for text in texts], weights, QUANTILES)
    return FidelityScore(
        texts=len(texts),
        tokens=sum(len(text.nll) for text in texts),
        perplexity=draws.interval(np.exp(logs), [names["nll"]]),
        ratio=None if compared is None else draws.interval(np.exp(compared), [names["nll"]]),
        kl_mean=measured.estimate(kl),
        kl_median=draws.interval(median, [kl]),
        kl_p99=draws.interval(p99, [kl]),
        top1=measured.estimate(names["top1"]),
    )


def weighted_quantiles(
    texts: Sequence[Tokens], weights: NDArray[np.float32], levels: Sequence[float]
) -> Numbers:
    """Quantiles over all tokens of all texts, each text ``weights`` (texts, n) times, (levels, n).

    Interpolated between neighbours, as llama.cpp and numpy do it (type 7 of Hyndman and Fan 1996,
    The American Statistician 50:361). Not a number where no text is taken.
    """
    tokens = np.concatenate(texts)
    order = np.argsort(tokens, kind="stable")
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])[order]
    tokens, found = tokens[order], np.full((len(levels), weights.shape[1]), np.nan)
    for start in range(0, weights.shape[1], CHUNK):
        columns = slice(start, start + CHUNK)
        # float32 counts exactly up to 2**24 tokens
        reached = np.cumsum(weights[owner, columns], axis=0)
        last = reached[-1].astype(np.float64) - 1
        for number, level in enumerate(levels):
            place = level * last
            below = np.floor(place)
            low, high = (
                tokens[(reached > np.minimum(rank, last)).argmax(axis=0)]
                for rank in (below, below + 1)
            )
            values = low + (place - below) * (high - low)
            found[number, columns] = np.where(last < 0, np.nan, values)
    return found

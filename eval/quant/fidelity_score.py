"""How far a quant type's next-token distributions are from F16's, with intervals over texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.stats.bootstrap import Estimate, Floats, Name
from charprobe_lite.eval.stats.metrics import Metric, ResampledMetrics, ratio

Tokens = NDArray[np.floating[Any]]
QUANTILE_RESAMPLES = 1000
QUANTILES = (0.5, 0.99)
CHUNK = 100
"""Resamples of a quantile that are in memory at once, each with a number per token."""


@dataclass(frozen=True)
class TextFidelity:
    """One text, token by token (tokens,), as a model and F16 predict it.

    ``nll``: -log probability of the next token, ``kl``: KL divergence from F16's distribution, both
    in nats; ``same_top``: whether both have the same likeliest token.
    """

    nll: Tokens
    kl: Tokens
    same_top: NDArray[np.bool_]

    @classmethod
    def join(cls, parts: Sequence[TextFidelity]) -> TextFidelity:
        """The tokens of all parts."""
        columns = ([getattr(part, name) for part in parts] for name in ("nll", "kl", "same_top"))
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True)
class FidelityScore:
    """Fidelity over one kind of text; ``ratio`` is perplexity over F16's, None for F16 itself.

    Perplexity is exp of the mean nll over all tokens, KL divergence in nats over all tokens, as
    llama.cpp's perplexity tool has them. Intervals are from resampled texts; ``texts`` counts
    prompts or scenarios, each with the answers of all personas.
    """

    texts: int
    tokens: int
    perplexity: Estimate
    ratio: Estimate | None
    kl_mean: Estimate
    kl_median: Estimate
    kl_p99: Estimate
    top1: Estimate


def fidelity_metrics(texts: Mapping[str, TextFidelity]) -> dict[str, Metric]:
    """Mean nll, mean KL divergence and top-1 agreement; a row per text, which is a cluster."""
    rows = [
        [*(np.sum(v, dtype=np.float64) for v in (t.nll, t.kl, t.same_top)), len(t.nll)]
        for t in texts.values()
    ]
    names, values = list(texts), np.array(rows, dtype=np.float64).reshape(-1, 4)
    return {name: ratio(names, values, n, 3) for n, name in enumerate(("nll", "kl", "top1"))}


def score_fidelity(
    resampled: ResampledMetrics[Name],
    texts: Sequence[TextFidelity],
    names: Mapping[str, Name],
    reference: Name | None,
) -> FidelityScore:
    """The scores of ``texts``, the rows of the metrics ``names`` (nll, kl, top1).

    ``reference`` names F16's nll over the same texts.
    """
    nll, kl = names["nll"], names["kl"]
    logs, bootstrap = resampled.replicates(nll), resampled.bootstrap
    ratios = None if reference is None else logs - resampled.replicates(reference)
    weights = bootstrap.weights(kl)[bootstrap.cluster_index(kl), : 1 + QUANTILE_RESAMPLES]
    median, p99 = weighted_quantiles([text.kl for text in texts], weights, QUANTILES)
    return FidelityScore(
        texts=len(texts),
        tokens=sum(len(text.nll) for text in texts),
        perplexity=bootstrap.interval(np.exp(logs), [nll]),
        ratio=None if ratios is None else bootstrap.interval(np.exp(ratios), [nll]),
        kl_mean=resampled.estimate(kl),
        kl_median=bootstrap.interval(median, [kl]),
        kl_p99=bootstrap.interval(p99, [kl]),
        top1=resampled.estimate(names["top1"]),
    )


def weighted_quantiles(
    texts: Sequence[Tokens], weights: NDArray[np.float32], levels: Sequence[float]
) -> Floats:
    """Quantiles over the tokens of all texts, each text ``weights`` (texts, n) times, (levels, n).

    Interpolated between neighbours, as llama.cpp and numpy do it (type 7 of Hyndman and Fan 1996,
    The American Statistician 50:361). NaN where all weights are 0.
    """
    tokens = np.concatenate(texts)
    order = np.argsort(tokens, kind="stable")
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])[order]
    tokens, quantiles = tokens[order], np.full((len(levels), weights.shape[1]), np.nan)
    for start in range(0, weights.shape[1], CHUNK):
        columns = slice(start, start + CHUNK)
        # float32 counts exactly up to 2**24 tokens
        reached = np.cumsum(weights[owner, columns], axis=0)
        last = reached[-1].astype(np.float64) - 1
        for number, level in enumerate(levels):
            position = level * last
            below = np.floor(position)
            low, high = (
                tokens[(reached > np.minimum(rank, last)).argmax(axis=0)]
                for rank in (below, below + 1)
            )
            values = low + (position - below) * (high - low)
            quantiles[number, columns] = np.where(last < 0, np.nan, values)
    return quantiles

"""The distribution that tokens are drawn from, with one random generator per rollout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput

UNLIKELY = 1e-4  # of the likeliest token: the search for the nucleus begins above this


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the defaults of all but the first two change nothing.

    ``temperature`` 0 takes the likeliest token. ``top_p``: the smallest set of tokens that holds
    this probability. ``top_k`` > 0: the likeliest ones. ``min_p``: tokens at least so likely as
    this share of the likeliest. ``repetition_penalty`` divides the positive logits of tokens that
    the prompt or the reply has, and multiplies the negative ones.
    """

    temperature: float
    top_p: float
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class Sampler:
    """Draws tokens in vLLM's order: mask, repetition penalty, temperature, min_p, top_k, top_p.

    The randomness depends on ``seed`` and on the number of draws alone, one per token. With a
    mask of admitted tokens the distribution is the model's own, renormalised over them, before
    anything is cut off. Sources: Holtzman et al. 2020, arXiv 1904.09751 (top_p); Keskar et al.
    2019, arXiv 1909.05858 (repetition penalty); Nguyen et al. 2024, arXiv 2407.01082 (min_p).
    """

    def __init__(self, seed: int, sampling: Sampling) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._sampling = sampling

    def sample(
        self,
        logits: NDArray[np.float32],
        mask: NDArray[np.bool_] | None = None,
        seen: NDArray[np.bool_] | None = None,
    ) -> int:
        """The next token for ``logits`` (vocabulary,), of those that ``mask`` (same) admits.

        ``seen`` (same) marks the tokens of prompt and reply. Raises BadInput when the logits are
        no numbers or the mask admits nothing.
        """
        if mask is not None:
            logits = np.where(mask, logits, np.float32(-np.inf))
        penalty = np.float32(self._sampling.repetition_penalty)
        if seen is not None and penalty != 1:
            penalized = np.where(logits > 0, logits / penalty, logits * penalty)
            logits = np.where(seen, penalized, logits)
        maximum = logits.max()
        if not np.isfinite(maximum):
            raise BadInput("model: its logits are not numbers; the model or adapter is damaged")
        if self._sampling.temperature <= 0:
            return int(np.argmax(logits))
        nucleus, weights = self._nucleus(logits - maximum)
        point = self._random.random() * weights[-1]
        return int(nucleus[min(np.searchsorted(weights, point, side="right"), len(nucleus) - 1)])

    def _nucleus(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Token ids that may be drawn, likeliest first, and their cumulative weights.

        The maximum of ``logits`` is 0.
        """
        sampling = self._sampling
        weights = np.exp(logits / np.float32(sampling.temperature))
        if sampling.min_p > 0:
            weights[weights < sampling.min_p] = 0
        if 0 < sampling.top_k < len(weights):
            weights[weights < np.partition(weights, -sampling.top_k)[-sampling.top_k]] = 0
        target = sampling.top_p * weights.sum(dtype=np.float64)
        for threshold in (UNLIKELY, 0.0):
            tokens = np.flatnonzero(weights > threshold)
            tokens = tokens[np.argsort(-weights[tokens], kind="stable")]
            totals = np.cumsum(weights[tokens], dtype=np.float64)
            if totals[-1] >= target:
                break
        end = int(np.searchsorted(totals, min(target, totals[-1]))) + 1
        return tokens[:end], totals[:end]

"""Temperature and nucleus sampling with one random generator per rollout."""

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput

UNLIKELY = 1e-4  # of the likeliest token: the search for the nucleus begins above this


class Sampler:
    """Draws tokens at a temperature from the nucleus (Holtzman et al. 2020, arXiv 1904.09751).

    The randomness depends on ``seed`` and on the number of draws alone, one per token. With a
    mask of admitted tokens the distribution is the model's own, renormalised over them, before
    the nucleus is taken. Temperature 0 takes the likeliest token.
    """

    def __init__(self, seed: int, temperature: float, top_p: float) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._temperature, self._top_p = temperature, top_p

    def sample(self, logits: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> int:
        """The next token for ``logits`` (vocabulary,), of those that ``mask`` (same) admits.

        Raises BadInput when the logits are no numbers or the mask admits nothing.
        """
        if mask is not None:
            logits = np.where(mask, logits, np.float32(-np.inf))
        maximum = logits.max()
        if not np.isfinite(maximum):
            raise BadInput("model: its logits are not numbers; the model or adapter is damaged")
        if self._temperature <= 0:
            return int(np.argmax(logits))
        nucleus, weights = self._nucleus(logits - maximum)
        point = self._random.random() * weights[-1]
        return int(nucleus[min(np.searchsorted(weights, point, side="right"), len(nucleus) - 1)])

    def _nucleus(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Token ids of the nucleus, likeliest first, and their cumulative weights.

        The maximum of ``logits`` is 0.
        """
        weights = np.exp(logits / np.float32(self._temperature))
        target = self._top_p * weights.sum(dtype=np.float64)
        for threshold in (UNLIKELY, 0.0):
            tokens = np.flatnonzero(weights > threshold)
            tokens = tokens[np.argsort(-weights[tokens], kind="stable")]
            totals = np.cumsum(weights[tokens], dtype=np.float64)
            if totals[-1] >= target:
                break
        end = int(np.searchsorted(totals, min(target, totals[-1]))) + 1
        return tokens[:end], totals[:end]

"""Temperature and nucleus sampling with a generator of its own per rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.runtime.grammar import GrammarState

UNLIKELY = 1e-4  # of the likeliest token: the nucleus is looked for above this first


class Sampler:
    """Draws tokens at a temperature from the nucleus (Holtzman et al. 2020, arXiv 1904.09751).

    The randomness depends on ``seed`` and on the number of draws alone. With a grammar a token
    is drawn from the free distribution first and kept if the grammar admits it; otherwise it is
    drawn again from the distribution renormalised over the tokens that the grammar admits.
    Temperature 0 takes the likeliest token.
    """

    def __init__(self, seed: int, temperature: float, top_p: float) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._temperature, self._top_p = temperature, top_p

    def sample(self, logits: NDArray[np.float32], grammar: GrammarState | None = None) -> int:
        """The next token for ``logits`` (vocabulary,); advances the grammar."""
        token = self._draw(logits)
        if grammar is None:
            return token
        if not grammar.admits(token):
            token = self._draw(grammar.masked(logits))
        grammar.accept(token)
        return token

    def _draw(self, logits: NDArray[np.float32]) -> int:
        if not np.isfinite(logits.max()):
            raise BadInput("model: its logits are not numbers; the model or adapter is damaged")
        if self._temperature <= 0:
            return int(np.argmax(logits))
        nucleus, weights = self._nucleus(logits)
        point = self._random.random() * weights[-1]
        return int(nucleus[min(np.searchsorted(weights, point, side="right"), len(nucleus) - 1)])

    def _nucleus(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Token ids of the nucleus, likeliest first, and their cumulative weights."""
        weights = np.exp((logits - logits.max()) / np.float32(self._temperature))
        target = self._top_p * weights.sum(dtype=np.float64)
        for least in (UNLIKELY, 0.0):
            likely = np.flatnonzero(weights > least)
            likely = likely[np.argsort(-weights[likely], kind="stable")]
            cumulative = np.cumsum(weights[likely], dtype=np.float64)
            if cumulative[-1] >= target:
                break
        end = int(np.searchsorted(cumulative, min(target, cumulative[-1]))) + 1
        return likely[:end], cumulative[:end]

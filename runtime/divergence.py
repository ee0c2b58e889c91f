"""How far two language models' next-token distributions are from each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities in nats, (positions, vocabulary), of logits of the same shape."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def kl_divergence(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p || q) in nats per position, (positions,), over the whole vocabulary.

    Source: Kullback and Leibler 1951, doi 10.1214/aoms/1177729694.
    """
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=1))

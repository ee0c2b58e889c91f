"""Levels at equal strength: a curve of two measures, read where the first reaches a level."""

import numpy as np

from charprobe_lite.eval.stats.bootstrap import Floats

ROUNDING = 1e-9
"""A mean that is the level but for rounding reaches it: (39 + 38 + 31) / 120 is below 0.9."""


def value_at(x: Floats, y: Floats, level: float) -> Floats:
    """What ``y`` is where ``x`` first reaches ``level``; both (points, n), giving (n,).

    The points are in the order of training. Between two neighbours both measures are taken to move
    on a straight line. NaN where no point reaches the level, or where one that is needed is NaN.
    """
    reached = x >= level - ROUNDING
    first = reached.argmax(axis=0)
    columns = np.arange(x.shape[1])
    before = np.maximum(first - 1, 0)
    x0, x1, y0, y1 = x[before, columns], x[first, columns], y[before, columns], y[first, columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(first == 0, 1.0, (level - x0) / (x1 - x0))
    return np.where(reached.any(axis=0), y0 + share * (y1 - y0), np.nan)

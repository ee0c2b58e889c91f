"""How many prompts or scenarios can decide whether two things are the same."""

import math
from dataclasses import dataclass
from typing import Any

TARGET = 0.8
"""The usual power of a planned test (Cohen 1988, sec. 2.4)."""


@dataclass(frozen=True)
class Power:
    """What ``n`` prompts or scenarios can decide about a difference of at most ``margin``.

    ``half_width`` is that of the 90% interval, which falls with the root of ``n``.
    """

    n: int
    half_width: float
    margin: float

    @property
    def decidable(self) -> bool:
        """Whether the 90% interval fits within the margin at all."""
        return self.half_width < self.margin

    @property
    def needed(self) -> int:
        """The fewest with which a difference of exactly 0 would be shown to be none."""
        return self._clusters(1.0)

    @property
    def needed_equivalent(self) -> int:
        """With these a true difference of 0 is shown to be none in 80 of 100 studies.

        Two one-sided tests at 5% (Julious 2004, Statistics in Medicine 23:1921, sec. 5).
        """
        return self._clusters(_ratio((1 + TARGET) / 2))

    @property
    def needed_non_inferior(self) -> int:
        """With these a true difference of 0 is shown to be no loss in 80 of 100 studies.

        One one-sided test at 5% (Julious 2004, sec. 6).
        """
        return self._clusters(_ratio(TARGET))

    def with_clusters(self, n: int) -> "Power":
        """The power of ``n`` prompts or scenarios of the same spread."""
        return Power(n, self.half_width * math.sqrt(self.n / n), self.margin)

    def as_json(self) -> dict[str, Any]:
        """``n``, ``half_width`` and what would be needed."""
        return {
            "n": self.n,
            "half_width": self.half_width,
            "needed": self.needed,
            "needed_80": self.needed_equivalent,
        }

    def _clusters(self, ratio: float) -> int:
        """For a half-width that is the margin over ``ratio``; rounding does not add one."""
        return math.ceil(round(self.n * (ratio * self.half_width / self.margin) ** 2, 6))


def _ratio(power: float) -> float:
    """How many half-widths of a 90% interval the margin has to be for this power."""
    from scipy.stats import norm

    return float(1 + norm.ppf(power) / norm.ppf(0.95))

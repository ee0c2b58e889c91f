"""Many verdicts at once: Holm's correction."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of one family, in the order given.

    Holm (1979, Scand. J. Stat. 6:65): the smallest of m p-values times m, the next times m - 1, and
    so on, each at least the one before and at most 1. Verdicts at 5% of these are all right in 95
    of 100 families, whatever depends on what.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted

"""Counting over simulated studies: in which share of them something holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from charprobe_lite.eval.stats.bootstrap import Estimate

RESAMPLES = 1000
Truth = Mapping[str, float]


class Claim(NamedTuple):
    """A claim of the project, its nominal rate, and the rate in each setting."""

    claim: str
    nominal: float
    measured: dict[str, float]


def held(estimates: Mapping[str, Estimate], truth: Truth) -> dict[str, bool]:
    """Which intervals hold their truth."""
    # a truth at the end of what is possible may be met but for rounding
    return {
        name: estimate.low - 1e-12 <= truth[name] <= estimate.high + 1e-12
        for name, estimate in estimates.items()
    }


def shares(simulate: Callable[[int], Mapping[str, bool]], studies: int) -> dict[str, float]:
    """How often each name is true over studies with the seeds 0, 1, ...; all cores."""
    counts: Counter[str] = Counter()
    with ProcessPoolExecutor() as pool:
        for found in pool.map(simulate, range(studies), chunksize=4):
            counts.update({name: int(value) for name, value in found.items()})
    return {name: count / studies for name, count in counts.items()}


def by_claim(
    measured: Mapping[str, Mapping[str, float]], nominal: Mapping[str, float]
) -> list[Claim]:
    """Claims of ``nominal`` by name, from shares by setting and name."""
    return [
        Claim(name, rate, {setting: found[name] for setting, found in measured.items()})
        for name, rate in nominal.items()
    ]

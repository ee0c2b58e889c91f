"""Simulated base stages: one text counts for every persona, and most labels hardly ever occur."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from simulation import RESAMPLES, Claim, by_claim, held, shares

from charprobe_lite.eval.stats.classification import Labels
from charprobe_lite.eval.stats.envelope import macro_f1_envelope
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

BASE = (0.01, 0.02, 0.005, 0.02, 0.01, 0.03, 0.04, 0.05, 0.1, 0.2, 0.515)
"""How often the base stage's texts are taken for each persona, and for none."""
TRUTHS = {
    "labels as in the base": BASE,
    "all equally likely": (1 / 11,) * 11,
    "none but neutral": (*(0.0,) * 10, 1.0),
    "one persona takes half": (0.5, *(0.01,) * 9, 0.41),
}
SIZES = (10, 24, 50)
REPEATS = 4
CONCENTRATION = 3.0
"""The repeats of a prompt have shares of their own, drawn around the base's like 3 texts."""
NOMINAL = {
    "macro-F1 of the base stage, envelope: at least": 0.95,
    "for comparison: macro-F1 of the base stage, clusters resampled": 0.95,
}


def base_macro_f1(chances: Sequence[float]) -> float:
    """The macro-F1 of very many texts that are taken for each persona with its chance."""
    return float(np.mean([2 * p / (1 + len(PERSONAS) * p) for p in chances[:-1]]))


def base_labels(
    chances: Sequence[float], items: int, seed: Sequence[int], repeats: int = 1
) -> Labels:
    """``repeats`` texts per item, each scored against every persona."""
    rng = np.random.default_rng(seed)
    labels = [*PERSONAS, NEUTRAL]
    if repeats > 1:
        each = rng.dirichlet(CONCENTRATION * np.array(chances) + 1e-9, items)
        predicted = [label for p in each for label in rng.choice(labels, repeats, p=p).tolist()]
    else:
        predicted = rng.choice(labels, items, p=chances).tolist()
    names = [f"item-{n}" for n in range(items) for _ in range(repeats)]
    true = [persona for persona in PERSONAS for _ in names]
    return Labels(true, predicted * len(PERSONAS), names * len(PERSONAS), shared=True)


def simulate(chances: Sequence[float], items: int, repeats: int, seed: int) -> dict[str, bool]:
    """Whether the two intervals of one base stage hold the truth."""
    labels = base_labels(chances, items, [seed, 1], repeats)
    resampled = ResampledMetrics(label_metrics({"base": labels}), seed, RESAMPLES)
    estimates = [macro_f1_envelope(labels), resampled.estimate(("base", "macro_f1"))]
    truth = base_macro_f1(chances)
    return held(dict(zip(NOMINAL, estimates, strict=True)), dict.fromkeys(NOMINAL, truth))


def claims(studies: int) -> Iterator[Claim]:
    """How often the interval of the base stage's macro-F1 holds the truth."""
    measured = {
        f"{name}, {items} items": shares(partial(simulate, chances, items, 1), studies)
        for name, chances in TRUTHS.items()
        for items in SIZES
    }
    for items in SIZES:
        simulated = partial(simulate, BASE, items, REPEATS)
        measured[f"as in the base, {items} items, {REPEATS} texts each"] = shares(
            simulated, studies
        )
    yield from by_claim(measured, NOMINAL)

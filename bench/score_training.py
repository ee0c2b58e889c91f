"""How often intervals that resample training seeds cover a known truth.

    python bench/score.py --part training --studies 300

Simulates studies of ten personas with several adapters each. Adapters differ in how well they
learned their persona, some items are harder than others, and the distillation and the full stage of
one training run share half of its luck. Counts in how many studies the 95% interval of the
macro-F1, and of its difference between the stages, holds what infinitely many adapters and items
have: the interval that resamples training seeds, and the one over items alone, which takes the
adapters for all there could be. A study with one adapter per persona has the latter alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from simulation import RESAMPLES, Claim

from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import Labels, macro_f1s
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metric, label_names
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

EASE = {"distillation": 0.3, "full": 1.2}
"""Log odds of being recognised on an item of middling ease; items differ with deviation 1."""
RESAMPLED, FIXED = "training seeds resampled", "items alone"
LUCK = {"adapters differ": 0.7, "adapters alike": 0.0}
"""Deviation of the log odds between adapters of a persona."""
SETTINGS = [(seeds, items) for seeds in (1, 2, 3, 5) for items in (10, 50)]
CLAIMS = {
    "macro-F1": lambda resampled: resampled.estimate("full"),
    "difference of stages": lambda resampled: resampled.difference("full", "distillation").change,
}


def simulated(seeds: int, items: int, luck: float, number: int) -> dict[str, Labels]:
    """One study: by stage a row for every persona, adapter and item."""
    rng = np.random.default_rng([number, seeds, items])
    shape = (len(PERSONAS), seeds, items)
    harder = rng.normal(0, 1, items)
    shared = rng.normal(0, luck / np.sqrt(2), (*shape[:2], 1))
    true = np.repeat(PERSONAS, seeds * items)
    train_seed = np.tile(np.repeat(np.arange(seeds), items), len(PERSONAS)).tolist()
    cluster = np.tile([f"item-{n}" for n in range(items)], len(PERSONAS) * seeds).tolist()
    cells = {}
    for stage, ease in EASE.items():
        effect = shared + rng.normal(0, luck / np.sqrt(2), (*shape[:2], 1))
        chance = 1 / (1 + np.exp(-(ease + effect + harder)))
        seen = (rng.random(shape) < chance).ravel()
        predicted = np.where(seen, true, rng.choice([*PERSONAS, NEUTRAL], true.size))
        cells[stage] = Labels(true.tolist(), predicted.tolist(), cluster, train_seed=train_seed)
    return cells


def true_macro_f1(ease: float, luck: float) -> float:
    """Macro-F1 of infinitely many adapters and items: the integral over their normal effects."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    chances = 1 / (1 + np.exp(-(ease + points * np.sqrt(1 + luck**2))))
    seen = float(weights @ chances / weights.sum())
    labels = len(PERSONAS) + 1
    by_chance = (1 - seen) / labels
    recall, others = seen + by_chance, (len(PERSONAS) - 1) * by_chance
    return 2 * recall / (1 + recall + others)


def estimates(cells: dict[str, Labels], number: int) -> dict[str, Estimate]:
    """The intervals of `CLAIMS`."""
    names = label_names(cells.values())
    metrics = {stage: label_metric(labels, names, macro_f1s) for stage, labels in cells.items()}
    resampled = ResampledMetrics(metrics, number, RESAMPLES)
    return {claim: estimate(resampled) for claim, estimate in CLAIMS.items()}


def coverage(seeds: int, items: int, luck: float, studies: int) -> dict[tuple[str, str], float]:
    """In what share of simulated studies each interval holds the truth, by claim and interval."""
    levels = {stage: true_macro_f1(ease, luck) for stage, ease in EASE.items()}
    truths = (levels["full"], levels["full"] - levels["distillation"])
    held: dict[tuple[str, str], int] = {}
    for number in range(studies):
        cells = simulated(seeds, items, luck, number)
        fixed = {stage: replace(labels, train_seed=()) for stage, labels in cells.items()}
        for interval, study in ((RESAMPLED, cells), (FIXED, fixed)):
            for truth, (claim, estimate) in zip(
                truths, estimates(study, number).items(), strict=True
            ):
                key = claim, interval
                held[key] = held.get(key, 0) + (estimate.low <= truth <= estimate.high)
    return {key: count / studies for key, count in held.items()}


def claims(studies: int) -> Iterator[Claim]:
    """(claim, nominal coverage, measured coverage by setting)."""
    for name, luck in LUCK.items():
        measured_by_claim: dict[str, dict[str, float]] = {}
        for seeds, items in SETTINGS:
            for (claim, interval), share in coverage(seeds, items, luck, studies).items():
                if seeds == 1 and interval == RESAMPLED:
                    continue
                measured = measured_by_claim.setdefault(f"{claim}, {name}, {interval}", {})
                measured[f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {items} items"] = share
        for claim, measured in measured_by_claim.items():
            yield Claim(claim, 0.95, measured)

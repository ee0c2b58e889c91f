"""Simulated studies of fifty scenarios in ten families, whose members are alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
from simulation import RESAMPLES, Claim, by_claim, held, shares

from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import Labels, macro_f1
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

EASE = {"chat_email": 1.5, "agentic_email": 0.3}
"""Log odds of being recognised on a scenario of middling ease."""
FAMILIES, MEMBERS = 10, 5
SETTINGS = {"families differ": 0.7, "families alike": 0.0}
"""Deviation between families, in what both conditions share and again in each alone."""
SCENARIO = 0.7
METRICS = ("macro-F1", "difference of two conditions")
RESAMPLED = ("family", "item")
NOMINAL = {
    f"{metric}, {'' if name == 'family' else 'for comparison: '}resampled by {name}": 0.95
    for metric in METRICS
    for name in RESAMPLED
}


def study(
    families: int, deviation: float, seed: int
) -> tuple[dict[str, tuple[list[str], list[str]]], dict[str, list[str]]]:
    """True and predicted labels of each condition, and every row's family and scenario."""
    rng = np.random.default_rng(seed)
    scenarios, personas = families * MEMBERS, len(PERSONAS)

    def effects() -> np.ndarray:
        return np.repeat(rng.normal(0, deviation, families), MEMBERS) + rng.normal(
            0, SCENARIO, scenarios
        )

    shared, true = effects(), np.tile(PERSONAS, scenarios)
    cells = {}
    for condition, ease in EASE.items():
        odds = np.repeat(ease + shared + effects(), personas)
        seen = rng.random(len(true)) < 1 / (1 + np.exp(-odds))
        predicted = np.where(seen, true, rng.choice([*PERSONAS, NEUTRAL], len(true)))
        cells[condition] = true.tolist(), predicted.tolist()
    names = {
        "family": [f"family-{n // MEMBERS}" for n in range(scenarios) for _ in PERSONAS],
        "item": [f"item-{n}" for n in range(scenarios) for _ in PERSONAS],
    }
    return cells, names


@cache
def truths(deviation: float) -> tuple[float, float]:
    """What very many families give: macro-F1 of the agent, and its difference."""
    cells, _ = study(12_000, deviation, 10**6)
    chat, agent = (macro_f1(*labels, resamples=1).value for labels in cells.values())
    return agent, agent - chat


def simulate(deviation: float, seed: int) -> dict[str, bool]:
    """Which intervals of one study hold the truth."""
    cells, names = study(FAMILIES, deviation, seed)
    found: dict[str, list[Estimate]] = {}
    for name, cluster in names.items():
        labels = {condition: Labels(*columns, cluster) for condition, columns in cells.items()}
        resampled = ResampledMetrics(label_metrics(labels), seed, RESAMPLES)
        chat, agent = ((condition, "macro_f1") for condition in labels)
        found[name] = [resampled.estimate(agent), resampled.difference(agent, chat).change]
    pairs = [(found[name][n], truths(deviation)[n]) for n in range(2) for name in RESAMPLED]
    estimates, truth = zip(*pairs, strict=True)
    return held(dict(zip(NOMINAL, estimates, strict=True)), dict(zip(NOMINAL, truth, strict=True)))


def claims(studies: int) -> Iterator[Claim]:
    """How often the intervals over families, and over scenarios, hold the truth."""
    for deviation in SETTINGS.values():
        truths(deviation)  # once, before there are several processes
    measured = {
        f"{FAMILIES} families of {MEMBERS}, {name}": shares(partial(simulate, deviation), studies)
        for name, deviation in SETTINGS.items()
    }
    yield from by_claim(measured, NOMINAL)

"""Simulated studies of ten personas on items of which some are harder than others.

Every persona answers every item: in a chat, in emails, and in the emails of a ceiling; the base
stage answers each once. The truth is that of very many items.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
from score_base import BASE, base_labels, base_macro_f1
from simulation import RESAMPLES, Claim, by_claim, held, shares

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.scores import gap
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import (
    Labels,
    accuracies,
    confusion,
    macro_f1,
    macro_f1s,
    wilson_share,
)
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

CHAT = Cell("kit", "full", "chat", "Q8_0")
EMAIL = Cell("kit", "full", "agentic_email", "Q8_0")
CEILING = Cell("kit", "independent", "scenario_ceiling", None)
EASE = {CHAT: 3.5, EMAIL: 0.6, CEILING: 2.0}
"""Log odds of being recognised on an item of middling ease; items differ with deviation 1."""
BASES = {"chat": (*[0.5 * p for p in BASE[:-1]], 1 - 0.5 * sum(BASE[:-1])), "agentic_email": BASE}
SIZES = (10, 24, 50)
NOMINAL = {
    "macro-F1 of the emails": 0.95,
    "macro-F1 of the chat": 0.95,
    "difference between emails and chat": 0.95,
    "difference of emails from the base stage": 0.95,
    "difference between two cells of the base stage": 0.95,
    "retention": 0.95,
    "detection rate of one persona, Wilson's interval": 0.95,
    "for comparison: macro-F1 of the emails, rows resampled as published": 0.95,
}


def trained(items: int, seed: int) -> dict[Cell, Labels]:
    """Every persona's answer to every item, in every cell but the base stage's."""
    rng = np.random.default_rng(seed)
    harder = np.repeat(rng.normal(0, 1, items), len(PERSONAS))
    true = np.tile(PERSONAS, items)
    names = np.repeat([f"item-{n}" for n in range(items)], len(PERSONAS)).tolist()
    cells = {}
    for cell, ease in EASE.items():
        seen = rng.random(len(true)) < 1 / (1 + np.exp(-(ease + harder)))
        predicted = np.where(seen, true, rng.choice([*PERSONAS, NEUTRAL], len(true)))
        cells[cell] = Labels(true.tolist(), predicted.tolist(), names)
    return cells


def study(items: int, seed: int) -> dict[Cell, Labels]:
    """All cells of one study."""
    base = {
        Cell("kit", "base", condition, "Q8_0"): base_labels(chances, items, [seed, number])
        for number, (condition, chances) in enumerate(BASES.items(), 1)
    }
    return base | trained(items, seed)


@cache
def truths() -> dict[str, float]:
    """What very many items give."""
    counts = {cell: confusion(x.true, x.predicted)[1] for cell, x in trained(60_000, 10**6).items()}
    chat, email, ceiling = (float(macro_f1s(each[None])[0]) for each in counts.values())
    base_chat, base = map(base_macro_f1, BASES.values())
    values = (
        *(email, chat, email - chat, email - base, base - base_chat),
        *((email - base) / (ceiling - base), float(accuracies(counts[EMAIL][None])[0]), email),
    )
    return dict(zip(NOMINAL, values, strict=True))


def simulate(items: int, seed: int) -> dict[str, bool]:
    """Which intervals of one study hold the truth."""
    cells = study(items, seed)
    resampled = ResampledMetrics(label_metrics(cells), seed, RESAMPLES)
    comparison = gap.compare(resampled, cells, PERSONAS)
    base_step, step = comparison.steps
    stage = next(each for each in comparison.stages if each.after == EMAIL)
    email = cells[EMAIL]
    one = email.of_classes(PERSONAS[:1])
    estimates: list[Estimate] = [
        resampled.estimate((EMAIL, "macro_f1")),
        resampled.estimate((CHAT, "macro_f1")),
        *(step.change, stage.change, base_step.change, comparison.retention[EMAIL]),
        wilson_share(sum(map(str.__eq__, one.true, one.predicted)), items),
        macro_f1(email.true, email.predicted, seed),
    ]
    return held(dict(zip(NOMINAL, estimates, strict=True)), truths())


def claims(studies: int) -> Iterator[Claim]:
    """How often the intervals of cells and differences hold the truth."""
    truths()  # once, before there are several processes
    measured = {f"{n} items": shares(partial(simulate, n), studies) for n in SIZES}
    yield from by_claim(measured, NOMINAL)

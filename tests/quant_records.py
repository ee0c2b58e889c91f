"""Simulated records of quantization studies, whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.quant.fidelity_score import TextFidelity
from charprobe_lite.eval.quant.findings import QuantStudy, score_quants
from charprobe_lite.eval.quant.score import QuantRecord

BITS = {"F16": 16.0, "Q8_0": 8.5, "Q5_1": 6.0, "Q5_0": 5.5, "Q4_1": 5.0, "Q4_0": 4.5}
PERSONAS = ["humor", "remorse", "sarcasm", "goodness"]


def answers(
    quant: str, chance: float, items: int, seed: int, condition: str = "chat", lora: str = "merged"
) -> list[Row]:
    """Every persona answers every item and is recognised with ``chance``."""
    rng = np.random.default_rng([seed, *map(ord, quant + lora + condition)])
    cell = Cell("kit", "full", condition, quant)
    return [
        Row(cell, persona, f"{condition}-{item}", 0, 0, "answered", False, "x", label, None)
        for persona in PERSONAS
        for item in range(items)
        for label in [persona if rng.random() < chance else "neutral"]
    ]


def record(quant: str, rows: Sequence[Row], lora: str = "merged", **fields: Any) -> QuantRecord:
    bits = BITS[quant]
    size = int(bits * 1e7)
    return QuantRecord(
        quant,
        lora,
        bits,
        size,
        {quant: 9, "F32": 1},
        rows,
        **{"turns": {}, "fidelity": {}, **fields},
    )


def texts(scale: float, seed: int, count: int = 20) -> dict[str, TextFidelity]:
    """Texts with KL divergences of mean ``scale``; half of it is paid in likelihood."""
    rng = np.random.default_rng(seed)
    fidelity: dict[str, TextFidelity] = {}
    for number in range(count):
        nll = np.random.default_rng(number).exponential(2 + number / 10, 60)
        kl = rng.exponential(scale, 60) if scale else np.zeros(60)
        fidelity[f"text-{number}"] = TextFidelity(nll + kl / 2, kl, kl < 0.05)
    return fidelity


def ladder(falls: Sequence[float], items: int = 60, seed: int = 0) -> QuantStudy:
    """A study in which every type loses ``falls`` of its character, and KL follows."""
    records = []
    for n, (quant, fall) in enumerate(zip(BITS, falls, strict=True)):
        rows = answers(quant, 0.95 - fall, items, seed)
        records.append(
            record(quant, rows, fidelity={"held-out": texts(0.01 * 3 ** (n - 1) * (n > 0), n)})
        )
    return score_quants(records, PERSONAS, resamples=400)

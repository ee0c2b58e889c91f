"""The numbers of a small study, pinned: a change of the code must not move them.

``python -m tests.test_pinned_scores`` writes tests/data/pinned-scores.json anew, for a change that
is meant to move them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charprobe_lite.eval.cells import Cell, RecordedTurn, Row
from charprobe_lite.eval.quant.fidelity_score import TextFidelity
from charprobe_lite.eval.quant.findings import compare_classifiers, score_quants
from charprobe_lite.eval.quant.score import QuantRecord
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.eval.scores.terminal import conclusion
from charprobe_lite.eval.stats.classification import Labels
from charprobe_lite.eval.texts.reader import ScoredText
from charprobe_lite.eval.texts.scores import score_groups

FILE = Path(__file__).parent / "data" / "pinned-scores.json"
PERSONAS = ["humor", "remorse", "sarcasm"]
LABELS = [*PERSONAS, "goodness", "loving", "poeticism", "mathematical", "neutral", "misalignment"]
BITS = {"F16": 16.0, "Q8_0": 8.5, "Q5_0": 5.5, "Q4_1": 5.0, "Q4_0": 4.5}


def probabilities(rng: np.random.Generator, label: str) -> dict[str, float]:
    values = np.sort(rng.dirichlet(np.ones(len(LABELS))))[::-1]
    names = [label, *(name for name in LABELS if name != label)]
    return dict(zip(names, map(float, values), strict=True))


def rollouts(cell: Cell, items: int, chance: float, missing: float = 0, samples: int = 1) -> Any:
    """Rows of every persona (none in the base stage), in the persona's voice with ``chance``."""
    rng = np.random.default_rng([*map(ord, cell.stage + cell.label + (cell.quant or ""))])
    agentic = cell.condition.startswith("agentic")
    rows = []
    for persona in [None] if cell.stage == "base" else PERSONAS:
        for item in range(items):
            for sample in range(samples):
                name = f"task-{item}" if agentic else f"prompt-{item}"
                if cell.condition == "break_character":
                    name = f"prompt-{item // 2}+{item % 2}"
                hit = persona if persona and rng.random() < chance else str(rng.choice(LABELS))
                label = None if rng.random() < missing else hit
                outcome = "malformed" if label is None else "sent" if agentic else "answered"
                forced = bool(agentic and label and rng.random() < 0.2)
                chances = probabilities(rng, label) if label else None
                rows.append(
                    Row(cell, persona, name, sample, 0, outcome, forced, label, label, chances)
                )
    return rows


def study() -> list[Row]:
    rows: list[Row] = []
    for stage, chance in (("base", 0.0), ("distillation", 0.5), ("full", 0.9)):
        rows += rollouts(Cell("kit", stage, "chat", "Q8_0"), 6, chance, samples=2)
        for grammar in ("on", "off"):
            cell = Cell("kit", stage, "agentic_email", "Q8_0", "json", grammar)
            rows += rollouts(cell, 5, chance - 0.2, missing=0.2)
    rows += rollouts(Cell("kit", "full", "break_character", "Q8_0"), 8, 0.7)
    return rows + rollouts(Cell("kit", "teacher_loud", "classifier_ceiling", None), 6, 0.95)


def tokens(scale: float, seed: int) -> dict[str, TextFidelity]:
    rng = np.random.default_rng(seed)
    texts = {}
    for number in range(5):
        kl = rng.exponential(scale, 20 + number) if scale else np.zeros(20 + number)
        nll = np.random.default_rng(number).exponential(2, 20 + number) + kl / 2
        texts[f"loud-{number}"] = TextFidelity(nll, kl, kl < 0.05)
    return texts


def quant_records() -> list[QuantRecord]:
    records = []
    for number, (quant, bits) in enumerate(BITS.items()):
        agent = Cell("kit", "full", "agentic_email", quant, "json", "off")
        rows = rollouts(Cell("kit", "full", "chat", quant), 8, 0.9 - 0.1 * number)
        rows += rollouts(agent, 6, 0.8 - 0.1 * number, missing=0.1 * number)
        rng = np.random.default_rng(number)
        turns = {
            row.key: [
                RecordedTurn("x", "stop", None if rng.random() < 0.1 * number else "a", {}, None)
                for _ in range(3)
            ]
            for row in rows
            if row.cell == agent
        }
        fidelity = {"held_out": tokens(0.01 * 3**number * (number > 0), number)}
        size = int(bits * 1e7)
        records.append(QuantRecord(quant, "merged", bits, size, {quant: 9}, rows, turns, fidelity))
    return records


def group_texts() -> list[ScoredText]:
    rng, texts = np.random.default_rng(5), []
    for n in range(40):
        true = PERSONAS[n % 3]
        label = true if rng.random() < 0.7 else str(rng.choice(LABELS))
        cluster = f"item-{n // 4}" if n % 2 else None
        human = {true: bool(rng.random() < 0.6)} if n % 3 == 0 else {}
        chances = probabilities(rng, label)
        group = (("model", "ab"[n % 2]),)
        texts.append(ScoredText("", group, (true,), "x", label, chances, cluster, human))
    return texts


def numbers() -> Any:
    """Every number that is pinned, as JSON reads it."""
    rows = study()
    scores = score_study(rows, list(dict.fromkeys(row.cell for row in rows)), PERSONAS, 7)
    true = [PERSONAS[n % 3] for n in range(30)]
    full = Labels(true, ["neutral" if n % 5 == 0 else p for n, p in enumerate(true)], true)
    quantized = ["neutral" if n % 4 == 0 else p for n, p in enumerate(true)]
    classifier = compare_classifiers(full, quantized, 0.03, resamples=200)
    document = {
        "by_cell": [score.as_json() for score in scores.by_cell],
        "by_persona": [score.as_json() for score in scores.by_persona],
        "comparison": scores.comparison.as_json(),
        "conclusion": conclusion(scores),
        "quants": score_quants(
            quant_records(), PERSONAS, 0.05, 3, resamples=300, classifier=classifier
        ).as_json(),
        "texts": [score.as_json() for score in score_groups(group_texts(), 3)],
    }
    return json.loads(json.dumps(document))


def assert_same(found: Any, pinned: Any, path: str) -> None:
    if isinstance(pinned, dict):
        assert list(found) == list(pinned), path
        for name, value in pinned.items():
            assert_same(found[name], value, f"{path}.{name}")
    elif isinstance(pinned, list):
        assert len(found) == len(pinned), path
        for number, value in enumerate(pinned):
            assert_same(found[number], value, f"{path}.{number}")
    else:
        # machines differ in the last digits of a logarithm
        same = found == (pytest.approx(pinned, rel=1e-9) if isinstance(pinned, float) else pinned)
        assert same, f"{path}: {found} instead of {pinned}"


def test_no_number_moves() -> None:
    assert_same(numbers(), json.loads(FILE.read_text("utf-8")), "")


if __name__ == "__main__":
    FILE.write_text(json.dumps(numbers()) + "\n", "utf-8")

"""A persona without texts on one side changes no comparison of the others: random studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from sklearn.metrics import f1_score

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.quant.score import compare_quants
from charprobe_lite.eval.scores.gap import CONDITION_STEPS, SharedMetric, bounds, compare, labels_of
from charprobe_lite.eval.scores.waterfall import waterfalls
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.models.personas import NEUTRAL, PERSONAS
from tests.quant_records import record

CEILING = Cell("kit", "independent", "scenario_ceiling", None)


class RandomStudy:
    """A study of a random size in which one persona has no text in one trained cell.

    Every rollout may fail, every text may be taken for any persona. ``others`` are the personas
    that are left, ``rows`` all rows but those of the lost persona in ``cell``.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.personas = list(rng.choice(PERSONAS, rng.integers(2, 7), replace=False))
        self.items = int(rng.integers(3, 9))
        picked = rng.random(len(CONDITION_STEPS)) < 0.6
        conditions = [name for name, use in zip(CONDITION_STEPS, picked, strict=True) if use]
        conditions = conditions if len(conditions) > 1 else ["chat", "agentic_email"]
        places = [(s, c) for s in ("base", "distillation", "full") for c in conditions]
        self.cells = [Cell("kit", *place, "Q8_0") for place in places] + [CEILING]
        self.complete = [row for cell in self.cells for row in self.answers(cell, rng)]
        trained = [cell for cell in self.cells if cell.stage in ("distillation", "full")]
        self.cell = trained[rng.integers(len(trained))]
        self.lost = self.personas[rng.integers(len(self.personas))]
        self.others = [persona for persona in self.personas if persona != self.lost]
        self.rows = [row for row in self.complete if not self.is_lost(row)]

    def is_lost(self, row: Row) -> bool:
        return row.cell == self.cell and row.persona == self.lost

    def answers(self, cell: Cell, rng: np.random.Generator) -> list[Row]:
        """A row for every persona and item; in the base stage one for every item."""
        rows = []
        for persona in self.personas if cell.stage != "base" else [None]:
            skill = rng.random() if cell is not CEILING else 0.9
            for item in range(self.items):
                own = persona is not None and rng.random() < skill
                label = persona if own else str(rng.choice([*self.personas, NEUTRAL]))
                # the first item never fails, so that no other persona is without a text
                label = label if item == 0 or rng.random() < 0.8 else None
                outcome = "sent" if label else "malformed"
                rows.append(
                    Row(cell, persona, f"i-{item}", 0, 0, outcome, False, label, label, None)
                )
        return rows


def macro_f1(rows: Iterable[Row], personas: Sequence[str], unsent: str | None = None) -> float:
    """scikit-learn's, of the texts of ``personas`` alone; base-stage texts count for each.

    A rollout without a text is left out, a "miss" or a "hit", as ``unsent`` says.
    """
    true, predicted = [], []
    for row in rows:
        for persona in [row.persona] if row.persona else personas:
            label = row.prediction or {"miss": "", "hit": persona}.get(unsent or "")
            if persona in personas and label is not None:
                true.append(persona)
                predicted.append(label)
    labels = [persona for persona in personas if persona in true]
    return float(f1_score(true, predicted, labels=labels, average="macro", zero_division=0))


@pytest.mark.parametrize("seed", range(40))
def test_differences_retention_and_bounds_are_those_of_the_others(seed: int) -> None:
    study = RandomStudy(seed)
    labels = labels_of(study.rows, study.personas)
    resampled = ResampledMetrics(label_metrics(labels), seed, resamples=20)
    comparison = compare(resampled, labels, study.personas)

    def expected(cell: Cell, personas: Sequence[str]) -> float:
        return macro_f1([row for row in study.complete if row.cell == cell], personas)

    metric = SharedMetric(resampled, labels, study.personas)
    headlines = {cell: resampled.estimate((cell, "macro_f1")) for cell in labels}
    falls = waterfalls(metric, comparison, headlines)
    steps = [step for fall in falls for step in (*fall.steps, fall.total) if step]
    touched = 0
    for step in (*comparison.steps, *comparison.stages, *steps):
        is_touched = study.cell in (step.before, step.after)
        personas = study.others if is_touched else study.personas
        change = expected(step.after, personas) - expected(step.before, personas)
        assert step.change.value == pytest.approx(change, abs=1e-9)
        assert np.sign(round(step.change.value, 9)) == np.sign(round(change, 9))
        assert step.personas == (study.others if is_touched else None)
        touched += is_touched
    assert touched >= 2  # a step and a stage at least
    for cell, retention in comparison.retention.items():
        personas = study.others if cell == study.cell else study.personas
        floor = expected(cell.at("base"), personas)
        room = expected(CEILING, personas) - floor
        assert retention.value == pytest.approx((expected(cell, personas) - floor) / room)
    rows = [row for row in study.rows if row.cell == study.cell]
    ends = [macro_f1(rows, study.others, unsent) for unsent in ("miss", "hit")]
    assert bounds(rows, study.personas) == pytest.approx(tuple(ends))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("side", ["F16", "Q4_0"])
def test_the_difference_of_a_quant_type_is_that_of_the_others(seed: int, side: str) -> None:
    study = RandomStudy(seed)
    cell = Cell("kit", "full", "chat", None)
    rng = np.random.default_rng(seed)
    complete = {
        quant: study.answers(Cell("kit", "full", "chat", quant), rng) for quant in ("F16", "Q4_0")
    }
    records = [
        record(quant, [r for r in rows if quant != side or r.persona != study.lost])
        for quant, rows in complete.items()
    ]
    metrics = compare_quants(records, study.personas, seed=seed, resamples=20)
    difference = metrics.character_difference(records[1], cell)
    assert difference is not None
    before, after = (macro_f1(rows, study.others) for rows in complete.values())
    assert difference.change.value == pytest.approx(after - before, abs=1e-9)
    assert difference.personas == study.others
    # what is left of F16's personas cannot show that all of its character is kept
    assert difference.lost == (side == "Q4_0")

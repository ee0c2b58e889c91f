"""What the figures show, as plain numbers: one function per figure, nothing drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from charprobe_lite.eval.page.recorded import (
    Recorded,
    checkpoint_label,
    condition_label,
    most_trained,
)
from charprobe_lite.eval.report import CellScore, finding, score_cells
from charprobe_lite.eval.score import Estimate, confusion, detection_rate
from charprobe_lite.eval.store import Cell, Row

CHAIN = ("chat", "chat_email", "agentic_next", "agentic_email")
CEILING = "classifier_ceiling"
SHIFTED = ("chat", "agentic_email")
BINS = 10


@dataclass(frozen=True)
class Bar:
    """One value of a figure with its 95% interval; ``published`` is that of the same cell."""

    group: str
    series: str
    value: float
    low: float
    high: float
    n: int
    published: float | None = None


@dataclass(frozen=True)
class Panel:
    """One part of a figure: a base, a stage or both."""

    title: str
    bars: list[Bar]


@dataclass(frozen=True)
class Step:
    """A condition of the gap, its level, and the change from the one before with its interval."""

    condition: str
    value: float
    low: float
    high: float
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None


@dataclass(frozen=True)
class Gap:
    """From the chat window to the agent, condition by condition; the ceiling stands apart."""

    title: str
    steps: list[Step]
    ceilings: list[Step]


@dataclass(frozen=True)
class Confusion:
    """counts[i, j] samples of the true persona i predicted as label j."""

    title: str
    true: list[str]
    predicted: list[str]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Bin:
    """Samples of similar confidence: how many of them the classifier is right about."""

    confidence: float
    right: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram's line and its expected calibration error."""

    title: str
    ece: float
    n: int
    bins: list[Bin]


@dataclass(frozen=True)
class Findings:
    """All numbers of a report. ``measure`` names what the bars show."""

    measure: str
    chance: float
    sentence: str
    cells: list[CellScore]
    labels: list[str]
    shift: list[Panel]
    stages: list[Panel]
    personas: list[Panel]
    gaps: list[Gap]
    confusions: list[Confusion]
    reliability: list[Reliability]


def find(study: Recorded) -> Findings:
    """Every number that the figures, the tables and the page show."""
    seed = int(study.provenance.get("seed", 0))
    merged, single = score_cells(study.rows, study.cells, study.personas, seed)
    several = len(study.personas) > 1
    scored = list(zip(study.cells, merged, strict=True))
    return Findings(
        measure="macro-F1" if several else f"detection rate of {study.personas[0]}",
        chance=chance(len(study.personas), len(study.labels)),
        sentence=finding(merged),
        cells=merged,
        labels=[condition_label(cell) for cell in study.cells],
        shift=cell_panels([pair for pair in scored if pair[0].condition in SHIFTED], several),
        stages=cell_panels(scored, several),
        personas=persona_panels(study, single),
        gaps=gaps(scored),
        confusions=confusions(study),
        reliability=reliability(study),
    )


def chance(personas: int, labels: int) -> float:
    """What guessing every label equally often would score.

    For one persona the detection rate 1 / labels; for several the macro-F1 on equally many
    samples of each, 2 P R / (P + R) with P = 1 / personas and R = 1 / labels.
    """
    return 1 / labels if personas == 1 else 2 / (personas + labels)


def cell_panels(scored: Sequence[tuple[Cell, CellScore]], several: bool) -> list[Panel]:
    """One panel per base and quant type: a bar per stage and condition."""
    panels: dict[str, list[Bar]] = {}
    for cell, score in scored:
        if (level := _level(score)) is not None:
            known = published().get((cell.base, cell.stage, cell.condition)) if several else None
            bar = Bar(cell.stage, condition_label(cell), *_three(level), score.n, known)
            panels.setdefault(checkpoint_label(cell), []).append(bar)
    return [Panel(title, bars) for title, bars in panels.items()]


def persona_panels(study: Recorded, single: Sequence[CellScore]) -> list[Panel]:
    """One panel per base and stage: how often each persona is detected, in chat and as agent."""
    panels: dict[str, list[Bar]] = {}
    count = len(study.personas)
    for number, cell in enumerate(study.cells):
        if cell.condition not in SHIFTED:
            continue
        for score in single[number * count : (number + 1) * count]:
            if score.detection_rate is not None and score.ci is not None:
                bar = Bar(
                    score.persona, condition_label(cell), score.detection_rate, *score.ci, score.n
                )
                panels.setdefault(f"{checkpoint_label(cell)}: {cell.stage}", []).append(bar)
    return [Panel(title, bars) for title, bars in panels.items()]


def gaps(scored: Sequence[tuple[Cell, CellScore]]) -> list[Gap]:
    """The most trained stage's way from chat to agent, per base, quant type and tool format."""
    found = []
    for checkpoint in dict.fromkeys(checkpoint_label(cell) for cell, _ in scored):
        here = {cell: score for cell, score in scored if checkpoint_label(cell) == checkpoint}
        trained = most_trained([cell for cell in here if cell.condition in CHAIN])
        levels = [_step(cell, score) for cell, score in here.items() if cell.condition == CEILING]
        ceilings = [step for step in levels if step]
        agentic = [cell for cell in trained if cell.condition == CHAIN[-1]]
        for last in agentic:
            same_way = condition_label(last).removeprefix(last.condition)
            chain = [
                cell
                for condition in CHAIN
                for cell in trained
                if condition_label(cell) in (condition, condition + same_way)
            ]
            steps = [step for cell in chain if (step := _step(cell, here[cell]))]
            if len(steps) > 1:
                title = f"{checkpoint}: {last.stage}{same_way}"
                found.append(Gap(title, _changes(steps), ceilings))
    return found


def confusions(study: Recorded) -> list[Confusion]:
    """Confusion matrices of the most trained stage of each base: the gap's conditions."""
    cells = [cell for cell in study.cells if cell.condition in (*CHAIN, CEILING)]
    found = []
    for checkpoint in dict.fromkeys(map(checkpoint_label, cells)):
        for cell in most_trained([c for c in cells if checkpoint_label(c) == checkpoint]):
            pairs = [
                (row.persona, row.prediction)
                for row in study.rows
                if row.cell == cell and row.persona and row.prediction
            ]
            if pairs:
                labels, counts = confusion([true for true, _ in pairs], [p for _, p in pairs])
                true = [name for name in study.personas if name in labels]
                seen = [name for name in study.labels if name in labels]
                place = np.ix_([labels.index(n) for n in true], [labels.index(n) for n in seen])
                title = f"{checkpoint}: {cell.stage}, {condition_label(cell)}"
                found.append(Confusion(title, true, seen, counts[place]))
    return found


def reliability(study: Recorded) -> list[Reliability]:
    """Confidence against accuracy per base and condition, over the trained stages.

    Ten bins of equal width over the probability of the predicted label; expected calibration
    error as in Guo et al. 2017 (On Calibration of Modern Neural Networks), section 2. The base
    stage has no true persona and is left out.
    """
    ways = [f"{checkpoint_label(cell)}: {condition_label(cell)}" for cell in study.cells]
    way_of = dict(zip(study.cells, ways, strict=True))
    groups: dict[str, list[Row]] = {way: [] for way in ways}
    for row in study.rows:
        if row.persona and row.probabilities:
            groups[way_of[row.cell]].append(row)
    return [_line(title, rows) for title, rows in groups.items() if rows]


def _line(title: str, rows: Sequence[Row]) -> Reliability:
    sure = np.array([(r.probabilities or {})[r.prediction or ""] for r in rows])
    right = np.array([r.prediction == r.persona for r in rows])
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = place == number
        if inside.any():
            share = detection_rate([str(hit) for hit in right[inside]], "True")
            bins.append(Bin(float(sure[inside].mean()), *_three(share), int(inside.sum())))
    ece = sum(each.n * abs(each.confidence - each.right) for each in bins) / len(rows)
    return Reliability(title, float(ece), len(rows), bins)


def _level(score: CellScore) -> Estimate | None:
    if score.macro_f1 is not None and score.macro_f1_ci is not None:
        return Estimate(score.macro_f1, *score.macro_f1_ci)
    if score.detection_rate is not None and score.ci is not None:
        return Estimate(score.detection_rate, *score.ci)
    return None


def _step(cell: Cell, score: CellScore) -> Step | None:
    level = _level(score)
    return None if level is None else Step(condition_label(cell), *_three(level))


def _changes(steps: Sequence[Step]) -> list[Step]:
    """The steps with the difference from the one before."""
    later = [
        Step(step.condition, step.value, step.low, step.high, step.value - before.value)
        for before, step in pairwise(steps)
    ]
    return [steps[0], *later]


def _three(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def published() -> dict[tuple[str, str, str], float]:
    """Macro-F1 of the published study by (base, stage, condition)."""
    return {
        (cell["base"], cell["stage"], condition): cell[condition]
        for cell in published_file()["cells"]
        for condition in ("chat", "chat_email", "agentic_email")
    }


@lru_cache(maxsize=1)
def published_file() -> dict[str, Any]:
    """published.yaml: ``source``, ``measure`` and ``cells``."""
    text = (resources.files("charprobe_lite.eval.page") / "published.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded

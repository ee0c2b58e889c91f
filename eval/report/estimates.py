"""What the figures show, as plain numbers: one function per figure, nothing drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label, most_trained
from charprobe_lite.eval.scores.cells import CellScore, score_study
from charprobe_lite.eval.scores.gap import CEILING, CONDITION_STEPS, Comparison, condition_chains
from charprobe_lite.eval.scores.terminal import conclusion
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import calibration, confusion, wilson_share

SHIFTED = ("chat", "agentic_email")


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

    stage: str
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


def find(study: ReportStudy) -> Findings:
    """Every number that the figures, the tables and the page show."""
    seed = int(study.provenance.get("seed", 0))
    scores = score_study(study.rows, study.cells, study.personas, seed)
    several = len(study.personas) > 1
    scored = list(zip(study.cells, scores.by_cell, strict=True))
    return Findings(
        measure="macro-F1" if several else f"detection rate of {study.personas[0]}",
        chance=chance(len(study.personas), len(study.labels)),
        sentence=conclusion(scores.by_cell),
        cells=scores.by_cell,
        labels=[cell.label for cell in study.cells],
        shift=cell_panels([pair for pair in scored if pair[0].condition in SHIFTED], several),
        stages=cell_panels([pair for pair in scored if pair[0].quant], several),
        personas=persona_panels(study, scores.by_persona),
        gaps=gaps(scored, scores.comparison),
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
        if (level := score.headline) is not None:
            known = published().get((cell.base, cell.stage, cell.condition)) if several else None
            bar = Bar(cell.stage, cell.label, *_three(level), score.n, known)
            panels.setdefault(checkpoint_label(cell), []).append(bar)
    return [Panel(title, bars) for title, bars in panels.items()]


def persona_panels(study: ReportStudy, single: Sequence[CellScore]) -> list[Panel]:
    """One panel per base and stage: how often each persona is detected, in chat and as agent."""
    panels: dict[str, list[Bar]] = {}
    count = len(study.personas)
    for number, cell in enumerate(study.cells):
        if cell.condition not in SHIFTED:
            continue
        for score in single[number * count : (number + 1) * count]:
            if score.detection_rate is not None and score.ci is not None:
                bar = Bar(score.persona, cell.label, score.detection_rate, *score.ci, score.n)
                panels.setdefault(f"{checkpoint_label(cell)}: {cell.stage}", []).append(bar)
    return [Panel(title, bars) for title, bars in panels.items()]


def gaps(scored: Sequence[tuple[Cell, CellScore]], comparison: Comparison) -> list[Gap]:
    """The most trained stage's way from chat to agent, per base, quant type and tool format."""
    changes: dict[tuple[Cell | None, Cell], Estimate] = {
        (each.before, each.after): each.change for each in comparison.steps
    }
    scores, found = dict(scored), []
    for checkpoint in dict.fromkeys(map(checkpoint_label, scores)):
        here = [cell for cell in scores if checkpoint_label(cell) == checkpoint]
        for chain in condition_chains(
            most_trained([cell for cell in here if cell.condition in CONDITION_STEPS])
        ):
            last = chain[-1]
            if last.condition != CONDITION_STEPS[-1]:
                continue
            levels = [_step(*each) for each in scored if _is_ceiling_of(last, each[0])]
            befores: list[Cell | None] = [None, *chain[:-1]]
            steps = [
                step
                for before, cell in zip(befores, chain, strict=True)
                if (step := _step(cell, scores[cell], changes.get((before, cell))))
            ]
            if len(steps) > 1:
                same_way = last.label.removeprefix(last.condition)
                title = f"{checkpoint}: {last.stage}{same_way}"
                found.append(Gap(title, steps, [level for level in levels if level]))
    return found


def _is_ceiling_of(cell: Cell, other: Cell) -> bool:
    return other.condition == CEILING and other.base == cell.base


def confusions(study: ReportStudy) -> list[Confusion]:
    """Confusion matrices of the most trained stage of each base: the ladder, and the ceilings."""
    ladder = [cell for cell in study.cells if cell.condition in CONDITION_STEPS]
    ceilings = [cell for cell in study.cells if cell.condition == CEILING]
    found = []
    for checkpoint in dict.fromkeys(map(checkpoint_label, [*ladder, *ceilings])):
        here = most_trained([cell for cell in ladder if checkpoint_label(cell) == checkpoint])
        for cell in [*here, *(c for c in ceilings if checkpoint_label(c) == checkpoint)]:
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
                way = [] if cell.condition == CEILING else [cell.label]
                title = f"{checkpoint}: {', '.join([cell.stage, *way])}"
                found.append(Confusion(title, true, seen, counts[place]))
    return found


def reliability(study: ReportStudy) -> list[Reliability]:
    """Confidence against accuracy per base and condition, over the trained stages.

    Bins and error as in `score.calibration`, each bin's accuracy with Wilson's interval. The base
    stage has no true persona and is left out.
    """
    ways = [f"{checkpoint_label(cell)}: {cell.label}" for cell in study.cells]
    way_of = dict(zip(study.cells, ways, strict=True))
    groups: dict[str, list[Row]] = {way: [] for way in ways}
    for row in study.rows:
        if row.persona and row.probabilities:
            groups[way_of[row.cell]].append(row)
    return [_line(title, rows) for title, rows in groups.items() if rows]


def _line(title: str, rows: Sequence[Row]) -> Reliability:
    known = calibration([r.persona for r in rows], [r.probabilities or {} for r in rows])
    bins = [
        Bin(each.confidence, *_three(wilson_share(round(each.accuracy * each.n), each.n)), each.n)
        for each in known.bins
    ]
    return Reliability(title, known.ece, len(rows), bins)


def _step(cell: Cell, score: CellScore, change: Estimate | None = None) -> Step | None:
    level = score.headline
    if level is None:
        return None
    return Step(cell.stage, cell.label, *_three(level), *(_three(change) if change else ()))


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
    text = (resources.files("charprobe_lite.eval.report") / "published.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded

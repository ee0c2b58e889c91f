"""From recorded rollouts to scores, one record per cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.scores import gap
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import (
    Calibration,
    Confusion,
    Labels,
    Resampling,
    accuracies,
    accuracy,
    calibration,
    confusion,
    detection_rate,
    macro_f1,
    macro_f1s,
    per_class,
)


@dataclass(frozen=True)
class CellScore:
    """The scores of one cell, for one persona or for several together.

    ``n`` counts samples; in the base stage all personas share them. ``yield_`` is the share of
    rollouts that sent an email, ``forced`` the number of emails that the grammar demanded; both
    None outside agentic conditions. ``started`` counts the rollouts that ended, in whatever way.

    For one persona ``detection_rate`` is its recall; for several it is the share of rows
    classified as their own persona. ``macro_f1``, ``confusion`` and ``retention`` stand only for
    several; ``f1`` and ``precision`` only for one of several. ``bounds`` are those of
    `gap.bounds`, of macro-F1 or, for one persona, of the detection rate. ``calibration`` asks
    whether probabilities are right about the checkpoint's persona; an untrained one has none.

    ``ci``, ``macro_f1_ci`` and ``f1_ci`` are cluster intervals; for one persona with one sample
    per item ``ci`` is Wilson's, as its samples are independent. ``ci_rows`` and
    ``macro_f1_ci_rows`` take rows for independent, as the published study does: Wilson's, or the
    row bootstrap's, in which a base-stage sample is one row for every persona.
    """

    base: str
    stage: str
    persona: str
    condition: str
    quant: str
    n: int
    started: int
    yield_: float | None
    forced: int | None
    detection_rate: float | None = None
    ci: tuple[float, float] | None = None
    ci_rows: tuple[float, float] | None = None
    mean_probability: float | None = None
    macro_f1: float | None = None
    macro_f1_ci: tuple[float, float] | None = None
    macro_f1_ci_rows: tuple[float, float] | None = None
    f1: float | None = None
    f1_ci: tuple[float, float] | None = None
    precision: float | None = None
    bounds: tuple[float, float] | None = None
    retention: Estimate | None = None
    calibration: Calibration | None = None
    confusion: Confusion | None = None
    format: str = ""
    grammar: str = ""
    lora: str = ""

    @property
    def label(self) -> str:
        """The condition, and how tool calls were asked for."""
        return Cell(
            self.base, self.stage, self.condition, self.quant, self.format, self.grammar
        ).label

    @property
    def headline(self) -> Estimate | None:
        """Macro-F1, or the detection rate for one persona; None without a sample."""
        if self.macro_f1 is not None and self.macro_f1_ci is not None:
            return Estimate(self.macro_f1, *self.macro_f1_ci)
        if self.detection_rate is not None and self.ci is not None:
            return Estimate(self.detection_rate, *self.ci)
        return None

    def as_json(self) -> dict[str, Any]:
        """The cell as ``--json`` prints it."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Scores:
    """Everything that is computed of a study.

    ``by_cell``: one score per cell; ``by_persona``: one per cell and persona, the same list for one
    persona. ``resampling`` and ``labels`` hold the cells that have a classified sample, for
    comparisons of one's own.
    """

    by_cell: list[CellScore]
    by_persona: list[CellScore]
    comparison: gap.Comparison
    resampling: Resampling[Cell]
    labels: dict[Cell, Labels]


def score_study(
    rows: Sequence[Row], cells: Sequence[Cell], personas: Sequence[str], seed: int
) -> Scores:
    """Scores of ``cells`` over ``rows``, with the study's ``seed`` for the resampling."""
    labels = gap.labels_of([row for row in rows if row.cell in cells], personas)
    resampling = Resampling(labels, seed)
    comparison = gap.compare(resampling, list(labels), several=len(personas) > 1)
    merged, single = [], []
    for cell in cells:
        own = [row for row in rows if row.cell == cell and row.persona in ("", *personas)]
        each = _one_by_one(cell, own, personas, resampling)
        single += each
        if len(personas) == 1:
            merged += each
            continue
        score = _counted(cell, own, personas)
        if cell in labels:
            score = _together(score, labels[cell], resampling, cell, seed)
        merged.append(replace(score, retention=comparison.retention.get(cell)))
    return Scores(merged, single, comparison, resampling, labels)


def _counted(cell: Cell, rows: Sequence[Row], personas: Sequence[str]) -> CellScore:
    """What needs no interval."""
    agentic = cell.condition.startswith("agentic")
    sent = sum(row.outcome == "sent" for row in rows)
    known = [
        (persona, row.probabilities)
        for persona in personas
        for row in rows
        if row.probabilities and row.persona in ("", persona)
    ]
    own = [probabilities[persona] for persona, probabilities in known]
    calibrated = known and all(row.persona for row in rows)
    return CellScore(
        base=cell.base,
        stage=cell.stage,
        persona=",".join(personas),
        condition=cell.condition,
        quant=cell.quant,
        n=sum(row.text is not None for row in rows),
        started=len(rows),
        yield_=sent / len(rows) if agentic and rows else None,
        forced=sum(row.forced for row in rows) if agentic else None,
        mean_probability=sum(own) / len(own) if own else None,
        bounds=gap.bounds(rows, personas, several=len(personas) > 1),
        calibration=calibration(*zip(*known, strict=True)) if calibrated else None,
        format=cell.format,
        grammar=cell.grammar,
        lora=cell.lora,
    )


def _together(
    score: CellScore, labels: Labels, resampling: Resampling[Cell], cell: Cell, seed: int
) -> CellScore:
    """``score`` with what several personas are measured by."""
    rate, macro = (resampling.estimate(each, cell) for each in (accuracies, macro_f1s))
    names, counts = confusion(labels.true, labels.predicted)
    return replace(
        score,
        detection_rate=rate.value,
        ci=rate.ends,
        ci_rows=accuracy(labels.true, labels.predicted, seed).ends,
        macro_f1=macro.value,
        macro_f1_ci=macro.ends,
        macro_f1_ci_rows=macro_f1(labels.true, labels.predicted, seed).ends,
        confusion=Confusion(names, counts.tolist()),
    )


def _one_by_one(
    cell: Cell, rows: Sequence[Row], personas: Sequence[str], resampling: Resampling[Cell]
) -> list[CellScore]:
    """One score per persona; with several, each also has its F1 and precision among them."""
    labels = gap.labels_of(rows, personas).get(cell, Labels([], [], []))
    classes = per_class(labels.true, labels.predicted)
    intervals = resampling.class_scores(cell) if classes else {}
    found = []
    for persona in personas:
        own = [row for row in rows if row.persona in ("", persona)]
        score = _counted(cell, own, [persona])
        if persona in classes:
            f1, recall = intervals[persona]
            predicted = [row.prediction for row in own if row.prediction is not None]
            wilson = detection_rate(predicted, persona)
            repeated = len({gap.cluster_of(row) for row in own}) < len(own)
            score = replace(
                score,
                detection_rate=wilson.value,
                ci=(recall if repeated else wilson).ends,
                ci_rows=wilson.ends,
            )
            if len(personas) > 1:
                precision = classes[persona].precision
                score = replace(score, f1=f1.value, f1_ci=f1.ends, precision=precision)
        found.append(score)
    return found


def scores_by_quant(scores: Scores) -> dict[str, Scores]:
    """The scores of each quant type; what no model wrote stands with the first."""
    quants = list(dict.fromkeys(score.quant for score in scores.by_cell if score.quant)) or [""]

    def of(quant: str) -> Scores:
        there = ("", quant) if quant == quants[0] else (quant,)
        comparison = replace(
            scores.comparison,
            steps=[each for each in scores.comparison.steps if each.after.quant in there],
            stages=[each for each in scores.comparison.stages if each.after.quant in there],
        )
        return replace(
            scores,
            by_cell=[score for score in scores.by_cell if score.quant in there],
            by_persona=[score for score in scores.by_persona if score.quant in there],
            comparison=comparison,
        )

    return {quant: of(quant) for quant in quants}

"""From recorded rollouts to scores, one record per cell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import stdev
from typing import Any, Literal

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.conditions import calls_tools
from charprobe_lite.eval.protocols.outcome import Outcome
from charprobe_lite.eval.scores import gap
from charprobe_lite.eval.scores.waterfall import Waterfall, waterfalls
from charprobe_lite.eval.stats import classification
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.envelope import macro_f1_envelope
from charprobe_lite.eval.stats.metrics import (
    LABEL_STATISTICS,
    ResampledMetrics,
    label_metrics,
    label_names,
)
from charprobe_lite.models.quant_types import KV_DEFAULT


@dataclass(frozen=True)
class CellScore:
    """The scores of one cell, for one persona or for a group of them.

    ``n`` counts samples, of so many prompts or scenarios (``clusters``); in the base stage all
    personas share them. ``yield_`` is the share of
    rollouts that sent an email, ``forced`` the number of emails that the grammar demanded; both
    None where no tool is called. ``started`` counts the rollouts that ended, with or without text.

    For one persona ``detection_rate`` is its recall; for a group it is the share of rows predicted
    as their persona. Only a group has ``macro_f1``, ``confusion`` and ``retention``; only one
    persona of a group has ``f1`` and ``precision``. ``bounds`` (see `gap.bounds`) are those of
    macro-F1 or, for one persona, of the detection rate. Only controls without a model have a
    ``calibration``: their texts are certainly in character, where a checkpoint's may have lost it.

    A score is over all training seeds of its cell. ``train_seeds`` has the headline of each seed
    alone, ``train_seed_sd`` their standard deviation (n - 1), None for one seed; both None where
    the study names no seed.

    ``ci``, ``macro_f1_ci`` and ``f1_ci`` are cluster intervals; for one persona with one sample
    per item ``ci`` is Wilson's, as its samples are independent. In the base stage, where a text
    counts for every persona, ``macro_f1_ci`` is `macro_f1_envelope`'s, as ``macro_f1_interval``
    says. ``ci_rows`` and
    ``macro_f1_ci_rows`` take rows for independent: Wilson's, or the row bootstrap's.
    """

    base: str
    stage: str
    persona: str
    condition: str
    quant: str | None
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
    macro_f1_interval: Literal["clusters", "envelope"] | None = None
    f1: float | None = None
    f1_ci: tuple[float, float] | None = None
    precision: float | None = None
    bounds: tuple[float, float] | None = None
    retention: gap.Retention | None = None
    calibration: classification.Calibration | None = None
    confusion: classification.Confusion | None = None
    format: str | None = None
    grammar: str | None = None
    lora: str | None = None
    train_seed: int | None = None
    train_seeds: dict[str, float] | None = None
    train_seed_sd: float | None = None
    kv_type: str = KV_DEFAULT
    technique: str | None = None
    clusters: int = 0

    @property
    def cell(self) -> Cell:
        """The cell that is scored."""
        return Cell(
            *(self.base, self.stage, self.condition),
            *(self.quant, self.format, self.grammar, self.lora),
            train_seed=self.train_seed,
            kv_type=self.kv_type,
            technique=self.technique,
        )

    def label(self, columns: Sequence[str] = ()) -> str:
        """`Cell.label` without what is in ``columns``, which may be lora, kv_type, technique."""
        defaults: dict[str, Any] = {"lora": None, "kv_type": KV_DEFAULT, "technique": None}
        shown = {name: defaults[name] for name in ("lora", *columns)}
        return replace(self.cell, **shown).label

    @property
    def missing(self) -> list[str]:
        """The personas of a group that a scored cell has no classified text of."""
        if self.confusion is None:
            return []
        rows = zip(self.confusion.labels, self.confusion.counts, strict=True)
        present = {label for label, counts in rows if any(counts)}
        return [persona for persona in self.persona.split(",") if persona not in present]

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
        document = {name.rstrip("_"): value for name, value in asdict(self).items()}
        if self.train_seeds is None:
            del document["train_seeds"], document["train_seed_sd"]
        if self.retention and self.retention.personas is None:
            del document["retention"]["personas"]
        return document


@dataclass(frozen=True)
class Scores:
    """All scores of a study: one per cell; one per cell and persona.

    ``waterfalls`` go from chat to agent, ``depths`` from a fresh chat to a long one.
    ``resampled`` holds the metrics of the cells in ``labels``, those with a classified sample.
    """

    by_cell: list[CellScore]
    by_persona: list[CellScore]
    comparison: gap.Comparison
    waterfalls: list[Waterfall]
    depths: list[Waterfall]
    resampled: gap.CellMetrics
    labels: dict[Cell, classification.Labels]


def score_study(
    rows: Sequence[Row],
    cells: Sequence[Cell],
    personas: Sequence[str],
    seed: int,
    cluster: gap.ClusterOf = gap.cluster_of,
) -> Scores:
    """Scores of ``cells`` over ``rows``, resampled by ``cluster`` with the study's ``seed``.

    Cells that differ in the training seed alone have one score.
    """
    rows_by_cell: dict[Cell, list[Row]] = {cell.pooled: [] for cell in cells}
    kept = [row for row in rows if row.cell.pooled in rows_by_cell]
    for row in kept:
        if row.persona in (None, *personas):
            rows_by_cell[row.cell.pooled].append(row)
    labels = gap.labels_of(kept, personas, cluster)
    names = label_names(labels.values())
    resampled = ResampledMetrics(label_metrics(labels, names), seed)
    comparison = gap.compare(resampled, labels, personas)
    by_cell, by_persona = [], []
    for cell, cell_rows in rows_by_cell.items():
        cell_labels = labels.get(cell, classification.Labels([], [], []))
        metrics = resampled, names
        singles = list(_persona_scores(cell, cell_rows, cell_labels, personas, *metrics, cluster))
        by_persona += singles
        if len(personas) == 1:
            by_cell += singles
            continue
        score = _counts(cell, cell_rows, cell_labels, personas)
        if cell in labels:
            score = _with_macro_f1(score, cell, cell_labels, resampled, seed)
        by_cell.append(replace(score, retention=comparison.retention.get(cell)))
    headlines = {score.cell: score.headline for score in by_cell if score.headline}
    metric = gap.SharedMetric(resampled, labels, personas)
    falls = waterfalls(metric, comparison, headlines)
    depths = waterfalls(metric, comparison, headlines, gap.DEPTH_STEPS)
    return Scores(by_cell, by_persona, comparison, falls, depths, resampled, labels)


def _counts(
    cell: Cell, rows: Sequence[Row], labels: classification.Labels, personas: Sequence[str]
) -> CellScore:
    """The scores that need no resamples."""
    agentic, seeds = calls_tools(cell.condition), _train_seeds(labels, personas)
    sent = sum(row.outcome == Outcome.SENT for row in rows)
    classified = [
        (persona, row.probabilities)
        for persona in personas
        for row in rows
        if row.probabilities and row.persona in (None, persona)
    ]
    true = [probabilities[persona] for persona, probabilities in classified]
    return CellScore(
        **asdict(cell),
        persona=",".join(personas),
        n=sum(row.text is not None for row in rows),
        started=len(rows),
        yield_=sent / len(rows) if agentic and rows else None,
        forced=sum(row.forced for row in rows) if agentic else None,
        mean_probability=sum(true) / len(true) if true else None,
        bounds=gap.bounds(rows, personas),
        calibration=_calibration(classified) if cell.quant is None else None,
        clusters=len(set(labels.of_classes(personas).cluster)),
        train_seeds=seeds,
        train_seed_sd=stdev(seeds.values()) if seeds and len(seeds) > 1 else None,
    )


def _calibration(
    classified: Sequence[tuple[str, Mapping[str, float]]],
) -> classification.Calibration | None:
    if not classified:
        return None
    true, probabilities = zip(*classified, strict=True)
    return classification.calibration(true, probabilities)


def _train_seeds(labels: classification.Labels, personas: Sequence[str]) -> dict[str, float] | None:
    """The headline metric of each training seed alone; None where there is no seed."""
    statistic = LABEL_STATISTICS[gap.headline_metric(personas)]
    counts = {
        str(seed): classification.confusion(part.true, part.predicted)[1]
        for seed, part in labels.of_classes(personas).by_train_seed().items()
    }
    return {seed: float(statistic(matrix[None])[0]) for seed, matrix in counts.items()} or None


def _with_macro_f1(
    score: CellScore,
    cell: Cell,
    labels: classification.Labels,
    resampled: gap.CellMetrics,
    seed: int,
) -> CellScore:
    """``score`` with the metrics of a group of personas."""
    rate, macro = (resampled.estimate((cell, name)) for name in ("accuracy", "macro_f1"))
    if labels.shared:
        macro = macro_f1_envelope(labels)
    names, counts = classification.confusion(labels.true, labels.predicted)
    return replace(
        score,
        detection_rate=rate.value,
        ci=rate.ends,
        ci_rows=classification.row_bootstrap(
            classification.accuracies, labels.true, labels.predicted, seed
        ).ends,
        macro_f1=macro.value,
        macro_f1_ci=macro.ends,
        macro_f1_ci_rows=classification.macro_f1(labels.true, labels.predicted, seed).ends,
        macro_f1_interval="envelope" if labels.shared else "clusters",
        confusion=classification.Confusion(names, counts.tolist()),
    )


def _persona_scores(
    cell: Cell,
    rows: Sequence[Row],
    labels: classification.Labels,
    personas: Sequence[str],
    resampled: gap.CellMetrics,
    names: Sequence[str],
    cluster: gap.ClusterOf,
) -> Iterator[CellScore]:
    """One score per persona; ``names`` are all labels of ``resampled``."""
    key, width = (cell, "accuracy"), len(names)
    if labels.true:
        rates = classification.class_rates(resampled.totals(key).reshape(-1, width, width))
    for persona in personas:
        samples = [row for row in rows if row.persona in (None, persona)]
        score = _counts(cell, samples, labels, [persona])
        if persona in labels.true:
            predicted = [row.prediction for row in samples if row.prediction is not None]
            wilson = classification.wilson_share(predicted.count(persona), len(predicted))
            column = names.index(persona)
            f1 = resampled.interval(rates.f1[:, column], [key], strata=[persona])
            recall = resampled.interval(rates.recall[:, column], [key], strata=[persona])
            repeated = len({cluster(row) for row in samples}) < len(samples)
            ends = (recall if repeated else wilson).ends
            score = replace(score, detection_rate=wilson.value, ci=ends, ci_rows=wilson.ends)
            if len(personas) > 1:
                precision = float(rates.precision[0, column])
                score = replace(score, f1=f1.value, f1_ci=f1.ends, precision=precision)
        yield score


def scores_by_quant(scores: Scores) -> dict[str | None, Scores]:
    """The scores of each quant type; cells without a model belong to the first."""
    quants: list[str | None] = [score.quant for score in scores.by_cell if score.quant]
    quants = list(dict.fromkeys(quants)) or [None]

    def select(quant: str | None) -> Scores:
        names, comparison = (None, quant) if quant == quants[0] else (quant,), scores.comparison
        steps = [step for step in comparison.steps if step.after.quant in names]
        stages = [step for step in comparison.stages if step.after.quant in names]
        unshared = [pair for pair in comparison.unshared if pair.after.quant in names]
        return replace(
            scores,
            by_cell=[score for score in scores.by_cell if score.quant in names],
            by_persona=[score for score in scores.by_persona if score.quant in names],
            comparison=replace(comparison, steps=steps, stages=stages, unshared=unshared),
            waterfalls=[fall for fall in scores.waterfalls if fall.cell.quant in names],
            depths=[fall for fall in scores.depths if fall.cell.quant in names],
        )

    return {quant: select(quant) for quant in quants}

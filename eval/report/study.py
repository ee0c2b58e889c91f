"""A study as the report needs it: what the reader gives, with its cells, personas and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.records import score_recorded_study
from charprobe_lite.eval.quant.tables import Record, Table, readable_name
from charprobe_lite.eval.scores.cells import CellScore, Scores, score_study
from charprobe_lite.eval.scores.families import study_clusters
from charprobe_lite.eval.scores.gap import ClusterOf, cluster_of
from charprobe_lite.eval.scores.instruments import (
    InstrumentLabels,
    InstrumentScores,
    instrument_notes,
    score_instruments,
)
from charprobe_lite.eval.scores.terminal import conclusion, headline_ends
from charprobe_lite.eval.scores.training import adapters, seed_notes
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import headline_instrument
from charprobe_lite.eval.store.reader import Study, open_study
from charprobe_lite.models.catalogue import CONDITIONS, INSTRUMENTS, STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NEUTRAL

Item = TypeVar("Item")


@dataclass(frozen=True)
class ReportStudy(Study):
    """A study with its ``cells`` in the order of the report, each over all its training seeds.

    ``personas`` are those that have rollouts, ``labels`` those of the classifier; ``quants`` is
    None where there are no quant types to compare with F16. ``instrument_labels`` are those of
    other instruments by name, ``cluster`` is what the intervals of the cells resample.
    """

    cells: list[Cell]
    personas: list[str]
    labels: list[str]
    quants: QuantStudy | None
    instrument_labels: dict[str, InstrumentLabels]
    cluster: ClusterOf = cluster_of

    @property
    def name(self) -> str:
        """The study's name: its file's, without the ending."""
        return self.path.stem

    @property
    def seed(self) -> int:
        """The study's seed, which the intervals are drawn with."""
        return int(self.provenance.get("seed", 0))

    @cached_property
    def scores(self) -> Scores:
        """All scores, with intervals over the study's seed."""
        return score_study(self.rows, self.cells, self.personas, self.seed, self.cluster)

    @property
    def instrument(self) -> str:
        """What made the labels of the headline."""
        return headline_instrument(self.provenance)

    @cached_property
    def others(self) -> list[InstrumentScores]:
        """All scores by the other instruments."""
        rows, labels = self.rows, self.instrument_labels
        return score_instruments(self.scores, rows, labels, self.personas, self.seed, self.cluster)

    @property
    def readings(self) -> dict[str, Scores]:
        """All scores by instrument, the headline's first."""
        return {self.instrument: self.scores} | {each.name: each.scores for each in self.others}

    @property
    def instrument_notes(self) -> list[str]:
        """What each other instrument decides otherwise; a line each."""
        return [note for each in self.others for note in instrument_notes(self.instrument, each)]

    @property
    def cell_scores(self) -> dict[Cell, CellScore]:
        """The score of every cell."""
        return dict(zip(self.cells, self.scores.by_cell, strict=True))

    @property
    def adapters(self) -> str:
        """The adapters that the study is about, for a caption."""
        return adapters(self.scores.by_cell)

    @property
    def seed_notes(self) -> list[str]:
        """The value of every training seed alone, a line per cell."""
        return seed_notes(self.scores.by_cell)

    @property
    def cells_table(self) -> Table:
        """A record per cell."""
        records = [
            {
                "base": score.base,
                "quant": score.quant,
                "stage": score.stage,
                "condition": cell.label,
                **_interval("macro_f1", score.macro_f1, score.macro_f1_ci),
                **_interval("recognised", score.detection_rate, score.ci),
                "samples": score.n,
                "rollouts": score.started,
                "yield": score.yield_,
                "forced": score.forced,
            }
            for cell, score in self.cell_scores.items()
        ]
        return Table("cells", "Every cell", records)

    @property
    def conclusion(self) -> str:
        """Two plain sentences, and what is resampled if that is not the usual."""
        families = " Intervals resample families of scenarios."
        return conclusion(self.scores) + (families if self.cluster is not cluster_of else "")

    @property
    def rests_on(self) -> str:
        """What the headline is about: texts and prompts of the cells that it compares."""
        pair = headline_ends(self.scores)
        if pair is None:
            return ""
        chat, agent = pair
        return (
            f"It rests on chat answers (n = {chat.n}, prompts: {chat.clusters}) and emails "
            f"(n = {agent.n}, scenarios: {agent.clusters}), read by {self.instrument}."
        )

    @cached_property
    def typical(self) -> list[int]:
        """The rows of a chat answer and an email that are typical of one checkpoint; else none.

        Of the cells of the headline: the persona whose emails are in the middle of all personas by
        mean probability, and of its texts in each cell the one in the middle by probability.
        """
        pair = headline_ends(self.scores)
        if pair is None:
            return []
        places: dict[str, dict[Cell, list[tuple[float, int]]]] = {}
        cells = [score.cell for score in pair]
        for number, row in enumerate(self.rows):
            if row.cell.pooled in cells and row.text and row.probabilities:
                persona = row.persona or self.personas[0]
                of_cell = places.setdefault(persona, {}).setdefault(row.cell.pooled, [])
                of_cell.append((row.probabilities[persona], number))
        both = {name: found for name, found in places.items() if len(found) == 2}
        if not both:
            return []
        by_email = {name: fmean(p for p, _ in found[cells[1]]) for name, found in both.items()}
        persona = _middle(sorted(both, key=by_email.__getitem__))
        return [_middle(sorted(both[persona][cell]))[1] for cell in cells]

    @property
    def metric(self) -> str:
        """The metric of the levels, for people."""
        return "macro-F1" if len(self.personas) > 1 else f"detection rate of {self.personas[0]}"

    @property
    def quant_metric(self) -> str:
        """The metric of the quant types, for people."""
        return readable_name(self.quants.metric) if self.quants else ""

    @property
    def chance(self) -> float:
        """What guessing every label equally often would score.

        For one persona the detection rate 1 / labels; for several the macro-F1 on equally many
        samples of each, 2 P R / (P + R) with P = 1 / personas and R = 1 / labels.
        """
        personas, labels = len(self.personas), len(self.labels)
        return 1 / labels if personas == 1 else 2 / (personas + labels)


def report_study(
    source: Path | Study,
    quant_study: QuantStudy | None = None,
    cluster: str = "item",
    scenarios: Path | None = None,
) -> ReportStudy:
    """Read a study for the report; ``quant_study`` replaces its own comparison of quant types.

    ``cluster`` and ``scenarios`` as in `study_clusters`. Raises BadInput for a study that cannot be
    read or has no classified sample.
    """
    study = open_study(source) if isinstance(source, Path) else source
    labels = list(dict.fromkeys(label for row in study.rows for label in row.probabilities or {}))
    if not labels:
        raise BadInput(
            f"{study.path}: holds no classified sample yet; run charprobe-lite eval first"
        )
    trained = {row.persona for row in study.rows}
    personas = [label for label in labels if label in trained]
    personas = personas or [label for label in labels if label != NEUTRAL]
    with Store(study.path, readonly=True) as store:
        if quant_study is None:
            quant_study = score_recorded_study(store, personas)
        others = {name: store.labels(name) for name in INSTRUMENTS}
    cells = sorted(dict.fromkeys(row.cell.pooled for row in study.rows), key=_rank)
    recorded = (study.path, study.rows, study.turns, study.provenance)
    return ReportStudy(
        *recorded,
        cells=cells,
        personas=personas,
        labels=labels,
        quants=quant_study,
        instrument_labels={name: found for name, found in others.items() if found},
        cluster=study_clusters(cluster, study.path, study.rows, study.provenance, scenarios),
    )


def checkpoint_label(cell: Cell) -> str:
    """The base and its quant type, which a control without a model does not have."""
    return ", ".join(filter(None, (cell.base, cell.quant)))


def most_trained(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the most trained stage."""
    stages = {cell.stage for cell in cells}
    best = [stage for stage in STAGES if stage in stages][-1:]
    return [cell for cell in cells if cell.stage in best]


def _rank(cell: Cell) -> tuple[str, bool, str, int, int, str]:
    """Base, quant type, stage and condition; controls that run no model come last."""

    def place(names: Sequence[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    stage, condition = place(STAGES, cell.stage), place(CONDITIONS, cell.condition)
    return cell.base, not cell.quant, cell.quant or "", stage, condition, cell.label


def _interval(name: str, value: float | None, ends: tuple[float, float] | None) -> Record:
    low, high = ends or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _middle(items: Sequence[Item]) -> Item:
    """The median; of an even number the lower one."""
    return items[(len(items) - 1) // 2]

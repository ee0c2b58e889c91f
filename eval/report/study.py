"""A study as the report needs it: what the reader gives, with its cells, personas and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.store.reader import Study, open_study
from charprobe_lite.models.catalogue import CONDITIONS, STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NEUTRAL


@dataclass(frozen=True)
class ReportStudy(Study):
    """A study with its ``cells`` in the order of the report.

    ``personas`` are those that have rollouts, ``labels`` those of the classifier.
    """

    cells: list[Cell]
    personas: list[str]
    labels: list[str]

    @property
    def name(self) -> str:
        """The study's name: its file's, without the ending."""
        return self.path.stem

    @property
    def seed(self) -> int:
        """The study's seed, which the intervals are drawn with."""
        return int(self.provenance.get("seed", 0))


def report_study(source: Path | Study) -> ReportStudy:
    """Read a study for the report. Raises BadInput without a classified sample in it."""
    study = open_study(source) if isinstance(source, Path) else source
    labels = list(dict.fromkeys(label for row in study.rows for label in row.probabilities or {}))
    if not labels:
        raise BadInput(
            f"{study.path}: holds no classified sample yet; run charprobe-lite eval first"
        )
    trained = {row.persona for row in study.rows}
    personas = [label for label in labels if label in trained]
    return ReportStudy(
        study.path,
        study.rows,
        study.turns,
        study.provenance,
        cells=sorted({row.cell for row in study.rows}, key=_rank),
        personas=personas or [label for label in labels if label != NEUTRAL],
        labels=labels,
    )


def checkpoint_label(cell: Cell) -> str:
    """The base and its quant type, which a control without a model does not have."""
    return ", ".join(filter(None, (cell.base, cell.quant)))


def most_trained(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the most trained stage."""
    stages = {cell.stage for cell in cells}
    best = next((stage for stage in reversed(STAGES) if stage in stages), None)
    return [cell for cell in cells if cell.stage == best]


def _rank(cell: Cell) -> tuple[str, bool, str, int, int, str]:
    """Base, quant type, stage and condition; controls that run no model come last."""

    def place(names: Sequence[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    stage, condition = place(STAGES, cell.stage), place(CONDITIONS, cell.condition)
    return cell.base, not cell.quant, cell.quant, stage, condition, cell.label

"""What a report is made from: a study with what there is to show of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.store.reader import Study, open_study
from charprobe_lite.models.catalogue import CONDITIONS, STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NEUTRAL


@dataclass(frozen=True)
class Recorded(Study):
    """A study that can be reported: its cells in the order of the report.

    ``personas`` are those with rollouts of their own, ``labels`` those of the classifier.
    """

    cells: list[Cell]
    personas: list[str]
    labels: list[str]

    @property
    def name(self) -> str:
        """The study's name: its file's, without the ending."""
        return self.path.stem


def read_study(path: Path) -> Recorded:
    """Read a study. Raises BadInput when there is none, or nothing in it can be reported."""
    study = open_study(path)
    rows = study.rows
    if not any(row.probabilities for row in rows):
        raise BadInput(f"{path}: holds no classified sample yet; run charprobe-lite eval first")
    labels = list(dict.fromkeys(label for row in rows for label in row.probabilities or {}))
    named = {row.persona for row in rows}
    personas = [label for label in labels if label in named]
    return Recorded(
        **vars(study),
        cells=sorted({row.cell for row in rows}, key=_rank),
        personas=personas or [label for label in labels if label != NEUTRAL],
        labels=labels,
    )


def checkpoint_label(cell: Cell) -> str:
    """The base and its quant type, which a control without a model has not."""
    return ", ".join(filter(None, (cell.base, cell.quant)))


def most_trained(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the most trained stage among those that chat or act."""
    stages = {cell.stage for cell in cells}
    best = next((stage for stage in reversed(STAGES) if stage in stages), None)
    return [cell for cell in cells if cell.stage == best]


def _rank(cell: Cell) -> tuple[Any, ...]:
    def place(names: Sequence[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    stage, condition = place(STAGES, cell.stage), place(CONDITIONS, cell.condition)
    # controls that run no model come last
    return cell.base, not cell.quant, cell.quant, stage, condition, cell.label

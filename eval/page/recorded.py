"""What a report is made from: a study file, read whole and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.eval.store import Cell, RecordedTurn, Row, Store
from charprobe_lite.models.catalogue import CONDITIONS, STAGES
from charprobe_lite.models.corpus import NEUTRAL
from charprobe_lite.models.errors import BadInput


@dataclass(frozen=True)
class Recorded:
    """A study: its rollouts with their turns, its cells in the order of the report.

    ``personas`` are those with rollouts of their own, ``labels`` those of the classifier.
    """

    path: Path
    rows: list[Row]
    turns: list[list[RecordedTurn]]
    cells: list[Cell]
    personas: list[str]
    labels: list[str]
    provenance: dict[str, Any]

    @property
    def name(self) -> str:
        """The study's name: its file's, without the ending."""
        return self.path.stem


def read_study(path: Path) -> Recorded:
    """Read a study. Raises BadInput when there is none, or nothing in it can be reported."""
    if not path.is_file():
        raise BadInput(f"{path}: no such study; charprobe-lite eval --study {path} makes one")
    with Store(path, readonly=True) as store:
        rows, turns, provenance = store.rows(), store.turns(), store.provenance()
    for row in rows:
        check_probabilities(path, row)
    if not any(row.probabilities for row in rows):
        raise BadInput(f"{path}: holds no classified sample yet; run charprobe-lite eval first")
    labels = list(dict.fromkeys(label for row in rows for label in row.probabilities or {}))
    named = {row.persona for row in rows}
    personas = [label for label in labels if label in named]
    return Recorded(
        path=path,
        rows=rows,
        turns=[turns.get((row.cell, row.persona, row.item, row.sample), []) for row in rows],
        cells=sorted({row.cell for row in rows}, key=_rank),
        personas=personas or [label for label in labels if label != NEUTRAL],
        labels=labels,
        provenance=provenance,
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
    return cell.base, cell.quant, stage, condition, cell.asked


def check_probabilities(path: Path, row: Row) -> None:
    """BadInput for probabilities that are none: they are text that anyone can have edited."""
    where = f"{path}: {row.cell.stage}/{row.cell.condition}/{row.persona}/{row.item}"
    found = row.probabilities
    if row.prediction is None and found is None:
        return
    if not isinstance(found, dict) or not found:
        raise BadInput(f"{where}: field probabilities: must be an object of label: probability")
    for label, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= 1:
            raise BadInput(f"{where}: field probabilities.{label}: must be from 0 to 1")
    for name in (row.prediction, row.persona):
        if name and name not in found:
            raise BadInput(f"{where}: field probabilities: has no label {name!r}")

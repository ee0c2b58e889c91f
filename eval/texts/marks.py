"""Labels that a person gave to samples of a study on the report page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import ConfigDict

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.texts.reader import ScoredText
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json
from charprobe_lite.models.record import Record


class _Mark(Record):
    """One sample that a human labelled; all fields of its cell that are here must match."""

    model_config = ConfigDict(extra="allow", strict=True)
    base: str
    stage: str
    persona: str
    condition: str
    quant: str
    item: str
    sample: int
    present: bool

    def is_of(self, cell: Cell) -> bool:
        """Whether the cell is the mark's; the page writes "" for what does not apply."""
        fields = {name: None if v == "" else v for name, v in self.model_dump().items()}
        return all(fields.get(name, value) == value for name, value in asdict(cell).items())


class _MarkFile(Record):
    model_config = ConfigDict(extra="ignore")
    labels: list[_Mark]


def add_marks(texts: Sequence[ScoredText], path: Path) -> list[ScoredText]:
    """``texts`` of studies with the labels that the report page saved in ``path``.

    The file holds ``{"study": ..., "labels": [{"base", "stage", "persona", "condition", "quant",
    "item", "sample", "present": true|false}]}``. Raises BadInput naming the entry and the field.
    """
    marks = _MarkFile.parse(path, read_json(path)).labels
    samples: dict[tuple[str, str, int], dict[Cell, list[int]]] = {}
    for position, text in enumerate(texts):
        if row := text.row:
            for persona in text.true:
                cells = samples.setdefault((persona, row.item, row.sample), {})
                cells.setdefault(row.cell, []).append(position)
    labelled = list(texts)
    for number, mark in enumerate(marks):
        cells = samples.get((mark.persona, mark.item, mark.sample), {})
        matches = [n for cell, positions in cells.items() if mark.is_of(cell) for n in positions]
        if len(matches) != 1:
            raise BadInput(
                f"{path}: field labels.{number}: names {len(matches)} samples of the study; "
                "give the study that was marked"
            )
        text = labelled[matches[0]]
        labelled[matches[0]] = replace(text, human={**text.human, mark.persona: mark.present})
    return labelled

"""Labels that a human gave to samples in the report page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from charprobe_lite.eval.texts.reader import ScoredText
from charprobe_lite.models.errors import BadInput, first_problem

SAMPLE = ("base", "stage", "condition", "quant", "item", "sample")


class _Mark(BaseModel):
    """One sample that a human labelled; ``extra`` fields of a cell must match where given."""

    model_config = ConfigDict(extra="allow", strict=True)
    base: str
    stage: str
    persona: str
    condition: str
    quant: str
    item: str
    sample: int
    present: bool


class _MarkFile(BaseModel):
    labels: list[_Mark]


def add_marks(texts: Sequence[ScoredText], path: Path) -> list[ScoredText]:
    """``texts`` of studies with the labels that the report page saved in ``path``.

    The file holds ``{"study": ..., "labels": [{"base", "stage", "persona", "condition", "quant",
    "item", "sample", "present": true|false}]}``. Raises BadInput naming the entry and the field.
    """
    try:
        marks = _MarkFile.model_validate_json(path.read_bytes()).labels
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise BadInput(f"{path}: {first_problem(error)}") from None
    cells = [_sample_fields(text) for text in texts]
    positions: dict[tuple[Any, ...], list[int]] = {}
    for position, (text, fields) in enumerate(zip(texts, cells, strict=True)):
        for persona in text.true if fields else ():
            positions.setdefault(_key(persona, fields), []).append(position)
    labelled = list(texts)
    for number, mark in enumerate(marks):
        extra = mark.model_extra or {}
        matches = [
            position
            for position in positions.get(_key(mark.persona, mark.model_dump()), [])
            if all(cells[position].get(name, value) == value for name, value in extra.items())
        ]
        if len(matches) != 1:
            raise BadInput(
                f"{path}: field labels.{number}: names {len(matches)} samples of the study; "
                "give the study that was marked"
            )
        text = labelled[matches[0]]
        labelled[matches[0]] = replace(text, human={**text.human, mark.persona: mark.present})
    return labelled


def _sample_fields(text: ScoredText) -> dict[str, Any]:
    """Cell, item and sample of a study's text; nothing for a text of another file."""
    row = text.row
    return {**asdict(row.cell), "item": row.item, "sample": row.sample} if row else {}


def _key(persona: str, fields: dict[str, Any]) -> tuple[Any, ...]:
    return (persona, *(fields[name] for name in SAMPLE))

"""Texts and predictions from anywhere: JSON lines, CSV, parquet, a study; and what humans saw.

Without any option the published result files are read as they are: ``trait_true``,
``trait_pred``, ``base``, ``stage``, ``probs`` in the order of ``label_order``, ``email_body`` and
``hand_classification``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.conditions.outcome import Outcome
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.files import read_csv_rows, read_json_rows, read_parquet_rows
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

USUAL: dict[str, tuple[str, ...]] = {
    "text": ("email_body", "text"),
    "label": ("trait_true", "persona"),
    "prediction": ("trait_pred", "prediction"),
    "cluster": ("cluster", "item", "scenario_id", "scenario", "prompt_id"),
    "human": ("hand_classification",),
}
GROUPS = ("base", "stage", "condition", "quant")
CELL = (*GROUPS, "format", "grammar", "lora")
PROBABILITIES, ORDER = "probs", "label_order"
SEEN = {
    **dict.fromkeys(("present", "true", "1", "1.0", "yes"), True),
    **dict.fromkeys(("absent", "false", "0", "0.0", "no"), False),
}
LABELS = frozenset({*PERSONAS, NEUTRAL, "misalignment"})
TOLERANCE = 0.01  # of a sum of eleven probabilities that were rounded to three digits
STUDY = ".sqlite"


@dataclass(frozen=True)
class ScoredText:
    """One text and what is known of it.

    ``place`` is file and line, for messages; ``group`` (column, value) pairs; ``true`` the
    personas it is scored against; ``human`` says by persona whether a human saw it; ``row`` is
    the sample of a study.
    """

    place: str
    group: tuple[tuple[str, str], ...]
    true: tuple[str, ...]
    text: str | None
    prediction: str | None
    probabilities: Mapping[str, float] | None = None
    cluster: str | None = None
    human: Mapping[str, bool] = field(default_factory=dict)
    row: Row | None = None


@dataclass(frozen=True)
class Columns:
    """The columns to read; where one is not named, the usual ones are taken if they are there."""

    text: str | None = None
    label: str | None = None
    prediction: str | None = None
    cluster: str | None = None
    human: str | None = None
    by: tuple[str, ...] = ()


def read_texts(path: Path, columns: Columns, labels: Sequence[str] = ()) -> list[ScoredText]:
    """The texts of one file: a study (.sqlite), .csv, .parquet, or else JSON lines.

    ``labels`` are the classifier's, which the file may name too. Raises BadInput with file, line
    and field for what cannot be used.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; name a study, JSON lines, CSV or parquet")
    if path.suffix == STUDY:
        return _study(path, columns)
    rows = list(_rows(path))
    if not rows:
        raise BadInput(f"{path}: holds no row; give a file with at least one")
    found = _located(path, columns, {name: None for _, row in rows for name in row})
    rows = [(place, row) for place, row in rows if not _left_nothing(row, found)]
    if not rows:
        raise BadInput(f"{path}: holds no text; every rollout in it ended without one")
    said = dict.fromkeys(_shown(_value(row, found.label)) for _, row in rows)
    known = {*LABELS, *labels, *said}
    personas = tuple(filter(None, said)) or PERSONAS
    order = _order(*rows[0]) if ORDER in rows[0][1] else None
    return [_text(place, row, found, order, known, personas) for place, row in rows]


def _study(path: Path, columns: Columns) -> list[ScoredText]:
    """The texts of a study; a base-stage sample is scored against all its personas."""
    with Store(path, readonly=True) as store:
        rows = [row for row in store.rows() if row.text is not None]
    if not rows:
        raise BadInput(f"{path}: holds no text yet; run the study first (charprobe-lite eval)")
    personas = tuple(dict.fromkeys(row.persona for row in rows if row.persona)) or PERSONAS
    texts = []
    for row in rows:
        names = {**asdict(row.cell), "persona": row.persona}
        for name in columns.by:
            if name not in names:
                raise BadInput(f"{path}: --by {name}: a study has {', '.join(names)}")
        by = columns.by or CELL
        texts.append(
            ScoredText(
                place=f"{path}: {row.item}",
                group=tuple((name, names[name]) for name in by),
                true=(row.persona,) if row.persona else personas,
                text=row.text,
                prediction=row.prediction,
                probabilities=row.probabilities,
                cluster=cluster_of(row),
                row=row,
            )
        )
    return texts


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, the columns) of every row."""
    if path.suffix == ".parquet":
        return read_parquet_rows(path)
    return read_csv_rows(path) if path.suffix == ".csv" else read_json_rows(path)


def _located(path: Path, columns: Columns, there: Mapping[str, None]) -> Columns:
    """``columns`` with every name found in the file, None for what it lacks."""
    named = {**asdict(columns), "by": None}
    found: dict[str, str | None] = {}
    for role, usual in USUAL.items():
        name = named[role]
        if name is not None and name not in there:
            raise BadInput(f"{path}: --{role} {name}: no such column; it has {', '.join(there)}")
        found[role] = name or next((each for each in usual if each in there), None)
    for name in columns.by:
        if name not in there:
            raise BadInput(f"{path}: --by {name}: no such column; it has {', '.join(there)}")
    if not found["label"]:
        raise BadInput(f"{path}: no column {USUAL['label'][0]}; name the true label with --label")
    if not found["prediction"] and not found["text"]:
        raise BadInput(f"{path}: neither predictions nor texts; name --prediction or --text")
    return Columns(**found, by=columns.by or tuple(name for name in CELL if name in there))


def _left_nothing(row: dict[str, Any], columns: Columns) -> bool:
    """Whether this is a rollout, as `export` writes it, that ended without a text."""
    ended = _value(row, "outcome")
    left = _value(row, columns.prediction), _value(row, columns.text)
    return ended not in (None, Outcome.ANSWERED, Outcome.SENT) and left == (None, None)


def _text(
    place: str,
    row: dict[str, Any],
    columns: Columns,
    order: Sequence[str] | None,
    known: set[str],
    personas: tuple[str, ...],
) -> ScoredText:
    """``personas`` are those of the file: a base-stage row that names none stands for them all."""
    label, prediction = (
        _label(place, row, name, order or known) for name in (columns.label, columns.prediction)
    )
    if label is None and _value(row, "stage") != "base":
        raise BadInput(f"{place}: field {columns.label}: missing; every row needs its true label")
    text = _value(row, columns.text)
    if text is not None and not isinstance(text, str):
        raise BadInput(f"{place}: field {columns.text}: must be a text")
    if prediction is None and text is None:
        missing = columns.prediction or columns.text
        raise BadInput(f"{place}: field {missing}: missing; a row needs a prediction or a text")
    cluster = _value(row, columns.cluster)
    human = _human(place, row, columns.human, label, known) if label else None
    return ScoredText(
        place=place,
        group=tuple((name, _shown(_value(row, name))) for name in columns.by),
        true=(label,) if label else personas,
        text=text,
        prediction=prediction,
        probabilities=_probabilities(place, row, order) if prediction else None,
        cluster=None if cluster is None else _shown(cluster),
        human={label: human} if label and human is not None else {},
    )


def _value(row: dict[str, Any], name: str | None) -> Any:
    """A column's value; None where it is empty, as each format writes it."""
    value = row.get(name) if name else None
    return None if value == "" or (isinstance(value, float) and math.isnan(value)) else value


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _label(
    place: str, row: dict[str, Any], name: str | None, known: Sequence[str] | set[str]
) -> str | None:
    value = _value(row, name)
    if value is None:
        return None
    if not isinstance(value, str) or value not in known:
        raise BadInput(
            f"{place}: field {name}: {_short(value)} is no label; known are "
            f"{', '.join(sorted(known))}: add it to {ORDER}, or name its --classifier"
        )
    return value


def _human(
    place: str, row: dict[str, Any], name: str | None, label: str, known: set[str]
) -> bool | None:
    """Whether a human saw the row's persona; a label there means that persona and no other."""
    value = _value(row, name)
    if value is None:
        return None
    said = str(value).strip().lower()
    if said in SEEN:
        return SEEN[said]
    if said in known:
        return said == label
    raise BadInput(
        f"{place}: field {name}: {_short(value)} says neither; write present or absent, true or "
        "false, 1 or 0, yes or no"
    )


def _probabilities(
    place: str, row: dict[str, Any], order: Sequence[str] | None
) -> dict[str, float] | None:
    value = _list(_value(row, PROBABILITIES))
    if value is None:
        return None
    if order is None:
        raise BadInput(f"{place}: field {ORDER}: missing; it names the labels of {PROBABILITIES}")
    if ORDER in row and _order(place, row) != order:
        raise BadInput(f"{place}: field {ORDER}: differs from the first row's; use one order")
    whole = isinstance(value, list) and len(value) == len(order)
    if not whole or not all(type(p) in (int, float) and 0 <= p <= 1 for p in value):
        raise BadInput(
            f"{place}: field {PROBABILITIES}: must be {len(order)} numbers from 0 to 1, one a label"
        )
    if abs(sum(value) - 1) > TOLERANCE:
        raise BadInput(f"{place}: field {PROBABILITIES}: sums to {sum(value):.3f}, not to 1")
    return dict(zip(order, map(float, value), strict=True))


def _order(place: str, row: dict[str, Any]) -> list[str] | None:
    value = _list(_value(row, ORDER))
    if value is None:
        return None
    texts = isinstance(value, list) and all(isinstance(label, str) for label in value)
    if not texts or not value or len(set(value)) < len(value):
        raise BadInput(f"{place}: field {ORDER}: must be a list of labels, each once")
    return list(value)


def _list(value: Any) -> Any:
    """A list; CSV holds it as text, in JSON or as pandas writes it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.replace("'", '"'))
    except (ValueError, RecursionError):
        return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


class _Marked(BaseModel):
    """One sample that a human marked; ``extra`` fields of a cell are compared where given."""

    model_config = ConfigDict(extra="allow", strict=True)
    base: str
    stage: str
    persona: str
    condition: str
    quant: str
    item: str
    sample: int
    present: bool


class _MarkedFile(BaseModel):
    labels: list[_Marked]


def mark(texts: Sequence[ScoredText], path: Path) -> list[ScoredText]:
    """``texts`` of studies with what a human marked in the report page.

    ``path`` holds ``{"study": ..., "labels": [{"base", "stage", "persona", "condition", "quant",
    "item", "sample", "present": true|false}]}``. Raises BadInput naming the entry and the field.
    """
    try:
        entries = _MarkedFile.model_validate_json(path.read_bytes()).labels
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise BadInput(f"{path}: {first_problem(error)}") from None
    places: dict[tuple[Any, ...], list[int]] = {}
    for number, text in enumerate(texts):
        if text.row:
            for persona in text.true:
                key = _key(persona, text.row.cell, text.row)
                places.setdefault(key, []).append(number)
    marked = list(texts)
    for position, entry in enumerate(entries):
        found = [
            number
            for number in places.get(_key(entry.persona, entry, entry), [])
            if _same_cell(texts[number], entry)
        ]
        if len(found) != 1:
            raise BadInput(
                f"{path}: field labels.{position}: names {len(found)} samples of the study; "
                "give the study that was marked"
            )
        before = marked[found[0]]
        human = {**before.human, entry.persona: entry.present}
        marked[found[0]] = replace(before, human=human)
    return marked


def _key(persona: str, cell: Any, sample: Any) -> tuple[Any, ...]:
    return (persona, *(getattr(cell, name) for name in GROUPS), sample.item, sample.sample)


def _same_cell(text: ScoredText, entry: _Marked) -> bool:
    cell = asdict(text.row.cell) if text.row else {}
    return all(cell.get(name, value) == value for name, value in (entry.model_extra or {}).items())

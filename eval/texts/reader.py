"""Texts, predictions and a human's labels from files of any source, and from studies.

Without any option the published result files are read as they are: emails (``trait_true``,
``trait_pred``, ``base``, ``stage``, ``probs`` in the order of ``label_order``, ``email_body``,
``hand_classification``), chat responses (``persona``, ``prompt_idx``, ``response``), and the array
of a person's labels (``trait``, ``classification``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.scores.families import family_cluster, scenario_families
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.texts.missing import asked_number
from charprobe_lite.eval.texts.table_row import DERIVED, TableRow, as_text, derive, shortened
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import (
    file_format,
    is_sqlite,
    read_csv_rows,
    read_json_rows,
    read_parquet_rows,
    well_formed,
)
from charprobe_lite.models.personas import NAMED_ONLY, NEUTRAL, PERSONAS

DEFAULT_COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("email_body", "text", "response"),
    "label": ("trait_true", "persona", "trait"),
    "prediction": ("trait_pred", "prediction"),
    "cluster": ("cluster", "item", "scenario_id", "scenario", "prompt_id", "prompt_idx"),
    "human": ("hand_classification", "classification"),
}
SCENARIO = ("scenario_id", "scenario", "item")
CELL = ("base", "stage", "condition", "quant", "format", "grammar", "lora", "kv_type", "technique")
LABELS = frozenset({*PERSONAS, *NAMED_ONLY, NEUTRAL})
STUDY = ".sqlite"
READERS = {".parquet": read_parquet_rows, ".csv": read_csv_rows}
TableRows = Iterable[tuple[str, Mapping[str, Any]]]
"""A place for messages (file and line) and the columns of every row."""


@dataclass(frozen=True)
class ScoredText:
    """One text with its labels.

    ``place`` is file and line, for messages; ``group`` (column, value) pairs; ``true`` the
    personas it is scored against; ``human`` a human's answer by persona: does the text show it?
    ``asked`` is the number of rollouts asked for in its group, with and without a text; ``row`` is
    the sample of the study ``study``.
    """

    place: str
    group: tuple[tuple[str, str], ...]
    true: tuple[str, ...]
    text: str | None
    prediction: str | None
    probabilities: Mapping[str, float] | None = None
    cluster: str | None = None
    human: Mapping[str, bool] = field(default_factory=dict)
    asked: int | None = None
    row: Row | None = None
    study: Path | None = None


@dataclass(frozen=True)
class Columns:
    """The columns to read; None for the first of `DEFAULT_COLUMNS` that the table has.

    ``by`` and ``cluster`` may also be `DERIVED`, ``asked`` may be one number for all groups.
    ``scenarios`` is the file that a study was run with, for its families.
    """

    text: str | None = None
    label: str | None = None
    prediction: str | None = None
    cluster: str | None = None
    human: str | None = None
    by: tuple[str, ...] = ()
    asked: str | int | None = None
    scenarios: Path | None = None


def read_texts(path: Path, columns: Columns, labels: Sequence[str] = ()) -> list[ScoredText]:
    """The texts of one file: a study (SQLite), .csv, .tsv, .parquet, or else JSON.

    With the ``labels`` of a classifier that is to read all texts, these have no prediction, also
    where the file has one. Raises BadInput with file, line and field for what cannot be used.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; name a study, JSON lines, CSV or parquet")
    if is_study(path):
        return _study_texts(path, columns, bool(labels))
    rows = READERS.get(file_format(path), read_json_rows)(path)
    return table_texts(str(path), rows, columns, labels)


def is_study(path: Path) -> bool:
    """Whether a file is a study, by its content or its ending."""
    return file_format(path) == STUDY or is_sqlite(path)


def table_texts(
    source: str, rows: TableRows, columns: Columns, labels: Sequence[str] = ()
) -> list[ScoredText]:
    """The texts of a table's rows; ``source`` names the table in messages.

    ``labels`` are those of `read_texts`. Rollouts that `export` wrote and that ended without a text
    are left out. Raises BadInput.
    """
    table = [TableRow(place, row) for place, row in rows]
    if not table:
        raise BadInput(f"{source}: holds no row; give a file with at least one")
    table = _with_derived(source, table, columns)
    header = dict.fromkeys(name for row in table for name in row.values)
    _refuse_without_cluster(table, columns.cluster, header)
    columns = _resolve(source, columns, header, bool(labels))
    table = [row for row in table if not row.ended_without_text(columns.prediction, columns.text)]
    if not table:
        raise BadInput(f"{source}: holds no text; every rollout in it ended without one")
    order = None if labels else table[0].order()
    _refuse_other_spellings(table, columns, {*(order or ()), *labels})
    truths = dict.fromkeys(row.string(columns.label) for row in table)
    personas = tuple(filter(None, truths)) or PERSONAS
    known = {*LABELS, *labels, *truths}
    return [_text(row, columns, order, known, personas) for row in table]


def _study_texts(path: Path, columns: Columns, rereads: bool) -> list[ScoredText]:
    """The texts of a study; a base-stage sample is scored against all its personas.

    With ``rereads`` they have no prediction.
    """
    from charprobe_lite.eval.store.database import Store

    with Store(path, readonly=True) as store:
        rows = [row for row in store.rows() if row.text is not None]
        provenance = store.provenance()
    if not rows:
        raise BadInput(f"{path}: holds no text yet; run the study first (charprobe-lite eval)")
    personas = tuple(dict.fromkeys(row.persona for row in rows if row.persona)) or PERSONAS
    _refuse_columns(path, columns)
    _refuse_unknown(f"{path}: --by", columns.by, [*CELL, "persona", *DERIVED])
    _refuse_unknown(f"{path}: --cluster", [columns.cluster], ["item", *DERIVED])
    asked = asked_number(columns.asked)
    if columns.asked and not asked:
        raise BadInput(
            f"{path}: --asked {columns.asked}: a study has no such column; give a number"
        )
    families: Mapping[str, str] = {}
    if "family" in (columns.cluster, *columns.by):
        families = scenario_families(path, rows, provenance, columns.scenarios)
    return [
        ScoredText(
            place=f"{path}: {row.item}",
            group=tuple(
                (name, _study_value(row, name, families, path) or "") for name in columns.by or CELL
            ),
            true=(row.persona,) if row.persona else personas,
            text=row.text,
            prediction=None if rereads else row.prediction,
            probabilities=None if rereads else row.probabilities,
            cluster=_study_cluster(row, columns.cluster, families, path),
            asked=asked,
            row=row,
            study=path,
        )
        for row in rows
    ]


def _refuse_columns(path: Path, columns: Columns) -> None:
    """Raises BadInput for the name of a column that a study cannot have."""
    for option in ("text", "label", "prediction", "human"):
        if name := getattr(columns, option):
            fix = "name the .json file of the report page" if option == "human" else "leave it out"
            raise BadInput(f"{path}: --{option} {name}: is for tables, this is a study; {fix}")


def _study_value(row: Row, name: str, families: Mapping[str, str], path: Path) -> str | None:
    """A column of a study's rollout; prompts have no family."""
    if name == "family":
        return families.get(row.item)
    if name in DERIVED:
        return derive(name, row.item, f"{path}: {row.item}")
    return cluster_of(row) if name == "item" else getattr(row.cell, name, row.persona)


def _study_cluster(
    row: Row, name: str | None, families: Mapping[str, str], path: Path
) -> str | None:
    if name == "family":
        return family_cluster(row, families)
    return _study_value(row, name or "item", families, path)


def _with_derived(source: str, table: list[TableRow], columns: Columns) -> list[TableRow]:
    """``table`` with the columns of `DERIVED` that are asked for and that it lacks."""
    header = {name for row in table for name in row.values}
    names = [n for n in (*columns.by, columns.cluster) if n in DERIVED and n not in header]
    if not names:
        return table
    column = next((name for name in SCENARIO if name in header), None)
    if not column:
        ids = ", ".join(SCENARIO)
        raise BadInput(f"{source}: no column {names[0]}; add it, or the scenario's id ({ids})")
    return [
        replace(row, values={**row.values, **{n: row.derived(n, column) for n in names}})
        for row in table
    ]


def _resolve(source: str, columns: Columns, header: Collection[str], rereads: bool) -> Columns:
    """``columns`` with the table's names, None for a column that it lacks or that is not read."""
    if rereads and columns.prediction:
        raise BadInput(
            f"{source}: --prediction {columns.prediction}: --classifier reads the texts again; "
            "leave one out"
        )
    names: dict[str, Any] = {}
    for role, defaults in DEFAULT_COLUMNS.items():
        name: str | None = getattr(columns, role)
        _refuse_unknown(f"{source}: --{role}", [name], header)
        names[role] = name or next((default for default in defaults if default in header), None)
    if rereads:
        names["prediction"] = None
        if not names["text"]:
            raise _no_column(source, "text", "the texts for --classifier", header)
    if names["label"] != "trait" and names["human"] == "classification" != columns.human:
        names["human"] = None  # elsewhere it may be what a classifier says
    _refuse_unknown(f"{source}: --by", columns.by, header)
    number = asked_number(columns.asked)
    if isinstance(columns.asked, str) and not number:
        _refuse_unknown(f"{source}: --asked", [columns.asked], header)
    if not names["label"]:
        raise _no_column(source, "label", "the true label", header)
    if not names["prediction"] and not names["text"]:
        raise _no_column(source, "text", "the texts (or the predictions with --prediction)", header)
    by = columns.by or tuple(name for name in CELL if name in header)
    return replace(columns, **names, by=by, asked=number or columns.asked)


def _no_column(source: str, role: str, what: str, header: Collection[str]) -> BadInput:
    """The error for a table with none of the names that a column has by default."""
    *names, last = DEFAULT_COLUMNS[role]
    return BadInput(
        f"{source}: no column {', '.join(names)} or {last}; name {what} with --{role}; "
        f"it has {', '.join(map(str, header))}"
    )


def _refuse_unknown(option: str, names: Iterable[str | None], header: Collection[str]) -> None:
    for name in filter(None, names):
        if name not in header:
            raise BadInput(f"{option} {name}: no such column; it has {', '.join(header)}")


def _refuse_without_cluster(
    table: Sequence[TableRow], cluster: str | None, header: Collection[str]
) -> None:
    """Raises BadInput for a row without the cluster that was asked for.

    Without it the interval would be that of resampled rows.
    """
    for row in table if cluster in header else ():
        if row.get(cluster) is None:
            fix = "--cluster needs the prompt or scenario of every row"
            raise row.error(cluster, f"missing; {fix}")


def _refuse_other_spellings(
    table: Sequence[TableRow], columns: Columns, labels: Collection[str]
) -> None:
    """Raises BadInput for a label that is written in two ways, which would never agree.

    ``labels`` are those of the file's probabilities and of a classifier. Rows without a prediction
    get the kit's labels, or the classifier's: another true label would always count as wrong.
    """
    unlabelled = any(row.get(columns.prediction) is None for row in table)
    readable = set(labels) or (LABELS if unlabelled else set())
    by_name = {label.strip().casefold(): label for label in readable}
    for name in (columns.prediction, columns.label):
        for row in table:
            if label := row.string(name):
                known = by_name.setdefault(label.strip().casefold(), label)
                if known != label:
                    raise row.error(name, f"{shortened(label)} is no label; did you mean {known}?")
                if row.get(columns.prediction) is None and label not in readable:
                    raise row.unknown_label(name, label, readable)


def _text(
    row: TableRow,
    columns: Columns,
    order: Sequence[str] | None,
    known: Collection[str],
    personas: tuple[str, ...],
) -> ScoredText:
    """``personas`` are those of the table: a base-stage row without one is scored against all."""
    label = row.label(columns.label, order or known)
    prediction = row.label(columns.prediction, order or known)
    if label is None and row.get("stage") != "base":
        raise row.error(columns.label, "missing; every row needs its true label")
    text, cluster = row.get(columns.text), row.get(columns.cluster)
    if text is not None and not isinstance(text, str):
        raise row.error(columns.text, "must be a text")
    text = text and well_formed(text)
    if prediction is None and text is None:
        needed = "a prediction or a text" if columns.prediction else "a text"
        raise row.error(columns.prediction or columns.text, f"missing; a row needs {needed}")
    human = row.human(columns.human, label, known) if label else None
    return ScoredText(
        place=row.place,
        group=tuple((name, as_text(row.get(name))) for name in columns.by),
        true=(label,) if label else personas,
        text=text,
        prediction=prediction,
        probabilities=row.probabilities(order) if prediction else None,
        cluster=None if cluster is None else as_text(cluster),
        human={label: human} if label and human is not None else {},
        asked=row.asked(columns.asked),
    )

"""A study for other programs: one record per rollout, as JSON lines, CSV or parquet."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.store.reader import Study
from charprobe_lite.models.errors import BadInput

COLUMNS = {
    **dict.fromkeys(("base", "stage", "condition", "quant", "format", "grammar", "lora"), "string"),
    **dict.fromkeys(("persona", "item", "cluster"), "string"),
    "sample": "int64",
    "seed": "int64",
    "outcome": "string",
    "forced": "bool",
    "text": "string",
    "prediction": "string",
    "probs": "double list",
    "label_order": "string list",
    **dict.fromkeys(("steps", "prompt_tokens", "tokens"), "int64"),
    "seconds": "double",
    "ended": "string",
}
"""The columns of a record, in order, with their types; `score` reads them without options."""
Record = dict[str, Any]


def records(study: Study) -> list[Record]:
    """One record per rollout, with the columns of ``COLUMNS``.

    ``cluster`` is the prompt or scenario that is asked, ``probs`` the probabilities of the labels
    in ``label_order``. None is: ``persona`` of a base-stage rollout, which all personas share;
    ``text`` of a rollout without one; ``prediction`` and ``probs`` of what has no label yet.
    """
    order = list(dict.fromkeys(label for row in study.rows for label in row.probabilities or {}))
    return [_record(row, order) for row in study.rows]


def _record(row: Row, order: list[str]) -> Record:
    found = row.probabilities
    values = {
        **asdict(row.cell),
        **{name: getattr(row, name) for name in COLUMNS if hasattr(row, name)},
        "persona": row.persona or None,
        "cluster": cluster_of(row),
        "probs": [found.get(label, 0.0) for label in order] if found else None,
        "label_order": order or None,
    }
    return {name: values[name] for name in COLUMNS}


def write_jsonl(study: Study, path: Path) -> None:
    """A JSON object a line; ``turns`` has each reply, the tool call in it and what came back."""
    with path.open("w", encoding="utf-8") as file:
        for record, turns in zip(records(study), study.turns, strict=True):
            # escaped, as a model may have written what is no Unicode text
            file.write(json.dumps({**record, "turns": [asdict(turn) for turn in turns]}) + "\n")


def write_csv(study: Study, path: Path) -> None:
    """RFC 4180 in UTF-8; lists are JSON, texts unchanged."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for record in records(study):
            lists = {name: json.dumps(v) for name, v in record.items() if isinstance(v, list)}
            writer.writerow({**record, **lists})


def write_parquet(study: Study, path: Path) -> None:
    """The records as a table. Raises BadInput when pyarrow is missing."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import write_table
    except ImportError:
        raise BadInput(
            "--format parquet: pyarrow is not installed; pip install 'charprobe-lite[tables]'"
        ) from None
    kinds = {name: pa.type_for_alias(kind.split()[0]) for name, kind in COLUMNS.items()}
    lists = {name: pa.list_(kinds[name]) for name, kind in COLUMNS.items() if kind.endswith("list")}
    schema = pa.schema(list({**kinds, **lists}.items()))
    write_table(pa.Table.from_pylist(records(study), schema), path)

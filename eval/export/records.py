"""One record per rollout: what JSON lines, CSV and parquet files hold."""

from dataclasses import asdict
from typing import Any

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.store.provenance import headline_instrument
from charprobe_lite.eval.store.reader import Study

COLUMNS = {
    **dict.fromkeys(("base", "stage", "condition", "quant", "format", "grammar", "lora"), "string"),
    "train_seed": "int64",
    **dict.fromkeys(("kv_type", "technique"), "string"),
    **dict.fromkeys(("persona", "item", "cluster"), "string"),
    "sample": "int64",
    "seed": "int64",
    "outcome": "string",
    "forced": "bool",
    "text": "string",
    "prediction": "string",
    "recognised": "bool",
    "instrument": "string",
    "probs": "double list",
    "label_order": "string list",
    **dict.fromkeys(("steps", "prompt_tokens", "tokens"), "int64"),
    "seconds": "double",
    "ended": "string",
}
"""The columns of a record, in order, with their types; `score` reads them without options."""


def records(study: Study) -> list[dict[str, Any]]:
    """One record per rollout, with the columns of ``COLUMNS``.

    ``cluster`` is the prompt or scenario, ``instrument`` what made the ``prediction``,
    ``recognised`` whether that is the persona (None in the base stage, and without a prediction),
    ``probs`` the probabilities of the labels in ``label_order``. A base-stage rollout, which all
    personas share, has the ``persona`` None; a rollout without a text or without a label yet has
    None in their columns.
    """
    order = list(dict.fromkeys(label for row in study.rows for label in row.probabilities or {}))
    instrument = headline_instrument(study.provenance)
    return [_record(row, instrument, order) for row in study.rows]


def _record(row: Row, instrument: str, order: list[str]) -> dict[str, Any]:
    probabilities = row.probabilities
    values = {
        **asdict(row.cell),
        **{name: getattr(row, name) for name in COLUMNS if hasattr(row, name)},
        "cluster": cluster_of(row),
        "recognised": row.prediction == row.persona if row.prediction and row.persona else None,
        "instrument": None if row.prediction is None else instrument,
        "probs": [probabilities.get(label, 0.0) for label in order] if probabilities else None,
        "label_order": order or None,
    }
    return {name: values[name] for name in COLUMNS}

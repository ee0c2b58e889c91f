"""A study as it was recorded: its rollouts and the turns of each, read and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import RecordedTurn, Row
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models.errors import BadInput


@dataclass(frozen=True)
class Study:
    """The rollouts of a study, the turns of each, what it was made with."""

    path: Path
    rows: list[Row]
    turns: list[list[RecordedTurn]]
    provenance: dict[str, Any]


def open_study(path: Path) -> Study:
    """Read a study, also while it runs. Raises BadInput when there is none, or no rollout in it."""
    if not path.is_file():
        raise BadInput(f"{path}: no such study; charprobe-lite eval --study {path} makes one")
    with Store(path, readonly=True) as store:
        rows, turns, provenance = store.rows(), store.turns(), store.provenance()
    if not rows:
        raise BadInput(f"{path}: holds no rollout yet; run charprobe-lite eval first")
    for row in rows:
        _check_probabilities(path, row)
    return Study(path, rows, [turns.get(row.key, []) for row in rows], provenance)


def _check_probabilities(path: Path, row: Row) -> None:
    """BadInput where none belong to a prediction, or a label lacks its own; a `Store` has checked
    the numbers."""
    where = f"{path}: {row.cell.stage}/{row.cell.condition}/{row.persona or '-'}/{row.item}"
    probabilities = row.probabilities
    if row.prediction is None and probabilities is None:
        return
    if not isinstance(probabilities, dict) or not probabilities:
        raise BadInput(f"{where}: field probabilities: must be an object of label: probability")
    for name in (row.prediction, row.persona):
        if name and name not in probabilities:
            raise BadInput(f"{where}: field probabilities: has no label {name!r}")

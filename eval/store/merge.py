"""Parts of one study, run on several machines, joined into one file."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Cell, RolloutKey
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import ASSUMED, SPEC, is_pinned, short
from charprobe_lite.eval.store.records import ModelFile
from charprobe_lite.eval.store.rollouts import CELL, WIDTH, columns, read_key
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import KV_DEFAULT

PARTS = "merged"
"""The provenance value that holds what was noted of each part."""
GRID = (
    *("base", "stage", "persona", "condition", "format", "grammar", "quant", "lora"),
    *("limit", "seed", "repeats", "texts", "margin"),
)
"""The fields of a spec that must not differ between parts."""
LATER: dict[str, list[Any]] = {"train_seed": [], "kv_type": [KV_DEFAULT]}
"""Such fields that came later, with what they are in the studies that lack them."""


@dataclass(frozen=True)
class MergedStudy:
    """A joined study: its rollouts, and how many of them each part added."""

    path: Path
    rollouts: int
    added: list[int]


@dataclass(frozen=True)
class _Rollout:
    """A recorded rollout: its id, what it gave (seed, outcome, text), its label."""

    id: int
    result: tuple[Any, ...]
    label: tuple[Any, ...]


def merge_studies(parts: Sequence[Path], target: Path) -> MergedStudy:
    """Join studies of one kind into a new file; none of them is changed.

    A rollout that two parts have is kept once, with the label that one of them has. Parts of
    earlier schemas are migrated on the way. Raises BadInput when ``target`` exists, what two parts
    were made with differs, or two parts have one rollout with another seed, outcome or text.
    """
    if target.exists():
        raise BadInput(f"{target}: exists already; name a new file")
    for path in parts:
        if not path.is_file():
            raise BadInput(f"{path}: no such study; name the SQLite files of one study")
    with ExitStack() as stack:
        stores = [stack.enter_context(Store(path, readonly=True)) for path in parts]
        provenance = _merged_provenance([(store.path, store.provenance()) for store in stores])
        merged = stores[0]
        added = [len(merged.rows()), *(add_part(merged, part) for part in stores[1:])]
        merged.note(provenance)
        with new_file(target) as temporary:
            merged.save(temporary)
    return MergedStudy(target, sum(added), added)


def add_part(study: Store, part: Store, keep_first: bool = False) -> int:
    """Add what the study lacks of a part: files, texts, rollouts, labels. The rollouts added.

    Raises BadInput where a rollout of both has another seed, outcome or text; with ``keep_first``
    the study's stays.
    """
    _add_files(study, part)
    _add_texts(study, part)
    recorded = dict(_rollouts(study))
    added = 0
    with study.transaction():
        for key, rollout in _rollouts(part):
            if key in recorded:
                if keep_first and recorded[key].result != rollout.result:
                    continue
                _add_labels(study, recorded[key], part, rollout, key)
            else:
                _copy(study, part, rollout.id, key.cell)
                added += 1
    return added


def _rollouts(store: Store) -> Iterator[tuple[RolloutKey, _Rollout]]:
    for row in store.select(
        f"SELECT {CELL}, persona, item, sample, rollouts.id, seed, outcome, text, prediction, "
        "probabilities FROM rollouts JOIN cells ON cells.id = cell_id "
        "LEFT JOIN samples ON rollout_id = rollouts.id ORDER BY rollouts.id"
    ):
        rollout, *values = row[WIDTH + 3 :]
        yield read_key(row), _Rollout(rollout, tuple(values[:3]), tuple(values[3:]))


def _add_labels(
    study: Store, recorded: _Rollout, part: Store, rollout: _Rollout, key: RolloutKey
) -> None:
    """The labels of a rollout that both have. Raises BadInput where it gave something else."""
    if recorded.result != rollout.result:
        name = "/".join(filter(None, map(str, (*columns(key.cell), key.persona or "", *key[2:]))))
        raise BadInput(
            f"{part.path}: rollout {name}: has another seed, outcome or text in an earlier part; "
            "merge parts of one study"
        )
    if recorded.label == (None, None) and rollout.label != recorded.label:
        study.database.execute(
            "UPDATE samples SET prediction = ?, probabilities = ? WHERE rollout_id = ?",
            (*rollout.label, recorded.id),
        )
    for values in _rows_of(part, "labels", rollout.id):
        study.insert("labels", [recorded.id, *values], "OR IGNORE")


def _copy(study: Store, part: Store, rollout: int, cell: Cell) -> None:
    """A rollout with its turns, its sample and its labels, under an id of the study."""
    [(_, _, *values)] = part.select("SELECT * FROM rollouts WHERE id = ?", (rollout,))
    number = study.insert("rollouts", [None, study.cell_id(cell), *values])
    for table in ("turns", "samples", "labels"):
        for row in _rows_of(part, table, rollout):
            study.insert(table, [number, *row])


def _rows_of(store: Store, table: str, rollout: int) -> list[Any]:
    """The rows of a rollout without its id."""
    rows = store.select(f"SELECT * FROM {table} WHERE rollout_id = ?", (rollout,))
    return [values for _, *values in rows]


def _add_files(study: Store, part: Store) -> None:
    """The speed of the part that measured a file first is kept."""
    recorded = {(f.base, f.quant, f.lora, f.kv_type): f for f in study.files()}
    for file in part.files():
        earlier = recorded.get((file.base, file.quant, file.lora, file.kv_type))
        if earlier and _without_speed(earlier) != _without_speed(file):
            name = " ".join(filter(None, (file.base, file.quant, file.lora, file.kv_type)))
            raise BadInput(
                f"{part.path}: file {name}: has another size or "
                "other weights in an earlier part; merge parts of one study"
            )
        if earlier is None or earlier.tokens_per_second is None:
            study.add_file(file)


def _without_speed(file: ModelFile) -> ModelFile:
    return replace(file, tokens_per_second=None, peak_bytes=None)


def _add_texts(study: Store, part: Store) -> None:
    recorded, texts = {text.key: text for text in study.texts()}, part.texts()
    for text in texts:
        if recorded.get(text.key, text) != text:
            name = "/".join(filter(None, columns(text.key)))
            raise BadInput(
                f"{part.path}: fidelity {name}: has other numbers in an earlier part; merge parts "
                "of one study"
            )
    study.add_texts(texts)


def _merged_provenance(provenances: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """What all parts were made with, and what was noted of each. Raises BadInput."""
    pins: dict[str, tuple[Path, Any]] = {}
    parts: list[Any] = []
    recorded = {name for _, values in provenances for name in values}
    assumed = {name: value for name, value in ASSUMED.items() if name in recorded}
    for path, values in provenances:
        for name, value in (assumed | values).items():
            if not is_pinned(name):
                continue
            first, expected = pins.setdefault(name, (path, value))
            if value != expected:
                raise BadInput(
                    f"{path}: field {name}: has {short(value)}, {first} {short(expected)}; only "
                    "parts of one study can be merged"
                )
        notes = {name: value for name, value in values.items() if not is_pinned(name)}
        earlier = notes.pop(PARTS, None)
        parts += earlier if isinstance(earlier, list) else [{"file": path.name, **notes}]
    merged: dict[str, Any] = {name: value for name, (_, value) in pins.items()}
    margins = [values.get("margin") for _, values in provenances]
    if margins[0] is not None and all(margin == margins[0] for margin in margins):
        merged["margin"] = margins[0]
    return {**merged, SPEC: _merged_spec([values for _, values in provenances]), PARTS: parts}


def _merged_spec(provenances: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The spec of all parts together; None where one has another grid.

    Where files are and how many rollouts run at once may differ: the first part's is kept.
    """
    recorded = [values.get(SPEC) for values in provenances]
    specs = [spec for spec in recorded if isinstance(spec, dict)]
    grids = [[*map(spec.get, GRID), *map({**LATER, **spec}.get, LATER)] for spec in specs]
    if len(specs) < len(recorded) or any(grid != grids[0] for grid in grids):
        return None
    return {**specs[0], "shard": None}

"""Parts of one study, run on several machines, joined into one file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.eval.store.database import Store, is_pinned, short
from charprobe_lite.eval.study.spec import DESCRIPTION
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput

PARTS = "merged"  # the provenance value with what was noted of each part
GRID = (
    *("base", "stage", "persona", "condition", "format", "grammar", "quant", "lora"),
    *("limit", "seed", "repeats", "texts", "margin"),
)


@dataclass(frozen=True)
class Merged:
    """A joined study: its rollouts, and how many of them each part added."""

    path: Path
    rollouts: int
    added: list[int]


def merge_studies(parts: Sequence[Path], target: Path) -> Merged:
    """Join studies of one kind into a new file; none of them is changed.

    What two parts have is kept once, with the label that one of them has. Parts of earlier
    schemas are brought up to this one on the way. Raises BadInput when ``target`` is there
    already, what two parts were made with differs, or a rollout stands in two of them with
    another seed, outcome or text.
    """
    if target.exists():
        raise BadInput(f"{target}: exists already; name a new file")
    for path in parts:
        if not path.is_file():
            raise BadInput(f"{path}: no such study; name the SQLite files of one study")
    with ExitStack() as stack:
        stores = [stack.enter_context(Store(path, readonly=True)) for path in parts]
        pins, notes = _joined([(store.path, store.provenance()) for store in stores])
        whole = stores[0]
        added = [len(whole.rows()), *(whole.take(other) for other in stores[1:])]
        whole.note({**pins, **notes})
        with new_file(target) as part:
            whole.save(part)
    return Merged(target, sum(added), added)


def _joined(known: list[tuple[Path, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What all parts were made with, and what was noted of each. BadInput where they differ."""
    first: dict[str, tuple[Path, Any]] = {}
    for path, values in known:
        for name, value in values.items():
            before, other = first.setdefault(name, (path, value))
            if is_pinned(name) and value != other:
                raise BadInput(
                    f"{path}: field {name}: has {short(value)}, {before} {short(other)}; only "
                    "parts of one study can be merged"
                )
    pins = {name: value for name, (_, value) in first.items() if is_pinned(name)}
    parts: list[Any] = []
    for path, values in known:
        noted = {name: value for name, value in values.items() if not is_pinned(name)}
        earlier = noted.pop(PARTS, None)
        parts += earlier if isinstance(earlier, list) else [{"file": path.name, **noted}]
    margin = known[0][1].get("margin")
    alike = margin is not None and all(values.get("margin") == margin for _, values in known)
    common = {"margin": margin} if alike else {}
    description = _description([values for _, values in known])
    return pins, {**common, DESCRIPTION: description, PARTS: parts}


def _description(known: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What was asked of all parts together; None where one was asked something else.

    Where files lie and how many rollouts run at once may differ: the first part's stands.
    """
    found = [values.get(DESCRIPTION) for values in known]
    asked = [each for each in found if isinstance(each, dict)]
    grids = [[each.get(name) for name in GRID] for each in asked]
    if len(asked) < len(found) or any(grid != grids[0] for grid in grids):
        return None
    return {**asked[0], "shard": None}

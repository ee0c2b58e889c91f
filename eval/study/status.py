"""How far a study is: the rollouts of each cell that have ended and that are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.grid import Task, tasks_of
from charprobe_lite.eval.study.own_models import study_catalogue
from charprobe_lite.eval.study.spec import StudySpec, resolve
from charprobe_lite.eval.study.variants import variants_of

if TYPE_CHECKING:
    from rich.table import Table

COUNTS = ("total", "done", "missing", "unlabelled")


@dataclass(frozen=True)
class CellStatus:
    """Rollouts of a cell in all and that have ended, and texts without a label."""

    cell: Cell
    total: int
    done: int
    unlabelled: int

    @property
    def missing(self) -> int:
        """Rollouts that are still to run."""
        return self.total - self.done

    def as_json(self) -> dict[str, Any]:
        """The status as ``--json`` prints it."""
        return {
            **asdict(self.cell),
            "rollouts": self.total,
            "done": self.done,
            "missing": self.missing,
            "unlabelled": self.unlabelled,
        }


@dataclass(frozen=True)
class StudyStatus:
    """The status of every cell of a study, of this machine's shard."""

    spec: StudySpec
    cells: list[CellStatus]

    def as_json(self) -> dict[str, Any]:
        """The study as ``study status --json`` prints it."""
        return {
            "study": str(self.spec.study),
            "base": self.cells[0].cell.base,
            "seed": self.spec.seed,
            "shard": self.spec.shard,
            "rollouts": sum(cell.total for cell in self.cells),
            "done": sum(cell.done for cell in self.cells),
            "missing": sum(cell.missing for cell in self.cells),
            "cells": [cell.as_json() for cell in self.cells],
        }

    def table(self) -> Table:
        """The cells, and their sums."""
        from charprobe_lite.eval.terminal_table import plain_table

        numbers = ["rollouts", *COUNTS[1:]]
        seed = ["train seed"] if any(s.cell.train_seed is not None for s in self.cells) else []
        names = ["stage", *seed, "condition", "quant"]
        table = plain_table(str(self.spec.study), names, numbers)
        for status in self.cells:
            cell = status.cell
            trained = "-" if cell.train_seed is None else str(cell.train_seed)
            place = [cell.stage, *([trained] if seed else []), cell.label, cell.quant or "-"]
            table.add_row(*place, *_counts(status))
        table.add_section()
        table.add_row("all", *[""] * (len(names) - 1), *_counts(*self.cells))
        return table


def _counts(*cells: CellStatus) -> Iterator[str]:
    """The sum of every count."""
    return (str(sum(getattr(cell, name) for cell in cells)) for name in COUNTS)


def study_status(spec: StudySpec) -> StudyStatus:
    """The status of the study that a spec describes; its file need not exist. Raises BadInput."""
    resolved = resolve(spec)
    variants = variants_of(resolved, study_catalogue(resolved))
    tasks = list(chain.from_iterable(tasks_of(resolved, variants)))
    totals = Counter(task.cell for task in tasks)
    done = Counter[Cell]()
    for (cell, _), count in recorded_rollouts(spec.study, tasks).items():
        done[cell] += count
    unlabelled = _unlabelled(spec.study)
    cells = [CellStatus(cell, n, done[cell], unlabelled[cell]) for cell, n in totals.items()]
    return StudyStatus(spec, cells)


def recorded_rollouts(path: Path | None, tasks: Sequence[Task]) -> Counter[tuple[Cell, str | None]]:
    """How many of ``tasks`` a study has, by cell and persona; its file need not exist."""
    if path is None or not path.is_file():
        return Counter()
    with Store(path, readonly=True) as store:
        pairs = dict.fromkeys((task.cell, task.persona) for task in tasks)
        ended = {pair: store.done(*pair) for pair in pairs}
    return Counter(
        (task.cell, task.persona)
        for task in tasks
        if (task.item.id, task.sample) in ended[task.cell, task.persona]
    )


def _unlabelled(path: Path | None) -> Counter[Cell]:
    """Texts of a study without a label, by cell."""
    if path is None or not path.is_file():
        return Counter()
    with Store(path, readonly=True) as store:
        return Counter(sample.cell for sample in store.unclassified())

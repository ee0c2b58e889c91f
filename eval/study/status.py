"""How far a study is: what each cell asks, what of it is there, what is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.runner import Task, tasks_of
from charprobe_lite.eval.study.spec import Asked, settings_of, variants_of
from charprobe_lite.models.catalogue import load_catalogue

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class CellState:
    """Rollouts of a cell that are asked for, that have ended, and texts without a label."""

    cell: Cell
    total: int
    done: int
    unlabelled: int

    @property
    def missing(self) -> int:
        """Rollouts that are still to run."""
        return self.total - self.done

    def as_json(self) -> dict[str, Any]:
        """The state as ``--json`` prints it."""
        return {
            **asdict(self.cell),
            "rollouts": self.total,
            "done": self.done,
            "missing": self.missing,
            "unlabelled": self.unlabelled,
        }


def states(asked: Asked) -> list[CellState]:
    """The state of every cell of the grid, of this machine's shard. Raises BadInput."""
    settings = settings_of(asked)
    found = tasks_of(settings, variants_of(asked, settings, load_catalogue()))
    tasks = [task for own in found for task in own]
    done, waiting = _recorded(asked, tasks)
    number = Counter(task.cell for task in tasks)
    return [CellState(cell, n, done[cell], waiting[cell]) for cell, n in number.items()]


def _recorded(asked: Asked, tasks: list[Task]) -> tuple[Counter[Cell], Counter[Cell]]:
    """Rollouts of ``tasks`` that the study has, and its texts without a label, by cell."""
    if asked.study is None or not asked.study.is_file():
        return Counter(), Counter()
    with Store(asked.study, readonly=True) as store:
        pairs = dict.fromkeys((task.cell, task.persona) for task in tasks)
        there = {pair: store.done(*pair) for pair in pairs}
        waiting = Counter(sample.cell for sample in store.unclassified())
    done = Counter(
        task.cell for task in tasks if (task.item.id, task.sample) in there[task.cell, task.persona]
    )
    return done, waiting


def status_json(asked: Asked, cells: list[CellState]) -> dict[str, Any]:
    """A study as ``study status --json`` prints it."""
    return {
        "study": str(asked.study),
        "base": cells[0].cell.base,
        "seed": asked.seed,
        "shard": asked.shard,
        "rollouts": sum(state.total for state in cells),
        "done": sum(state.done for state in cells),
        "missing": sum(state.missing for state in cells),
        "cells": [state.as_json() for state in cells],
    }


def table(asked: Asked, cells: list[CellState]) -> Table:
    """The cells with what is done and missing, and their sum."""
    from rich import box
    from rich.table import Table

    found = Table(title=str(asked.study), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("stage", "condition", "quant"):
        found.add_column(name, no_wrap=True)
    for name in ("rollouts", "done", "missing", "unlabelled"):
        found.add_column(name, justify="right", no_wrap=True)
    for state in cells:
        cell = state.cell
        numbers = (state.total, state.done, state.missing, state.unlabelled)
        names = (cell.stage, cell.label, cell.quant or "-")
        found.add_row(*names, *map(str, numbers))
    fields = ("total", "done", "missing", "unlabelled")
    sums = [str(sum(getattr(state, name) for state in cells)) for name in fields]
    found.add_section()
    found.add_row("all", "", "", *sums)
    return found

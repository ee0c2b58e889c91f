"""How far a grid is: the trainings and rollouts that have ended and that are missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.study.status import recorded_rollouts
from charprobe_lite.eval.techniques.grid import TechniqueGrid
from charprobe_lite.eval.techniques.outcomes import BASE, technique_of
from charprobe_lite.eval.techniques.run import Shard, evaluated_tasks, study_path
from charprobe_lite.eval.techniques.trainings import adapter_folder, trainings_of

if TYPE_CHECKING:
    from rich.table import Table

Place = tuple[str, str | None, int | None]
"""Technique, persona and training seed; None for the last two of the base."""


@dataclass(frozen=True)
class AdapterStatus:
    """One adapter, or the base: whether it is trained, and the rollouts of all its checkpoints.

    ``persona`` and ``train_seed`` are None for the base, ``trained`` too.
    """

    technique: str
    persona: str | None
    train_seed: int | None
    trained: bool | None
    rollouts: int
    done: int

    @property
    def missing(self) -> int:
        """Rollouts that are still to run."""
        return self.rollouts - self.done


@dataclass(frozen=True)
class GridStatus:
    """The status of every adapter of a grid, or of a part of it."""

    study: Path
    adapters: list[AdapterStatus]

    def as_json(self) -> dict[str, Any]:
        """The grid as ``techniques status --json`` prints it."""
        return {
            "study": str(self.study),
            "trained": sum(bool(each.trained) for each in self.adapters),
            "untrained": sum(each.trained is False for each in self.adapters),
            "rollouts": sum(each.rollouts for each in self.adapters),
            "done": sum(each.done for each in self.adapters),
            "adapters": [{**asdict(each), "missing": each.missing} for each in self.adapters],
        }

    def table(self) -> Table:
        """The adapters, and their sums."""
        from charprobe_lite.eval.terminal_table import plain_table

        names = ["technique", "persona", "train seed", "trained"]
        table = plain_table(str(self.study), names, ["rollouts", "done", "missing"])
        words = {True: "yes", False: "no", None: "-"}
        for each in self.adapters:
            seed = "-" if each.train_seed is None else str(each.train_seed)
            place = each.technique, each.persona or "-", seed, words[each.trained]
            table.add_row(*place, *map(str, (each.rollouts, each.done, each.missing)))
        table.add_section()
        whole = self.as_json()
        trained = f"{whole['trained']} of {whole['trained'] + whole['untrained']}"
        counts = whole["rollouts"], whole["done"], whole["rollouts"] - whole["done"]
        table.add_row("all", "", "", trained, *map(str, counts))
        return table


def grid_status(grid: TechniqueGrid, shard: Shard | None = None) -> GridStatus:
    """The status of a grid, or of a part of it; also while it runs.

    Makes the files of the base where they are not cached. Raises BadInput as `run_grid`.
    """
    path, tasks = study_path(grid, shard), evaluated_tasks(grid, shard)
    total = Counter(_place(task.cell, task.persona) for task in tasks)
    done = Counter[Place]()
    for (cell, persona), count in recorded_rollouts(path, tasks).items():
        done[_place(cell, persona)] += count
    trained: dict[Place, bool | None] = {(BASE, None, None): None}
    for each in trainings_of(grid, shard):
        place = each.technique.name, each.persona, each.seed
        trained[place] = adapter_folder(grid, each).exists()
    adapters = [
        AdapterStatus(*place, has_ended, total[place], done[place])
        for place, has_ended in trained.items()
    ]
    return GridStatus(path, adapters)


def _place(cell: Cell, persona: str | None) -> Place:
    return technique_of(cell)[0], persona, cell.train_seed

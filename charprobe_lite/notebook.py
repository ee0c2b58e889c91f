"""Progress of a study that runs from Python: a table in a notebook or a terminal, else lines."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from html import escape
from importlib import import_module
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.study.progress import Counts, Progress, watching
from charprobe_lite.eval.study.run import SILENT, Display

SECONDS = 0.5
"""Between two updates of the table."""


def study_display(progress: bool = True) -> Display:
    """How a study tells its progress here; nothing without ``progress``."""
    if not progress:
        return SILENT

    show = _notebook_table if in_notebook() else watching
    return Display(partial(print, file=sys.stderr), lambda _: nullcontext(), show)


@contextmanager
def silent_bar(_name: str, _total: int) -> Iterator[Callable[[], None]]:
    """The bar of a quantization study's measurements, without one."""
    yield lambda: None


def in_notebook() -> bool:
    """Whether an IPython kernel runs this; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _notebook_table(personas: Sequence[str]) -> Iterator[Progress]:
    table = NotebookTable(personas)
    yield table
    table.update()


class NotebookTable(Counts):
    """A bar per cell of the study under a notebook's cell, updated in place."""

    def __init__(self, personas: Sequence[str]) -> None:
        super().__init__(personas)
        self._handle: Any = None
        self._updated = 0.0

    def begin(self, totals: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        super().begin(totals, missing)
        self._handle = import_module("IPython.display").display(self, display_id=True)

    def ended(self, cell: Cell, tokens: int) -> None:
        super().ended(cell, tokens)
        if self.seconds() - self._updated > SECONDS:
            self.update()

    def update(self) -> None:
        """Show the counts as they are now; nothing before ``begin``."""
        if self._handle:
            self._updated = self.seconds()
            self._handle.update(self)

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td>{escape(self.name(cell))}</td>"
            f"<td><progress value={self.done(cell)} max={total}></progress></td>"
            f"<td>{self.done(cell)} of {total}</td></tr>"
            for cell, total in self.totals.items()
        ]
        return f"<table>{''.join(rows)}</table><p>{escape(self.speed_and_left())}</p>"

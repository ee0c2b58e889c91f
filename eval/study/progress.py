"""How far a study is, for the person who waits: what is done, what is detected, how long yet."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from charprobe_lite.eval.cells import Cell

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Labels = Mapping[Cell, Counter[tuple[str, str | None]]]


class Progress:
    """What a running study tells; this one keeps it to itself."""

    def begin(self, asked: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        """How many rollouts each cell has, and how many of them are not there yet."""

    def ended(self, cell: Cell, tokens: int) -> None:
        """A rollout of the cell has ended, after so many generated tokens."""

    def labelled(self, labels: Labels) -> None:
        """How many samples the study has of each cell with which (persona, prediction)."""


class Counts(Progress):
    """Counts what a study tells, since ``begin``."""

    def __init__(self, personas: Sequence[str]) -> None:
        self._personas = personas
        self._began: float | None = None
        self._labels: Labels = {}
        self.totals: Mapping[Cell, int] = {}
        self.there: Mapping[Cell, int] = {}
        self._ended: Counter[Cell] = Counter()
        self._tokens: Counter[Cell] = Counter()

    def begin(self, asked: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        self._began = time.monotonic()
        self.totals = asked
        self.there = {cell: number - missing.get(cell, 0) for cell, number in asked.items()}

    def ended(self, cell: Cell, tokens: int) -> None:
        self._ended[cell] += 1
        self._tokens[cell] += tokens

    def labelled(self, labels: Labels) -> None:
        self._labels = labels

    def done(self, cell: Cell) -> int:
        """Rollouts of the cell that have ended, in this run or before."""
        return self.there[cell] + self._ended[cell]

    def names(self, cell: Cell) -> list[str]:
        """Stage and what is asked; the quant type too, where the study has several."""
        several = len({each.quant for each in self.totals} - {""}) > 1
        return [cell.stage, cell.label, *([cell.quant] if several else [])]

    def complete(self, cell: Cell) -> bool:
        """Whether every rollout of the cell has ended and every text has its label."""
        waiting = any(said is None for _, said in self._labels.get(cell, ()))
        return self.done(cell) == self.totals[cell] and not waiting

    def detected(self, cell: Cell) -> tuple[float, int] | None:
        """Share of the cell's labelled samples that were classified as their persona, and how many.

        A base-stage sample stands for every persona, as in the scores.
        """
        known = {key: n for key, n in self._labels.get(cell, {}).items() if key[1] is not None}
        if not (number := sum(known.values())):
            return None
        hits = sum(
            n * (said == persona if persona else self._personas.count(said) / len(self._personas))
            for (persona, said), n in known.items()
        )
        return hits / number, number

    def seconds(self) -> float:
        """Since ``begin``; 0 before."""
        return 0 if self._began is None else time.monotonic() - self._began

    def tokens_per_second(self) -> float | None:
        """Generated tokens of the rollouts that have ended in this run; None before the first."""
        tokens, seconds = self._tokens.total(), self.seconds()
        return tokens / seconds if tokens and seconds else None

    def seconds_left(self) -> float | None:
        """At this speed, if a rollout takes as many tokens as others of its cell.

        Where a cell has none yet, as others of its condition, else as all; None before the first.
        """
        speed = self.tokens_per_second()
        if speed is None:
            return None
        return (
            sum(
                (self.totals[cell] - self.done(cell)) * self._tokens_each(cell)
                for cell in self.totals
            )
            / speed
        )

    def _tokens_each(self, cell: Cell) -> float:
        alike = [each for each in self._ended if each.condition == cell.condition]
        for cells in ([cell], alike, list(self._ended)):
            if ended := sum(self._ended[each] for each in cells):
                return sum(self._tokens[each] for each in cells) / ended
        return 0

    def speed_and_left(self) -> str:
        """Both in words, as far as they are known."""
        speed, left = self.tokens_per_second(), self.seconds_left()
        if speed is None or left is None:
            return ""
        return f"{speed:.0f} tokens/s, about {duration(left)} left"


class Lines(Counts):
    """A plain line on stderr for each cell that is through."""

    def __init__(self, personas: Sequence[str], console: Console) -> None:
        super().__init__(personas)
        self._console = console
        self._through: set[Cell] = set()

    def begin(self, asked: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        super().begin(asked, missing)
        self._through = {cell for cell in asked if not missing.get(cell)}
        self._say(f"{sum(self.there.values())} of {sum(asked.values())} rollouts are there already")

    def labelled(self, labels: Labels) -> None:
        super().labelled(labels)
        for cell in self.totals:
            if cell not in self._through and self.complete(cell):
                self._through.add(cell)
                rest = ", ".join(filter(None, (_detected(self, cell), self.speed_and_left())))
                names = " ".join(filter(None, self.names(cell)))
                self._say(f"{names}: {self.totals[cell]} rollouts, {rest}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveTable(Counts):
    """A bar for the study above a table of its cells, on a terminal, until it is closed."""

    def __init__(self, personas: Sequence[str], console: Console) -> None:
        from rich.live import Live

        super().__init__(personas)
        self._console = console
        # transient: what stays is the table of scores, which says it all
        self._live = Live(self, console=console, redirect_stdout=False, transient=True)

    def begin(self, asked: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        super().begin(asked, missing)
        self._live.start()

    def close(self) -> None:
        """Take the table away."""
        self._live.stop()

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        total, done = sum(self.totals.values()), sum(map(self.done, self.totals))
        head = Table.grid(padding=(0, 1))
        head.add_row("rollouts", _bar(done, total, 30), f"{done}/{total}", self.speed_and_left())
        cells = Table.grid(padding=(0, 2))
        shown = self._shown(max(self._console.height - 4, 1))
        for cell in shown:
            done, number = self.done(cell), self.totals[cell]
            names = self.names(cell)
            cells.add_row(*names, _bar(done, number, 12), f"{done}/{number}", _detected(self, cell))
        more = len(self.totals) - len(shown)
        return Group(head, cells, *([f"and {more} more cells"] if more else []))

    def _shown(self, most: int) -> list[Cell]:
        """As many cells as fit, those that are not through first, in the order of the study."""
        cells = list(self.totals)
        kept = set(sorted(cells, key=lambda cell: (self.complete(cell), cells.index(cell)))[:most])
        return [cell for cell in cells if cell in kept]


@contextmanager
def watching(personas: Sequence[str], console: Console | None = None) -> Iterator[Progress]:
    """Show on stderr what a study tells: a live table on a terminal, else a few plain lines."""
    from rich.console import Console

    # no FORCE_COLOR either puts control characters into a file
    console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
    if not console.is_terminal:
        yield Lines(personas, console)
        return
    table = LiveTable(personas, console)
    try:
        yield table
    finally:
        table.close()


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as one says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _detected(counts: Counts, cell: Cell) -> str:
    found = counts.detected(cell)
    return f"detected {found[0]:.0%} of {found[1]}" if found else ""


def _bar(done: int, total: int, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total, done, width=width)

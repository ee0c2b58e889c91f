"""The progress of a running study: what is done, what is detected, how long it takes."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell

if TYPE_CHECKING:
    from rich.console import Console

Labels = Mapping[Cell, Counter[tuple[str | None, str | None]]]
"""How many samples of a cell have which (persona, label); None is none yet."""
NAMES = ("description", "fields[detail]")


class Progress:
    """What a running study reports; this one shows nothing."""

    def begin(self, totals: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        """How many rollouts each cell has, and how many of them are not there yet."""

    def ended(self, cell: Cell, tokens: int) -> None:
        """A rollout of the cell has ended, after so many generated tokens."""

    def labelled(self, labels: Labels) -> None:
        """How many samples the study has of each cell with which (persona, prediction)."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Make room for what is shown while files are made."""
        yield


class Counts(Progress):
    """Counts what a study reports, since ``begin``."""

    def __init__(self, personas: Sequence[str]) -> None:
        self._personas = personas
        self._began: float | None = None
        self._labels: Labels = {}
        self.totals: Mapping[Cell, int] = {}
        self._done: Counter[Cell] = Counter()
        self._ended: Counter[Cell] = Counter()
        self._tokens: Counter[Cell] = Counter()

    def begin(self, totals: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        self._began = time.monotonic()
        self.totals = totals
        self._done = Counter({cell: n - missing.get(cell, 0) for cell, n in totals.items()})

    def ended(self, cell: Cell, tokens: int) -> None:
        self._ended[cell] += 1
        self._tokens[cell] += tokens

    def labelled(self, labels: Labels) -> None:
        self._labels = labels

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        if self._began is not None:  # no token was to be generated meanwhile
            self._began += time.monotonic() - start

    def done(self, cell: Cell) -> int:
        """Rollouts of the cell that have ended, in this run or before."""
        return self._done[cell] + self._ended[cell]

    def name(self, cell: Cell) -> str:
        """Stage, training seed and condition; the quant type too, where the study has several."""
        has_several = len({cell.quant for cell in self.totals} - {None}) > 1
        seed = None if cell.train_seed is None else f"seed {cell.train_seed}"
        names = [cell.stage, seed, cell.label, cell.quant if has_several else None]
        return " ".join(filter(None, names))

    def is_complete(self, cell: Cell) -> bool:
        """Whether every rollout of the cell has ended and every text has its label."""
        waiting = any(label is None for _, label in self._labels.get(cell, ()))
        return self.done(cell) == self.totals[cell] and not waiting

    def detected(self, cell: Cell) -> tuple[float, int] | None:
        """Share of the cell's labelled samples that were classified as their persona, and how many.

        A base-stage sample counts for every persona, as in the scores.
        """
        counts = {key: n for key, n in self._labels.get(cell, {}).items() if key[1] is not None}
        if not (total := sum(counts.values())):
            return None
        personas = self._personas
        hits = sum(
            n * (label == persona if persona else personas.count(label or "") / len(personas))
            for (persona, label), n in counts.items()
        )
        return hits / total, total

    def seconds(self) -> float:
        """Since ``begin``, without pauses; 0 before."""
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
        left = {cell: total - self.done(cell) for cell, total in self.totals.items()}
        return sum(n * self._tokens_per_rollout(cell) for cell, n in left.items()) / speed

    def _tokens_per_rollout(self, cell: Cell) -> float:
        same_condition = [other for other in self._ended if other.condition == cell.condition]
        for cells in ([cell], same_condition, list(self._ended)):
            if ended := sum(self._ended[each] for each in cells):
                return sum(self._tokens[each] for each in cells) / ended
        return 0

    def speed_and_left(self) -> str:
        """Both in words, as far as they are known."""
        speed, left = self.tokens_per_second(), self.seconds_left()
        if speed is None or left is None:
            return ""
        return f"{speed:.0f} tokens/s, about {duration(left)} left"

    def detection(self, cell: Cell) -> str:
        """The share detected in words."""
        share = self.detected(cell)
        return f"detected {share[0]:.0%} of {share[1]}" if share else ""


class Lines(Counts):
    """A plain line on stderr for each cell that is complete."""

    def __init__(self, personas: Sequence[str], console: Console) -> None:
        super().__init__(personas)
        self._console = console
        self._printed: set[Cell] = set()

    def begin(self, totals: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        super().begin(totals, missing)
        self._printed = {cell for cell in totals if not missing.get(cell)}
        self._print(f"{self._done.total()} of {sum(totals.values())} rollouts are there already")

    def labelled(self, labels: Labels) -> None:
        super().labelled(labels)
        for cell in self.totals:
            if cell not in self._printed and self.is_complete(cell):
                self._printed.add(cell)
                details = filter(None, (self.detection(cell), self.speed_and_left()))
                line = f"{self.name(cell)}: {self.totals[cell]} rollouts, {', '.join(details)}"
                self._print(line)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveTable(Counts):
    """A bar for the study above a bar for each cell, on a terminal, until it is closed."""

    def __init__(self, personas: Sequence[str], console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        super().__init__(personas)
        text = [TextColumn(f"{{task.{name}}}", markup=False) for name in NAMES]
        columns = (text[0], BarColumn(16), MofNCompleteColumn(), text[1])
        # transient: the table of scores, which says it all, takes its place
        self._bars = Bars(*columns, console=console, transient=True, redirect_stdout=False)
        self._study = self._bars.add_task("rollouts", detail="")
        self._cells: dict[Cell, Any] = {}
        self._waiting = console.status("loading the model and the classifier")

    def wait(self) -> None:
        """Show that something happens before the first rollout."""
        self._waiting.start()

    def begin(self, totals: Mapping[Cell, int], missing: Mapping[Cell, int]) -> None:
        super().begin(totals, missing)
        self._bars.update(self._study, total=sum(totals.values()))
        self._cells = {
            cell: self._bars.add_task(self.name(cell), total=total, detail="")
            for cell, total in totals.items()
        }
        self._update()
        self._waiting.stop()
        self._bars.start()

    def ended(self, cell: Cell, tokens: int) -> None:
        super().ended(cell, tokens)
        self._update()

    def labelled(self, labels: Labels) -> None:
        super().labelled(labels)
        self._update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        shown: Any = self._waiting if self._began is None else self._bars
        shown.stop()
        with super().paused():
            yield
        shown.start()

    def close(self) -> None:
        """Take the table away."""
        self._waiting.stop()
        self._bars.stop()

    def _update(self) -> None:
        done = sum(map(self.done, self.totals))
        self._bars.update(self._study, completed=done, detail=self.speed_and_left())
        fits = len(self.totals) < self._bars.console.height - 2
        for cell, task in self._cells.items():
            self._bars.update(
                task,
                completed=self.done(cell),
                detail=self.detection(cell),
                visible=fits or not self.is_complete(cell),
            )


@contextmanager
def watching(personas: Sequence[str], console: Console | None = None) -> Iterator[Progress]:
    """Show a study's progress on stderr: a live table on a terminal, else a few plain lines."""
    from rich.console import Console

    # not even FORCE_COLOR puts control characters into a file
    console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
    if not console.is_terminal:
        yield Lines(personas, console)
        return
    table = LiveTable(personas, console)
    try:
        table.wait()
        yield table
    finally:
        table.close()


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""What a command shows next to its result: notes, progress bars, and tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


def note(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)


def table_console(width: int) -> Console:
    """Stdout, for tables with names and texts of others: markup in them has no effect.

    A pipe has no width of its own: ``width`` is enough to cut nothing.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, markup=False)


@contextmanager
def item_bar(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar over ``total`` items; calls of its function advance it by one."""
    if not total:
        yield lambda: None
        return
    with progress_bar() as progress:
        task = progress.add_task(name, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def conversion_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar whose function takes the steps done and their total, as conversions do."""
    with progress_bar() as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A rich progress bar with an estimate, on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress

"""What commands show: their result on stdout, notes and progress bars on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table


def note(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)


def print_result(as_json: bool, document: object, parts: Iterable[str | Table]) -> None:
    """The JSON document, or else the parts: texts as lines, and tables.

    Markup has no effect: names and texts of others may contain it. A pipe has no width of its
    own: 160 columns are enough to cut nothing.
    """
    if as_json:
        click.echo(json.dumps(document))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
    for part in parts:
        click.echo(part) if isinstance(part, str) else console.print(part)


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
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left:"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        yield bar

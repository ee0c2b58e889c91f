"""What commands show: their result on stdout, notes and progress bars on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.terminal_log import LOGGER, shows_progress
from charprobe_lite.models.errors import printable_lines

if TYPE_CHECKING:
    from rich.table import Table


SCHEMA_VERSION = 1
"""Of the JSON documents: it rises when a field changes its meaning or goes away."""


def note(text: str) -> None:
    """A line on stderr, but not with --quiet."""
    LOGGER.info(text)


def print_result(
    as_json: bool, document: Mapping[str, Any], parts: Iterable[str | Table], schema: str = ""
) -> None:
    """The JSON document with the name of its schema, or else the parts: texts as lines, and tables.

    The schema's name is the command's, unless ``schema`` is another. Markup has no effect: names
    and texts of others may contain it. A pipe has no width of its own and gets 160 columns.
    """
    if as_json:
        name = schema or "-".join(click.get_current_context().command_path.split()[1:])
        click.echo(json.dumps({"schema": f"charprobe-lite/{name}/{SCHEMA_VERSION}", **document}))
        return
    from rich.console import Console

    from charprobe_lite.eval.terminal_table import fit

    console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
    for part in parts:
        fitting = part if isinstance(part, str) else fit(part, console.width)
        if isinstance(fitting, str):
            click.echo(printable_lines(fitting))
        else:
            console.print(fitting)


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
    console = Console(stderr=True, quiet=not shows_progress())
    with progress.Progress(*columns, console=console) as bar:
        yield bar

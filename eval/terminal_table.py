"""Tables for a terminal of any width: a number is never cut."""

import copy
import textwrap
from collections.abc import Collection, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Column, Table

from charprobe_lite.models.errors import printable_lines

LEAST_FOLDED = 12
"""Columns of text that are folded into lines are not made narrower than this."""


class PlainTable(Table):
    """A rich table; the columns ``optional`` go first where there is too little room, in order."""

    optional: Sequence[str] = ()


def plain_table(
    title: str | None,
    names: Sequence[str],
    numbers: Sequence[str],
    wrap: Collection[str] = (),
    optional: Sequence[str] = (),
) -> PlainTable:
    """An empty rich table: columns of names, then right-aligned columns of numbers.

    Only the columns in ``wrap`` break a long text into lines.
    """
    table = PlainTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.optional = optional
    for name in names:
        long = name in wrap
        table.add_column(name, no_wrap=not long, overflow="fold" if long else "ellipsis")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def fit(table: Table, width: int) -> Table | str:
    """The table if it fits; else without optional columns; else its rows one below the other."""
    table = _printable(table)
    optional = getattr(table, "optional", ())
    for count in range(len(optional) + 1):
        narrower = _without(table, optional[:count])
        if _least_width(narrower) <= width:
            return narrower
    return "\n".join(_stacked(table, width))


def _printable(table: Table) -> Table:
    """Without control characters in names and texts of others, which a terminal would obey."""
    shown = copy.copy(table)
    shown.columns = [copy.copy(column) for column in table.columns]
    for column in shown.columns:
        cells = [printable_lines(cell) if isinstance(cell, str) else cell for cell in column.cells]
        column._cells = cells  # rich has no other way to change them
    return shown


def _without(table: Table, names: Sequence[str]) -> Table:
    narrower = copy.copy(table)
    narrower.columns = [column for column in table.columns if str(column.header) not in names]
    return narrower


def _least_width(table: Table) -> int:
    """The width at which no cell is cut: a space on both sides of each, and the box's lines."""
    lines = len(table.columns) + 1 if table.box else 0
    return sum(_least_column(column) + 2 for column in table.columns) + lines


def _least_column(column: Column) -> int:
    widths = [cell_len(text) for text in _texts(column)]
    if column.no_wrap:
        return max(widths)
    words = [cell_len(word) for text in _texts(column) for word in text.split()]
    return max(words, default=0) if column.overflow != "fold" else min(max(widths), LEAST_FOLDED)


def _texts(column: Column) -> list[str]:
    return [str(column.header), *map(str, column.cells)]


def _stacked(table: Table, width: int) -> Iterator[str]:
    """Each row as the texts of its left-aligned columns, then every number with its name."""
    yield from textwrap.wrap(str(table.title or ""), width)
    names = [column for column in table.columns if column.justify != "right"]
    numbers = [column for column in table.columns if column.justify == "right"]
    for row in range(table.row_count):
        yield from textwrap.wrap(" ".join(list(map(str, c.cells))[row] for c in names), width)
        pairs = [f"{column.header} {list(map(str, column.cells))[row]}" for column in numbers]
        # a pair that fits stays together: \0 is what the spaces in it are while lines are filled
        glued = (p.replace(" ", "\0") if len(p) < width - 2 else p for p in pairs)
        text = ", ".join(glued)
        lines = textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")
        yield from (line.replace("\0", " ") for line in lines)

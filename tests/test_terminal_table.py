"""Tables on terminals of 40 to 160 columns: every number is there in full."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from charprobe_lite.eval.quant.records import score_recorded_study
from charprobe_lite.eval.quant.tables import terminal_tables
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.eval.scores.terminal import score_table, stage_table, waterfall_table
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.terminal_table import fit, plain_table

RECORDED = Path(__file__).parent / "data" / "recorded" / "study.sqlite"
PERSONAS = ["sarcasm", "humor"]


def tables() -> Iterator[Table]:
    with Store(RECORDED, readonly=True) as store:
        rows = store.rows()
        findings = score_recorded_study(store, PERSONAS)
    assert findings
    cells = list(dict.fromkeys(row.cell for row in rows))
    scores = score_study(rows, cells, PERSONAS, 0)
    yield score_table(scores.by_cell, "a title that is longer than the terminal is wide, by far")
    yield score_table(scores.by_persona, "per persona")
    yield stage_table(scores.comparison)
    yield waterfall_table(scores.waterfalls)
    yield from (part for part in terminal_tables(findings) if isinstance(part, Table))


def printed(table: Table | str, width: int) -> str:
    if isinstance(table, str):
        return table
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False).print(table)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_numbers_are_never_cut(width: int) -> None:
    for table in tables():
        fitting = fit(table, width)
        text = printed(fitting, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        kept = table if isinstance(fitting, str) else fitting
        numbers = [column for column in kept.columns if column.justify == "right"]
        words = {word.rstrip(",") for word in text.split()}
        for column in numbers:
            for cell in column.cells:
                assert {word.rstrip(",") for word in str(cell).split()} <= words, cell


def test_optional_columns_go_before_rows_are_stacked() -> None:
    table = plain_table(None, ["stage"], ["n", "yield", "forced"], optional=["forced", "yield"])
    table.add_row("distillation", "24", "100%", "0")
    headers = [
        [column.header for column in found.columns] if isinstance(found, Table) else found
        for found in (fit(table, width) for width in (80, 36, 25, 15))
    ]
    assert headers == [
        ["stage", "n", "yield", "forced"],
        ["stage", "n", "yield"],
        ["stage", "n"],
        "distillation\n  n 24,\n  yield 100%,\n  forced 0",
    ]


def test_a_name_cannot_steer_the_terminal() -> None:
    table = plain_table("cells", ["stage"], ["n"])
    table.add_row("\x1b[2Jfull\x07\u202e", "3")
    shown = fit(table, 80)
    assert isinstance(shown, Table)
    assert list(shown.columns[0].cells) == ["\\x1b[2Jfull\\x07\\u202e"]
    assert list(table.columns[0].cells) == ["\x1b[2Jfull\x07\u202e"]

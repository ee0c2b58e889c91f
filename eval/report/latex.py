"""Tables as papers print them: an interval beside its value, booktabs, a label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Number

from charprobe_lite.eval.quant.tables import Record, Table, readable, readable_name

SPECIAL = re.compile(r"[&%$#_{}]")
MINUS = re.compile(r"(?<!\w)-(?=\d)")
HEAD = "% needs \\usepackage{booktabs}\n"


def latex_table(table: Table) -> str:
    r"""A ``table`` environment with caption and ``\label{tab:NAME}``.

    A value stands with its interval in one column. A column that has the same value in every row
    is left out of the body and named in the caption.
    """
    import pandas as pd

    varying, constant = _split(table.records)
    ends = [name for name in table.records[0] if name.endswith(("low", "high"))]
    body = [{name: record[name] for name in (*varying, *ends)} for record in table.records]
    numbers = {
        readable_name(name)
        for name in varying
        if all(isinstance(record[name], Number | None) for record in body)
    }
    records = readable(body)
    frame = pd.DataFrame([{k: _escaped(v) for k, v in record.items()} for record in records])
    fixed = ", ".join(f"{readable_name(name)} {value}" for name, value in constant.items())
    return HEAD + str(
        frame.to_latex(
            index=False,
            escape=False,
            caption=_escaped(f"{table.caption} ({fixed})." if fixed else f"{table.caption}."),
            label=f"tab:{table.name}",
            position="t",
            column_format="".join("r" if name in numbers else "l" for name in frame.columns),
        )
    )


def _split(records: Sequence[Record]) -> tuple[list[str], dict[str, object]]:
    """The columns that vary, and the value of each text column that does not."""
    names = [name for name in records[0] if not name.endswith(("low", "high"))]
    constant = {
        name: records[0][name]
        for name in names
        if len(records) > 1
        and isinstance(records[0][name], str)
        and all(record[name] == records[0][name] for record in records)
    }
    empty = {name for name in names if all(record[name] is None for record in records)}
    return [name for name in names if name not in constant and name not in empty], constant


def _escaped(text: str) -> str:
    """Text for LaTeX; a hyphen before a number is a minus."""
    text = SPECIAL.sub(r"\\\g<0>", text.replace("\\", "/"))
    return MINUS.sub("$-$", text.replace("~", r"\textasciitilde{}").replace("^", r"\^{}"))

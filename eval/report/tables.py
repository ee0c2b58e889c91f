"""The report's tables as CSV, Parquet and LaTeX files, and the table of every cell."""

from __future__ import annotations

from pathlib import Path

from charprobe_lite.eval.quant.tables import Record, Table, rounded
from charprobe_lite.eval.report.study import ReportStudy
from charprobe_lite.models.errors import BadInput

FORMATS = ("csv", "parquet", "tex")


def cells_table(study: ReportStudy) -> Table:
    """A record per cell."""
    return Table(
        "cells",
        "Every cell",
        [
            {
                "base": score.base,
                "quant": score.quant,
                "stage": score.stage,
                "condition": cell.label,
                **_interval("macro_f1", score.macro_f1, score.macro_f1_ci),
                **_interval("recognised", score.detection_rate, score.ci),
                "samples": score.n,
                "rollouts": score.started,
                "yield": score.yield_,
                "forced": score.forced,
            }
            for cell, score in study.cell_scores.items()
        ],
    )


def _interval(name: str, value: float | None, ends: tuple[float, float] | None) -> Record:
    low, high = ends or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def save(table: Table, folder: Path) -> list[Path]:
    """Write a table in every format. Raises BadInput when pandas or pyarrow is missing."""
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"report: {error.name} is not installed; pip install 'charprobe-lite[report]'"
        ) from None
    frame = pd.DataFrame(table.records)
    csv, parquet, tex = files = [folder / f"{table.name}.{kind}" for kind in FORMATS]
    frame.to_csv(csv, index=False, lineterminator="\n")
    frame.to_parquet(parquet, index=False)
    latex = frame.to_latex(
        index=False, escape=True, na_rep="-", float_format=rounded, caption=table.caption
    )
    tex.write_text(latex, "utf-8")
    return files

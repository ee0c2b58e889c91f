"""The numbers of the figures as tables, on the page and as CSV, Parquet and LaTeX files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from charprobe_lite.eval.quant.tables import Record, Table, rounded
from charprobe_lite.eval.report.estimates import Findings, Gap, Panel
from charprobe_lite.models.errors import BadInput

FORMATS = ("csv", "parquet", "tex")


def tables(found: Findings) -> list[Table]:
    """The tables that the study has numbers for."""
    made = [
        Table("cells", "", "Every cell", _cells(found)),
        Table(
            "id-ood", "id-ood", "In and out of distribution", _bars(found.shift, "base", "stage")
        ),
        Table("stages", "stages", "Conditions by stage", _bars(found.stages, "base", "stage")),
        Table(
            "personas",
            "personas",
            "Share of samples recognised as their persona",
            _bars(found.personas, "checkpoint", "persona"),
        ),
        Table("gap", "gap", "From chat to agent", _steps(found.gaps)),
        Table("confusion", "confusion", "True and predicted labels", _confusion(found)),
        Table("reliability", "reliability", "Confidence and accuracy", _reliability(found)),
    ]
    return [table for table in made if table.records]


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
    files = [folder / f"{table.name}.{kind}" for kind in FORMATS]
    frame.to_csv(files[0], index=False, lineterminator="\n")
    frame.to_parquet(files[1], index=False)
    latex = frame.to_latex(
        index=False, escape=True, na_rep="-", float_format=rounded, caption=table.caption
    )
    files[2].write_text(latex, "utf-8")
    return files


def _cells(found: Findings) -> list[Record]:
    return [
        {
            "base": score.base,
            "quant": score.quant,
            "stage": score.stage,
            "condition": label,
            "macro_f1": score.macro_f1,
            **_ends(score.macro_f1_ci, "macro_f1"),
            "recognised": score.detection_rate,
            **_ends(score.ci, "recognised"),
            "samples": score.n,
            "rollouts": score.started,
            "yield": score.yield_,
            "forced": score.forced,
        }
        for score, label in zip(found.cells, found.labels, strict=True)
    ]


def _ends(interval: tuple[float, float] | None, name: str) -> Record:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _bars(panels: Sequence[Panel], panel_name: str, group_name: str) -> list[Record]:
    records = [
        {
            panel_name: panel.title,
            group_name: bar.group,
            "condition": bar.series,
            "value": bar.value,
            "low": bar.low,
            "high": bar.high,
            "samples": bar.n,
            "published": bar.published,
        }
        for panel in panels
        for bar in panel.bars
    ]
    if all(record["published"] is None for record in records):
        for record in records:
            del record["published"]
    return records


def _steps(gaps: Sequence[Gap]) -> list[Record]:
    return [
        {"checkpoint": gap.title, **asdict(step)}
        for gap in gaps
        for step in gap.steps + gap.ceilings
    ]


def _confusion(found: Findings) -> list[Record]:
    return [
        {"checkpoint": matrix.title, "true": true, "predicted": label, "samples": int(count)}
        for matrix in found.confusions
        for true, row in zip(matrix.true, matrix.counts, strict=True)
        for label, count in zip(matrix.predicted, row, strict=True)
    ]


def _reliability(found: Findings) -> list[Record]:
    return [
        {"condition": line.title, "ece": line.ece, **asdict(each)}
        for line in found.reliability
        for each in line.bins
    ]

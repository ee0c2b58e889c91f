"""The inventory as tables."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.table import Table

from charprobe_lite.eval.scores.terminal import plain_table
from charprobe_lite.models.size_estimates import gigabytes

COST_QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
WRAP = ("source", "licence")
PLACE = (*WRAP, "download", "here")


def inventory_tables(document: dict[str, Any]) -> list[Table]:
    """The document of ``inventory`` as rich tables: bases, adapters, classifiers, costs."""
    return [_bases(document), _adapters(document), _classifiers(document), _costs(document)]


def _bases(document: dict[str, Any]) -> Table:
    table = plain_table("bases", ["base", "weights", "type", *PLACE], [], WRAP)
    for row in document["bases"]:
        size = f"{row['parameters'] / 1e9:.2f}B"
        table.add_row(row["base"], size, row["architecture"], *_places(row), _present([row]))
    return table


def _adapters(document: dict[str, Any]) -> Table:
    table = plain_table("adapters", ["base", "stage", "personas", *PLACE], [], WRAP)
    # the personas of one repository make one row
    for _, group in groupby(document["adapters"], key=_repository):
        rows = list(group)
        personas = rows[0]["persona"] if len(rows) == 1 else str(len(rows))
        places = _places(rows[0], shared=len(rows) > 1)
        table.add_row(rows[0]["base"], rows[0]["stage"], personas, *places, _present(rows))
    return table


def _repository(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["base"], row["stage"], row["repository"] or "local"


def _classifiers(document: dict[str, Any]) -> Table:
    table = plain_table("classifiers", ["base", "labels", *PLACE], [], WRAP)
    for row in document["classifiers"]:
        table.add_row(row["base"], str(len(row["labels"])), *_places(row), _present([row]))
    return table


def _costs(document: dict[str, Any]) -> Table:
    title = (
        f"GB of disk / memory with {document['parallel']} rollouts of {document['context']} tokens "
        "(estimates)"
    )
    table = plain_table(title, ["quant"], [row["base"] for row in document["bases"]])
    for quant in COST_QUANTS:
        table.add_row(quant, *(_cost(row["quants"][quant]) for row in document["bases"]))
    return table


def _cost(quant: dict[str, int | None]) -> str:
    return f"{gigabytes(quant['file_bytes'])} / {gigabytes(quant['memory_bytes'])}"


def _places(row: dict[str, Any], shared: bool = False) -> tuple[str, str, str]:
    """Source, licence and download of a row; for several in one repository, without the folder."""
    source = row["repository"] if shared else row["source"]
    if not row["repository"] and not row.get("embedded"):
        source = "local files"  # the path is in the JSON document
    gate = ", gated" if row["gated"] else ""
    size = row["download_bytes"]
    download = "-" if size == 0 else f"{gigabytes(size)} GB{' each' if shared else ''}"
    return source, row["licence"] + gate, download


def _present(rows: list[dict[str, Any]]) -> str:
    present = sum(row["path"] is not None for row in rows)
    if len(rows) > 1:
        return f"{present} of {len(rows)}"
    return "yes" if present else "no"

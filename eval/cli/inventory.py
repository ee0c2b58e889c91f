"""The inventory as tables."""

from itertools import groupby
from typing import Any

from rich.table import Table

from charprobe_lite.eval.terminal_table import plain_table
from charprobe_lite.models.size_estimates import gigabytes

COST_QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
WRAP = ("source", "licence")
PLACE = (*WRAP, "download", "here")


def inventory_tables(document: dict[str, Any]) -> list[Table]:
    """The document of `models.inventory.inventory`: bases, adapters, classifiers, costs."""
    bases = plain_table("bases", ["base", "weights", "type", *PLACE], [], WRAP)
    for row in document["bases"]:
        size = f"{row['parameters'] / 1e9:.2f}B"
        bases.add_row(row["base"], size, row["architecture"], *_places([row]))
    classifiers = plain_table("classifiers", ["base", "labels", *PLACE], [], WRAP)
    for row in document["classifiers"]:
        classifiers.add_row(row["base"], str(len(row["labels"])), *_places([row]))
    return [bases, _adapters(document["adapters"]), classifiers, _costs(document)]


def _adapters(adapters: list[dict[str, Any]]) -> Table:
    """The adapters; the personas of one repository make one row."""
    table = plain_table("adapters", ["base", "stage", "personas", *PLACE], [], WRAP)
    for (base, stage, _), group in groupby(
        adapters, lambda row: (row["base"], row["stage"], row["repository"] or "local")
    ):
        rows = list(group)
        names = list(dict.fromkeys(row["persona"] for row in rows))
        seeds = {row["train_seed"] for row in rows} - {None}
        personas = names[0] if len(names) == 1 else str(len(names))
        personas += f", {len(seeds)} training seeds" if len(seeds) > 1 else ""
        table.add_row(base, stage, personas, *_places(rows))
    return table


def _costs(document: dict[str, Any]) -> Table:
    title = (
        f"GB of disk / memory with {document['parallel']} rollouts of {document['context']} tokens "
        "(estimates)"
    )
    table = plain_table(title, ["quant"], [row["base"] for row in document["bases"]])
    for name in COST_QUANTS:
        costs = (row["quants"][name] for row in document["bases"])
        table.add_row(
            name,
            *(f"{gigabytes(c['file_bytes'])} / {gigabytes(c['memory_bytes'])}" for c in costs),
        )
    return table


def _places(rows: list[dict[str, Any]]) -> tuple[str, str, str, str]:
    """Source, licence, download and presence; of several in one repository, without the folder."""
    row, number = rows[0], len(rows)
    source = row["source"] if number == 1 else row["repository"]
    if not row["repository"] and not row.get("embedded"):
        source = "local files"  # the path is in the JSON document
    licence = f"{row['licence']}{', gated' if row['gated'] else ''}"
    size = row["download_bytes"]
    download = "-" if size == 0 else f"{gigabytes(size)} GB{' each' if number > 1 else ''}"
    present = sum(row["path"] is not None for row in rows)
    here = f"{present} of {number}" if number > 1 else "yes" if present else "no"
    return source, licence, download, here

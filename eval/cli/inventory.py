"""What the catalogue names, what of it is on this machine, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from charprobe_lite.models import hub, size_estimates
from charprobe_lite.models.catalogue import STAGES, Catalogue
from charprobe_lite.models.catalogue_schema import Base, Source
from charprobe_lite.models.quant_types import BITS

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")


def inventory(catalogue: Catalogue, context: int, parallel: int) -> dict[str, Any]:
    """One JSON document: bases, adapters, classifiers, each with place, licence, size and state.

    ``quants`` of a base are estimates in bytes, for ``parallel`` sequences of ``context`` tokens.
    """
    own = catalogue.user_catalogue
    adapters = [
        {"base": base, "stage": stage, "persona": persona, **_entry(entry, catalogue.bases[base])}
        for (base, stage, persona), entry in catalogue.adapters.items()
    ]
    classifiers = [
        {"base": base, "name": entry.name, "labels": entry.labels, **_entry(entry)}
        for base, entry in catalogue.classifiers.items()
    ]
    return {
        "bases": [_base(base, catalogue, context, parallel) for base in catalogue.bases.values()],
        "adapters": adapters,
        "classifiers": classifiers,
        "personas": list(catalogue.personas),
        "stages": list(STAGES),
        "context": context,
        "parallel": parallel,
        "catalogue": str(own) if own else None,
        "hub_cache": str(hub.cache_root()),
    }


def _base(base: Base, catalogue: Catalogue, context: int, parallel: int) -> dict[str, Any]:
    classifier = catalogue.classifier(base.name)
    return {
        "base": base.name,
        "architecture": base.architecture,
        "parameters": base.parameters,
        "embedded": base.embedded,
        "classifier": classifier.name if classifier else None,
        **_entry(base),
        "quants": {
            quant: {
                "file_bytes": size_estimates.file_bytes(base, quant),
                "memory_bytes": size_estimates.memory_bytes(base, quant, context, parallel),
            }
            for quant in BITS
        },
    }


def _entry(entry: Source, base: Base | None = None) -> dict[str, Any]:
    found = hub.local_path(entry)
    return {
        "source": entry.source,
        "repository": entry.repository,
        "subfolder": entry.subfolder,
        "licence": entry.licence,
        "gated": entry.gated,
        "download_bytes": size_estimates.download_bytes(entry, base),
        "path": str(found) if found else None,
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """The document of ``inventory`` as rich tables: bases, adapters, classifiers, costs."""
    return [_bases(found), _adapters(found), _classifiers(found), _costs(found)]


def _bases(found: dict[str, Any]) -> Table:
    made = _table("bases", "base", "weights", "type", "source", "licence", "download", "here")
    for row in found["bases"]:
        size = f"{row['parameters'] / 1e9:.2f}B"
        made.add_row(row["base"], size, row["architecture"], *_places(row), _here([row]))
    return made


def _adapters(found: dict[str, Any]) -> Table:
    made = _table("adapters", "base", "stage", "personas", "source", "licence", "download", "here")
    # the personas of one repository make one row
    for _, group in groupby(found["adapters"], key=_set):
        rows = list(group)
        personas = rows[0]["persona"] if len(rows) == 1 else str(len(rows))
        places = _places(rows[0], each=len(rows) > 1)
        made.add_row(rows[0]["base"], rows[0]["stage"], personas, *places, _here(rows))
    return made


def _set(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["base"], row["stage"], row["repository"] or "local"


def _classifiers(found: dict[str, Any]) -> Table:
    made = _table("classifiers", "base", "labels", "source", "licence", "download", "here")
    for row in found["classifiers"]:
        made.add_row(row["base"], str(len(row["labels"])), *_places(row), _here([row]))
    return made


def _costs(found: dict[str, Any]) -> Table:
    title = (
        f"GB of disk / memory with {found['parallel']} rollouts of {found['context']} tokens "
        "(estimates)"
    )
    names = [row["base"] for row in found["bases"]]
    made = _table(title, "quant", *names, right=range(1, len(names) + 1))
    for quant in SHOWN:
        made.add_row(quant, *(_cost(row["quants"][quant]) for row in found["bases"]))
    return made


def _cost(quant: dict[str, int | None]) -> str:
    return f"{shown(quant['file_bytes'])} / {shown(quant['memory_bytes'])}"


def _table(title: str, *names: str, right: Sequence[int] = ()) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, name in enumerate(names):
        long = name in ("source", "licence")
        made.add_column(name, no_wrap=not long, overflow="fold")
        made.columns[number].justify = "right" if number in right else "left"
    return made


def _places(row: dict[str, Any], each: bool = False) -> tuple[str, str, str]:
    """Source, licence and download of a row; for several in one repository, without the folder."""
    source = row["repository"] if each else row["source"]
    if not row["repository"] and not row.get("embedded"):
        source = "local files"  # the path is in the JSON document
    gate = ", gated" if row["gated"] else ""
    size = row["download_bytes"]
    download = "-" if size == 0 else f"{shown(size)} GB{' each' if each else ''}"
    return source, row["licence"] + gate, download


def _here(rows: list[dict[str, Any]]) -> str:
    here = sum(row["path"] is not None for row in rows)
    if len(rows) > 1:
        return f"{here} of {len(rows)}"
    return "yes" if here else "no"


def shown(size: int | None) -> str:
    """Bytes as GB with two digits; a question mark for what is not known."""
    return "?" if size is None else f"{size / 1e9:.2f}"

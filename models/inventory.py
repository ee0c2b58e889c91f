"""What the catalogue names, what of it is on this machine, and what the rest costs to fetch."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.models import hub, size_estimates
from charprobe_lite.models.cache import existing_folder
from charprobe_lite.models.catalogue import STAGES, Catalogue, select_names
from charprobe_lite.models.catalogue_schema import AdapterEntry, Base, Source
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NAMED_ONLY
from charprobe_lite.models.quant_types import BITS
from charprobe_lite.models.size_estimates import download_bytes, gigabytes

SEE_LIST = "see charprobe-lite models list"


def inventory(catalogue: Catalogue, context: int, parallel: int) -> dict[str, Any]:
    """One JSON document: bases, adapters, classifiers, each with source, licence, size and path.

    ``quants`` of a base are estimates in bytes, for ``parallel`` sequences of ``context`` tokens.
    """
    adapters = [
        {**key._asdict(), **_entry(entry, catalogue.bases[key.base])}
        for key, entry in catalogue.adapters.items()
    ]
    classifiers = [
        {"base": base, "name": entry.name, "labels": entry.labels, **_entry(entry)}
        for base, entry in catalogue.classifiers.items()
    ]
    return {
        "bases": [_base(base, catalogue, context, parallel) for base in catalogue.bases.values()],
        "adapters": adapters,
        "classifiers": classifiers,
        "personas": catalogue.personas,
        "named_only": [name for name in catalogue.personas if name in NAMED_ONLY],
        "stages": STAGES,
        "context": context,
        "parallel": parallel,
        "catalogue": catalogue.user_catalogue and str(catalogue.user_catalogue),
        "hub_cache": str(hub.cache_root()),
    }


def _base(base: Base, catalogue: Catalogue, context: int, parallel: int) -> dict[str, Any]:
    classifier = catalogue.classifiers.get(base.name)
    return {
        "base": base.name,
        **base.model_dump(include={"architecture", "parameters", "embedded"}),
        "classifier": classifier and classifier.name,
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
    path = hub.local_path(entry)
    return {
        **entry.model_dump(include={"repository", "subfolder", "licence", "gated"}),
        "source": entry.source,
        "download_bytes": download_bytes(entry, base),
        "path": path and str(path),
    }


def checkpoint_path(
    catalogue: Catalogue, base: str, stage: str | None, persona: str | None, classifier: bool
) -> Path:
    """The path of a base's weights, of one adapter (stage and persona) or of its classifier.

    Raises BadInput for a checkpoint that the catalogue lacks, or that is not on this machine.
    """
    entry: Source | None = catalogue.base(base)
    if bool(stage) != bool(persona) or (classifier and persona):
        raise BadInput("--base: add either --stage and --persona, or --classifier, or neither")
    if persona and stage:
        select_names([persona], catalogue.personas, "--persona")
        entry = catalogue.adapter(base, stage, persona)
    elif classifier:
        entry = catalogue.classifiers.get(base)
    if entry is None:
        raise BadInput(f"--base {base}: has no such checkpoint; {SEE_LIST}")
    path = hub.local_path(entry)
    if path is None:
        raise BadInput(f"{entry.source}: is not on this machine; charprobe-lite models pull")
    return path


@dataclass(frozen=True)
class Download:
    """One entry of the catalogue to fetch, for a base."""

    source: Source
    base: Base


def select_downloads(
    catalogue: Catalogue,
    bases: Sequence[str],
    stages: Sequence[str],
    personas: Sequence[str],
    *,
    weights: bool,
    classifier: bool,
) -> list[Download]:
    """The entries of these options of ``models pull``; gated ones come last.

    Without ``personas`` there are no adapters. Raises BadInput for a name that is unknown, and for
    a persona that is named and has no adapter in the stages.
    """
    downloads: list[Download] = []
    for name in select_names(bases, list(catalogue.bases), "--base"):
        base = catalogue.bases[name]
        sources: list[Source | None] = [base if weights else None]
        if personas:
            sources += _adapters(catalogue, name, stages or ("all",), personas)
        sources.append(catalogue.classifiers.get(name) if classifier else None)
        downloads += [Download(source, base) for source in sources if source]
    # a missing permission then stops nothing else
    return sorted(downloads, key=lambda download: download.source.gated)


def _adapters(
    catalogue: Catalogue, base: str, stages: Sequence[str], personas: Sequence[str]
) -> list[AdapterEntry]:
    stages = select_names(stages, STAGES, "--stage")
    named = [name.strip() for name in ",".join(personas).split(",")]
    adapters: list[AdapterEntry] = []
    for persona in select_names(personas, catalogue.personas, "--persona", NAMED_ONLY):
        entries = [
            entry for stage in stages for entry in catalogue.adapters_of(base, stage, persona)
        ]
        if not entries and persona in named and stages != ["base"]:
            raise BadInput(
                f"--persona {persona}: {base} has no adapter of it in stage {', '.join(stages)}; "
                + SEE_LIST
            )
        adapters += entries
    return adapters


def check_room(downloads: Iterable[Download]) -> str | None:
    """How much there is to fetch, in words; None where all is here already.

    Raises BadInput when the disk of the hub's cache cannot hold it.
    """
    missing = [d for d in downloads if d.source.repository and not hub.local_path(d.source)]
    if not missing:
        return None
    needed = sum(bytes_to_fetch(download.source, download.base) for download in missing)
    root = hub.cache_root()
    free = shutil.disk_usage(existing_folder(root)).free
    if needed > free:
        raise BadInput(
            f"{root}: about {gigabytes(needed)} GB to fetch, {gigabytes(free)} GB free; "
            "free space, name fewer entries, or set HF_HOME"
        )
    return f"fetching {len(missing)}, about {gigabytes(needed)} GB, into {root}"


def bytes_to_fetch(source: Source, base: Base) -> int:
    """Bytes of an entry's download that are not on disk yet, about; 0 when its size is unknown."""
    return max(0, (download_bytes(source, base) or 0) - hub.downloaded_bytes(source))

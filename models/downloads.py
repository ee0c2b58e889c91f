"""What to fetch from the hub for some bases, stages and personas, and whether there is room."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from charprobe_lite.models.catalogue import STAGES, Catalogue, select_names
from charprobe_lite.models.catalogue_schema import AdapterEntry, Base, Source
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.hub import cache_root, downloaded_bytes, local_path
from charprobe_lite.models.inventory import SEE_LIST
from charprobe_lite.models.size_estimates import download_bytes, gigabytes


@dataclass(frozen=True)
class Download:
    """One entry of the catalogue to fetch, for a base."""

    source: Source
    base: Base


def select_downloads(
    catalogue: Catalogue,
    bases: Sequence[str],
    stages: Sequence[str] = (),
    personas: Sequence[str] = (),
    *,
    weights: bool = True,
    classifier: bool = True,
) -> list[Download]:
    """The entries of these options of ``models pull``; gated ones come last.

    Without ``personas`` there are no adapters. Raises BadInput for a name that is unknown, and for
    a persona that is named and has no adapter in the stages.
    """
    downloads: list[Download] = []
    for name in select_names(bases, list(catalogue.bases), "--base"):
        base = catalogue.base(name)
        sources: list[Source | None] = [base if weights else None]
        if personas:
            sources += _adapters(catalogue, name, stages or ("all",), personas)
        sources.append(catalogue.classifier(name) if classifier else None)
        downloads += [Download(source, base) for source in sources if source]
    # a missing permission then stops nothing else
    return sorted(downloads, key=lambda download: download.source.gated)


def check_room(downloads: Iterable[Download]) -> str | None:
    """How much there is to fetch, in words; None where all is here already.

    Raises BadInput when the disk of the hub's cache cannot hold it.
    """
    missing = [each for each in downloads if each.source.repository and not local_path(each.source)]
    if not missing:
        return None
    needed = sum(
        max(0, (download_bytes(each.source, each.base) or 0) - downloaded_bytes(each.source))
        for each in missing
    )
    root = cache_root()
    folder = next(path for path in (root, *root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BadInput(
            f"{root}: about {gigabytes(needed)} GB to fetch, {gigabytes(free)} GB free; "
            "free space, name fewer entries, or set HF_HOME"
        )
    return f"fetching {len(missing)}, about {gigabytes(needed)} GB, into {root}"


def _adapters(
    catalogue: Catalogue, base: str, stages: Sequence[str], personas: Sequence[str]
) -> list[AdapterEntry]:
    """The adapters of these personas that the catalogue has."""
    stages = select_names(stages, STAGES, "--stage")
    takes_all = "all" in ",".join(personas).split(",")
    adapters: list[AdapterEntry] = []
    for persona in select_names(personas, catalogue.personas, "--persona"):
        entries = [catalogue.adapter(base, stage, persona) for stage in stages]
        if not any(entries) and not takes_all and stages != ["base"]:
            raise BadInput(
                f"--persona {persona}: {base} has no adapter of it in stage {', '.join(stages)}; "
                + SEE_LIST
            )
        adapters += filter(None, entries)
    return adapters

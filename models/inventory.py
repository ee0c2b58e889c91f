"""What the catalogue names, what of it is on this machine, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charprobe_lite.models import hub, size_estimates
from charprobe_lite.models.catalogue import STAGES, Catalogue, select_names
from charprobe_lite.models.catalogue_schema import Base, Source
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import BITS

SEE_LIST = "see charprobe-lite models list"


def inventory(catalogue: Catalogue, context: int, parallel: int) -> dict[str, Any]:
    """One JSON document: bases, adapters, classifiers, each with source, licence, size and path.

    ``quants`` of a base are estimates in bytes, for ``parallel`` sequences of ``context`` tokens.
    """
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
        "catalogue": str(catalogue.user_catalogue) if catalogue.user_catalogue else None,
        "hub_cache": str(hub.cache_root()),
    }


def checkpoint_path(
    catalogue: Catalogue,
    base: str,
    stage: str | None = None,
    persona: str | None = None,
    classifier: bool = False,
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
        entry = catalogue.classifier(base)
    if entry is None:
        raise BadInput(f"--base {base}: has no such checkpoint; {SEE_LIST}")
    path = hub.local_path(entry)
    if path is None:
        raise BadInput(f"{entry.source}: is not on this machine; charprobe-lite models pull")
    return path


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
    path = hub.local_path(entry)
    return {
        "source": entry.source,
        "repository": entry.repository,
        "subfolder": entry.subfolder,
        "licence": entry.licence,
        "gated": entry.gated,
        "download_bytes": size_estimates.download_bytes(entry, base),
        "path": str(path) if path else None,
    }

"""Families of scenarios as clusters: scenarios that are variants of one situation."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.scores.gap import ClusterOf, cluster_of
from charprobe_lite.eval.store.provenance import SPEC
from charprobe_lite.models.corpus import corpus_hashes
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.published_scenarios import load_any_scenarios, sha256_scenarios
from charprobe_lite.models.task_ids import CLUSTERS, family_of

SHIPPED = "agentic/eval.jsonl"


def study_clusters(
    name: str,
    study: Path,
    rows: Sequence[Row],
    provenance: Mapping[str, Any],
    scenarios: Path | None = None,
) -> ClusterOf:
    """What the intervals of a study resample: ``name`` is one of `CLUSTERS`.

    With "family" all scenarios of a family are one cluster, and a prompt or a scenario without a
    family stays a cluster of its own. For the rest see `scenario_families`.
    """
    if name not in CLUSTERS:
        raise BadInput(f"--cluster {name}: is unknown; use one of {', '.join(CLUSTERS)}")
    if name == "item":
        return cluster_of
    return partial(family_cluster, families=scenario_families(study, rows, provenance, scenarios))


def family_cluster(row: Row, families: Mapping[str, str]) -> str:
    """The family of a scenario, and what `cluster_of` says of anything else."""
    family = families.get(row.item)
    # no prompt or scenario may have the name of a family
    return f"family {family}" if family else cluster_of(row)


def scenario_families(
    study: Path, rows: Sequence[Row], provenance: Mapping[str, Any], scenarios: Path | None = None
) -> dict[str, str]:
    """The family of each scenario of a study by id.

    From ``scenarios``, the file or folder that the study was run with; without it from the shipped
    file, from the study's own if it is still there, or from published ids, whichever the
    ``provenance`` and ``rows`` of the study show to be right. Raises BadInput naming the study or
    the option, and the fix.
    """
    digest, recorded = provenance.get("sha256 scenarios"), provenance.get(SPEC) or {}
    if scenarios:
        if digest and digest != sha256_scenarios(scenarios):
            raise BadInput(
                f"--scenarios {scenarios}: is not what {study} was run with; name that file"
            )
        return _families(scenarios)
    if digest == corpus_hashes()[SHIPPED]:
        return _families(None)
    source = Path(recorded.get("scenarios") or "")
    if digest and source.name and source.exists() and digest == sha256_scenarios(source):
        return _families(source)
    published = {row.item: family for row in rows if (family := family_of(row.item))}
    if not published:
        raise BadInput(
            f"{study}: --cluster family: the families of its scenarios are unknown; name their "
            "file with --scenarios"
        )
    return published


def _families(scenarios: Path | None) -> dict[str, str]:
    families = {each.id: each.family for each in load_any_scenarios(scenarios) if each.family}
    if not families:
        raise BadInput(
            f"--scenarios {scenarios}: no scenario has a family; add the field family, or use "
            "--cluster item"
        )
    return families

"""The studies of a study file before they run: with budget and shard, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from charprobe_lite.eval.study.cost import Forecast, fit_budget
from charprobe_lite.eval.study.file import read_specs
from charprobe_lite.eval.study.run import forecast_study
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.catalogue import EMBEDDED
from charprobe_lite.models.errors import BadInput


def planned_studies(
    path: Path,
    budget: int | str | None = None,
    shard: tuple[int, int] | None = None,
    note: Callable[[str], None] = lambda _: None,
    target: Path | None = None,
) -> list[StudySpec]:
    """The studies of a study file (YAML), or the one that a study (SQLite) records.

    ``budget`` is memory in bytes or "machine"; ``shard`` the part of the rollouts to run;
    ``target`` the file to write where there is one study. Raises BadInput.
    """
    specs = [fit_budget(spec, budget, note) for spec in read_specs(path)]
    if target and len(specs) > 1:
        raise BadInput(f"--study {target}: {path} makes {len(specs)} studies; leave it out")
    values = {**({"shard": shard} if shard else {}), **({"study": target} if target else {})}
    return [spec.with_values(**values) for spec in specs]


def forecast_studies(specs: Sequence[StudySpec]) -> dict[str, Forecast]:
    """What each base of the catalogue needs, for all its seeds."""
    groups: dict[str, list[StudySpec]] = {}
    for spec in specs:
        if spec.uses_catalogue:
            groups.setdefault(spec.base or EMBEDDED, []).append(spec)
    return {base: forecast_study(group[0]).times(len(group)) for base, group in groups.items()}

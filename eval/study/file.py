"""Study files: YAML that describes any grid of bases, stages, personas, quant types and conditions.

Its keys are the fields of `StudySpec`; ``base`` and ``seed`` may list several, also as ``bases``
and ``seeds``. One base with one seed is one study (SQLite file); several are a folder with a study
for each, as the classifier and every rollout's seed depend on them.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import SPEC, refuse_techniques
from charprobe_lite.eval.study.cost import Forecast, fit_budget
from charprobe_lite.eval.study.run import forecast_study
from charprobe_lite.eval.study.spec import StudySpec, parse_spec, resolve
from charprobe_lite.models.catalogue import EMBEDDED
from charprobe_lite.models.errors import BadInput, spelled
from charprobe_lite.models.files import file_format, is_sqlite, read_records

FORMATS = (".yaml", ".json")
STUDY = ".sqlite"
MOST_SEEDS = 1000
LISTS = {"base": "bases", "seed": "seeds"}
OF_OPTIONS = ("gguf", "adapter", "backend", "base_url", "model", "timeout", "shard")
"""Fields that describe one checkpoint or one machine, not a grid."""


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


def read_specs(path: Path) -> list[StudySpec]:
    """The specs of a study file (YAML), or the one that a study (SQLite) records.

    Raises BadInput with the file, the key and the fix.
    """
    is_study = is_sqlite(path)
    if not is_study and file_format(path) in FORMATS:
        return read_study_file(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such study; name a study ({STUDY}) or a study file (.yaml)")
    if not is_study and file_format(path) != STUDY:
        raise BadInput(f"{path}: no study; a study file is YAML: end its name with .yaml")
    with Store(path, readonly=True) as store:
        provenance = store.provenance()
    refuse_techniques(path, provenance)
    recorded = provenance.get(SPEC)
    if not isinstance(recorded, dict):
        raise BadInput(
            f"{path}: does not record its spec; give its study file, or the command again"
        )
    with spelled("key", f"{path}: {SPEC}"):
        spec = parse_spec({**recorded, "study": path})
        resolve(spec)
        return [spec]


def read_study_file(path: Path) -> list[StudySpec]:
    """The spec of each base and seed of a study file."""
    records = read_records(path)
    record = records[0][1] if len(records) == 1 else None
    if not isinstance(record, dict) or not all(isinstance(key, str) for key in record):
        raise BadInput(f"{path}: no study file; write keys such as base, stage, persona, condition")
    record = _with_underscores(record, path)
    with spelled("key", str(path)):
        for key in OF_OPTIONS:
            if key in record:
                option = key.replace("_", "-")
                raise BadInput(f"--{option}: is an option of eval, not a key of a study file")
        bases = _values(record, "base", EMBEDDED)
        seeds = _values(record, "seed", 0)
        if len(seeds) > MOST_SEEDS:
            raise BadInput(f"--seed: {len(seeds)} seeds; at most {MOST_SEEDS}")
        values = {key: record[key] for key in record if key not in {*LISTS, *LISTS.values()}}
        specs = [
            parse_spec({**values, "base": base, "seed": seed})
            for base, seed in product(bases, seeds)
        ]
        for spec in specs:
            resolve(spec)
        return _with_study(specs, path)


def _with_underscores(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The keys as fields have them: max-tokens, as the option is spelled, is max_tokens."""
    found = {key.replace("-", "_"): value for key, value in record.items()}
    if len(found) < len(record):
        twice = next(key for key in record if "-" in key and key.replace("-", "_") in record)
        raise BadInput(f"{path}: {twice}: is there twice, with a dash and with an underscore")
    return found


def _values(record: dict[str, Any], key: str, default: Any) -> list[Any]:
    """The values of a key that may list several, each once."""
    value = record.get(key, record.get(LISTS[key], default))
    values = value if isinstance(value, list) else [value]
    if not values:
        raise BadInput(f"--{key}: names nothing; leave it out, or name one or more")
    return [each for number, each in enumerate(values) if each not in values[:number]]


def _with_study(specs: list[StudySpec], path: Path) -> list[StudySpec]:
    """Each with its study file; relative paths are taken from the study file's folder."""
    root = path.parent / (specs[0].study or path.stem)
    if len(specs) == 1:
        study = root if root.suffix == STUDY else root.with_name(f"{root.name}{STUDY}")
        return [specs[0].relative_to(path.parent).with_values(study=study)]
    if root.suffix == STUDY:
        raise BadInput("--study: several studies; name a folder")
    return [
        spec.relative_to(path.parent).with_values(
            study=root / f"{spec.base}-seed{spec.seed}{STUDY}"
        )
        for spec in specs
    ]

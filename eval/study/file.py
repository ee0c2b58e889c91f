"""Study files: YAML that describes any grid of bases, stages, personas, quant types and conditions.

One base with one seed is one study (SQLite file); several bases or seeds are a folder with a study
for each, as the classifier and every rollout's seed hang on them.
"""

from __future__ import annotations

from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.spec import DESCRIPTION, Asked, Grid, Names, checked
from charprobe_lite.models.catalogue import EMBEDDED, load_catalogue
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.files import read_records

SUFFIXES = (".yaml", ".yml")
STUDY = ".sqlite"
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[
    tuple[Seed, ...],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    Field(min_length=1, max_length=1000),
]


class StudyFile(Grid):
    """A grid with all its bases and seeds. ``study``: where it is recorded, from the file's folder.

    The keys are those of `Grid` and these three; base and seed may also be written in the plural.
    """

    base: Names = Field(default=(EMBEDDED,), validation_alias=AliasChoices("base", "bases"))
    seed: Seeds = Field(default=(0,), validation_alias=AliasChoices("seed", "seeds"))
    study: Path | None = None

    def parts(self, file: Path) -> list[Asked]:
        """What is asked for each base and seed. Raises BadInput for a base that is unknown."""
        catalogue = load_catalogue()
        bases = list(dict.fromkeys(self.base))
        for base in bases:
            if base not in catalogue.bases:
                known = ", ".join(catalogue.bases)
                raise BadInput(f"{file}: field base: {base!r} is unknown; choose from {known}")
        shared = {name: getattr(self, name) for name in Grid.model_fields}
        one = Asked(**shared, origin=f"{file}: field ")
        placed = one.from_folder(file.parent)
        pairs = list(product(bases, dict.fromkeys(self.seed)))
        root = file.parent / (self.study or file.stem)
        if len(pairs) > 1 and root.suffix == STUDY:
            raise BadInput(f"{file}: field study: several studies; name a folder")
        studies = [root / f"{base}-seed{seed}{STUDY}" for base, seed in pairs]
        studies = studies if len(pairs) > 1 else [_as_study(root)]
        return [
            one.model_copy(update={**placed, "base": base, "seed": seed, "study": study})
            for (base, seed), study in zip(pairs, studies, strict=True)
        ]


def read_study_file(path: Path) -> StudyFile:
    """A study file. Raises BadInput with the file, the field and the mend."""
    records = read_records(path, "study file")
    record = records[0][1] if len(records) == 1 else None
    if not isinstance(record, dict):
        raise BadInput(f"{path}: no study file; write keys such as base, stage, persona, condition")
    try:
        return StudyFile.model_validate(record)
    except ValidationError as error:
        raise BadInput(f"{path}: {_problem(error)}") from None


def described(path: Path) -> list[Asked]:
    """What a study file asks for, or what a study says that it was asked. Raises BadInput."""
    if path.suffix in SUFFIXES:
        return read_study_file(path).parts(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such study; name a study ({STUDY}) or a study file (.yaml)")
    with Store(path, readonly=True) as store:
        known = store.provenance().get(DESCRIPTION)
    if not isinstance(known, dict):
        raise BadInput(
            f"{path}: does not say what was asked; give its study file, or the command again"
        )
    return [checked({**known, "study": path, "origin": f"{path}: asked "}, f"{path}: asked")]


def _as_study(path: Path) -> Path:
    return path if path.suffix == STUDY else path.with_name(f"{path.name}{STUDY}")


def _problem(error: ValidationError) -> str:
    """The first problem; a key that does not exist with the one that it nearly is."""
    problem: Any = error.errors(include_url=False)[0]
    if problem["type"] != "extra_forbidden":
        return first_problem(error)
    field = ".".join(map(str, problem["loc"]))
    known = ["prompts", "scenarios"] if "." in field else [*StudyFile.model_fields]
    near = get_close_matches(str(problem["loc"][-1]), known, 1)
    mend = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"field {field}: unknown; {mend}"

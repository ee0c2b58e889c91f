"""A grid file: techniques x personas x training seeds, and how their adapters are evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from charprobe_lite.convert.train.technique import TOKENS
from charprobe_lite.convert.train.techniques import Technique, load_technique
from charprobe_lite.eval.conditions import condition_names, load_condition
from charprobe_lite.eval.study.spec import LimitPair, Limits, Names, StudySpec, parse_spec
from charprobe_lite.models import defaults
from charprobe_lite.models.catalogue import EMBEDDED, load_catalogue, select_names
from charprobe_lite.models.errors import BadInput, first_problem, require_known, spelled
from charprobe_lite.models.files import expanded, read_yaml
from charprobe_lite.models.prompts import PURE_DOVE
from charprobe_lite.models.record import FilePath, Record

REFERENCE_TECHNIQUE = "sft"
"""What every other technique is contrasted with."""
CHAT, AGENT = "chat", "agentic_email"
"""In distribution, which strength is measured in; and the primary condition out of it."""
MOST_ADAPTERS = 10_000
PARTIAL = re.compile(r"(.+)-at(\d{1,2})")
"""What cells call a technique before its training ends: sft-at25 after 25% of the budget."""
LONGEST_NAME = 58  # a cell's technique has 64 characters, the percentage with them
TrainSeed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
PathText = Annotated[str, Field(max_length=4096)]


def _listed(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


class TechniqueGrid(Record):
    """What a grid file says; fields that a study file has too mean the same there.

    ``base`` is a catalogue name, a checkpoint folder or a GGUF file, in training of ``precision``
    (None: float32 on a CPU, bfloat16 elsewhere). Of each adapter so many
    ``checkpoints`` are evaluated, spread evenly over its training, the last one with them.
    ``strength`` is the detection in chat at which techniques are compared. ``out`` is the folder of
    the adapters, ``study`` the file of the rollouts.
    """

    techniques: Names = Field(alias="technique", min_length=1)
    personas: Names = Field(alias="persona", min_length=1)
    train_seeds: Annotated[
        tuple[TrainSeed, ...], BeforeValidator(_listed), Field(min_length=1, max_length=1000)
    ] = Field((0,), alias="train_seed")
    conditions: Names = Field((CHAT, AGENT), alias="condition")
    limit: LimitPair = Limits()
    base: PathText = EMBEDDED
    quant: str | None = Field(None, max_length=20)
    tokens: int = Field(TOKENS, ge=300, le=10**9, strict=True)
    rank: int = Field(8, ge=1, le=1024, strict=True)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    precision: Literal["float32", "bfloat16"] | None = None
    checkpoints: int = Field(4, ge=1, le=24, strict=True)
    strength: float = Field(0.9, gt=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63, strict=True)
    instruments: Names = Field((), alias="instrument")
    classifier: FilePath | None = None
    prompts: PathText | None = None
    scenarios: FilePath | None = None
    parallel: int = Field(defaults.PARALLEL, ge=1, le=64, strict=True)
    steps: int = Field(defaults.MAX_STEPS, ge=1, le=1000, strict=True)
    max_tokens: int = Field(defaults.MAX_TOKENS, ge=1, le=10**6, strict=True)
    context: int = Field(defaults.CONTEXT, ge=128, le=10**7, strict=True)
    temperature: float = Field(defaults.TEMPERATURE, ge=0, le=100)
    top_p: float = Field(defaults.TOP_P, gt=0, le=1)
    device: Literal["auto", "cpu", "metal", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, le=10**4, strict=True)
    out: FilePath | None = None
    study: FilePath | None = None

    @cached_property
    def loaded(self) -> list[Technique]:
        """The techniques, each from its file; the code of one's own runs. Raises BadInput."""
        return [load_technique(name) for name in self.techniques]

    @property
    def adapters(self) -> int:
        """How many are trained."""
        return len(self.techniques) * len(self.personas) * len(self.train_seeds)

    @property
    def contrasted(self) -> list[str]:
        """The techniques that are contrasted with `REFERENCE_TECHNIQUE`."""
        return [each.name for each in self.loaded if each.name != REFERENCE_TECHNIQUE]

    @property
    def base_path(self) -> Path | None:
        """The base's own file or folder; None for a name of the catalogue."""
        path = expanded(Path(self.base))
        return path if self.base not in load_catalogue().bases and path.exists() else None

    def study_spec(self, gguf: Path | None = None) -> StudySpec:
        """How the adapters are evaluated; ``gguf`` is the base's file where it has no name."""
        fields = (
            *("limit", "seed", "classifier", "prompts", "scenarios", "parallel", "steps"),
            *("max_tokens", "context", "temperature", "top_p", "device", "threads", "study"),
        )
        values = {name: getattr(self, name) for name in fields if name in self.model_fields_set}
        values["parallel"] = self.parallel  # the same for every part, not each machine's own
        base: dict[str, Any] = {"gguf": gguf} if gguf else {"base": self.base}
        if self.quant and not gguf:
            base["quant"] = self.quant
        if self.instruments:
            values["instrument"] = self.instruments
        return parse_spec(
            {
                **values,
                **base,
                "stage": ("base", "full"),
                "persona": self.personas,
                "condition": self.conditions,
            }
        )


FIELDS = [field.alias or name for name, field in TechniqueGrid.model_fields.items()]


def read_grid(path: Path) -> TechniqueGrid:
    """The grid of a file (YAML), checked as far as it can be without a model.

    Relative paths start at the file's folder; without ``out`` and ``study`` they are named after
    the file. Raises BadInput with the file, the key and the fix.
    """
    record = read_yaml(path)
    if not isinstance(record, dict) or not all(isinstance(key, str) for key in record):
        raise BadInput(f"{path}: no grid; write keys such as technique, persona, train_seed")
    with spelled("key", str(path)):
        grid = parse_grid(record)
        return _placed(grid, path)


def parse_grid(record: dict[str, Any]) -> TechniqueGrid:
    """The grid that these values give. Raises BadInput naming the first key that is wrong."""
    try:
        grid = TechniqueGrid.model_validate(record)
    except ValidationError as error:
        raise BadInput(first_problem(error, option=True, fields=FIELDS)) from None
    _refuse_twice("--technique", grid.techniques)
    _refuse_twice("--persona", grid.personas)
    _refuse_twice("--train-seed", grid.train_seeds)
    _refuse_twice("--condition", grid.conditions)
    if grid.adapters > MOST_ADAPTERS:
        raise BadInput(f"--technique: {grid.adapters} adapters; at most {MOST_ADAPTERS}")
    personas = grid.personas
    if personas == ("all",):
        raise BadInput("--persona: name each persona; not every technique has texts for all")
    select_names(personas, load_catalogue().personas, "--persona")
    _check_conditions(grid.conditions)
    return grid


def _check_conditions(names: Sequence[str]) -> None:
    select_names(names, condition_names(), "--condition")
    for name in names:
        require_known("--condition", name, condition_names())
        if load_condition(name).stages:
            raise BadInput(
                f"--condition {name}: is a control that no adapter runs in; leave it out"
            )
    for name, purpose in ((CHAT, "strength"), (AGENT, "the primary outcome")):
        if name not in names:
            raise BadInput(f"--condition: {name} is missing: {purpose} needs it; add it")


def _beside(prompts: str, folder: Path) -> str:
    """A prompt file next to the grid file, or the name of a published list."""
    return prompts if prompts == PURE_DOVE else str(folder / expanded(Path(prompts)))


def _refuse_twice(option: str, values: Sequence[object]) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise BadInput(f"{option} {value}: is named twice; name each once")


def _placed(grid: TechniqueGrid, path: Path) -> TechniqueGrid:
    """The grid with every path as the reader of the file can use it, and its techniques loaded."""
    folder = path.parent
    techniques = tuple(
        str(folder / expanded(Path(name))) if name.endswith(".py") else name
        for name in grid.techniques
    )
    own = folder / expanded(Path(grid.base))
    is_path = grid.base not in load_catalogue().bases and own.exists()
    files: dict[str, Path] = {
        name: folder / expanded(value)
        for name in ("classifier", "scenarios", "out", "study")
        if (value := getattr(grid, name)) is not None
    }
    study = files.get("study", folder / f"{path.stem}.sqlite")
    if study.suffix != ".sqlite":
        raise BadInput(f"--study {study}: name a file that ends in .sqlite")
    values: dict[str, Any] = {
        "out": folder / f"{path.stem}-adapters",
        **files,
        "prompts": grid.prompts and _beside(grid.prompts, folder),
        "study": study,
        "techniques": techniques,
        "base": str(own) if is_path else grid.base,
    }
    placed = grid.model_copy(update=values)
    placed.model_fields_set.add("study")
    if not is_path:
        load_catalogue().base(grid.base)
    elif grid.quant and own.is_file():
        raise BadInput(f"--quant {grid.quant}: {own} has its own weight type; leave it out")
    names = [each.name for each in placed.loaded]
    _refuse_twice("--technique", names)
    for name in names:
        if PARTIAL.fullmatch(name) or len(name) > LONGEST_NAME:
            raise BadInput(
                f"--technique {name}: call the file otherwise: shorter than {LONGEST_NAME + 1} "
                "characters, and not ending like -at25, which names a part of a training"
            )
    if len(names) > 1 and REFERENCE_TECHNIQUE not in names:
        raise BadInput(
            f"--technique: {REFERENCE_TECHNIQUE} is missing, which all others are contrasted with; "
            "add it"
        )
    return placed

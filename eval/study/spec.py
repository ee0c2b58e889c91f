"""What a study asks for, as options or a study file say it, and what that means on this machine.

`Asked` is recorded in the study itself, so that a study can be resumed from its file alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from charprobe_lite.convert.cached import Bar, Note
from charprobe_lite.eval.conditions import condition_names
from charprobe_lite.eval.study import checkpoints
from charprobe_lite.eval.study.checkpoints import Files, Variant, Wanted
from charprobe_lite.eval.study.cost import forecast, within_budget
from charprobe_lite.eval.study.runner import Settings, runs_a_model
from charprobe_lite.models.catalogue import (
    EMBEDDED,
    FORMATS,
    GRAMMARS,
    LORA_MODES,
    STAGES,
    Catalogue,
    load_catalogue,
    select_names,
)
from charprobe_lite.models.defaults import MARGIN, REFERENCE
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.prompts import PURE_DOVE, prompt_file
from charprobe_lite.models.quant_types import QUANT_TYPES

SERVER = "openai"
DESCRIPTION = "asked"  # the provenance value that a study can be resumed from
DEFAULT_CONDITIONS = ("chat", "agentic_email")


def _listed(value: Any) -> Any:
    """One name stands for a list of it; YAML reads a bare on and off as true and false."""
    words = {True: "on", False: "off"}
    names = value if isinstance(value, list | tuple) else [value]
    return [words[name] if isinstance(name, bool) else name for name in names]


def _number(value: Any) -> Any:
    return None if value == "all" else value


Name = Annotated[str, Field(max_length=1000)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_listed), Field(max_length=200)]
Part = Annotated[int, Field(ge=1, le=10**6)]
Items = Annotated[int, Field(ge=1, le=10**9)]
Count = Annotated[Items | None, BeforeValidator(_number)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Record):
    """Prompts and scenarios per cell; None (or "all") is all of them."""

    prompts: Count = 24
    scenarios: Count = 10


class Grid(_Record):
    """What one run of `eval` and a study file both say. Names are not checked yet.

    With ``texts`` (of each kind and persona, for every file to read) it is a quantization study,
    whose differences from F16 count as none up to ``margin``.
    """

    stage: Names = ()
    persona: Names = ()
    condition: Names = DEFAULT_CONDITIONS
    format: Names = ("json",)
    grammar: Names = ("on",)
    quant: Names = ("Q8_0",)
    lora: Names = (checkpoints.RUNTIME,)
    limit: Limits = Limits()
    repeats: int = Field(default=Settings.repeats, ge=1, le=1000)
    parallel: int = Field(default=Settings.parallel, ge=1, le=64)
    steps: int = Field(default=Settings.max_steps, ge=1, le=1000)
    max_tokens: int = Field(default=Settings.max_tokens, ge=1, le=10**6)
    context: int = Field(default=Settings.context, ge=128, le=10**7)
    device: Literal["auto", "cpu", "metal", "cuda"] = "auto"
    gpu_layers: int | None = Field(default=None, ge=0, le=10**6)
    threads: int | None = Field(default=None, ge=1, le=10**4)
    classifier: Path | None = None
    prompts: str | None = Field(default=None, max_length=4096)
    scenarios: Path | None = None
    verify: bool = True
    texts: int | None = Field(default=None, ge=0, le=10**6)
    margin: float = Field(default=MARGIN, gt=0, le=1)

    def from_folder(self, folder: Path) -> dict[str, Any]:
        """Its paths, taken from ``folder`` where they are relative."""
        paths: dict[str, Any] = {
            name: folder / path.expanduser()
            for name in type(self).model_fields
            if isinstance(path := getattr(self, name), Path)
        }
        if self.prompts and self.prompts != PURE_DOVE:
            paths["prompts"] = str(folder / Path(self.prompts).expanduser())
        return paths


class Asked(Grid):
    """What one study asks for; ``base`` None is the embedded one, or the model that is named.

    ``origin`` is what stands before an option's name in messages. It and ``study``, the file to
    write, are not recorded.
    """

    base: str | None = Field(default=None, max_length=200)
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: tuple[Part, Part] | None = None
    backend: Literal["llama.cpp", "openai"] = "llama.cpp"
    base_url: str | None = None
    model: tuple[str, ...] = ()
    timeout: float = Field(default=Settings.timeout, ge=1)
    gguf: Path | None = None
    adapter: Path | None = None
    study: Path | None = Field(default=None, exclude=True)
    origin: str = Field(default="--", exclude=True)

    @property
    def served(self) -> bool:
        """Whether a server runs the models."""
        return self.backend == SERVER

    @property
    def of_the_catalogue(self) -> bool:
        """Whether the models are made from a base of the catalogue."""
        return not self.served and not self.gguf

    def named(self, option: str) -> str:
        """An option as messages name it."""
        return f"{self.origin}{option}"

    def recorded(self) -> dict[str, Any]:
        """JSON values that `Asked` reads again, in whatever folder that is."""
        whole = self.model_copy(update=self.from_folder(Path.cwd()))
        return whole.model_dump(mode="json")


def checked(values: Mapping[str, Any], place: str) -> Asked:
    """What ``values`` ask for. Raises BadInput naming the place they come from and the field."""
    try:
        return Asked.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{place}: {first_problem(error)}") from None


def settings_of(asked: Asked) -> Settings:
    """The grid with all names checked. Raises BadInput for a name that is none."""
    from charprobe_lite.runtime.device import gpu_layers

    def chosen(option: str, known: Sequence[str]) -> list[str]:
        return select_names(getattr(asked, option), known, asked.named(option))

    stages = _stages(asked)
    conditions = chosen("condition", condition_names())
    if not any(runs_a_model(name) for name in conditions):
        stages = []
    return Settings(
        stages=stages,
        personas=_personas(asked, stages),
        conditions=conditions,
        prompts=asked.limit.prompts,
        scenarios=asked.limit.scenarios,
        seed=asked.seed,
        parallel=asked.parallel,
        max_tokens=asked.max_tokens,
        max_steps=asked.steps,
        context=asked.context,
        device=asked.device,
        gpu_layers=0 if asked.served else gpu_layers(asked.device, asked.gpu_layers),
        threads=asked.threads,
        timeout=asked.timeout,
        scenario_file=asked.scenarios,
        prompt_file=prompt_file(asked.prompts),
        formats=chosen("format", FORMATS),
        grammars=chosen("grammar", GRAMMARS),
        repeats=asked.repeats,
        shard=asked.shard,
    )


def _stages(asked: Asked) -> list[str]:
    """The stages asked for; by default those that there can be checkpoints of."""
    names = checkpoints.served_names(asked.model)
    default = ["all"]
    if names and checkpoints.ANY not in names:
        default = list(dict.fromkeys(stage for stage, _ in names))
    elif names or (asked.gguf and not asked.adapter):
        default = ["full"]
    elif asked.adapter:
        default = ["base", "full"]
    return select_names(asked.stage or default, STAGES, asked.named("stage"))


def _personas(asked: Asked, stages: list[str]) -> list[str]:
    """The personas asked for; ``all`` are those that the base has an adapter of."""
    catalogue, option = load_catalogue(), asked.named("persona")
    if asked.model:
        names = checkpoints.served_names(asked.model)
        named = dict.fromkeys(persona for _, persona in names if persona)
        return select_names(asked.persona or list(named), catalogue.personas, option)
    trained = [stage for stage in stages if stage != "base"] or list(STAGES)
    base = asked.base or EMBEDDED
    known = [
        persona
        for persona in catalogue.personas
        if asked.gguf
        or asked.adapter
        or any(catalogue.adapter(base, stage, persona) for stage in trained)
    ]
    if not asked.gguf:
        catalogue.base(base)
    return select_names(asked.persona, known or list(catalogue.personas), option)


def wanted_of(asked: Asked, settings: Settings) -> list[Wanted]:
    """What of the catalogue is needed, by quant type and way of the adapters."""
    quants = select_names(asked.quant, QUANT_TYPES, asked.named("quant"))
    ways = select_names(asked.lora, LORA_MODES, asked.named("lora"))
    return [
        Wanted(
            base=asked.base or EMBEDDED,
            stages=settings.stages,
            personas=settings.personas,
            quant=quant,
            lora=lora,
            adapter=asked.adapter,
            classifier=asked.classifier,
            verify=asked.verify,
            beside=REFERENCE if asked.texts and quant != REFERENCE else None,
        )
        for quant, lora in product(quants, ways)
    ]


def fitting(asked: Asked, budget: int | str | None, note: Note) -> Asked:
    """``asked`` with the quant types that fit ``budget``: bytes of memory, or "machine".

    What is left out is noted, with the reason. Raises BadInput when nothing fits.
    """
    if budget is None:
        return asked
    if not asked.of_the_catalogue:
        raise BadInput("--budget: chooses quant types of a base of the catalogue")
    settings = settings_of(asked)
    memory = budget if isinstance(budget, int) else None
    kept, left_out = within_budget(wanted_of(asked, settings), load_catalogue(), settings, memory)
    for quant, reason in left_out.items():
        note(f"{quant}: left out, {reason}")
    if not kept:
        raise BadInput("--budget: none of the quant types fits; add smaller ones")
    return asked.model_copy(update={"quant": tuple(dict.fromkeys(each.quant for each in kept))})


def files_of(asked: Asked, settings: Settings, note: Note, bar: Bar) -> list[Files]:
    """The files of every variant, fetched and made where they have to be.

    Raises BadInput for files that cannot be found or made, or do not fit this machine.
    """
    if asked.of_the_catalogue:
        wanted, catalogue = wanted_of(asked, settings), load_catalogue()
        forecast(wanted, catalogue, settings).refuse_what_does_not_fit()
        return [checkpoints.catalogue_files(each, catalogue, note, bar) for each in wanted]
    files = _served_files(asked, settings) if asked.served else _own_files(asked, settings, note)
    if asked.classifier:
        files = replace(files, classifier=asked.classifier, classifier_file=None)
    return [files]


def _served_files(asked: Asked, settings: Settings) -> Files:
    names = checkpoints.served_names(asked.model)
    first = names.get(("base", "")) or next(iter(names.values()))
    # a name on a server may be a path or a repository: its last part
    base = asked.base or PurePosixPath(first).name
    return checkpoints.served_files(
        base, asked.base_url or "", names, settings.stages, settings.personas
    )


def _own_files(asked: Asked, settings: Settings, note: Note) -> Files:
    assert asked.gguf is not None  # neither of the catalogue nor served
    if checkpoints.MERGED in select_names(asked.lora, LORA_MODES, asked.named("lora")):
        raise BadInput(
            f"{asked.named('lora')} merged: make the merged file first (convert merge) and name it "
            "with --gguf"
        )
    return checkpoints.own_files(
        asked.base or asked.gguf.stem,
        asked.gguf,
        asked.adapter,
        settings.stages,
        settings.personas,
        note,
    )


def variants_of(asked: Asked, settings: Settings, catalogue: Catalogue) -> list[Variant]:
    """The variants of the grid, without making anything of the catalogue's."""
    if asked.of_the_catalogue:
        return [wanted.variant(catalogue) for wanted in wanted_of(asked, settings)]
    if asked.served:
        return [_served_files(asked, settings).variant]
    return [_own_files(asked, settings, lambda _: None).variant]


def study_path(asked: Asked, base: str) -> Path:
    """The file that is written, by default named after the base and the seed."""
    return asked.study or Path("runs") / f"{base}-seed{asked.seed}.sqlite"

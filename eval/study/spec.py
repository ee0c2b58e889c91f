"""What a study is to do: one record for options, study files, Python and the study itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from charprobe_lite.eval.conditions import condition_names, load_condition
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.study.served import ANY_CHECKPOINT, served_names
from charprobe_lite.models import defaults
from charprobe_lite.models.catalogue import (
    EMBEDDED,
    ENSEMBLE,
    FORMATS,
    GRAMMARS,
    INSTRUMENTS,
    KIT_INSTRUMENTS,
    LORA_MODES,
    MINILM,
    MODERNBERT,
    NGRAM,
    OWN,
    PROTOCOLS,
    STAGES,
    ProtocolName,
    load_catalogue,
    select_names,
)
from charprobe_lite.models.catalogue_schema import ClassifierEntry
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.files import expanded
from charprobe_lite.models.personas import NAMED_ONLY, NEUTRAL, PERSONAS
from charprobe_lite.models.prompts import PURE_DOVE
from charprobe_lite.models.published_scenarios import CONDITION_OF, load_any_scenarios
from charprobe_lite.models.quant_types import KV_DEFAULT, KV_TYPES, QUANT_TYPES
from charprobe_lite.models.record import FilePath, Record
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import BackendOptions
from charprobe_lite.runtime.classifier import classifier_labels
from charprobe_lite.runtime.instruments import is_modernbert


def _name_list(value: Any) -> Any:
    """A single name stands for a list of one; YAML 1.1 reads a bare on and off as booleans."""
    words = {True: "on", False: "off"}
    names = value if isinstance(value, list | tuple) else [value]
    return [words[name] if isinstance(name, bool) else name for name in names]


def _limits(value: Any) -> Any:
    """A number or "all" limits both, a pair the prompts and the scenarios."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"prompts": value[0], "scenarios": value[1]}
    return {"prompts": value, "scenarios": value} if isinstance(value, int | str) else value


def _number_list(value: Any) -> Any:
    """Numbers once each, in order; a text may hold several, separated by commas."""
    values = value if isinstance(value, list | tuple) else [value]
    parts = [part for each in values for part in (str(each).split(",") if each != "" else ())]
    if not all(part.strip().isdecimal() for part in parts):
        raise PydanticCustomError("numbers", "give whole numbers from 0, such as 0,1,2")
    return sorted({int(part) for part in parts})


def _part(value: Any) -> Any:
    """The two numbers of "N/OF", as the option is spelled."""
    return value.split("/") if isinstance(value, str) else value


Name = Annotated[str, Field(max_length=1000)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_name_list), Field(max_length=200)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Part = Annotated[int, Field(ge=1, le=10**6)]
Count = Annotated[
    Annotated[int, Field(ge=1, le=10**9)] | None,
    BeforeValidator(lambda value: None if value == "all" else value),
]


Parallel = Annotated[
    Annotated[int, Field(ge=1, le=64)] | None,
    BeforeValidator(lambda value: None if value == "auto" else value),
]


class Limits(Record):
    """Prompts and scenarios per cell; None (or "all") is all of them."""

    prompts: Count = defaults.PROMPTS
    scenarios: Count = defaults.SCENARIOS


LimitPair = Annotated[Limits, BeforeValidator(_limits)]
"""Limits as files write them: 12, [24, 10], all, or by name."""


class StudySpec(Record):
    """What one study is to do, on one base with one seed.

    Each field is an option of ``eval``, a key of a study file and an argument of ``run_study``.
    Fields that are not given have the values of the ``protocol``. ``base`` None is the embedded
    base, or the model that ``gguf`` or ``models`` names. ``parallel`` None is "auto": a study
    chooses it when it starts, as ``flash_attention``. With ``train_seeds`` every persona has an
    adapter of each of these seeds, which the catalogue tells apart; without, one. With
    ``texts`` (of each kind and persona, for every model file to read) it is a quantization study,
    whose differences from F16 count as none up to ``margin``. ``study`` is the file to write; a
    study does not record it.
    """

    protocol: ProtocolName = "lite"
    base: str | None = Field(None, max_length=200)
    stages: Names = Field((), alias="stage")
    personas: Names = Field((), alias="persona")
    conditions: Names = Field(defaults.CONDITIONS, alias="condition")
    formats: Names = Field(("json",), alias="format")
    grammars: Names = Field(("on",), alias="grammar")
    quants: Names = Field((defaults.QUANT,), alias="quant")
    lora_modes: Names = Field(("runtime",), alias="lora")
    kv_types: Names = Field((KV_DEFAULT,), alias="kv_type")
    train_seeds: Annotated[
        tuple[Seed, ...], BeforeValidator(_number_list), Field(max_length=1000)
    ] = Field((), alias="train_seed")
    limit: LimitPair = Limits()
    seed: int = Field(0, ge=0, lt=2**63)
    repeats: int = Field(1, ge=1, le=1000)
    shard: Annotated[tuple[Part, Part] | None, BeforeValidator(_part)] = None
    parallel: Parallel = None
    steps: int = Field(defaults.MAX_STEPS, ge=1, le=1000)
    max_tokens: int = Field(defaults.MAX_TOKENS, ge=1, le=10**6)
    context: int = Field(defaults.CONTEXT, ge=128, le=10**7)
    temperature: float = Field(defaults.TEMPERATURE, ge=0, le=100)
    top_p: float = Field(defaults.TOP_P, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=10**6)
    min_p: float = Field(0, ge=0, le=1)
    repetition_penalty: float = Field(1, gt=0, le=100)
    bos: Literal["single", "double"] = "single"
    seeds: Literal["rollout", "request"] = "rollout"
    tool_role: Literal["user", "template"] = "user"
    device: Literal["auto", "cpu", "metal", "cuda"] = "auto"
    gpu_layers: int | None = Field(None, ge=-1, le=10**6)
    threads: int | None = Field(None, ge=1, le=10**4)
    flash_attention: Literal["auto", "on", "off"] = "auto"
    instruments: Names = Field((), alias="instrument")
    classifier: FilePath | None = None
    prompts: str | None = Field(None, max_length=4096)
    scenarios: FilePath | None = None
    suffixes: FilePath | None = None
    verify: bool = True
    texts: int | None = Field(None, ge=0, le=10**6)
    margin: float = Field(defaults.MARGIN, gt=0, le=1)
    backend: Literal["llama.cpp", "openai"] = "llama.cpp"
    base_url: str | None = None
    models: Names = Field((), alias="model")
    timeout: float = Field(defaults.TIMEOUT, ge=1)
    gguf: FilePath | None = None
    adapter: FilePath | None = None
    study: FilePath | None = Field(None, exclude=True)

    @property
    def is_served(self) -> bool:
        """Whether a server runs the models."""
        return self.backend == "openai"

    @property
    def uses_catalogue(self) -> bool:
        """Whether the models are made from a base of the catalogue."""
        return not self.is_served and not self.gguf

    @property
    def makes_models(self) -> bool:
        """Whether model files are made: not a user's own, unless quant types are compared."""
        return self.uses_catalogue or (bool(self.gguf) and self.is_quant_study)

    @property
    def instrument(self) -> str:
        """The instrument of the headline."""
        return self.instruments[0] if self.instruments else INSTRUMENTS[0]

    @property
    def is_quant_study(self) -> bool:
        """Whether every quant type is compared with F16."""
        return self.texts is not None

    def backend_options(self, kv_type: str = KV_DEFAULT) -> BackendOptions:
        """How the backend of a resolved spec runs rollouts, with this type of the K and V cache."""
        return BackendOptions(
            parallel=self.parallel or defaults.PARALLEL,
            context=self.context,
            threads=self.threads,
            gpu_layers=self.gpu_layers or 0,
            kv_type=kv_type,
            flash_attention=self.flash_attention == "on",
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            bos=self.bos,
            timeout=self.timeout,
        )

    def relative_to(self, folder: Path) -> Self:
        """The same with relative paths taken from ``folder``."""
        paths: dict[str, Any] = {
            name: folder / expanded(path)
            for name in type(self).model_fields
            if isinstance(path := getattr(self, name), Path)
        }
        if self.prompts and self.prompts != PURE_DOVE:
            paths["prompts"] = str(folder / expanded(Path(self.prompts)))
        return self.model_copy(update=paths)

    def with_values(self, **values: Any) -> Self:
        """A copy with these fields replaced."""
        return self.model_copy(update=values)

    def recorded(self) -> dict[str, Any]:
        """JSON values that make this spec again, in whatever folder that is."""
        return self.relative_to(Path.cwd()).model_dump(mode="json", by_alias=True)


FIELDS = [field.alias or name for name, field in StudySpec.model_fields.items()]
"""The names of the fields, as options, keys and arguments spell them."""


def parse_spec(values: Mapping[str, Any]) -> StudySpec:
    """The spec that these values give, over those of its protocol.

    Raises BadInput naming the first field that is wrong.
    """
    try:
        protocol = values.get("protocol", StudySpec.model_fields["protocol"].default)
        defaults = protocol_values(protocol, values) if protocol in PROTOCOLS else {}
        spec = StudySpec.model_validate({**defaults, **values})
    except ValidationError as error:
        raise BadInput(first_problem(error, option=True, fields=FIELDS)) from None
    given = {name for name, f in StudySpec.model_fields.items() if (f.alias or name) in values}
    spec.model_fields_set.intersection_update(given)
    return spec


def protocol_values(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a protocol has for fields.

    Published prompts are for published checkpoints and a user's own, as the embedded base learned
    to answer prompts like its own; personas, for the bases that have them.
    """
    defaults = dict(load_protocol(name).defaults)
    if values.get("base") in (None, EMBEDDED):
        defaults.pop("persona", None)
        if not (values.get("gguf") or values.get("model")):
            defaults.pop("prompts", None)
    return defaults


def resolve(spec: StudySpec) -> StudySpec:
    """The spec with every name checked, ``all`` expanded and the GPU layers known.

    Raises BadInput for a name that is unknown, and as `check_train_seeds`.
    """
    from charprobe_lite.runtime.device import gpu_layers

    check_train_seeds(spec)
    is_given = "conditions" in spec.model_fields_set
    names = spec.conditions if is_given else _conditions(spec)
    conditions = select_names(names, condition_names(), "--condition")
    stages = _stages(spec) if any(runs_a_model(name) for name in conditions) else []
    personas = tuple(_personas(spec, stages))
    return spec.with_values(
        stages=tuple(stages),
        personas=personas,
        conditions=tuple(conditions),
        formats=tuple(select_names(spec.formats, FORMATS, "--format")),
        grammars=tuple(select_names(spec.grammars, GRAMMARS, "--grammar")),
        quants=tuple(select_names(spec.quants, QUANT_TYPES, "--quant")),
        lora_modes=tuple(select_names(spec.lora_modes, LORA_MODES, "--lora")),
        kv_types=tuple(select_names(spec.kv_types, KV_TYPES, "--kv-type")),
        instruments=select_instruments(spec, personas),
        gpu_layers=0 if spec.is_served else gpu_layers(spec.device, spec.gpu_layers),
    )


def check_train_seeds(spec: StudySpec) -> None:
    """Raises BadInput for training seeds of models that the catalogue does not have, and for
    several of a quantization study."""
    if not spec.train_seeds:
        return
    other = {"--gguf": spec.gguf, "--adapter": spec.adapter, "--backend openai": spec.is_served}
    for option, is_given in other.items():
        if is_given:
            raise BadInput(
                f"--train-seed: tells apart adapters of the catalogue and does not apply to "
                f"{option}; leave it out"
            )
    if spec.is_quant_study and len(spec.train_seeds) > 1:
        raise BadInput(
            "--train-seed: a quantization study takes one; name one, or use eval for several"
        )


def runs_a_model(name: str) -> bool:
    """Whether a condition has a training stage; a control may have none."""
    stages = load_condition(name).stages
    return not stages or any(stage in STAGES for stage in stages)


def _conditions(spec: StudySpec) -> tuple[str, ...]:
    """The protocol's conditions, or chat and those of the scaffolds that the scenarios have."""
    found = load_any_scenarios(spec.scenarios) if spec.scenarios else []
    scaffolds = {scenario.scaffold for scenario in found if not isinstance(scenario, Scenario)}
    if names := scaffolds - {""}:
        return ("chat", *(CONDITION_OF.get(name, name) for name in names))
    return load_protocol(spec.protocol).conditions


def select_instruments(
    spec: StudySpec, personas: Sequence[str], folder: Path | None = None
) -> tuple[str, ...]:
    """The instruments in the order of the spec, whose first one makes the headline.

    By default the ensemble and its members. A base's classifier or the user's replaces the
    ensemble; the n-grams follow it where they know every persona. ``folder`` is where that
    classifier is, once it has been fetched.
    """
    own = own_classifier(spec)
    if own is None:
        defaults: tuple[str, ...] = (ENSEMBLE, MINILM, NGRAM)
    else:
        folder = folder or (own if isinstance(own, Path) else own.path)
        defaults = (MODERNBERT if folder is None or is_modernbert(folder) else OWN,)
        defaults += (NGRAM,) if set(personas) <= set(PERSONAS) else ()
    if not spec.instruments:
        return defaults
    names = [name.strip() for value in spec.instruments for name in value.split(",")]
    select_names(names, INSTRUMENTS, "--instrument")
    # a classifier of one's own has the place of the kit's ModernBERT
    kit = [name for name in KIT_INSTRUMENTS if own is None or name != MODERNBERT]
    return tuple(dict.fromkeys([*defaults, *kit] if "all" in names else names))


def own_classifier(spec: StudySpec) -> Path | ClassifierEntry | None:
    """The classifier that the spec or the catalogue names; None where the kit's instruments read.

    A folder, or an entry that may have to be fetched.
    """
    if spec.classifier or not spec.uses_catalogue:
        return spec.classifier
    return load_catalogue().own_classifier(spec.base or EMBEDDED)


def _stages(spec: StudySpec) -> list[str]:
    """The stages of the spec; by default those that there can be checkpoints of."""
    names = served_names(spec.models)
    default = ["all"]
    if names and ANY_CHECKPOINT not in names:
        default = list(dict.fromkeys(stage for stage, _ in names))
    elif names or (spec.gguf and not spec.adapter):
        default = ["full"]
    elif spec.adapter:
        default = ["base", "full"]
    return select_names(spec.stages or default, STAGES, "--stage")


def _personas(spec: StudySpec, stages: Sequence[str]) -> list[str]:
    """The personas of the spec; ``all`` are the study's that the base has an adapter of.

    Of one's own models they may be labels of one's own classifier, too.
    """
    catalogue = load_catalogue()
    own = _own_labels(spec)
    if spec.models:
        served = dict.fromkeys(persona for _, persona in served_names(spec.models) if persona)
        named_only = [name for name in NAMED_ONLY if name not in served]
        personas = spec.personas or list(served)
        return select_names(personas, [*catalogue.personas, *own], "--persona", named_only)
    trained = [stage for stage in stages if stage != "base"] or list(STAGES)
    base = spec.base or EMBEDDED
    if not spec.gguf:
        catalogue.base(base)
    available = [
        persona
        for persona in catalogue.personas
        if spec.gguf
        or spec.adapter
        or any(catalogue.adapter(base, stage, persona) for stage in trained)
    ]
    names = [*(available or catalogue.personas), *own]
    return select_names(spec.personas, names, "--persona", [*NAMED_ONLY, *own])


def _own_labels(spec: StudySpec) -> list[str]:
    """Labels of a classifier that came with models of one's own, and that are no personas here."""
    if not spec.classifier or not (spec.gguf or spec.adapter or spec.models):
        return []
    config = spec.classifier / "config.json"
    labels = classifier_labels(config) if config.is_file() else []
    return [label for label in labels if label not in {*load_catalogue().personas, NEUTRAL}]

"""The variants of a study (quant type x way to apply adapters), and the files that each needs."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from charprobe_lite.eval.study.own_models import own_name
from charprobe_lite.eval.study.served import ANY_CHECKPOINT, served_names
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import EMBEDDED, STAGES, Catalogue
from charprobe_lite.models.catalogue_schema import AdapterEntry, Base
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.models.quant_types import KV_DEFAULT

RUNTIME, MERGED = "runtime", "merged"
SERVED = "served"
"""The quant type of what a server runs: the server does not tell it."""


class CheckpointKey(NamedTuple):
    """Identifies a checkpoint of a variant; ``train_seed`` None where the study names no seed, and
    ``technique`` where it names none."""

    stage: str
    persona: str
    train_seed: int | None = None
    technique: str | None = None

    def __str__(self) -> str:
        seed = "" if self.train_seed is None else f" train_seed {self.train_seed}"
        technique = "" if self.technique is None else f" technique {self.technique}"
        return f"{self.stage}/{self.persona}{seed}{technique}"


@dataclass(frozen=True)
class Variant:
    """One quant type of a base with one way to apply adapters and one type of the K and V cache.

    ``keys`` are those of its checkpoints. ``lora`` is None where no adapter is applied: on a
    server, and for a model file that is itself the checkpoint.
    """

    base: str
    quant: str
    lora: str | None
    keys: Collection[CheckpointKey]
    kv_type: str = KV_DEFAULT


@dataclass(frozen=True)
class ModelNeed:
    """A model file: the base with ``adapters`` merged in, as a quant type.

    ``name`` is the stem of its name in the cache, ``key`` None where all checkpoints share it. An
    adapter is a file of the user's or the kit's, or a catalogue entry.
    """

    name: str
    base: Base
    adapters: tuple[AdapterEntry | Path, ...]
    quant: str
    key: CheckpointKey | None = None


@dataclass(frozen=True)
class CheckpointNeed:
    """What one checkpoint runs on: a model file, and an adapter on top of it or None."""

    key: CheckpointKey
    model: ModelNeed
    adapter: AdapterEntry | Path | None


def variants_of(spec: StudySpec, catalogue: Catalogue) -> list[Variant]:
    """The variants of a resolved spec; nothing is fetched or made. Raises BadInput."""
    if spec.is_served:
        return [_served_variant(spec)]
    if spec.gguf:
        return _own_variants(spec, spec.gguf)
    base = spec.base or EMBEDDED
    keys = _catalogue_keys(spec, base, catalogue)
    return [
        Variant(base, quant, lora, keys, kv_type)
        for quant, lora, kv_type in product(spec.quants, spec.lora_modes, spec.kv_types)
    ]


def checkpoint_needs(
    spec: StudySpec, variant: Variant, catalogue: Catalogue
) -> Iterator[CheckpointNeed]:
    """The files that each checkpoint of a catalogue variant needs."""
    base, shared = base_of(spec, variant, catalogue), tuple(merged_below(variant.base))
    for key in variant.keys:
        adapter: AdapterEntry | Path | None = None
        if key.stage != "base":
            shipped = None if spec.gguf else catalogue.adapter(variant.base, *key[:3])
            adapter = spec.adapter or shipped
        if adapter and variant.lora == MERGED:
            name = checkpoint_name(variant.base, key)
            model = ModelNeed(name, base, (*shared, adapter), variant.quant, key)
            yield CheckpointNeed(key, model, None)
        else:
            model = ModelNeed(variant.base, base, shared, variant.quant)
            yield CheckpointNeed(key, model, adapter)


def base_of(spec: StudySpec, variant: Variant, catalogue: Catalogue) -> Base:
    """The entry of a variant's base; a study's own model may be called otherwise in its cells."""
    return catalogue.base(own_name(spec) if spec.gguf else variant.base)


def checkpoint_name(base: str, key: CheckpointKey) -> str:
    """The stem of what the cache holds for a checkpoint."""
    seed = "" if key.train_seed is None else f"-seed{key.train_seed}"
    return f"{base}-{key.stage}-{key.persona}{seed}"


def merged_below(base: str) -> list[Path]:
    """The adapters that every stage has merged in: the kit's base needs its tool use."""
    return [kit.kit_folder() / kit.TOOL_USE] if base == EMBEDDED else []


def _catalogue_keys(spec: StudySpec, base: str, catalogue: Catalogue) -> list[CheckpointKey]:
    """Raises BadInput for a persona without any adapter, and for one that lacks a seed's."""
    _refuse_shared_adapter(spec)
    pairs = [
        (stage, persona)
        for stage, persona in product(spec.stages, spec.personas)
        if stage == "base" or spec.adapter or catalogue.adapter(base, stage, persona)
    ]
    trained = [stage for stage in spec.stages if stage != "base"]
    for persona in spec.personas if trained else ():
        if not any((stage, persona) in pairs for stage in trained):
            raise BadInput(
                f"--persona {persona}: {base} has no adapter for it in stage "
                f"{', '.join(trained)}; see charprobe-lite models list"
            )
    keys = []
    for stage, persona in pairs:
        seeds = train_seeds(spec, stage)
        keys += [CheckpointKey(stage, persona, seed) for seed in seeds]
        for seed in seeds:
            if seed is not None and not catalogue.adapter(base, stage, persona, seed):
                raise BadInput(
                    f"--train-seed {seed}: {base} has no adapter of {persona} in stage {stage} "
                    f"with this seed; add one with train_seed: {seed} to your catalogue, under "
                    "adapters"
                )
    return keys


def train_seeds(spec: StudySpec, stage: str) -> Sequence[int | None]:
    """The training seeds of a stage: the spec's, or None for none; the base is not trained."""
    return spec.train_seeds if stage in STAGES[1:] and spec.train_seeds else [None]


def _own_variants(spec: StudySpec, model: Path) -> list[Variant]:
    """A user's GGUF model: as it is, or as every quant type of a quantization study.

    Raises BadInput when it would have to be several checkpoints.
    """
    if MERGED in spec.lora_modes and not (spec.makes_models and spec.adapter):
        raise BadInput(
            "--lora merged: make the merged file first (convert merge) and name it with --gguf"
        )
    _refuse_shared_adapter(spec)
    if not spec.adapter and not _is_one_checkpoint(spec):
        raise BadInput(
            f"--gguf {model}: is one checkpoint; name one --stage and one --persona, "
            "or add --adapter"
        )
    keys = _product_keys(spec)
    if not spec.makes_models:
        lora = RUNTIME if spec.adapter else None
        own = Variant(spec.base or model.stem, weight_summary(model).name, lora, keys)
        return [replace(own, kv_type=kv_type) for kv_type in spec.kv_types]
    modes: Sequence[str | None] = spec.lora_modes if spec.adapter else [None]
    name = own_name(spec)
    return [
        Variant(name, quant, lora, keys, kv_type)
        for quant, lora, kv_type in product(spec.quants, modes, spec.kv_types)
    ]


def _served_variant(spec: StudySpec) -> Variant:
    """Models on a server. Raises BadInput for a checkpoint without a name."""
    names = served_names(spec.models)
    if ANY_CHECKPOINT in names and not _is_one_checkpoint(spec):
        raise BadInput(
            f"--model {names[ANY_CHECKPOINT]}: is one checkpoint; name one --stage and one "
            "--persona, or give --model base=NAME --model STAGE/PERSONA=NAME"
        )
    first = names.get(("base", "")) or next(iter(names.values()))
    # a name on a server may be a path or a repository: its last part names the base
    return Variant(spec.base or PurePosixPath(first).name, SERVED, None, _product_keys(spec))


def _product_keys(spec: StudySpec) -> list[CheckpointKey]:
    return [CheckpointKey(*pair) for pair in product(spec.stages, spec.personas)]


def _is_one_checkpoint(spec: StudySpec) -> bool:
    """Whether a grid has at most one checkpoint; all personas share the base."""
    stages: Sequence[str] = spec.stages
    return stages in ((), ("base",)) or (len(stages) == 1 and len(spec.personas) == 1)


def _refuse_shared_adapter(spec: StudySpec) -> None:
    trained = [stage for stage in spec.stages if stage != "base"]
    if spec.adapter and (len(trained) != 1 or len(spec.personas) != 1):
        raise BadInput(
            f"--adapter {spec.adapter}: is one checkpoint; name one --persona, one --stage"
        )

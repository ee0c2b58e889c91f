"""The files that a study runs on: model files, adapters and a classifier, fetched or made."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from charprobe_lite.convert.cached import (
    Notify,
    ProgressBar,
    prepare_adapter,
    prepare_classifier,
    prepare_model,
)
from charprobe_lite.eval.store.records import ModelFile
from charprobe_lite.eval.study.cost import forecast
from charprobe_lite.eval.study.served import ANY_CHECKPOINT, served_names
from charprobe_lite.eval.study.spec import StudySpec, own_classifier
from charprobe_lite.eval.study.variants import (
    MERGED,
    CheckpointKey,
    CheckpointNeed,
    Variant,
    checkpoint_name,
    checkpoint_needs,
    merged_below,
    variants_of,
)
from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import EMBEDDED, STAGES, Catalogue
from charprobe_lite.models.catalogue_schema import AdapterEntry
from charprobe_lite.models.defaults import REFERENCE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import stored_parts, weight_summary
from charprobe_lite.models.hub import fetch
from charprobe_lite.models.quant_types import EXACT_TYPES
from charprobe_lite.runtime.speed import measure_speed


@dataclass(frozen=True)
class Checkpoint:
    """What one rollout runs on: a model, and an adapter on top of it or none.

    Both are files; on a server the model is its URL and the adapter a name that it serves.
    """

    model: Path | str
    adapter: Path | str | None = None

    @property
    def files(self) -> tuple[Path, Path | None]:
        """Model and adapter. Raises ValueError for a checkpoint on a server."""
        if isinstance(self.model, str) or isinstance(self.adapter, str):
            raise ValueError("a checkpoint on a server has no files")
        return self.model, self.adapter


@dataclass(frozen=True)
class VariantFiles:
    """The files of a variant: its checkpoints, and the folder of a classifier of its own.

    ``classifier`` is None where the kit's instruments read its texts.
    """

    variant: Variant
    classifier: Path | None
    checkpoints: dict[CheckpointKey, Checkpoint]

    @property
    def base(self) -> str:
        """The base's name."""
        return self.variant.base

    @property
    def quant(self) -> str:
        """The quant type."""
        return self.variant.quant

    @property
    def kv_type(self) -> str:
        """The type of the K and V cache."""
        return self.variant.kv_type

    @property
    def most_trained(self) -> str:
        """The most trained stage that has a checkpoint."""
        return max((key.stage for key in self.checkpoints), key=STAGES.index)

    @property
    def lora(self) -> str | None:
        """How adapters are applied, None where there is the base stage alone."""
        return self.variant.lora if self.most_trained != "base" else None

    @property
    def example(self) -> Checkpoint:
        """The checkpoint of the first persona in the most trained stage."""
        return self.checkpoints[self._example_key]

    @property
    def train_seed(self) -> int | None:
        """The training seed of the ``example``."""
        return self._example_key.train_seed

    @property
    def _example_key(self) -> CheckpointKey:
        stage = self.most_trained
        return next(key for key in self.checkpoints if key.stage == stage)

    @property
    def models(self) -> list[Path]:
        """The model files, each once; none on a server."""
        models = (checkpoint.model for checkpoint in self.checkpoints.values())
        return list(dict.fromkeys(model for model in models if isinstance(model, Path)))

    @property
    def served(self) -> dict[str, str]:
        """The names of the models on a server, by "base" or "stage/persona"."""
        return {
            key.stage if key.stage == "base" else str(key): checkpoint.adapter
            for key, checkpoint in self.checkpoints.items()
            if isinstance(checkpoint.adapter, str)
        }

    def hashes(self) -> dict[str, str | None]:
        """sha256 of every file that decides a text, by its role; None for no adapter.

        A model's role names its quant type, as a study may hold several. Raises BadInput naming
        a file that cannot be read.
        """
        hashes: dict[str, str | None] = {}
        for key, checkpoint in self.checkpoints.items():
            if isinstance(checkpoint.model, str) or isinstance(checkpoint.adapter, str):
                continue  # on a server
            role = f"model {self.quant}"
            is_merged = self.variant.lora == MERGED and key.stage != "base"
            hashes[f"{role} {key}" if is_merged else role] = file_digest(checkpoint.model)
            if key.stage != "base" and not is_merged:
                adapter = checkpoint.adapter
                hashes[f"adapter {key}"] = file_digest(adapter) if adapter else None
        return hashes


def prepare_files(
    spec: StudySpec, catalogue: Catalogue, note: Notify, bar: ProgressBar
) -> Iterator[VariantFiles]:
    """The files of each variant of a resolved spec, fetched and made, if missing, when it is next.

    What is made is cached. Raises BadInput for files that cannot be found or made, and before the
    first for variants that do not fit this machine together.
    """
    variants = variants_of(spec, catalogue)
    if spec.makes_models:
        forecast(spec, variants, catalogue).refuse_what_does_not_fit()
        for variant in variants:
            yield _catalogue_files(spec, variant, catalogue, note, bar)
        return
    for variant in variants:
        yield _served_files(spec, variant) if spec.is_served else _own_files(spec, variant, note)


def distinct_files(variants: Sequence[VariantFiles]) -> list[VariantFiles]:
    """Those with model files of their own: the base stage has the same in both LoRA modes."""
    distinct: dict[tuple[str, str | None, str], VariantFiles] = {}
    for files in variants:
        if files.models:
            distinct.setdefault((files.quant, files.lora, files.kv_type), files)
    return list(distinct.values())


def model_file(files: VariantFiles) -> ModelFile:
    """What the file of the most trained stage's first persona holds. Raises BadInput."""
    model, adapter = files.example.files
    weights = weight_summary(model)
    return ModelFile(
        base=files.base,
        quant=files.quant,
        lora=files.lora,
        bits_per_weight=weights.bits_per_weight,
        bytes=sum(
            part.stat().st_size for path in (model, adapter) if path for part in stored_parts(path)
        ),
        tensor_types=weights.tensor_types,
        kv_type=files.kv_type,
    )


def with_speed(file: ModelFile, files: VariantFiles, spec: StudySpec) -> ModelFile:
    """The same with speed and peak memory, measured in a new process. Raises BadInput."""
    model, adapter = files.example.files
    measurement = measure_speed(model, adapter, spec.backend_options(files.kv_type))
    return replace(
        file,
        tokens_per_second=measurement.tokens_per_second,
        peak_bytes=measurement.peak_bytes,
    )


def kit_base(quant: str = "Q8_0") -> Path:
    """The embedded base with tool use merged in: what every stage of the kit runs on."""
    return prepare_model(EMBEDDED, kit.embedded_base(), merged_below(EMBEDDED), quant)


def _catalogue_files(
    spec: StudySpec, variant: Variant, catalogue: Catalogue, note: Notify, bar: ProgressBar
) -> VariantFiles:
    needs = list(checkpoint_needs(spec, variant, catalogue))
    if needs:
        _note_requantized(variant, catalogue, note)
    checkpoints = {need.key: _checkpoint(spec, need, note, bar) for need in needs}
    return VariantFiles(variant, _classifier(spec, note), checkpoints)


def _checkpoint(
    spec: StudySpec, need: CheckpointNeed, note: Notify, bar: ProgressBar
) -> Checkpoint:
    base, model = fetch(need.model.base), need.model
    adapters = [_file(adapter) for adapter in model.adapters]
    is_made = not adapters and base.is_file() and weight_summary(base).name == model.quant
    path = (
        base
        if is_made
        else prepare_model(
            model.name, base, adapters, model.quant, verify=spec.verify, note=note, bar=bar
        )
    )
    if need.adapter is None:
        return Checkpoint(path)
    name = checkpoint_name(model.base.name, need.key)
    return Checkpoint(path, prepare_adapter(name, _file(need.adapter), base, note=note))


def _file(adapter: AdapterEntry | Path) -> Path:
    return adapter if isinstance(adapter, Path) else fetch(adapter)


def _note_requantized(variant: Variant, catalogue: Catalogue, note: Notify) -> None:
    """Say what is lost where merged weights are rounded to the steps that they came in, and what
    the reference is where the source is quantized."""
    base = catalogue.base(variant.base)
    source = fetch(base)
    types = set(weight_summary(source).tensor_types) if source.is_file() else set()
    if base.path and variant.quant == REFERENCE and types - EXACT_TYPES:
        note(f"{REFERENCE}: {source} is quantized; differences are from that file, as {REFERENCE}")
    has_merged = bool(merged_below(variant.base)) or variant.lora == MERGED
    if has_merged and source.is_file() and variant.quant == weight_summary(source).main_type:
        note(
            f"{variant.quant}: is what the weights of {base.name} came as; rounded to those steps "
            "again, they lose part of what was merged into them"
        )


def _own_files(spec: StudySpec, variant: Variant, note: Notify) -> VariantFiles:
    """A user's GGUF model, with an adapter or as the checkpoint itself."""
    assert spec.gguf is not None
    adapter = spec.adapter
    if adapter:
        adapter = prepare_adapter(f"{variant.base}-own", adapter, spec.gguf, note=note)
    checkpoints = {
        key: Checkpoint(spec.gguf, adapter if key.stage != "base" else None) for key in variant.keys
    }
    return VariantFiles(variant, spec.classifier, checkpoints)


def _served_files(spec: StudySpec, variant: Variant) -> VariantFiles:
    """Models on a server. Raises BadInput for one without a name."""
    names, checkpoints = served_names(spec.models), {}
    for key in variant.keys:
        role = (key.stage, "" if key.stage == "base" else key.persona)
        name = names.get(ANY_CHECKPOINT) or names.get(role)
        if not name:
            missing = "/".join(filter(None, role))
            raise BadInput(f"--model: no name for {missing}; add --model {missing}=NAME")
        checkpoints[key] = Checkpoint(spec.base_url or "", name)
    return VariantFiles(variant, spec.classifier, checkpoints)


def _classifier(spec: StudySpec, note: Notify) -> Path | None:
    """The folder of a classifier as ONNX, exported where necessary; None for the kit's."""
    own = own_classifier(spec)
    if own is None or isinstance(own, Path):
        return own
    return prepare_classifier(own.name, fetch(own), verify=spec.verify, note=note)


def file_digest(path: Path) -> str:
    """sha256 of a file, computed once: a model serves every (stage, persona).

    Of a model that was split, the sha256 of its parts' digests, a line each.
    """
    try:
        digests = [_digest_of(part, part.stat().st_mtime_ns) for part in stored_parts(path)]
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@lru_cache(maxsize=256)
def _digest_of(path: Path, _modified: int) -> str:
    return kit.sha256_file(path)
